"""Reads CAS(ME)2, the apex frame of each macro- or micro-expression; the layout is that of `micro_expressions`."""

import argparse
from pathlib import Path

import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, EMOTIONS
from .frame_table import ReadReport
from .interface import About, License
from .micro_expressions import add_arguments, read_expressions

__all__ = ["ABOUT", "add_arguments", "read"]

OWN_EMOTIONS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Repression", "Other")
ABOUT = About(
    name="CAS(ME)2",
    license=License("other", "cas-me2-agreement", "http://casme.psych.ac.cn/casme/e3"),
    citation="Qu, Wang, Yan, Li, Wu and Fu, CAS(ME)2: A Database for Spontaneous Macro-Expression and "
    "Micro-Expression Spotting and Recognition, IEEE Transactions on Affective Computing 9(4), 2018",
    au_ids=tuple(ACTION_UNITS),
    active="listed; of the AUs that any row lists",
    emotions=EMOTIONS[1:],
    splits="none: at random by person",
)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """The apex frames of `root` that have labels and an image."""
    return read_expressions(root, args, OWN_EMOTIONS)
