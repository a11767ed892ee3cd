"""SIGKILL in each stage of a training that has two: the same command goes on, to the same weights."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.training.arguments import PretrainArguments, parse_arguments
from mf2.training.pretraining import pretrain

SETTINGS = """
size: tiny
image_size: 48
model: {emo_text: random, vision_config: {model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1],
  layer_type: basic}, local_feature_levels: [-2, -1]}
baseline: me_graphau
max_steps: 8
save_steps: 2
eval_steps: 8
logging_steps: 2
warmup_steps: 2
per_device_train_batch_size: 4
tuning_rows: 8
cpu_threads: 1
"""
"""Steps 1 to 4 are the first stage, 5 to 8 the second."""
KILLED = """
import os, signal, sys
from mf2.training import pretrain
from mf2.training.trainer import EpochCallback
def on_step_end(self, args, state, control, model=None, **kwargs):
    if state.global_step == int(os.environ["KILL_AT"]):
        print("first" if model.system.is_first_stage else "second", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
EpochCallback.on_step_end = on_step_end
pretrain.main(sys.argv[1:])
"""


def run_killed(words: list[str], step: int, cache: Path) -> str:
    """Run the command until it kills itself after a step; the stage that it was in."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "KILL_AT": str(step)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return killed.stdout.split()[-1]


def test_me_graphau_killed_in_both_stages_ends_as_if_it_was_not(tmp_path):
    faces = SynthConfig(num_train=16, num_eval=8, frames_per_identity=4, image_size=64)
    data = synthesize(tmp_path / "faces", faces, show_progress=False)
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    words = ["--config", str(tmp_path / "settings.yaml"), "--train_data", str(data), "--output_dir"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert run_killed([*words, str(killed)], 3, tmp_path / "cache") == "first"
    assert (killed / "checkpoint-2").is_dir() and not (killed / "checkpoint-4").exists()
    assert run_killed([*words, str(killed)], 7, tmp_path / "cache") == "second"
    assert (killed / "checkpoint-6").is_dir() and not (killed / "metrics.json").exists()
    for folder in (killed, whole):
        metrics = pretrain(parse_arguments(PretrainArguments, [*words, str(folder)]))
        assert (metrics["training"]["seconds_of_earlier_starts"] > 0) == (folder == killed)
        assert metrics["training"]["steps"] == 8 and metrics["training"]["losses"]["edge"] > 0
    resumed, uninterrupted = load_file(killed / "model.safetensors"), load_file(whole / "model.safetensors")
    assert resumed.keys() == uninterrupted.keys()
    assert [name for name in resumed if not torch.equal(resumed[name], uninterrupted[name])] == []
    scores = [json.loads((folder / "metrics.json").read_text())["evaluation"] for folder in (killed, whole)]
    assert scores[0] == scores[1]
