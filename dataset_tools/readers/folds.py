"""The subject-exclusive three-fold splits of BP4D and DISFA in the literature: each fold validates on one part."""

import argparse

import pandas as pd

Parts = tuple[tuple[str, ...], ...]

NUM_FOLDS = 3


def _parts(*texts: str) -> Parts:
    return tuple(tuple(text.split()) for text in texts)


BP4D_PARTS = _parts(
    "F001 M007 F018 F008 F002 M004 F010 F009 M012 M001 F016 M014 F023 M008",
    "M011 F003 M010 M002 F005 F022 M018 M017 F013 M016 F020 F011 M013 M005",
    "F007 F015 F006 F019 M006 M009 F012 M003 F004 F021 F017 M015 F014",
)
DISFA_PARTS = _parts(
    "SN002 SN010 SN001 SN026 SN027 SN032 SN030 SN009 SN016",
    "SN013 SN018 SN011 SN028 SN012 SN006 SN031 SN021 SN024",
    "SN003 SN029 SN023 SN025 SN008 SN005 SN007 SN017 SN004",
)


def add_fold_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--fold`, for a data set in three parts."""
    parser.add_argument(
        "--fold",
        type=int,
        choices=range(1, NUM_FOLDS + 1),
        default=1,
        help="subject-exclusive fold: 1 validates on part 3, 2 on part 2, 3 on part 1 (default: %(default)s)",
    )


def assign_fold_splits(subjects: pd.Series, parts: Parts, fold: int) -> pd.Series:
    """Subject -> `validation` in the held-out part of the fold, `train` in the others, None if in no part."""
    held_out = parts[NUM_FOLDS - fold]
    splits = {subject: "validation" if part is held_out else "train" for part in parts for subject in part}
    return subjects.map(splits).astype(object)
