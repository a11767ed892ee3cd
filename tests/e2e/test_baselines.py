"""Another system from the command to a folder that is evaluated and used, on a handful of generated faces."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_flags import flags
from safetensors.torch import load_file
from samples import write_picture

from mf2.baselines.registry import FILES_VARIABLE, baseline_names, load_system
from mf2.cli.main_command import main
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.experiments.table_layouts import baseline_rows
from mf2.training.arguments import FinetuneArguments, PretrainArguments, parse_arguments
from mf2.training.finetuning import finetune
from mf2.training.pretraining import pretrain

DEMO = Path(__file__).parents[2] / "training" / "configs" / "demo.yaml"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "baselines.md"
NAME = "linear"
SHORT = {
    "max_steps": 4,
    "save_steps": 2,
    "eval_steps": 4,
    "max_train_rows": 16,
    "max_eval_rows": 8,
    "tuning_rows": 8,
    "cpu_threads": 1,
    "per_device_train_batch_size": 8,
    "warmup_steps": 2,
    "logging_steps": 2,
}


def train(data, output_dir, **values):
    argv = [
        "--config",
        str(DEMO),
        *flags(train_data=data, output_dir=output_dir, **{"baseline": NAME} | SHORT | values),
    ]
    return pretrain(parse_arguments(PretrainArguments, argv))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = SynthConfig(num_train=16, num_eval=8, frames_per_identity=4)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("run") / "other"
    return output_dir, train(data, output_dir)


def test_the_folder_holds_what_every_training_leaves(finished):
    output_dir, metrics = finished
    names = {path.name for path in output_dir.iterdir()}
    assert {"model.safetensors", "config.json", "metrics.json", "training_config.yaml", "README.md"} <= names
    assert not {"overlay.png", "modeling_mf2.py", "generation_config.json"} & names
    assert json.loads((output_dir / "metrics.json").read_text())["training"]["losses"] == metrics["training"]["losses"]
    assert set(metrics["training"]["losses"]) == {"emotion", "au"}
    assert json.loads((output_dir / "config.json").read_text())["au_thresholds"]


def test_the_card_cites_the_publication(finished):
    text = (finished[0] / "README.md").read_text("utf-8")
    assert "linear heads" in text and "ICLR 2014" in text and "mean AU F1" in text and "mf2 analyze" in text


def test_a_resumed_run_equals_an_uninterrupted_one(data, finished, tmp_path):
    whole, resumed = finished[0], tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    shutil.copy(whole / "training_config.yaml", resumed)
    train(data, resumed)
    expected, found = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert expected and all(torch.equal(expected[name], found[name]) for name in expected)


def evaluate_it(model, metrics, data, folder):
    """`mf2 evaluate` measures what training measured."""
    command = ["evaluate", "--model", model, "--data", data, "--output_dir", folder, "--device", "cpu"]
    assert main([str(part) for part in [*command, "--num_bootstrap", "0"]]) == 0
    measured = json.loads((folder / "metrics.json").read_text())["evaluation"]["by_landmarks"]["given"]
    assert measured["aus"]["f1"] == pytest.approx(metrics["evaluation"]["aus"]["f1"])
    assert measured["emotion"]["top1"] == pytest.approx(metrics["evaluation"]["emotion"]["top1"])


def analyze_it(model, folder):
    """`mf2 analyze` has a row for a picture."""
    write_picture(picture := folder / "face.png", 100, size=64)
    command = ["analyze", picture, "--model", model, "--output", folder, "--format", "csv", "--device", "cpu"]
    assert main([str(part) for part in [*command, "--landmarks", "mean_face"]]) == 0
    header, row = (folder / "faces.csv").read_text().splitlines()
    assert "AU12" in header and row.count(",") == header.count(",")


def test_the_evaluator_measures_what_training_measured(data, finished, tmp_path):
    evaluate_it(*finished, data, tmp_path)


def test_it_analyses_pictures(finished, tmp_path):
    analyze_it(finished[0], tmp_path)


@pytest.mark.parametrize("name", ["me_graphau", "vl_fau"])
def test_systems_with_stages_and_with_texts_go_the_same_way(data, tmp_path, name):
    metrics = train(data, tmp_path / name, baseline=name)
    assert set(metrics["training"]["losses"]) == set(load_system(name).loss_names)
    evaluate_it(tmp_path / name, metrics, data, tmp_path)
    analyze_it(tmp_path / name, tmp_path)


def test_it_is_not_asked_for_captions(data, finished, tmp_path, capsys):
    command = ["analyze", data, "--model", finished[0], "--output", tmp_path, "--captions", "emotion"]
    assert main([str(part) for part in command]) == 1
    assert "linear writes no captions" in capsys.readouterr().err


MF2_ONLY_FLAGS = {
    "mf2 export": ("export", "--onnx", "PICTURE.onnx"),
    "mf2 search": ("search", "a smile", "PICTURE"),
    "mf2 explain": ("explain", "PICTURE"),
    "--captions": ("evaluate", "--captions", "--data", "DATA", "--output_dir", "PICTURE.out"),
    "--references": ("evaluate", "--references", "--data", "DATA", "--output_dir", "PICTURE.out"),
    "--adapter": ("evaluate", "--adapter", "DATA", "--data", "DATA", "--output_dir", "PICTURE.out"),
}


@pytest.mark.parametrize("what", MF2_ONLY_FLAGS)
def test_what_mf2_alone_can_do_is_refused_in_a_line(data, finished, tmp_path, capsys, what):
    write_picture(picture := tmp_path / "face.png", 100, size=64)
    words = [word.replace("PICTURE", str(picture)).replace("DATA", str(data)) for word in MF2_ONLY_FLAGS[what]]
    assert main([*words, "--model", str(finished[0])]) == 1
    said = capsys.readouterr()
    assert f"holds linear, another system than MF², and {what} needs MF²" in said.err
    assert said.err.count("\n") == 1 and not said.out


def test_it_is_no_base_of_adapters_and_is_not_published(data, finished, tmp_path, capsys):
    argv = flags(model=finished[0], data=data, output_dir=tmp_path / "adapter")
    with pytest.raises(ValueError, match="another system than MF², and an adapter needs MF²"):
        finetune(parse_arguments(FinetuneArguments, argv))
    assert main(["publish", str(finished[0]), "--repo", "somebody/linear", "--dry_run"]) == 1
    assert "only MF² checkpoints are published" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"probes": "true"}, {"feature_views": 2}, {"baseline": "liner"}])
def test_what_it_cannot_have_is_refused(data, tmp_path, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        train(data, tmp_path, **given)


def test_valence_and_arousal_are_ignored_with_a_warning(data, tmp_path, caplog):
    """The demo's settings ask for them."""
    argv = flags(baseline=NAME, train_data=data, output_dir=tmp_path)
    arguments = parse_arguments(PretrainArguments, ["--config", str(DEMO), *argv])
    assert arguments.model["affect"] is False and f"{NAME} recognises AUs and emotions only" in caplog.text


def test_a_system_of_ones_own_is_one_file(data, tmp_path, monkeypatch, capsys):
    """The documented file is trained, evaluated and used; where it is not named, the checkpoint says what lacks."""
    (text,) = re.findall(r"```python\n# my_system\.py\n(.*?)```", DOCUMENTED.read_text("utf-8"), re.S)
    (file := tmp_path / "my_system.py").write_text(text, "utf-8")
    monkeypatch.setenv(FILES_VARIABLE, "")
    metrics = train(data, tmp_path / "mine", baseline=file, **{"baseline_options.width": 32})
    assert set(metrics["training"]["losses"]) == {"emotion", "au", "size"} and baseline_names().count("my_system") == 1
    assert "A Hidden Layer for Faces" in (tmp_path / "mine" / "README.md").read_text("utf-8")
    evaluate_it(tmp_path / "mine", metrics, data, tmp_path)
    analyze_it(tmp_path / "mine", tmp_path)
    rows = baseline_rows("II", ["my_system", "linear"], "d")
    assert rows["hidden layer"].flags["baseline"] == str(file) and list(rows) == ["hidden layer", "linear heads"]
    monkeypatch.setenv(FILES_VARIABLE, "")
    command = ["evaluate", "--model", str(tmp_path / "mine"), "--data", str(data), "--output_dir", str(tmp_path)]
    assert main(command) == 1
    assert "no baseline 'my_system'" in (said := capsys.readouterr().err) and FILES_VARIABLE in said
