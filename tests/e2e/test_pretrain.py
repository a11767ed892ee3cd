"""Pre-training from the command to the Hub folder, on a handful of generated faces and a few steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_flags import flags
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoProcessor

from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.hub.evaluation_markdown import format_with_interval
from mf2.training.arguments import PretrainArguments, parse_arguments
from mf2.training.pretraining import pretrain

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "training" / "configs" / "demo.yaml"
SHORT = {
    "max_train_rows": 32,
    "max_eval_rows": 16,
    "tuning_rows": 16,
    "overlay_faces": 0,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 8,
    "warmup_steps": 2,
    "logging_steps": 1,
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
WITHOUT_CHANCE = {f"model.{branch}_config.{name}": 0 for branch in ("emo", "au") for name in DROPOUTS}


def run_in_process(folder, output_dir, **values):
    argv = ["--config", str(DEMO), *flags(train_data=folder, output_dir=output_dir, **{**SHORT, **values})]
    return pretrain(parse_arguments(PretrainArguments, argv))


def logged_losses(output_dir, step):
    """The log entries with losses, of the state that a checkpoint keeps."""
    state = json.loads((output_dir / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = SynthConfig(num_train=48, num_eval=16, frames_per_identity=8)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The README's command in short: it generates the sample, trains, and leaves a folder for the Hub."""
    output_dir = tmp_path_factory.mktemp("run") / "mf2-short"
    values = {**SHORT, "max_steps": 4, "save_steps": 2, "eval_steps": 2, "overlay_faces": 2}
    values |= {"synth.num_train": 32, "synth.num_eval": 16, "synth.frames_per_identity": 8, "weight_aus": True}
    command = ["-m", "accelerate.commands.accelerate_cli", "launch", "training/pretrain.py", "--config", str(DEMO)]
    result = subprocess.run(
        [sys.executable, *command, *flags(output_dir=output_dir, **values)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(output_dir.parent / "cache")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return output_dir, result.stdout + result.stderr


# --------------------------------------------------------------------------------------------------- the Hub folder
def test_the_folder_holds_what_the_hub_needs(finished):
    output_dir, _ = finished
    names = {path.name for path in output_dir.iterdir() if path.is_file()}
    code = {f"{stem}_mf2.py" for stem in ("configuration", "modeling", "processing", "image_processing", "labels")}
    files = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "metrics.json"}
    files |= {"training_videos.json"}
    assert code | files | {"README.md", "overlay.png", "training_config.yaml"} <= names
    assert not [name for name in names if name.startswith(".") or name.endswith((".bin", ".pt", ".pth"))]
    config = json.loads((output_dir / "config.json").read_text())
    classes = {"AutoConfig", "AutoModel", "AutoModelForPreTraining", "AutoModelForImageTextToText"}
    assert classes | {"AutoModelForImageClassification"} <= set(config["auto_map"])


def test_nothing_published_names_a_local_path(finished):
    output_dir, _ = finished
    for name in ("README.md", "metrics.json", "config.json", "processor_config.json", "tokenizer_config.json"):
        assert str(output_dir.parent) not in (output_dir / name).read_text(), name


def test_the_configuration_keeps_thresholds_weights_and_provenance(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert len(config["au_thresholds"]) == len(config["au_pos_weight"]) == 12
    assert all(0 < threshold < 1 for threshold in config["au_thresholds"])
    (data,) = config["training_data"]
    assert (data["name"], data["license"], data["synthetic"]) == ("Generated faces", "apache-2.0", True)
    assert data["rows"] == 32 and data["videos"] == 4 and len(data["fingerprint"]) == 64
    assert "use_cache" not in config


def test_metrics_stand_beside_their_baselines(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    evaluation = metrics["evaluation"]
    assert 0 <= evaluation["aus"]["f1"] <= 1 and 0 < evaluation["aus"]["f1_all_positive"] < 1
    assert {au["threshold"] for au in evaluation["aus"]["per_au"].values()} == {0.5}
    assert {au["threshold"] for au in evaluation["aus_tuned"]["per_au"].values()} != {0.5}
    assert evaluation["emotion"]["majority_top1"] == 0.125
    assert 0 < evaluation["data"]["emotion_ceiling"] <= 1
    assert evaluation["data"]["rows"] == 16
    low, high = evaluation["aus"]["f1_interval"]
    assert low <= evaluation["aus"]["f1"] <= high and evaluation["bootstrap"]["num_videos"] == 2
    assert 0 < evaluation["calibration"]["aus"]["brier"] < 1
    assert (metrics["training"]["steps"], metrics["training"]["seed"]) == (4, 42)
    assert set(metrics["training"]["losses"]) == {
        *("emo_itc", "emo_itm", "emo_itg", "au_itc", "au_itm", "au_itg", "emotion", "au", "affect")
    }


def test_the_card_repeats_the_measured_figures(finished):
    card = (finished[0] / "README.md").read_text()
    metrics = json.loads((finished[0] / "metrics.json").read_text())["evaluation"]
    front_matter = yaml.safe_load(card.split("---")[1])
    assert front_matter["pipeline_tag"] == "image-classification"
    assert (front_matter["library_name"], front_matter["license"]) == ("transformers", "apache-2.0")
    scores = front_matter["model-index"][0]["results"][0]["metrics"]
    assert scores[0]["name"] == "mean AU F1 (no landmarks)", "what a stranger reaches comes first"
    assert {"type": "f1", "value": round(metrics["aus"]["f1"], 4), "name": "mean AU F1 (given landmarks)"} in scores
    for scores, name in ((metrics["aus"], "f1"), (metrics["aus_tuned"], "f1"), (metrics["emotion"], "top1")):
        assert f" {format_with_interval(scores, name)} |" in card
    assert "**generated** faces" in card
    assert "{{" not in card and "None |" not in card and "\n\n\n" not in card


def test_the_overlay_is_a_picture(finished):
    pixels = np.asarray(Image.open(finished[0] / "overlay.png").convert("L"))
    assert pixels.shape[1] == 1000 and pixels.std() > 20


def test_each_loss_reaches_tensorboard(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (finished[0] / "runs").rglob("events.out.*")
    tags = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {"train/loss_emo_itm", "train/loss_au", "train/learning_rate", "eval/au_f1", "eval/au_f1/AU12"} <= set(tags)


def test_the_console_says_what_was_reached(finished):
    _, console = finished
    assert "step 4" in console and "emo_itm" in console
    assert "mean AU F1" in console and "true AUs allow" in console


def test_the_saved_checkpoint_loads_and_answers(finished):
    model = AutoModelForPreTraining.from_pretrained(finished[0], trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(finished[0], trust_remote_code=True)
    inputs = processor(images=Image.new("RGB", (112, 112), "gray"))
    assert inputs["pixel_values"].shape == (1, 3, 96, 96)
    with torch.no_grad():
        states = processor.post_process_facial_states(model(**inputs), model.label_space)
    assert set(states[0]["aus"]) == set(model.label_space.au_codes)


def test_running_the_command_again_changes_nothing(finished):
    output_dir, _ = finished
    names = ("model.safetensors", "metrics.json", "README.md", "overlay.png")
    before = [(output_dir / name).read_bytes() for name in names]
    config = yaml.safe_load((output_dir / "training_config.yaml").read_text())
    metrics = pretrain(PretrainArguments(**config))
    assert metrics["training"]["steps"] == 4
    assert [(output_dir / name).read_bytes() for name in names] == before


def test_without_its_metrics_a_trained_run_is_only_measured(finished, tmp_path):
    output_dir = shutil.copytree(finished[0], tmp_path / "mf2-short")
    (output_dir / "metrics.json").unlink()
    config = yaml.safe_load((output_dir / "training_config.yaml").read_text()) | {"output_dir": str(output_dir)}
    metrics = pretrain(PretrainArguments(**config))
    assert metrics["training"]["steps"] == 4
    assert metrics["evaluation"] == json.loads((finished[0] / "metrics.json").read_text())["evaluation"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (finished[0], output_dir)]
    assert weights[0] == weights[1]


# ----------------------------------------------------------------------------------------------------- resume exactly
def test_a_resumed_run_equals_an_uninterrupted_one(folder, tmp_path):
    """The interruption lies in the middle of the second epoch, and the rest is read by another number of workers."""
    values = {"max_steps": 8, "save_steps": 5, "eval_steps": 5, "gradient_accumulation_steps": 1}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_in_process(folder, whole, **values)
    resumed.mkdir()
    for name in ("checkpoint-5", "training_config.yaml"):
        copy = shutil.copytree if (whole / name).is_dir() else shutil.copy
        copy(whole / name, resumed / name)
    run_in_process(folder, resumed, **{**values, "dataloader_num_workers": 1})
    expected, found = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    entries = [logged_losses(path, 8) for path in (whole, resumed)]
    assert [entry["loss"] for entry in entries[0]] == [entry["loss"] for entry in entries[1]]


def test_an_unfinished_checkpoint_is_passed_over(folder, tmp_path):
    output_dir = tmp_path / "run"
    run_in_process(folder, output_dir, max_steps=2, save_steps=1)
    (output_dir / "checkpoint-2" / "trainer_state.json").write_text('{"epoch": 0.')
    (output_dir / "metrics.json").unlink()
    metrics = run_in_process(folder, output_dir, max_steps=2, save_steps=1)
    assert metrics["training"]["steps"] == 2


def test_accumulated_batches_learn_like_one(folder, tmp_path):
    """Of the losses that are means over single images, AU and emotion, whose gradients add up."""
    weights = {f"model.{name}_weight": 0 for name in ("itc", "itm", "itg")} | {"model.affect": False}
    values = {**WITHOUT_CHANCE, **weights, "max_steps": 2, "model.freeze_vision": True, "weight_aus": False}
    run_in_process(folder, tmp_path / "one", per_device_train_batch_size=16, **values)
    run_in_process(folder, tmp_path / "two", gradient_accumulation_steps=2, **values)
    one, two = (logged_losses(tmp_path / name, 2) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
        assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-3)


# ------------------------------------------------------------------------------------------------------- processes
def test_two_processes_learn_like_one_with_the_double_batch(folder, tmp_path):
    values = {**SHORT, **WITHOUT_CHANCE, "max_steps": 3, "model.freeze_vision": True}
    run_in_process(folder, tmp_path / "one", **{**values, "per_device_train_batch_size": 16})
    argv = ["--config", DEMO, *flags(train_data=folder, output_dir=tmp_path / "two", **values)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "training/pretrain.py"]
    result = subprocess.run([sys.executable, *launcher, *map(str, argv)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["environment"]["world_size"] == 2
    assert metrics["training"]["batch_size"] == 16
    one, two = (logged_losses(tmp_path / name, 3) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        names = [name for name in first if name.startswith("loss")]
        assert len(names) == 10
        for name in names:
            assert second[name] == pytest.approx(first[name], rel=1e-3), name
    assert metrics["evaluation"]["emotion"]["num_labelled"] == 16


# ------------------------------------------------------------------------------------------------------- other starts
@pytest.mark.parametrize(
    "change",
    [
        {"model.use_au_vl": False},
        {"model.use_emo_vl": False},
        {"model.au_text_mode": "caption", "model.au_pairs_per_image": "null", "overlay_faces": 1},
    ],
    ids=["without AU-VL", "without Emo-VL", "one AU caption"],
)
def test_variants_train(folder, tmp_path, change):
    metrics = run_in_process(folder, tmp_path / "run", max_steps=1, **change)
    expected = {"model.use_au_vl": {"emo"}, "model.use_emo_vl": {"au"}}.get(next(iter(change)), {"emo", "au"})
    branches = {name.split("_")[0] for name in metrics["training"]["losses"] if "_" in name}
    assert branches == expected
    assert (tmp_path / "run" / "overlay.png").exists() is ("overlay_faces" in change)


def test_a_checkpoint_is_a_start(finished, folder, tmp_path):
    values = {**SHORT, "train_data": folder, "output_dir": tmp_path / "run", "max_steps": 1}
    argv = flags(model_name_or_path=finished[0], **values)
    pretrain(parse_arguments(PretrainArguments, argv))
    sizes = [json.loads((path / "processor_config.json").read_text()) for path in (finished[0], tmp_path / "run")]
    assert sizes[0] == sizes[1]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [data["rows"] for data in config["training_data"]] == [32, 32]
    start, end = (load_file(path / "model.safetensors") for path in (finished[0], tmp_path / "run"))
    assert all(start[name].shape == end[name].shape for name in end)
