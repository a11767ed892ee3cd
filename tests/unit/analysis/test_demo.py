"""The demo: generated faces, an analysis and a report, from a checkpoint that is made where there is none."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_mf2 import save_tiny

from mf2.analysis import demo, demo_sample
from mf2.analysis.demo_sample import STORY, story_intensities, write_sample
from mf2.cli import main
from mf2.labels_mf2 import AU_IDS, PROTOTYPES


@pytest.fixture
def short_film(monkeypatch):
    monkeypatch.setattr(demo_sample, "SCENE_FRAMES", 2)
    monkeypatch.setattr(demo_sample, "FILM_PX", 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def test_the_story_passes_through_every_prototype():
    intensities = story_intensities()
    assert intensities.shape == (demo_sample.SCENE_FRAMES * (len(STORY) - 1) + 1, len(AU_IDS))
    for scene, emotion in enumerate(STORY):
        active = {
            au_id for au_id, value in zip(AU_IDS, intensities[scene * demo_sample.SCENE_FRAMES], strict=True) if value
        }
        assert active == set(PROTOTYPES.get(emotion, ()))
    assert np.abs(np.diff(intensities, axis=0)).max() < 0.25  # it moves smoothly


def test_the_sample_is_the_same_each_time_and_has_landmarks_for_every_frame(tmp_path, short_film):
    for name in ("a", "b"):
        faces, film = write_sample(tmp_path / name, num_pictures=2)
    first, second = (sorted(path for path in (tmp_path / name).rglob("*") if path.suffix != ".npz") for name in "ab")
    assert [path.read_bytes() for path in first if path.is_file()] == [p.read_bytes() for p in second if p.is_file()]
    with np.load(tmp_path / "a" / "landmarks.npz") as landmarks:
        places = list(zip(landmarks["video"].tolist(), landmarks["frame"].tolist(), strict=True))
        assert landmarks["landmarks"].shape == (len(places), 68, 2)
    num_frames = Image.open(film).n_frames
    assert num_frames == 2 * (len(STORY) - 1) + 1
    assert places == [("person-00", 0), ("person-01", 0), *(("film", number) for number in range(num_frames))]
    assert len(list(faces.iterdir())) == 2


def test_the_demo_ends_with_a_report_of_all_faces(tmp_path, checkpoint, short_film, monkeypatch, capsys):
    monkeypatch.setattr(demo, "NUM_PICTURES", 2)
    argv = ["demo", "--model", str(checkpoint), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(argv) == 0
    report = tmp_path / "out" / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(report)
    page = report.read_text()
    assert "film.webp · face 0" in page
    assert "2 faces in pictures" in page
    assert page.count("data:image/jpeg;base64,") > 3
    table = pd.read_parquet(tmp_path / "out" / "run" / "faces.parquet")
    assert table["landmarks_found"].all()
    assert table["caption_emotion"].notna().all()
    assert main(argv) == 0  # again, over the earlier one


def test_a_missing_checkpoint_is_trained_by_the_main_job(tmp_path, monkeypatch, capsys):
    commands = []

    def fail(command, cwd):
        commands.append((command, cwd))
        return type("Finished", (), {"returncode": 3})

    monkeypatch.setattr(demo.subprocess, "run", fail)
    assert main(["demo", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    ((command, cwd),) = commands
    assert command[-5:] == [*demo.TRAINING_COMMAND, "--output_dir", str(tmp_path / "none")]
    assert (cwd / command[-5]).is_file()
    assert (cwd / command[-3]).is_file()
    assert "Training ended with status 3" in capsys.readouterr().err
