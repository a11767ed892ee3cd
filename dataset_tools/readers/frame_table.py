"""What the readers share: listing a folder, reading tables of text, joining labels with images, and the report.

A reader brings its labels into a pandas table, one row an annotated image: `AU1` ... (1, 0; -1 or NaN = unlabelled),
`emotion` (an index, -1 = unlabelled), `video_id`, `group_id`, `frame`, `split`. `frame_table` finds the images and
makes the result.
"""

import argparse
import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from tqdm import tqdm

from ...labels_mf2 import ACTION_UNITS, AU_UNLABELLED, EMOTIONS, NUM_LANDMARKS
from ...utils.markdown import markdown_table
from ...utils.suffixes import PICTURE_SUFFIXES
from ...utils.text_tables import find_delimiter
from ..stage_report import NUM_EXAMPLES, Tally
from .interface import with_emotions

EMOTION_MISSING = -1  # in a reader's table; null in the result

COUNTED = {
    "rows": "annotation rows read",
    "malformed": "dropped: rows that are not understood",
    "labelled_twice": "dropped: rows for an image that has one (the first is taken)",
    "unlabelled": "dropped: rows without any label",
    "missing_image": "dropped: rows whose image is not there",
    "no_part": "dropped: rows of people who are in no part of the folds",
    "kept": "kept rows",
    "emotions_unmapped": "emotions that no emotion of ours stands for (unlabelled; --emotion_map)",
    "values_unknown": "label values that are not understood (unlabelled)",
    "rejected_files": "files refused: not understood",
    "images_without_row": "images without a row",
    "images_twice": "images with the number of another in their folder (the first is taken)",
    "images_ignored": "images elsewhere, which this reader does not look at",
    "counted_from_0": "folders whose images count from 0 while their labels count from 1",
    "unsafe_paths": "names and links that lead out of their folder (refused)",
}
"""What every report counts. rows = the dropped ones (those of the reader, `dropped_*`, too) and kept together."""


# ------------------------------------------------------------------------------------------------------- the report
class ReadReport:
    """What a reader read, dropped and why, three of its rows, and the settings that it read with.

    Args:
        counted: further names, as for `Tally`.
        settings: options of the reader that belong to every result made from it (threshold, fold, crop, ...).
    """

    def __init__(self, counted: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.tally = Tally({**COUNTED, **(counted or {})})
        self.settings: dict[str, Any] = settings
        self.examples: list[tuple[str, ...]] = []

    def drop(self, rows: pd.DataFrame, unwanted: pd.Series, name: str, shown: str | Sequence[str]) -> pd.DataFrame:
        """The other rows; the unwanted ones are counted under `name`, with the column or columns `shown`."""
        columns = [shown] if isinstance(shown, str) else list(shown)
        first = rows.loc[unwanted, columns].head(NUM_EXAMPLES).astype(str).itertuples(index=False)
        self.count(name, ["/".join(values) for values in first], int(unwanted.sum()))
        return rows[~unwanted]

    def count(self, name: str, examples: Iterable[object], amount: int | None = None) -> None:
        """Count each of `examples`, or `amount` things of which they are the first, under `name`."""
        examples = list(examples)
        for example in examples:
            self.tally.add(name, example=example)
        self.tally.add(name, 0 if amount is None else amount - len(examples))

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            **self.tally.to_dict(),
            "settings": self.settings,
            "example_rows": self.examples,
        }

    def to_markdown(self) -> str:
        """The tables that the command prints."""
        header = ("path", "group", "frame", "split", "emotion", "active AUs", "not active")
        examples = markdown_table(header, self.examples) if self.examples else ""
        return f"{self.tally.to_markdown()}\n{examples}"


# ------------------------------------------------------------------------------------------------------- the folder
def safe_entries(folder: str | Path, root: Path, tally: Tally) -> Iterator["os.DirEntry[str]"]:
    """The entries of a folder without the links that lead out of `root` (resolved), which are counted."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                tally.add("unsafe_paths", example=f"{Path(folder).name}/{entry.name}")
            else:
                yield entry


class Folder:
    """All files below the root of a data set, listed once; what a reader opens is always one of them.

    A link is followed at the top, where a user arranges folders, and further down when it is one to a file of the same
    top folder; an annotation that names any other path finds nothing.
    """

    def __init__(self, root: Path, report: ReadReport) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder.")
        self.root, self._report = root, report
        self.paths = pa.array(sorted(tqdm(_walk(root, report.tally), desc=f"files in {root.name}", unit="file")))

    def find(self, pattern: str, looked_for: str, crop: str | None = None) -> pd.DataFrame:
        """The files whose path ends like `pattern`.

        Args:
            pattern: RE2 expression with named groups, upper and lower case alike.
            looked_for: the same for a person to read, for the error.
            crop: only below this folder.
        Returns:
            `path` and a column for each group, in the order of the paths.
        Raises:
            FileNotFoundError: there is none; what was looked for and what is there is shown.
        """
        found = self.match(pattern, crop)
        if found.empty:
            where = "" if crop is None else f" in {crop}"
            raise FileNotFoundError(f"{self.root} holds no {looked_for}{where}; it holds {self.summary()}.")
        return found

    def find_one(
        self, pattern: str, looked_for: str, edition: str | None = None, remedy: str = "keep one of them"
    ) -> str:
        """The one file whose path ends like `pattern` (without groups).

        Args:
            edition: a part of its name, of `add_edition_argument`.
            remedy: what to do where there are several; `BY_EDITION` of readers with that option.
        Raises:
            FileNotFoundError: as `find`.
            ValueError: there are several.
        """
        paths = self.find(f"(?P<name>{pattern})", looked_for)["path"].tolist()
        chosen = [path for path in paths if (edition or "").lower() in path.rpartition("/")[2].lower()]
        if not chosen:
            raise FileNotFoundError(f"No {looked_for} has {edition!r} in its name: {', '.join(paths[:NUM_EXAMPLES])}.")
        if len(chosen) > 1:
            raise ValueError(
                f"{self.root} holds {looked_for} more than once: {', '.join(chosen[:NUM_EXAMPLES])}; {remedy}."
            )
        self._report.settings["labels_file"] = chosen[0]
        return chosen[0]

    def match(self, pattern: str, crop: str | None = None) -> pd.DataFrame:
        """`find` that may find nothing, in the folder `crop` alone if it is given."""
        inside = "" if crop is None else re.escape(crop.strip("/")) + "/"
        groups = pc.extract_regex(self.paths, f"(?i)^(?:.*/)?{inside}(?:.*/)?{pattern}$")
        matched = pc.is_valid(groups)
        columns = {field.name: pc.struct_field(groups, field.name).filter(matched) for field in groups.type}
        return pd.DataFrame(
            {name: values.to_numpy(zero_copy_only=False) for name, values in columns.items()}
            | {"path": self.paths.filter(matched).to_numpy(zero_copy_only=False)}
        )

    def count_others(self, pattern: str, name: str, taken: Iterable[str] = ()) -> None:
        """Count under `name` the files whose path ends like `pattern` and that are not among the taken ones."""
        nameless = re.sub(r"\?P<\w+>", "?:", pattern)
        paths = self.match(f"(?P<name>{nameless})")["path"]
        self._report.count(name, paths[~paths.isin(list(taken))])

    def images(self, pattern: str, looked_for: str, crop: str | None = None) -> pd.DataFrame:
        """`find` among the images, of the folder `crop` alone if it is given; `pattern` leaves the suffix out."""
        suffixes = "|".join(suffix[1:] for suffix in sorted(PICTURE_SUFFIXES))
        images = self.find(rf"{pattern}\.(?:{suffixes})", f"image {looked_for}", crop)
        self._count_ignored(rf"(?i)\.(?:{suffixes})$", images["path"])
        return images

    def _count_ignored(self, suffix: str, taken: pd.Series) -> None:
        """Count the images that are not among the taken ones, with the folders that they are in."""
        paths = self.paths.filter(pc.match_substring_regex(self.paths, suffix))
        ignored = paths.filter(pc.invert(pc.is_in(paths, pa.array(taken, pa.string()))))
        folders = dict.fromkeys(os.path.dirname(path) or "." for path in ignored.to_pylist())
        self._report.tally.counts["images_ignored"] += len(ignored)
        for folder in list(folders)[:NUM_EXAMPLES]:
            self._report.tally.add_example("images_ignored", folder)

    def read(self, path: str) -> bytes:
        """The bytes of a listed file."""
        return (self.root / path).read_bytes()

    def summary(self) -> str:
        """What is there, in a few words."""
        paths = self.paths.to_pylist()
        if not paths:
            return "no file"
        tops = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in paths})
        shown = ", ".join(tops[:NUM_EXAMPLES]) + (", ..." if len(tops) > NUM_EXAMPLES else "")
        return f"{len(paths):,} files in {shown} (for example {paths[0]} and {paths[-1]})"


def _walk(root: Path, tally: Tally) -> Iterator[str]:
    """The paths of the files below `root`, relative to it, without hidden ones."""
    with os.scandir(root) as found:
        pending = [(f"{entry.name}/", Path(entry.path)) for entry in found if entry.is_dir() and _is_shown(entry.name)]
    tops = {prefix: folder.resolve() for prefix, folder in pending}
    pending.append(("", root))
    while pending:
        prefix, folder = pending.pop()
        top = tops[prefix[: prefix.index("/") + 1]] if prefix else root.resolve()
        for entry in safe_entries(folder, top, tally):
            if not _is_shown(entry.name):
                continue
            if entry.is_file():
                yield prefix + entry.name
            elif prefix and entry.is_dir(follow_symlinks=False):
                pending.append((f"{prefix}{entry.name}/", Path(entry.path)))


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name.encode("utf-8", "ignore").decode() == name


# --------------------------------------------------------------------------------------------------- tables of text
_INTEGER = re.compile(rb"\s*(-?0*\d{1,9})\s*")


def malformed_value(dtype: npt.DTypeLike) -> int:
    """What stands in a row that `parse_ints` could not read."""
    return int(np.iinfo(dtype).min)


def parse_ints(body: bytes, width: int, dtype: npt.DTypeLike = np.int8) -> npt.NDArray[Any]:
    """Comma-separated integers, a row a line -> (rows, width); a line that is anything else is `malformed_value`.

    Lines keep their place, empty ones too, because the number of a row may be the number of its frame.
    """
    body = body.rstrip()
    if b"x" in body.lower():  # pyarrow takes `0x1` for a number
        return _parse_ints_by_line(body, width, dtype)
    names = [str(i) for i in range(width)]
    try:
        table = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.from_numpy_dtype(dtype)), null_values=[]
            ),
        )
    except pa.ArrowInvalid:
        return _parse_ints_by_line(body, width, dtype)
    return np.column_stack([column.to_numpy() for column in table.columns])


def _parse_ints_by_line(body: bytes, width: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    lines = body.splitlines()
    bounds = np.iinfo(dtype)
    table = np.full((len(lines), width), malformed_value(dtype), dtype)
    for row, line in zip(table, lines, strict=True):
        fields = [_INTEGER.fullmatch(text) for text in line.split(b",")]
        values = [int(text[1]) for text in fields if text]
        if len(fields) == len(values) == width and all(bounds.min < value <= bounds.max for value in values):
            row[:] = values
    return table


def read_text_lines(data: bytes, pattern: str, report: ReadReport) -> pd.DataFrame:
    """The lines of a text that match `pattern` as a whole, a column for each of its named groups.

    Other lines, but for empty ones, are counted as malformed. Upper and lower case count.
    """
    lines = pd.Series(data.decode("utf-8-sig", "replace").splitlines(), dtype=object).str.strip()
    lines = lines[lines != ""].reset_index(drop=True)
    report.tally.add("rows", len(lines))
    fields = lines.str.extract(f"^(?:{pattern})$", flags=re.ASCII)
    matched = lines.str.fullmatch(pattern, flags=re.ASCII).astype(bool)
    report.drop(lines.to_frame("line"), ~matched, "malformed", "line")
    return fields[matched].reset_index(drop=True)


_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")


def read_text_table(
    path: Path,
    report: ReadReport,
    columns: Sequence[str] | None = None,
    names_without_header: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A CSV file as text, cell by cell; rows of another width than the header are counted as malformed.

    Semicolons or tabs may separate the cells; with semicolons a number may have a decimal comma.

    Args:
        columns: only these; None: all.
        names_without_header: of the cells, where the first line has as many and names none of `columns`.
    Raises:
        ValueError: a column is not there, or twice, or the file is no text or has no row; the file is named.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        has_header = not names_without_header or any(name in first for name in columns or ())
        delimiter = find_delimiter(first) if has_header else ","
        file.seek(0)
        try:
            names = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
        except csv.Error as error:
            raise ValueError(f"{path} has no header that can be read: {error}.") from None
    if names_without_header and not has_header and len(names) == len(names_without_header):
        names = list(names_without_header)
    wanted = list(names if columns is None else columns)
    if not_once := [name for name in wanted if names.count(name) != 1]:
        raise ValueError(f"{path} must have once {', '.join(not_once)}; its header is {', '.join(names)}.")
    odd: list[str] = []

    def skip(row: pacsv.InvalidRow) -> str:
        odd.append(row.text)
        return "skip"

    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=int(has_header)),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[], include_columns=wanted
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as a table: {error}.") from None
    report.count("malformed", odd)
    report.tally.add("rows", len(odd) + len(table))
    cells = table.to_pandas()
    return cells.replace(_DECIMAL_COMMA, r"\1.\2", regex=True) if delimiter == ";" else cells


# ----------------------------------------------------------------------------------------------------------- labels
def occurrence(values: pd.Series, report: ReadReport, unlabelled: Sequence[int] = ()) -> npt.NDArray[np.int8]:
    """Text or numbers -> AU labels: 0 and 1 as they are; `unlabelled` codes, empty cells and all else are -1."""
    numbers = pd.to_numeric(values, errors="coerce")
    known = numbers.isin([0, 1])
    unscored = numbers.isin([AU_UNLABELLED, *unlabelled]) | (values.astype(str).str.strip() == "") | values.isna()
    report.count("values_unknown", values[~known & ~unscored])
    return np.where(known, numbers.fillna(AU_UNLABELLED), AU_UNLABELLED).astype(np.int8)


def active(intensities: npt.NDArray[Any], threshold: float, highest: float) -> npt.NDArray[np.int8]:
    """Intensities -> AU labels: `threshold` or more is active, what is not in 0..highest is -1."""
    labels = (intensities >= threshold).astype(np.int8)
    labels[~((intensities >= 0) & (intensities <= highest))] = AU_UNLABELLED
    return labels


def listed_aus(texts: pd.Series, separator: str = "+") -> tuple[pd.DataFrame, pd.Series]:
    """Lists of the AUs that are active, such as `1+4+L12`, -> a column of 1 and 0 for each AU of `ACTION_UNITS`.

    Left and right merge into the AU.

    Returns:
        The columns, -1 in rows that are not understood, and which rows are: `null`, `?` and the like are not, because
        what they leave open must not become "not active".
    """
    pattern = rf"\s*[LRlr]?[0-9]{{1,2}}\s*(?:{re.escape(separator)}\s*[LRlr]?[0-9]{{1,2}}\s*)*"
    texts = texts.astype(str)
    understood = texts.str.fullmatch(pattern).astype(bool)
    numbers = [{int(number) for number in re.findall(r"\d+", text)} for text in texts[understood]]
    labels = np.full((len(texts), len(ACTION_UNITS)), AU_UNLABELLED, np.int8)
    rows = [[au_id in found for au_id in ACTION_UNITS] for found in numbers]
    labels[understood.to_numpy()] = np.array(rows, np.int8).reshape(-1, len(ACTION_UNITS))
    columns = [au.code for au in ACTION_UNITS.values()]
    return pd.DataFrame(labels, columns=columns, index=texts.index), understood


def as_points(values: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    """Numbers x0, y0, x1, y1, … in any shape -> (136,); None where they are not finite and of 68 points."""
    points = np.asarray(values, np.float32).reshape(-1)
    return points if points.size == 2 * NUM_LANDMARKS and np.isfinite(points).all() else None


def parse_landmarks(values: pd.Series, report: ReadReport) -> list[npt.NDArray[np.float32] | None]:
    """Texts `x0;y0;x1;y1;...` -> 136 numbers each; None, counted, where they are anything else."""
    return [_parse_points(text, report) for text in values]


def _parse_points(text: str, report: ReadReport) -> npt.NDArray[np.float32] | None:
    try:
        points = as_points(np.array(text.split(";"), np.float32))
    except ValueError:
        points = None
    report.count("values_unknown", [f"landmarks {text[:20]}"] if points is None and text.strip() else [])
    return points


# ------------------------------------------------------------------------------------------------------ the numbers
FIRST_IMAGE = ("auto", "0", "1")


def add_first_image_argument(parser: argparse.ArgumentParser) -> None:
    """`--first_image`: where images are numbered from."""
    parser.add_argument(
        "--first_image",
        choices=FIRST_IMAGE,
        default="auto",
        help="the number of the image of label 1; auto: 0 where a folder has an image 0 and no label is 0, else 1",
    )


def count_from_1(
    images: pd.DataFrame, labels: pd.DataFrame, by: str, first_image: str, report: ReadReport
) -> pd.DataFrame:
    """The images with the `frame` that their label has: image 0 belongs to label 1, where images count from 0.

    Args:
        images: `frame`, the number in the image's name, and `by`, the person or video.
        labels: the same two columns; where its numbers begin with 0, both count alike.
        first_image: of `add_first_image_argument`.
    """
    if first_image == "auto":
        lowest = labels.groupby(by)["frame"].min().reindex(images[by]).to_numpy()
        from_0 = (images.groupby(by)["frame"].transform("min") == 0) & ~(lowest < 1)
    else:
        from_0 = pd.Series(first_image == "0", images.index)
    report.count("counted_from_0", images.loc[from_0, by].unique())
    report.settings["first_image"] = first_image
    return images.assign(frame=images["frame"] + from_0)


# ------------------------------------------------------------------------------------------------------- the result
def add_crop_argument(parser: argparse.ArgumentParser) -> None:
    """`--crop`: which of several versions of the images."""
    parser.add_argument(
        "--crop", metavar="FOLDER", help="take the images of this folder below ROOT, where ROOT holds several versions"
    )


BY_EDITION = "choose one by --edition, a part of its name"
"""What `find_one` advises where `add_edition_argument` was called."""


def add_edition_argument(parser: argparse.ArgumentParser) -> None:
    """`--edition`: which of several files of labels."""
    parser.add_argument(
        "--edition", metavar="TEXT", help="take the file of labels with this in its name, where there are several"
    )


def frame_table(
    labels: pd.DataFrame,
    report: ReadReport,
    images: pd.DataFrame | None = None,
    on: Sequence[str] = (),
    emotions: Sequence[str] = EMOTIONS,
) -> pa.Table:
    """Labels and images together as the frame table of `interface`; what does not fit is counted in the report.

    Args:
        labels: see the module; with a column `path` where `images` is None.
        images: `path` and the columns `on`.
        on: the columns that labels and images share.
        emotions: what the emotion's index means.
    Raises:
        ValueError: two folders hold an image for one row.
    """
    aus = [au.code for au in ACTION_UNITS.values() if au.code in labels]
    emotion = labels["emotion"] if "emotion" in labels else pd.Series(EMOTION_MISSING, labels.index, np.int8)
    labels = labels.assign(emotion=emotion, **labels[aus].fillna(AU_UNLABELLED).astype(np.int8))
    nothing = (labels["emotion"] == EMOTION_MISSING) & (labels[aus] == AU_UNLABELLED).all(axis=1)
    rows = report.drop(labels, nothing, "unlabelled", "video_id")
    if images is None:
        rows = report.drop(rows, rows.duplicated("path"), "labelled_twice", "path")
    else:
        rows = _attach_images(rows, images, list(on), report)
    rows = rows.sort_values(["video_id", "frame", "path"] if "frame" in rows else ["video_id", "path"])
    report.tally.add("kept", len(rows))
    aus = [name for name in aus if (rows[name] != AU_UNLABELLED).any()]
    table = _to_arrow(rows, aus)
    if len(table):
        report.settings["crop"] = os.path.commonpath(
            [os.path.dirname(pc.min(table["path"]).as_py()), os.path.dirname(pc.max(table["path"]).as_py())]
        )
    report.examples = _example_rows(table, aus, emotions)
    return with_emotions(table, emotions)


def _attach_images(rows: pd.DataFrame, images: pd.DataFrame, on: list[str], report: ReadReport) -> pd.DataFrame:
    """The rows that have an image, with its `path`; a second image of the same folder is counted, not taken."""
    rows = report.drop(rows, rows.duplicated(on), "labelled_twice", on)
    wanted = images.merge(rows[on], on=on)
    report.tally.add("images_without_row", len(images) - len(wanted))
    again = wanted[wanted.duplicated(on)].merge(wanted.drop_duplicates(on), on=on, suffixes=("", "_first"))
    folders = again[["path", "path_first"]].map(os.path.dirname)
    if (elsewhere := folders["path"] != folders["path_first"]).any():
        one, two = again.loc[elsewhere, ["path_first", "path"]].iloc[0]
        raise two_versions(f"{elsewhere.sum():,} labelled images", one, two)
    report.count("images_twice", again["path"])
    rows = rows.merge(wanted.drop_duplicates(on), on=on, how="left")
    return report.drop(rows, rows["path"].isna(), "missing_image", on)


def two_versions(what: str, one: str, two: str) -> ValueError:
    """The error where something is in two folders, and one of them has to be chosen."""
    return ValueError(
        f"{what} are in two folders, for example {one} and {two}; choose one of the folders with --crop."
    )


def _to_arrow(rows: pd.DataFrame, aus: Sequence[str]) -> pa.Table:
    size = len(rows)
    emotion = rows["emotion"].to_numpy(np.int8)
    split = rows["split"] if "split" in rows else [None] * size
    columns: dict[str, Any] = {
        "path": pa.array(rows["path"].astype(object), pa.string()),
        "video_id": pa.array(rows["video_id"].astype(object), pa.string()),
        "group_id": pa.array(rows["group_id"].astype(object), pa.string()),
        "frame": pa.array(rows["frame"].to_numpy(np.int32) if "frame" in rows else np.zeros(size, np.int32)),
        "emotion": pa.array(emotion, mask=emotion == EMOTION_MISSING),
        **{name: pa.array(rows[name].to_numpy(np.int8)) for name in aus},
        "split": pa.array(split, pa.string(), from_pandas=True),
    }
    if "landmarks" in rows:
        columns["landmarks"] = pa.array(rows["landmarks"], pa.list_(pa.float32(), 2 * NUM_LANDMARKS), from_pandas=True)
    return pa.table(columns)


def _example_rows(table: pa.Table, aus: Sequence[str], emotions: Sequence[str]) -> list[tuple[str, ...]]:
    """A few rows from the beginning, the middle and the end."""
    places = sorted({0, len(table) // 2, max(0, len(table) - 1)})
    rows = [row for place in places for row in table.slice(place, 1).to_pylist()]
    return [
        (
            row["path"],
            row["group_id"],
            str(row["frame"]),
            row["split"] or "-",
            "-" if row["emotion"] is None else emotions[row["emotion"]],
            " ".join(name for name in aus if row[name] == 1) or "-",
            " ".join(name for name in aus if row[name] == 0) or "-",
        )
        for row in rows
    ]
