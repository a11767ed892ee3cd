"""What goes wrong in pre-training is one clear line and exit status 1, and never costs an earlier checkpoint."""

import errno
import json
import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.training import pretrain
from mf2.training.checkpoints import is_complete
from mf2.utils.command_line import run_script

DEMO = Path(__file__).parents[2] / "training" / "configs" / "demo.yaml"
SHORT = {
    "max_train_rows": 16,
    "max_eval_rows": 8,
    "tuning_rows": 8,
    "overlay_faces": 0,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 8,
    "max_steps": 2,
    "save_steps": 1,
    "warmup_steps": 0,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    config = SynthConfig(num_train=16, num_eval=8, frames_per_identity=8, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture
def folder(sound, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(sound, tmp_path / "faces")


@pytest.fixture
def run(capsys, tmp_path):
    """Run the command; returns its exit status and what it said at the end."""

    def run_command(**values):
        values = {"output_dir": tmp_path / "run", **SHORT, **values}
        argv = ["--config", str(DEMO), *(part for name, value in values.items() for part in (f"--{name}", str(value)))]
        status = run_script(partial(pretrain.main, argv))
        return status, capsys.readouterr().err.strip().splitlines()[-1]

    return run_command


def edit_shard(folder, split, change):
    """Replace the table of a split by `change(table)`."""
    (shard,) = (folder / "data").glob(f"{split}-*.parquet")
    pq.write_table(change(pq.read_table(shard)), shard)


def test_no_such_data(run, tmp_path):
    status, line = run(train_data=tmp_path / "nowhere")
    assert status == 1 and "error:" in line and "nowhere is neither a data set folder nor a Hub id" in line


def test_a_data_set_without_rows(run, folder):
    edit_shard(folder, "train", lambda table: table.slice(0, 0))
    status, line = run(train_data=folder)
    assert status == 1 and "(train) has no rows" in line


def test_missing_columns(run, folder):
    def drop(table):
        return table.drop_columns(["AU12", "landmarks"]).replace_schema_metadata(None)

    edit_shard(folder, "train", drop)
    status, line = run(train_data=folder)
    assert status == 1 and "lacks the columns AU12, landmarks" in line


def test_a_missing_split(run, sound):
    status, line = run(train_data=sound, eval_split="test")
    assert status == 1 and "has no split 'test'; it has train, validation" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(run, folder, workers):
    def damage(table):
        images = table.column("image").to_pylist()
        images[11] = {"bytes": images[11]["bytes"][:40], "path": images[11]["path"]}
        index = table.column_names.index("image")
        return table.set_column(index, table.schema.field("image"), [images])

    edit_shard(folder, "train", damage)
    status, line = run(train_data=folder, dataloader_num_workers=workers)
    assert status == 1
    assert ": error: Row 11 of Generated faces (train)" in line


def test_a_loss_that_is_not_finite(run, sound, tmp_path):
    status, line = run(train_data=sound, learning_rate=1e30, max_grad_norm=0, max_steps=6)
    assert status == 1
    assert "The loss is nan at step" in line and "Lower learning_rate (now 1e+30)" in line
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_full_disk_keeps_the_earlier_checkpoint(run, sound, tmp_path, monkeypatch):
    save = torch.save

    def save_until_full(content, path, *args, **kwargs):
        if "checkpoint-2" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save_until_full)
    status, line = run(train_data=sound)
    assert status == 1
    assert "checkpoint-2 could not be written" in line and "No space left on device" in line
    assert "Earlier checkpoints are intact" in line
    assert is_complete(tmp_path / "run" / "checkpoint-1")
    assert not (tmp_path / "run" / "checkpoint-2").exists()

    monkeypatch.undo()
    status, line = run(train_data=sound)
    assert status == 0 and "CCC of valence" in line, "the scores"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["steps"] == 2


def test_another_configuration_in_the_same_folder(run, sound):
    assert run(train_data=sound)[0] == 0
    status, line = run(train_data=sound, seed=1)
    assert status == 1 and "another configuration (seed 42 -> 1)" in line
    status, line = run(train_data=sound, resume_from_checkpoint="none")
    assert status == 1 and "holds checkpoint-2 of an earlier run" in line


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.au_pairs_per_imag": 2}, "did you mean 'au_pairs_per_image'"),
        ({"synth.num_trian": 2, "train_data": "synth"}, "synth knows no 'num_trian'; did you mean 'num_train'"),
        ({"augmentation.flop": 1}, "augmentation knows no 'flop'; did you mean 'flip'"),
        ({"model.emotions": "[Happiness, Sadness]"}, "needs the data set's eight emotions"),
        ({"trainer.push_to_hub": True}, "training pushes nothing"),
        ({"trainer.learning_rate": 1}, "these have a field of their own"),
        ({"trainer.torch_compil": True}, "did you mean 'torch_compile'"),
        ({"resume_from_checkpoint": "elsewhere"}, "elsewhere is no complete checkpoint"),
    ],
)
def test_settings_that_make_no_sense(run, sound, values, message):
    status, line = run(**{"train_data": sound, **values})
    assert status == 1 and message in line
