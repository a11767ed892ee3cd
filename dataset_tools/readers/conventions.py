"""What several data sets have in common: licence terms, sets of emotions, names of official splits, RAF's crops."""

import argparse

from ...labels_mf2 import EMOTIONS
from .interface import License

BASIC_EMOTIONS = EMOTIONS[:7]
"""Neutral and Ekman's six basic emotions, in the order of `EMOTIONS`."""
BASIC_EMOTIONS_BY_NAME = tuple(sorted(BASIC_EMOTIONS))
"""The same in alphabetic order, in which AFEW, SFEW and FERV39k list them."""

TRAIN_TEST = {"train": "train", "test": "validation"}
"""Official split -> ours, for data sets whose labelled test split serves as validation."""
TRAIN_VAL = {"train": "train", "val": "validation"}
"""Official split -> ours, for data sets whose test split has no public labels."""

RANDOM_BY_PERSON = "none: at random by person"
RANDOM_BY_PHOTOGRAPH = "none: photographs at random"
OFFICIAL_TRAIN_TEST = "official train and test (as validation)"
OFFICIAL_TRAIN_VAL = "official Train and Val"
THREE_FOLDS = "three subject-exclusive folds (--fold)"

RAF_CROPS = {"aligned": "_aligned", "original": ""}
"""Folder of the images of RAF-DB and RAF-AU -> what their file names end with."""


def restricted_license(name: str, link: str) -> License:
    """The licence of a data set whose terms forbid redistribution."""
    return License("other", name, link)


def add_raf_crop_argument(parser: argparse.ArgumentParser) -> None:
    """`--crop` of RAF-DB and RAF-AU."""
    parser.add_argument("--crop", choices=list(RAF_CROPS), default="aligned", help="default: %(default)s")
