"""`mf2 data select`: selects the balanced sample of an index that makes up MFA, split by video.

Frames with an emotion and at least one AU label are pooled over the official splits and split again by base video. An
integer program (`split_program`) chooses the videos and the number of frames of each class in each video; these frames
are then sampled at equal distances in time.

    OUT/frames.parquet                          the selected frames with their new split
    OUT/report.json, OUT/report.md, OUT/report.png
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..labels_mf2 import AU_IDS, EMOTIONS
from ..utils.files import replacing, write_json, write_text
from ..utils.markdown import markdown_table
from .index import read_frames, write_frames
from .replacements import read_rounds, replay, write_rounds
from .schema import au_columns
from .split_program import (
    Amounts,
    InfeasibleError,
    Pool,
    Request,
    largest_feasible,
    solve_balanced,
    solve_unbalanced,
)
from .stage_settings import collect_settings

Array = npt.NDArray[Any]

PAPER = Request(train_per_class=3915, eval_per_class=422, train_videos=134, eval_videos=17)
"""The size of MFA: 31,320 images of 134 videos and 3,376 of 17, in eight equal classes."""
BALANCES = ("exact", "largest", "none")
_CLASS_SIZES = ("train_per_class", "eval_per_class")
_SIZES = (*_CLASS_SIZES, "train_videos", "eval_videos")


# --------------------------------------------------------------------------------------------------------- command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data select`."""
    add = parser.add_argument
    add("index", type=Path, help="folder or frames.parquet made by `mf2 data index`")
    add("out", type=Path, help="folder to make")
    add("--balance", choices=BALANCES, default="exact", help="exact: the given class sizes; largest: the largest "
        "equal ones; none: all frames, split by video (default: %(default)s)")  # fmt: skip
    add("--paper", action="store_true", help="the paper's sizes: 134 + 17 videos, 3,915 + 422 frames per class")
    for name in _SIZES:
        add(f"--{name}", type=int, metavar="N")
    add("--min_frames", type=int, default=PAPER.min_frames, help="from each chosen video (default: %(default)s)")
    add("--eval_fraction", type=float, default=0.1, help="where no sizes are given (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--replaced", type=Path, metavar="FILE", help="repeat the replacements of an earlier selection, from its "
        "recipe")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Pool the frames, solve the integer program, and write the selected frames and the report."""
    frames = usable_frames(read_frames(args.index))
    selector = Selector(frames, args.seed)
    amounts, request = _solve(selector.pool, args)
    settings = {
        "seed": args.seed,
        "balance": args.balance,
        "request": None if request is None else asdict(request),
        "optimum_proven": amounts.proven,
        "settings": collect_settings(args, add_arguments),
    }
    rounds = [] if args.replaced is None else read_rounds(args.replaced)
    selection = replay(selector.take(amounts), frames, rounds)
    print(write_selection(args.out, frames, selection, settings))
    if rounds:
        write_rounds(args.out, rounds)


def write_selection(folder: Path, pool: pa.Table, selection: pa.Table, settings: dict[str, Any]) -> str:
    """Write a selection and its reports, the frames last; returns the report in Markdown.

    Args:
        folder: folder to write.
        pool: the frames that were selected from.
        selection: the selected frames.
        settings: entries of `report.json` in addition to the counts.
    """
    summary = {**settings, **summarize(pool, selection)}
    text = to_markdown(summary)
    with replacing(folder / "report.png") as part:
        plot(summary, part)
    write_json(folder / "report.json", summary)
    write_text(folder / "report.md", text)
    write_frames(folder, selection)
    return text


def _solve(pool: Pool, args: argparse.Namespace) -> tuple[Amounts, Request | None]:
    if args.balance == "none":
        if args.paper or any(getattr(args, name) is not None for name in ("train_videos", *_CLASS_SIZES)):
            raise ValueError("--balance none takes all frames: only --eval_videos and --eval_fraction have a meaning.")
        return solve_unbalanced(pool, args.eval_fraction, args.eval_videos), None
    request = _make_request(pool, args)
    if args.balance == "largest":
        best = largest_feasible(pool, request)
        if best is None:
            raise InfeasibleError(_explain_infeasible(pool))
        request = best
    return solve_balanced(pool, request), request


def _explain_infeasible(pool: Pool) -> str:
    """Why no equal class size is feasible, and the remedy."""
    num_videos = (pool.capacity > 0).sum(axis=0)
    if rare := [name for name, number in zip(pool.classes, num_videos, strict=True) if number < 2]:
        return (
            f"{', '.join(rare)}: fewer than two videos show it, and no video is in both splits. No balance is "
            "possible; --balance none takes all frames."
        )
    return "No class size is feasible; ask for fewer videos or a smaller --min_frames."


def _make_request(pool: Pool, args: argparse.Namespace) -> Request:
    """The sizes on the command line; the default class sizes split the rarest class by `eval_fraction`."""
    sizes = {name: getattr(args, name) for name in _SIZES}
    if args.paper:
        sizes = {name: getattr(PAPER, name) if size is None else size for name, size in sizes.items()}
    if args.balance == "exact" and None in (sizes[name] for name in _CLASS_SIZES):
        raise ValueError("Give --train_per_class and --eval_per_class, or --paper, or --balance largest or none.")
    if not 0 < args.eval_fraction < 1:
        raise ValueError(f"eval_fraction is {args.eval_fraction}; it must lie between 0 and 1.")
    rarest = int(pool.capacity.sum(axis=0).min())
    if sizes["eval_per_class"] is None:
        sizes["eval_per_class"] = max(1, round(args.eval_fraction * rarest))
    if sizes["train_per_class"] is None:
        sizes["train_per_class"] = max(1, rarest - sizes["eval_per_class"])
    return Request(**sizes, min_frames=args.min_frames)


# ------------------------------------------------------------------------------------------------------- selection
def usable_frames(frames: pa.Table) -> pa.Table:
    """Filter the frames with an emotion and at least one labelled AU.

    Raises:
        ValueError: there is none, or an AU has no column.
    """
    if missing := [name for name in au_columns() if name not in frames.column_names]:
        raise ValueError(f"The frames have no column {', '.join(missing)}; a selection needs an emotion and all AUs.")
    has_au = pc.greater_equal(pc.max_element_wise(*(frames[name] for name in au_columns())), 0)
    usable = frames.filter(pc.and_(pc.is_valid(frames["emotion"]), has_au))
    if not len(usable):
        raise ValueError(f"None of the {len(frames):,} frames has both an emotion and an AU label.")
    return usable


class Selector:
    """Counts frames as a `Pool`, and selects frames by the amounts that a solver returns.

    The seed shuffles the groups, so that another seed finds another of several equally good solutions, and sets the
    phase at which frames are sampled.

    Args:
        frames: usable frames, ordered by video and frame.
        seed: any integer.
    """

    def __init__(self, frames: pa.Table, seed: int) -> None:
        self.frames = frames
        self.rng = np.random.default_rng(seed)
        groups = sorted(frames["group_id"].unique().to_pylist())
        self.groups = pa.array(self.rng.permutation(groups).tolist(), pa.string())
        self.group_idx = pc.index_in(frames["group_id"].cast(pa.string()), self.groups).to_numpy()
        self.class_idx = frames["emotion"].to_numpy()
        self.pool = self._make_pool()

    def _make_pool(self) -> Pool:
        """Count frames by group and class. An AU without labels in a cell gets its overall rate there."""
        shape = (len(self.groups), len(EMOTIONS))
        cell = self.group_idx * len(EMOTIONS) + self.class_idx

        def count(rows: Array) -> Array:
            return np.bincount(cell[rows], minlength=shape[0] * shape[1]).reshape(shape)

        rates = np.zeros((*shape, len(AU_IDS)))
        for i, name in enumerate(au_columns()):
            labels = self.frames[name].to_numpy()
            labelled, active = count(labels >= 0), count(labels == 1)
            overall = active.sum() / max(labelled.sum(), 1)
            rates[:, :, i] = np.where(labelled > 0, active / np.maximum(labelled, 1), overall)
        return Pool(count(np.full(len(cell), True)), rates, EMOTIONS)

    def take(self, amounts: Amounts) -> pa.Table:
        """The selected frames with their split, equally spaced in time within each group and class."""
        rows, splits = [], []
        for split, split_amounts in (("train", amounts.train), ("validation", amounts.validation)):
            for group, emotion in np.argwhere(split_amounts > 0):
                candidates = np.flatnonzero((self.group_idx == group) & (self.class_idx == emotion))
                rows.append(candidates[self._sample_evenly(len(candidates), int(split_amounts[group, emotion]))])
                splits.extend([split] * len(rows[-1]))
        selected = np.concatenate(rows)
        order = np.argsort(selected)
        column = self.frames.schema.get_field_index("split")
        split_column = pa.array(np.array(splits)[order]).dictionary_encode()
        return self.frames.take(selected[order]).set_column(column, "split", split_column)

    def _sample_evenly(self, available: int, count: int) -> Array:
        """(count,) different positions below `available`, one in each of `count` equal intervals."""
        return (np.arange(count) * available + self.rng.integers(available)) // count


# ---------------------------------------------------------------------------------------------------------- report
def summarize(usable: pa.Table, selection: pa.Table) -> dict[str, Any]:
    """Counts of the pool and of each split: videos, frames, classes, AU rates over the labelled frames."""
    tables = {"pool": usable}
    tables |= {split: selection.filter(pc.equal(selection["split"], split)) for split in ("train", "validation")}
    return {name: _describe(table) for name, table in tables.items()}


def _describe(frames: pa.Table) -> dict[str, Any]:
    emotion = frames["emotion"].to_numpy()
    labels = {name: frames[name].to_numpy() for name in au_columns()}
    return {
        "videos": pc.count_distinct(frames["group_id"].cast(pa.string())).as_py(),
        "frames": len(frames),
        "emotions": dict(zip(EMOTIONS, np.bincount(emotion, minlength=len(EMOTIONS)).tolist(), strict=True)),
        "au_labelled": {name: int((values >= 0).sum()) for name, values in labels.items()},
        "au_rates": {
            name: float((values == 1).sum() / (values >= 0).sum()) if (values >= 0).any() else None
            for name, values in labels.items()
        },
    }


def to_markdown(summary: dict[str, Any]) -> str:
    """The report as three tables: sizes, classes, AU rates."""
    names = ("pool", "train", "validation")
    parts = [summary[name] for name in names]
    sizes = [(what, *(f"{part[what]:,}" for part in parts)) for what in ("videos", "frames")]
    classes = [(emotion, *(f"{part['emotions'][emotion]:,}" for part in parts)) for emotion in EMOTIONS]
    rates = [
        (name, *("-" if part["au_rates"][name] is None else f"{part['au_rates'][name]:.3f}" for part in parts))
        for name in au_columns()
    ]
    tables = (("", sizes), ("emotion", classes), ("active / labelled", rates))
    return "\n".join(markdown_table((title, *names), rows) for title, rows in tables)


def plot(summary: dict[str, Any], path: Path) -> None:
    """Plot the class shares and the AU rates of the pool, the training and the validation split."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    names = ("pool", "train", "validation")
    left, right = figure.subplots(1, 2)
    for offset, name in enumerate(names):
        part = summary[name]
        shares = [count / part["frames"] for count in part["emotions"].values()]
        rates = [rate or 0.0 for rate in part["au_rates"].values()]
        for axes, values in ((left, shares), (right, rates)):
            axes.bar(np.arange(len(values)) + 0.27 * (offset - 1), values, 0.27, label=name)
    for axes, labels, title in (
        (left, EMOTIONS, "share of the frames"),
        (right, au_columns(), "AU active / labelled"),
    ):
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_title(title)
    left.legend()
    figure.savefig(path, dpi=120)
