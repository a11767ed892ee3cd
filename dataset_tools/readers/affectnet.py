"""Reads AffectNet in either of its layouts.

csv:
    .../training.csv, .../validation.csv   columns subDirectory_filePath, facial_landmarks (x0;y0;...), expression,
                                           and optionally valence, arousal;
                                           a file without a header (some copies of validation.csv) has all columns
    .../689/abc.jpg                        the images, in any folder (--crop)
npy:
    {train_set,val_set}/annotations/12_exp.npy   the expression, a string in an array without dimensions
    {train_set,val_set}/annotations/12_{val,aro}.npy   valence and arousal, as the expression is
    {train_set,val_set}/annotations/12_lnd.npy   136 numbers x0, y0, x1, ...
    {train_set,val_set}/images/12.jpg

Automatic labels (automatically_annotated.csv) are not read.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from ...labels_mf2 import AFFECT, EMOTIONS
from .conventions import restricted_license
from .emotion_maps import add_emotion_arguments, map_emotions
from .frame_table import (
    Folder,
    ReadReport,
    add_crop_argument,
    build_frame_table,
    parse_affect_column,
    parse_landmarks,
    read_text_table,
    to_points,
)
from .interface import About

CODES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
NOT_EMOTIONS = {8: "None", 9: "Uncertain", 10: "No face"}
EMOTION_DEFAULTS = {"Contempt": "Other"}
SPLITS = {"training": "train", "validation": "validation", "train_set": "train", "val_set": "validation"}
AFFECT_CODE = -2
"""Stands for no valence and no arousal: those of 9 (uncertain) and 10 (no face)."""
LAYOUTS = ("auto", "csv", "npy")
ABOUT = About(
    name="AffectNet",
    license=restricted_license("affectnet-agreement", "http://mohammadmahoor.com/affectnet/"),
    citation="Mollahosseini, Hasani and Mahoor, AffectNet: A Database for Facial Expression, Valence, and Arousal "
    "Computing in the Wild, IEEE Transactions on Affective Computing 10(1), 2019",
    emotions=EMOTIONS,
    affect=True,
    splits="official training and validation",
)
COUNTED = {
    "dropped_no_emotion": "dropped: rows of 8 (none), 9 (uncertain) and 10 (no face)",
    "labels_ignored": "files of labels that are not read: automatic ones, or those of the other layout (--layout)",
}
_COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
    *("facial_landmarks", "expression", "valence", "arousal"),
)
_CSV = r"(?P<split>training|validation)\.csv"
_NPY = r"(?P<split>train_set|val_set)/annotations/(?P<name>\d+)_exp\.npy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="auto: the csv files where there are any")
    add_emotion_arguments(parser)
    add_crop_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, ReadReport]:
    """Read the photographs of `root` that have a label."""
    report = ReadReport(COUNTED)
    folder = Folder(root, report)
    layout = args.layout
    if layout == "auto":
        layout = "npy" if folder.match(_CSV).empty and not folder.match(_NPY).empty else "csv"
    report.settings["layout"] = layout
    folder.count_others(r"automatically_annotated[^/]*\.csv", "labels_ignored")
    folder.count_others(_NPY if layout == "csv" else _CSV, "labels_ignored")
    labels, images = (_read_csv if layout == "csv" else _read_npy)(folder, report, args.crop)
    codes = pd.to_numeric(labels["code"].where(labels["code"].str.fullmatch(r"[0-9]{1,2}").astype(bool)))
    labels = report.drop(labels, codes.isin(list(NOT_EMOTIONS)), "dropped_no_emotion", "video_id")
    names = codes[labels.index].map(dict(enumerate(CODES))).fillna(labels["code"])
    labels["emotion"], emotions = map_emotions(names, CODES, EMOTION_DEFAULTS, args, report)
    labels = labels.assign(
        **{name: parse_affect_column(labels[name], report, AFFECT_CODE) for name in AFFECT if name in labels}
    )
    labels = labels.assign(split=labels["split"].map(SPLITS), group_id=labels["video_id"])
    on = [name for name in ("split_folder", "name") if name in images]
    return build_frame_table(labels, report, images, on=on, emotions=emotions), report


def _read_csv(folder: Folder, report: ReadReport, crop: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read rows with `name` (`689/abc`), `code`, `split` and `landmarks`; and the images by `name`."""
    files = folder.find(_CSV, "training.csv or validation.csv (nor train_set/annotations/12_exp.npy)")
    tables = []
    for split, path in files.to_numpy():
        columns = ("subDirectory_filePath", "facial_landmarks", "expression")
        table = read_text_table(folder.root / path, report, columns, _COLUMNS, optional=AFFECT)
        tables.append(table.assign(split=split.lower()))
    table = pd.concat(tables, ignore_index=True)
    labels = pd.DataFrame(
        {
            "name": table["subDirectory_filePath"].str.strip().str.replace(r"\.[A-Za-z]+$", "", regex=True),
            "code": table["expression"].str.strip(),
            "split": table["split"],
            "landmarks": parse_landmarks(table["facial_landmarks"], report),
            **{name: table[name].fillna("") for name in AFFECT if name in table},
        }
    )
    images = folder.images(r"(?P<name>[^/]+/[^/]+)", "such as 689/abc.jpg", crop)
    return labels.assign(video_id=labels["name"]), images


def _read_npy(folder: Folder, report: ReadReport, crop: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read rows with `name`, `code`, `split` and `split_folder`; and the images by `split_folder` and `name`."""
    files = folder.find(_NPY, "train_set/annotations/12_exp.npy")
    report.tally.add("rows", len(files))
    codes = [_read_code(folder.root / path) for path in tqdm(files["path"], desc="annotations", unit="file")]
    labels = files.assign(code=pd.Series(codes, dtype=object), split=files["split"].str.lower())
    labels = report.drop(labels, labels["code"].isna(), "malformed", "path")
    landmarks = dict(folder.match(_NPY.replace("_exp", "_lnd"))[["path", "name"]].to_numpy())
    paths = labels["path"].str.replace("_exp.npy", "_lnd.npy", case=False, regex=False)
    labels["landmarks"] = [_read_points(folder.root / path, report) if path in landmarks else None for path in paths]
    for name in AFFECT:
        there = set(folder.match(_NPY.replace("_exp", f"_{name[:3]}"))["path"])
        paths = labels["path"].str.replace("_exp.npy", f"_{name[:3]}.npy", case=False, regex=False)
        labels[name] = [_read_number(folder.root / path) if path in there else "" for path in paths]
    labels = labels.drop(columns="path")
    labels = labels.assign(split_folder=labels["split"], video_id=labels["split"] + "/" + labels["name"])
    images = folder.images(
        r"(?P<split_folder>train_set|val_set)/images/(?P<name>\d+)", "such as train_set/images/12.jpg", crop
    )
    return labels, images.assign(split_folder=images["split_folder"].str.lower())


def _read_points(path: Path, report: ReadReport) -> np.ndarray | None:
    """Read (136,) landmarks; None, counted, if the file is invalid. Nothing is unpickled."""
    try:
        points = to_points(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError, OSError):
        points = None
    report.count("values_unknown", [f"landmarks {path.name}"] if points is None else [])
    return points


def _read_number(path: Path) -> str:
    """Valence or arousal as text; the file's name where it is not understood. Nothing is unpickled."""
    try:
        return str(float(np.load(path, allow_pickle=False)[()]))
    except (ValueError, TypeError, EOFError, OSError, IndexError):
        return path.name


def _read_code(path: Path) -> str | None:
    """Read the expression as text; None if the file is invalid. Nothing is unpickled."""
    try:
        return str(int(np.load(path, allow_pickle=False)[()]))
    except (ValueError, TypeError, EOFError, OSError, IndexError):
        return None
