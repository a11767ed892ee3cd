"""`mf2 analyze` from pictures and videos to tables: every frame and face, whatever the batches, also after a kill."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from blob_faces import draw_frame, write_video
from PIL import Image
from tiny_checkpoint import save_tiny_checkpoint
from tiny_mf2 import save_tiny

import mf2
from mf2.analysis import engine, overlay
from mf2.analysis.peer_formats import check_peer_formats
from mf2.analysis.recognizer import Recognizer
from mf2.analysis.tables import BOX, POSE
from mf2.cli import main
from mf2.labels_mf2 import AU_IDS, EMOTIONS, MEAN_FACE_68, LabelSpace

DETECT = ("--backend", "blob_faces:BlobDetector")
SERVERS = Path(__file__).parents[1] / "servers"
FPS = 10
LEFT, RIGHT = (10, 20, 50, 70), (100, 30, 130, 60)
"""The left face is the larger one."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_checkpoint(folder)
    return folder


def clip_boxes(frame: int) -> list[tuple[int, int, int, int]]:
    """Two faces: the left one grows smaller than the other and moves, and is gone for frames 8 to 11."""
    shrunk = (LEFT[0] + frame, LEFT[1], LEFT[2] - frame, LEFT[3] - frame)
    return [RIGHT] if 8 <= frame < 12 else [shrunk, RIGHT]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A video of 16 frames (0 and 15 empty), a picture with two faces, one without, and a text."""
    folder = tmp_path_factory.mktemp("media")
    frames = [draw_frame([] if frame in (0, 15) else clip_boxes(frame)) for frame in range(16)]
    write_video(folder / "clip.mp4", frames, FPS)
    (folder / "below").mkdir()
    Image.fromarray(draw_frame([LEFT, RIGHT])).save(folder / "below" / "two faces.png")
    Image.fromarray(draw_frame([])).save(folder / "below" / "empty.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def analyze(*args: object) -> int:
    return main(["analyze", *map(str, args), "--device", "cpu"])


def read_rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "faces.parquet").to_pylist()


@pytest.fixture(scope="module")
def whole_run(checkpoint, media, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    formats = "parquet,csv,jsonl,openface,pyfeat,abaw"
    options = ("--model", checkpoint, "--output", folder, "--format", formats, "--captions", "emotion", "--overlay")
    assert analyze(media, *DETECT, *options) == 0
    return folder


# ------------------------------------------------------------------------------------------------------------- rows
def test_every_frame_and_face_has_a_row(whole_run, media, capsys):
    rows = read_rows(whole_run)
    seen = [(Path(row["source"]).name, row["frame"], row["face"], row["status"]) for row in rows]
    clip = [("clip.mp4", 0, -1, "no_face")]
    for frame in range(1, 15):
        ids = [1] if 8 <= frame < 12 else [0, 1]
        clip += [("clip.mp4", frame, face, "ok") for face in ids]
    clip.append(("clip.mp4", 15, -1, "no_face"))
    pictures = [("empty.png", 0, -1, "no_face"), ("two faces.png", 0, 0, "ok"), ("two faces.png", 0, 1, "ok")]
    assert seen == pictures + clip, "ids stay when the faces change their order by size, and after a gap"
    assert [row["time_s"] for row in rows[3:5]] == pytest.approx([0, 0.1])
    manifest = json.loads((whole_run / "manifest.json").read_text())
    captions = manifest["summary"].pop("captions")["emotion"]
    assert captions["captions"] == 26 and 0 <= captions["flagged"] <= captions["naming"] <= 26
    assert manifest["summary"] == {
        "sources": 3,
        "frames": 18,
        "faces": 26,
        "frames_without_face": 3,
        "errors": 0,
        "other_files": 1,
        "failed": {},
    }
    assert manifest["settings"]["detector"] == {"name": DETECT[1], "version": None, "model_sha256": {}}
    assert manifest["thresholds"]["AU1"] == 0.45 and manifest["label_space"]["emotions"] == list(EMOTIONS)
    assert not (whole_run / ".parts").exists()


def test_a_row_is_complete(whole_run):
    rows = read_rows(whole_run)
    face = rows[1]
    assert [face[name] for name in BOX] == list(LEFT)
    assert face["face_score"] == 0.75 and face["landmarks_found"] is True
    assert np.reshape(face["landmarks"], (68, 2)) == pytest.approx(
        np.array(MEAN_FACE_68) * (40, 50) + LEFT[:2], abs=1e-4
    )
    assert all(0 <= face[f"AU{au_id}"] <= 1 for au_id in AU_IDS)
    assert sum(face[f"emotion_{name}"] for name in EMOTIONS) == pytest.approx(1)
    assert face["emotion"] == max(EMOTIONS, key=lambda name: face[f"emotion_{name}"])
    assert isinstance(face["caption_emotion"], str)
    assert all(abs(face[name]) <= 90 for name in POSE) and face["pose_roll"] == pytest.approx(0, abs=5)
    empty = {name: value for name, value in rows[0].items() if value is not None}
    assert set(empty) == {"source", "frame", "time_s", "face", "status"}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_nothing(whole_run, checkpoint, media, tmp_path, batch_size):
    options = ("--model", checkpoint, "--output", tmp_path, "--batch_size", batch_size)
    assert analyze(media, *DETECT, *options) == 0
    for ours, theirs in zip(read_rows(tmp_path), read_rows(whole_run), strict=True):
        assert {name: value for name, value in ours.items() if not isinstance(value, float)}.items() <= theirs.items()
        for name, value in ours.items():
            if isinstance(value, float):
                assert value == pytest.approx(theirs[name], abs=1e-5), name


def test_the_probabilities_are_the_models(whole_run, checkpoint, media):
    """The picture with two faces, by hand."""
    processor, model = mf2.MF2Processor.from_pretrained(checkpoint), mf2.MF2Model.from_pretrained(checkpoint).eval()
    rows = read_rows(whole_run)[1:3]
    points = np.reshape([row["landmarks"] for row in rows], (2, 68, 2))
    inputs = processor(images=media / "below" / "two faces.png", landmarks=[points], face="all")
    with torch.no_grad():
        states = processor.post_process_facial_states(model(**inputs), model.label_space)
    for row, state in zip(rows, states, strict=True):
        assert {code: row[code] for code in state["aus"]} == pytest.approx(state["aus"], abs=1e-5)
        assert row["emotion"] == state["emotion"]


# ---------------------------------------------------------------------------------------------------------- formats
def test_the_three_tables_have_the_same_rows(whole_run):
    rows = read_rows(whole_run)
    lines = [json.loads(line) for line in (whole_run / "faces.jsonl").read_text().splitlines()]
    with open(whole_run / "faces.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(rows) == len(lines) == len(cells)
    for row, line, cell in zip(rows, lines, cells, strict=True):
        assert list(line) == list(row)
        assert "landmarks" not in cell
        assert (line["source"], str(line["face"])) == (cell["source"], cell["face"])
        for name in ("AU12", "x0", "time_s"):
            expected = pytest.approx(row[name], rel=1e-6) if row[name] is not None else None
            assert line[name] == expected
            assert (float(cell[name]) if cell[name] else None) == expected


def test_openface_has_its_columns_and_binary_aus(whole_run):
    with open(whole_run / "openface" / "clip.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = list(lines[0])
    assert names[:7] == ["frame", "face_id", "timestamp", "confidence", "success", "x_0", "x_1"]
    assert names[5 + 136 :] == [f"AU{au_id:02d}_c" for au_id in AU_IDS], "and no intensities, which MF² does not have"
    assert [line["success"] for line in lines[:2]] == ["0", "1"]
    assert [line["frame"] for line in lines[:3]] == ["1", "2", "2"]
    row = read_rows(whole_run)[4]
    assert lines[1]["AU01_c"] == str(int(row["AU1"] >= 0.45)) and lines[1]["AU26_c"] == str(int(row["AU26"] >= 0.56))
    header = (whole_run / "openface" / "two faces.csv").read_text().splitlines()[0]
    assert header.startswith("face,confidence,x_0,")


def test_pyfeat_has_the_columns_of_a_fex(whole_run):
    with open(whole_run / "pyfeat.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = read_rows(whole_run)
    assert len(lines) == len(rows)
    line, row = lines[1], rows[1]
    assert float(line["AU12"]) == pytest.approx(row["AU12"], rel=1e-5) and line["AU43"] == line["Pitch"] == ""
    assert float(line["happiness"]) == pytest.approx(row["emotion_Happiness"], rel=1e-5)
    assert float(line["FaceRectWidth"]) == 40 and line["Identity"] == "Person_0"
    assert lines[-1]["FaceRectX"] == "" and lines[-1]["approx_time"] == "00:00:01"


def test_abaw_has_a_line_for_a_frame_with_a_face(whole_run):
    aus = (whole_run / "abaw" / "au.txt").read_text().splitlines()
    assert aus[0] == "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    assert [line.split(",")[0] for line in aus[1:4]] == ["below/two faces.png", "clip/00002.jpg", "clip/00003.jpg"]
    assert all(set(line.split(",")[1:]) <= {"0", "1"} for line in aus[1:])
    expressions = (whole_run / "abaw" / "expr.txt").read_text().splitlines()
    row = read_rows(whole_run)[1]
    assert expressions[1] == f"below/two faces.png,{EMOTIONS.index(row['emotion'])}"
    assert len(aus) == len(expressions) == 1 + 1 + 14


# ----------------------------------------------------------------------------------------------------- going on again
KILLED_RUN = """
import sys
from mf2.analysis import run_folder
from mf2.cli import main
run_folder.PART_ROWS = 4
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_to_the_same_table(whole_run, checkpoint, media, tmp_path, monkeypatch):
    """Killed in the middle of the video: finished parts are kept, faces keep their ids, the table is the same."""
    command = ["analyze", str(media), *DETECT, "--model", str(checkpoint), "--output", str(tmp_path / "run")]
    command += ["--device", "cpu", "--batch_size", "2", "--captions", "emotion"]
    env = os.environ | {"PYTHONPATH": str(SERVERS), "BLOB_PAUSE_S": "0.15", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, *command], env=env, stderr=subprocess.DEVNULL)
    parts = tmp_path / "run" / ".parts"
    while process.poll() is None and len(list(parts.glob("part-*.jsonl"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = sum(len(part.read_text().splitlines()) - 1 for part in parts.glob("part-*.jsonl"))
    assert 0 < kept < 29

    recognized = []
    recognize = Recognizer.recognize
    monkeypatch.setattr(Recognizer, "recognize", lambda self, inputs: recognized.append(1) or recognize(self, inputs))
    assert main(command) == 0
    assert main([*command[:-2], *command[-2:], "--output", str(tmp_path / "once")]) == 0
    again, once = read_rows(tmp_path / "run"), read_rows(tmp_path / "once")
    assert again == once
    assert len(recognized) < 2 * 13, "what was finished is not done again"
    assert [row["face"] for row in again] == [row["face"] for row in read_rows(whole_run)]


def test_a_finished_run_is_only_read(whole_run, checkpoint, media, tmp_path, monkeypatch, capsys):
    options = ("--model", checkpoint, "--output", tmp_path, "--landmarks", "mean_face")
    assert analyze(media / "below", *options) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(engine, "collect_rows", lambda *args: pytest.fail("analysed again"))
    assert analyze(media / "below", *options) == 0
    assert capsys.readouterr().out == first
    assert analyze(media / "below", *options, "--fps", "5") == 1
    assert "another fps; choose another --output or remove it" in capsys.readouterr().err


def test_a_folder_that_grew_is_analysed_where_it_is_new(checkpoint, media, tmp_path, monkeypatch, capsys):
    """The rows that are there stay as they are and come first; without them nothing is analysed again."""
    folder = tmp_path / "media"
    shutil.copytree(media / "below", folder)
    options = (
        "--model",
        checkpoint,
        "--output",
        tmp_path / "run",
        "--landmarks",
        "mean_face",
        "--format",
        "csv,parquet",
    )
    assert analyze(folder, *options) == 0
    before = read_rows(tmp_path / "run")
    shutil.copy(media / "clip.mp4", folder / "a.mp4")
    read = []
    read_frames = engine.read_frames
    monkeypatch.setattr(engine, "read_frames", lambda new, *rest: read.extend(new) or read_frames(new, *rest))
    assert analyze(folder, *options) == 0
    assert [(place, source.path.name) for place, source in read] == [(2, "a.mp4")]
    rows = read_rows(tmp_path / "run")
    assert rows[: len(before)] == before
    assert [(Path(row["source"]).name, row["frame"]) for row in rows[len(before) :]] == [
        ("a.mp4", n) for n in range(16)
    ]
    assert len((tmp_path / "run" / "faces.csv").read_text().splitlines()) == 1 + len(rows)
    assert "3 sources, 18 frames" in capsys.readouterr().out
    (folder / "empty.png").unlink()
    assert analyze(folder, *options) == 1
    assert "holds an analysis of " in (said := capsys.readouterr().err) and "empty.png, too" in said
    assert read_rows(tmp_path / "run") == rows


def test_shards_of_a_folder_that_grew(checkpoint, media, tmp_path):
    """Each source stays in its shard; what is new is in one of them. A shard may be empty."""
    folder = tmp_path / "media"
    shutil.copytree(media / "below", folder)
    runs = [
        (folder, "--model", checkpoint, "--output", tmp_path / "run", "--landmarks", "mean_face", "--shard", f"{n}/3")
        for n in (1, 2, 3)
    ]
    assert [analyze(*run) for run in runs] == [0, 0, 0]
    before = {shard: read_rows(shard) for shard in sorted((tmp_path / "run").iterdir())}
    assert sum(map(len, before.values())) == 2
    for number in range(4):
        shutil.copy(folder / "two faces.png", folder / f"{number}.png")
    assert [analyze(*run) for run in runs] == [0, 0, 0]
    after = {shard: read_rows(shard) for shard in before}
    assert all(after[shard][: len(rows)] == rows for shard, rows in before.items())
    assert sorted(row["source"] for rows in after.values() for row in rows) == sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_picture_under_the_same_name_is_no_continuation(
    checkpoint, tmp_path, capsys, monkeypatch, is_finished
):
    """Of the same size, even; the same picture at another time is."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(draw_frame([LEFT])).save(folder / f"{number}.bmp")
    options = ("--model", checkpoint, "--output", tmp_path / "run", "--landmarks", "mean_face")
    with monkeypatch.context() as patch:
        if not is_finished:
            patch.setattr(engine, "_write_tables", Mock(side_effect=OSError("stopped")))
        assert analyze(folder, *options) == int(not is_finished)
    os.utime(folder / "0.bmp", (0, 0))
    Image.fromarray(draw_frame([RIGHT])).save(folder / "1.bmp")
    capsys.readouterr()
    assert analyze(folder, *options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "1.bmp changed since the analysis" in line and "0.bmp" not in line and "--output" in line


def test_a_folder_that_grew_needs_a_whole_table(checkpoint, media, tmp_path, capsys):
    folder = tmp_path / "media"
    shutil.copytree(media / "below", folder)
    options = ("--model", checkpoint, "--output", tmp_path / "run", "--landmarks", "mean_face", "--format", "csv")
    assert analyze(folder, *options) == 0
    kept = (tmp_path / "run" / "faces.csv").read_bytes()
    shutil.copy(folder / "empty.png", folder / "new.png")
    assert analyze(folder, *options) == 1
    assert "without faces.parquet, to which" in capsys.readouterr().err
    assert (tmp_path / "run" / "faces.csv").read_bytes() == kept


def test_a_run_that_failed_at_once_leaves_nothing(checkpoint, media, tmp_path, capsys):
    """Without its detector a run writes no row and makes no folder; the next try, with other options, is welcome."""
    options = ("--model", checkpoint, "--output", tmp_path / "run")
    assert analyze(media / "below", *options, "--backend", "no_such_module:Detector") == 1
    assert not (tmp_path / "run").exists()
    assert analyze(media / "below", *options, "--landmarks", "mean_face") == 0


def test_a_missing_detector_is_told_in_the_words_of_the_command(checkpoint, media, tmp_path, capsys, monkeypatch):
    """There is no `landmarks=` to type."""
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    assert analyze(media / "below", "--model", checkpoint, "--output", tmp_path / "run") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "pip install face-alignment" in line and "--landmarks mean_face" in line and "landmarks=" not in line
    assert not (tmp_path / "run").exists()


def test_shards_make_the_whole(whole_run, checkpoint, media, tmp_path):
    sources = []
    for shard in ("1/2", "2/2"):
        options = ("--model", checkpoint, "--output", tmp_path, "--shard", shard)
        assert analyze(media, *DETECT, *options) == 0
    for folder in sorted(tmp_path.iterdir()):
        sources += [row["source"] for row in read_rows(folder)]
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["shard-00001-of-00002", "shard-00002-of-00002"]
    assert sorted(sources) == sorted(row["source"] for row in read_rows(whole_run))


# ----------------------------------------------------------------------------------------------------------- options
def test_fps_takes_frames_by_their_time(checkpoint, media, tmp_path):
    options = ("--model", checkpoint, "--output", tmp_path, "--fps", "2.5", "--landmarks", "mean_face")
    assert analyze(media / "clip.mp4", *options) == 0
    assert [row["frame"] for row in read_rows(tmp_path)] == [0, 4, 8, 12], "numbered as they are decoded"


def test_the_mean_face_says_that_it_is_none(checkpoint, media, tmp_path):
    options = ("--model", checkpoint, "--output", tmp_path, "--landmarks", "mean_face")
    assert analyze(media / "below" / "two faces.png", *options) == 0
    (row,) = read_rows(tmp_path)
    assert row["landmarks_found"] is False and row["landmarks"] is row["pose_yaw"] is row["face_score"] is None
    assert [row[name] for name in BOX] == pytest.approx([32, 0, 128, 96], abs=1e-3), "what was seen: the middle"


def test_landmarks_of_a_file(checkpoint, media, tmp_path):
    """A frame with a row has its face; one without has none, and says so."""
    points = (np.array(MEAN_FACE_68) * 40 + LEFT[:2]).ravel()
    names = [f"{axis}{point}" for point in range(68) for axis in "xy"]
    file = tmp_path / "landmarks.csv"
    file.write_text(f"video,frame,{','.join(names)}\nclip,1,{','.join(map(str, points))}\n")
    options = ("--model", checkpoint, "--output", tmp_path / "run", "--landmarks", file)
    assert analyze(media / "clip.mp4", *options) == 0
    rows = read_rows(tmp_path / "run")
    assert [row["status"] for row in rows[:3]] == ["no_face", "ok", "no_face"]
    assert rows[1]["landmarks"] == pytest.approx(points, abs=1e-4)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["settings"]["detector"]["name"] == "landmarks.csv"


def test_a_file_of_landmarks_without_a_face_is_a_failure(checkpoint, media, tmp_path, capsys):
    """Neither for videos that it does not name, nor for frames that the video does not have."""
    names = [f"{axis}{point}" for point in range(68) for axis in "xy"]
    file = tmp_path / "landmarks.csv"
    for video, message in (("walk.mp4", "has landmarks of walk.mp4, and of none of"), ("clip", "no frame has")):
        file.write_text(f"video,frame,{','.join(names)}\n{video},500,{','.join(map(str, range(136)))}\n")
        options = ("--model", checkpoint, "--output", tmp_path / video, "--landmarks", file)
        assert analyze(media / "clip.mp4", *options) == 1
        assert message in capsys.readouterr().err


def test_adapters_answer_from_one_pass(whole_run, checkpoint, media, tmp_path, monkeypatch):
    """Two adapters and the checkpoint: their columns stand side by side, and the tower runs once a batch."""
    peft_dfn = pytest.importorskip("mf2.peft_dfn")
    from peft import get_peft_model

    spaces = {"disfa": ((1, 2, 9), ()), "moods.v2": ((), ("Calm", "Tense"))}
    for name, (au_ids, emotions) in spaces.items():
        torch.manual_seed(len(name))
        config = peft_dfn.DFNConfig(
            au_ids=list(au_ids), emotions=list(emotions), base_model_name_or_path=str(checkpoint)
        )
        get_peft_model(mf2.MF2Model.from_pretrained(checkpoint), config).save_pretrained(tmp_path / name)
    passes = []
    encode = mf2.MF2Model.encode_vision
    monkeypatch.setattr(mf2.MF2Model, "encode_vision", lambda self, x: passes.append(len(x)) or encode(self, x))
    adapters = [word for name in spaces for word in ("--adapter", tmp_path / name)]
    options = ("--model", checkpoint, "--output", tmp_path / "run", "--batch_size", 8)
    assert analyze(media / "clip.mp4", *DETECT, *options, *adapters) == 0
    rows = [row for row in read_rows(tmp_path / "run") if row["status"] == "ok"]
    assert sum(passes) == len(rows) == 24
    assert all(0 <= row[name] <= 1 for row in rows for name in ("AU12", "disfa.AU9", "moods_v2.emotion_Calm"))
    assert not {"disfa.AU12", "disfa.emotion", "moods_v2.AU1"} & set(rows[0])
    thresholds = json.loads((tmp_path / "run" / "manifest.json").read_text())["thresholds"]
    assert "disfa.AU9" in thresholds and "AU12" in thresholds
    alone = [row for row in read_rows(whole_run) if row["status"] == "ok" and row["source"].endswith("clip.mp4")]
    assert [row["AU12"] for row in rows] == pytest.approx([row["AU12"] for row in alone], abs=1e-5)


def test_the_checkpoint_writes_whatever_adapters_there_are(checkpoint, media, tmp_path):
    peft_dfn = pytest.importorskip("mf2.peft_dfn")
    from peft import get_peft_model

    config = peft_dfn.DFNConfig(au_ids=[9, 1], emotions=[], base_model_name_or_path=str(checkpoint))
    get_peft_model(mf2.MF2Model.from_pretrained(checkpoint), config).save_pretrained(tmp_path / "disfa")
    picture = media / "below" / "two faces.png"
    for name, adapter in (("with", ["--adapter", tmp_path / "disfa"]), ("without", [])):
        options = ("--model", checkpoint, "--output", tmp_path / name, "--captions", "emotion,au")
        assert analyze(picture, *DETECT, *options, *adapter) == 0
    written = {
        name: [[row["caption_emotion"], row["caption_au"]] for row in read_rows(tmp_path / name)]
        for name in ("with", "without")
    }
    assert written["with"] == written["without"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--device", "cuda:99"), "--device cuda:99 cannot be used"),
        (("--device", "abacus"), "--device abacus cannot be used"),
        (("--backend", "guess"), "No landmark detector is called 'guess'"),
        (("--backend", "no_such_module:Detector"), "cannot be loaded as module:factory"),
        (("--landmarks", "nowhere.csv"), "The landmark file nowhere.csv does not exist"),
        (("--adapter", "a/x", "--adapter", "b/x"), "the names must differ"),
    ],
)
def test_a_wrong_option_is_one_clear_line(checkpoint, media, tmp_path, capsys, args, message):
    command = ["analyze", str(media), "--model", str(checkpoint), "--output", str(tmp_path / "run")]
    assert main([*command, *args]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mf2 analyze: error: ") and message in last


def test_a_format_that_labels_do_not_fit_is_refused_before_anything_is_analysed(media, tmp_path, capsys, monkeypatch):
    save_tiny(tmp_path / "model", emotions=["Bored", "Happiness"])
    monkeypatch.setattr(engine, "collect_rows", Mock(side_effect=AssertionError("analysed")))
    options = ("--model", tmp_path / "model", "--landmarks", "mean_face", "--output", tmp_path / "run")
    assert analyze(media, *options, "--format", "parquet,abaw") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--format abaw" in last and "this model's are Bored, Happiness" in last and not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="needs action units"):
        check_peer_formats(["abaw"], LabelSpace((), EMOTIONS))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "xls"), "'xls' is none of parquet, csv"),
        (("--shard", "3/2"), "'3/2' is no I/N"),
        (("--batch_size", "0"), "'0' is no number above 0"),
    ],
)
def test_a_wrong_value_is_a_usage_error(args, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["analyze", "x.png", *args])
    assert message in capsys.readouterr().err


def test_nothing_to_analyse_is_said(checkpoint, tmp_path, capsys):
    assert main(["analyze", str(tmp_path), "--model", str(checkpoint)]) == 1
    assert "there is no picture and no video" in capsys.readouterr().err
    assert main(["analyze", str(tmp_path / "gone.png"), "--model", str(checkpoint)]) == 1
    assert "does not exist" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- overlay
def test_overlays_show_the_regions_on_every_face(whole_run, media):
    """The picture is there with something drawn on both faces and nothing on the black beside them; the video has
    its frames at their times."""
    import av

    folder = whole_run / overlay.OVERLAY_NAME
    assert sorted(file.name for file in folder.iterdir()) == ["clip.mp4", "empty.png", "two faces.png"]
    with av.open(str(folder / "clip.mp4")) as video:
        times = [float(frame.time) for frame in video.decode(video=0)]
    assert times == pytest.approx(np.arange(16) / FPS, abs=1e-3)
    drawn = np.asarray(Image.open(folder / "two faces.png").convert("RGB")).astype(int)
    zoom = drawn.shape[0] / 96
    original = Image.open(media / "below" / "two faces.png")
    plain = np.asarray(original.resize((round(160 * zoom), drawn.shape[0]), Image.Resampling.BICUBIC)).astype(int)
    changed = np.abs(drawn[:, : plain.shape[1]] - plain).max(axis=-1) > 40
    for x0, y0, x1, y1 in (LEFT, RIGHT):
        part = changed[int(y0 * zoom) : int(y1 * zoom), int(x0 * zoom) : int(x1 * zoom)]
        assert 0.02 < part.mean() < 0.8
    assert not changed[int(80 * zoom) :, int(140 * zoom) :].any()
    assert drawn.shape[1] > plain.shape[1], "the panel beside it"


# ------------------------------------------------------------------------------------------- the real FaceLandmarker
def test_photographs_are_analysed_with_the_real_detector(checkpoint, photographs, face_landmarker, tmp_path):
    """All faces of group pictures; a score that tells; the detector, its version and the hash of its model."""
    pictures = [photographs / "groups" / "g2_6faces.jpg", photographs / "single" / "p01.jpg"]
    options = ("--model", checkpoint, "--backend", "mediapipe", "--model_file", face_landmarker, "--overlay")
    assert analyze(*pictures, *options, "--output", tmp_path / "all") == 0
    rows = read_rows(tmp_path / "all")
    assert [Path(row["source"]).name for row in rows] == ["g2_6faces.jpg"] * 6 + ["p01.jpg"]
    assert len({row["face_score"] for row in rows}) > 2 and all(0.5 <= row["face_score"] < 1 for row in rows)
    found_with = json.loads((tmp_path / "all" / "manifest.json").read_text())["settings"]["detector"]
    assert found_with["name"] == "mediapipe" and found_with["version"]
    digest = hashlib.sha256(face_landmarker.read_bytes()).hexdigest()
    assert found_with["model_sha256"] == {face_landmarker.name: digest}
    assert {file.name for file in (tmp_path / "all" / "overlay").iterdir()} == {"g2_6faces.png", "p01.png"}

    limits = ("--min_face_size", 150, "--min_face_score", 0.6)
    assert analyze(*pictures, *options, *limits, "--output", tmp_path / "large") == 0
    assert [row["status"] for row in read_rows(tmp_path / "large")] == ["no_face", "ok"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MF2_FACE_LANDMARKER", str(face_landmarker))
        patch.setenv("MF2_LANDMARK_DETECTOR", "mediapipe")
        assert analyze(pictures[1], "--model", checkpoint, "--output", tmp_path / "found") == 0
    assert read_rows(tmp_path / "found")[0]["landmarks"] == rows[-1]["landmarks"]
