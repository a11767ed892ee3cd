"""A generated tree of Aff-Wild2's size, every oddity planted, through index and select.

The default run uses a twentieth of the frames. `MF2_FULL_SIZE=1 pytest -s tests/e2e/test_full_size_tree.py` makes all
(318 expression and 400 AU videos, 1.8 million AU rows, as many crops), asks for the paper's sizes and prints time and
memory.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mf2.dataset_tools.index import read_frames
from mf2.labels_mf2 import AU_IDS, EMOTIONS

FULL_SIZE = bool(os.environ.get("MF2_FULL_SIZE"))
FRAMES_PER_VIDEO = 4500 if FULL_SIZE else 225
EXPR_VIDEOS = {"train": 248, "validation": 70}
AU_VIDEOS = {"train": 295, "validation": 105}
TRAIN_PER_CLASS, EVAL_PER_CLASS = (3915, 422) if FULL_SIZE else (120, 15)
SIZES = ["--paper"] if FULL_SIZE else ["--paper", "--train_per_class", 120, "--eval_per_class", 15, "--min_frames", 4]
DIFFERENCES = {1: 209, 0: 94, 2: 9, -1: 6}
"""Rows minus frames -> number of expression files, as counted in the real data."""
FOLDER_OF_SPLIT = {"train": "Train_Set", "validation": "Validation_Set"}
FOLDER_OF_TASK = {"expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"}


class FullSizeTree:
    """Writes the tree and counts, on the way and by frame, what the index has to find."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.planted: Counter[str] = Counter()
        self.differences = self.rng.permutation([d for d, number in DIFFERENCES.items() for _ in range(number)])

    def write(self) -> None:
        tasks_of_video = self._assign_videos()
        for number, (video, tasks) in enumerate(tasks_of_video.items()):
            self._write_video(number, video, tasks)
        self._count_groups(tasks_of_video)
        self._plant_strays()

    def _assign_videos(self) -> dict[str, dict[str, str]]:
        """Video -> {task: split}: 400 with AUs, 318 with expressions, 290 with both, 12 pairs of people among them."""
        names = [f"video{i}" for i in range(416)] + [f"video{i}_right" for i in range(6)]
        names += [f"video{i}_left" for i in range(6, 12)]
        au_videos, expr_videos = names[:388] + names[416:], names[:290] + names[388:416]
        expr_splits = ["train"] * EXPR_VIDEOS["train"] + ["validation"] * EXPR_VIDEOS["validation"]
        au_splits = ["train"] * AU_VIDEOS["train"] + ["validation"] * AU_VIDEOS["validation"]
        tasks: dict[str, dict[str, str]] = {video: {} for video in names}
        for video, split in zip(expr_videos, self.rng.permutation(expr_splits), strict=True):
            tasks[video]["expr"] = str(split)
        for video, split in zip(au_videos, self.rng.permutation(au_splits), strict=True):
            tasks[video]["au"] = str(split)
        return tasks

    def _write_video(self, number: int, video: str, tasks: dict[str, str]) -> None:
        num_frames = int(FRAMES_PER_VIDEO * self.rng.lognormal(-0.08, 0.4)) + 30
        crops = self._write_crops(number, video, num_frames)
        emotion, aus = self._labels(num_frames + 2)
        labels = {}
        if "expr" in tasks:
            num_rows = num_frames + int(self.differences[self.planted["expr_files"]])
            labels["expr"] = self._write_labels("expr", video, tasks, emotion[:num_rows, None])
        if "au" in tasks:
            labels["au"] = self._write_labels("au", video, tasks, aus[: num_frames + number % 2])
        self._count_frames(labels, crops)

    def _write_crops(self, number: int, video: str, num_frames: int) -> set[int]:
        """Empty files: an index reads their names only. Every 50th video has no folder at all."""
        if number % 50 == 49:
            self.planted["folders_missing"] += 1
            return set()
        folder = self.root / ("cropped_aligned_new_50_vids" if number % 7 == 0 else "cropped_aligned") / video
        folder.mkdir(parents=True)
        missing = set(self.rng.integers(2, num_frames, num_frames // 40).tolist())
        crops = set(range(1, num_frames + 1)) - missing
        for frame in crops:
            os.close(os.open(folder / f"{frame:05d}.jpg", os.O_CREAT | os.O_WRONLY))
        if number % 10 == 0:
            (folder / ".DS_Store").touch()
            self.planted["stray_files"] += 1
        return crops

    def _labels(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs of an emotion (each video leans to a few) and AUs that depend on it; some of each unlabelled."""
        shares = self.rng.dirichlet(np.array([0.3, 0.06, 0.05, 0.05, 0.18, 0.12, 0.08, 0.16]) * 8)
        runs = self.rng.choice(8, num_rows // 15 + 1, p=shares)
        emotion = np.repeat(runs, 15)[:num_rows]
        emotion[np.repeat(self.rng.random(len(runs)) < 0.15, 15)[:num_rows]] = -1
        rates = np.linspace(0.1, 0.6, 12)[None] + 0.03 * emotion[:, None]
        aus = (self.rng.random((num_rows, 12)) < rates).astype(int)
        aus[self.rng.random(num_rows) < 0.02] = -1
        aus[self.rng.random(num_rows) < 0.01, 3] = -1
        return emotion, aus

    def _write_labels(self, task: str, video: str, tasks: dict[str, str], labels: np.ndarray) -> np.ndarray:
        """Write one file, spoil a line in every tenth, and count; returns the labels as they can be read."""
        lines = [",".join(map(str, row)) for row in labels.tolist()]
        labels = labels.copy()
        if self.planted[f"{task}_files"] % 10 == 5:
            spoiled = int(self.rng.integers(len(lines)))
            lines[spoiled] = ["", "nan", "3,3,3", "99"][self.planted[f"{task}_malformed"] % 4]
            labels[spoiled] = -1
            self.planted[f"{task}_malformed"] += 1
        header = ",".join(EMOTIONS) + " " if task == "expr" else ",".join(f"AU{i}" for i in AU_IDS)
        folder = self.root / "annotations" / FOLDER_OF_TASK[task] / FOLDER_OF_SPLIT[tasks[task]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{video}.txt").write_text("\n".join([header, *lines]) + "\n")
        unlabelled = labels == -1
        self.planted[f"{task}_files"] += 1
        self.planted[f"{task}_rows"] += len(labels)
        self.planted[f"{task}_unlabelled"] += int(unlabelled.all(axis=1).sum())
        if task == "au":
            self.planted["au_partly_unlabelled"] += int((unlabelled.any(axis=1) & ~unlabelled.all(axis=1)).sum())
        return labels

    def _count_frames(self, labels: dict[str, np.ndarray], crops: set[int]) -> None:
        """Frame by frame: what becomes of it when every frame needs an emotion and all AUs."""
        lengths = {len(rows) for rows in labels.values()}
        last_crop = max(crops, default=0)
        self.planted["length_disagreements"] += len(lengths) > 1
        complete = {task: (rows != -1).all(axis=1).tolist() for task, rows in labels.items()}
        for frame in range(1, max(lengths) + 1):
            if not crops:
                outcome = "dropped_no_folder"
            elif frame > last_crop:
                outcome = "dropped_after_last_crop"
            elif frame not in crops:
                outcome = "dropped_missing_crop"
            elif len(complete) == 2 and all(frame <= len(rows) and rows[frame - 1] for rows in complete.values()):
                outcome = "kept"
            else:
                outcome = "dropped_unlabelled"
            self.planted[outcome] += 1
        self.planted["frames"] += max(lengths)
        self.planted["crops_without_row"] += sum(frame > max(lengths) for frame in crops)

    def _count_groups(self, tasks_of_video: dict[str, dict[str, str]]) -> None:
        groups: dict[str, list[dict[str, str]]] = {}
        for video, tasks in tasks_of_video.items():
            groups.setdefault(video.partition("_")[0], []).append(tasks)
        self.planted["videos"] = len(tasks_of_video)
        self.planted["groups"] = len(groups)
        self.planted["two_person_groups"] = sum(len(people) > 1 for people in groups.values())
        self.planted["groups_both_tasks"] = sum(len(set().union(*people)) > 1 for people in groups.values())
        splits = [{split for tasks in people for split in tasks.values()} for people in groups.values()]
        self.planted["split_disagreements"] = sum(len(found) > 1 for found in splits)

    def _plant_strays(self) -> None:
        train = self.root / "annotations" / FOLDER_OF_TASK["expr"] / "Train_Set"
        for path in (train / ".DS_Store", train / "notes.docx", train.parent / "readme.txt"):
            path.touch()
            self.planted["stray_files"] += 1
        (train / "outside.txt").symlink_to("/etc/passwd")
        (self.root / "cropped_aligned" / "video0").symlink_to("/etc")  # video0 is in the other folder of crops
        self.planted["unsafe_paths"] = 2
        (train / "strange.txt").write_text("a,b\n1,2\n")
        self.planted["rejected_files"] = 1
        twice = next(train.glob("video*.txt"))
        (train.parent / "Validation_Set" / twice.name).write_bytes(twice.read_bytes())
        self.planted["annotations_twice"] = 1
        (self.root / "cropped_aligned" / "stranger").mkdir()
        self.planted["folders_without_annotation"] = 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = FullSizeTree(tmp_path_factory.mktemp("affwild2"))
    tree.write()
    yield tree
    shutil.rmtree(tree.root)


@pytest.fixture(scope="module")
def indexed(tree):
    """The folder that `mf2 data index` made, its report and what the command cost."""
    out = tree.root.parent / "index"
    seconds, megabytes = run("index", "affwild2", tree.root, out)
    return out, json.loads((out / "report.json").read_text()), seconds, megabytes


def run(*words: object) -> tuple[float, float]:
    """Run `mf2 data ...` in a process of its own; returns its seconds and its peak of memory in MB."""
    code = (
        "import resource, sys, time; start = time.perf_counter()\n"
        "from mf2.cli.data import main\n"
        "status = main(sys.argv[1:])\n"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        "sys.exit(status)"
    )
    words = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = done.stdout.splitlines()[-1].split()
    return float(seconds), float(megabytes)


@pytest.mark.slow
def test_every_planted_oddity_is_counted(tree, indexed):
    _, report, seconds, megabytes = indexed
    assert {name: report["counts"][name] for name in tree.planted} == dict(tree.planted)
    assert {name for name, number in report["counts"].items() if number} <= tree.planted.keys() | {"kept_both_tasks"}
    rows = tree.planted["expr_rows"] + tree.planted["au_rows"]
    print(f"\nindex: {rows:,} label rows, {tree.planted['frames']:,} frames, {seconds:.1f} s, {megabytes:.0f} MB")
    if FULL_SIZE:
        assert tree.planted["au_rows"] > 1_000_000
        assert seconds < 8 * tree.planted["frames"] / 1e6 and megabytes < 500


@pytest.mark.slow
def test_the_split_meets_the_sizes_exactly(tree, indexed):
    out = tree.root.parent / "selection"
    seconds, megabytes = run("select", indexed[0], out, *SIZES)
    frames = read_frames(out).to_pandas()
    for split, videos, per_class in (("train", 134, TRAIN_PER_CLASS), ("validation", 17, EVAL_PER_CLASS)):
        part = frames[frames["split"] == split]
        assert part["group_id"].nunique() == videos
        assert part["emotion"].value_counts().to_dict() == dict.fromkeys(range(8), per_class)
    assert frames.groupby("group_id", observed=True)["split"].nunique().max() == 1
    assert not frames["path"].duplicated().any()
    report = json.loads((out / "report.json").read_text())
    gap = [
        abs(report["train"]["au_rates"][au] - report["validation"]["au_rates"][au])
        for au in report["train"]["au_rates"]
    ]
    assert max(gap) < (0.05 if FULL_SIZE else 0.15)  # 5 standard errors of the validation split
    print(f"\nselect: {seconds:.1f} s, {megabytes:.0f} MB, AU rates differ by {max(gap):.3f} at most")
