"""`mf2 calibrate`: what it fits, what it keeps, and what it leaves in the folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit
from tiny_mf2 import save_tiny
from transformers import AutoModel

from mf2 import cli
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.calibrate import (
    Calibration,
    Sample,
    find_config_file,
    fit_thresholds,
    head_files,
    hold_out,
    save_calibration,
    select_calibration,
)
from mf2.hub.provenance import read_training_videos
from mf2.labels_mf2 import LabelSpace

SPACE = LabelSpace(au_ids=(1, 12), thresholds=(0.3, 0.6))


def make_sample(num_rows=4000, scale=(3.0, 0.5), emotion_scale=2.0, seed=0):
    """Faces whose logits are too confident, or too timid, by known factors."""
    rng = np.random.default_rng(seed)
    au_logits, emotion_logits = rng.normal(0, 1.5, (num_rows, 2)), rng.normal(0, 1.5, (num_rows, 8))
    probs = np.exp(emotion_logits) / np.exp(emotion_logits).sum(1, keepdims=True)
    return Sample(
        au_logits * scale,
        emotion_logits * emotion_scale,
        (rng.random((num_rows, 2)) < expit(au_logits)).astype(int),
        (probs.cumsum(1) > rng.random((num_rows, 1))).argmax(1),
    )


# ------------------------------------------------------------------------------------------------------------- fitting
def test_known_temperatures_are_found_and_kept():
    chosen, kept = select_calibration(make_sample(seed=0), make_sample(seed=1), SPACE, force=False)
    assert {"au_temperatures", "emotion_temperature"} <= set(kept)
    assert chosen.au_temperatures == pytest.approx((3.0, 0.5), rel=0.1)
    assert chosen.emotion_temperature == pytest.approx(2.0, rel=0.1)


def test_what_gains_nothing_on_the_held_out_videos_is_not_kept_unless_forced():
    """The fit sees labels that are turned round: whatever it learns is wrong for the others."""
    held_out = make_sample(scale=(1, 1), emotion_scale=1.0)
    turned = replace(held_out, au_labels=1 - held_out.au_labels, emotion_labels=(held_out.emotion_labels + 4) % 8)
    chosen, kept = select_calibration(turned, held_out, SPACE, force=False)
    assert kept == [] and chosen == Calibration.from_label_space(SPACE)
    forced, kept = select_calibration(turned, held_out, SPACE, force=True)
    assert set(kept) == {"au_temperatures", "thresholds", "emotion_temperature"} and forced != chosen


def test_temperatures_move_the_thresholds_with_them():
    before = Calibration((0.3, 0.9), (1.0, 1.0))
    after = before.with_au_temperatures([2.0, 0.5])
    logits = np.linspace(-6, 6, 101)[:, None].repeat(2, axis=1)
    sample = Sample(logits, np.zeros((101, 0)), np.zeros((101, 2)), np.zeros(101))
    decisions = [sample.au_probs(one) >= np.array(one.thresholds) for one in (before, after)]
    np.testing.assert_array_equal(*decisions)
    assert after.thresholds != before.thresholds


def test_an_au_that_is_not_labelled_both_ways_keeps_its_threshold():
    sample = make_sample(200)
    sample.au_labels[:, 0] = 1
    assert fit_thresholds(sample, Calibration.from_label_space(SPACE)).thresholds[0] == 0.3
    sample.au_labels[:, 0] = -1
    assert select_calibration(sample, sample, SPACE, force=True)[0].thresholds[0] == pytest.approx(0.3)


def test_a_model_without_emotions_is_calibrated():
    sample = replace(make_sample(), emotion_logits=np.zeros((4000, 0)), emotion_labels=np.full(4000, -100))
    chosen, kept = select_calibration(sample, sample, replace(SPACE, emotions=()), force=True)
    assert "emotion_temperature" not in kept and chosen.emotion_temperature == 1.0


def test_held_out_rows_are_whole_videos():
    groups = np.arange(100) % 10
    held = hold_out(groups, 0.3, seed=0)
    assert len(set(groups[held])) == 3 and not set(groups[held]) & set(groups[~held])
    assert (hold_out(groups, 0.3, seed=1) != held).any()
    assert hold_out(np.array(["a", "b"]), 0.99, seed=0).sum() == 1
    with pytest.raises(ValueError, match="only 1 video"):
        hold_out(np.zeros(5), 0.3, seed=0)


# -------------------------------------------------------------------------------------------------------------- saving
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = SynthConfig(num_train=64, num_eval=16, frames_per_identity=4, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture
def checkpoint(tmp_path):
    return save_tiny(tmp_path / "tiny")


def outputs_of(folder):
    inputs = {
        "pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        "au_boxes": torch.tensor([0.2, 0.2, 0.5, 0.5]).expand(4, 12, 2, 4),
    }
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder).eval()
        return model.label_space, model(**inputs)


def test_saved_temperatures_divide_the_logits_and_nothing_else_changes(checkpoint):
    _, before = outputs_of(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    config = json.loads((checkpoint / "config.json").read_text())
    temperatures = tuple(np.linspace(0.5, 3, 12).tolist())
    save_calibration(checkpoint, Calibration((0.25,) * 12, temperatures, emotion_temperature=2.0))

    label_space, after = outputs_of(checkpoint)
    assert label_space.thresholds == (0.25,) * 12
    torch.testing.assert_close(after.au_logits * torch.tensor(temperatures), before.au_logits)
    torch.testing.assert_close(after.emotion_logits * 2.0, before.emotion_logits)
    changed = {
        name
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
        if not torch.equal(tensor, tensors[name])
    }
    assert {name.split(".")[-2] for name in changed} == {"au_head", "emotion_head"}
    saved = json.loads((checkpoint / "config.json").read_text())
    assert saved | {"au_thresholds": None} == config | {"au_thresholds": None}
    assert not list(checkpoint.glob(".*"))


def test_a_save_that_fails_leaves_both_files_as_they_were(checkpoint, monkeypatch):
    files = [checkpoint / "model.safetensors", checkpoint / "config.json"]
    before = [file.read_bytes() for file in files]

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("mf2.evaluation.calibrate.write_json", fail)
    with pytest.raises(OSError, match="No space"):
        save_calibration(checkpoint, Calibration((0.25,) * 12, (2.0,) * 12))
    assert [file.read_bytes() for file in files] == before and not list(checkpoint.glob(".*"))


def test_the_head_of_a_sharded_checkpoint_is_found(checkpoint):
    model = AutoModel.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="20KB")
    shards = list(checkpoint.glob("*.safetensors"))
    assert len(shards) > 2 and 1 <= len(head_files(checkpoint)) < len(shards)
    _, before = outputs_of(checkpoint)
    save_calibration(checkpoint, Calibration((0.5,) * 12, (4.0,) * 12))
    torch.testing.assert_close(outputs_of(checkpoint)[1].au_logits * 4, before.au_logits)


def test_adapters_have_their_own_configuration_or_none(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "DFN", "au_thresholds": None}))
    assert find_config_file(tmp_path) == file
    file.write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match="has no au_thresholds"):
        find_config_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        find_config_file(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------------------- command
def calibrate(*argv):
    return cli.main(["calibrate", *map(str, argv)])


def test_the_command_saves_what_gained_and_remembers_the_videos(checkpoint, data, capsys):
    assert calibrate("--model", checkpoint, "--data", data, "--device", "cpu") == 0
    text = capsys.readouterr().out
    record = json.loads((checkpoint / "calibration.json").read_text())
    assert "| au f1" in text and "held-out videos" in text and f"Saved into {checkpoint}" in text
    assert record["saved"] and record["after"]["au_nll"] < record["before"]["au_nll"]
    thresholds = json.loads((checkpoint / "config.json").read_text())["au_thresholds"]
    assert thresholds == pytest.approx(record["calibration"]["thresholds"])
    assert len(read_training_videos(checkpoint)) == 16
    assert str(data.parent) not in (checkpoint / "calibration.json").read_text()

    assert calibrate("--model", checkpoint, "--data", data, "--device", "cpu") == 0
    assert "The model has seen 16 of the 16 videos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--holdout", "1"], "--holdout is 1.0; it must lie between 0 and 1"),
        (["--max_rows", "0"], "--max_rows is 0; it must be >= 1"),
        (["--split", "test"], "has no split 'test'"),
    ],
)
def test_wrong_arguments_are_one_line(checkpoint, data, capsys, argv, message):
    assert calibrate("--model", checkpoint, "--data", data, *argv) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
