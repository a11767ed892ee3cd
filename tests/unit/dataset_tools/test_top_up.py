"""`mf2 data top_up`: what takes the place of a failed frame."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from mf2.cli.data import main
from mf2.dataset_tools.index import read_frames, write_frames
from mf2.dataset_tools.replacements import COUNTED, top_up
from mf2.dataset_tools.stage_report import Tally
from mf2.dataset_tools.top_up import read_failed
from mf2.labels_mf2 import AU_IDS
from mf2.utils.files import write_json


def frame_table(keys, splits):
    """Frames by (video, number, emotion)."""
    videos, numbers, emotions = zip(*keys, strict=True)
    columns = {
        "path": [f"crops/{video}/{number:05d}.jpg" for video, number, _ in keys],
        "video_id": pa.array(videos).dictionary_encode(),
        "group_id": pa.array([video.removesuffix("_left") for video in videos]).dictionary_encode(),
        "frame": pa.array(numbers, pa.int32()),
        "emotion": pa.array(emotions, pa.int8()),
        **{f"AU{au_id}": pa.array([0] * len(keys), pa.int8()) for au_id in AU_IDS},
        "split": pa.array(splits, pa.string()).dictionary_encode(),
    }
    return pa.table(columns)


POOL = [("a", n, n % 2) for n in range(8)] + [("a_left", n, 0) for n in range(2)] + [("b", n, 0) for n in range(4)]
SELECTED = [("a", 0, 0), ("a", 3, 1), ("b", 0, 0), ("b", 2, 0)]
SPLITS = ["train", "train", "validation", "validation"]


@pytest.fixture
def pool():
    return frame_table(POOL, ["train"] * len(POOL))


@pytest.fixture
def selection():
    return frame_table(SELECTED, SPLITS)


def topped(selection, pool, failed, **options):
    tally, dropped = Tally(COUNTED), Counter()
    table = top_up(selection, pool, failed, tally, dropped, **options)
    assert table.schema == selection.schema
    rows = [(row["video_id"], row["frame"], row["emotion"], row["split"]) for row in table.to_pylist()]
    return rows, {name: count for name, count in tally.counts.items() if count}, dict(dropped)


def test_the_nearest_unused_frame_of_the_video_and_class(selection, pool):
    rows, counts, _ = topped(selection, pool, {"a/00003.jpg"})
    assert rows == [("a", 0, 0, "train"), ("a", 1, 1, "train"), ("b", 0, 0, "validation"), ("b", 2, 0, "validation")]
    assert counts == {"failed": 1, "same_video": 1}


def test_failed_frames_do_not_come_back_and_another_video_helps(selection, pool):
    """All other frames of the class in the video have failed before."""
    failed = {f"a/{n:05d}.jpg" for n in (0, 2, 4, 6)}
    rows, counts, _ = topped(selection, pool, failed)
    assert ("a_left", 0, 0, "train") in rows and counts == {"failed": 1, "other_video": 1}


def test_no_frame_changes_its_split(selection, pool):
    """Of two failed validation frames one is dropped, although the training videos have unused ones."""
    failed = {f"b/{n:05d}.jpg" for n in (0, 1, 2)}
    rows, counts, dropped = topped(selection, pool, failed)
    assert [row for row in rows if row[3] == "validation"] == [("b", 3, 0, "validation")]
    assert counts == {"failed": 2, "same_video": 1, "dropped": 1} and dropped == {"Neutral": 1}


def test_only_dropping_and_nothing_to_do(selection, pool):
    rows, counts, dropped = topped(selection, pool, {"a/00003.jpg"}, replace=False)
    assert len(rows) == 3 and counts == {"failed": 1, "dropped": 1} and dropped == {"Anger": 1}
    rows, counts, _ = topped(selection, pool, {"a/00007.jpg"})
    assert len(rows) == 4 and counts == {}


@pytest.fixture
def folders(tmp_path, selection, pool):
    write_frames(tmp_path / "index", pool)
    write_frames(tmp_path / "selection", selection)
    write_json(tmp_path / "selection" / "report.json", {"seed": 7})
    return ["top_up", str(tmp_path / "selection"), str(tmp_path / "index"), str(tmp_path / "letters.jsonl")]


def write_letters(path, *names):
    path.write_text("".join(json.dumps({"image_id": f"made/{name}"}) + "\n" for name in names))


def test_the_selection_and_its_reports_are_edited_round_by_round(folders, tmp_path, selection):
    selected = tmp_path / "selection"
    assert main(folders) == 0  # no letters
    assert read_frames(selected).equals(selection) and not (selected / "top_up.json").exists()
    write_letters(tmp_path / "letters.jsonl", "a/00003.jpg")
    assert main([*folders, "--max-rounds", "1"]) == 0
    report = json.loads((selected / "report.json").read_text())
    assert report["seed"] == 7 and report["train"]["frames"] == 2 and (selected / "report.png").is_file()
    write_letters(tmp_path / "letters.jsonl", "a/00003.jpg", "a/00001.jpg")
    assert main([*folders, "--max-rounds", "1"]) == 0  # the second round only drops
    rounds = json.loads((selected / "top_up.json").read_text())["rounds"]
    assert [(r["counts"]["same_video"], r["counts"]["dropped"]) for r in rounds] == [(1, 0), (0, 1)]
    assert rounds[1]["dropped_by_emotion"] == {"Anger": 1}

    write_frames(selected, selection)  # selected anew: the rounds count from the start
    assert main([*folders, "--max-rounds", "1"]) == 0
    assert len(json.loads((selected / "top_up.json").read_text())["rounds"]) == 1


def test_letters_that_are_none(folders, tmp_path, capsys):
    (tmp_path / "letters.jsonl").write_text('{"image": 1}\n')
    assert main(folders) == 1
    assert "letters.jsonl does not hold dead letters" in capsys.readouterr().err
    assert read_failed(tmp_path / "nothing") == frozenset()
