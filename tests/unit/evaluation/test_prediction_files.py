"""Everything that is written of faces is read back as predictions, for the rows that it is of."""

import json

import numpy as np
import pandas as pd
import pytest

from mf2.analysis.peer_formats import PEER_WRITERS
from mf2.analysis.tables import WRITERS, row_columns
from mf2.evaluation.external_predictions import ExternalPredictions
from mf2.evaluation.predictions import Predictions
from mf2.evaluation.protocols import load_protocol
from mf2.labels_mf2 import AU_IDS, EMOTIONS, LabelSpace
from mf2.utils.face_table import STATUS_NO_FACE, STATUS_OK

SPACE = LabelSpace(AU_IDS, EMOTIONS, (0.4,) * len(AU_IDS))
FILES = {
    "parquet": "faces.parquet",
    "csv": "faces.csv",
    "jsonl": "faces.jsonl",
    "pyfeat": "pyfeat.csv",
    "openface": "openface",
    "abaw": "abaw",
}
DECISIONS = ("openface", "abaw")


@pytest.fixture
def split(mfa_folder):
    """Eight pictures, frames 0 to 7 of videos v0 to v3: `v1/00001.jpg`."""
    return load_protocol(str(mfa_folder), "train", "mfa", AU_IDS)


def face_row(source, frame, number, **columns):
    """A face whose AU1 and emotion follow from a number."""
    probs = np.full(len(EMOTIONS), 0.05)
    probs[number % len(EMOTIONS)] += 0.6
    return {
        **{"source": source, "frame": frame, "time_s": frame / 25, "face": 0, "status": STATUS_OK},
        **{"x0": 0.0, "y0": 0.0, "x1": 10.0, "y1": 10.0, "face_score": 0.9, "landmarks_found": True},
        **{f"AU{au_id}": 0.125 for au_id in AU_IDS},
        "AU1": number / 10,
        "emotion": EMOTIONS[number % len(EMOTIONS)],
        **{f"emotion_{name}": prob for name, prob in zip(EMOTIONS, probs, strict=True)},
        "landmarks": [float(point) for point in range(136)],
        **columns,
    }


def write(rows, folder, kind):
    """The rows of an analysis in a format, with the manifest that it leaves."""
    columns = row_columns({"": SPACE})
    batches = [[dict.fromkeys(columns) | row for row in rows]]
    folder.mkdir()
    if kind in WRITERS:
        WRITERS[kind](batches, columns, folder)
    else:
        PEER_WRITERS[kind](batches, SPACE, folder)
    sources = list(dict.fromkeys(row["source"] for row in rows))
    manifest = {"settings": {"sources": sources}, "label_space": SPACE.to_dict()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder / FILES[kind]


def check(system: ExternalPredictions, split, kind: str) -> None:
    """Row i of the split was given number i."""
    found = system.match(split)
    numbers = np.arange(len(found))
    expected = numbers / 10
    np.testing.assert_allclose(found.au_probs[:, 0], expected >= 0.4 if kind in DECISIONS else expected, atol=1e-6)
    if kind != "openface":
        named = [system.label_space.emotions[index] for index in found.emotion_probs.argmax(1)]
        assert named[:7] == [EMOTIONS[number] for number in numbers[:7]]
        np.testing.assert_allclose(found.emotion_probs.sum(1), 1)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("root", ["/data/faces/", ""])
def test_pictures_are_found_by_their_paths(split, tmp_path, kind, root):
    """In any order, beside a second face and a picture that the split does not have."""
    rows = [face_row(f"{root}{name}", 0, number) for number, name in enumerate(split.rows["file_name"])]
    rows += [face_row(f"{root}v9/00000.jpg", 0, 9), rows.pop(0)]
    rows.append(rows[-1] | {"face": 1, "AU1": 0.9, "emotion": "Other"})
    system = ExternalPredictions.read(write(rows, tmp_path / "out", kind))
    check(system, split, kind)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("first", [0, 1])
def test_frames_of_videos_are_found_by_number(split, tmp_path, kind, first):
    """Whether those of the data count from 0 or from 1; a frame without a face has no prediction."""
    numbers = np.array(split.rows["frame"]) + first
    rows = split.rows.remove_columns("frame").add_column("frame", numbers.astype(np.int32))
    files = [f"{video}/{frame:05d}.png" for video, frame in zip(rows["video_id"], numbers, strict=True)]
    rows = rows.remove_columns("file_name").add_column("file_name", files)
    object.__setattr__(split, "rows", rows)
    ours = [face_row(f"clips/v{v}.mp4", f, f) for v in range(4) for f in range(8)]
    path = write(ours, tmp_path / "out", kind)
    if kind == "abaw" and first == 0:
        pytest.skip("ABAW counts from 1")
    check(ExternalPredictions.read(path), split, kind)
    empty = [row if row["frame"] != 2 else row | {"status": STATUS_NO_FACE, "face": -1} for row in ours]
    found = ExternalPredictions.read(write(empty, tmp_path / "empty", kind))
    with pytest.raises(ValueError, match="no prediction for 1 of 8 frames, for example v2 frame"):
        found.match(split)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_pictures_are_an_error_that_names_both(split, tmp_path, kind):
    path = write([face_row("holiday/beach.jpg", 0, 1)], tmp_path / "out", kind)
    with pytest.raises(ValueError, match=r"No prediction is of a row.*beach.*v0/00000\.jpg"):
        ExternalPredictions.read(path).match(split)


def test_an_evaluations_own_predictions_give_the_same_again(split, tmp_path):
    rng = np.random.default_rng(0)
    probs = rng.random((len(split.rows), len(AU_IDS))), rng.dirichlet(np.ones(8), len(split.rows))
    before = Predictions.from_split(split, EMOTIONS, *probs)
    before.save(tmp_path / "predictions.parquet", SPACE)
    (tmp_path / "metrics.json").write_text(json.dumps({"model": {"label_space": SPACE.to_dict()}}))
    for path in (tmp_path / "predictions.parquet", tmp_path):
        system = ExternalPredictions.read(path)
        assert system.label_space == SPACE
        after = system.match(split)
        np.testing.assert_allclose(after.au_probs, before.au_probs)
        np.testing.assert_allclose(after.emotion_probs, before.emotion_probs)


@pytest.mark.parametrize("kind", FILES)
def test_an_analysis_is_read_as_a_folder(split, tmp_path, kind):
    rows = [face_row(name, 0, number) for number, name in enumerate(split.rows["file_name"])]
    write(rows, tmp_path / "out", kind)
    system = ExternalPredictions.read(tmp_path / "out")
    check(system, split, kind)
    if kind in WRITERS:
        assert system.label_space == SPACE


def test_a_folder_without_predictions_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no predictions"):
        ExternalPredictions.read(tmp_path)


def test_emotions_of_other_names_are_read(tmp_path):
    row = {"source": "a.jpg", "frame": 0, "face": 0, "status": "ok", "emotion": "Bored"}
    table = pd.DataFrame([row | {"emotion_Bored": 0.75, "emotion_Confused": 0.25}])
    table.to_csv(tmp_path / "faces.csv", index=False)
    assert ExternalPredictions.read(tmp_path / "faces.csv").label_space.emotions == ("Bored", "Confused")
