r"""Measures the time of each fine-tuning method to the same validation score, including preparation (DFN's cache).

    mf2 benchmark time_to_score --model outputs/demo --data data/mine --output_dir outputs/time_to_score \
        --configs dfn=training/configs/dfn.yaml full=training/configs/full.yaml --eval_steps 8

Methods run one after another, each with its own settings. The time includes evaluations. The common score is the
lowest of the methods' best scores.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from mf2.experiments.runs import Run, RunFolder, run_all
from mf2.experiments.tables import parse_named
from mf2.utils.files import write_text
from mf2.utils.markdown import markdown_table

SCORES = ("au_f1", "emotion_macro_f1", "emotion_top1")


def run(args: argparse.Namespace) -> None:
    """Run the methods one after another, write the table and print it."""
    flags = {"model": args.model, "data": args.data, "au_ids": args.au_ids, "emotions": args.emotions}
    flags |= {"eval_steps": args.eval_steps, "save_steps": "1000000", "overlay_faces": "0"}
    given = {name: value for name, value in flags.items() if value}
    configs = dict(parse_named(text, "--configs") for text in args.configs)
    runs = [Run(method, "finetune", {"config": file, "method": method} | given) for method, file in configs.items()]
    folder = RunFolder(args.output_dir, {})
    run_all(folder, runs, [args.seed], num_parallel=1)
    measured = {run.name: folder.metrics(run, args.seed) for run in runs}
    trained = {name: metrics["training"] for name, metrics in measured.items() if metrics is not None}
    text = to_markdown(trained, args.seed)
    write_text(args.output_dir / "time_to_score.md", text)
    print(text)


def to_markdown(trained: Mapping[str, Mapping[str, Any]], seed: int) -> str:
    """Format one table per score that all runs have.

    Args:
        trained: method -> `training` part of its metrics.
    """
    parts = [f"# Time to the same validation score, seed {seed}\n"]
    for score in SCORES:
        scores = {name: [entry[score] for entry in t["history"] if score in entry] for name, t in trained.items()}
        if not all(scores.values()):
            continue
        best = {name: max(values) for name, values in scores.items()}
        goal = min(best.values())
        rows = [
            [name, f"{best[name]:.3f}", *time_to_reach(training, score, goal)] for name, training in trained.items()
        ]
        header = ["method", "best", "steps", "training, s", "preparation, s", "together, s"]
        parts.append(f"{score}, to {goal:.3f}:\n\n{markdown_table(header, rows)}")
    return "\n".join(parts)


def time_to_reach(training: Mapping[str, Any], score: str, goal: float) -> list[str]:
    """Steps and seconds to the first evaluation that reaches the goal."""
    first = next(entry for entry in training["history"] if entry.get(score, -1.0) >= goal)
    prepared = training["preparation_seconds"]
    seconds = (first["elapsed_seconds"], prepared, first["elapsed_seconds"] + prepared)
    return [str(first["step"]), *(f"{value:.1f}" for value in seconds)]
