"""`mf2 data landmarks`: every image is looked at once, whatever happens in between."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import mfa_row, picture, write_mfa_folder

from mf2.cli.data import main
from mf2.dataset_tools.landmarks import IMAGES_PER_PART
from mf2.dataset_tools.schema import load_mfa, read_manifest, write_mfa

pytestmark = pytest.mark.usefixtures("private_cache")
SPLITS = ("train", "validation")
BACKEND = ("--backend", "stub_detectors:RedFaces")


def landmarks(*words):
    return main(["landmarks", *map(str, words)])


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The file that lists the pictures which the detector saw."""
    monkeypatch.setenv("DETECTOR_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def bare(tmp_path):
    """Red values 0 to 11, of 7 there is half a file; nothing has landmarks but 5."""

    def row(index):
        image = picture(index)[:30] if index == 7 else picture(index)
        return mfa_row(index, image=image, landmarks=np.full((68, 2), 50) if index == 5 else None)

    splits = {"train": map(row, range(8)), "validation": map(row, range(8, 12))}
    return write_mfa(tmp_path / "bare", splits, manifest={"license": "other"})


def points_of(folder):
    """First coordinate of the landmarks of every image, None where there are none."""
    rows = [row for split in SPLITS for row in load_mfa(folder, split).select_columns("landmarks")]
    return [row["landmarks"] and row["landmarks"][0][0] for row in rows]


def test_what_is_missing_is_found_and_the_rest_listed(bare, tmp_path, log, capsys):
    out = tmp_path / "out"
    assert landmarks(bare, "--out", out, *BACKEND, "--batch_size", 5) == 0
    assert points_of(out) == [None, 1, 2, 3, 4, 50, 6, None, 8, 9, 10, 11]  # odd ones: the largest of two faces
    assert points_of(bare).count(None) == 11
    assert len(log.read_text().split()) == 10  # neither the one that is known nor the one that cannot be read
    described = read_manifest(out)["landmarks"]
    counts = {"images": 12, "kept": 1, "found": 9, "several_faces": 4, "no_face": 1, "unreadable": 1}
    assert described["counts"] == counts and described["backend"] == BACKEND[1] and described["versions"]["mf2"]
    work = tmp_path / "out.landmarks"
    assert [*csv.reader((work / "not_found.csv").open())] == [
        ["file_name", "reason"],
        ["v0/00000.jpg", "no face"],
        ["v3/00007.jpg", "unreadable"],
    ]
    assert json.loads((work / "report.json").read_text())["counts"] == counts
    sheet = np.asarray(Image.open(work / "contact_sheet.png"))
    assert (sheet == (64, 255, 140)).all(axis=-1).any()  # points are drawn
    assert {path.name for path in work.iterdir()} == {"not_found.csv", "contact_sheet.png", "report.json"}
    assert "no face was detected" in capsys.readouterr().out


def test_other_columns_stay_and_the_input_may_be_replaced(bare):
    before = list(load_mfa(bare, "train").remove_columns(["landmarks", "image"]))
    assert landmarks(bare, *BACKEND, "--redo") == 0
    assert points_of(bare)[5] == 5
    assert list(load_mfa(bare, "train").remove_columns(["landmarks", "image"])) == before
    assert read_manifest(bare)["license"] == "other"


def test_an_earlier_result_serves_for_the_same_pictures(bare, tmp_path, log):
    """After a top-up of the selection only new pictures are looked at; another detector starts anew."""
    out = tmp_path / "out"
    assert landmarks(bare, "--out", out, *BACKEND) == 0
    more = write_mfa(
        tmp_path / "more",
        {
            "train": (mfa_row(index, landmarks=None) for index in (3, 20, 9)),
            "validation": [mfa_row(4, landmarks=None)],
        },
        manifest={"license": "other"},
    )
    log.unlink()
    assert landmarks(more, "--out", out, *BACKEND) == 0
    assert points_of(out) == [3, 20, 9, 4] and log.read_text().split() == ["20"]
    log.unlink()
    assert landmarks(bare, "--out", out, "--backend", "stub_detectors:OtherRedFaces") == 0
    assert len(log.read_text().split()) == 10


def test_given_landmarks(bare, tmp_path):
    file = tmp_path / "given.npz"
    points = np.stack([np.full((68, 2), value, np.float32) for value in (3, np.nan, 8)])
    np.savez(file, video=["v3", "v2", "v0"], frame=[3, 2, 8], landmarks=points)
    assert landmarks(bare, "--landmarks", file) == 0
    assert points_of(bare) == [None, None, None, 3, None, 50, None, None, 8, None, None, None]
    counts = read_manifest(bare)["landmarks"]["counts"]
    assert (counts["found"], counts["no_face"], counts["unreadable"]) == (2, 9, 0)


def test_shares_are_disjoint_and_a_last_run_writes(tmp_path, log, capsys):
    folder = write_mfa_folder(tmp_path / "large", 3 * IMAGES_PER_PART + 5, 4, landmarks=None)
    total = 3 * IMAGES_PER_PART + 9
    assert landmarks(folder, *BACKEND, "--shard", "2/3") == 0
    assert "1 of 4 parts are complete" in capsys.readouterr().out and set(points_of(folder)) == {None}
    assert landmarks(folder, *BACKEND, "--shard", "1/3") == landmarks(folder, *BACKEND, "--shard", "3/3") == 0
    assert len(log.read_text().split()) == total
    (tmp_path / "other.task").touch()
    assert landmarks(folder, *BACKEND, "--model_file", tmp_path / "other.task", "--shard", "1/4") == 0
    assert len(log.read_text().split()) == total + IMAGES_PER_PART  # another search: nothing is taken over
    log.unlink()
    assert landmarks(folder, *BACKEND) == 0
    assert not log.exists() and points_of(folder).count(None) == 1


def wait_until_unchanged(file):
    """Until nothing was written for half a second."""
    size = -1
    while size != (size := file.stat().st_size):
        time.sleep(0.5)


def test_a_killed_run_goes_on_where_it_was(tmp_path, log, monkeypatch):
    """SIGKILL to the main process: its workers end too, and only unfinished parts are done again, by two processes."""
    folder = write_mfa_folder(tmp_path / "large", 4 * IMAGES_PER_PART, 8, landmarks=None)
    command = [sys.executable, "-m", "mf2.cli", "data", "landmarks", str(folder), *BACKEND, "--num_workers", "2"]
    servers = Path(__file__).parents[1] / "servers"
    environment = {**os.environ, "PYTHONPATH": str(servers), "DETECTOR_PAUSE_S": "0.01"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    parts = tmp_path / "large.landmarks" / "parts"
    while not (done := sorted(parts.rglob("*.npz"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_unchanged(log)
    done = sorted(path for path in parts.rglob("*.npz") if not path.name.startswith("."))
    assert 1 <= len(done) < 4, "the workers went on after the main process was killed"

    log.unlink()
    monkeypatch.setenv("DETECTOR_PAUSE_S", "0")
    assert landmarks(folder, *BACKEND, "--num_workers", 2) == 0
    assert len(log.read_text().split()) == 4 * IMAGES_PER_PART + 8 - IMAGES_PER_PART * len(done)
    assert points_of(folder) == [None if i % 256 == 0 else i % 256 for i in range(4 * IMAGES_PER_PART + 8)]
    assert not parts.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "dlib"], "No landmark detector is called 'dlib'; known are face-alignment, mediapipe"),
        (
            ["--backend", "nowhere:Detector"],
            "The detector nowhere:Detector cannot be loaded as module:factory",
        ),
        (
            ["--backend", "collections:Counter"],
            "collections:Counter did not return a detector: Counter()",
        ),
        (["--backend", "mediapipe"], "needs a model_file"),
        (["--num_workers", "0"], "num_workers is 0; it must be at least 1."),
        (["--landmarks", "x.csv", "--backend", "mediapipe"], "leave out --backend"),
        (["--landmarks", "x.csv"], "The landmark file x.csv does not exist."),
    ],
)
def test_a_users_error_is_one_line(bare, tmp_path, capsys, words, message):
    assert landmarks(bare, *words) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert error.startswith("mf2 data landmarks: error: ") and message in error
    assert points_of(bare).count(None) == 11


@pytest.mark.parametrize("share", ["0/2", "3/2", "half"])
def test_a_share_that_is_none(bare, capsys, share):
    with pytest.raises(SystemExit):
        landmarks(bare, "--shard", share)
    assert "give i/n with 1 <= i <= n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"video": ["v0"]}, "lacks the arrays frame, landmarks"),
        ({"video": ["v0"], "frame": [1], "landmarks": np.zeros((1, 5, 2))}, r"shapes \(1,\), \(1,\), \(1, 5, 2\)"),
    ],
)
def test_an_npz_that_is_wrong(tmp_path, arrays, message):
    from mf2.dataset_tools.landmark_files import read_landmarks

    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_landmarks(tmp_path / "x.npz", {("v0", 1)})
    (tmp_path / "y.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read"):
        read_landmarks(tmp_path / "y.npz", set())
