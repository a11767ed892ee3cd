"""Readers against miniatures of their data sets: counts and labels are exactly those that were planted."""

import argparse

import data_set_trees as trees
import pytest

from mf2.dataset_tools import folds
from mf2.dataset_tools.readers import emotions_of, load_reader
from mf2.labels_mf2 import EMOTIONS


def read(name, root, *words):
    """The rows as dictionaries, the report, and what the emotions index."""
    reader = load_reader(name)
    parser = argparse.ArgumentParser()
    reader.add_arguments(parser)
    frames, report = reader.read(root, parser.parse_args(list(words)))
    assert report.tally["rows"] == report.tally["kept"] + sum(
        report.tally[dropped] for dropped in ("malformed", "labelled_twice", "unlabelled", "missing_image", "no_part")
    )
    return frames.to_pylist(), report, emotions_of(frames)


def counts(report):
    """What was counted at all."""
    return {name: number for name, number in report.tally.counts.items() if number}


def column(rows, name):
    return [row[name] for row in rows]


# ------------------------------------------------------------------------------------------------------------ DISFA
def test_disfa(tmp_path):
    rows, report, _ = read("disfa", trees.disfa(tmp_path))
    assert counts(report) == {
        "rows": 9, "kept": 8, "missing_image": 1, "values_unknown": 2, "images_without_row": 1, "people": 3,
        "counted_from_0": 1,
    }  # fmt: skip
    assert {name for name in rows[0] if name.startswith("AU")} == {"AU1", "AU4", "AU9", "AU12"}
    first = [row for row in rows if row["group_id"] == "SN001"]
    assert [(row["path"], row["frame"], row["AU1"], row["AU12"]) for row in first] == [
        ("frames/SN001/0.png", 1, 0, 1),  # image 0 is label 1
        ("frames/SN001/1.png", 2, 0, 0),
        ("frames/SN001/2.png", 3, 1, 0),  # intensity 2 is active
        ("frames/SN001/3.png", 4, 1, 0),
    ]
    assert {row["AU9"] for row in first} == {-1} and {row["emotion"] for row in rows} == {None}
    other = [row for row in rows if row["group_id"] == "SN013"]
    assert [(row["frame"], row["AU1"], row["AU4"]) for row in other] == [(1, 1, -1), (2, 0, 0)]
    assert report.settings == {"threshold": 2, "fold": 1, "first_image": "auto", "crop": "frames"}


def test_disfa_threshold_fold_and_first_image(tmp_path):
    trees.disfa(tmp_path)
    rows, _, _ = read("disfa", tmp_path, "--threshold", "1", "--fold", "3")
    assert column(rows, "AU1")[:4] == [0, 1, 1, 1]
    assert {row["group_id"]: row["split"] for row in rows} == {
        "SN001": "validation", "SN003": "train", "SN013": "train",
    }  # fmt: skip
    rows, report, _ = read("disfa", tmp_path, "--first_image", "1")
    assert column(rows, "path")[:3] == ["frames/SN001/1.png", "frames/SN001/2.png", "frames/SN001/3.png"]
    assert column(rows, "frame")[:3] == [1, 2, 3] and report.tally["counted_from_0"] == 0


# ------------------------------------------------------------------------------------------------------------- BP4D
def test_bp4d(tmp_path):
    rows, report, _ = read("bp4d", trees.bp4d(tmp_path), "--fold", "2")
    assert counts(report) == {
        "rows": 7, "kept": 4, "malformed": 1, "missing_image": 1, "no_part": 1, "rejected_files": 1, "images_twice": 1,
        "images_without_row": 2, "videos": 3, "headers_not_counting": 1,
    }  # fmt: skip
    assert [(row["path"], row["frame"], row["AU1"], row["AU2"], row["AU6"], row["split"]) for row in rows] == [
        ("2D/F001/T1/001.jpg", 1, 1, 0, 1, "train"),
        ("2D/F001/T1/0002.jpg", 2, 1, 0, 0, "train"),
        ("2D/M011/T2/0010.jpg", 10, 0, -1, -1, "validation"),
        ("2D/M011/T2/0011.jpg", 11, 1, -1, -1, "validation"),
    ]
    assert "AU25" not in rows[0]  # 9 all through: not coded


def test_two_versions_of_the_images_want_a_choice(tmp_path):
    trees.write_images(trees.bp4d(tmp_path), ["cropped/F001/T1/001.jpg"])
    with pytest.raises(ValueError, match=r"2D/F001/T1/001.jpg and cropped/F001/T1/001.jpg; choose .* --crop"):
        read("bp4d", tmp_path)
    rows, report, _ = read("bp4d", tmp_path, "--crop", "cropped")
    assert column(rows, "path") == ["cropped/F001/T1/001.jpg"] and report.settings["crop"] == "cropped/F001/T1"


def test_folds_are_subject_exclusive_and_complete():
    for parts, people in ((folds.BP4D_PARTS, 41), (folds.DISFA_PARTS, 27)):
        everyone = [person for part in parts for person in part]
        assert len(everyone) == len(set(everyone)) == people
    assert [len(part) for part in folds.BP4D_PARTS] == [14, 14, 13]


# ----------------------------------------------------------------------------------------------------------- RAF-DB
def test_rafdb(tmp_path):
    rows, report, emotions = read("rafdb", trees.rafdb(tmp_path))
    assert counts(report) == {
        "rows": 13, "kept": 8, "malformed": 2, "labelled_twice": 1, "unlabelled": 1, "missing_image": 1,
        "values_unknown": 1, "images_without_row": 1,
    }  # fmt: skip
    names = {row["video_id"]: emotions[row["emotion"]] for row in rows}
    assert emotions == EMOTIONS and names == {
        "train_00001": "Surprise", "train_00002": "Fear", "train_00003": "Disgust", "train_00004": "Happiness",
        "train_00005": "Sadness", "train_00006": "Anger", "train_00007": "Neutral", "test_0001": "Neutral",
    }  # fmt: skip
    assert {row["video_id"]: row["split"] for row in rows}["test_0001"] == "validation"
    assert all(row["path"].endswith("_aligned.jpg") for row in rows)


def test_emotion_options(tmp_path):
    trees.rafdb(tmp_path)
    rows, report, emotions = read("rafdb", tmp_path, "--own_emotions", "--crop", "original")
    assert emotions == ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")
    assert column(rows, "emotion") == [6, 0, 1, 2, 3, 4, 5, 6]
    assert report.settings["crop"] == "basic/Image/original"
    rows, report, emotions = read("rafdb", tmp_path, "--emotion_map", "fear=Surprise", "Neutral=none")
    assert [emotions[emotion] for emotion in column(rows, "emotion")][:2] == ["Surprise", "Surprise"]
    assert report.tally["unlabelled"] == 3 and report.settings["emotion_map"]["Neutral"] == "none"
    with pytest.raises(ValueError, match="--emotion_map Fear=Dread must be NAME=OURS"):
        read("rafdb", tmp_path, "--emotion_map", "Fear=Dread")
    with pytest.raises(ValueError, match="exclude each other"):
        read("rafdb", tmp_path, "--emotion_map", "Fear=Anger", "--own_emotions")


# --------------------------------------------------------------------------------------------------------- own CSVs
def test_csv(tmp_path):
    rows, report, emotions = read("csv", trees.own_csv(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 3, "unlabelled": 1, "missing_image": 2, "images_without_row": 1, "columns_not_used": 2,
    }  # fmt: skip
    assert [(row["path"], row["AU1"], row["AU12"], row["emotion"], row["group_id"]) for row in rows] == [
        ("a/1.jpg", 1, 0, 4, "anna"),
        ("a/2.jpg", -1, -1, 5, "anna"),
        ("b/1.png", 0, 1, None, "bo"),
    ]
    assert report.tally.examples["missing_image"] == ["../a/1.jpg", "b/9.jpg"] and emotions == EMOTIONS


def test_csv_columns(tmp_path):
    points = ";".join(["1.5"] * 136)
    trees.write_images(tmp_path, ["1.jpg", "2.jpg"])
    table = f"path,AU4,video_id,frame,split,landmarks\n1.jpg,2.5,v,7,train,{points}\n2.jpg,0.5,v,8,,1;2\n"
    labels = trees.write(tmp_path / "elsewhere", {"labels.csv": table}) / "labels.csv"
    rows, report, _ = read("csv", tmp_path, "--labels", str(labels), "--threshold", "1")
    assert [(row["AU4"], row["video_id"], row["group_id"], row["frame"], row["split"]) for row in rows] == [
        (1, "v", "v", 7, "train"),
        (0, "v", "v", 8, None),
    ]
    assert rows[0]["landmarks"] == [1.5] * 136 and rows[1]["landmarks"] is None
    assert counts(report)["values_unknown"] == 1


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("path,AU1\n1.jpg,2\n", [], "Row 1 of the CSV file: AU1 is '2'; it must be 1, 0, -1"),
        ("path,AU1\n1.jpg,x\n", ["--threshold", "1"], "AU1 is 'x'; it must be an intensity"),
        ("path,AU1\n1.jpg,inf\n", ["--threshold", "1"], "AU1 is 'inf'"),
        ("path,frame\n1.jpg,-1\n", [], "frame is '-1'; it must be a number"),
        ("path,split\n1.jpg,dev\n", [], "split is 'dev'; it must be train or validation"),
        ("name,AU1\n1.jpg,1\n", [], "lacks the column path; it has name, AU1"),
        ("path,AU1,AU1\n1.jpg,1,1\n", [], "each column once, not so AU1, AU1"),
        ("path,emotion\n1.jpg,happy\n2.jpg,hapy\n", [], "The emotions Hapy are none of"),
        ("path,emotion\n1.jpg,3\n", [], r"The emotions are numbers \(3\)"),
    ],
)
def test_csv_errors(tmp_path, text, words, message):
    trees.write(trees.write_images(tmp_path, ["1.jpg", "2.jpg"]), {"labels.csv": text})
    with pytest.raises(ValueError, match=message):
        read("csv", tmp_path, *words)


def test_csv_with_a_list_of_its_own(tmp_path):
    text = "path,emotion\n1.jpg,pain\n2.jpg,no pain\n"
    trees.write(trees.write_images(tmp_path, ["1.jpg", "2.jpg"]), {"labels.csv": text})
    rows, _, emotions = read("csv", tmp_path)
    assert emotions == ("No pain", "Pain") and column(rows, "emotion") == [1, 0]
    rows, _, emotions = read("csv", tmp_path, "--emotion_map", "Pain=Other", "No pain=Neutral")
    assert emotions == EMOTIONS and column(rows, "emotion") == [7, 0]


# ---------------------------------------------------------------------------------------------------- wrong folders
@pytest.mark.parametrize(
    ("name", "looked_for"),
    [
        ("disfa", r"ActionUnit_Labels/SN001/SN001_au1.txt"),
        ("bp4d", r"AU_OCC/F001_T1.csv"),
        ("rafdb", r"EmoLabel/list_patition_label.txt"),
        ("csv", r"must hold one CSV file, it holds none"),
    ],
)
def test_a_wrong_folder_says_what_it_wanted_and_what_is_there(tmp_path, name, looked_for):
    trees.write_images(tmp_path / "wrong", ["holiday/1.jpg", "holiday/2.jpg"])
    with pytest.raises(FileNotFoundError, match=looked_for) as error:
        read(name, tmp_path / "wrong")
    if name != "csv":
        assert "2 files in holiday/ (for example holiday/1.jpg and holiday/2.jpg)" in str(error.value)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read(name, tmp_path / "nothing")


def test_labels_without_images_are_an_error(tmp_path):
    trees.write(tmp_path, {"ActionUnit_Labels/SN001/SN001_au1.txt": "1,0\n"})
    with pytest.raises(FileNotFoundError, match=r"no image of a person, such as SN001/00001.jpg; it holds 1 files"):
        read("disfa", tmp_path)


def test_links_do_not_lead_out(tmp_path):
    """A link that a user put at the top is followed; one inside that leads elsewhere is not."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    trees.write_images(outside, ["a/1.jpg", "a/2.jpg"])
    trees.write(root, {"labels.csv": "path,AU1\nlinked/a/1.jpg,1\nhere/a/1.jpg,1\nhere/secret.jpg,0\nhere/3.jpg,0\n"})
    trees.write_images(root, ["here/3.jpg"])
    (root / "linked").symlink_to(outside)
    (root / "here" / "a").symlink_to(outside / "a")
    (root / "here" / "secret.jpg").symlink_to(outside / "a" / "2.jpg")
    (root / "loop").symlink_to(root)
    rows, report, _ = read("csv", root)
    assert column(rows, "path") == ["here/3.jpg", "linked/a/1.jpg"]
    assert counts(report)["unsafe_paths"] >= 2 and counts(report)["missing_image"] == 2
