"""ONNX: the file computes what PyTorch computes, says what its outputs mean, and is not left when it does not."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_mf2 import VIT, make_tiny, save_tiny, write_pictures

from mf2.analysis import onnx_export
from mf2.analysis.onnx_export import METADATA_KEY, compare, export_onnx, golden_inputs
from mf2.cli import main

pytestmark = pytest.mark.dependencies

AUS = (1, 12, 15)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A convolutional tower in float32."""
    model, processor = make_tiny(au_ids=AUS, au_thresholds=[0.2, 0.4, 0.6])
    file = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return model, processor, file, export_onnx(model, processor, file)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pictures_of_any_number_give_what_the_model_gives(exported, tmp_path, count):
    model, processor, file, worst = exported
    batch = processor(images=write_pictures(tmp_path, count))
    session = onnxruntime.InferenceSession(str(file))
    feed = {name: batch[name].numpy() for name in ("pixel_values", "au_boxes")}
    au_logits, au_probs, emotion_probs = session.run(["au_logits", "au_probs", "emotion_probs"], feed)
    with torch.no_grad():
        seen = model.recognize(model.encode_branches(batch["pixel_values"], batch["au_boxes"]))
    np.testing.assert_allclose(au_logits, seen.au_logits, atol=1e-4)
    np.testing.assert_allclose(au_probs, seen.au_logits.sigmoid(), atol=1e-4)
    np.testing.assert_allclose(emotion_probs, seen.emotion_logits.softmax(-1), atol=1e-4)
    assert worst < 1e-4
    assert np.ptp(au_logits) > 1e-2


@pytest.mark.parametrize("mirrors", [False, True])
def test_the_linear_readout_and_the_mirror_image_are_in_the_graph(tmp_path, mirrors):
    model, processor = make_tiny(
        au_ids=AUS, freeze_vision=True, readout_grids=[2], readout_share=0.7, mirror_emotions=mirrors
    )
    for buffer in model.readout.buffers():
        buffer.normal_(0, 0.1)
    assert export_onnx(model, processor, tmp_path / "tiny.onnx") < 1e-4
    batch = processor(images=write_pictures(tmp_path, 3))
    feed = {name: batch[name].numpy() for name in ("pixel_values", "au_boxes")}
    session = onnxruntime.InferenceSession(str(tmp_path / "tiny.onnx"))
    au_logits, emotion_probs = session.run(["au_logits", "emotion_probs"], feed)
    with torch.no_grad():
        seen = model.forward_adapters(["base"], **batch)["base"]
        model.config.readout_share = 0.0
        heads = model.forward_adapters(["base"], **batch)["base"]
    np.testing.assert_allclose(au_logits, seen.au_logits, atol=1e-4)
    np.testing.assert_allclose(emotion_probs, seen.emotion_logits.softmax(-1), atol=1e-4)
    assert (seen.au_logits - heads.au_logits).abs().max() > 1e-2


def test_the_file_says_what_its_outputs_mean(exported):
    _, processor, file, _ = exported
    session = onnxruntime.InferenceSession(str(file))
    meta = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert meta["au_codes"] == ["AU1", "AU12", "AU15"]
    assert meta["au_thresholds"] == [0.2, 0.4, 0.6]
    assert meta["emotions"][4] == "Happiness"
    assert meta["image_size"] == [32, 32]
    assert meta["image_mean"] == list(processor.image_processor.image_mean)
    assert [list(entry.shape) for entry in session.get_inputs()] == [["batch", 3, 32, 32], ["batch", 3, 2, 4]]


def test_the_check_sees_another_model(exported):
    _, processor, file, _ = exported
    path = onnx_export.ImagePath(make_tiny(seed=7, au_ids=AUS)[0])
    with torch.no_grad():
        expected = [(inputs, [output.numpy() for output in path(*inputs)]) for inputs in golden_inputs(processor)]
    assert compare(onnxruntime, file, expected) > 1e-2


def test_the_check_sees_what_is_not_a_number(exported):
    _, processor, file, _ = exported
    inputs = next(golden_inputs(processor))
    wanted = [np.full((1, width), np.nan, np.float32) for width in (3, 3, 8)]
    assert np.isnan(compare(onnxruntime, file, [(inputs, wanted)]))


@pytest.mark.parametrize("distance", [0.5, float("nan")])
def test_a_file_that_fails_is_not_left(exported, tmp_path, monkeypatch, distance):
    model, processor, file, _ = exported

    program = SimpleNamespace(
        model=SimpleNamespace(metadata_props={}), save=lambda path: path.write_bytes(file.read_bytes())
    )
    monkeypatch.setattr(onnx_export, "_make_program", lambda *args: program)
    monkeypatch.setattr(onnx_export, "compare", lambda *args: distance)
    with pytest.raises(ValueError, match=r"differs from PyTorch by .* was not written"):
        export_onnx(model, processor, tmp_path / "out" / "tiny.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_half_precision_of_a_transformer_is_checked_against_single(tmp_path):
    model, processor = make_tiny(vision=VIT, au_ids=AUS)
    worst = export_onnx(model, processor, tmp_path / "half.onnx", dtype="float16")
    assert 1e-6 < worst <= 2e-2
    session = onnxruntime.InferenceSession(str(tmp_path / "half.onnx"))
    assert {entry.type for entry in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}


@pytest.mark.parametrize(("argv", "message"), [(["--opset", "12"], "opset is 12; at least 18")])
def test_a_wrong_command_is_one_line(tmp_path, capsys, argv, message):
    folder = save_tiny(tmp_path / "model")
    assert main(["export", "--model", str(folder), "--onnx", str(tmp_path / "m.onnx"), *argv]) == 1
    assert message in capsys.readouterr().err


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"mf2-face\[onnx\]"):
        export_onnx(*make_tiny(), tmp_path / "tiny.onnx")
