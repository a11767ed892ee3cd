"""Plots of an evaluation: confusion matrix, AU scores with their intervals, reliability diagrams."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mf2.utils.command_line import illustration
from mf2.utils.files import replacing

DPI = 120
BLUE, ORANGE, GREY = "#2b6ca3", "#d9822b", "0.55"


def draw_all(evaluation: dict[str, Any], emotions: tuple[str, ...], folder: Path) -> None:
    """Write the plots of all scored tasks into a folder.

    Args:
        evaluation: what `evaluate_predictions` returns.
        emotions: names of the classes.
    """
    plots: dict[str, Callable[[], Figure]] = {}
    if evaluation["emotion"]["num_labelled"]:
        plots["confusion.png"] = lambda: draw_confusion(evaluation["emotion"], emotions)
    if evaluation["aus"]["per_au"]:
        plots["aus.png"] = lambda: draw_aus(evaluation["aus"], evaluation["aus_tuned"])
    if any(evaluation["calibration"].values()):
        plots["reliability.png"] = lambda: draw_reliability(evaluation["calibration"])
    for name, draw in plots.items():
        with illustration(folder / name), replacing(folder / name) as partial:
            draw().savefig(partial, dpi=DPI, format="png")


def draw_confusion(emotion: dict[str, Any], emotions: tuple[str, ...]) -> Figure:
    """The confusion matrix: colours are shares of a label's rows, numbers are counts."""
    confusion = np.array(emotion["confusion"])
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    positions = np.arange(len(emotions))
    axes.set_xticks(positions, emotions, rotation=45, ha="right")
    axes.set_yticks(positions, emotions)
    axes.set(xlabel="predicted", ylabel="label")
    axes.set_title(f"top-1 {emotion['top1']:.3f}, macro-F1 {emotion['macro_f1']:.3f}", fontsize=10)
    for row, column in np.ndindex(*confusion.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{confusion[row, column]}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the label's rows")
    return figure


def draw_aus(aus: dict[str, Any], tuned: dict[str, Any]) -> Figure:
    """F1 of each AU at 0.5 and at the system's thresholds, with intervals and the always-active baseline."""
    codes = list(aus["per_au"])
    figure = Figure(figsize=(max(5.0, 1.2 + 0.62 * len(codes)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    for offset, color, label, scores in ((-0.2, BLUE, "at 0.5", aus), (0.2, ORANGE, "tuned thresholds", tuned)):
        _draw_bars(axes, np.arange(len(codes)) + offset, [scores["per_au"][code] for code in codes], color, label)
    trivial = [aus["per_au"][code]["f1_all_positive"] for code in codes]
    positions = np.arange(len(codes))
    axes.hlines(trivial, positions - 0.42, positions + 0.42, color="black", linewidth=1.4, label="always active")
    axes.set_xticks(positions, codes)
    axes.set(ylim=(0, 1), ylabel="F1")
    axes.set_title(f"mean F1 {aus['f1']:.3f} at 0.5, {tuned['f1']:.3f} tuned", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    return figure


def _draw_bars(axes: Axes, positions: np.ndarray, scores: list[dict[str, Any]], color: str, label: str) -> None:
    values = np.array([score["f1"] for score in scores])
    axes.bar(positions, values, width=0.38, color=color, label=label)
    known = [index for index, score in enumerate(scores) if score.get("f1_interval")]
    if known:
        low, high = np.array([scores[index]["f1_interval"] for index in known]).T
        axes.vlines(positions[known], low, high, color="0.25", linewidth=1.6)


def draw_reliability(calibration: dict[str, Any]) -> Figure:
    """Reliability diagrams: all AUs pooled, and the most probable emotion."""
    titles = {"aus": "action units", "emotion": "most probable emotion"}
    tasks = [task for task in titles if calibration[task]]
    figure = Figure(figsize=(4.2 * len(tasks), 4.2), layout="constrained")
    for axes, task in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks, strict=True):
        diagram = calibration[task]["reliability"]
        counts = np.array(diagram["count"])
        axes.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle="--")
        axes.plot(diagram["prob"], diagram["rate"], color=BLUE, linewidth=1)
        axes.scatter(diagram["prob"], diagram["rate"], s=10 + 200 * counts / counts.max(), color=BLUE, alpha=0.7)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="observed frequency", aspect="equal")
        scores = f"ECE {calibration[task]['ece']:.3f}, Brier {calibration[task]['brier']:.3f}"
        axes.set_title(f"{titles[task]}: {scores}", fontsize=10)
    return figure
