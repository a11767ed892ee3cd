"""The Aff-Wild2 reader: every oddity of the real folders is planted in a small tree and must be counted exactly."""

import math
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf2.dataset_tools.readers.affwild2 import base_video, find_layout, index
from mf2.dataset_tools.readers.frame_table import parse_ints
from mf2.labels_mf2 import AFFECT, AU_IDS, EMOTIONS

AU_HEADER = ",".join(f"AU{au_id}" for au_id in AU_IDS)
EXPR_HEADER = ",".join(EMOTIONS)
ON, OFF, UNKNOWN = (",".join([str(value)] * 12) for value in (1, 0, -1))
PARTLY = "1,-1" + ",0" * 10
MTL_HEADER = "image,valence,arousal,expression,aus"


class Tree:
    """A folder in the layout of one edition, written line by line."""

    def __init__(self, root: Path, expr="EXPR_Recognition_Challenge", au="AU_Detection_Challenge", train="Train_Set"):
        self.root = root
        self.expr_dir, self.au_dir = (root / "annotations" / name for name in (expr, au))
        self.split_dirs = {"train": train, "validation": "Validation_Set"}

    def expr(self, video, rows, split="train", header=EXPR_HEADER):
        return self._write(self.expr_dir / self.split_dirs[split] / f"{video}.txt", [header, *map(str, rows)])

    def aus(self, video, rows, split="train", header=AU_HEADER):
        return self._write(self.au_dir / self.split_dirs[split] / f"{video}.txt", [header, *rows])

    def affect(self, video, rows, split="train", header="valence,arousal", task="VA_Estimation_Challenge"):
        path = self.root / "annotations" / task / self.split_dirs[split] / f"{video}.txt"
        return self._write(path, [header, *rows])

    def mtl(self, lines, split="train", header=MTL_HEADER):
        return self._write(self.root / "annotations" / "MTL_Challenge" / f"{split}_set.txt", [header, *lines])

    def crops(self, video, frames, folder="cropped_aligned"):
        for frame in frames:
            self.file(f"{folder}/{video}/{frame:05d}.jpg")

    def file(self, name):
        return self._write(self.root / name, [])

    def _write(self, path, lines):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogatepass")
        return path


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "root")


def kept(table):
    """{(video, frame): (emotion, AU1 ... AU26, split)} of an index."""
    return {
        (row["video_id"], row["frame"]): (row["emotion"], [row[f"AU{i}"] for i in AU_IDS], row["split"])
        for row in table.to_pylist()
    }


def affect(table):
    """{(video, frame): (valence, arousal)} of an index, None where it is unlabelled."""
    return {
        (row["video_id"], row["frame"]): tuple(None if math.isnan(row[n]) else round(row[n], 6) for n in AFFECT)
        for row in table.to_pylist()
    }


def counted(report, *names):
    return {name: report.tally[name] for name in names}


def test_row_k_is_frame_k_plus_one(tree):
    tree.expr("v", [4, 0, 7])
    tree.aus("v", [ON, OFF, "0,1" + ",0" * 10])
    tree.crops("v", [1, 2, 3])
    table, _ = index(tree.root)
    assert kept(table) == {
        ("v", 1): (4, [1] * 12, "train"),
        ("v", 2): (0, [0] * 12, "train"),
        ("v", 3): (7, [0, 1] + [0] * 10, "train"),
    }
    assert table["path"].to_pylist() == [f"cropped_aligned/v/0000{i}.jpg" for i in (1, 2, 3)]


def test_unlabelled_frames_are_dropped_or_masked(tree):
    tree.expr("v", [4, -1, 3, -1, 5])
    tree.aus("v", [ON, ON, PARTLY, UNKNOWN, UNKNOWN])
    tree.crops("v", range(1, 6))
    dropped, report = index(tree.root, "drop")
    assert kept(dropped) == {("v", 1): (4, [1] * 12, "train")}
    assert counted(report, "expr_unlabelled", "au_unlabelled", "au_partly_unlabelled", "dropped_unlabelled") == {
        "expr_unlabelled": 2,
        "au_unlabelled": 2,
        "au_partly_unlabelled": 1,
        "dropped_unlabelled": 4,
    }
    masked, report = index(tree.root, "mask")
    assert kept(masked) == {
        ("v", 1): (4, [1] * 12, "train"),
        ("v", 2): (None, [1] * 12, "train"),
        ("v", 3): (3, [1, -1] + [0] * 10, "train"),
        ("v", 5): (5, [-1] * 12, "train"),
    }
    assert counted(report, "dropped_unlabelled", "kept", "kept_both_tasks") == {
        "dropped_unlabelled": 1,
        "kept": 4,
        "kept_both_tasks": 2,
    }


def test_rows_and_crops_that_do_not_match(tree):
    """Lengths differ in most real videos; what has no partner is counted, never shifted."""
    tree.expr("longer", [0] * 6)
    tree.crops("longer", [1, 2, 3, 5])  # 4 is missing mid-sequence, row 6 is after the last crop
    tree.expr("shorter", [0] * 2)
    tree.crops("shorter", [1, 2, 3])
    tree.expr("nowhere", [0] * 5)
    tree.expr("hollow", [0] * 3)
    (tree.root / "cropped_aligned" / "hollow").mkdir()
    tree.crops("unknown", [1])
    tree.expr("both", [0, 0, 0])
    tree.aus("both", [ON, ON])
    tree.crops("both", [1, 2, 3])
    table, report = index(tree.root, "mask")
    assert sorted(kept(table)) == [*(("both", i) for i in (1, 2, 3)), *(("longer", i) for i in (1, 2, 3, 5)),
                                   *(("shorter", i) for i in (1, 2))]  # fmt: skip
    names = ("frames", "kept", "dropped_no_folder", "dropped_after_last_crop", "dropped_missing_crop",
             "dropped_unlabelled", "crops_without_row", "folders_missing", "folders_without_annotation",
             "length_disagreements")  # fmt: skip
    assert list(counted(report, *names).values()) == [19, 9, 8, 1, 1, 0, 1, 2, 1, 1]
    assert report.tally.examples["folders_missing"] == ["hollow", "nowhere"]
    assert report.length_differences == {"expr": {1: 1, -1: 1, 0: 1}, "au": {-1: 1}}


def test_two_people_are_one_group_and_one_split(tree):
    tree.expr("video2_left", [0], "train")
    tree.expr("video2", [0], "validation")
    tree.expr("10-60-1280x720_right", [0], "validation")
    tree.expr("10-60-1280x720", [0], "validation")
    tree.expr("disputed", [0], "validation")
    tree.aus("disputed", [ON], "train")
    tree.aus("agreed", [ON], "validation")
    tree.expr("agreed", [1], "validation")
    for video in ("video2_left", "video2", "10-60-1280x720_right", "10-60-1280x720", "disputed", "agreed"):
        tree.crops(video, [1])
    table, report = index(tree.root, "mask")
    rows = {row["video_id"]: (row["group_id"], row["split"]) for row in table.to_pylist()}
    assert rows == {
        "video2_left": ("video2", "train"),
        "video2": ("video2", "train"),
        "10-60-1280x720_right": ("10-60-1280x720", "validation"),
        "10-60-1280x720": ("10-60-1280x720", "validation"),
        "disputed": ("disputed", "train"),
        "agreed": ("agreed", "validation"),
    }
    assert report.tally.examples["split_disagreements"] == ["disputed", "video2"]
    assert list(counted(report, "videos", "groups", "two_person_groups", "groups_both_tasks").values()) == [6, 4, 2, 2]
    assert base_video("left_right") == "left" and base_video("copyright") == "copyright"


@pytest.mark.parametrize(
    "names",
    [
        {"expr": "EXPR_Classification_Challenge"},
        {"expr": "EXPR_Set", "au": "AU_Set", "train": "Training_Set"},
        {"expr": "EXPR_Recognition_Challenge", "au": "AU_Detection_Challenge"},
    ],
    ids=["third-fifth", "first-second", "sixth"],
)
def test_editions(tmp_path, names):
    tree = Tree(tmp_path / "root", **names)
    tree.expr("v", [2], header=EXPR_HEADER + " ")  # some editions have a space there
    tree.aus("v", [ON])
    tree.crops("v", [1], folder="cropped_aligned_new_50_vids")
    table, _ = index(tree.root)
    assert kept(table) == {("v", 1): (2, [1] * 12, "train")}
    assert table["path"].to_pylist() == ["cropped_aligned_new_50_vids/v/00001.jpg"]


def test_columns_are_read_by_their_names(tree):
    """An older edition has seven emotions and eight AUs, one of them AU20: position alone would mislabel."""
    tree.expr("v", [6, 7], header="Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise")
    tree.aus("v", ["1,0,1,0,1,1,1,0", ON], header="AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25")
    tree.crops("v", [1, 2])
    table, report = index(tree.root, "mask")
    assert kept(table) == {("v", 1): (6, [1, 0, 1, 0, -1, -1, 1, 1, -1, -1, 0, -1], "train")}
    assert list(counted(report, "aus_not_used", "expr_malformed", "au_malformed").values()) == [1, 1, 1]


def test_malformed_lines_keep_their_place(tree):
    tree.expr("v", [0, "", "x", 8, -2, "1,1", "1_0", 5])
    tree.aus("v", [ON, "", "0,0", OFF + ",0", OFF[:-1] + "2", '"' + OFF, " " + OFF.replace(",", " , "), OFF])
    tree.crops("v", range(1, 9))
    table, report = index(tree.root, "mask")
    assert kept(table) == {
        ("v", 1): (0, [1] * 12, "train"),
        ("v", 7): (None, [0] * 12, "train"),
        ("v", 8): (5, [0] * 12, "train"),
    }
    assert list(counted(report, "expr_malformed", "au_malformed", "dropped_unlabelled").values()) == [6, 5, 5]


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
def test_newlines_and_byte_order_marks(tree, newline):
    path = tree.expr("v", [])
    path.write_bytes(("\ufeff" + newline.join([EXPR_HEADER, "3", "4"])).encode())
    tree.crops("v", [1, 2])
    table, _ = index(tree.root, "mask")
    assert table["emotion"].to_pylist() == [3, 4]


def test_stray_and_refused_files(tree):
    tree.expr("v", [1, 2])
    tree.expr("headless", [1], header="0")
    tree.aus("headless", [ON], header=AU_HEADER.replace("AU2,", "AU1,"))
    tree.expr("v", [5, 5], "validation")
    tree.crops("v", [1, 2])
    for name in (
        "annotations/EXPR_Recognition_Challenge/.DS_Store",
        "annotations/EXPR_Recognition_Challenge/Train_Set/.DS_Store",
        "annotations/EXPR_Recognition_Challenge/Train_Set/.hidden.txt",
        "annotations/EXPR_Recognition_Challenge/Test_Set/names.txt",
        "cropped_aligned/.DS_Store",
        "cropped_aligned/v/.DS_Store",
        "cropped_aligned/v/1.jpg",
        "cropped_aligned/v/000003.jpg",
        "cropped_aligned/v/00003.png",
    ):
        tree.file(name)
    table, report = index(tree.root, "mask")
    assert kept(table) == {("v", 1): (1, [-1] * 12, "train"), ("v", 2): (2, [-1] * 12, "train")}
    assert counted(report, "stray_files", "rejected_files", "annotations_twice", "expr_files", "au_files") == {
        "stray_files": 9,
        "rejected_files": 2,
        "annotations_twice": 1,
        "expr_files": 1,
        "au_files": 0,
    }


def test_crops_of_one_video_in_two_folders(tree):
    tree.expr("v", [0, 1, 2])
    tree.crops("v", [1, 2], folder="cropped_aligned")
    tree.crops("v", [2, 3], folder="cropped_aligned_new_50_vids")
    table, report = index(tree.root, "mask")
    assert table["path"].to_pylist() == [
        "cropped_aligned/v/00001.jpg",
        "cropped_aligned/v/00002.jpg",
        "cropped_aligned_new_50_vids/v/00003.jpg",
    ]
    assert report.tally["crops_twice"] == 1


def test_mtl_layout(tree):
    tree.mtl(
        [
            f"v/00007.jpg,0.1,-0.5,4,{ON}",
            f"v/00003.jpg,-5,-5,-1,{OFF}",
            f"v/00003.jpg,-5,-5,2,{ON}",  # the same image again
            f"w/00001.jpg,0.1,0.2,9,{OFF}",
            f"w/00002.jpg,0.1,0.2,1,{OFF},1",
            f"w/00009.jpg,0.1,0.2,1,{OFF}",
            f"thumbnail.jpg,0.1,0.2,1,{OFF}",
        ]
    )
    tree.mtl([f"z/00001.jpg,0,0,6,{PARTLY}"], split="validation")
    tree.crops("v", [3, 7])
    tree.crops("w", [1, 2, 3])
    tree.crops("z", [1])
    table, report = index(tree.root, "mask")
    assert kept(table) == {
        ("v", 3): (None, [0] * 12, "train"),
        ("v", 7): (4, [1] * 12, "train"),
        ("w", 1): (None, [0] * 12, "train"),
        ("w", 2): (None, [-1] * 12, "train"),
        ("z", 1): (6, [1, -1] + [0] * 10, "validation"),
    }
    assert affect(table) == {
        ("v", 3): (None, None),
        ("v", 7): (0.1, -0.5),
        ("w", 1): (0.1, 0.2),
        ("w", 2): (0.1, 0.2),
        ("z", 1): (0, 0),
    }
    names = ("annotations_twice", "rejected_lines", "expr_malformed", "au_malformed", "dropped_unlabelled",
             "dropped_after_last_crop", "crops_without_row", "frames", "kept")  # fmt: skip
    assert list(counted(report, *names).values()) == [1, 1, 2, 1, 0, 1, 1, 6, 5]


def test_valence_and_arousal_do_not_choose_the_frames(tree):
    """`drop` keeps the same frames with and without the third track; `mask` also those that it alone labels."""
    tree.expr("v", [4, 0, -1])
    tree.aus("v", [ON, OFF, UNKNOWN])
    tree.crops("v", range(1, 5))
    assert "valence" not in index(tree.root)[0].column_names
    tree.affect("v", ["0.5,-0.25", "-5,-5", "-1,1", "0.5,1.5", "0,0"], split="validation")
    tree.affect("only", ["0.5,nan", "x", "-0.5,-5.0"])
    tree.crops("only", [1, 2, 3])
    dropped, report = index(tree.root, "drop")
    assert affect(dropped) == {("v", 1): (0.5, -0.25), ("v", 2): (None, None)}
    assert set(dropped["split"].to_pylist()) == {"train"}  # no task trains on another's validation videos
    masked, report = index(tree.root, "mask")
    assert affect(masked) == affect(dropped) | {("v", 3): (-1, 1), ("only", 3): (-0.5, None)}
    names = ("va_files", "va_rows", "va_unlabelled", "va_malformed", "kept", "kept_affect", "groups_both_tasks")
    assert list(counted(report, *names).values()) == [2, 8, 4, 3, 4, 2, 1]
    assert report.official_splits["va"] == {"train": ["only"], "validation": ["v"]}
    tree.affect("other", ["0,0"], header="arousal,valence")
    assert counted(index(tree.root, "mask")[1], "rejected_files") == {"rejected_files": 1}


@pytest.mark.parametrize("task", ["VA_Estimation_Challenge", "VA_Set"])
def test_a_tree_of_valence_and_arousal_alone(tree, task):
    tree.affect("v", ["0.5,-0.25"], task=task)
    tree.crops("v", [1])
    assert affect(index(tree.root, "mask")[0]) == {("v", 1): (0.5, -0.25)}
    assert len(index(tree.root, "drop")[0]) == 0


def test_the_layout_is_chosen_when_both_are_there(tree):
    tree.expr("v", [1])
    tree.aus("v", [OFF])
    tree.mtl([f"v/00001.jpg,0,0,6,{ON}"])
    tree.crops("v", [1])
    assert kept(index(tree.root)[0]) == {("v", 1): (1, [0] * 12, "train")}
    assert kept(index(tree.root, layout="mtl")[0]) == {("v", 1): (6, [1] * 12, "train")}


# ------------------------------------------------------------------------------------------------ never outside
@pytest.mark.parametrize(
    "image",
    ["/etc/00001.jpg", "../secret/00001.jpg", "v/../../secret/00001.jpg", "..\\secret/00001.jpg", "../00001.jpg"],
)
def test_mtl_paths_never_leave_the_root(tree, image):
    tree.root.parent.joinpath("secret").mkdir()
    tree.root.parent.joinpath("secret", "00001.jpg").touch()
    tree.mtl([f"{image},0,0,6,{ON}", f"v/00001.jpg,0,0,6,{ON}"])
    tree.crops("v", [1])
    table, report = index(tree.root, "mask")
    assert table["path"].to_pylist() == ["cropped_aligned/v/00001.jpg"]
    assert report.tally["unsafe_paths"] == 1


def test_links_never_leave_their_folder(tree, tmp_path):
    outside = Tree(tmp_path / "outside")
    secret = outside.expr("secret", [3])
    outside.crops("w", [1])
    tree.expr("v", [1, 1, 1])
    tree.expr("w", [1])
    tree.crops("v", [1, 2])
    crops = tree.root / "cropped_aligned"
    train = tree.expr_dir / "Train_Set"
    (train / "linked.txt").symlink_to(secret)
    (tree.expr_dir / "Validation_Set").symlink_to(secret.parent)
    (crops / "w").symlink_to(outside.root / "cropped_aligned" / "w")
    (crops / "v" / "00003.jpg").symlink_to("/etc/hostname")
    (train / "again.txt").symlink_to(train / "v.txt")  # stays inside
    (crops / "again").symlink_to(crops / "v")
    table, report = index(tree.root, "mask")
    assert sorted(kept(table)) == [("again", 1), ("again", 2), ("v", 1), ("v", 2)]
    assert report.tally["unsafe_paths"] == 4 + 1  # the link 00003.jpg is met in `v` and in `again`


def test_a_file_named_dots_is_no_video(tree):
    tree.expr("..", [3])
    tree.expr("v", [3])
    tree.crops("v", [1])
    tree.file("00001.jpg")
    table, report = index(tree.root, "mask")
    assert sorted(kept(table)) == [("v", 1)] and report.tally["stray_files"] == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from('0123456789-,."\t _x/\x00é'), max_size=12), max_size=8), st.integers(1, 3))
def test_any_line_is_read_or_malformed(lines, width):
    """The fast reader and the plain rule agree on any text: no crash, no shifted row, no silent label."""
    body = "\n".join(lines).rstrip()
    labels = parse_ints(body.encode(), width)
    wanted = [line.split(",") for line in body.encode().decode().split("\n")] if body else []
    assert len(labels) == len(wanted)
    for row, fields in zip(labels.tolist(), wanted, strict=True):
        fine = len(fields) == width and all(re.fullmatch(r"\s*-?[0-9]+\s*", field) for field in fields)
        fine = fine and all(-128 <= int(field) <= 127 for field in fields)
        assert row == ([int(field) for field in fields] if fine else [-128] * width)


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [ON, OFF, PARTLY, "0", "7", "-1", "", "v/00001.jpg", f"v/00002.jpg,0,0,1,{ON}", "../a/00001.jpg"]
        ),
        st.text(max_size=20),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(LINES, LINES, LINES, st.sampled_from(["drop", "mask"]))
def test_any_annotation_files_are_counted_to_the_last_frame(expr, aus, mtl, unlabelled):
    """Whatever the files hold: no crash, and every frame is kept or dropped for one stated reason."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.expr("v", expr)
        tree.aus("v", aus)
        tree.mtl(mtl)
        tree.crops("v", [1, 2, 4])
        for layout in ("unitask", "mtl"):
            try:
                table, report = index(folder, unlabelled, layout)
            except ValueError as error:
                assert layout == "mtl" and "no annotation file that can be read" in str(error)
                continue
            dropped = sum(number for name, number in report.tally.counts.items() if name.startswith("dropped_"))
            assert report.tally["frames"] == dropped + report.tally["kept"] == dropped + len(table)


# ------------------------------------------------------------------------------------------------- the wrong folder
def test_a_wrong_folder_says_what_it_has(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_layout(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder EXPR_\*_Challenge.*it has photos"):
        find_layout(tmp_path)
    tree = Tree(tmp_path)
    tree.expr("v", [1])
    with pytest.raises(FileNotFoundError, match=r"no folder cropped_aligned\*.*it has annotations, photos"):
        find_layout(tmp_path)
    Tree(tmp_path, expr="EXPR_Classification_Challenge").expr("v", [1])
    with pytest.raises(ValueError, match=r"More than one folder could be the EXPR task.*one edition"):
        find_layout(tmp_path)


def test_annotations_of_something_else(tree):
    tree.expr("v", [1], header="pts: 68")
    tree.crops("v", [1])
    with pytest.raises(ValueError, match=r"no annotation file that can be read.*Train_Set/v\.txt"):
        index(tree.root)


@pytest.mark.parametrize("options", [{"unlabelled": "keep"}, {"layout": "va"}])
def test_unknown_options(tree, options):
    with pytest.raises(ValueError, match="must be one of"):
        index(tree.root, **options)


def test_report_shows_everything_in_order(tree):
    tree.expr("v", [1])
    tree.crops("v", [1])
    _, report = index(tree.root, "mask")
    assert report.to_dict()["length_differences"] == {"expr": {"0": 1}, "au": {}}
    assert "| kept frames " in report.to_markdown()
    lines = [line for line in report.to_markdown().splitlines() if line]
    assert len({len(line) for line in lines[: len(report.tally.descriptions) + 2]}) == 1  # the columns line up


@pytest.mark.parametrize("folder", ["", "annotations", "MTL_Challenge", "ABAW4/annotations"])
def test_multi_task_files_as_their_loaders_name_them(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / "training_set_annotations.txt").write_text(f"{MTL_HEADER}\nv/00001.jpg,-5,-5,4,{ON}\n")
    (place / "validation_set_annotations.txt").write_text(f"{MTL_HEADER}\nz/00002.jpg,-5,-5,6,{PARTLY}\n")
    tree = Tree(tmp_path)
    tree.crops("v", [0, 1])  # a multi-task line names its crop
    tree.crops("z", [2])
    table, report = index(tmp_path, "mask")
    assert kept(table) == {("v", 1): (4, [1] * 12, "train"), ("z", 2): (6, [1, -1, *[0] * 10], "validation")}
    assert table["path"].to_pylist()[0] == "cropped_aligned/v/00001.jpg"
    assert counted(report, "stray_files", "counted_from_0") == {"stray_files": 0, "counted_from_0": 0}


def test_annotations_of_the_layout_that_is_not_read_are_named(tree):
    tree.expr("v", [4])
    tree.mtl([f"v/00001.jpg,0,0,6,{ON}"])
    tree.crops("v", [1])
    _, report = index(tree.root, "mask")
    assert report.tally.examples["layouts_ignored"] == ["annotations/MTL_Challenge"]


def test_crops_that_count_from_0(tree):
    for video in ("from0", "from1"):
        tree.expr(video, [4, 0, 7])
        tree.aus(video, [ON, OFF, ON])
    tree.crops("from0", [0, 1, 2])
    tree.crops("from1", [1, 2, 3])
    table, report = index(tree.root)
    labels = {row["path"].removeprefix("cropped_aligned/"): row["emotion"] for row in table.to_pylist()}
    assert labels == {f"from{first}/{first + k:05d}.jpg": [4, 0, 7][k] for first in (0, 1) for k in range(3)}
    assert report.tally["counted_from_0"] == 1 and report.tally["dropped_missing_crop"] == 0
    table, report = index(tree.root, first_image="1")
    labels = {row["path"].removeprefix("cropped_aligned/"): row["emotion"] for row in table.to_pylist()}
    assert labels["from0/00001.jpg"] == 4 and "from0/00000.jpg" not in labels
    assert report.settings["first_image"] == "1" and report.tally["crops_without_row"] == 1
