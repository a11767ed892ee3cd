"""References beside a checkpoint: what each of them is given, and what the command leaves."""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from mf2.cli import main
from mf2.data_loading.splits import Labels, Split
from mf2.dataset_tools.schema import dataset_fingerprint
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.predictions import exact_landmarks, image_batches, no_landmarks
from mf2.evaluation.reference_predictors import (
    aligned_landmarks,
    jittered_landmarks,
    load_checkpoint,
    measure_references,
    model_predictions,
    probe_predictions,
    untrained_tower,
)
from mf2.labels_mf2 import AU_IDS, AU_UNLABELLED, EMOTION_UNLABELLED, EMOTIONS, MEAN_FACE_68
from mf2.modeling_mf2 import MF2Model
from mf2.training.arguments import PretrainArguments
from mf2.training.model_setup import build_model, build_processor, build_tokenizer

CPU = torch.device("cpu")
ROWS = [
    "always active; most frequent emotion",
    "what the true action units allow",
    "logistic regression on landmarks",
    "linear probe on an untrained tower",
    "checkpoint, exact landmarks",
    "checkpoint, landmarks jittered by 3% of the eye distance",
    "checkpoint, no landmarks (mean face)",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = SynthConfig(num_train=64, num_eval=32, frames_per_identity=8, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def evaluation(data):
    return Split.load(str(data), "validation", None, AU_IDS)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A tiny model that has learned nothing."""
    folder = tmp_path_factory.mktemp("checkpoint")
    arguments = PretrainArguments(size="tiny", image_size=64)
    tokenizer = build_tokenizer(arguments, Split.load(str(data), "train", None, AU_IDS).rows)
    model = build_model(arguments, tokenizer)
    model.save_pretrained(folder)
    build_processor(arguments, model.config, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_checkpoint(str(checkpoint))


def displaced(split):
    """The same pictures with all landmarks moved and shrunk."""
    return replace(split, rows=split.rows.map(lambda row: {"landmarks": np.asarray(row["landmarks"]) * 0.8 + 3}))


# ---------------------------------------------------------------------------------------------------------- landmarks
def test_the_mean_face_is_used_whatever_the_landmarks_are(loaded, evaluation):
    model, image_processor = loaded
    moved = displaced(evaluation)
    given, ignored = (
        [model_predictions(model, image_processor, split, choice)[0] for split in (evaluation, moved)]
        for choice in (exact_landmarks, no_landmarks)
    )
    np.testing.assert_array_equal(*ignored)
    assert np.abs(given[0] - given[1]).max() > 1e-6

    batch = next(image_batches(moved, image_processor, 64, CPU, no_landmarks))
    alone = image_processor(moved.faces[5].image, input_data_format="channels_last")
    torch.testing.assert_close(batch["au_boxes"][5], alone["au_boxes"][0])
    torch.testing.assert_close(batch["pixel_values"][5], alone["pixel_values"][0])


def test_jitter_of_zero_is_exact(loaded, evaluation):
    model, image_processor = loaded
    choices = (exact_landmarks, partial(jittered_landmarks, seed=0, jitter=0.0))
    exact, jittered = (model_predictions(model, image_processor, evaluation, choice) for choice in choices)
    for ours, theirs in zip(exact, jittered, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_jitter_has_its_deviation_and_follows_the_seed_and_the_row(evaluation):
    face = evaluation.faces[0]
    noise = jittered_landmarks(face, seed=0, jitter=1.0) - face.landmarks_px
    eye_distance = np.linalg.norm(face.landmarks_px[42:48].mean(0) - face.landmarks_px[36:42].mean(0))
    assert noise.std() == pytest.approx(eye_distance, rel=0.2)
    np.testing.assert_array_equal(jittered_landmarks(face, 0), jittered_landmarks(face, 0))
    assert (jittered_landmarks(face, 1) != jittered_landmarks(face, 0)).any()
    assert (jittered_landmarks(replace(face, row=1), 0) != jittered_landmarks(face, 0)).any()


def test_a_face_without_landmarks_is_the_mean_face(evaluation):
    without = evaluation.rows.select([0, 1]).map(lambda _, row: {"landmarks": None} if row else {}, with_indices=True)
    aligned = aligned_landmarks(replace(evaluation, rows=without))
    assert aligned.shape == (2, 136)
    eyes = aligned.reshape(2, 68, 2)[:, 36:42].mean(1)
    np.testing.assert_allclose(eyes[0], eyes[1], atol=1e-6)
    assert jittered_landmarks(replace(evaluation.faces[0], landmarks_px=None), 0) is None


# ------------------------------------------------------------------------------------------------ logistic regression
def smiling_faces(num_faces, seed):
    """Faces anywhere in a picture, upright or not, whose wide mouths alone decide AU and emotion; some unlabelled."""
    rng = np.random.default_rng(seed)
    smiles = rng.random(num_faces) < 0.4
    faces = np.asarray(MEAN_FACE_68) + rng.normal(0, 0.004, (num_faces, 68, 2))
    faces[smiles, 48] -= (0.04, 0)
    faces[smiles, 54] += (0.04, 0)
    angle, scale = rng.uniform(-1, 1, num_faces), rng.uniform(50, 200, num_faces)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(-1, 2, 2)
    faces = faces @ (turn * scale[:, None, None]) + rng.uniform(0, 100, (num_faces, 1, 2))
    aus = np.stack([smiles, np.zeros(num_faces, bool), smiles], axis=1).astype(np.int64)
    aus[:, 2] = AU_UNLABELLED
    return faces, smiles, Labels(aus, smiles * EMOTIONS.index("Happiness"))


def test_logistic_regression_finds_what_landmarks_decide(evaluation):
    faces, _, labels = smiling_faces(96, seed=0)
    labels.aus[:8, 0], labels.emotion[:8] = AU_UNLABELLED, EMOTION_UNLABELLED
    eval_faces, smiles, _ = smiling_faces(64, seed=1)
    train_x, eval_x = (
        aligned_landmarks(replace(evaluation, rows={"landmarks": list(points)})) for points in (faces, eval_faces)
    )
    au_probs, emotion_scores = probe_predictions(train_x, labels, eval_x)
    majority = max(smiles.mean(), 1 - smiles.mean())
    assert ((au_probs[:, 0] >= 0.5) == smiles).mean() > 0.95 > majority
    assert ((emotion_scores.argmax(1) == EMOTIONS.index("Happiness")) == smiles).mean() > 0.95
    assert not au_probs[:, 1:].any()  # never active, and never labelled
    assert emotion_scores.shape == (64, len(EMOTIONS))


def test_the_probed_tower_is_the_checkpoints_kind_untrained(loaded):
    model = loaded[0]
    tower, same, other = (untrained_tower(model.config, seed).vision_model.state_dict() for seed in (0, 0, 1))
    trained = model.vision_model.state_dict()
    assert {name: value.shape for name, value in tower.items()} == {name: v.shape for name, v in trained.items()}
    kernel = next(name for name, value in tower.items() if value.ndim == 4)
    assert torch.equal(tower[kernel], same[kernel])
    assert not torch.equal(tower[kernel], other[kernel])
    assert not torch.equal(tower[kernel], trained[kernel])


# ------------------------------------------------------------------------------------------------------------ command
def test_the_command_prints_a_row_each_and_writes_what_scores_depend_on(checkpoint, data, tmp_path, capsys):
    flags = ["--num_bootstrap", "2", "--device", "cpu", "--references", "--seed", "3"]
    assert (
        main(["evaluate", "--model", str(checkpoint), "--data", str(data), "--output_dir", str(tmp_path), *flags]) == 0
    )
    table = capsys.readouterr().out.partition("## Reference predictors\n\n")[2]
    printed = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [cells[0].strip() for cells in printed] == ROWS
    result = json.loads((tmp_path / "references.json").read_text())
    assert result["seed"] == 3
    assert result["data"]["evaluation"]["fingerprint"] == dataset_fingerprint(data)
    assert {"mf2", "torch", "transformers", "scikit-learn"} <= set(result["environment"])
    assert result["faces_without_landmarks"] == 0

    scores = {row["reference"]: row for row in result["scores"]}
    assert list(scores) == ROWS
    for cells in printed:
        row = scores[cells[0].strip()]
        assert [cell.strip() for cell in cells[1:]] == [
            "-" if row[name] is None else f"{row[name]:.3f}" for name in ("au_f1", "emotion_top1")
        ]
    assert (
        scores[ROWS[1]]["emotion_top1"]
        == json.loads((data / "manifest.json").read_text())["emotion_ceiling"]["validation"]
    )
    assert scores[ROWS[2]]["au_f1"] > scores[ROWS[0]]["au_f1"]
    assert scores[ROWS[2]]["emotion_top1"] > scores[ROWS[0]]["emotion_top1"]
    assert list(scores[ROWS[4]]["aus"]["per_au"]) == [f"AU{au_id}" for au_id in AU_IDS]


def test_what_is_no_checkpoint_or_data_set_is_said(checkpoint, data, tmp_path, monkeypatch):
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    empty.mkdir(), foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    for model, folder, message in (
        (empty, data, "is no checkpoint folder: it has no config.json"),
        (foreign, data, "is of a 'bert' model"),
        (checkpoint, empty, "is not a data set folder"),
    ):
        with pytest.raises((OSError, ValueError), match=message):
            measure_references(str(model), str(folder), seed=0, device="cpu")

    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ValueError, match="need scikit-learn; pip install"):
        measure_references(str(checkpoint), str(data), seed=0, device="cpu")


@pytest.mark.parametrize("flags", [("--predictions", "other.csv"), ("--model", "m", "--adapter", "a")])
def test_references_stand_beside_a_checkpoint(flags, capsys):
    assert main(["evaluate", *flags, "--data", "d", "--output_dir", "o", "--references"]) == 1
    assert "--references stand beside a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_without_all_emotions_is_refused(loaded, tmp_path):
    fewer = {"emotions": ["Neutral", "Happiness"], "id2label": None, "label2id": None}
    config = type(loaded[0].config).from_dict(loaded[0].config.to_dict() | fewer)
    MF2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not recognise both AUs and the emotions Neutral"):
        load_checkpoint(str(tmp_path))
