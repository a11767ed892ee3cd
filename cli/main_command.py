"""The `mf2` command: dispatches to the module of a command, which is imported only when it is used."""

import importlib
import sys
from collections.abc import Sequence

from ..utils.command_line import Command, run_named

GROUPS: dict[str, dict[str, Command]] = {
    "data": {
        "data": Command("cli.data", "make a data set, stage by stage: generate, import, select, caption, check"),
    },
    "train & adapt": {
        "calibrate": Command(
            "evaluation.calibrate",
            "choose the AU thresholds of a checkpoint on labelled faces",
            "mf2 calibrate --model outputs/demo --data outputs/demo/data",
            "evaluation.arguments:add_calibrate_arguments",
        ),
    },
    "evaluate": {
        "evaluate": Command(
            "evaluation.evaluate",
            "score a checkpoint, its adapters or another system, from images alone",
            "mf2 evaluate --model outputs/demo --data outputs/demo/data --output_dir outputs/demo/evaluation\n"
            "mf2 evaluate --predictions other.csv --data outputs/demo/data --output_dir outputs/other",
            "evaluation.arguments:add_evaluate_arguments",
        ),
        "tables": Command(
            "experiments.tables",
            "make the paper's tables, running the missing trainings",
            "mf2 tables --tables II III --data outputs/demo/data --output_dir outputs/tables \\\n"
            "  --pretrain_config training/configs/demo.yaml --finetune_config training/configs/dfn.yaml",
            "experiments.arguments:add_tables_arguments",
        ),
        "benchmark": Command("cli.benchmark", "time branches, fine-tuning methods and mf2 analyze, side by side"),
    },
    "use": {
        "analyze": Command(
            "analysis.analyze",
            "name the action units and emotions of pictures, folders and videos",
            "mf2 analyze photos clip.mp4 --output outputs/analysis --captions emotion --report",
        ),
        "search": Command(
            "analysis.search.command",
            "find faces that match a description or another face, or words that match a face",
            'mf2 search "brows lowered, lips pressed" photos\nmf2 search --like face.jpg photos',
        ),
        "explain": Command(
            "analysis.explain",
            "show the regions of each AU in a face, and check its captions",
            "mf2 explain face.jpg --output outputs/explanation",
        ),
        "report": Command(
            "analysis.report.command",
            "make a web page from the results of `mf2 analyze`",
            "mf2 report outputs/analysis --title 'Interview 12'",
        ),
        "app": Command(
            "app.command",
            "show a checkpoint in a browser: pictures, a webcam, videos, two faces, a search",
            "mf2 app --model outputs/demo --open",
        ),
        "detectors": Command(
            "analysis.detectors", "list the face detectors, and how to install missing ones", "mf2 detectors"
        ),
        "demo": Command(
            "analysis.demo", "run everything on generated faces: analysis, pictures and a report", "mf2 demo"
        ),
    },
    "share": {
        "export": Command(
            "analysis.export",
            "write a checkpoint's image path as ONNX and check it against PyTorch",
            "mf2 export --model outputs/demo --onnx mf2.onnx",
        ),
        "publish": Command(
            "hub.publish",
            "check a checkpoint, an adapter or a data set and push it to the Hub",
            "mf2 publish outputs/demo --repo org/mf2-demo --dry_run",
        ),
    },
}
"""Group in the help -> its commands."""

COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}

LAUNCHED = {
    "train & adapt": ("accelerate launch training/pretrain.py --help", "accelerate launch training/finetune.py --help")
}
"""Launched scripts that the help lists in a group, besides its commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mf2 COMMAND …`; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else None
    if name == "--version":
        print(importlib.import_module("mf2").__version__)
        return 0
    if name in ("-h", "--help"):
        print(show_help())
        return 0
    if name not in COMMANDS:
        reason = f"there is no {name!r}; " if argv else ""
        print(f"mf2: error: {reason}name a command: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run_named(f"mf2 {name}", COMMANDS[name], argv[1:])


def show_help() -> str:
    """The help text: the commands by group, on one screen."""
    lines = ["usage: mf2 COMMAND …  (MF²: facial action units, emotions and captions)"]
    for group, commands in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {line}" for line in LAUNCHED.get(group, ())]
        lines += [f"  {name:<10} {command.text}" for name, command in commands.items()]
    return "\n".join([*lines, "", "mf2 COMMAND --help shows its options; mf2 --version prints the version."])
