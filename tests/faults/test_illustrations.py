"""A picture that cannot be made costs nothing but itself: one line, status 0, and the same command makes it later."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from blob_faces import draw_frame
from command_flags import flags
from PIL import Image
from samples import mfa_row, picture
from tiny_checkpoint import save_tiny_checkpoint
from tiny_mf2 import save_tiny, write_pictures

from mf2.analysis import explanation, overlay
from mf2.analysis.report import page
from mf2.analysis.search import ranking
from mf2.cli import main as mf2
from mf2.cli.main_command import main as mf2_command
from mf2.dataset_tools import landmarks
from mf2.dataset_tools.schema import write_mfa
from mf2.dataset_tools.synthetic import synth
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation import plots
from mf2.experiments import transfer
from mf2.modeling_mf2 import MF2ForConditionalGeneration
from mf2.training import finetune, lifecycle, pretrain
from mf2.training.trainer import PretrainingTrainer
from mf2.utils.command_line import illustration, run_command, run_script

DEMO = Path(pretrain.__file__).parent / "configs" / "demo.yaml"
SYNTH = SynthConfig(num_train=16, num_eval=8, frames_per_identity=4, image_size=64)
SHORT = {
    "tuning_rows": 8,
    "overlay_faces": 1,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 8,
    "max_steps": 1,
    "warmup_steps": 0,
}


class DrawingError(Exception):
    """What nobody expects of a drawing."""


@pytest.fixture
def breaking(monkeypatch):
    """Make a function fail until `monkeypatch.undo()`."""

    def break_function(owner, name, error=DrawingError("no picture\ntoday")):  # noqa: B008 (never changed)
        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(owner, name, fail)

    return break_function


@pytest.fixture
def warnings_of(caplog):
    """The warnings about pictures since the last call."""

    def take() -> list[str]:
        found = [
            record.getMessage()
            for record in caplog.records
            if record.name == "mf2.utils.command_line" and record.levelno == logging.WARNING
        ]
        caplog.clear()
        return found

    return take


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    return synthesize(tmp_path_factory.mktemp("data") / "faces", SYNTH, show_progress=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A checkpoint that writes each kind of caption."""
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny", au_text_mode="per_au", emo_text="random")


def pretrain_into(folder: Path, data: Path, **values) -> int:
    argv = ["--config", str(DEMO), *flags(train_data=data, output_dir=folder, **SHORT | values)]
    return run_script(partial(pretrain.main, argv))


def finetune_into(folder: Path, data: Path, base: Path, **values) -> int:
    argv = flags(model=base, data=data, output_dir=folder, learning_rate=1e-3, views=1, **SHORT | values)
    return run_script(partial(finetune.main, argv))


def refuse(monkeypatch, name: str) -> None:
    """A run that trains or predicts although it is finished fails."""

    def fail(*args, **kwargs):
        pytest.fail(f"{name} of a finished run")

    monkeypatch.setattr(PretrainingTrainer, name, fail)


def kept_files(folder: Path) -> dict[str, bytes]:
    """What a finished run must not lose or change."""
    names = ["metrics.json", "processor_config.json", "tokenizer.json", "training_config.yaml"]
    return {path.name: path.read_bytes() for path in [*map(folder.joinpath, names), *folder.glob("*.safetensors")]}


# ----------------------------------------------------------------------------------------------------------- mechanism
def test_the_line_shows_what_failed_why_and_the_remedy():
    code = (
        "from mf2.utils.command_line import illustration\nwith illustration('a/b.png'): raise TypeError('bad\\nthing')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("a/b.png could not be made (TypeError: bad thing).") and "the same command" in line


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(3), None)])
def test_ending_the_command_passes(error, status, warnings_of, capsys):
    def draw():
        with illustration("a.png"):
            raise error

    if status is None:
        with pytest.raises(SystemExit):
            run_command("test", draw)
    else:
        assert run_command("test", draw) == status
    assert warnings_of() == []


# ------------------------------------------------------------------------------------------------------------ training
RUNS = {
    "pre-training": lambda folder, data, base: pretrain_into(folder, data),
    "a DFN adapter": partial(finetune_into, method="dfn"),
    "head": partial(finetune_into, method="head"),
}


@pytest.mark.parametrize("name", RUNS)
def test_captions_that_fail_cost_only_the_overlay(name, faces, base, tmp_path, breaking, monkeypatch, warnings_of):
    run, folder = partial(RUNS[name], tmp_path / "run", faces, base), tmp_path / "run"
    breaking(MF2ForConditionalGeneration, "generate", TypeError("`model_kwargs` are not used by the model: ['cache']"))
    assert run() == 0
    (line,) = warnings_of()
    assert "overlay.png could not be made (TypeError: `model_kwargs` are not used" in line
    assert not (folder / "overlay.png").exists() and "overlay.png" not in (folder / "README.md").read_text()
    kept = kept_files(folder)

    monkeypatch.undo()
    for method in ("train", "predict"):
        refuse(monkeypatch, method)
    assert run() == 0 and warnings_of() == []
    with Image.open(folder / "overlay.png") as drawn:
        assert drawn.width == 1000
    assert ("overlay.png" in (folder / "README.md").read_text()) is (name != "a DFN adapter")
    assert kept_files(folder) == kept

    breaking(lifecycle, "draw_overlay")
    assert run() == 0 and warnings_of() == [], "what is there is not drawn again"


def test_interrupted_while_drawing(faces, tmp_path, breaking, monkeypatch):
    """The checkpoint is whole by then; the same command draws."""
    breaking(lifecycle, "draw_overlay", KeyboardInterrupt())
    assert pretrain_into(tmp_path, faces) == 130
    kept = kept_files(tmp_path)
    assert "mean AU F1" in (tmp_path / "README.md").read_text()
    monkeypatch.undo()
    refuse(monkeypatch, "train")
    assert pretrain_into(tmp_path, faces) == 0
    assert (tmp_path / "overlay.png").is_file() and kept_files(tmp_path) == kept


def test_other_data_under_the_same_name_are_measured(faces, tmp_path):
    """And the old overlay does not outlive the metrics that it belongs to."""
    data, folder = tmp_path / "faces", tmp_path / "run"
    fingerprints = []
    for seed in (1, 2):
        synthesize(data, replace(SYNTH, seed=seed), overwrite=True, show_progress=False)
        assert pretrain_into(folder, faces, eval_data=data, overlay_faces=2 - seed) == 0
        fingerprints.append(json.loads((folder / "metrics.json").read_text())["evaluation"]["data"]["fingerprint"])
    assert fingerprints[0] != fingerprints[1]
    assert not (folder / "overlay.png").exists() and "overlay.png" not in (folder / "README.md").read_text()


def test_a_sample_without_its_contact_sheet_is_trained_on(tmp_path, breaking, monkeypatch, warnings_of):
    sample = {f"synth.{name}": value for name, value in vars(SYNTH).items() if name != "domain"}
    run = partial(pretrain_into, tmp_path, "synth", overlay_faces=0, **sample)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # drawn in this process
    breaking(synth, "draw_contact_sheet")
    assert run() == 0
    (line,) = warnings_of()
    assert "contact_sheet.png could not be made (DrawingError: no picture today)" in line
    monkeypatch.undo()
    assert run() == 0
    assert (tmp_path / "data" / "contact_sheet.png").is_file()


# ---------------------------------------------------------------------------------------------------------- evaluation
def evaluate(model: Path, data: Path, folder: Path, *options: str) -> int:
    argv = flags(model=model, data=data, output_dir=folder, device="cpu", num_bootstrap=10, batch_size=8)
    return mf2_command(["evaluate", *argv, *options])


def test_an_evaluation_without_one_of_its_plots(base, faces, tmp_path, breaking, monkeypatch, warnings_of):
    breaking(plots, "draw_aus")
    assert evaluate(base, faces, tmp_path) == 0
    (line,) = warnings_of()
    assert "aus.png could not be made (DrawingError: no picture today)" in line
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.json", "metrics.md", "predictions.parquet", "confusion.png", "reliability.png"}
    monkeypatch.undo()
    assert evaluate(base, faces, tmp_path) == 0 and warnings_of() == []
    assert (tmp_path / "aus.png").is_file()


def test_captions_that_were_asked_for_are_no_illustration(base, faces, tmp_path, breaking):
    """But what was predicted is on disk before them."""
    breaking(MF2ForConditionalGeneration, "generate")
    with pytest.raises(DrawingError):
        evaluate(base, faces, tmp_path, "--captions")
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.parquet"}


def test_tables_without_their_plot(tmp_path, breaking, monkeypatch, warnings_of, capsys):
    argv = ["--tables", "transfer", "--data", "a", "--transfer_data", "A=a", "B=b", "--output_dir", str(tmp_path)]
    run = partial(mf2_command, ["tables", *argv, "--only_show"])
    breaking(transfer, "Figure")
    assert run() == 0
    assert len(warnings_of()) == 1 and "transfer.png" not in [path.name for path in tmp_path.iterdir()]
    assert "Trained on the row" in (tmp_path / "tables.md").read_text()
    monkeypatch.undo()
    assert run() == 0
    assert (tmp_path / "transfer.png").is_file()


# ---------------------------------------------------------------------------------------------------------------- data
def test_a_generated_data_set_without_its_contact_sheet(tmp_path, breaking, monkeypatch, warnings_of):
    size = flags(num_train=8, num_eval=8, image_size=32, num_workers=1)
    breaking(synth, "draw_contact_sheet")
    assert mf2(["data", "synth", str(tmp_path / "out"), *size]) == 0
    assert len(warnings_of()) == 1
    manifest = (tmp_path / "out" / "manifest.json").stat()
    monkeypatch.undo()
    assert mf2(["data", "synth", str(tmp_path / "out"), *size, "--seed", "1"]) == 1, "that would be other faces"
    assert mf2(["data", "synth", str(tmp_path / "out"), *size]) == 0
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert (tmp_path / "out" / "manifest.json").stat() == manifest, "nothing is generated again"


def test_landmarks_without_their_contact_sheet(tmp_path, breaking, monkeypatch, warnings_of):
    data, out = tmp_path / "bare", tmp_path / "out"
    rows = [mfa_row(index, image=picture(index), landmarks=np.full((68, 2), 50)) for index in range(4)]
    write_mfa(data, {"train": rows}, manifest={"license": "other"})
    command = ["data", "landmarks", str(data), "--out", str(out), "--backend", "stub_detectors:RedFaces"]
    breaking(landmarks, "draw_contact_sheet")
    assert mf2(command) == 0
    assert len(warnings_of()) == 1 and (out / "manifest.json").is_file()
    monkeypatch.undo()
    assert mf2(command) == 0
    assert (tmp_path / "out.landmarks" / "contact_sheet.png").is_file()


# ------------------------------------------------------------------------------------------------------------ analysis
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_tiny_checkpoint(folder)
    return folder


def test_an_analysis_without_its_pictures(checkpoint, tmp_path, breaking, monkeypatch, warnings_of):
    """One drawing that fails does not keep the others from being made."""
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(draw_frame([(10, 20, 50, 70)])).save(tmp_path / "photos" / name)
    out = tmp_path / "out"
    options = flags(model=checkpoint, output=out, device="cpu", backend="blob_faces:BlobDetector")
    command = ["analyze", str(tmp_path / "photos"), *options, "--overlay", "--report"]
    write = overlay._write_drawing

    def fail_on_a(drawings, stem):
        if stem.name.startswith("a"):
            raise DrawingError("no picture today")
        write(drawings, stem)

    monkeypatch.setattr(overlay, "_write_drawing", fail_on_a)
    breaking(page, "make_thumbnails")
    assert mf2(command) == 0
    failed, unwritten = warnings_of()
    assert "overlay/a" in failed and "report.html" in unwritten
    assert (out / "faces.parquet").is_file() and not (out / "report.html").exists()
    assert [path.name for path in (out / "overlay").iterdir()] == ["b.png"]
    monkeypatch.undo()
    assert mf2(command) == 0 and warnings_of() == []
    assert {path.name for path in (out / "overlay").iterdir()} == {"a.png", "b.png"}
    assert (out / "report.html").is_file()


def test_an_unreadable_source_still_ends_with_status_1(checkpoint, tmp_path, breaking, warnings_of):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    options = flags(model=checkpoint, output=tmp_path / "out", device="cpu", landmarks="mean_face")
    breaking(overlay, "Artist")
    assert mf2(["analyze", str(tmp_path / "broken.png"), *options, "--overlay"]) == 1
    assert len(warnings_of()) == 1


def test_a_search_without_its_contact_sheet(base, tmp_path, breaking, monkeypatch, warnings_of):
    write_pictures(tmp_path / "photos", 3)
    places = {"index": tmp_path / "index", "output": tmp_path / "out"}
    options = flags(model=base, device="cpu", landmarks="mean_face", **places)
    command = ["search", "brows lowered", str(tmp_path / "photos"), *options]
    breaking(ranking, "draw_grid")
    assert mf2(command) == 0
    assert len(warnings_of()) == 1
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["matches"]) == 3
    monkeypatch.undo()
    assert mf2(command) == 0
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


def test_an_explanation_is_written_before_its_pictures(base, tmp_path, breaking):
    """They are what was asked for: without them the command fails, but what was found is kept."""
    (photo,) = write_pictures(tmp_path / "photos", 1)
    breaking(explanation, "draw_explanation")
    options = flags(model=base, device="cpu", landmarks="mean_face", output=tmp_path / "out")
    with pytest.raises(DrawingError):
        mf2(["explain", str(photo), *options])
    (face,) = json.loads((tmp_path / "out" / "explanation.json").read_text())["faces"]
    assert face["aus"] and face["captions"]
