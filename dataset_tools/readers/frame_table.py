"""Shared parts of the readers: listing a folder, parsing text tables, joining labels with images, and the report.

A reader brings its labels into a pandas table with one row per annotated image: `AU1` ... (1, 0; -1 or NaN =
unlabelled), `emotion` (an index, -1 = unlabelled), `valence` and `arousal` (-1 to 1, NaN = unlabelled), `video_id`,
`group_id`, `frame`, `split`. `build_frame_table` joins them with the images and returns the frame table.
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

from ...labels_mf2 import ACTION_UNITS, AFFECT, AU_UNLABELLED, EMOTIONS, NUM_LANDMARKS
from ...utils.markdown import markdown_table
from ...utils.suffixes import PICTURE_SUFFIXES
from ...utils.text_tables import find_delimiter
from ..stage_report import NUM_EXAMPLES, Tally
from .interface import set_emotion_names

EMOTION_MISSING = -1  # in a reader's pandas table; null in the frame table

COUNTED = {
    "rows": "annotation rows read",
    "malformed": "dropped: malformed rows",
    "labelled_twice": "dropped: further rows of an image (the first is used)",
    "unlabelled": "dropped: rows without any label",
    "missing_image": "dropped: rows whose image is missing",
    "no_part": "dropped: rows of people who are in no part of the folds",
    "kept": "kept rows",
    "emotions_unmapped": "emotions that map to none of the eight (unlabelled; --emotion_map)",
    "values_unknown": "invalid label values (unlabelled)",
    "rejected_files": "files rejected: invalid format",
    "images_without_row": "images without a row",
    "images_twice": "images with the same number as another in their folder (the first is used)",
    "images_ignored": "images in other places, which this reader does not read",
    "counted_from_0": "folders whose images are numbered from 0 and their labels from 1",
    "unsafe_paths": "names and links that lead out of their folder (refused)",
}
"""What every report counts. `rows` is the sum of the dropped ones (with the reader's `dropped_*`) and of `kept`."""


# ------------------------------------------------------------------------------------------------------- the report
class ReadReport:
    """Counts of read and dropped rows, three example rows, and the settings of the reader.

    Args:
        counted: additional counts, as for `Tally`.
        settings: options of the reader to record in every data set made from the result (threshold, fold, ...).
    """

    def __init__(self, counted: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.tally = Tally({**COUNTED, **(counted or {})})
        self.settings: dict[str, Any] = settings
        self.examples: list[tuple[str, ...]] = []

    def drop(
        self, rows: pd.DataFrame, is_dropped: pd.Series, name: str, example_columns: str | Sequence[str]
    ) -> pd.DataFrame:
        """Return the rows without the dropped ones, which are counted under `name`.

        Args:
            example_columns: the column or columns whose values are shown as examples of dropped rows.
        """
        columns = [example_columns] if isinstance(example_columns, str) else list(example_columns)
        first = rows.loc[is_dropped, columns].head(NUM_EXAMPLES).astype(str).itertuples(index=False)
        self.count(name, ["/".join(values) for values in first], int(is_dropped.sum()))
        return rows[~is_dropped]

    def count(self, name: str, examples: Iterable[object], amount: int | None = None) -> None:
        """Count under `name` each of `examples`, or `amount` things of which `examples` are the first."""
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
        header = ("path", "group", "frame", "split", "emotion", "active AUs", "not active", "valence, arousal")
        examples = markdown_table(header, self.examples) if self.examples else ""
        return f"{self.tally.to_markdown()}\n{examples}"


# ------------------------------------------------------------------------------------------------------- the folder
def safe_entries(folder: str | Path, root: Path, tally: Tally) -> Iterator["os.DirEntry[str]"]:
    """Yield the entries of a folder; links that lead out of `root` (a resolved path) are counted and skipped."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                tally.add("unsafe_paths", example=f"{Path(folder).name}/{entry.name}")
            else:
                yield entry


class Folder:
    """The files below the root of a data set, listed once; a reader only opens listed files.

    Links in the root itself, where users arrange folders, are followed. Links further down are followed if they lead
    to a file of the same top-level folder. A path in an annotation file that is not listed is never opened.
    """

    def __init__(self, root: Path, report: ReadReport) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder.")
        self.root, self._report = root, report
        self.paths = pa.array(sorted(tqdm(_walk(root, report.tally), desc=f"files in {root.name}", unit="file")))

    def find(self, pattern: str, description: str, crop: str | None = None) -> pd.DataFrame:
        """Find the files whose path ends with a match of `pattern`.

        Args:
            pattern: RE2 expression with named groups; case is ignored.
            description: the file in words, for the error message.
            crop: search only below the folder of this name.
        Returns:
            `path` and a column for each group, in the order of the paths.
        Raises:
            FileNotFoundError: there is none; the description and a summary of the folder are shown.
        """
        files = self.match(pattern, crop)
        if files.empty:
            where = "" if crop is None else f" in {crop}"
            raise FileNotFoundError(f"{self.root} holds no {description}{where}; it holds {self.summary()}.")
        return files

    def find_one(
        self, pattern: str, description: str, edition: str | None = None, remedy: str = "keep one of them"
    ) -> str:
        """Find the one file whose path ends with a match of `pattern` (without groups).

        Args:
            description: the file in words, for the error messages.
            edition: a part of its name, given by the option of `add_edition_argument`.
            remedy: what to do if there are several; `EDITION_REMEDY` for readers with that option.
        Raises:
            FileNotFoundError: as in `find`.
            ValueError: there are several.
        """
        paths = self.find(f"(?P<name>{pattern})", description)["path"].tolist()
        chosen = [path for path in paths if (edition or "").lower() in path.rpartition("/")[2].lower()]
        if not chosen:
            raise FileNotFoundError(
                f"No {description} has {edition!r} in its name: {', '.join(paths[:NUM_EXAMPLES])}."
            )
        if len(chosen) > 1:
            raise ValueError(
                f"{self.root} holds {description} more than once: {', '.join(chosen[:NUM_EXAMPLES])}; {remedy}."
            )
        self._report.settings["labels_file"] = chosen[0]
        return chosen[0]

    def match(self, pattern: str, crop: str | None = None) -> pd.DataFrame:
        """Like `find`, but an empty result is no error."""
        prefix = "" if crop is None else re.escape(crop.strip("/")) + "/"
        groups = pc.extract_regex(self.paths, f"(?i)^(?:.*/)?{prefix}(?:.*/)?{pattern}$")
        matched = pc.is_valid(groups)
        columns = {field.name: pc.struct_field(groups, field.name).filter(matched) for field in groups.type}
        return pd.DataFrame(
            {name: values.to_numpy(zero_copy_only=False) for name, values in columns.items()}
            | {"path": self.paths.filter(matched).to_numpy(zero_copy_only=False)}
        )

    def count_others(self, pattern: str, name: str, used: Iterable[str] = ()) -> None:
        """Count under `name` the files whose path ends with a match of `pattern`, except the `used` ones."""
        unnamed = re.sub(r"\?P<\w+>", "?:", pattern)
        paths = self.match(f"(?P<name>{unnamed})")["path"]
        self._report.count(name, paths[~paths.isin(list(used))])

    def images(self, pattern: str, description: str, crop: str | None = None) -> pd.DataFrame:
        """Find images as `find` does; `pattern` omits the suffix, and a group `frame` becomes an integer column."""
        suffixes = "|".join(suffix[1:] for suffix in sorted(PICTURE_SUFFIXES))
        images = self.find(rf"{pattern}\.(?:{suffixes})", f"image {description}", crop)
        self._count_ignored(rf"(?i)\.(?:{suffixes})$", images["path"])
        return images.astype({"frame": int}) if "frame" in images else images

    def _count_ignored(self, suffix: str, used: pd.Series) -> None:
        """Count the images that are not among the used ones; the examples are their folders."""
        paths = self.paths.filter(pc.match_substring_regex(self.paths, suffix))
        ignored = paths.filter(pc.invert(pc.is_in(paths, pa.array(used, pa.string()))))
        folders = dict.fromkeys(os.path.dirname(path) or "." for path in ignored.to_pylist())
        self._report.tally.counts["images_ignored"] += len(ignored)
        for folder in list(folders)[:NUM_EXAMPLES]:
            self._report.tally.add_example("images_ignored", folder)

    def read(self, path: str) -> bytes:
        """Read the bytes of a listed file."""
        return (self.root / path).read_bytes()

    def summary(self) -> str:
        """The number of files, the first folders, and two paths, for an error message."""
        paths = self.paths.to_pylist()
        if not paths:
            return "no file"
        tops = sorted({path.partition("/")[0] + ("/" if "/" in path else "") for path in paths})
        shown = ", ".join(tops[:NUM_EXAMPLES]) + (", ..." if len(tops) > NUM_EXAMPLES else "")
        return f"{len(paths):,} files in {shown} (for example {paths[0]} and {paths[-1]})"


def _walk(root: Path, tally: Tally) -> Iterator[str]:
    """Yield the paths of the files below `root`, relative to it, without hidden ones."""
    with os.scandir(root) as found:
        pending = [
            (f"{entry.name}/", Path(entry.path)) for entry in found if entry.is_dir() and _is_visible(entry.name)
        ]
    tops = {prefix: folder.resolve() for prefix, folder in pending}
    pending.append(("", root))
    while pending:
        prefix, folder = pending.pop()
        top = tops[prefix[: prefix.index("/") + 1]] if prefix else root.resolve()
        for entry in safe_entries(folder, top, tally):
            if not _is_visible(entry.name):
                continue
            if entry.is_file():
                yield prefix + entry.name
            elif prefix and entry.is_dir(follow_symlinks=False):
                pending.append((f"{prefix}{entry.name}/", Path(entry.path)))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.encode("utf-8", "ignore").decode() == name


# --------------------------------------------------------------------------------------------------- tables of text
_INTEGER = re.compile(rb"\s*(-?0*\d{1,9})\s*")


def malformed_marker(dtype: npt.DTypeLike) -> int:
    """The value with which `parse_ints` fills a row that it could not parse."""
    return int(np.iinfo(dtype).min)


def parse_ints(body: bytes, width: int, dtype: npt.DTypeLike = np.int8) -> npt.NDArray[Any]:
    """Parse lines of comma-separated integers -> (rows, width); any other line becomes a row of `malformed_marker`.

    Every line gives a row, even an empty one, because the number of a row may be the number of its frame.
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
    table = np.full((len(lines), width), malformed_marker(dtype), dtype)
    for row, line in zip(table, lines, strict=True):
        fields = [_INTEGER.fullmatch(text) for text in line.split(b",")]
        values = [int(text[1]) for text in fields if text]
        if len(fields) == len(values) == width and all(bounds.min < value <= bounds.max for value in values):
            row[:] = values
    return table


def parse_affect(body: bytes, unlabelled: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Lines `valence,arousal` -> (rows, 2) from -1 to 1, NaN unlabelled, and which rows (rows,) are anything else.

    Lines keep their place, empty ones too; a row that is not understood is unlabelled in both.

    Args:
        unlabelled: the number that stands for it in the file.
    """
    body = body.rstrip()
    try:
        cells = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(column_names=AFFECT, use_threads=False),
            parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(AFFECT, pa.float64()), null_values=[]),
        )
        table = np.column_stack([column.to_numpy() for column in cells.columns])
    except pa.ArrowInvalid:
        table = np.array([_two_numbers(line) for line in body.splitlines()], np.float64).reshape(-1, len(AFFECT))
    is_code = table == unlabelled
    malformed = ~(is_code | (np.abs(table) <= 1)).all(axis=1)
    table[is_code | malformed[:, None]] = np.nan
    return table.astype(np.float32), malformed


def _two_numbers(line: bytes) -> list[float]:
    """The numbers of a line `0.5,-0.25`; NaN where it is anything else."""
    try:
        numbers = [float(text) for text in line.split(b",")]
    except ValueError:
        numbers = []
    return numbers if len(numbers) == len(AFFECT) else [np.nan] * len(AFFECT)


def read_text_lines(data: bytes, pattern: str, report: ReadReport) -> pd.DataFrame:
    """Parse the lines that fully match `pattern`; each of its named groups is a column.

    Other lines, except empty ones, are counted as malformed. The pattern is case-sensitive.
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
    optional: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a CSV file as text cells; rows whose width differs from the header are counted as malformed.

    The delimiter may be a comma, a semicolon or a tab; with semicolons, numbers may have a decimal comma.

    Args:
        columns: read only these; None reads all.
        names_without_header: the column names of a file without a header, which is recognised by a first line that has
            as many cells and names none of `columns`.
        optional: further columns to read if the file has them.
    Raises:
        ValueError: a column is missing or occurs twice, or the file cannot be parsed; the file is named.
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
    selected = list(names if columns is None else [*columns, *(name for name in optional if name in names)])
    if invalid := [name for name in selected if names.count(name) != 1]:
        raise ValueError(f"{path} must have exactly once {', '.join(invalid)}; its header is {', '.join(names)}.")
    malformed: list[str] = []

    def skip(row: pacsv.InvalidRow) -> str:
        malformed.append(row.text)
        return "skip"

    try:
        table = pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=int(has_header)),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[], include_columns=selected
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as a table: {error}.") from None
    report.count("malformed", malformed)
    report.tally.add("rows", len(malformed) + len(table))
    cells = table.to_pandas()
    return cells.replace(_DECIMAL_COMMA, r"\1.\2", regex=True) if delimiter == ";" else cells


# ----------------------------------------------------------------------------------------------------------- labels
def parse_occurrence(values: pd.Series, report: ReadReport, unlabelled: Sequence[int] = ()) -> npt.NDArray[np.int8]:
    """Texts or numbers -> AU labels: 0 and 1 stay; codes in `unlabelled`, empty cells and invalid values become -1."""
    numbers = pd.to_numeric(values, errors="coerce")
    is_label = numbers.isin([0, 1])
    is_empty = numbers.isin([AU_UNLABELLED, *unlabelled]) | (values.astype(str).str.strip() == "") | values.isna()
    report.count("values_unknown", values[~is_label & ~is_empty])
    return np.where(is_label, numbers.fillna(AU_UNLABELLED), AU_UNLABELLED).astype(np.int8)


def parse_affect_column(values: pd.Series, report: ReadReport, unlabelled: float) -> npt.NDArray[np.float32]:
    """Text -> valence or arousal from -1 to 1; the code `unlabelled`, empty cells and, counted, all else are NaN."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    known = numbers.abs() <= 1
    unscored = (numbers == unlabelled) | (values.astype(str).str.strip() == "") | values.isna()
    report.count("values_unknown", [f"{values.name} {value}" for value in values[~known & ~unscored]])
    return numbers.where(known).to_numpy(np.float32)


def binarize_intensities(intensities: npt.NDArray[Any], threshold: float, highest: float) -> npt.NDArray[np.int8]:
    """Intensities -> AU labels: 1 from `threshold` on, else 0; -1 outside 0..`highest`."""
    labels = (intensities >= threshold).astype(np.int8)
    labels[~((intensities >= 0) & (intensities <= highest))] = AU_UNLABELLED
    return labels


def parse_au_lists(texts: pd.Series, separator: str = "+") -> tuple[pd.DataFrame, pd.Series]:
    """Parse lists of active AUs, such as `1+4+L12`, into a column of 1 and 0 for each AU of `ACTION_UNITS`.

    Left (L) and right (R) codes count for the AU as a whole.

    Returns:
        The columns, and a mask of the valid rows. Invalid rows, `null` and `?` among them, are -1: an AU that such a
        row leaves open must not become "not active".
    """
    pattern = rf"\s*[LRlr]?[0-9]{{1,2}}\s*(?:{re.escape(separator)}\s*[LRlr]?[0-9]{{1,2}}\s*)*"
    texts = texts.astype(str)
    is_valid = texts.str.fullmatch(pattern).astype(bool)
    active = [{int(number) for number in re.findall(r"\d+", text)} for text in texts[is_valid]]
    labels = np.full((len(texts), len(ACTION_UNITS)), AU_UNLABELLED, np.int8)
    rows = [[au_id in row_active for au_id in ACTION_UNITS] for row_active in active]
    labels[is_valid.to_numpy()] = np.array(rows, np.int8).reshape(-1, len(ACTION_UNITS))
    columns = [au.code for au in ACTION_UNITS.values()]
    return pd.DataFrame(labels, columns=columns, index=texts.index), is_valid


def to_points(values: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    """Numbers x0, y0, x1, y1, … in any shape -> (136,); None unless they are 68 finite points."""
    points = np.asarray(values, np.float32).reshape(-1)
    return points if points.size == 2 * NUM_LANDMARKS and np.isfinite(points).all() else None


def parse_landmarks(values: pd.Series, report: ReadReport) -> list[npt.NDArray[np.float32] | None]:
    """Texts `x0;y0;x1;y1;...` -> (136,) arrays; None for an empty text, and None, counted, for an invalid one."""
    return [_parse_points(text, report) for text in values]


def _parse_points(text: str, report: ReadReport) -> npt.NDArray[np.float32] | None:
    try:
        points = to_points(np.array(text.split(";"), np.float32))
    except ValueError:
        points = None
    report.count("values_unknown", [f"landmarks {text[:20]}"] if points is None and text.strip() else [])
    return points


# ------------------------------------------------------------------------------------------------------ the numbers
FIRST_IMAGE = ("auto", "0", "1")


def add_first_image_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--first_image`: the number of the first image."""
    parser.add_argument(
        "--first_image",
        choices=FIRST_IMAGE,
        default="auto",
        help="the number of the image of label 1; auto: 0 where a folder has an image 0 and no label is 0, else 1",
    )


def align_frame_numbers(
    images: pd.DataFrame, labels: pd.DataFrame, by: str, first_image: str, report: ReadReport
) -> pd.DataFrame:
    """Renumber images that count from 0 to match labels that count from 1: `frame` becomes that of the label.

    Args:
        images: `frame`, the number in the image's name, and `by`, the person or video.
        labels: the same two columns; labels numbered from 0 need no renumbering.
        by: name of the column of persons or videos.
        first_image: value of `--first_image`.
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
    """Add `--crop`: which of several versions of the images to read."""
    parser.add_argument(
        "--crop", metavar="FOLDER", help="take the images of this folder below ROOT, where ROOT holds several versions"
    )


EDITION_REMEDY = "choose one by --edition, a part of its name"
"""The remedy in the error of `Folder.find_one` for readers with `add_edition_argument`."""


def add_edition_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--edition`: which of several label files to read."""
    parser.add_argument(
        "--edition", metavar="TEXT", help="take the file of labels with this in its name, where there are several"
    )


def build_frame_table(
    labels: pd.DataFrame,
    report: ReadReport,
    images: pd.DataFrame | None = None,
    on: Sequence[str] = (),
    emotions: Sequence[str] = EMOTIONS,
) -> pa.Table:
    """Join labels and images to the frame table of `interface`; dropped rows are counted in the report.

    Args:
        labels: see the module docstring; with a column `path` if `images` is None.
        report: gets the counts, the setting `crop` and the example rows.
        images: `path` and the columns `on`.
        on: the columns to join on.
        emotions: the list that the emotion indices refer to.
    Raises:
        ValueError: two folders hold an image of one row.
    """
    aus = [au.code for au in ACTION_UNITS.values() if au.code in labels]
    emotion = labels["emotion"] if "emotion" in labels else pd.Series(EMOTION_MISSING, labels.index, np.int8)
    labels = labels.assign(emotion=emotion, **labels[aus].fillna(AU_UNLABELLED).astype(np.int8))
    affect = [name for name in AFFECT if name in labels]
    is_unlabelled = (labels["emotion"] == EMOTION_MISSING) & (labels[aus] == AU_UNLABELLED).all(axis=1)
    is_unlabelled &= labels[affect].isna().all(axis=1)
    rows = report.drop(labels, is_unlabelled, "unlabelled", "video_id")
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
    return set_emotion_names(table, emotions)


def _attach_images(rows: pd.DataFrame, images: pd.DataFrame, on: list[str], report: ReadReport) -> pd.DataFrame:
    """Keep the rows that have an image and add its `path`; a duplicate image in the same folder is only counted."""
    rows = report.drop(rows, rows.duplicated(on), "labelled_twice", on)
    labelled = images.merge(rows[on], on=on)
    report.tally.add("images_without_row", len(images) - len(labelled))
    first_images = labelled.drop_duplicates(on)
    duplicates = labelled[labelled.duplicated(on)].merge(first_images, on=on, suffixes=("", "_first"))
    folders = duplicates[["path", "path_first"]].map(os.path.dirname)
    if (is_ambiguous := folders["path"] != folders["path_first"]).any():
        first, second = duplicates.loc[is_ambiguous, ["path_first", "path"]].iloc[0]
        raise ambiguous_folders_error(f"{is_ambiguous.sum():,} labelled images", first, second)
    report.count("images_twice", duplicates["path"])
    rows = rows.merge(first_images, on=on, how="left")
    return report.drop(rows, rows["path"].isna(), "missing_image", on)


def ambiguous_folders_error(what: str, first: str, second: str) -> ValueError:
    """The error for images (`what`) that lie in two folders, of which one has to be chosen."""
    return ValueError(
        f"{what} are in two folders, for example {first} and {second}; choose one of the folders with --crop."
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
        **_affect_columns(rows),
        "split": pa.array(split, pa.string(), from_pandas=True),
    }
    if "landmarks" in rows:
        columns["landmarks"] = pa.array(rows["landmarks"], pa.list_(pa.float32(), 2 * NUM_LANDMARKS), from_pandas=True)
    return pa.table(columns)


def _affect_columns(rows: pd.DataFrame) -> dict[str, pa.Array]:
    """Valence and arousal of rows that have either; NaN, and no null, where it is unlabelled."""
    if rows[[name for name in AFFECT if name in rows]].notna().to_numpy().any():
        return {name: pa.array(np.array(rows.get(name, [np.nan] * len(rows)), np.float32)) for name in AFFECT}
    return {}


def _example_rows(table: pa.Table, aus: Sequence[str], emotions: Sequence[str]) -> list[tuple[str, ...]]:
    """The first, the middle and the last row, as texts."""
    positions = sorted({0, len(table) // 2, max(0, len(table) - 1)})
    rows = [row for position in positions for row in table.slice(position, 1).to_pylist()]
    return [
        (
            row["path"],
            row["group_id"],
            str(row["frame"]),
            row["split"] or "-",
            "-" if row["emotion"] is None else emotions[row["emotion"]],
            " ".join(name for name in aus if row[name] == 1) or "-",
            " ".join(name for name in aus if row[name] == 0) or "-",
            " ".join(f"{row[name]:.2f}" for name in AFFECT if name in row) or "-",
        )
        for row in rows
    ]
