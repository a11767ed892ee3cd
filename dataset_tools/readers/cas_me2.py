"""Reads CAS(ME)2, the apex frame of each macro- or micro-expression.

    CAS(ME)^2code_final.xlsx   first sheet: no header; participant, name, onset, apex, offset, AUs, positive or
                               negative, macro or micro, emotion. Sheet `naming rule1`: a folder (`s15`) and, last, the
                               participant whose it is
    .../s15/anger1_1/img572.jpg

A header as of `micro_expressions` is read as well, the emotion from a column `Self` where there is one. Participants
are not numbered as folders are: participant 1 is folder s15.
"""

import argparse
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ...labels_mf2 import ACTION_UNITS, EMOTIONS
from .frame_table import ReadReport
from .interface import About, License
from .micro_expressions import add_arguments, read_expressions, table_with_header
from .spreadsheets import Sheets

__all__ = ["ABOUT", "add_arguments", "read"]

POSITIONS = (
    *("subject", "filename", "onsetframe", "apexframe", "offsetframe", "actionunit"),
    *("valence", "type", "estimatedemotion"),
)
"""What the columns of the distributed workbook are."""
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
    return read_expressions(root, args, OWN_EMOTIONS, _read_table)


def _read_table(sheets: Sheets, path: str) -> pd.DataFrame:
    """The expressions, with and without a header; `subject` is the number of the person's folder.

    Raises:
        ValueError: a participant whose folder no sheet names.
    """
    rows = next(iter(sheets.values()))
    if rows and re.fullmatch(r"\d+", rows[0][0]):
        narrow = min(len(row) for row in rows)
        if narrow < len(POSITIONS):
            raise ValueError(f"{path} has {narrow} columns and no header; it must have {', '.join(POSITIONS)}.")
        table = pd.DataFrame([row[: len(POSITIONS)] for row in rows if any(row)], columns=POSITIONS, dtype=object)
    else:
        table = table_with_header(sheets, path)
        own = [name for name in table if name in ("self", "selfreport", "selfreportedemotion")]
        table = table.assign(estimatedemotion=table[own[0]]) if own else table
    folder_of = _folders_of_participants(sheets)
    subject = table["subject"].str.removesuffix(".0")
    folders = subject.where(subject.str.fullmatch(r"(?i)s\d+"), subject.map(folder_of))
    unknown = sorted(set(subject[folders.isna() & (subject != "")]))
    if unknown:
        raise ValueError(
            f"{path}: which folders participants {', '.join(unknown[:5])} have is not said (participant 1 is folder "
            "s15); the workbook needs its sheet `naming rule1`, or the folder, such as s15, in the column Subject."
        )
    return table.assign(subject=folders.fillna(""))


def _folders_of_participants(sheets: Sheets) -> dict[str, str]:
    """Participant -> folder, of the rows that hold a folder such as `s15` and end with a number."""
    found = {}
    for name, rows in list(sheets.items())[1:]:
        for row in rows if name.lower().startswith("naming rule") else []:
            cells = [cell.removesuffix(".0") for cell in row if cell]
            folders = [cell for cell in cells if re.fullmatch(r"(?i)s\d+", cell)]
            if len(folders) == 1 and cells[-1].isdecimal():
                found[cells[-1]] = folders[0]
    return found
