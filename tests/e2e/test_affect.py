"""Valence and arousal from generated data to the report: trained, adapted, measured, exported and drawn."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_flags import flags
from transformers import AutoModel

from mf2.auto_mf2 import register_auto_classes
from mf2.cli.main_command import main
from mf2.dataset_tools.schema import load_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.training.arguments import FinetuneArguments, PretrainArguments, parse_arguments
from mf2.training.finetuning import finetune
from mf2.training.pretraining import pretrain

ROOT = Path(__file__).parents[2]
SHORT = {
    "tuning_rows": 16,
    "overlay_faces": 0,
    "cpu_threads": 1,
    "dataloader_num_workers": 0,
    "per_device_train_batch_size": 8,
    "warmup_steps": 1,
    "logging_steps": 1,
    "max_steps": 3,
}


def train(data: Path, output: Path, **values):
    argv = ["--config", str(ROOT / "training/configs/demo.yaml")]
    return pretrain(
        parse_arguments(PretrainArguments, argv + flags(train_data=data, output_dir=output, **SHORT, **values))
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    config = SynthConfig(num_train=32, num_eval=16, frames_per_identity=8)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "with"
    metrics = train(data, output)
    assert metrics["training"]["losses"]["affect"] > 0
    return output


def test_the_checkpoint_says_what_it_recognises(checkpoint):
    assert json.loads((checkpoint / "config.json").read_text())["affect"] is True
    evaluation = json.loads((checkpoint / "metrics.json").read_text())["evaluation"]
    low, high = evaluation["affect"]["ccc_interval"]
    rounding = 1e-6  # two persons give few samples: the score can be the lowest
    assert (
        low - rounding <= evaluation["affect"]["ccc"] <= high + rounding and evaluation["affect"]["constant_rmse"] > 0
    )
    assert evaluation["by_landmarks"]["given"]["affect"]["ccc"] == evaluation["affect"]["ccc"]
    assert 0.5 < evaluation["data"]["affect_ceiling"]["valence"] < 1
    card = (checkpoint / "README.md").read_text()
    assert "mean CCC of valence and arousal" in card and "from -1 to 1" in card and "allow a CCC of" in card


def test_it_is_evaluated_analysed_and_drawn(checkpoint, data, tmp_path):
    evaluated = flags(model=checkpoint, data=data, output_dir=tmp_path / "scores", num_bootstrap=20)
    assert main(["evaluate", *evaluated]) == 0
    table = pd.read_parquet(tmp_path / "scores" / "predictions.parquet")
    labels = load_mfa(data, "validation")
    np.testing.assert_array_equal(table["valence_label"], np.float32(labels["valence"]))
    assert table["arousal"].between(-1, 1).all() and "valence" in (tmp_path / "scores" / "metrics.md").read_text()
    for index in range(2):
        labels[index]["image"].save(tmp_path / f"{index}.png")
    pictures = [str(tmp_path / f"{index}.png") for index in range(2)]
    options = flags(model=checkpoint, output=tmp_path / "run", landmarks="mean_face")
    assert main(["analyze", *pictures, *options, "--format", "parquet,abaw,pyfeat,openface"]) == 0
    faces = pd.read_parquet(tmp_path / "run" / "faces.parquet")
    assert faces[["valence", "arousal"]].notna().all(axis=None)
    lines = (tmp_path / "run" / "abaw" / "va.txt").read_text().splitlines()
    assert lines[0] == "image_location,valence,arousal" and len(lines) == 3
    for file in ("pyfeat.csv", "openface/0.csv"):
        found = pd.read_csv(tmp_path / "run" / file)
        assert found["valence"][0] == pytest.approx(faces["valence"][0], abs=1e-4)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert 'class="plane"' in (tmp_path / "run" / "report.html").read_text()


def test_its_export_says_the_same(checkpoint, data, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from mf2.onnx_runtime import Recognizer

    assert main(["export", *flags(model=checkpoint, onnx=tmp_path / "mf2.onnx")]) == 0
    picture = load_mfa(data, "validation")[0]["image"]
    (face,) = Recognizer(tmp_path / "mf2.onnx")(picture)
    assert -1 < face["valence"] < 1 and "emotion" in face
    register_auto_classes()
    from transformers import pipeline

    (same,) = pipeline("facial-state-analysis", model=str(checkpoint), trust_remote_code=True)(
        picture, landmarks="mean_face"
    )
    assert face["arousal"] == pytest.approx(same["arousal"], abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"no_cache": True}])
def test_an_adapter_learns_it_on_a_base_without_it(data, tmp_path_factory, tmp_path, options, base_without):
    argv = flags(method="dfn", model=base_without, data=data, output_dir=tmp_path / "adapter", views=1, affect=True)
    metrics = finetune(parse_arguments(FinetuneArguments, argv + flags(**SHORT, **options)))
    assert metrics["evaluation"]["affect"]["num_labelled"] == 16
    register_auto_classes()
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["affect"] is True
    assert AutoModel.from_pretrained(tmp_path / "adapter").label_space.affect
    assert not AutoModel.from_pretrained(base_without).label_space.affect


@pytest.fixture(scope="module")
def base_without(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "without"
    metrics = train(data, output, **{"model.affect": False})
    assert "affect" not in metrics["evaluation"] and "affect" not in metrics["training"]["losses"]
    return output


GOLDEN_FACES = ROOT / "tests" / "golden" / "faces"


def test_where_nothing_labels_it_a_new_model_leaves_it_out(tmp_path, caplog):
    """Also when the finished run is started again, whose settings still ask for it."""
    for _ in range(2):
        metrics = train(GOLDEN_FACES, tmp_path / "out", train_split="validation")
        assert "no row of the training split labels valence or arousal; the model leaves them out" in caplog.text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["affect"] is False
    assert "affect" not in metrics["training"]["losses"] and "affect" not in metrics["evaluation"]


def test_a_checkpoint_that_recognises_it_needs_its_labels(checkpoint, tmp_path):
    argv = flags(model_name_or_path=checkpoint, train_data=GOLDEN_FACES, output_dir=tmp_path / "out", **SHORT)
    with pytest.raises(ValueError, match=r"no row .* valence or arousal, which .* recognises"):
        pretrain(parse_arguments(PretrainArguments, [*argv, "--train_split", "validation"]))


def test_the_golden_checkpoint_from_before_loads_as_it_was():
    register_auto_classes()
    model = AutoModel.from_pretrained(ROOT / "tests" / "golden" / "checkpoint")
    fields = json.loads((ROOT / "tests" / "golden" / "checkpoint" / "config.json").read_text())
    assert "affect" not in fields and not model.label_space.affect
