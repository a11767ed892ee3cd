"""`mf2 demo`: the small checkpoint, an analysis and its report on generated faces, offline.

Uses the demo checkpoint; if it does not exist, it is trained first, which takes some minutes.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from ..hub.sources import DEFAULT_MODEL

PACKAGE = Path(__file__).resolve().parent.parent
TRAINING_COMMAND = ("training/pretrain.py", "--config", "training/configs/demo.yaml")
NUM_PICTURES = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 demo`."""
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        default=Path(DEFAULT_MODEL),
        help="checkpoint; trained if it does not exist [%(default)s]",
    )
    add(
        "--output_dir",
        "--output",
        dest="output",
        type=Path,
        default=Path("outputs/demo_analysis"),
        metavar="DIR",
        help="[%(default)s]",
    )
    add("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")


def run(args: argparse.Namespace) -> int:
    """Train the checkpoint if needed, draw faces, analyse them, and print the path of the report."""
    if not (args.model / "config.json").is_file():
        train(args.model)
    print(show(args.model, args.output, args.device))
    return 0


def train(folder: Path) -> None:
    """Train the demo checkpoint in a folder, or continue training there.

    Raises:
        OSError: training failed; see its output.
    """
    print(f"There is no checkpoint at {folder}: training a small one now, which takes some minutes.", file=sys.stderr)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *TRAINING_COMMAND]
    status = subprocess.run([*command, "--output_dir", str(folder.resolve())], cwd=PACKAGE).returncode
    if status:
        raise ChildProcessError(f"Training ended with status {status}; see its output above.")


def show(model: Path, output: Path, device: str | None = None) -> Path:
    """Draw faces, analyse them with captions, and write the report.

    Args:
        model: a checkpoint folder.
        output: folder of the faces, the table and the report; outputs of an earlier demo are replaced.
        device: device to run on.
    Returns:
        The report file.
    """
    from ..configuration_mf2 import MF2Config
    from ..evaluation.caption_scores import caption_kinds
    from .demo_sample import LANDMARKS_NAME, write_sample
    from .engine import AnalyzeOptions, analyze
    from .face_arguments import FaceSearch
    from .report.command import write_report
    from .run_folder import MANIFEST_NAME

    sample, run_folder = output / "sample", output / "run"
    if (run_folder / MANIFEST_NAME).is_file():
        shutil.rmtree(run_folder)
    options = AnalyzeOptions(
        model=str(model),
        device=device,
        faces=FaceSearch(str(sample / LANDMARKS_NAME)),
        captions=caption_kinds(MF2Config.from_pretrained(model)),
    )
    summary = analyze(write_sample(sample, NUM_PICTURES), run_folder, options)
    print(summary.to_line())
    return write_report(run_folder, output / "report.html", "Generated faces")
