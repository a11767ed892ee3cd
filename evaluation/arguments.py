"""The arguments of `mf2 evaluate` and `mf2 calibrate`, which help shows without torch."""

import argparse
from pathlib import Path

from mf2.caption_meaning_mf2 import RERANKINGS

PROTOCOLS = ("mfa", "abaw")
"""Which rows are scored, and which of their labels count."""
SOURCES = ("detect", "mean_face", "given")
"""Where landmarks come from, in the order in which scores are shown: what anyone can have first."""


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 evaluate`."""
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="MF² checkpoint or adapter: a folder or a Hub id")
    add("--adapter", metavar="FOLDER", nargs="+", default=[], help="adapters of --model to measure instead of it")
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
    add("--output_dir", metavar="FOLDER", required=True, help="where everything goes")
    add("--group_by", metavar="COLUMN", help="also scores by the values of this column, and their gaps")
    add("--captions", action="store_true", help="also retrieval and written captions")
    add(
        "--rerank",
        choices=(*RERANKINGS, "none"),
        default="none",
        help="of eight captions score what the recognisers support, or what the matching head prefers [%(default)s]",
    )
    add("--caption_rows", type=int, default=1000, help="rows for --captions, evenly spaced [%(default)s]")
    add(
        "--landmarks",
        nargs="+",
        choices=SOURCES,
        help="what faces are aligned by: the data set's points, a detector's, none [all; detect where one is ready]",
    )
    add("--max_rows", type=int, help="score this many rows, evenly spaced [all]")
    add("--num_bootstrap", type=int, default=1000, help="resamples of videos for the intervals [%(default)s]")
    add("--seed", type=int, default=0, help="of the resamples [%(default)s]")
    add("--references", action="store_true", help="also simple predictors on the same data: what a score is worth")
    add("--allow_seen", action="store_true", help="look at videos of the training, too; marked in the metrics")
    add("--device", help="cpu, cuda, cuda:1 … [a GPU if there is one]")
    add("--batch_size", type=int, default=64, help="[%(default)s]")


def add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mf2 calibrate`."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="checkpoint or adapter; it is changed in place")
    add("--data", required=True, metavar="DATA", help="labelled faces: a data set's folder or Hub id, or a CSV file")
    add("--split", default="train", help="never one that is evaluated on [%(default)s]")
    add("--holdout", type=float, default=0.3, help="share of the videos on which the gain is measured [%(default)s]")
    add("--max_rows", type=int, default=4000, help="faces to use, evenly spaced [%(default)s]")
    add("--force", action="store_true", help="save what gained nothing, too")
    add("--seed", type=int, default=0, help="of the draw of held-out videos [%(default)s]")
    add("--batch_size", type=int, default=64, help="[%(default)s]")
    add("--device", help="cpu, cuda, cuda:1 … [a GPU if there is one]")
