"""The commands `mf2 data index|import|select` as people type them, on small generated folders and on real faces."""

import json

import data_set_trees
import numpy as np
import pyarrow.parquet as pq
import pytest
from samples import picture, write_affwild2_labels, write_picture

from mf2.cli.data import main
from mf2.dataset_tools.importer import import_dataset
from mf2.dataset_tools.index import read_frames
from mf2.dataset_tools.readers.registry import READERS
from mf2.dataset_tools.schema import load_mfa, read_manifest
from mf2.labels_mf2 import AU_IDS, EMOTIONS

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def root(tmp_path):
    """Four videos of five frames: the labels of frame k of video v are known, and its colour is its number."""
    root = tmp_path / "root"
    for v in range(4):
        split = "Validation_Set" if v == 3 else "Train_Set"
        au_rows = [[1] * 3 + [0] * 8 + [-1 if k == 4 else 0] for k in range(5)]
        write_affwild2_labels(root, f"v{v}", au_rows, [(5 * v + k) % 8 for k in range(5)], split)
        for k in range(5):
            write_picture(root / "cropped_aligned" / f"v{v}" / f"{k + 1:05d}.jpg", v * 5 + k)
    landmarks = [f"v{v},{k}," + ",".join(f"{v + k}.5" for _ in range(136)) for v in range(4) for k in range(1, 5)]
    names = ["video", "frame", *(f"{axis}{i}" for i in range(68) for axis in "xy")]
    (root / "landmarks.csv").write_text("\n".join([",".join(names), *landmarks]) + "\n")
    return root


def run(*words):
    return main([str(word) for word in words])


def test_import_makes_the_training_data(root, tmp_path, capsys):
    out = tmp_path / "mfa"
    assert run("import", "affwild2", root, out, "--unlabelled", "mask", "--dataset_name", "made") == 0
    train, validation = (load_mfa(out, split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (15, 5)
    row = train[7]  # v1, frame 3
    assert (row["file_name"], row["dataset"], row["group_id"], row["frame"]) == ("v1/00003.jpg", "made", "v1", 3)
    assert [row[f"AU{i}"] for i in AU_IDS] == [1, 1, 1] + [0] * 9 and row["emotion"] == 7
    assert np.asarray(row["landmarks"]).tolist() == [[4.5, 4.5]] * 68
    assert row["image"].getpixel((0, 0)) == (7, 0, 0)
    assert row["caption_au"].startswith("1. AU1 (Inner Brow Raiser): ") and row["caption_source"] == "template"
    assert train[4]["AU26"] == -1 and train[4]["landmarks"] is None
    manifest = read_manifest(out)
    assert manifest["counts"] == {
        "images": 20,
        "unreadable": 0,
        "no_landmarks": 4,
        "no_emotion": 0,
        "no_au": 0,
        "affect": 0,
    }
    assert manifest["report"]["counts"]["au_partly_unlabelled"] == 4
    assert str(tmp_path) not in json.dumps(manifest)  # nobody's folders are published
    assert "images without landmarks" in capsys.readouterr().out


def test_import_that_keeps_nothing_says_so(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("path,AU1\ngone.jpg,1\n")
    (tmp_path / "other.jpg").write_bytes(picture(1))
    words = ["import", "csv", str(tmp_path), str(tmp_path / "out"), "--labels", str(tmp_path / "labels.csv")]
    assert main(words) == 1
    assert f"No frame of {tmp_path} was kept; the table above says why." in capsys.readouterr().err


def test_import_is_deterministic_and_copies_bytes(root, tmp_path):
    shards = []
    for name in ("one", "two"):
        assert run("import", "affwild2", root, tmp_path / name, "--unlabelled", "mask") == 0
        shards.append([path.read_bytes() for path in sorted((tmp_path / name / "data").iterdir())])
    assert shards[0] == shards[1]
    assert (root / "cropped_aligned" / "v0" / "00001.jpg").read_bytes() in shards[0][0]


def test_import_drops_what_cannot_be_decoded(root, tmp_path, capsys):
    crops = root / "cropped_aligned"
    (crops / "v0" / "00001.jpg").write_bytes(picture(1)[:30])
    (crops / "v1" / "00001.jpg").write_bytes(b"")
    assert run("import", "affwild2", root, tmp_path / "mfa", "--captions", "none", "--split", "random") == 0
    assert read_manifest(tmp_path / "mfa")["counts"]["unreadable"] == 2
    assert "cropped_aligned/v0/00001.jpg" in capsys.readouterr().out
    assert load_mfa(tmp_path / "mfa", "train")[0]["caption_au"] is None


def test_unlabelled_is_not_inactive_in_captions(root, tmp_path):
    """With no AU labelled there is nothing to say about AUs; "no active AU" would be a made-up label."""
    au_file = root / "annotations" / "AU_Some_Challenge" / "Train_Set" / "v0.txt"
    au_file.write_text(au_file.read_text().splitlines()[0] + "\n" + "\n".join([",".join(["-1"] * 12)] * 5) + "\n")
    assert run("import", "affwild2", root, tmp_path / "mfa", "--unlabelled", "mask") == 0
    row = load_mfa(tmp_path / "mfa", "train")[0]
    assert row["caption_au"] is None and row["caption_key_au"] is None and row["caption_emotion"]
    assert read_manifest(tmp_path / "mfa")["counts"]["no_au"] == 5


def test_random_split_keeps_groups_whole(root, tmp_path):
    seen = set()
    for seed in range(6):
        out = tmp_path / str(seed)
        words = ("--unlabelled", "mask", "--split", "random", "--eval_fraction", 0.5, "--seed", seed)
        assert run("import", "affwild2", root, out, *words) == 0
        train, validation = (set(load_mfa(out, split)["group_id"]) for split in ("train", "validation"))
        assert len(train) == len(validation) == 2 and not train & validation
        seen.add(frozenset(validation))
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval_fraction", "1", "--split", "random"], "eval_fraction is 1.0; it must lie between 0 and 1."),
        (["--landmarks", "nowhere.csv"], "The landmark file nowhere.csv does not exist."),
        (["--selection", "nowhere.parquet"], "nowhere.parquet does not exist; `mf2 data index` makes it."),
    ],
)
def test_a_users_error_is_one_line(root, tmp_path, capsys, words, message):
    assert run("import", "affwild2", root, tmp_path / "mfa", *words) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert error == [f"mf2 data import: error: {message}"]
    assert not (tmp_path / "mfa").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("x67,", "z67,"), "lacks the columns x67; it must have video, frame, x0, y0"),
        (lambda text: text.replace("1.5", "half", 1), "cannot be read"),
        (lambda text: text + text.splitlines()[1], "two rows for frame 1 of v0"),
    ],
)
def test_a_landmark_file_that_is_wrong(root, tmp_path, capsys, change, message):
    file = root / "landmarks.csv"
    file.write_text(change(file.read_text()))
    assert run("import", "affwild2", root, tmp_path / "mfa", "--unlabelled", "mask") == 1
    assert message in capsys.readouterr().err


def test_index_writes_frames_and_report(root, tmp_path, capsys):
    assert run("index", "affwild2", root, tmp_path / "index") == 0
    frames = read_frames(tmp_path / "index")
    assert len(frames) == 16 and frames["path"][0].as_py() == "cropped_aligned/v0/00001.jpg"
    report = json.loads((tmp_path / "index" / "report.json").read_text())
    assert report["counts"]["kept"] == 16 and report["counts"]["dropped_unlabelled"] == 4
    assert (tmp_path / "index" / "report.md").read_text() in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"frames.parquet", "report.json", "report.md"}


def test_index_select_import(root, tmp_path, capsys):
    """The chain that makes MFA: the selection's frames and splits are those of the data set, whatever was official."""
    index, selection, out = tmp_path / "index", tmp_path / "selection", tmp_path / "mfa"
    mask = ("--unlabelled", "mask")
    assert run("index", "affwild2", root, index, *mask) == 0
    assert run("select", index, selection, "--balance", "largest", "--eval_fraction", 0.5, "--min_frames", 1) == 0
    report = json.loads((selection / "report.json").read_text())
    assert report["request"]["train_per_class"] == 1 and report["train"]["emotions"] == dict.fromkeys(EMOTIONS, 1)
    assert (selection / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (selection / "report.md").read_text() in capsys.readouterr().out
    assert run("import", "affwild2", root, out, *mask, "--selection", selection) == 0
    chosen = {(row["video_id"], row["frame"], row["split"]) for row in read_frames(selection).to_pylist()}
    made = {
        (row["video_id"], row["frame"], split)
        for split in ("train", "validation")
        for row in load_mfa(out, split).remove_columns("image")
    }
    assert made == chosen and len(made) == 16


def test_select_everything(root, tmp_path):
    assert run("index", "affwild2", root, tmp_path / "index") == 0
    assert run("select", tmp_path / "index", tmp_path / "out", "--balance", "none", "--eval_fraction", 0.25) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["train"]["frames"], report["validation"]["frames"]) == (12, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give --train_per_class and --eval_per_class, or --paper, or --balance largest or none."),
        (["--paper"], "A class needs 3,915 + 422 frames, but Neutral has 3, "),
        (["--balance", "largest", "--eval_fraction", "0"], "eval_fraction is 0.0; it must lie between 0 and 1."),
        (["--balance", "none", "--paper"], "--balance none takes all frames"),
        (["--train_per_class", "0", "--eval_per_class", "1"], "train_per_class is 0; it must be 1 or more."),
    ],
)
def test_a_selection_that_cannot_be_made(root, tmp_path, capsys, words, message):
    assert run("index", "affwild2", root, tmp_path / "index") == 0
    assert run("select", tmp_path / "index", tmp_path / "out", *words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mf2 data select: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_selection_of_another_data_set(root, tmp_path, capsys):
    assert run("index", "affwild2", root, tmp_path / "index", "--unlabelled", "mask") == 0
    (root / "cropped_aligned" / "v2" / "00003.jpg").unlink()
    words = ("import", "affwild2", root, tmp_path / "mfa", "--unlabelled", "mask", "--selection", tmp_path / "index")
    assert run(*words) == 1
    assert (
        "1 selected frames are not in the data set, the first is cropped_aligned/v2/00003.jpg"
        in capsys.readouterr().err
    )


# ------------------------------------------------------------------------------------------------- other data sets
def test_import_records_what_the_labels_are(tmp_path, capsys):
    """A result can only be compared with another when threshold, fold and crop of its labels are known."""
    root = data_set_trees.disfa(tmp_path / "root")
    out = import_dataset("disfa", root, tmp_path / "mfa", fold=3, threshold=1)
    manifest = read_manifest(out)
    assert (manifest["threshold"], manifest["fold"], manifest["crop"]) == (1, 3, "frames")
    assert manifest["au_ids"] == [1, 4, 9, 12] and manifest["emotions"] == list(EMOTIONS)
    assert manifest["citation"].startswith("Mavadati") and manifest["license_name"] == "disfa-agreement"
    assert manifest["split_rule"] == "official" and manifest["report"]["counts"]["missing_image"] == 1
    train, validation = (load_mfa(out, split, au_ids=None) for split in ("train", "validation"))
    assert set(validation["group_id"]) == {"SN001"} and set(train["group_id"]) == {"SN003", "SN013"}
    assert validation["AU1"] == [0, 1, 1, 1] and validation["AU9"] == [-1] * 4
    assert validation[0]["file_name"] == "SN001/0.png" and validation[0]["emotion"] is None
    assert "| frames/SN001/0.png" in capsys.readouterr().out


def test_import_of_an_own_csv(tmp_path):
    root = tmp_path / "root"
    data_set_trees.write_images(root, [f"{person}/{k}.jpg" for person in "abcd" for k in range(3)])
    points = ";".join(["1.5"] * 136)
    lines = [
        f"{person}/{k}.jpg,{k % 2},{'pain' if k else 'ease'},{person},{points}" for person in "abcd" for k in range(3)
    ]
    (root / "labels.csv").write_text("\n".join(["path,AU4,emotion,group_id,landmarks", *lines]))
    assert run("import", "csv", root, tmp_path / "mfa", "--eval_fraction", 0.25) == 0
    train, validation = (load_mfa(tmp_path / "mfa", split, au_ids=None) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (9, 3) and len(set(validation["group_id"])) == 1
    assert read_manifest(tmp_path / "mfa")["split_rule"] == "0.25 of 4 groups at random, seed 0"
    row = train[1]
    assert train.features["emotion"].names == ["Ease", "Pain"] and row["emotion"] == 1 and row["AU4"] == 1
    assert np.asarray(row["landmarks"]).tolist() == [[1.5, 1.5]] * 68
    assert row["caption_au"] and row["caption_emotion"] is None  # no template knows pain
    with pytest.raises(ValueError, match="no option thresold"):
        import_dataset("csv", root, tmp_path / "again", thresold=1)


def test_import_of_videos_decodes_the_sampled_frames(tmp_path):
    pytest.importorskip("av")
    out = import_dataset("afew", data_set_trees.afew(tmp_path / "root"), tmp_path / "mfa", frames_per_clip=5)
    train, validation = (load_mfa(out, split, au_ids=None) for split in ("train", "validation"))
    assert list(train["file_name"]) == [f"train_000046280/{frame:05d}.jpg" for frame in (1, 3, 5, 7, 9)]
    brightness = [np.asarray(image).mean() for image in train["image"]]
    assert np.abs(np.subtract(brightness, [8, 24, 40, 56, 72])).max() < 3  # frame k is 8 k bright
    assert len(validation) == 2 and read_manifest(out)["counts"]["unreadable"] == 0


def test_index_and_selection_of_clips(tmp_path):
    """Each sampled frame of a video is a row of its own, which a selection can name."""
    pytest.importorskip("av")
    root = data_set_trees.afew(tmp_path / "root")
    assert run("index", "afew", root, tmp_path / "index") == 0
    frames = read_frames(tmp_path / "index")
    pq.write_table(frames.take([0, 2, 8]), tmp_path / "some.parquet")
    assert run("import", "afew", root, tmp_path / "mfa", "--selection", tmp_path / "some.parquet") == 0
    assert [row["frame"] for row in load_mfa(tmp_path / "mfa", "train", au_ids=None)] == [0, 3]


def test_list(capsys):
    assert run("list") == 0
    table = capsys.readouterr().out
    assert all(f"| {name} " in table for name in READERS)
    assert run("list", "disfa", "bp4d") == 0
    text = capsys.readouterr().out
    for said in ("AU1, AU2, AU4, AU5, AU6, AU9", "intensity 2 or more (--threshold)", "disfa-agreement", "Mavadati"):
        assert said in text
    assert run("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rafdb"]["license"]["license"] == "other"
    assert run("list", "nothing") == 1
    assert "No reader is called 'nothing'; there are affwild2, csv" in capsys.readouterr().err


def test_wrong_folder_of_a_data_set_is_one_line(tmp_path, capsys):
    data_set_trees.write_images(tmp_path / "root", ["holiday/1.jpg"])
    assert run("import", "bp4d", tmp_path / "root", tmp_path / "out") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds no AU_OCC/F001_T1.csv; it holds 1 files in holiday/" in error and not (tmp_path / "out").exists()
