"""The arguments of `mf2 evaluate` and `mf2 calibrate`; this module does not import torch, so that help is fast."""

import argparse
from pathlib import Path

from mf2.caption_meaning_mf2 import RERANKINGS

PROTOCOLS = ("mfa", "abaw")
"""Which rows are scored, and which of their labels count."""
SOURCES = ("detect", "mean_face", "given")
"""Where landmarks come from, in the order in which scores are shown; the ones available to everyone come first."""


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 evaluate`."""
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="MF² checkpoint or adapter: a folder or a Hub id")
    add(
        "--adapter",
        metavar="FOLDER",
        nargs="+",
        default=[],
        help="adapters of --model to evaluate instead of the model itself",
    )
    add(
        "--predictions",
        metavar="FILE",
        help="another system: a CSV of video, frame, AU… (probability or 0/1), emotion; or what mf2 analyze wrote",
    )
    add("--data", metavar="FOLDER", required=True, help="MFA data set: a folder, a Hub id, or a CSV file of labels")
    add("--split", default="validation", help="[%(default)s]")
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="mfa",
        help="abaw: ABAW's validation videos of each task [%(default)s]",
    )
    add("--output_dir", metavar="FOLDER", required=True, help="folder for all outputs")
    add("--group_by", metavar="COLUMN", help="also report scores per value of this column, and the gaps between them")
    add("--captions", action="store_true", help="also score retrieval and generated captions")
    add(
        "--rerank",
        choices=(*RERANKINGS, "none"),
        default="agreement",
        help="score the best of eight captions, chosen by the recognisers or by the matching head; none scores one, "
        "in an eighth of the time [%(default)s]",
    )
    add("--caption_rows", type=int, default=1000, help="rows for --captions, evenly spaced [%(default)s]")
    add(
        "--landmarks",
        nargs="+",
        choices=SOURCES,
        help="landmarks for alignment: the data set's, a detector's, or none [all; detect if a detector is available]",
    )
    add("--max_rows", type=int, help="score this many rows, evenly spaced [all]")
    add(
        "--num_bootstrap", type=int, default=1000, help="bootstrap resamples of videos for the intervals [%(default)s]"
    )
    add("--seed", type=int, default=0, help="random seed of the resamples [%(default)s]")
    add("--references", action="store_true", help="also evaluate simple reference predictors on the same data")
    add("--allow_seen", action="store_true", help="allow training videos in the evaluation; marked in the metrics")
    add("--device", help="cpu, cuda, cuda:1 … [a GPU if there is one]")
    add("--batch_size", type=int, default=64, help="[%(default)s]")


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 calibrate`."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="checkpoint or adapter; modified in place")
    add("--data", required=True, metavar="DATA", help="labelled faces: a data set's folder or Hub id, or a CSV file")
    add("--split", default="train", help="must not be a split used for evaluation [%(default)s]")
    add("--holdout", type=float, default=0.3, help="share of the videos on which the gain is measured [%(default)s]")
    add("--max_rows", type=int, default=4000, help="faces to use, evenly spaced [%(default)s]")
    add("--force", action="store_true", help="also save parts that gained nothing")
    add("--seed", type=int, default=0, help="random seed of the held-out videos [%(default)s]")
    add("--batch_size", type=int, default=64, help="[%(default)s]")
    add("--device", help="cpu, cuda, cuda:1 … [a GPU if there is one]")
