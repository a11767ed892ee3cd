"""Readers against miniatures of their data sets: counts and labels are exactly those that were planted."""

import csv
import io
import re

import data_set_trees as trees
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reader_rig import column, counts, read

from mf2.dataset_tools.readers import affectnet, dfew, folds, rafdb
from mf2.dataset_tools.readers.registry import READERS, load_reader
from mf2.dataset_tools.readers.video_frames import VideoReader, middle_frames, split_video_path
from mf2.labels_mf2 import ACTION_UNITS, EMOTIONS


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
        "values_unknown": 1, "images_without_row": 1, "images_ignored": 9,
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


# ------------------------------------------------------------------------------------------------------- other AUs
def aus_of(row):
    """(active, not active) AU numbers."""
    return tuple([int(name[2:]) for name in row if name.startswith("AU") and row[name] == label] for label in (1, 0))


def test_ckplus(tmp_path):
    rows, report, emotions = read("ckplus", trees.ckplus(tmp_path))
    assert counts(report) == {
        "rows": 4, "kept": 3, "missing_image": 1, "rejected_files": 1, "images_without_row": 4, "facs_files": 3,
        "emotion_files": 3, "no_emotion_file": 1, "no_facs_file": 2,
    }  # fmt: skip
    found = {row["video_id"]: (aus_of(row)[0], row["frame"], row["emotion"], row["group_id"]) for row in rows}
    assert found == {
        "S005_001": ([1, 12], 3, emotions.index("Other"), "S005"),  # intensity 0 is present; contempt
        "S005_002": ([4], 2, None, "S005"),  # no emotion file
        "S010_001": ([], 2, emotions.index("Anger"), "S010"),
    }
    assert aus_of(rows[0])[1] == [au_id for au_id in ACTION_UNITS if au_id not in (1, 12)]
    assert aus_of(rows[2]) == ([], [])  # a FACS file that is not understood does not make AUs inactive
    rows, _, emotions = read("ckplus", tmp_path, "--own_emotions")
    assert emotions[rows[0]["emotion"]] == "Contempt"


def test_gft(tmp_path):
    rows, report, _ = read("gft", trees.gft(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 3, "malformed": 1, "unlabelled": 1, "missing_image": 1, "values_unknown": 1,
        "images_without_row": 1,
    }  # fmt: skip
    assert [(row["path"], row["group_id"], row["AU1"], row["AU4"], row["AU10"]) for row in rows] == [
        ("images/001A/1.jpg", "001", 0, -1, 1),
        ("images/001A/2.jpg", "001", 1, -1, -1),
        ("images/001B/2.jpg", "001", -1, 1, 0),
    ]


def test_gft_shows_a_header_that_it_does_not_know(tmp_path):
    trees.write(trees.gft(tmp_path), {"AUs/001C.csv": "time,inner_brow\n1,1\n"})
    with pytest.raises(ValueError, match=r"AUs/001C.csv must have .* its header is time, inner_brow"):
        read("gft", tmp_path)


def test_rafau(tmp_path):
    rows, report, _ = read("rafau", trees.rafau(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 3, "malformed": 1, "missing_image": 1, "dropped_null": 1, "images_without_row": 2,
        "images_ignored": 5,
    }  # fmt: skip
    assert {row["video_id"]: aus_of(row)[0] for row in rows} == {"0001": [1, 4, 12], "0003": [12], "0006": [9]}
    assert all(sum(map(len, aus_of(row))) == len(ACTION_UNITS) for row in rows)
    rows, _, _ = read("rafau", tmp_path, "--crop", "original")
    assert column(rows, "path")[0] == "original/0001.jpg"


def test_emotionet(tmp_path):
    rows, report, _ = read("emotionet", trees.emotionet(tmp_path))
    assert counts(report) == {
        "rows": 7, "kept": 3, "unlabelled": 1, "missing_image": 1, "values_unknown": 1, "dropped_same_name": 2,
        "images_without_row": 3,
    }  # fmt: skip
    assert {row["video_id"]: (row["AU1"], row["AU12"], row["AU25"]) for row in rows} == {
        "one": (1, 0, -1), "two": (0, 1, 1), "odd": (1, -1, 0),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"must have columns file and 'AU 1', \.\.\.; its header is URL, 'AU 1'"):
        read("emotionet", tmp_path, "--file_column", "file")


def test_emotionet_as_a_workbook(tmp_path):
    rows, report, _ = read("emotionet", trees.emotionet(tmp_path / "csv"))
    lines = list(csv.reader((tmp_path / "csv" / "labels.csv").open()))
    sheet = [lines[0], *([line[0], *map(int, line[1:])] for line in lines[1:])]
    trees.write(tmp_path / "csv", {"labels.xlsx": trees.workbook({"labels": sheet})})
    with pytest.raises(ValueError, match=r"labels\.csv, labels\.xlsx; choose one by --edition"):
        read("emotionet", tmp_path / "csv")
    (tmp_path / "csv" / "labels.csv").unlink()
    again, report_again, _ = read("emotionet", tmp_path / "csv")
    assert again == rows and report_again.tally.counts == report.tally.counts


@pytest.mark.parametrize("name", ["casme2"])
def test_micro_expressions(tmp_path, name):
    rows, report, emotions = read(name, trees.micro_expressions(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 4, "malformed": 1, "missing_image": 1, "values_unknown": 1, "emotions_unmapped": 1,
        "images_without_row": 1,
    }  # fmt: skip
    found = [(row["path"][8:], *aus_of(row), row["emotion"] and emotions[row["emotion"]]) for row in rows]
    assert found == [
        ("sub01/EP02_01f/reg_img59.jpg", [4, 14], [1, 2, 12], "Other"),  # 4+L14, repression
        ("sub01/EP03_02/reg_img15.jpg", [], [], "Happiness"),  # ? is not "none"
        ("sub17/EP01_02/img5.bmp", [12], [1, 2, 4, 14], "Other"),
        ("sub17/EP01_03/img005.jpg", [1, 2], [4, 12, 14], None),  # dread is none of ours
    ]
    rows, _, emotions = read(name, tmp_path, "--own_emotions")
    assert [emotions[row["emotion"]] for row in rows] == ["Repression", "Happiness", "Other", "Dread"]


def test_cas_me2_as_it_is_distributed(tmp_path):
    rows, report, emotions = read("cas_me2", trees.cas_me2(tmp_path))
    assert counts(report) == {"rows": 4, "kept": 4}
    found = [(row["path"], row["group_id"], aus_of(row)[0], emotions[row["emotion"]]) for row in rows]
    assert found == [
        ("selectedpic/s15/anger1_1/img572.jpg", "sub15", [4, 7], "Anger"),  # participant 1
        ("selectedpic/s15/happy1_2/img20.jpg", "sub15", [6, 12], "Happiness"),
        ("selectedpic/s16/disgust2_1/img9.jpg", "sub16", [4, 9], "Disgust"),
        ("selectedpic/s37/anger1_1/img572.jpg", "sub37", [6, 12], "Happiness"),  # participant 15, not folder s15
    ]


def test_cas_me2_with_a_header_gives_nobody_the_labels_of_another(tmp_path):
    header = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion",
              "Type", "Self")  # fmt: skip
    sheets = {"code": [header, *trees.CAS_ME2_ROWS]}
    trees.cas_me2(tmp_path, sheets)
    with pytest.raises(ValueError, match=r"belong to participants 1, 15, 2 .* sheet `naming rule1`"):
        read("cas_me2", tmp_path)
    trees.cas_me2(tmp_path, {**sheets, "naming rule1": trees.CAS_ME2_FOLDERS})
    rows, _, emotions = read("cas_me2", tmp_path)
    assert [aus_of(row)[0] for row in rows] == [[4, 7], [6, 12], [4, 9], [6, 12]]
    assert [emotions[row["emotion"]] for row in rows] == ["Anger", "Happiness", "Disgust", "Happiness"]
    by_folder = [(f"s{15 if row[0] == 1 else 16 if row[0] == 2 else 37}", *row[1:]) for row in trees.CAS_ME2_ROWS]
    trees.cas_me2(tmp_path, {"code": [header, *by_folder]})
    assert read("cas_me2", tmp_path)[0] == rows


def test_one_of_two_editions_of_a_coding_file_is_chosen(tmp_path):
    trees.micro_expressions(tmp_path)
    (tmp_path / "coding.xlsx").rename(tmp_path / "CASME2-coding-20140508.xlsx")
    rows, _, _ = read("casme2", tmp_path)
    shorter = [trees.MICRO_EXPRESSIONS[0], (1, "EP02_01f", None, 46, 59, 86, "9", "disgust")]
    trees.write(tmp_path, {"CASME2-coding-20190701.xlsx": trees.workbook({"Sheet1": shorter})})
    with pytest.raises(ValueError, match=r"20140508\.xlsx, CASME2-coding-20190701\.xlsx; choose one by --edition"):
        read("casme2", tmp_path)
    assert read("casme2", tmp_path, "--edition", "2014")[0] == rows
    (row,), report, _ = read("casme2", tmp_path, "--edition", "2019")
    assert row["AU9"] == 1 and report.settings["labels_file"] == "CASME2-coding-20190701.xlsx"
    with pytest.raises(FileNotFoundError, match="'2020' in its name: CASME2"):
        read("casme2", tmp_path, "--edition", "2020")


@pytest.mark.parametrize(
    ("name", "clips"), [("dfew", "Clip/{}/00001"), ("ferv39k", "{}/Crime/Angry/0063")], ids=["dfew", "ferv39k"]
)
def test_clips_in_two_versions_are_not_mixed(tmp_path, name, clips):
    getattr(trees, name)(tmp_path)
    rows, _, _ = read(name, tmp_path)
    trees.write_images(tmp_path, [f"{clips.format('256')}/{k}.jpg" for k in range(1, 9)])
    with pytest.raises(ValueError, match=r"The frames of 1 clips are in two folders, .*256.*--crop"):
        read(name, tmp_path)
    chosen, report, _ = read(name, tmp_path, "--crop", "224" if name == "dfew" else "2_ClipsforFaceCrop")
    assert chosen == rows and report.tally["images_ignored"] == 8


def test_the_validation_faces_of_sfew_as_they_are_distributed(tmp_path):
    trees.write_images(tmp_path, ["Train/Train_Aligned_Faces/Angry/A_1.png", "Val/Val_Aligned_Faces_new/Sad/B_1.png"])
    assert {(row["video_id"], row["split"]) for row in read("sfew", tmp_path)[0]} == {
        ("A_1", "train"), ("B_1", "validation"),
    }  # fmt: skip
    trees.write_images(tmp_path, ["Val_Aligned_Faces/Sad/B_1.png", "Val_Aligned_Faces/Sad/C_1.png"])
    with pytest.raises(ValueError, match="1 faces are in two folders"):
        read("sfew", tmp_path)
    rows, report, _ = read("sfew", tmp_path, "--crop", "Val_Aligned_Faces")
    assert sorted(column(rows, "video_id")) == ["A_1", "B_1", "C_1"] and report.tally["images_ignored"] == 1


@pytest.mark.parametrize(("name", "folder"), [("bp4d", "F001/T1"), ("gft", "001A")])
def test_images_that_count_from_0_belong_to_labels_that_count_from_1(tmp_path, name, folder):
    getattr(trees, name)(tmp_path)
    before = {row["frame"] for row in read(name, tmp_path)[0] if folder in row["path"]}
    assert min(before) == 1
    first = next(tmp_path.rglob(f"{folder}/*1.jpg"))
    first.with_name(first.name.replace("1", "0")).write_bytes(first.read_bytes())
    rows, report, _ = read(name, tmp_path)
    frame_of = {row["path"].rpartition("/")[2]: row["frame"] for row in rows if folder in row["path"]}
    assert report.tally["counted_from_0"] == 1
    assert all(frame == int(image.removesuffix(".jpg")) + 1 for image, frame in frame_of.items())
    rows, report, _ = read(name, tmp_path, "--first_image", "1")
    assert report.tally["counted_from_0"] == 0 and {row["frame"] for row in rows if folder in row["path"]} == before


def test_spreadsheets_that_are_none(tmp_path):
    trees.write_images(tmp_path, ["sub01/EP02_01f/img1.jpg"])
    trees.write(tmp_path, {"coding.xlsx": b"PK no"})
    with pytest.raises(ValueError, match=r"coding.xlsx cannot be read as a spreadsheet"):
        read("casme2", tmp_path)


# -------------------------------------------------------------------------------------------------- other emotions
def test_affectnet_csv(tmp_path):
    rows, report, emotions = read("affectnet", trees.affectnet_csv(tmp_path))
    assert counts(report) == {
        "rows": 14, "kept": 9, "dropped_no_emotion": 3, "unlabelled": 1, "missing_image": 1, "values_unknown": 2,
        "images_without_row": 4,
    }  # fmt: skip
    assert report.tally.examples["values_unknown"] == ["11", "arousal 1.5"]
    np.testing.assert_array_equal(
        np.float32([[row["valence"], row["arousal"]] for row in rows]),
        np.float32([[0.1, -0.2]] * 2 + [[np.nan] * 2, [0.5, np.nan]] + [[0.1, -0.2]] * 4 + [[0, 0]]),
    )
    assert [emotions[row["emotion"]] for row in rows] == [
        "Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Other", "Anger",
    ]  # fmt: skip
    assert column(rows, "split") == ["train"] * 8 + ["validation"] and rows[8]["path"] == "images/2/v.JPG"
    assert rows[0]["landmarks"] is None and rows[1]["landmarks"] == [k / 2 for k in range(136)]


def test_affectnet_npy(tmp_path):
    rows, report, emotions = read("affectnet", trees.affectnet_npy(tmp_path))
    assert counts(report) == {
        "rows": 8, "kept": 4, "malformed": 2, "dropped_no_emotion": 1, "unlabelled": 1, "values_unknown": 1,
        "images_without_row": 2,
    }  # fmt: skip
    assert {row["path"]: (emotions[row["emotion"]], row["split"]) for row in rows} == {
        "train_set/images/0.jpg": ("Happiness", "train"),
        "train_set/images/3.jpg": ("Other", "train"),
        "train_set/images/6.jpg": ("Fear", "train"),
        "val_set/images/0.jpg": ("Anger", "validation"),
    }
    assert all(np.isnan(row["valence"]) and row["arousal"] == 0.5 for row in rows)
    with pytest.raises(FileNotFoundError, match=r"no training\.csv or validation\.csv"):
        read("affectnet", tmp_path, "--layout", "csv")


def test_sfew(tmp_path):
    rows, report, emotions = read("sfew", trees.sfew(tmp_path))
    assert counts(report) == {"rows": 5, "kept": 4, "unlabelled": 1, "values_unknown": 1, "images_ignored": 1}
    assert report.tally.examples["images_ignored"] == ["Test/Test_Aligned_Faces"]
    found = [(row["video_id"], row["group_id"], emotions[row["emotion"]], row["split"]) for row in rows]
    assert found == [
        ("21_000519240_00000010", "21", "Happiness", "train"),
        ("Airheads_000519240_00000010", "Airheads", "Anger", "train"),
        ("Airheads_000519240_00000011", "Airheads", "Anger", "train"),
        ("Up_1_2", "Up_1_2", "Neutral", "validation"),
    ]


# ------------------------------------------------------------------------------------------------------------ clips
def test_middle_frames():
    """The middle of k equal parts; a clip shorter than k is taken whole, and none reaches into the next."""
    assert middle_frames(np.array([20]), 8).tolist() == [1, 3, 6, 8, 11, 13, 16, 18]
    assert middle_frames(np.array([3, 1, 4]), 2).tolist() == [0, 2, 3, 5, 7]
    assert middle_frames(np.array([5, 8]), 8).tolist() == list(range(13))


def test_dfew(tmp_path):
    rows, report, emotions = read("dfew", trees.dfew(tmp_path), "--frames_per_clip", "4")
    assert counts(report) == {
        "rows": 6, "kept": 8, "clips": 3, "labelled_twice": 1, "unlabelled": 1, "dropped_no_clip": 1,
        "values_unknown": 1,
    }  # fmt: skip
    assert [(row["video_id"], row["frame"]) for row in rows] == [
        *(("00001", frame) for frame in (2, 7, 12, 17)),
        *(("00002", frame) for frame in (0, 1, 2)),
        ("00003", 0),
    ]
    assert {row["video_id"]: (emotions[row["emotion"]], row["split"]) for row in rows} == {
        "00001": ("Happiness", "train"), "00002": ("Fear", "train"), "00003": ("Neutral", "validation"),
    }  # fmt: skip
    rows, report, _ = read("dfew", tmp_path, "--fold", "2")
    assert {row["video_id"]: row["split"] for row in rows} == {"00001": "validation", "00003": "train"}
    assert report.settings["frames_per_clip"] == 8 and report.settings["fold"] == 2
    with pytest.raises(FileNotFoundError, match=r"no EmoLabel_DataSplit/train\(single-labeled\)/set_3.csv"):
        read("dfew", tmp_path, "--fold", "3")
    with pytest.raises(ValueError, match="--frames_per_clip is 0"):
        read("dfew", tmp_path, "--frames_per_clip", "0")


def test_ferv39k(tmp_path):
    rows, report, emotions = read("ferv39k", trees.ferv39k(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 12, "clips": 3, "malformed": 1, "unlabelled": 1, "dropped_no_clip": 1, "values_unknown": 1,
    }  # fmt: skip
    assert {row["video_id"]: (emotions[row["emotion"]], row["split"]) for row in rows} == {
        "Crime/Angry/0063": ("Anger", "train"),
        "War/Happy/0063": ("Happiness", "train"),
        "Crime/Fear/0002": ("Fear", "validation"),
    }


def test_afew(tmp_path):
    pytest.importorskip("av")
    rows, report, emotions = read("afew", trees.afew(tmp_path), "--frames_per_clip", "5")
    assert counts(report) == {"rows": 3, "kept": 7, "clips": 2, "dropped_no_clip": 1, "unreadable_videos": 1}
    assert column(rows, "path")[:5] == [f"Train_AFEW/Angry/000046280.avi#{frame}" for frame in (1, 3, 5, 7, 9)]
    assert [(emotions[row["emotion"]], row["split"]) for row in rows][4:6] == [
        ("Anger", "train"),
        ("Sadness", "validation"),
    ]


def test_frames_of_videos_are_those_requested(tmp_path):
    """Frame k is 8 k bright: decoding that starts again, skips or runs over its end must not shift by one."""
    pytest.importorskip("av")
    trees.write(tmp_path, {"a.avi": trees.video_bytes(6), "b.avi": trees.video_bytes(3, 100), "c.avi": b"none"})
    videos = VideoReader()
    for name, index, brightness in (
        ("a", 0, 0),
        ("a", 4, 32),
        ("b", 1, 108),
        ("a", 2, 16),
        ("a", 2, 16),
        ("a", 5, 40),
    ):
        frame = Image.open(io.BytesIO(videos.read(tmp_path / f"{name}.avi", index)))
        assert abs(np.asarray(frame).mean() - brightness) < 3
    assert videos.read(tmp_path / "b.avi", 3) is None and videos.read(tmp_path / "c.avi", 0) is None
    assert split_video_path("x/a.avi#12") == ("x/a.avi", 12) and split_video_path("x/a.jpg") is None


def test_disfa_from_its_videos(tmp_path):
    pytest.importorskip("av")
    labels = {"ActionUnit_Labels/SN001/SN001_au1.txt": "1,0\n2,5\n3,5\n"}
    video = {"Video_LeftCamera/LeftVideoSN001_comp.avi": trees.video_bytes(2)}
    rows, report, _ = read("disfa", trees.write(tmp_path, {**labels, **video}))
    assert [(row["path"][-6:], row["frame"], row["AU1"]) for row in rows] == [(".avi#0", 1, 0), (".avi#1", 2, 1)]
    assert counts(report)["missing_image"] == 1


# --------------------------------------------------------------------------------------------------------- own CSVs
def test_csv(tmp_path):
    rows, report, emotions = read("csv", trees.own_csv(tmp_path))
    assert counts(report) == {
        "rows": 6, "kept": 3, "unlabelled": 1, "missing_image": 1, "dropped_outside": 1, "images_without_row": 1,
        "columns_not_used": 2,
    }  # fmt: skip
    assert [(row["path"], row["AU1"], row["AU12"], row["emotion"], row["group_id"]) for row in rows] == [
        ("a/1.jpg", 1, 0, 4, "anna"),
        ("a/2.jpg", -1, -1, 5, "anna"),
        ("b/1.png", 0, 1, None, "bo"),
    ]
    assert report.tally.examples["dropped_outside"] == ["../a/1.jpg"] and emotions == EMOTIONS
    assert report.tally.examples["missing_image"] == ["b/9.jpg"]


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


def test_csv_of_valence_and_arousal(tmp_path):
    text = "path,valence,arousal\n1.jpg,-1,0.25\n2.jpg,,\n3.jpg,0.5,\n"
    trees.write(trees.write_images(tmp_path, ["1.jpg", "2.jpg", "3.jpg"]), {"labels.csv": text})
    rows, report, _ = read("csv", tmp_path)
    assert counts(report)["unlabelled"] == 1 and [(row["path"], row["valence"]) for row in rows] == [
        ("1.jpg", -1),
        ("3.jpg", 0.5),
    ]
    assert rows[0]["arousal"] == 0.25 and np.isnan(rows[1]["arousal"]) and rows[0]["emotion"] is None
    assert "valence, arousal" in report.to_markdown() and "-1.00 0.25" in report.to_markdown()


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("path,AU1\n1.jpg,2\n", [], "Row 1 of the CSV file: AU1 is '2'; it must be 1, 0, -1"),
        ("path,AU1\n1.jpg,x\n", ["--threshold", "1"], "AU1 is 'x'; it must be an intensity"),
        ("path,AU1\n1.jpg,inf\n", ["--threshold", "1"], "AU1 is 'inf'"),
        ("path,frame\n1.jpg,-1\n", [], "frame is '-1'; it must be a number"),
        ("path,split\n1.jpg,dev\n", [], "split is 'dev'; it must be train or validation"),
        ("name,AU1\n1.jpg,1\n", [], "lacks the column path; it has name, AU1"),
        ("path,AU1,AU1\n1.jpg,1,1\n", [], "must have exactly once AU1, AU1; its header is path, AU1, AU1"),
        ("path,emotion\n1.jpg,happy\n2.jpg,hapy\n", [], "The emotions Hapy are none of"),
        ("path,emotion\n1.jpg,3\n", [], r"The emotions are numbers \(3\)"),
        ("path,valence\n1.jpg,0.5\n2.jpg,-5\n", [], "Row 2 of the CSV file: valence is '-5'; it must lie in -1..1"),
        ("path,arousal\n1.jpg,nan\n", [], "arousal is 'nan'; it must lie in -1..1, or be empty"),
        ("path,note\n1.jpg,x\n", [], "neither an AU column nor emotion, valence or arousal; it has path, note"),
    ],
)
def test_csv_errors(tmp_path, text, words, message):
    trees.write(trees.write_images(tmp_path, ["1.jpg", "2.jpg"]), {"labels.csv": text})
    with pytest.raises(ValueError, match=message):
        read("csv", tmp_path, *words)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".JPEG"])
@pytest.mark.parametrize("spelling", ["sub/f{}", "./sub/f{}", "sub\\f{}", ".\\sub\\f{}", "sub//f{}", "{root}/sub/f{}"])
def test_csv_paths_as_people_write_them(tmp_path, spelling, suffix):
    trees.write(trees.write_images(tmp_path, [f"sub/f{suffix}"]), {})
    text = f"path,AU1\n{spelling.replace('{root}', str(tmp_path)).format(suffix)},1\n"
    rows, report, _ = read("csv", trees.write(tmp_path, {"labels.csv": text}))
    assert [(row["path"], row["AU1"]) for row in rows] == [(f"sub/f{suffix}", 1)], report


@pytest.mark.parametrize("text", ["path;AU1;AU12\n1.jpg;2,5;0,0\n", "path\tAU1\tAU12\n1.jpg\t2.5\t0\n"])
def test_csv_as_spreadsheets_write_it(tmp_path, text):
    trees.write(trees.write_images(tmp_path, ["1.jpg"]), {"labels.csv": text})
    ((row,), _, _) = read("csv", tmp_path, "--threshold", "2")
    assert (row["AU1"], row["AU12"]) == (1, 0)


def test_csv_says_why_a_row_has_no_picture(tmp_path):
    text = "path,AU1\n1.jpg,1\n2.jpg,1\n../3.jpg,1\n/elsewhere/4.jpg,1\nnotes.txt,1\n"
    trees.write(trees.write_images(tmp_path, ["1.jpg"]), {"labels.csv": text})
    _, report, _ = read("csv", tmp_path)
    counts = {name: report.tally[name] for name in ("kept", "missing_image", "dropped_outside", "dropped_kind")}
    assert counts == {"kept": 1, "missing_image": 1, "dropped_outside": 2, "dropped_kind": 1}


@pytest.mark.parametrize("names", [("AU01", "AU12"), ("au_1", "AU12_c"), ("AU1", "AU 12")])
def test_csv_aus_however_they_are_spelt(tmp_path, names):
    text = f"path,{names[0]},{names[1]},AU43\n1.jpg,1,0,1\n"
    trees.write(trees.write_images(tmp_path, ["1.jpg"]), {"labels.csv": text})
    ((row,), report, _) = read("csv", tmp_path)
    assert (row["AU1"], row["AU12"]) == (1, 0) and report.tally["columns_not_used"] == 1


def test_csv_intensities_by_name_take_a_threshold(tmp_path):
    trees.write(trees.write_images(tmp_path, ["1.jpg"]), {"labels.csv": "path,AU01_r\n1.jpg,2.5\n"})
    with pytest.raises(ValueError, match="AU01_r are intensities from 0 to 5; give --threshold"):
        read("csv", tmp_path)
    ((row,), _, _) = read("csv", tmp_path, "--threshold", "2")
    assert row["AU1"] == 1


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
        ("ckplus", r"FACS/.../S005_001_00000011_facs.txt"),
        ("gft", r"label file such as 001A.csv"),
        ("rafau", r"RAFAU_label.txt"),
        ("emotionet", r"CSV file \(or \*\.xlsx\) of labels"),
        ("casme2", r"spreadsheet \(\*.xlsx\) of labels"),
        ("cas_me2", r"spreadsheet \(\*.xlsx\) of labels"),
        ("affectnet", r"training.csv or validation.csv"),
        ("dfew", r"EmoLabel_DataSplit/train"),
        ("ferv39k", r"4_setups/All_scenes/train_All.csv"),
        ("sfew", r"image such as Train/Train_Aligned_Faces/Angry/name.png"),
        ("afew", r"train_afew/Angry/012345678.avi"),
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


# --------------------------------------------------------------------------------------------------------- in general
@pytest.mark.parametrize("name", list(READERS))
def test_every_reader_says_what_its_data_set_is(name):
    about = load_reader(name).ABOUT
    assert about.name and about.citation and about.splits and about.license.license_name
    assert set(about.au_ids) <= set(ACTION_UNITS) and set(about.emotions) <= set(EMOTIONS)
    assert about.au_ids or about.emotions


# --------------------------------------------------------------------------------------------------------------- fuzz
CELL = st.text(st.sampled_from("0123456789.,;:+-/ \t\"'xLRAUnull?é\x00\r"), max_size=12)


def fuzzed(fields, separator=","):
    """Lines of those fields, now and then one replaced."""
    odd = CELL | st.sampled_from(["9", "999", "-1", "nan", "1e400", "0x1", "２"])
    line = st.tuples(*(st.sampled_from(field) | odd for field in fields)).map(separator.join)
    return st.lists(line | CELL, max_size=8).map("\n".join)


FUZZED = {
    "disfa": ("ActionUnit_Labels/SN001/SN001_au1.txt", "", fuzzed([["1", "2", "3"], ["0", "1", "5"]])),
    "rafau": ("RAFAU_label.txt", "", fuzzed([["0001.jpg", "0003.jpg"], ["1+4", "L12", "null", "?"]], " ")),
    "rafdb": ("basic/EmoLabel/list_patition_label.txt", "", fuzzed([["train_00001.jpg"], ["1", "7", "8"]], " ")),
    "ckplus": ("FACS/S005/001/S005_001_00000003_facs.txt", "", fuzzed([["1.0", "12"], ["0", "3.0e0"]], " ")),
    "gft": ("AUs/001A.csv", "Frame#,AU1\n", fuzzed([["1", "2"], ["0", "1", "9"]])),
    "emotionet": ("labels.csv", "URL,'AU 1'\n", fuzzed([["http://x/one.jpg", "two.jpg"], ["0", "1", "999"]])),
    "affectnet": (
        "lists/training.csv",
        "subDirectory_filePath,facial_landmarks,expression\n",
        fuzzed([["1/p1.jpg", "../1/p1.jpg"], [";".join(["1"] * 136), ""], ["0", "7", "8"]]),
    ),
    "dfew": (
        "EmoLabel_DataSplit/train(single-labeled)/set_1.csv",
        "video_name,label\n",
        fuzzed([["1", "2"], ["1", "7"]]),
    ),
    "ferv39k": (
        "4_setups/All_scenes/train_All.csv",
        "",
        fuzzed([["Crime/Angry/0063", "War/Odd/0001"], ["Angry"]], " "),
    ),
    "csv": (
        "labels.csv",
        "path,AU1,emotion\n",
        fuzzed([["a/1.jpg", "b/1.png"], ["1", "0", ""], ["happy", "", "joy"]]),
    ),
}


def fields(line):
    return [cell.strip() for cell in next(csv.reader([line]), [])]


def emotion_of(row):
    return None if row["emotion"] is None else EMOTIONS[row["emotion"]]


def same_number(text, number):
    """Whether the text is that number, as plain Python reads it; an unlabelled -1 needs no evidence."""
    try:
        return number in (-1, float(text))
    except ValueError:
        return number == -1


EVIDENCE = {
    "disfa": lambda row, cells: same_number(cells[0], row["frame"]) and row["AU1"] == (int(cells[1]) in range(2, 6)),
    "rafau": lambda row, cells: (
        cells[0].startswith(f"{row['video_id']}.jpg")
        and set(aus_of(row)[0]) == {int(n) for n in re.findall(r"[0-9]+", cells[0][8:])} & set(ACTION_UNITS)
    ),
    "rafdb": lambda row, cells: cells[0].split() == [f"{row['video_id']}.jpg", RAFDB_CODES[emotion_of(row)]],
    "gft": lambda row, cells: same_number(cells[0], row["frame"]) and same_number(cells[1], row["AU1"]),
    "emotionet": lambda row, cells: row["video_id"] in cells[0] and same_number(cells[1], row["AU1"]),
    "affectnet": lambda row, cells: cells[0] == row["path"][7:] and cells[2] == AFFECTNET_CODES[emotion_of(row)],
    "dfew": lambda row, cells: cells[0].zfill(5) == row["video_id"] and DFEW_CODES[cells[1]] == emotion_of(row),
    "ferv39k": lambda row, cells: cells[0].split() == [row["video_id"], "Angry"] and emotion_of(row) == "Anger",
    "csv": lambda row, cells: cells[0] == row["path"] and same_number(cells[1], row.get("AU1", -1)),
}
"""Whether a line of the fuzzed file says what a row has, read another way than the readers do."""

RAFDB_CODES = {name: code for code, name in rafdb.CODES.items()}
AFFECTNET_CODES = {"Other" if name == "Contempt" else name: str(code) for code, name in enumerate(affectnet.CODES)}
DFEW_CODES = dfew.CODES
FROM_FUZZED_FILE = {
    "disfa": lambda row: row["group_id"] == "SN001" and row.get("AU1", -1) != -1,
    "gft": lambda row: row["video_id"] == "001A",
    "affectnet": lambda row: row["split"] == "train",
    "dfew": lambda row: row["split"] == "train",
    "ferv39k": lambda row: row["split"] == "train",
}


@pytest.fixture(scope="module")
def fuzz_roots(tmp_path_factory):
    makers = {"affectnet": trees.affectnet_csv, "csv": trees.own_csv}
    return {name: makers.get(name, getattr(trees, name, None))(tmp_path_factory.mktemp(name)) for name in FUZZED}


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fuzzed_annotations(fuzz_roots, name, data):
    """Whatever an annotation file holds: one clear error, or rows of which every label stands in a line of it."""
    path, header, bodies = FUZZED[name]
    body = data.draw(bodies)
    (fuzz_roots[name] / path).write_bytes((header + body).encode())
    try:
        rows, _, _ = read(name, fuzz_roots[name])
    except (ValueError, FileNotFoundError) as error:
        assert str(fuzz_roots[name]) in str(error) or "CSV file" in str(error) or "emotions" in str(error)
        return
    lines = [fields(line) for line in re.split(r"[\r\n]+", body) if line]
    for row in rows:
        assert row["emotion"] is not None or any(value in (0, 1) for key, value in row.items() if key[:2] == "AU")
        assert (fuzz_roots[name] / row["path"]).resolve().is_relative_to(fuzz_roots[name].resolve())
        if name in EVIDENCE and FROM_FUZZED_FILE.get(name, lambda row: True)(row):
            assert any(says(EVIDENCE[name], row, cells) for cells in lines), (row, body)


def says(evidence, row, cells):
    """Whether this line is the evidence; a line that is none at all is not."""
    try:
        return evidence(row, cells)
    except (ValueError, IndexError, KeyError):
        return False
