"""`mf2 evaluate` as it is called: what it leaves, what it says, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score
from tiny_mf2 import save_tiny
from transformers import AutoModel

from mf2 import landmarks_mf2
from mf2.cli import main
from mf2.dataset_tools.schema import load_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.predictions import predict
from mf2.evaluation.protocols import load_protocol
from mf2.evaluation.scores import evaluate_predictions
from mf2.hub.provenance import record_training_videos
from mf2.labels_mf2 import AU_IDS, EMOTIONS, MEAN_FACE_68
from mf2.landmarks_mf2 import DetectedFace

ROOT = Path(__file__).parents[2]
PICTURES = ("confusion.png", "aus.png", "reliability.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = SynthConfig(num_train=16, num_eval=48, frames_per_identity=4, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A tiny model that has learned nothing, "trained" on the training split."""
    folder = save_tiny(tmp_path_factory.mktemp("model") / "tiny", emo_text="random", caption_prompt_ids={})
    record_training_videos(folder, load_protocol(str(data), "train", "mfa", AU_IDS).rows)
    return folder


@pytest.fixture(scope="module")
def finished(checkpoint, data, tmp_path_factory):
    """The README's command with everything on, in a process of its own."""
    out = tmp_path_factory.mktemp("out") / "evaluation"
    command = [sys.executable, "-m", "mf2.cli", "evaluate", "--model", checkpoint, "--data", data, "--output_dir", out]
    command += ["--captions", "--caption_rows", "8", "--group_by", "emotion", "--num_bootstrap", "100"]
    result = subprocess.run(
        [*map(str, command), "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def evaluate(*argv):
    """The command in this process; returns its exit status."""
    return main(["evaluate", *map(str, argv), "--device", "cpu", "--num_bootstrap", "20"])


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


# -------------------------------------------------------------------------------------------------------- what is left
def test_it_leaves_metrics_tables_pictures_and_predictions(finished):
    out, printed = finished
    names = {path.name for path in out.iterdir()}
    assert names == {"metrics.json", "metrics.md", "predictions.parquet", *PICTURES}
    assert printed == (out / "metrics.md").read_text() + "\n"
    for name in PICTURES:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    for title in ("## Action units", "## Emotions", "## By emotion", "## Retrieval", "## Written captions"):
        assert title in printed


def test_the_metrics_are_those_of_the_predictions(finished):
    out, _ = finished
    metrics, table = metrics_of(out), pd.read_parquet(out / "predictions.parquet")
    evaluation = metrics["evaluation"]
    assert len(table) == evaluation["data"]["rows"] == 48
    expected = [f1_score(table[f"AU{au_id}_label"], table[f"AU{au_id}"] >= 0.5, zero_division=0) for au_id in AU_IDS]
    assert evaluation["aus"]["f1"] == pytest.approx(np.mean(expected))
    assert evaluation["emotion"]["top1"] == (table["emotion"] == table["emotion_label"]).mean()
    assert evaluation["overlap"] == {"videos": 12, "seen_videos": 0}
    assert set(evaluation["retrieval"]) == {"emotion", "key_au", "au"}
    assert evaluation["captions"]["au"]["num_captions"] == 8
    assert len(evaluation["by_group"]["groups"]) == 8


def test_nothing_that_is_left_names_a_local_path(finished, data):
    out, _ = finished
    for name in ("metrics.json", "metrics.md"):
        assert str(data.parent) not in (out / name).read_text() and str(out.parent) not in (out / name).read_text()


def test_the_functions_give_what_the_command_writes(finished, checkpoint, data):
    from mf2.evaluation.evaluate import load_model

    model, processor, _ = load_model(str(checkpoint), [])
    split = load_protocol(str(data), "validation", "mfa", AU_IDS)
    predictions = predict(model, processor.image_processor, split, batch_size=7)
    found = evaluate_predictions(predictions, model.label_space, num_bootstrap=100)
    written = metrics_of(finished[0])["evaluation"]
    assert found["emotion"]["confusion"] == written["emotion"]["confusion"]
    assert found["aus"]["f1_interval"] == pytest.approx(written["aus"]["f1_interval"])


# ------------------------------------------------------------------------------------------------------------ choices
def test_landmarks_of_the_mean_face_give_other_scores(checkpoint, data, tmp_path):
    for landmarks in ("given", "mean_face"):
        out = tmp_path / landmarks
        assert evaluate("--model", checkpoint, "--data", data, "--output_dir", out, "--landmarks", landmarks) == 0
        assert metrics_of(out)["evaluation"]["landmarks"] == landmarks
    tables = [pd.read_parquet(tmp_path / name / "predictions.parquet")["AU1"] for name in ("given", "mean_face")]
    assert not np.allclose(*tables)


class ShiftedFaces:
    """Finds a face a little beside the middle of each picture, but in every third none."""

    name = "shifted"

    def __init__(self, device=None):
        self.seen = 0

    def detect(self, images):
        found = []
        for image in images:
            self.seen += 1
            side = min(image.shape[:2])
            points = (np.array(MEAN_FACE_68) * 0.8 + 0.12) * side
            found.append([DetectedFace((0, 0, side, side), points, 1.0)] if self.seen % 3 else [])
        return found


def test_scores_stand_side_by_side_by_what_was_known_of_the_faces(checkpoint, data, tmp_path, monkeypatch):
    """One run measures all sources; each score is that of a run with that source alone."""
    monkeypatch.setitem(landmarks_mf2._FACTORIES, "shifted", ShiftedFaces)
    monkeypatch.setenv("MF2_LANDMARK_DETECTOR", "shifted")

    def measure(*landmarks):
        monkeypatch.setattr(landmarks_mf2, "_LOADED", {})
        out = tmp_path / "-".join(landmarks or ("all",))
        chosen = ("--landmarks", *landmarks) if landmarks else ()
        assert evaluate("--model", checkpoint, "--data", data, "--output_dir", out, *chosen) == 0
        return metrics_of(out)["evaluation"]

    found = measure()
    compared, rows = found["by_landmarks"], found["data"]["rows"]
    assert found["landmarks"] == "given" and list(compared) == ["detect", "mean_face", "given"]
    assert compared["given"]["aus"]["f1"] == found["aus"]["f1"]
    located = {name: (scores["located"], scores["faces"]) for name, scores in compared.items()}
    assert located == {"detect": (rows - rows // 3, rows), "mean_face": (0, rows), "given": (rows, rows)}
    for name in ("detect", "mean_face"):
        alone = measure(name)
        assert alone["landmarks"] == name and list(alone["by_landmarks"]) == [name]
        assert alone["aus"]["f1"] == compared[name]["aus"]["f1"]
        assert alone["emotion"]["top1"] == compared[name]["emotion"]["top1"]
    report = (tmp_path / "all" / "metrics.md").read_text()
    places = [
        report.index(text) for text in ("found by the detector", "without landmarks", "data set's landmarks", "| AU1 ")
    ]
    assert places == sorted(places)


def test_a_csv_of_labels_is_evaluated_on_as_it_is_trained_on(checkpoint, data, tmp_path):
    """It is imported once, below the output folder; its pictures lie beside it."""
    lines = ["path,split,emotion,AU1,AU12"]
    for split in ("train", "validation"):
        for number, row in enumerate(load_mfa(data, split).select(range(8))):
            row["image"].save(tmp_path / f"{split}{number}.png")
            lines.append(f"{split}{number}.png,{split},{EMOTIONS[row['emotion']]},{row['AU1']},{row['AU12']}")
    (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        out = tmp_path / "out"
        assert evaluate("--model", checkpoint, "--data", tmp_path / "faces.csv", "--output_dir", out) == 0
    found = metrics_of(out)["evaluation"]
    assert found["data"]["rows"] == 8 and set(found["aus"]["per_au"]) <= {"AU1", "AU12"}
    assert len(list((out / "data").iterdir())) == 1


def test_another_systems_predictions_are_scored_the_same_way(finished, data, tmp_path):
    """The model's own predictions as a CSV get the model's scores."""
    out, _ = finished
    table = pd.read_parquet(out / "predictions.parquet").rename(columns={"video_id": "video"})
    columns = ["video", "frame", *(f"AU{au_id}" for au_id in AU_IDS), "emotion"]
    table[columns].to_csv(tmp_path / "system.csv", index=False)
    assert evaluate("--predictions", tmp_path / "system.csv", "--data", data, "--output_dir", tmp_path / "out") == 0
    ours, theirs = (metrics_of(folder)["evaluation"] for folder in (out, tmp_path / "out"))
    assert theirs["aus"]["f1"] == pytest.approx(ours["aus"]["f1"])
    assert theirs["emotion"]["confusion"] == ours["emotion"]["confusion"]
    assert theirs["calibration"]["emotion"] is None and theirs["overlap"]["seen_videos"] is None
    assert metrics_of(tmp_path / "out")["model"]["name"] == "system"


def test_adapters_are_measured_in_their_own_label_space_each_in_a_folder(checkpoint, data, tmp_path):
    peft = pytest.importorskip("peft")
    from mf2.peft_dfn import DFNConfig

    adapters = {"brows": {"au_ids": [1, 9], "emotions": []}, "feelings": {"au_ids": [], "emotions": ["Fear", "Awe"]}}
    for name, label_space in adapters.items():
        adapted = peft.get_peft_model(AutoModel.from_pretrained(checkpoint), DFNConfig(r=2, **label_space))
        adapted.save_pretrained(tmp_path / name)
    folders = [tmp_path / name for name in adapters]
    out = tmp_path / "out"
    assert evaluate("--model", checkpoint, "--adapter", *folders, "--data", data, "--output_dir", out) == 0
    brows, feelings = (metrics_of(out / name)["evaluation"] for name in adapters)
    assert list(brows["aus"]["per_au"]) == ["AU1"] and brows["aus"]["unlabelled"] == ["AU9"]
    assert brows["emotion"] == {"num_labelled": 0} and feelings["aus"]["per_au"] == {}
    assert feelings["emotion"]["num_labelled"] == 6 and list(feelings["emotion"]["per_class"]) == ["Fear", "Awe"]
    # What the base has seen, its adapters have seen.
    seen = ("--split", "train", "--output_dir", tmp_path / "seen")
    assert evaluate("--model", checkpoint, "--adapter", folders[0], "--data", data, *seen) == 1


# ----------------------------------------------------------------------------------------------------------- refusals
def test_seen_videos_are_refused_or_marked(checkpoint, data, tmp_path, capsys):
    arguments = ("--model", checkpoint, "--data", data, "--split", "train", "--output_dir", tmp_path / "out")
    assert evaluate(*arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "4 of 4 videos were seen" in error and "synth0-train-00000" in error and "--allow_seen" in error
    assert not (tmp_path / "out").exists()
    assert evaluate(*arguments, "--allow_seen") == 0
    assert metrics_of(tmp_path / "out")["evaluation"]["overlap"] == {"videos": 4, "seen_videos": 4}
    assert "**4 of these videos were seen in training" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Give either --model or --predictions"),
        (["--model", "{model}", "--predictions", "x.csv"], "Give either --model or --predictions"),
        (["--predictions", "absent.csv"], "There is no predictions file absent.csv"),
        (["--predictions", "x.csv", "--captions"], "need a --model"),
        (["--model", "{model}", "--captions", "--adapter", "a"], "leave out --adapter"),
        (["--model", "{model}", "--batch_size", "0"], "--batch_size is 0; it must be >= 1"),
        (["--model", "{model}", "--split", "test"], "has no split 'test'; it has train, validation"),
        (["--model", "{model}", "--protocol", "abaw"], "--unlabelled mask"),
        (["--model", "{model}", "--group_by", "age"], "no column 'age' to group by"),
        (["--model", "{model}/nothing"], "nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line(checkpoint, data, tmp_path, capsys, monkeypatch, argv, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    filled = [part.format(model=checkpoint) for part in argv]
    assert evaluate(*filled, "--data", data, "--output_dir", tmp_path / "out") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ": error: " in last and message in last
