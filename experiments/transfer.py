"""Transfer between data sets: the base, DFN adapters and full fine-tuning, trained on one and tested on all."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from matplotlib.figure import Figure

from mf2.experiments.runs import Run, RunFolder
from mf2.experiments.table_layouts import SHORT_COLUMNS, Measure
from mf2.utils.command_line import illustration
from mf2.utils.files import replacing
from mf2.utils.markdown import markdown_table

METHODS = {"DFN": "dfn", "full": "full"}
SCORES: dict[str, Measure] = {name: SHORT_COLUMNS[name] for name in ("AU F1", "macro-F1")}


@dataclass(frozen=True)
class TransferTable:
    """The matrix of trained models and test data sets.

    Args:
        data: name -> data set.
        base: the pre-training that all runs start from.
    """

    data: Mapping[str, str]
    base: Run

    def __post_init__(self) -> None:
        if len(self.data) < 2:
            raise ValueError(
                f"--transfer_data names {len(self.data)} data sets; a transfer needs two or more NAME=DATA."
            )

    @property
    def trained(self) -> dict[str, Run]:
        """Name -> trained model."""
        adapted = {
            f"{title} on {name}": Run(f"{method}-on-{name}", "finetune", {"method": method, "data": data}, self.base)
            for (title, method), (name, data) in itertools.product(METHODS.items(), self.data.items())
        }
        return {"base": self.base} | adapted

    def evaluation(self, trained: Run, name: str) -> Run:
        """The evaluation of a run on a data set."""
        return Run(f"{trained.name}-tested-on-{name}", "evaluation", {"data": self.data[name]}, trained)

    @property
    def runs(self) -> list[Run]:
        """All evaluations, which include the trainings that they need."""
        return [self.evaluation(run, name) for run in self.trained.values() for name in self.data]

    def to_markdown(self, folder: RunFolder, seeds: Sequence[int]) -> str:
        """Format the matrices as Markdown."""
        matrices = self._matrices(folder, seeds)
        parts = ["## transfer. Trained on the row, tested on the column\n"]
        for score, values in matrices.items():
            cells = [[row, *(_show(values.get((row, name))) for name in self.data)] for row in self.trained]
            parts.append(f"{score} (%):\n\n{markdown_table(['', *self.data], cells)}")
        parts.append("A test scores what the model has outputs for and the data set labels; – is neither.\n")
        return "\n".join(parts)

    def draw(self, folder: RunFolder, seeds: Sequence[int]) -> None:
        """Draw the matrices that have values as `transfer.png` into the results folder."""
        file = folder.root / "transfer.png"
        with illustration(file):
            self._draw({score: values for score, values in self._matrices(folder, seeds).items() if values}, file)

    def _matrices(self, folder: RunFolder, seeds: Sequence[int]) -> dict[str, dict[tuple[str, str], list[float]]]:
        return {score: self._matrix(folder, seeds, measure) for score, measure in SCORES.items()}

    def _matrix(self, folder: RunFolder, seeds: Sequence[int], measure: Measure) -> dict[tuple[str, str], list[float]]:
        """(row, column) -> values of the finished seeds."""
        matrix: dict[tuple[str, str], list[float]] = {}
        for (row, run), name in itertools.product(self.trained.items(), self.data):
            measured = (folder.metrics(self.evaluation(run, name), seed) for seed in seeds)
            values = [measure(metrics) for metrics in measured if metrics is not None]
            if known := [value for value in values if value is not None]:
                matrix[row, name] = known
        return matrix

    def _draw(self, matrices: Mapping[str, Mapping[tuple[str, str], list[float]]], file: Path) -> None:
        figure = Figure(figsize=(1.5 + 2.6 * len(matrices) + len(self.data), 1.5 + 0.45 * len(self.trained)))
        rows, columns = list(self.trained), list(self.data)
        for index, (score, values) in enumerate(matrices.items(), start=1):
            axes = figure.add_subplot(1, len(matrices), index)
            grid = np.array([[mean(values.get((row, name), [np.nan])) for name in columns] for row in rows])
            axes.imshow(grid, cmap="viridis", aspect="auto")
            for (y, x), value in np.ndenumerate(grid):
                axes.text(x, y, "–" if np.isnan(value) else f"{value:.1f}", ha="center", va="center", color="white")
            axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
            axes.set_yticks(range(len(rows)), rows if index == 1 else [])
            axes.set_title(f"{score} (%)")
        figure.tight_layout()
        with replacing(file) as partial:
            figure.savefig(partial, dpi=120, format="png")


def _show(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
