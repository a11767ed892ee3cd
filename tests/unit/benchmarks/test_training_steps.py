"""Seconds of a training step, and how many steps of each system they pay for."""

import argparse
import json
from pathlib import Path

import pytest

from mf2.benchmarks.training_steps import parse_run, run, to_markdown
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.experiments.budgets import give_equal_time
from mf2.experiments.runs import RunFolder
from mf2.experiments.table_layouts import OURS, make_tables

SETTINGS = """size: tiny
image_size: 48
model: {emo_text: random, vision_config: {model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
  layer_type: basic}, local_feature_levels: [-2, -1]}
per_device_train_batch_size: 4
max_steps: 40
"""


def test_the_table_compares_with_the_first():
    rows = {"a": {"parameters": 2e6, "seconds_per_step": 0.1}, "b": {"parameters": 1e6, "seconds_per_step": 0.025}}
    assert "| b | 1.00 | 25 | 0.25 |" in " ".join(to_markdown(rows).split())


@pytest.mark.parametrize("text", ["linear", "=--baseline linear"])
def test_a_run_has_a_name_and_flags(text):
    assert parse_run("linear=--baseline linear --model '{a: 1}'") == (
        "linear",
        ["--baseline", "linear", "--model", "{a: 1}"],
    )
    with pytest.raises(ValueError, match="NAME=FLAGS"):
        parse_run(text)


def test_turns_are_counted(tmp_path):
    with pytest.raises(ValueError, match="--turns is 0"):
        run(argparse.Namespace(turns=0, steps=1, runs=[], config=None, output=str(tmp_path / "s.json")))


def test_what_is_measured_decides_the_steps(tmp_path: Path):
    """MF² and linear heads, measured by the command: the lighter one gets more steps, once and for all."""
    faces = SynthConfig(num_train=16, num_eval=4, frames_per_identity=4, image_size=64)
    data = synthesize(tmp_path / "faces", faces, show_progress=False)
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS)
    tables = make_tables(str(data), None, {"data": "task"}, {}, ["linear"])
    folder = RunFolder(tmp_path / "results", {"pretrain": str(config)})
    first = give_equal_time({"II": tables["II"]}, tables["II"].rows[OURS], folder)["II"]
    measured = json.loads((folder.root / "step_seconds.json").read_text())
    assert set(measured["runs"]) == {"pretrain", "baseline-linear"}
    seconds = {name: entry["seconds_per_step"] for name, entry in measured["runs"].items()}
    assert 0 < seconds["baseline-linear"] < seconds["pretrain"] and len(measured["runs"]["pretrain"]["turns"]) == 5
    steps = round(40 * seconds["pretrain"] / seconds["baseline-linear"])
    assert first.rows["linear heads"].flags["max_steps"] == str(steps) and steps > 40
    assert give_equal_time({"II": tables["II"]}, tables["II"].rows[OURS], folder)["II"] == first
