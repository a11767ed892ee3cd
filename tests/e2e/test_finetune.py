"""Fine-tuning from the command to the folder: every method, every kind of data, and what goes wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from command_flags import flags
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from samples import mfa_row
from tiny_mf2 import save_tiny, write_pictures
from transformers import AutoModel, AutoProcessor

from mf2.data_loading.splits import Split
from mf2.dataset_tools.schema import write_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.predictions import predict
from mf2.evaluation.scores import evaluate_predictions
from mf2.labels_mf2 import LabelSpace
from mf2.training import finetune as script
from mf2.training.arguments import FinetuneArguments, parse_arguments
from mf2.training.finetuning import finetune
from mf2.utils.command_line import run_script

ROOT = Path(__file__).parents[2]
SHORT = {
    "tuning_rows": 12,
    "overlay_faces": 0,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 4,
    "warmup_steps": 1,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "views": 2,
    "cache_dtype": "float32",
    "max_steps": 4,
}
METHODS = {
    "dfn": {"method": "dfn"},
    "dfn live": {"method": "dfn", "no_cache": True},
    "full": {"method": "full"},
    "full, all losses": {"method": "full", "losses": "all"},
    "lora": {"method": "lora"},
    "head": {"method": "head"},
}


def run(base, data, output_dir, **values) -> dict:
    """The command in this process; what metrics.json holds."""
    argv = flags(model=base, data=data, output_dir=output_dir, **SHORT | values)
    return finetune(parse_arguments(FinetuneArguments, argv))


def logged(output_dir: Path, step: int) -> list[dict[str, float]]:
    """The entries with losses that a checkpoint's state keeps."""
    state = json.loads((output_dir / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [{k: v for k, v in entry.items() if "loss" in k} for entry in state["log_history"] if "loss" in entry]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Sentences for each AU, either caption of the face, and a tower with batch statistics that it trained."""
    folder = tmp_path_factory.mktemp("base") / "mf2-tiny"
    return save_tiny(folder, au_text_mode="per_au", emo_text="random")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Faces of another domain than the demo's, all AUs and emotions labelled, with captions."""
    config = SynthConfig(num_train=12, num_eval=6, frames_per_identity=6, image_size=64, domain="shifted")
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


# ------------------------------------------------------------------------------------------------------------- methods
@pytest.fixture(scope="module")
def finished(base, faces, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Every method on the same data: its folder and its metrics."""
    root = tmp_path_factory.mktemp("runs")
    task = {"au_ids": "[1, 2, 4, 6, 12, 15, 25, 26]", "emotions": "[Anger, Happiness, Sadness, Surprise]"}
    runs = {}
    for name, values in METHODS.items():
        folder = root / name.replace(" ", "-").replace(",", "")
        runs[name] = folder, run(base, faces, folder, **task, **values)
    return runs


def score_folder(folder, faces):
    """The model and the processor of a folder, and what they score on the validation faces."""
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    split = Split.join([str(faces)], "validation", None, model.label_space)
    predictions = predict(model, processor.image_processor, split)
    return model, processor, evaluate_predictions(predictions, model.label_space)


@pytest.mark.parametrize("name", METHODS)
def test_the_folder_answers_as_it_was_scored(finished, faces, name):
    """Loaded anew through the Auto classes, by names, with the scores that the run wrote down."""
    folder, metrics = finished[name]
    model, processor, scores = score_folder(folder, faces)
    space = LabelSpace((1, 2, 4, 6, 12, 15, 25, 26), ("Anger", "Happiness", "Sadness", "Surprise"))
    assert (model.label_space.au_ids, model.label_space.emotions) == (space.au_ids, space.emotions)
    assert processor.au_ids == list(model.label_space.region_au_ids)
    assert scores["aus"]["f1"] == pytest.approx(metrics["evaluation"]["aus"]["f1"], abs=1e-6)
    assert scores["aus_tuned"]["f1"] == pytest.approx(metrics["evaluation"]["aus_tuned"]["f1"], abs=1e-6)
    assert scores["emotion"]["top1"] == metrics["evaluation"]["emotion"]["top1"]
    assert list(scores["aus"]["per_au"]) == list(space.au_codes)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_in_the_folder(finished, name):
    folder, metrics = finished[name]
    names = {path.name for path in folder.iterdir() if path.is_file()}
    common = {"README.md", "metrics.json", "processor_config.json", "tokenizer.json", "training_config.yaml"}
    of_adapter, of_model = {"adapter_config.json", "adapter_model.safetensors"}, {"config.json", "model.safetensors"}
    is_adapter = METHODS[name]["method"] == "dfn"
    assert common <= names
    assert (of_adapter <= names, of_model <= names) == (is_adapter, not is_adapter)
    assert not names & (of_model if is_adapter else of_adapter)
    assert not [name for name in names if name.startswith(".") or name.endswith((".bin", ".pt", ".pth"))]
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["model"]["method"] == METHODS[name]["method"]


def test_what_each_method_trains(finished, base):
    trained = {name: metrics["model"]["trainable_parameters"] for name, (_, metrics) in finished.items()}
    assert trained["dfn"] == trained["dfn live"]
    assert trained["head"] == 8 * 64 + 8 + 4 * 64 + 4
    assert trained["head"] < trained["lora"] < trained["full"] == trained["full, all losses"]
    total = sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values())
    assert all(metrics["model"]["parameters"] > total / 2 for _, metrics in finished.values())
    file = load_file(finished["dfn"][0] / "adapter_model.safetensors")
    assert sum(tensor.numel() for name, tensor in file.items() if ".readout." not in name) == trained["dfn"]
    fitted = [tensor for name, tensor in file.items() if name.endswith(".readout.weight")]
    assert len(fitted) == 1 and fitted[0].abs().amax(1).min() > 0  # every output reads something


def test_what_a_method_does_not_train_is_the_bases(finished, base):
    before = load_file(base / "model.safetensors")
    after = {name: load_file(finished[name][0] / "model.safetensors") for name in ("head", "lora")}
    kept = [name for name in before if not name.startswith(("recognizers", "au.au_embeddings"))]
    assert [name for name in kept if not torch.equal(after["head"][name], before[name])] == []
    changed = [name for name in kept if not torch.equal(after["lora"][name], before[name])]
    assert {name.split(".")[-2] for name in changed} == {"query", "value"}


def test_the_losses_that_were_learned_from(finished):
    task = {"emotion", "au"}
    itc, rest = {"emo_itc", "au_itc"}, {f"{branch}_{loss}" for branch in ("emo", "au") for loss in ("itm", "itg")}
    expected = {"dfn": task | itc, "dfn live": task | itc, "full, all losses": task | itc | rest}
    for name, (_, metrics) in finished.items():
        assert set(metrics["training"]["losses"]) == expected.get(name, task), name


def test_a_card_names_the_base_and_the_scores(finished):
    for name in ("dfn", "lora"):
        folder, metrics = finished[name]
        card = (folder / "README.md").read_text()
        front_matter = yaml.safe_load(card.split("---")[1])
        assert front_matter["library_name"] == "transformers"
        assert f"| {metrics['evaluation']['aus']['f1']:.3f} |" in card
        assert "{{" not in card


def test_an_adapter_loads_on_the_base_by_hand_and_switches_off(finished, base, tmp_path):
    model = AutoModel.from_pretrained(base, trust_remote_code=True).eval()
    pictures = [str(path) for path in write_pictures(tmp_path, 2)]
    processor = AutoProcessor.from_pretrained(base, trust_remote_code=True)
    with torch.no_grad():
        expected = model(**processor(images=pictures)).au_logits
        adapted = PeftModel.from_pretrained(model, finished["dfn"][0])
        inputs = processor.for_label_spaces(adapted.label_space)(images=pictures)
        assert adapted(**inputs).au_logits.shape == (2, 8)
        with adapted.disable_adapter():
            assert torch.equal(adapted(**processor(images=pictures)).au_logits, expected)


def test_running_the_command_again_only_evaluates(finished):
    folder, before = finished["dfn"]
    adapter = (folder / "adapter_model.safetensors").read_bytes()
    config = yaml.safe_load((folder / "training_config.yaml").read_text())
    metrics = finetune(FinetuneArguments(**config))
    assert metrics["training"]["steps"] == before["training"]["steps"] == 4
    assert metrics["evaluation"] == before["evaluation"]
    assert (folder / "adapter_model.safetensors").read_bytes() == adapter


# ----------------------------------------------------------------------------------------------------- cached and live
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dfn.alignment_weight": 0, "dfn.text_cells": "false", "weight_aus": "false"},
        {"dfn.decoupled": "false", "dfn.use_gates": "false", "dfn.num_kept_states": 1, "dfn.activation": "sigmoid"},
        {"augment": "false", "au_ids": "[]"},
        {"emotions": "[]", "au_ids": "[9, 12, 1]"},
    ],
    ids=["as it is", "image cells only", "the other ablations", "emotions, no augmentation", "AUs"],
)
def test_cached_and_live_training_have_the_same_loss_curve(base, faces, tmp_path, change):
    """Three epochs over two views a row."""
    values = {"max_steps": 9, **change}
    cached = run(base, faces, tmp_path / "cached", **values)
    live = run(base, faces, tmp_path / "live", no_cache=True, **values)
    ours, theirs = (logged(tmp_path / name, 9) for name in ("cached", "live"))
    assert len(ours) == len(theirs) == 9
    for ours_at, theirs_at in zip(ours, theirs, strict=True):
        assert set(ours_at) == set(theirs_at)
        for name, value in theirs_at.items():
            assert ours_at[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert cached["training"]["losses"].keys() == live["training"]["losses"].keys()
    weights = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("cached", "live"))
    for name, (one, other) in zip(weights_names(tmp_path / "live"), pairs(*weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def weights_names(folder: Path) -> list[str]:
    return sorted(load_file(folder / "adapter_model.safetensors"))


def pairs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    assert set(one) == set(other)
    return [(one[name], other[name]) for name in sorted(one)]


def test_a_whole_caption_an_image(tmp_path, faces):
    """The other form of AU texts: one caption of all regions."""
    base = save_tiny(tmp_path / "mf2-tiny", au_text_mode="caption")
    for name, values in (("cached", {}), ("live", {"no_cache": True})):
        run(base, faces, tmp_path / name, **values)
    for ours, theirs in zip(logged(tmp_path / "cached", 4), logged(tmp_path / "live", 4), strict=True):
        assert "loss_au_itc" in ours
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_an_adapter_of_a_base_with_a_linear_readout(tmp_path, faces):
    """It reads what the base's readout reads, cached or live, and its file holds the shares of the base."""
    base = save_tiny(tmp_path / "mf2-tiny", au_text_mode="per_au", freeze_vision=True, readout_grids=[2])
    for name, values in (("cached", {}), ("live", {"no_cache": True})):
        metrics = run(base, faces, tmp_path / name, **values)
    for ours, theirs in zip(logged(tmp_path / "cached", 4), logged(tmp_path / "live", 4), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    weights = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("cached", "live"))
    for name, (one, other) in zip(weights_names(tmp_path / "live"), pairs(*weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    tensors = load_file(tmp_path / "live" / "adapter_model.safetensors")
    (shares,) = (tensor for name, tensor in tensors.items() if name.endswith("base_shares"))
    assert shares.shape == (12 + 8,) and shares.min() >= 0 and shares.max() <= 1
    _, _, scores = score_folder(tmp_path / "live", faces)
    assert scores["aus"]["f1"] == pytest.approx(metrics["evaluation"]["aus"]["f1"], abs=1e-6)


# ----------------------------------------------------------------------------------------------------- killed, resumed
@pytest.mark.parametrize("name", [name for name in METHODS if name != "full, all losses"])
def test_a_resumed_run_equals_an_uninterrupted_one(base, faces, tmp_path, name):
    """The interruption lies in the middle of the second epoch."""
    values = {**METHODS[name], "max_steps": 6, "save_steps": 4, "eval_steps": 4, "cache_dir": tmp_path / "states"}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(base, faces, whole, **values)
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-4", resumed / "checkpoint-4")
    shutil.copy(whole / "training_config.yaml", resumed)
    run(base, faces, resumed, **values)
    assert logged(resumed, 6) == logged(whole, 6)
    file = next(whole.glob("*model.safetensors")).name
    for one, other in pairs(load_file(whole / file), load_file(resumed / file)):
        assert torch.equal(one, other)


# ------------------------------------------------------------------------------------------------------ early stopping
STOPPING = {"holdout_share": 0.34, "eval_steps": 2, "max_steps": 12, "learning_rate": 0.3, "warmup_steps": 0}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full, all losses"])
def test_the_best_on_held_out_groups_is_kept(base, faces, tmp_path, name):
    """At such a rate scores jump; whatever the best was, the folder answers as its checkpoint did."""
    folder = tmp_path / "run"
    metrics = run(base, faces, folder, **METHODS[name] | STOPPING | {"save_total_limit": 10})
    chosen, history = metrics["training"]["chosen"], metrics["training"]["history"]
    scores = {entry["step"]: (entry["au_f1"] + entry["emotion_top1"]) / 2 for entry in history}
    assert chosen["score"] == pytest.approx(max(scores.values())) == pytest.approx(scores[chosen["step"]])
    assert sorted(scores) == [2, 4, 6, 8, 10, 12] and metrics["training"]["steps"] == 12
    assert chosen["rows"] < 12 and chosen["rows"] % 6 == 0  # whole persons, of six frames each
    assert metrics["model"]["trainable_parameters"] > 0
    assert chosen["step"] < 12  # else the last step would be kept anyway
    if name == "lora":
        return  # it ends merged, with other weights than its checkpoints have
    kept = load_file(next((folder / f"checkpoint-{chosen['step']}").glob("*model.safetensors")))
    saved = load_file(next(folder.glob("*model.safetensors")))
    if name == "dfn":
        kept = {key.removeprefix("side."): value for key, value in kept.items() if key.startswith("side.")}
        saved = {key.split("dfn_sides.")[1]: value for key, value in saved.items()}
    assert all(torch.equal(kept[key], saved[key]) for key in saved)


def test_training_stops_when_nothing_gets_better_killed_or_not(base, faces, tmp_path):
    """A run that is killed after its last checkpoint, or moved, ends as an uninterrupted one."""
    values = STOPPING | {"patience": 2, "max_steps": 40, "learning_rate": 1.0, "cache_dir": tmp_path / "states"}
    whole = run(base, faces, tmp_path / "whole", **values)["training"]
    assert whole["steps"] < 40 and whole["steps"] == whole["chosen"]["step"] + 4
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "whole", moved)
    (tmp_path / "whole").rename(tmp_path / "gone")
    (moved / "metrics.json").unlink()
    again = run(base, faces, moved, **values)["training"]
    assert again["steps"] == whole["steps"] and again["chosen"] == whole["chosen"]
    files = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "gone", moved))
    assert all(torch.equal(one, other) for one, other in pairs(*files))


KILLED = """
import os, signal, sys
from mf2.training import finetune
from mf2.training.trainer import EpochCallback
def on_step_end(self, args, state, control, **kwargs):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
EpochCallback.on_step_end = on_step_end
finetune.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_with_the_same_command(base, faces, tmp_path):
    """SIGKILL after the states were cached and a checkpoint was written; the states are found again."""
    values = {"max_steps": 6, "save_steps": 3, "eval_steps": 3}
    argv = flags(model=base, data=faces, output_dir=tmp_path / "run", **SHORT | values)
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf")}
    killed = subprocess.run([sys.executable, "-c", KILLED, *argv], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    states = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "states").rglob("images-*")}
    assert len(states) == 3 and not (tmp_path / "run" / "metrics.json").exists()
    run(base, faces, tmp_path / "run", **values)
    run(base, faces, tmp_path / "whole", **values)
    assert {file: file.stat().st_mtime_ns for file in states} == states
    weights = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one, other) for one, other in pairs(*weights))


def test_another_configuration_does_not_go_on(finished, base, faces, capsys):
    folder, _ = finished["dfn"]
    status, line = command(capsys, model=base, data=faces, output_dir=folder, learning_rate=1e-3)
    assert status == 1 and "holds a run with another configuration" in line and "choose another --output_dir" in line


# ---------------------------------------------------------------------------------------------------------------- data
def without_labels(first: int, count: int) -> list[dict]:
    """Rows with neither captions nor landmarks."""
    rows = [mfa_row(first + index, landmarks=None) for index in range(count)]
    return [{name: value for name, value in row.items() if not name.startswith(("AU", "emotion"))} for row in rows]


def split(rows: list[dict]) -> dict[str, list[dict]]:
    return {"train": rows[:8], "validation": rows[8:]}


@pytest.fixture
def bp4d_like(tmp_path) -> Path:
    """Some AUs of BP4D, no emotions."""
    aus = (1, 2, 14, 17)
    rows = [row | {f"AU{au}": (row["frame"] + au // 2) % 2 for au in aus} for row in without_labels(0, 12)]
    manifest = {"license": "other", "pretty_name": "Like BP4D"}
    return write_mfa(tmp_path / "bp4d", split(rows), manifest=manifest, au_ids=aus)


@pytest.fixture
def emotions_only(tmp_path) -> Path:
    """Emotions under names of its own, no AUs."""
    rows = [row | {"emotion": row["frame"] % 3} for row in without_labels(20, 12)]
    manifest = {"license": "cc-by-4.0", "pretty_name": "Feelings"}
    emotions = ["Neutral", "Pain", "Joy"]
    return write_mfa(tmp_path / "feelings", split(rows), manifest=manifest, au_ids=[], emotions=emotions)


@pytest.mark.parametrize("method", ["dfn", "head"])
def test_joined_data_sets_mask_what_one_does_not_label(base, bp4d_like, emotions_only, tmp_path, method):
    metrics = run(base, f"{bp4d_like},{emotions_only}", tmp_path / "run", method=method)
    aus, emotion = metrics["evaluation"]["aus"], metrics["evaluation"]["emotion"]
    assert list(aus["per_au"]) == ["AU1", "AU2", "AU14", "AU17"]
    assert metrics["evaluation"]["data"]["rows"] == 8 and emotion["num_labelled"] == 4
    assert set(emotion["per_class"]) == {"Neutral", "Pain", "Joy"}
    assert metrics["training"]["data"]["name"] == "Like BP4D + Feelings"
    assert metrics["model"]["license"] == "other"
    config = json.loads((tmp_path / "run" / ("adapter_config.json" if method == "dfn" else "config.json")).read_text())
    assert [entry["name"] for entry in config["training_data"][-2:]] == ["Like BP4D", "Feelings"]


@pytest.mark.parametrize("no_cache", [False, True])
@pytest.mark.parametrize("kind", ["emotions_only", "bp4d_like"])
def test_data_without_captions(base, kind, no_cache, tmp_path, request, caplog):
    """As most data sets come: what is not there is not aligned with, and one task is enough."""
    metrics = run(base, request.getfixturevalue(kind), tmp_path / "run", no_cache=no_cache)
    task = {"emotions_only": "emotion", "bp4d_like": "au"}[kind]
    assert task in metrics["training"]["losses"]
    assert "emo_itc" not in metrics["training"]["losses"]
    model = AutoModel.from_pretrained(tmp_path / "run", trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "run", trust_remote_code=True)
    (state,) = processor.post_process_facial_states(
        model(**processor(images=Image.new("RGB", (40, 40), "gray"))), model.label_space
    )
    if kind == "emotions_only":
        assert set(state["emotions"]) == {"Neutral", "Pain", "Joy"} and "aus" not in state
        assert "no captions" in caplog.text
    else:
        assert list(state["aus"]) == ["AU1", "AU2", "AU14", "AU17"] and "emotion" not in state


@pytest.fixture
def table(tmp_path) -> Path:
    """A CSV file beside its pictures."""
    folder = tmp_path / "pictures"
    rows = []
    for index, picture in enumerate(write_pictures(folder, 16)):
        rows.append([picture.name, index % 2, (index // 2) % 2, ("Happiness", "Anger")[index % 2], f"p{index // 2}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "AU1", "AU9", "emotion", "group_id"], *rows])
    return folder / "labels.csv"


def test_a_csv_file_is_data(base, table, tmp_path):
    metrics = run(base, table, tmp_path / "run")
    assert list(metrics["evaluation"]["aus"]["per_au"]) == ["AU1", "AU9"]
    assert metrics["training"]["data"]["rows"] + metrics["evaluation"]["data"]["rows"] == 16
    assert str(tmp_path) not in (tmp_path / "run" / "metrics.json").read_text().replace(str(base), "")


def test_a_csv_file_that_has_changed_is_read_again(base, table, tmp_path):
    run(base, table, tmp_path / "run")
    table.write_text(table.read_text().replace("AU9", "AU12"))
    for name in ("training_config.yaml", "checkpoint-4"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    metrics = run(base, table, tmp_path / "run")
    assert list(metrics["evaluation"]["aus"]["per_au"]) == ["AU1", "AU12"]


def test_two_csv_files_of_one_name(base, table, tmp_path):
    other = shutil.copytree(table.parent, tmp_path / "more") / "labels.csv"
    other.write_text(other.read_text().replace("AU9", "AU12"))
    metrics = run(base, f"{table},{other}", tmp_path / "run")
    assert list(metrics["evaluation"]["aus"]["per_au"]) == ["AU1", "AU9", "AU12"]
    assert metrics["training"]["data"]["rows"] + metrics["evaluation"]["data"]["rows"] == 32


# ------------------------------------------------------------------------------------------------------------ mistakes
def command(capsys, **values) -> tuple[int, str]:
    """The exit status and the last line that the command says."""
    status = run_script(partial(script.main, flags(**SHORT | values)))
    captured = capsys.readouterr().err.strip().splitlines()
    assert not [line for line in captured if line.startswith("Traceback")]
    return status, captured[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, r"nowhere is neither a data set folder nor a Hub id"),
        ({"data": "nowhere/labels.csv"}, r"nowhere/labels.csv"),
        ({"model": "./nowhere"}, r"There is no checkpoint or adapter at ./nowhere"),
        ({"model": "EMPTY"}, r"no MF² checkpoint|config.json"),
        ({"dfn.rank": 8}, r"dfn knows no 'rank'"),
        ({"dfn.r": 0}, r"r is 0; it must be at least 1"),
        ({"dfn.text_cells": "false"}, r"set alignment_weight to 0"),
        ({"losses": "all"}, r"losses is 'all', which only full fine-tuning has; method is 'dfn'"),
        ({"method": "head", "dfn.r": 8}, r"dfn sets r, but method is 'head'"),
        ({"method": "adapter"}, r"method is 'adapter'; choose one of dfn, full, lora, head"),
        ({"au_ids": "[3]"}, r"3"),
        ({"au_ids": "[5]", "emotions": "[]"}, r"no row labels AU5"),
        ({"au_ids": "[]", "emotions": "[]"}, r"no row labels any AU or emotion"),
        ({"eval_split": "test"}, r"has no split 'test'; it has train, validation"),
        ({"warmup_steps": 2000}, r"warmup_steps is 2000, but the run has"),
        ({"holdout_share": 1}, r"holdout_share is 1; it must be below 1"),
        ({"patience": 3}, r"patience is 3, but holdout_share is 0"),
        ({"freeze_vision": "true"}, r"freeze_vision is of full fine-tuning"),
        ({"views": 0}, r"views is 0; it must be >= 1"),
        ({"augmentation.turn": 3}, r"augmentation knows no 'turn'"),
        (
            {"learning_rate": 1e9, "warmup_steps": 0, "max_grad_norm": 0, "method": "full", "max_steps": 8},
            r"The loss is",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_is_one_line_and_status_1(base, faces, tmp_path, capsys, change, message):
    (tmp_path / "empty").mkdir()
    values = {"model": base, "data": faces, "output_dir": tmp_path / "run"} | change
    values = {name: tmp_path / "empty" if value == "EMPTY" else value for name, value in values.items()}
    status, line = command(capsys, **values)
    assert status == 1
    assert "error:" in line
    assert message in line or any(part in line for part in message.split("|"))


@pytest.mark.parametrize("missing", ["model", "data"])
def test_what_must_be_given(base, faces, tmp_path, capsys, missing):
    values = {"model": base, "data": faces, "output_dir": tmp_path / "run"}
    del values[missing]
    status, line = command(capsys, **values)
    assert status == 1 and f"--{missing} is missing" in line


def test_a_full_disk_costs_no_chunk(base, faces, tmp_path, capsys, monkeypatch):
    """A chunk that cannot be written leaves no file, and what was written stays."""
    from mf2.training import state_cache as states

    save = states.save_file

    def fail(tensors, file):
        if "images-001" in Path(file).name:
            raise OSError(28, "No space left on device")
        save(tensors, file)

    monkeypatch.setattr(states, "save_file", fail)
    status, line = command(capsys, model=base, data=faces, output_dir=tmp_path / "run")
    assert status == 1 and "No space left on device" in line
    files = {path.name for path in (tmp_path / "run" / "states").rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("images")} == {"images-000-00000.safetensors"}
    assert not [name for name in files if name.startswith(".")]


# ----------------------------------------------------------------------------------------------------------- processes
def test_two_processes_learn_from_cached_states_like_one(base, faces, tmp_path):
    """One of them computes the states; with the double batch, one process has the same losses."""
    values = {"cache_dir": tmp_path / "states", "augment": "false"}
    run(base, faces, tmp_path / "one", **values)
    argv = flags(
        model=base, data=faces, output_dir=tmp_path / "two", **SHORT | values | {"per_device_train_batch_size": 2}
    )
    shutil.rmtree(tmp_path / "states")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "training/finetune.py"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, *launcher, *argv], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["environment"]["world_size"] == 2 and metrics["training"]["batch_size"] == 4
    one, two = (logged(tmp_path / name, 4) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert set(first) == {f"loss{name}" for name in ("", "_emotion", "_au", "_emo_itc", "_au_itc")}
        assert second == pytest.approx(first, rel=1e-4)
    assert result.stderr.count("states of train rows:   0%") == 1  # a bar begins once; a slow one ends in two lines
    assert metrics["evaluation"]["emotion"]["num_labelled"] == 6
