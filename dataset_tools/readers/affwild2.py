"""Reads the annotations of Aff-Wild2 in the layouts of the ABAW competitions (2020 to the 6th edition).

    <root>/[<folder>/]AU_Detection_Challenge/{Train_Set,Validation_Set}/<video>.txt   12 labels per frame: 1, 0, -1
    <root>/[<folder>/]EXPR_*_Challenge/{Train_Set,Validation_Set}/<video>.txt         1 label per frame: 0..7, -1
    <root>/[<folder>/]VA_*_Challenge/{Train_Set,Validation_Set}/<video>.txt           valence,arousal a frame, -5
    <root>/[<folder>/]MTL_Challenge/{train_set,validation_set}.txt                    video/00001.jpg,v,a,expr,aus
    <root>/[<folder>/]{training,validation}_set_annotations.txt                       the same
    <root>/cropped_aligned*/<video>/00001.jpg                                         face crops

Data row k (from 0, below the header) is frame k + 1; its crop has the number k + 1, or k in a folder with an image 0.
Multi-task lines name their crop. A video of two people is annotated as two videos, `<v>_left` and `<v>_right` (or
`<v>` and one of them). Together they are one *group*, all of which belongs to the same split.
"""

import argparse
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ...labels_mf2 import AFFECT, AU_IDS, AU_UNLABELLED, EMOTIONS
from ...utils.markdown import markdown_table
from ..stage_report import Tally
from .conventions import restricted_license
from .frame_table import add_first_image_argument, parse_affect, parse_ints, safe_entries
from .interface import About

ABOUT = About(
    name="Aff-Wild2",
    license=restricted_license("aff-wild2-agreement", "https://ibug.doc.ic.ac.uk/resources/aff-wild2/"),
    citation="Kollias and Zafeiriou, Expression, Affect, Action Unit Recognition: Aff-Wild2, Multi-Task Learning and "
    "ArcFace, BMVC 2019",
    au_ids=AU_IDS,
    active="as coded",
    emotions=EMOTIONS,
    affect=True,
    splits="official train and validation, by base video",
)
UNLABELLED_MODES = ("drop", "mask")
LAYOUTS = ("auto", "unitask", "mtl")

_TASK_FOLDERS = {
    "expr": ("expr_*_challenge", "expr_set"),
    "au": ("au_*_challenge", "au_set"),
    "va": ("va_*_challenge", "va_set"),
    "mtl": ("mtl_challenge",),
}
_SPLIT_NAMES = {"train": "train*_set", "validation": "validation_set"}
_MTL_SPLIT_NAMES = {"train": "train*_set*.txt", "validation": "validation_set*.txt"}
_MTL_FILES = re.compile(r"(training|train|validation)_set_annotations?\.txt", re.IGNORECASE)
_MTL_HEADER = ("image", "valence", "arousal", "expression", "aus")
_CROP_FOLDERS = "cropped_aligned*"
_CROP_NAME = re.compile(r"(\d{5}|[1-9]\d{5,8})\.jpg", re.ASCII)  # %05d.jpg
_MTL_IMAGE = re.compile(r"([^/\\.][^/\\]*)/(\d{5}|[1-9]\d{5,8})\.jpg", re.ASCII)
_PERSON_SUFFIX = re.compile(r"_(left|right)$")
_UNLABELLED = AU_UNLABELLED  # on disk, of emotions and AUs
_VA_UNLABELLED = -5.0  # on disk, of valence and arousal

COUNTED = {
    "expr_files": "expression files (MTL: videos)",
    "au_files": "AU files (MTL: videos)",
    "va_files": "valence-arousal files (MTL: videos)",
    "videos": "annotated videos",
    "groups": "base videos (groups)",
    "two_person_groups": "base videos with two people",
    "groups_both_tasks": "base videos with both tasks",
    "split_disagreements": "base videos whose tasks or people are in different official splits (taken as train)",
    "length_disagreements": "videos whose tasks differ in their number of rows",
    "expr_rows": "expression rows",
    "expr_unlabelled": "expression rows of -1",
    "expr_malformed": "malformed expression rows (unlabelled)",
    "au_rows": "AU rows",
    "au_unlabelled": "AU rows of -1 only",
    "au_partly_unlabelled": "AU rows with some -1",
    "au_malformed": "malformed AU rows (unlabelled)",
    "va_rows": "valence-arousal rows",
    "va_unlabelled": "valence-arousal rows of -5",
    "va_malformed": "malformed valence-arousal rows (unlabelled)",
    "frames": "annotated frames",
    "dropped_no_folder": "dropped: the video has no folder of crops",
    "dropped_after_last_crop": "dropped: rows after the last crop",
    "dropped_missing_crop": "dropped: crop missing mid-sequence",
    "dropped_unlabelled": "dropped: unlabelled (drop: no emotion or any AU of -1; mask: nothing labelled)",
    "kept": "kept frames",
    "kept_affect": "kept frames with valence and arousal",
    "kept_both_tasks": "kept frames with an emotion and at least one AU",
    "folders_missing": "videos without a folder of crops",
    "crops_without_row": "crops without a row",
    "folders_without_annotation": "folders of crops without an annotation",
    "crops_twice": "crops in two folders (the first is used)",
    "counted_from_0": "folders whose crops are numbered from 0 (crop 0 is frame 1)",
    "layouts_ignored": "folders of annotations in the other layout (ignored; --layout)",
    "annotations_twice": "duplicate annotations (the first is used)",
    "aus_not_used": "AU columns that are none of the twelve",
    "rejected_files": "files rejected: invalid header",
    "rejected_lines": "MTL lines rejected: no usable image name",
    "unsafe_paths": "names and links that lead out of their folder (refused)",
    "stray_files": "stray files and folders (ignored)",
}
"""What an `IndexReport` counts, in the order of its table. `frames` is the sum of the `dropped_*` and `kept`."""


@dataclass
class IndexReport:
    """Counts of what was found, read and dropped.

    `length_differences[task][d]` is the number of videos with d more rows than the number of their last crop;
    `official_splits[task][split]` lists the videos of ABAW's split, which differs between the tasks.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    tally: Tally = field(default_factory=lambda: Tally(COUNTED))
    length_differences: dict[str, Counter[int]] = field(default_factory=lambda: {"expr": Counter(), "au": Counter()})
    official_splits: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        differences = {task: {str(d): n for d, n in sorted(c.items())} for task, c in self.length_differences.items()}
        return {
            **self.tally.to_dict(),
            "length_differences": differences,
            "settings": self.settings,
            "official_splits": self.official_splits,
        }

    def to_markdown(self) -> str:
        """The tables that the command prints."""
        rows = [
            (task, f"{difference:+d}", number)
            for task, counter in self.length_differences.items()
            for difference, number in sorted(counter.items())
        ]
        lengths = markdown_table(("task", "rows - last crop", "videos"), rows) if rows else ""
        return f"{self.tally.to_markdown()}\n{lengths}"


@dataclass
class _Annotation:
    """The labels of one task of one video, in the order of `frames` (n,), ascending.

    `labels` are (n, 1) emotions or (n, 12) AUs, -1 unlabelled, or (n, 2) valence and arousal, NaN unlabelled.
    """

    split: str
    frames: npt.NDArray[np.int32]
    labels: npt.NDArray[Any]


_Annotations = dict[str, dict[str, _Annotation]]  # task -> video -> annotation


# ------------------------------------------------------------------------------------------------------ the folders
@dataclass(frozen=True)
class Layout:
    """The folders of a data set.

    Args:
        tasks: task (`expr`, `au`, `va`, `mtl`) -> its folder.
        crop_dirs: the folders of crops.
        ignored: the tasks' folders that belong to the other layout.
    """

    tasks: dict[str, Path]
    crop_dirs: tuple[Path, ...]
    ignored: tuple[Path, ...] = ()


def find_layout(root: str | Path, layout: str = "auto") -> Layout:
    """Find the tasks' folders and the crops below `root`.

    Args:
        root: holds `cropped_aligned*` and the tasks' folders, or a folder that holds the latter.
        layout: `unitask` (EXPR, AU and VA folders), `mtl`, or `auto`: `unitask` if there is one of these folders.
    Raises:
        FileNotFoundError: `root`, the annotations or the crops are missing; the existing folders are shown.
        ValueError: an unknown layout, or two candidates for one task.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}.")
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder.")
    subfolders = _subfolders(root)
    crop_dirs = tuple(path for path in subfolders if fnmatch(path.name, _CROP_FOLDERS))
    candidates = [
        *subfolders,
        *(path for folder in subfolders if folder not in crop_dirs for path in _subfolders(folder)),
    ]
    found = {task: _match_task(task, candidates) for task in _TASK_FOLDERS}
    found["mtl"] = found["mtl"] or _folder_of_mtl_files([root, *candidates], crop_dirs)
    unitask = {task: found[task] for task in ("expr", "au", "va") if found[task]}
    tasks = unitask if layout == "unitask" or (layout == "auto" and unitask) else {"mtl": found["mtl"]}
    ignored = tuple(path for task, path in found.items() if path and path not in tasks.values())
    for pattern, is_present in (
        (
            "EXPR_*_Challenge, AU_*_Challenge, VA_*_Challenge or MTL_Challenge, or *_set_annotations.txt",
            any(tasks.values()),
        ),
        (_CROP_FOLDERS, crop_dirs),
    ):
        if not is_present:
            names = ", ".join(path.name for path in subfolders) or "no folder"
            raise FileNotFoundError(f"{root} has no folder {pattern} (layout {layout}); it has {names}.")
    return Layout({task: path for task, path in tasks.items() if path}, crop_dirs, ignored)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _match_task(task: str, candidates: Sequence[Path]) -> Path | None:
    """Find the one candidate whose name is that of the task's folder in some edition."""
    patterns = _TASK_FOLDERS[task]
    matches = [path for path in candidates if any(fnmatch(path.name.lower(), pattern) for pattern in patterns)]
    if len(matches) > 1:
        found = ", ".join(map(str, matches))
        raise ValueError(f"More than one folder could be the {task.upper()} task: {found}; keep one edition per root.")
    return matches[0] if matches else None


def _folder_of_mtl_files(candidates: Sequence[Path], crop_dirs: Sequence[Path]) -> Path | None:
    """Find the one folder, of any name, with files such as `training_set_annotations.txt`."""
    folders = [path for path in candidates if path not in crop_dirs]
    matches = [path for path in folders if any(_MTL_FILES.fullmatch(entry.name) for entry in path.iterdir())]
    if len(matches) > 1:
        raise ValueError(f"{', '.join(map(str, matches))} hold multi-task annotations; keep one edition per root.")
    return matches[0] if matches else None


# -------------------------------------------------------------------------------------------------- the label files
def _mask_out_of_range(labels: npt.NDArray[np.int8], highest: int) -> int:
    """Make rows with a label outside -1..highest unlabelled, in place; returns the number of such rows."""
    malformed = ((labels < _UNLABELLED) | (labels > highest)).any(axis=1)
    labels[malformed] = _UNLABELLED
    return int(malformed.sum())


def _read_header(data: bytes) -> tuple[list[str], bytes]:
    """Split a file into the names in its first line and the bytes below it."""
    header, _, body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n")
    names = header.decode("utf-8-sig", "replace").split(",")
    return [name.strip() for name in names if name.strip()], body


def _read_expressions(names: list[str], body: bytes, tally: Tally) -> npt.NDArray[np.int8] | None:
    """Read (rows, 1) indices into `EMOTIONS`; labels in the file index its header. None if a name is unknown."""
    known = {name.lower(): index for index, name in enumerate(EMOTIONS)}
    if not names or any(name.lower() not in known for name in names):
        return None
    labels = parse_ints(body, 1)
    tally.add("expr_malformed", _mask_out_of_range(labels, len(names) - 1))
    to_emotion = np.array([*(known[name.lower()] for name in names), _UNLABELLED], np.int8)  # [-1] is unlabelled
    return to_emotion[labels]


def _read_aus(names: list[str], body: bytes, tally: Tally) -> npt.NDArray[np.int8] | None:
    """Read (rows, 12) labels in the order of `AU_IDS`, -1 for an AU without a column. None if it is no AU header."""
    if not names or not all(re.fullmatch(r"AU\d{1,2}", name) for name in names) or len(set(names)) != len(names):
        return None
    labels = parse_ints(body, len(names))
    tally.add("au_malformed", _mask_out_of_range(labels, 1))
    ordered = np.full((len(labels), len(AU_IDS)), _UNLABELLED, np.int8)
    columns = {f"AU{au_id}": column for column, au_id in enumerate(AU_IDS)}
    for name, values in zip(names, labels.T, strict=True):
        if name in columns:
            ordered[:, columns[name]] = values
        else:
            tally.add("aus_not_used", example=name)
    return ordered


def _read_affect(names: list[str], body: bytes, tally: Tally) -> npt.NDArray[np.float32] | None:
    """(rows, 2) valence and arousal, NaN unlabelled. None: the header is not theirs."""
    if tuple(name.lower() for name in names) != AFFECT:
        return None
    labels, malformed = parse_affect(body, _VA_UNLABELLED)
    tally.add("va_malformed", int(malformed.sum()))
    return labels


def _read_unitask(task: str, folder: Path, tally: Tally) -> dict[str, _Annotation]:
    """Read all videos in the folder of one task: video -> annotation."""
    read = {"expr": _read_expressions, "au": _read_aus, "va": _read_affect}[task]
    root = folder.resolve()
    annotations: dict[str, _Annotation] = {}
    for split, path in _split_entries(folder, root, tally):
        for entry in sorted(safe_entries(path, root, tally), key=lambda entry: entry.name):
            video, extension = os.path.splitext(entry.name)
            example = f"{folder.name}/{path.name}/{entry.name}"
            if extension != ".txt" or video.startswith(".") or not entry.is_file():
                tally.add("stray_files", example=example)
            elif video in annotations:
                tally.add("annotations_twice", example=example)
            elif (labels := read(*_read_header(Path(entry.path).read_bytes()), tally)) is None:
                tally.add("rejected_files", example=example)
            else:
                frames = np.arange(1, len(labels) + 1, dtype=np.int32)
                annotations[video] = _Annotation(split, frames, labels)
    return annotations


def _split_entries(
    folder: Path, root: Path, tally: Tally, names: Mapping[str, str] = _SPLIT_NAMES, has_files: bool = False
) -> list[tuple[str, Path]]:
    """List (split, path) of the folders (or files, with `has_files`) whose names match an official split.

    `train` comes first; all other entries are counted as stray.
    """
    matches = []
    for entry in safe_entries(folder, root, tally):
        name = entry.name.lower()
        splits = [split for split, pattern in names.items() if fnmatch(name, pattern)]
        if splits and (entry.is_file() if has_files else entry.is_dir()):
            matches.append((splits[0], Path(entry.path)))
        elif not (has_files and entry.is_dir()):
            tally.add("stray_files", example=f"{folder.name}/{entry.name}")
    return sorted(matches)


def _read_mtl(folder: Path, tally: Tally) -> _Annotations:
    """Read the three tasks from the multi-task layout."""
    annotations: _Annotations = {"expr": {}, "au": {}, "va": {}}
    for split, path in _split_entries(folder, folder.resolve(), tally, _MTL_SPLIT_NAMES, True):
        names, body = _read_header(path.read_bytes())
        if tuple(names) != _MTL_HEADER:
            tally.add("rejected_files", example=f"{folder.name}/{path.name}")
            continue
        images, labels, affect = _read_mtl_lines(body, tally)
        emotions, aus = labels[:, :1].copy(), labels[:, 1:].copy()
        tally.add("expr_malformed", _mask_out_of_range(emotions, len(EMOTIONS) - 1))
        tally.add("au_malformed", _mask_out_of_range(aus, 1))
        for video, pairs in _group_by_video(images).items():
            if video in annotations["expr"]:
                tally.add("annotations_twice", len(pairs), example=video)
                continue
            frames, first = np.unique(pairs[:, 0], return_index=True)
            tally.add("annotations_twice", len(pairs) - len(frames), example=video)
            rows = pairs[first, 1]
            annotations["expr"][video] = _Annotation(split, frames, emotions[rows])
            annotations["au"][video] = _Annotation(split, frames, aus[rows])
            annotations["va"][video] = _Annotation(split, frames, affect[rows])
    return annotations


def _read_mtl_lines(
    body: bytes, tally: Tally
) -> tuple[list[tuple[str, int]], npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Parse lines `video/00001.jpg,valence,arousal,expression,au x 12` into (video, frame), (lines, 13) labels and
    (lines, 2) valence and arousal."""
    images, labels, affect = [], [], []
    for line in body.decode("utf-8", "replace").split("\n"):
        image, _, values = line.partition(",")
        if match := _MTL_IMAGE.fullmatch(image.strip()):
            images.append((match[1], int(match[2])))
            valence, _, values = values.partition(",")
            arousal, _, values = values.partition(",")
            affect.append(f"{valence},{arousal}")
            labels.append(values.strip() or "?")  # "?" becomes a malformed row
        elif line.strip():
            leads_out = image.startswith("/") or "\\" in image or ".." in image.split("/")
            tally.add("unsafe_paths" if leads_out else "rejected_lines", example=image)
    of_affect, malformed = parse_affect("\n".join(affect).encode(), _VA_UNLABELLED)
    tally.add("va_malformed", int(malformed.sum()))
    return images, parse_ints("\n".join(labels).encode(), 1 + len(AU_IDS)), of_affect


def _group_by_video(images: Sequence[tuple[str, int]]) -> dict[str, npt.NDArray[np.int32]]:
    """Video -> (n, 2) int32: the frame of each of its lines, and the position of the line in `images`."""
    pairs: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for position, (video, frame) in enumerate(images):
        pairs[video].append((frame, position))
    return {video: np.array(video_pairs, np.int32) for video, video_pairs in pairs.items()}


# -------------------------------------------------------------------------------------------------------- the crops
@dataclass
class _Crops:
    """The crops of one video.

    Args:
        frames: (n,) frame numbers, ascending.
        numbers: (n,) the numbers in the file names.
        folder_idx: (n,) index of each crop's folder in `crop_dirs`.
    """

    frames: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int32]
    folder_idx: npt.NDArray[np.int8]


def _list_crops(crop_dirs: Sequence[Path], videos: Iterable[str], tally: Tally, first_image: str) -> dict[str, _Crops]:
    """List the crops of all annotated videos by their file names: video -> crops.

    Args:
        first_image: the number of the crop of frame 1; `auto`: 0 in a folder that has an image 0, else 1.
    """
    annotated = set(videos)
    crops_by_video: dict[str, _Crops] = {}
    for folder_idx, crop_dir in enumerate(crop_dirs):
        root = crop_dir.resolve()
        for entry in tqdm(safe_entries(crop_dir, root, tally), desc=f"crops in {crop_dir.name}", unit="video"):
            if not entry.is_dir():
                tally.add("stray_files", example=f"{crop_dir.name}/{entry.name}")
            elif entry.name not in annotated:
                tally.add("folders_without_annotation", example=f"{crop_dir.name}/{entry.name}")
            else:
                numbers = _list_crop_numbers(entry.path, root, tally)
                from_0 = numbers[:1].tolist() == [0] if first_image == "auto" else first_image == "0"
                tally.add("counted_from_0", from_0, example=f"{crop_dir.name}/{entry.name}")
                crops = _Crops(numbers + np.int32(from_0), numbers, np.full(len(numbers), folder_idx, np.int8))
                if entry.name in crops_by_video:
                    crops = _merge_crops(crops_by_video[entry.name], crops, tally)
                crops_by_video[entry.name] = crops
    return crops_by_video


def _list_crop_numbers(folder: str, root: Path, tally: Tally) -> npt.NDArray[np.int32]:
    numbers = []
    for entry in safe_entries(folder, root, tally):
        if (match := _CROP_NAME.fullmatch(entry.name)) and entry.is_file():
            numbers.append(int(match[1]))
        else:
            tally.add("stray_files", example=f"{Path(folder).name}/{entry.name}")
    return np.sort(np.array(numbers, np.int32))


def _merge_crops(first: _Crops, second: _Crops, tally: Tally) -> _Crops:
    all_frames = np.concatenate([first.frames, second.frames])
    frames, positions = np.unique(all_frames, return_index=True)
    tally.add("crops_twice", len(all_frames) - len(frames))
    numbers = np.concatenate([first.numbers, second.numbers])[positions]
    return _Crops(frames, numbers, np.concatenate([first.folder_idx, second.folder_idx])[positions])


# -------------------------------------------------------------------------------------------------------- the index
@dataclass
class _Frames:
    """The kept frames of one video: crops as in `_Crops`, `emotion` (n,), `aus` (n, 12) and `affect` (n, 2) labels."""

    video: str
    frames: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int32]
    folder_idx: npt.NDArray[np.int8]
    emotion: npt.NDArray[np.int8]
    aus: npt.NDArray[np.int8]
    affect: npt.NDArray[np.float32]


def index(
    root: str | Path, unlabelled: str = "drop", layout: str = "auto", first_image: str = "auto"
) -> tuple[pa.Table, IndexReport]:
    """Join annotations and crops: one row for each frame that has a crop and labels.

    Args:
        root: see `find_layout`.
        unlabelled: `drop` keeps frames with an emotion and all twelve AUs, with or without valence and arousal;
            `mask` keeps every frame with any label, the others of which stay unlabelled.
        layout: see `find_layout`.
        first_image: see `_list_crops`; it has no effect on multi-task lines, which name their crops.
    Returns:
        The frames, ordered by video and frame, and the report. Columns: `path` (relative to `root`), `video_id`,
        `group_id` (the base video), `frame`, `emotion` (int8, null = unlabelled), `AU1` ... `AU26` (int8, -1 =
        unlabelled), `valence` and `arousal` (float32, NaN = unlabelled) if a frame has them, `split` (official;
        `train` if the tasks of a base video disagree).
    Raises:
        FileNotFoundError: from `find_layout`.
        ValueError: from `find_layout`; or an unknown `unlabelled`; or no usable annotation file.
    """
    if unlabelled not in UNLABELLED_MODES:
        raise ValueError(f"unlabelled is {unlabelled!r}; it must be one of {', '.join(UNLABELLED_MODES)}.")
    folders = find_layout(root, layout)
    report = IndexReport({"unlabelled": unlabelled, "layout": layout, "first_image": first_image})
    for folder in folders.ignored:
        report.tally.add("layouts_ignored", example=folder.relative_to(root))
    first_image = "1" if "mtl" in folders.tasks else first_image
    if "mtl" in folders.tasks:
        annotations = _read_mtl(folders.tasks["mtl"], report.tally)
    else:
        annotations = {task: _read_unitask(task, path, report.tally) for task, path in folders.tasks.items()}
    videos = sorted(set().union(*annotations.values()))
    if not videos:
        examples = report.tally.examples
        raise ValueError(
            f"{root} has no annotation file that can be read; invalid: {examples['rejected_files']}, "
            f"ignored: {examples['stray_files']}, leading out of their folder: {examples['unsafe_paths']}."
        )
    crops = _list_crops(folders.crop_dirs, videos, report.tally, first_image)
    report.official_splits = {task: _videos_by_split(by_video) for task, by_video in annotations.items()}
    group_splits = _official_splits(annotations, report.tally)
    kept = [_index_video(video, annotations, crops.get(video), unlabelled, report) for video in videos]
    return _to_table(kept, folders.crop_dirs, group_splits), report


def base_video(video: str) -> str:
    """The video that the track of a person belongs to: `video2_left` -> `video2`."""
    return _PERSON_SUFFIX.sub("", video)


def _videos_by_split(annotations: dict[str, _Annotation]) -> dict[str, list[str]]:
    """Official split -> its videos, for one task."""
    videos: defaultdict[str, list[str]] = defaultdict(list)
    for video in sorted(annotations):
        videos[annotations[video].split].append(video)
    return dict(videos)


def _official_splits(annotations: _Annotations, tally: Tally) -> dict[str, str]:
    """Group -> official split; counts videos, groups and disagreements.

    A group whose tasks or people are in different splits belongs to `train`: it is then in no task's validation data.
    """
    splits: defaultdict[str, set[str]] = defaultdict(set)
    tasks: defaultdict[str, set[str]] = defaultdict(set)
    people: defaultdict[str, set[str]] = defaultdict(set)
    for task, by_video in annotations.items():
        tally.add(f"{task}_files", len(by_video))
        for video, annotation in by_video.items():
            splits[base_video(video)].add(annotation.split)
            tasks[base_video(video)].add(task)
            people[base_video(video)].add(video)
    tally.add("groups", len(splits))
    tally.add("videos", sum(map(len, people.values())))
    for group in sorted(splits):
        tally.add("two_person_groups", len(people[group]) > 1, example=group)
        tally.add("groups_both_tasks", {"expr", "au"} <= tasks[group])
        tally.add("split_disagreements", len(splits[group]) > 1, example=group)
    return {group: min(group_splits) for group, group_splits in splits.items()}  # "train" < "validation"


def _index_video(
    video: str, annotations: _Annotations, crops: _Crops | None, unlabelled: str, report: IndexReport
) -> _Frames:
    """Match the rows of one video with its crops; every frame is counted once, as kept or as dropped."""
    tally = report.tally
    tasks = {task: by_video[video] for task, by_video in annotations.items() if video in by_video}
    _count_labels(tasks, tally)
    tally.add("length_disagreements", len({len(a.frames) for a in tasks.values()}) > 1, example=video)
    frames = np.unique(np.concatenate([annotation.frames for annotation in tasks.values()]))
    tally.add("frames", len(frames))
    if crops is None or not len(crops.frames):
        tally.add("folders_missing", example=video)
        tally.add("dropped_no_folder", len(frames))
        frames, crops = frames[:0], _Crops(frames[:0], frames[:0], np.zeros(0, np.int8))
    else:
        for task, annotation in tasks.items():
            report.length_differences.setdefault(task, Counter())[_last(annotation.frames) - _last(crops.frames)] += 1
        frames = _frames_with_crop(video, frames, crops, tally)
    emotion = _labels_at(tasks.get("expr"), frames, np.full(1, _UNLABELLED, np.int8))[:, 0]
    aus = _labels_at(tasks.get("au"), frames, np.full(len(AU_IDS), _UNLABELLED, np.int8))
    affect = _labels_at(tasks.get("va"), frames, np.full(len(AFFECT), np.nan, np.float32))
    has_emotion, has_au, has_affect = emotion != _UNLABELLED, aus != _UNLABELLED, ~np.isnan(affect)
    any_label = has_emotion | has_au.any(axis=1) | has_affect.any(axis=1)
    keep = has_emotion & has_au.all(axis=1) if unlabelled == "drop" else any_label
    tally.add("dropped_unlabelled", (~keep).sum(), example=video)
    tally.add("kept", keep.sum())
    tally.add("kept_affect", (keep & has_affect.all(axis=1)).sum())
    tally.add("kept_both_tasks", (keep & has_emotion & has_au.any(axis=1)).sum())
    positions = np.searchsorted(crops.frames, frames[keep])
    numbers, folder_idx = crops.numbers[positions], crops.folder_idx[positions]
    return _Frames(video, frames[keep], numbers, folder_idx, emotion[keep], aus[keep], affect[keep])


def _frames_with_crop(video: str, frames: npt.NDArray[np.int32], crops: _Crops, tally: Tally) -> npt.NDArray[np.int32]:
    """The annotated frames that have a crop; counts frames without a crop and crops without a frame."""
    has_crop = np.isin(frames, crops.frames, assume_unique=True)
    after_last = frames > _last(crops.frames)
    tally.add("dropped_after_last_crop", after_last.sum(), example=video)
    tally.add("dropped_missing_crop", (~has_crop & ~after_last).sum(), example=video)
    tally.add("crops_without_row", len(crops.frames) - has_crop.sum(), example=video)
    return frames[has_crop]


def _last(frames: npt.NDArray[np.int32]) -> int:
    return int(frames[-1]) if len(frames) else 0


def _labels_at(
    annotation: _Annotation | None, frames: npt.NDArray[np.int32], unlabelled: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """(frames, width) labels of the given frames, `unlabelled` (width,) where the task has none."""
    labels = np.tile(unlabelled, (len(frames), 1))
    if annotation is not None:
        _, target, source = np.intersect1d(frames, annotation.frames, assume_unique=True, return_indices=True)
        labels[target] = annotation.labels[source]
    return labels


def _count_labels(annotations: dict[str, _Annotation], tally: Tally) -> None:
    for task, annotation in annotations.items():
        unlabelled = np.isnan(annotation.labels) if task == "va" else annotation.labels == _UNLABELLED
        tally.add(f"{task}_rows", len(unlabelled))
        tally.add(f"{task}_unlabelled", unlabelled.all(axis=1).sum())
        if task == "au":
            tally.add("au_partly_unlabelled", (unlabelled.any(axis=1) & ~unlabelled.all(axis=1)).sum())


def _to_table(kept: Sequence[_Frames], crop_dirs: Sequence[Path], group_splits: dict[str, str]) -> pa.Table:
    """The kept frames of all videos as one table; names are dictionary-encoded."""
    lengths = [len(video.frames) for video in kept]
    groups = [base_video(video.video) for video in kept]

    def repeat_per_frame(names: Iterable[str]) -> pa.DictionaryArray:
        values = pa.array(names, pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(pa.array(np.repeat(values.indices, lengths)), values.dictionary)

    def concatenate(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(video, name) for video in kept])

    frame, emotion, aus = pa.array(concatenate("frames")), concatenate("emotion"), concatenate("aus")
    affect = concatenate("affect")
    dimensions = AFFECT if not np.isnan(affect).all() else ()
    folders = pa.array([path.name for path in crop_dirs], pa.string()).take(pa.array(concatenate("folder_idx")))
    video_ids = repeat_per_frame(video.video for video in kept)
    numbers = pc.utf8_lpad(pa.array(concatenate("numbers")).cast(pa.string()), 5, "0")
    path = pc.binary_join_element_wise(folders, video_ids.cast(pa.string()), numbers, "/")
    columns = {
        "path": pc.binary_join_element_wise(path, ".jpg", ""),
        "video_id": video_ids,
        "group_id": repeat_per_frame(groups),
        "frame": frame,
        "emotion": pa.array(emotion, mask=emotion == _UNLABELLED),
        **{f"AU{au_id}": pa.array(aus[:, i]) for i, au_id in enumerate(AU_IDS)},
        **{name: pa.array(affect[:, i]) for i, name in enumerate(dimensions)},
        "split": repeat_per_frame(group_splits[group] for group in groups),
    }
    return pa.table(columns)


# ------------------------------------------------------------------------------------------------------- the reader
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this data set."""
    parser.add_argument(
        "--unlabelled",
        choices=UNLABELLED_MODES,
        default="drop",
        help="frames that are not fully labelled: drop them, or mask what is unlabelled (default: %(default)s)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="read the EXPR, AU and VA folders (unitask) or the MTL files; auto: the former if there are any",
    )
    add_first_image_argument(parser)


def read(root: Path, args: argparse.Namespace) -> tuple[pa.Table, IndexReport]:
    """Run `index` with the options of the command line."""
    return index(root, args.unlabelled, args.layout, args.first_image)
