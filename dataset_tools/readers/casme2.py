"""Reads CASME II: the apex frame of each micro-expression. For the layout see `micro_expressions`."""

import argparse
from pathlib import Path

import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS
from .conventions import RANDOM_BY_PERSON, restricted_license
from .frame_table import ReadReport
from .interface import About
from .micro_expressions import add_arguments, read_expressions

__all__ = ["ABOUT", "add_arguments", "read"]

DATASET_EMOTIONS = ("Happiness", "Disgust", "Repression", "Surprise", "Sadness", "Fear", "Other")
ABOUT = About(
    name="CASME II",
    license=restricted_license("casme2-agreement", "http://casme.psych.ac.cn/casme/e2"),
    citation="Yan, Li, Wang, Zhao, Liu, Chen and Fu, CASME II: An Improved Spontaneous Micro-Expression Database and "
    "the Baseline Evaluation, PLoS ONE 9(1), 2014",
    au_ids=tuple(ACTION_UNITS),
    active="listed; of the AUs that any row lists",
    emotions=("Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other"),
    splits=RANDOM_BY_PERSON,
)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the apex frames of `root` that have labels and an image."""
    return read_expressions(root, args, DATASET_EMOTIONS)
