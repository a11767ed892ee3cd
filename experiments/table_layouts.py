"""The tables: the runs that each needs, and the metrics that it shows.

A row is a named run, a column a number in its metrics. With several seeds, a cell is mean ± standard deviation, and
differences have 95 % intervals (Student's t over pairs of equal seeds).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from mf2.baselines.registry import add_system, further_files, load_system
from mf2.experiments import paper_results
from mf2.experiments.runs import Run, RunFolder

Measure = Callable[[dict[str, Any]], float | None]
"""Metrics of a run -> number, or None."""
LEVEL = 0.95
OURS = "MF² (pre-train)"
"""The row that those of other systems are compared with."""


# ------------------------------------------------------------------------------------------------------------ columns
def au_f1(au_id: int | None = None) -> Measure:
    """F1 at 0.5 of one AU, or the mean, in per cent."""

    def measure(metrics: dict[str, Any]) -> float | None:
        aus = metrics["evaluation"]["aus"]
        entry = aus if au_id is None else aus["per_au"].get(f"AU{au_id}") or {}
        return per_cent(entry.get("f1"))

    return measure


def emotion(score: str) -> Measure:
    """A score of the emotions, in per cent."""
    return lambda metrics: per_cent(metrics["evaluation"]["emotion"].get(score))


def one_vs_rest(name: str) -> Measure:
    """The paper's accuracy of one emotion: binary accuracy of this emotion against the rest, in per cent."""

    def measure(metrics: dict[str, Any]) -> float | None:
        scores = metrics["evaluation"]["emotion"]
        if not scores.get("num_labelled") or name not in scores["per_class"]:
            return None
        confusion, index = scores["confusion"], list(scores["per_class"]).index(name)
        wrong = sum(row[index] for row in confusion) + sum(confusion[index]) - 2 * confusion[index][index]
        return 100 * (1 - wrong / scores["num_labelled"])

    return measure


def concordance(dimension: str) -> Measure:
    """CCC of valence or arousal; None where the model has neither."""
    return lambda metrics: (metrics["evaluation"].get("affect", {}).get("per_dimension", {}).get(dimension) or {}).get(
        "ccc"
    )


def abaw_mtl_sum(metrics: dict[str, Any]) -> float | None:
    """P of ABAW's multi-task challenge: mean CCC + macro-F1 + AU F1; None where one of them is not measured."""
    return metrics["evaluation"].get("mtl_sum")


def per_cent(value: float | None) -> float | None:
    """Convert a fraction to per cent."""
    return None if value is None else 100 * value


def seconds_per_epoch(metrics: dict[str, Any]) -> float | None:
    """Training time per epoch, including its preparation; None of less than an epoch."""
    training = metrics["training"]
    if training["epochs"] < 1:
        return None
    return (training["seconds"] + training.get("preparation_seconds", 0.0)) / training["epochs"]


def millions_trained(metrics: dict[str, Any]) -> float:
    """Trainable parameters in millions."""
    return metrics["model"]["trainable_parameters"] / 1e6


AU_COLUMNS: dict[str, Measure] = {f"AU{au_id}": au_f1(au_id) for au_id in paper_results.AU_IDS} | {"mean": au_f1()}
EMOTION_COLUMNS: dict[str, Measure] = {name: one_vs_rest(name) for name in paper_results.EMOTIONS} | {
    "mean": emotion("paper_compatible_accuracy")
}
STANDARD_EMOTION_COLUMNS: dict[str, Measure] = {"top-1": emotion("top1"), "macro-F1": emotion("macro_f1")}
SHORT_COLUMNS: dict[str, Measure] = {"AU F1": au_f1()} | STANDARD_EMOTION_COLUMNS
AFFECT_COLUMNS: dict[str, Measure] = {f"CCC {name}": concordance(name) for name in ("valence", "arousal")} | {
    "P": abaw_mtl_sum
}
COST_COLUMNS: dict[str, Measure] = {"s an epoch": seconds_per_epoch, "trained, M": millions_trained}


# ------------------------------------------------------------------------------------------------------------- tables
@dataclass(frozen=True)
class Table:
    """A table of runs.

    Args:
        rows: name -> run.
        columns: name -> number in a run's metrics.
        paper: the paper's rows.
        paper_columns: columns of the paper's rows.
        compare_with: the row that others are compared with.
        notes: notes for the reader.
    """

    title: str
    rows: Mapping[str, Run]
    columns: Mapping[str, Measure]
    paper: Mapping[str, Sequence[float]] = field(default_factory=dict)
    paper_columns: Sequence[str] = ()
    compare_with: str | None = None
    notes: Sequence[str] = ()


MF2_ONLY_FLAGS = {"feature_views": "null", "probes": "false"}
"""Flags that disable settings of a pre-training configuration that baselines do not support."""
TRAINED_HERE = (
    "The systems without “the paper” were trained here on the same faces, course and tower (HSEmotion, too, which was "
    "published on EfficientNet-B0); their cards and docs/baselines.md say what differs from their publications."
)


def baseline_rows(table: str, names: Sequence[str], data: str) -> dict[str, Run]:
    """Title -> run of the baselines (names or files) in a table."""
    rows = {}
    for name in map(add_system, names):
        system = load_system(name)
        if table not in system.about.tables:
            continue
        options = system.variants.get(table, {})
        flags = {f"baseline_options.{option}": str(value) for option, value in options.items()}
        flags["baseline"] = str(further_files().get(name, name))
        folder = "-".join(["baseline", name, *(str(value) for value in options.values())])
        rows[system.about.title] = Run(folder, "pretrain", {"train_data": data} | MF2_ONLY_FLAGS | flags)
    return rows


def make_tables(
    data: str,
    llm_data: str | None,
    task: Mapping[str, str],
    systems: Mapping[str, str],
    baselines: Sequence[str] = (),
) -> dict[str, Table]:
    """Make all tables of one data set.

    Args:
        data: the MFA data set.
        llm_data: the same images with a language model's captions, for the caption table.
        task: flags of the task that methods are compared on (`data`, `au_ids`, `emotions`).
        systems: name -> predictions of other systems, shown as rows.
        baselines: systems to train, as names in `baselines/systems` or files.
    """
    pretrain = Run("pretrain", "pretrain", {"train_data": data})
    dfn = Run("dfn", "finetune", {"method": "dfn", "data": data}, pretrain)
    without_emo = Run("without-emo-vl", "pretrain", {"train_data": data, "model.use_emo_vl": "false"})
    without_au = Run("without-au-vl", "pretrain", {"train_data": data, "model.use_au_vl": "false"})
    both = {OURS: pretrain, "MF² (fine-tuning)": dfn} | {
        name: Run(f"system-{name}", "evaluation", {"predictions": file, "data": data})
        for name, file in systems.items()
    }
    ablations = {"MF² (fine-tuning)": dfn, "w/o DFN": pretrain, "w/o Emo-VL": without_emo, "w/o AU-VL": without_au}
    return {
        "II": Table(
            "AU recognition, F1 at 0.5 (%)",
            baseline_rows("II", baselines, data) | both,
            AU_COLUMNS,
            paper_results.TABLE_II,
            list(AU_COLUMNS),
            OURS,
            (*paper_results.NOTES["II"], *([TRAINED_HERE] if baselines else [])),
        ),
        "III": Table(
            "Emotion recognition, one-vs-rest accuracy as the paper's (%), and what it stands for",
            baseline_rows("III", baselines, data) | both,
            EMOTION_COLUMNS | STANDARD_EMOTION_COLUMNS,
            paper_results.TABLE_III,
            list(EMOTION_COLUMNS),
            OURS,
            (*paper_results.NOTES["III"], *([TRAINED_HERE] if baselines else [])),
        ),
        "IV": Table(
            "Ablation: one-vs-rest accuracy (%), AU F1 (%), cost",
            ablations,
            EMOTION_COLUMNS | SHORT_COLUMNS | COST_COLUMNS,
            {name: row[:9] for name, row in paper_results.TABLE_IV.items()},
            list(EMOTION_COLUMNS),
            "w/o DFN",
            (*paper_results.NOTES["IV"], *(describe_paper_cost())),
        ),
        "V": transition_table(data),
        "captions": captions_table(data, llm_data),
        "methods": methods_table(pretrain, task),
        "affect": affect_table(data, pretrain, dfn),
    }


def describe_paper_cost() -> list[str]:
    """Notes on the paper's cost columns, whose units differ from ours."""
    rows = (
        f"{name} {training:g} and {inference:g} min, {parameters:g} M"
        for name, (*_, training, inference, parameters) in paper_results.TABLE_IV.items()
    )
    return [
        f"The paper's training and inference time an epoch (RTX A6000) and trainable parameters: {'; '.join(rows)}.",
        "The row with DFN trains from cached states; its time holds the making of the cache. Inference with and "
        "without DFN is timed by `mf2 benchmark finetune`.",
    ]


def transition_table(data: str) -> Table:
    """Table V, and the same in the other direction."""
    aus_only = Run(
        "pretrain-on-aus",
        "pretrain",
        {"train_data": data, "model.use_emo_vl": "false", "model.emotion_weight": "0"},
    )
    emotions_only = Run(
        "pretrain-on-emotion", "pretrain", {"train_data": data, "model.use_au_vl": "false", "model.au_weight": "0"}
    )
    to_emotion = Run("aus-to-emotion", "finetune", {"method": "dfn", "data": data, "au_ids": "[]"}, aus_only)
    to_aus = Run("emotion-to-aus", "finetune", {"method": "dfn", "data": data, "emotions": "[]"}, emotions_only)
    return Table(
        "Transition: pre-trained on one task, DFN on the other",
        {
            "pre-trained on AUs": aus_only,
            "AUs, then emotion by DFN": to_emotion,
            "pre-trained on emotion": emotions_only,
            "emotion, then AUs by DFN": to_aus,
        },
        {"mean": emotion("paper_compatible_accuracy")} | SHORT_COLUMNS,
        paper_results.TABLE_V,
        ["mean"],
        None,
        (
            *paper_results.NOTES["V"],
            "A recogniser that was never trained guesses: the emotion of the first row, the AUs of the third.",
        ),
    )


def captions_table(data: str, llm_data: str | None) -> Table:
    """Whether captions help: runs that only differ in the captions."""
    no_captions = {f"model.{name}_weight": "0" for name in ("itc", "itm", "itg")}
    rows = {
        "no captions": Run("captions-none", "pretrain", {"train_data": data} | no_captions),
        "shuffled captions": Run("captions-shuffled", "pretrain", {"train_data": data, "captions": "shuffled"}),
        "the data set's captions": Run("pretrain", "pretrain", {"train_data": data}),
    }
    if llm_data:
        rows["a language model's captions"] = Run("captions-llm", "pretrain", {"train_data": llm_data})
    return Table("Does language help?", rows, SHORT_COLUMNS, compare_with="no captions")


def affect_table(data: str, base: Run, dfn: Run) -> Table:
    """Valence and arousal as a third recogniser, and what they cost the other two; the data set must label them."""
    with_affect = {"model.affect": "true", "model.affect_weight": "2.0"}
    rows = {
        OURS: base,
        "pre-trained with valence and arousal": Run("pretrain-affect", "pretrain", {"train_data": data} | with_affect),
        "MF² (fine-tuning)": dfn,
        "DFN with valence and arousal, on a base without": Run(
            "dfn-affect", "finetune", {"method": "dfn", "data": data, "affect": "true"}, base
        ),
    }
    return Table("Valence and arousal", rows, AFFECT_COLUMNS | SHORT_COLUMNS, compare_with=OURS)


def methods_table(base: Run, task: Mapping[str, str]) -> Table:
    """Fine-tuning methods on one task, from the same base."""
    methods = {"DFN": "dfn", "full fine-tuning": "full", "LoRA": "lora", "head only": "head"}
    rows = {
        name: Run(f"task-{method}", "finetune", {"method": method, **task}, base) for name, method in methods.items()
    }
    frozen = {"method": "full", "freeze_vision": "true", **task}
    rows["full, tower frozen"] = Run("task-full-tower-frozen", "finetune", frozen, base)
    variants = {
        "DFN, readout alone": {"max_steps": "1", "learning_rate": "0", "min_learning_rate": "0", "warmup_steps": "0"},
        "DFN, no readout": {"dfn.readout": "false"},
        "DFN, image cells only": {"dfn.text_cells": "false", "dfn.alignment_weight": "0"},
        "DFN, three kept states": {"dfn.num_kept_states": "3"},
        "DFN, gates off": {"dfn.use_gates": "false"},
        "DFN, shared modality cells": {"dfn.decoupled": "false"},
    }
    for name, flags in variants.items():
        folder = "task-" + name.lower().replace(", ", "-").replace(" ", "-")
        rows[name] = Run(folder, "finetune", {"method": "dfn", **task, **flags}, base)
    return Table(
        "Adapting to another task and domain, and DFN's parts",
        rows,
        SHORT_COLUMNS | COST_COLUMNS,
        compare_with="full fine-tuning",
    )


# ------------------------------------------------------------------------------------------------------------- values
@dataclass(frozen=True)
class FilledTable:
    """The numbers of a table: row -> column -> values of all seeds; None if not measured."""

    table: Table
    values: Mapping[str, Mapping[str, list[float | None]]]

    @classmethod
    def read(cls, table: Table, folder: RunFolder, seeds: Sequence[int]) -> "FilledTable":
        """Read the metrics of the finished runs."""
        values = {}
        for name, run in table.rows.items():
            metrics = [folder.metrics(run, seed) for seed in seeds]
            values[name] = {
                column: [None if run_metrics is None else measure(run_metrics) for run_metrics in metrics]
                for column, measure in table.columns.items()
            }
        return cls(table, values)

    def show(self, row: str, column: str) -> str:
        """Mean ± standard deviation over the seeds."""
        known = [value for value in self.values[row][column] if value is not None]
        if not known:
            return "–"
        return f"{mean(known):.2f}" + (f" ± {stdev(known):.2f}" if len(known) > 1 else "")

    def difference(self, row: str, column: str) -> str:
        """Mean difference from the compared row, with its interval over pairs of equal seeds."""
        if self.table.compare_with is None:
            return "–"
        pairs = zip(self.values[row][column], self.values[self.table.compare_with][column], strict=True)
        known = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
        if not known:
            return "–"
        return f"{mean(known):+.2f}" + (f" [{format_interval(known)}]" if len(known) > 1 else "")


def format_interval(differences: Sequence[float]) -> str:
    """The 95 % interval of the mean, by Student's t."""
    half = student_t.ppf(0.5 + LEVEL / 2, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences) - half:+.2f}, {mean(differences) + half:+.2f}"
