"""Golden predictions: a committed checkpoint says of 20 committed faces what it said when it was made.

Every dtype, attention implementation, image backend, batch size and export stands within the tolerance that is stated
here. `tests/golden/regenerate.py` makes checkpoint, faces and outputs anew where they are meant to change.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from mf2.auto_mf2 import register_auto_classes
from mf2.evaluation.metrics import au_metrics, emotion_metrics
from mf2.evaluation.protocols import load_protocol
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2Model
from mf2.processing_mf2 import MF2ImageProcessorPil, MF2Processor
from mf2.utils.files import read_json

pytestmark = pytest.mark.dependencies

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("golden_regenerate", GOLDEN / "regenerate.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

FLOAT32 = 1e-4  # logits, another machine or version of torch
ATTENTION = 1e-5  # logits, sdpa against eager on one machine
BFLOAT16 = 0.02  # probabilities, weights and activations in bf16
AUTOCAST = 0.02  # probabilities, float32 weights under bf16 autocast
BACKEND = 1e-3  # probabilities, Pillow against torchvision
MAX_BYTES = 2 << 20


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_auto_classes()


@pytest.fixture(scope="module")
def expected():
    return load_file(golden.OUTPUTS)


@pytest.fixture(scope="module")
def processor():
    return MF2Processor.from_pretrained(golden.CHECKPOINT)


def load(**options):
    return AutoModel.from_pretrained(golden.CHECKPOINT, **options).eval()


def probs_of(outputs):
    return {"aus": outputs["au_logits"].sigmoid(), "emotion": outputs["emotion_logits"].softmax(-1)}


def assert_probs_close(found, expected, tolerance):
    """The probabilities agree within the tolerance, and no decision that is clear by it is another."""
    for name, probs in probs_of(expected).items():
        assert (probs_of(found)[name] - probs).abs().max() <= tolerance, name
    probs = probs_of(expected)["aus"]
    is_clear = (probs - 0.5).abs() > tolerance
    assert torch.equal((probs_of(found)["aus"] >= 0.5)[is_clear], (probs >= 0.5)[is_clear])


# ------------------------------------------------------------------------------------------------------ what is stored
def test_the_stored_outputs_say_something(expected):
    """They recognise more than trivial predictors do, and differ between faces."""
    labels = load_protocol(str(golden.FACES), "validation", "mfa", AU_IDS).labels
    assert len(labels.emotion) == 20
    aus = au_metrics(probs_of(expected)["aus"].numpy(), labels.aus, [f"AU{au_id}" for au_id in AU_IDS])
    emotion = emotion_metrics(expected["emotion_logits"].numpy(), labels.emotion, list(EMOTIONS))
    assert aus["f1"] > aus["f1_all_positive"] + 0.1 and emotion["top1"] > emotion["majority_top1"]
    assert expected["au_logits"].std(0).min() > 0.1 and expected["emotion_logits"].std(0).min() > 0.1


def test_the_golden_files_are_small():
    assert sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.suffix != ".pyc") < MAX_BYTES


# -------------------------------------------------------------------------------------------------------------- parity
def test_float32_gives_the_stored_outputs(expected, processor):
    found = golden.golden_outputs(load(), processor)
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=FLOAT32, rtol=0)


def test_the_stored_captions_are_written(processor):
    writer = MF2ForConditionalGeneration.from_pretrained(golden.CHECKPOINT).eval()
    assert golden.golden_captions(writer, processor) == read_json(golden.CAPTIONS)


def test_attention_implementations_agree(processor):
    sdpa, eager = (golden.golden_outputs(load(attn_implementation=name), processor) for name in ("sdpa", "eager"))
    for name, values in sdpa.items():
        torch.testing.assert_close(eager[name], values, atol=ATTENTION, rtol=0)


def test_faces_do_not_change_each_other(expected, processor):
    found = golden.golden_outputs(load(), processor, batch_size=7)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=FLOAT32, rtol=0)


def test_bfloat16_weights_stay_within_their_tolerance(expected, processor):
    assert_probs_close(golden.golden_outputs(load(dtype=torch.bfloat16), processor), expected, BFLOAT16)


def test_bfloat16_autocast_stays_within_its_tolerance(expected, processor):
    with torch.autocast("cpu", torch.bfloat16):
        found = golden.golden_outputs(load(), processor)
    assert_probs_close(found, expected, AUTOCAST)


def test_the_pillow_backend_stays_within_its_tolerance(expected, processor):
    pillow = MF2Processor(MF2ImageProcessorPil.from_pretrained(golden.CHECKPOINT), processor.tokenizer)
    found = golden.golden_outputs(load(), pillow)
    assert not torch.equal(found["au_logits"], expected["au_logits"])  # it is another way through
    assert_probs_close(found, expected, BACKEND)


def test_the_export_stays_within_its_tolerance(expected, processor, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    from mf2.analysis.onnx_export import TOLERANCES, export_onnx

    file = tmp_path / "golden.onnx"
    export_onnx(load(), processor, file)
    session = onnxruntime.InferenceSession(file)
    split = load_protocol(str(golden.FACES), "validation", "mfa", AU_IDS)
    (batch,) = golden.image_batches(split, processor.image_processor, 20, "cpu")
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    found = dict(zip((output.name for output in session.get_outputs()), outputs, strict=True))
    tolerance = 2 * TOLERANCES["float32"]
    np.testing.assert_allclose(found["au_probs"], probs_of(expected)["aus"], atol=tolerance)
    np.testing.assert_allclose(found["emotion_probs"], probs_of(expected)["emotion"], atol=tolerance)


@pytest.mark.gpu
def test_an_accelerator_stays_within_its_tolerance(expected, processor):
    if not torch.accelerator.is_available():
        pytest.skip("needs an accelerator")
    model = load().to(torch.accelerator.current_accelerator())
    assert_probs_close(golden.golden_outputs(model, processor), expected, AUTOCAST)


def test_the_model_is_the_packages(processor):
    assert type(load()) is MF2Model
