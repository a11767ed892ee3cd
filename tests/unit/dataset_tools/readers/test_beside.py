"""What lies beside the files that a reader reads, as public loaders of the data sets find it: the right values."""

import io

import data_set_trees as trees
import numpy as np
import pytest
from reader_rig import column, counts, read

from mf2.labels_mf2 import NUM_LANDMARKS

POINTS = [k / 2 for k in range(2 * NUM_LANDMARKS)]


def npy(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(value))
    return file.getvalue()


# -------------------------------------------------------------------------------------------------------------- CK+
def landmark_file(number_of_points: int = NUM_LANDMARKS) -> str:
    return "".join(f"  {POINTS[2 * k]:.7e}  {POINTS[2 * k + 1]:.7e}\n" for k in range(number_of_points))


def test_ckplus_landmarks_are_read_and_a_torn_file_is_refused(tmp_path):
    folder = "Landmarks/S005"
    trees.write(
        trees.ckplus(tmp_path),
        {
            f"{folder}/001/S005_001_00000001_landmarks.txt": landmark_file(),  # of a frame that has no label
            f"{folder}/001/S005_001_00000003_landmarks.txt": landmark_file(),
            f"{folder}/002/S005_002_00000002_landmarks.txt": landmark_file(60),
        },
    )
    rows, report, _ = read("ckplus", tmp_path)
    assert [None if row["landmarks"] is None else list(row["landmarks"]) for row in rows] == [POINTS, None, None]
    assert counts(report)["landmark_files"] == 1 and counts(report)["rejected_files"] == 2


def test_ckplus_crops_are_chosen_and_have_no_landmarks(tmp_path):
    trees.write(trees.ckplus(tmp_path), {"Landmarks/S005/001/S005_001_00000003_landmarks.txt": landmark_file()})
    trees.write_images(tmp_path, ["ck_face/S005/001/S005_001_00000003.png"])
    with pytest.raises(ValueError, match=r"in two folders.*--crop"):
        read("ckplus", tmp_path)
    rows, report, _ = read("ckplus", tmp_path, "--crop", "ck_face")
    assert column(rows, "path") == ["ck_face/S005/001/S005_001_00000003.png"]
    assert rows[0]["landmarks"] is None and rows[0]["AU12"] == 1
    assert counts(report)["images_ignored"] == 7 and report.settings["crop"] == "ck_face/S005/001"


def test_ckplus_without_facs_has_emotions_alone(tmp_path):
    root = trees.ckplus(tmp_path)
    for path in (root / "FACS").rglob("*.txt"):
        path.unlink()
    rows, report, emotions = read("ckplus", root)
    assert {row["video_id"]: emotions[row["emotion"]] for row in rows} == {"S005_001": "Other", "S010_001": "Anger"}
    assert not any(name.startswith("AU") for name in rows[0]) and counts(report)["no_facs_file"] == 3


# ----------------------------------------------------------------------------------------------------------- RAF-AU
def test_rafau_numbers_may_lack_their_zeros_and_lines_end_in_spaces(tmp_path):
    trees.write(tmp_path, {"RAFAU_label.txt": "7.jpg 1+4 \n0008.jpg null \r\n 0009.jpg R12\n"})
    trees.write_images(tmp_path, [f"aligned/aligned/{stem}_aligned.jpg" for stem in ("0007", "0008", "0009")])
    rows, report, _ = read("rafau", tmp_path)
    assert {row["path"]: (row["AU1"], row["AU4"], row["AU12"]) for row in rows} == {
        "aligned/aligned/0007_aligned.jpg": (1, 1, 0),
        "aligned/aligned/0009_aligned.jpg": (0, 0, 1),
    }
    assert counts(report) == {"rows": 3, "kept": 2, "dropped_null": 1, "images_without_row": 1}


# -------------------------------------------------------------------------------------------------------- AffectNet
def test_affectnet_validation_without_a_header_loses_no_row(tmp_path):
    root = trees.affectnet_csv(tmp_path)
    path = root / "lists" / "validation.csv"
    path.write_text(path.read_text().partition("\n")[2])
    rows, report, emotions = read("affectnet", root)
    assert (rows[8]["path"], emotions[rows[8]["emotion"]], rows[8]["split"]) == (
        "images/2/v.JPG",
        "Anger",
        "validation",
    )
    assert list(rows[8]["landmarks"]) == POINTS and counts(report)["rows"] == 14
    path.write_text("2/v.JPG,6\n")
    with pytest.raises(ValueError, match=r"validation.csv must have exactly once subDirectory_filePath"):
        read("affectnet", root)


def test_affectnet_says_which_labels_it_leaves_alone(tmp_path):
    root = trees.affectnet_npy(trees.affectnet_csv(tmp_path))
    trees.write(root, {"Automatically_Annotated_file_lists/automatically_annotated.csv": "subDirectory_filePath\n"})
    _, report, _ = read("affectnet", root)
    assert report.settings["layout"] == "csv" and counts(report)["labels_ignored"] == 1 + 8
    _, report, _ = read("affectnet", root, "--layout", "npy")
    assert counts(report)["labels_ignored"] == 1 + 2
    assert "lists/training.csv" in report.tally.examples["labels_ignored"]


def test_affectnet_npy_landmarks(tmp_path):
    annotations = "train_set/annotations"
    trees.write(
        trees.affectnet_npy(tmp_path),
        {f"{annotations}/0_lnd.npy": npy(POINTS), f"{annotations}/3_lnd.npy": npy(POINTS[:-2])},
    )
    rows, report, _ = read("affectnet", tmp_path)
    found = {row["path"]: None if row["landmarks"] is None else list(row["landmarks"]) for row in rows}
    assert found["train_set/images/0.jpg"] == POINTS
    assert found["train_set/images/3.jpg"] is found["val_set/images/0.jpg"] is None
    assert counts(report)["values_unknown"] == 2 and "landmarks 3_lnd.npy" in report.tally.examples["values_unknown"]


# ------------------------------------------------------------------------------------------------------------- AFEW
def test_afew_says_what_it_leaves_alone_and_reads_folders_without_the_name(tmp_path):
    pytest.importorskip("av")
    trees.write(
        tmp_path,
        {
            "Train/Angry/000046280.avi": trees.video_bytes(2),
            "Val/Sad/000046282.avi": trees.video_bytes(2),
            "Test_AFEW/000046283.avi": trees.video_bytes(2),
        },
    )
    trees.write_images(tmp_path, ["Train/AlignedFaces_LBPTOP_Points/Faces/000046280/000.jpg"])
    rows, report, emotions = read("afew", tmp_path, "--frames_per_clip", "1")
    assert [(row["path"], emotions[row["emotion"]], row["split"]) for row in rows] == [
        ("Train/Angry/000046280.avi#1", "Anger", "train"),
        ("Val/Sad/000046282.avi#1", "Sadness", "validation"),
    ]
    assert counts(report) == {"rows": 2, "kept": 2, "clips": 2, "videos_ignored": 1, "images_ignored": 1}


@pytest.mark.parametrize("other", ["Train_AFEW/Angry/000046280.mp4", "Train_AFEW/Happy/000046280.avi"])
def test_afew_videos_that_are_there_twice_are_refused(tmp_path, other):
    trees.write(tmp_path, {"Train_AFEW/Angry/000046280.avi": b"video", other: b"video"})
    with pytest.raises(ValueError, match=r"1 videos are in two folders.*000046280"):
        read("afew", tmp_path)
