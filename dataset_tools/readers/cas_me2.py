"""Reads CAS(ME)2: the apex frame of each macro- or micro-expression.

    CAS(ME)^2code_final.xlsx   first sheet: no header; participant, name, onset, apex, offset, AUs, positive or
                               negative, macro or micro, emotion. Sheet `naming rule1`: a folder (`s15`) and, in the
                               last cell, its participant
    .../s15/anger1_1/img572.jpg

A workbook with the header of `micro_expressions` is also read; the emotion then comes from the column `Self` if there
is one. Participants and folders are numbered differently: participant 1 is folder s15.
"""

import argparse
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, EMOTIONS
from .conventions import RANDOM_BY_PERSON, restricted_license
from .frame_table import ReadReport
from .interface import About
from .micro_expressions import add_arguments, parse_table_with_header, read_expressions
from .spreadsheets import Sheets

__all__ = ["ABOUT", "add_arguments", "read"]

POSITIONS = (
    *("subject", "filename", "onsetframe", "apexframe", "offsetframe", "actionunit"),
    *("valence", "type", "estimatedemotion"),
)
"""Column names of the distributed workbook, which has no header."""
DATASET_EMOTIONS = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Repression", "Other")
ABOUT = About(
    name="CAS(ME)2",
    license=restricted_license("cas-me2-agreement", "http://casme.psych.ac.cn/casme/e3"),
    citation="Qu, Wang, Yan, Li, Wu and Fu, CAS(ME)2: A Database for Spontaneous Macro-Expression and "
    "Micro-Expression Spotting and Recognition, IEEE Transactions on Affective Computing 9(4), 2018",
    au_ids=tuple(ACTION_UNITS),
    active="listed; of the AUs that any row lists",
    emotions=EMOTIONS[1:],
    splits=RANDOM_BY_PERSON,
)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the apex frames of `root` that have labels and an image."""
    return read_expressions(root, args, DATASET_EMOTIONS, _parse_table)


def _parse_table(sheets: Sheets, path: str) -> pd.DataFrame:
    """Read the expressions, with or without a header; `subject` becomes the person's folder, such as `s15`.

    Raises:
        ValueError: no sheet names the folder of a participant, or a table without a header has too few columns.
    """
    rows = next(iter(sheets.values()))
    if rows and re.fullmatch(r"\d+", rows[0][0]):
        width = min(len(row) for row in rows)
        if width < len(POSITIONS):
            raise ValueError(f"{path} has {width} columns and no header; it must have {', '.join(POSITIONS)}.")
        table = pd.DataFrame([row[: len(POSITIONS)] for row in rows if any(row)], columns=POSITIONS, dtype=object)
    else:
        table = parse_table_with_header(sheets, path)
        self_reports = [name for name in table if name in ("self", "selfreport", "selfreportedemotion")]
        table = table.assign(estimatedemotion=table[self_reports[0]]) if self_reports else table
    subject = table["subject"].str.removesuffix(".0")
    folders = subject.where(subject.str.fullmatch(r"(?i)s\d+"), subject.map(_participant_folders(sheets)))
    unknown = sorted(set(subject[folders.isna() & (subject != "")]))
    if unknown:
        raise ValueError(
            f"{path} does not say which folders belong to participants {', '.join(unknown[:5])} (participant 1 is "
            "folder s15); the workbook needs its sheet `naming rule1`, or the folder, such as s15, in the column "
            "Subject."
        )
    return table.assign(subject=folders.fillna(""))


def _participant_folders(sheets: Sheets) -> dict[str, str]:
    """Participant -> folder, from the rows that hold a folder such as `s15` and end with a number."""
    participant_folders = {}
    for name, rows in list(sheets.items())[1:]:
        for row in rows if name.lower().startswith("naming rule") else []:
            cells = [cell.removesuffix(".0") for cell in row if cell]
            folders = [cell for cell in cells if re.fullmatch(r"(?i)s\d+", cell)]
            if len(folders) == 1 and cells[-1].isdecimal():
                participant_folders[cells[-1]] = folders[0]
    return participant_folders
