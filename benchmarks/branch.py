"""Compares MF² with passes of transformers' `Blip2QFormerModel` on the same weights and inputs.

One run measures medians over alternating repeats: single passes, ITG, whole training steps, their peak memory, and the
cost of AU regions. Prints Markdown tables and writes JSON.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from mf2.benchmarks.inputs import (
    IMAGE_SIZES,
    describe_texts,
    get_qformer_config,
    make_batch,
    make_config,
    make_model,
    pad_to_limits,
)
from mf2.benchmarks.timing import (
    Phases,
    Timing,
    can_measure_memory,
    describe_machine,
    in_fresh_process,
    memory_in_use,
    peak_memory_during,
    release_memory,
    time_side_by_side,
)
from mf2.benchmarks.workloads import PassBench, Settings, StepBench, itg_pair, pass_pairs, without_regions
from mf2.modeling_mf2 import MF2Model
from mf2.utils.devices import check_device
from mf2.utils.files import write_json
from mf2.utils.markdown import markdown_table

AU_TEXT_MODES = ("caption", "per_au")
PASS_TEXT_LENGTH = 61
PASS_TARGET = 0.97
"""Minimum speed relative to transformers."""
ITG_TARGETS = {61: 0.7, 169: 0.85}
"""Text length -> maximum time of two-stage ITG relative to a full masked pass, with 32 queries."""
STEP_TARGET = 0.6
"""Maximum time of a `base` step relative to the composed one with padding to the limits."""
FLOOR_SECONDS = {"caption": 44 / 31_320, "per_au": 89 / 31_320}
"""The least time of an image in a `base` training step at 790 TFLOP/s, by arithmetic: the tower forward, the branches'
passes forward and backward, texts at their full length, ITM and ITG of an AU caption over 32 queries."""

REFERENCE_NOTE = (
    "The composed step has BLIP-2's passes in transformers' Blip2QFormerModel, which keeps nothing between two calls: "
    "query-only; text-only, every text, also where two are equal; ITM as 3 joint passes an item, the image projected "
    "in each; ITG as one masked pass over [queries; text] that computes the queries again, with the LM head at every "
    'position. `limit` pads every text to its kind\'s limit (padding="max_length", as LAVIS does), `longest` to the '
    "longest of the batch, as our collator does. Tower, heads, loss arithmetic and parameters are shared, and an item "
    "without a negative is left out of ITM in every step. Without dropout the negatives and losses are equal."
)


@dataclass
class Section:
    """A table of results: rows with the same columns, and notes."""

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        """The rows as a table under the title, with the notes."""
        if not self.rows:
            return "\n\n".join([f"## {self.title}", *self.notes]) + "\n"
        cells = [[show_value(value) for value in row.values()] for row in self.rows]
        return "\n".join([f"## {self.title}\n", markdown_table(list(self.rows[0]), cells), *self.notes, ""])


def show_value(value: Any) -> str:
    """Format a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if value < 10 else f"{value:,.1f}"
    return "" if value is None else str(value)


# ------------------------------------------------------------------------------------------------------------- passes
def measure_passes(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Compare the branch with transformers' Q-Former, pass by pass."""
    bench = PassBench.build(size, settings)
    ids, mask = bench.text(PASS_TEXT_LENGTH)
    pairs = pass_pairs(bench.branch, bench.reference, bench.vision_states, ids, mask)
    rows = []
    for name, pair in pairs.items():
        for mode, ours, theirs in bench.time(pair, f"{size}, {name}"):
            speed = theirs.seconds / ours.seconds
            rows.append(
                {"size": size, "pass": name, "mode": mode}
                | {"ours, ms": 1e3 * ours.seconds, "transformers, ms": 1e3 * theirs.seconds}
                | {"speed ours / theirs": speed, f"≥ {PASS_TARGET}": speed >= PASS_TARGET}
            )
    return rows


def measure_itg(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Compare two-stage ITG, without the query-only pass that a step already has, with one masked pass."""
    bench = PassBench.build(size, settings)
    rows = []
    for length, target in ITG_TARGETS.items():
        pair = itg_pair(bench.branch, bench.reference, bench.vision_states, *bench.text(length))
        for mode, ours, theirs in bench.time(pair, f"{size}, ITG {length}"):
            share = ours.seconds / theirs.seconds
            has_target = get_qformer_config(bench.config).num_query_tokens == 32
            rows.append(
                {"size": size, "text tokens": length, "mode": mode}
                | {"two-stage, ms": 1e3 * ours.seconds, "full pass, ms": 1e3 * theirs.seconds}
                | {"time ours / theirs": share}
                | {"target ≤": target if has_target else None, "met": share <= target if has_target else None}
            )
    return rows


# --------------------------------------------------------------------------------------------------------------- step
def measure_step(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure a whole training step with all losses and both branches, for both AU text modes."""
    return [row for au_text_mode in AU_TEXT_MODES for row in _measure_step(size, au_text_mode, settings)]


def _measure_step(size: str, au_text_mode: str, settings: Settings) -> list[dict[str, Any]]:
    bench = StepBench.build(size, au_text_mode, settings)
    optimizer = bench.optimizer()
    runs = {name: bench.phases(name, optimizer) for name in bench.steps}
    timings = time_side_by_side(
        runs, settings.step_repeats, 1, settings.device, f"{size}, {au_text_mode}, training step"
    )
    flops = {name: bench.count_flops(name) for name in bench.steps}
    return list(_step_rows(size, au_text_mode, settings, timings, flops))


def _step_rows(
    size: str, au_text_mode: str, settings: Settings, timings: Mapping[str, Timing], flops: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    batch_size = settings.get_batch_size(size)
    ours, *_ = timings
    for name, timing in timings.items():
        share = timings[ours].seconds / timing.seconds
        is_target = size == "base" and name == "composed, limit"
        row: dict[str, Any] = {"size": size, "au_text_mode": au_text_mode, "step": name}
        row |= {f"{phase}, s": timing.phase(phase) for phase in timing.phases}
        row |= {"whole, s": timing.seconds, "images/s": batch_size / timing.seconds}
        row |= {"GFLOP": flops[name] / 1e9, "GFLOP/s": flops[name] / 1e9 / timing.seconds}
        row |= {"MF² / it, time": share, "MF² / it, FLOP": flops[ours] / flops[name]}
        row |= {f"time ≤ {STEP_TARGET}": share <= STEP_TARGET if is_target else None}
        if settings.device == "cuda":
            floor = FLOOR_SECONDS[au_text_mode] * batch_size if size == "base" else None
            row |= {"share of the floor": floor and floor / timing.seconds}
        yield row


def measure_texts(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Describe the lengths of the texts in the training steps."""
    rows = []
    for au_text_mode in AU_TEXT_MODES:
        config = make_config(size, settings.seed, au_text_mode=au_text_mode)
        batch = make_batch(config, settings.get_batch_size(size), IMAGE_SIZES[size], settings.seed, "cpu")
        lengths = describe_texts({"longest": batch, "limit": pad_to_limits(batch, config)})
        rows += [
            {"size": size, "au_text_mode": au_text_mode, "images": len(batch["pixel_values"])} | x for x in lengths
        ]
    return rows


# ------------------------------------------------------------------------------------------------------------- memory
def step_memory(size: str, au_text_mode: str, name: str, settings: Settings) -> dict[str, float]:
    """Peak memory of a training step in MiB, in addition to the model and its batch.

    The second step is measured, as AdamW's states are created in the first.
    """
    settings.configure_torch()
    bench = StepBench.build(size, au_text_mode, settings)
    optimizer = bench.optimizer()
    initial = memory_in_use(settings.device)
    phases = bench.phases(name, optimizer)

    def step() -> None:
        for phase in phases.values():
            phase()

    step()
    peak = peak_memory_during(step, settings.device) - initial
    trained = sum(parameter.numel() for parameter in bench.model.parameters() if parameter.requires_grad)
    fixed = 3 * 4 * trained  # a gradient and two states, fp32
    return {"peak, MiB": peak / 2**20, "gradients and AdamW, MiB": fixed / 2**20, "rest, MiB": (peak - fixed) / 2**20}


def measure_memory(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the peak memory of our step and of the composed ones, in separate processes."""
    rows = []
    for au_text_mode, name in itertools.product(AU_TEXT_MODES, ("MF²", "composed, limit", "composed, longest")):
        measured = in_fresh_process(step_memory, size, au_text_mode, name, settings)
        images = {"images": settings.get_batch_size(size)}
        rows.append({"size": size, "au_text_mode": au_text_mode, "step": name} | images | measured)
    return rows


# ------------------------------------------------------------------------------------------------------------ regions
def measure_regions(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure image-only inference with both branches, with only the global branch, and with only the tower."""
    config = make_config(size, settings.seed)
    model = make_model(config, settings.seed, settings.device).eval()
    batch_size = settings.get_batch_size(size)
    batch = make_batch(config, batch_size, IMAGE_SIZES[size], settings.seed, settings.device)
    images = {name: batch[name] for name in ("pixel_values", "au_boxes")}
    with_regions, alone = MF2Model.forward, without_regions(model)

    def run(function: Callable[[], object]) -> Phases:
        def inference() -> None:
            with torch.no_grad(), settings.autocast():
                function()

        return {"all": inference}

    runs = {
        f"global + {len(config.au_ids)} AU regions": run(lambda: with_regions(model, **images)),
        "global branch alone": run(lambda: alone(**images)),
        "tower alone": run(lambda: model.encode_vision(images["pixel_values"])),
    }
    timings = time_side_by_side(runs, settings.repeats, 2, settings.device, f"{size}, regions")
    base = timings["global branch alone"].seconds
    return [
        {"size": size, "forward": name, "ms an image": 1e3 * timing.seconds / batch_size}
        | {"times the global branch alone": timing.seconds / base}
        for name, timing in timings.items()
    ]


# ------------------------------------------------------------------------------------------------------------- script
Sections = Mapping[str, tuple[str, Callable[[str, Settings], list[dict[str, Any]]], tuple[str, ...]]]
"""Name -> title, measurement of one size, notes."""

SECTIONS: Sections = {
    "passes": (
        "Passes: our branch against Blip2QFormerModel",
        measure_passes,
        (f"{PASS_TEXT_LENGTH} text tokens, no dropout, SDPA on both sides; projecting the image is part of ours.",),
    ),
    "itg": (
        "ITG: on kept keys and values against one masked pass",
        measure_itg,
        ("The query-only pass, which a step has anyway, is not part of ours; the way back to its states is.",),
    ),
    "texts": (
        "Texts of the training steps",
        measure_texts,
        ("In tokens, [CLS] and [SEP] included; `negatives` is the share of items that ITM has a negative for.",),
    ),
    "step": ("Training step, all losses, both branches", measure_step, (REFERENCE_NOTE,)),
    "memory": (
        "Peak memory of a training step",
        measure_memory,
        ("Above the model and its batch, in the second step, each in a process of its own.",),
    ),
    "regions": ("AU regions: image-only inference", measure_regions, ()),
}


def run_section(name: str, sections: Sections, sizes: Sequence[str], settings: Settings) -> Section:
    """Measure one section at all sizes."""
    title, measure, notes = sections[name]
    if name == "memory" and not can_measure_memory(settings.device):
        return Section(title, [], ["Not measured: it takes Linux or a GPU."])
    rows = []
    for size in sizes:
        rows += measure(size, settings)
        release_memory(settings.device)
    return Section(title, rows, list(notes))


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings from parsed arguments.

    Raises:
        ValueError: a value is out of range, or there is no GPU.
    """
    for name, low in (("repeats", 1), ("threads", 1), ("batch_size", 2)):
        value = getattr(arguments, name)
        if value is not None and value < low:
            reason = " (image-text matching needs another image)" if name == "batch_size" else ""
            raise ValueError(f"--{name} is {value}; it must be >= {low}{reason}.")
    check_device(arguments.device)
    return Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})


def run_sections(arguments: argparse.Namespace, title: str, sections: Sections) -> None:
    """Measure the requested sections, print them as Markdown and optionally write JSON."""
    settings = read_settings(arguments)
    settings.configure_torch()
    machine = describe_machine(settings.device)
    print(f"# {title}\n")
    facts = asdict(settings) | machine
    print(markdown_table(("", "value"), [(name, show_value(value)) for name, value in facts.items()]))
    measured = {}
    for name in arguments.only:
        measured[name] = run_section(name, sections, arguments.sizes, settings)
        print(measured[name].to_markdown(), flush=True)
    if arguments.output:
        results = {name: asdict(section) for name, section in measured.items()}
        write_json(arguments.output, {"machine": machine, "settings": asdict(settings), "sections": results})


def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its tables."""
    run_sections(args, "Benchmark", SECTIONS)
