"""What has weights is called as a module, so that what wraps modules is seen: adapters, quantisation, offloading."""

import copy
import warnings

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, get_peft_model
from small_adapters import adapted, make_images, make_labels, side_of, small_model

from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2Model

HEADS = ["au_head", "emotion_head"]
BRANCHES = pytest.mark.parametrize("switched_off", [{}, {"use_emo_vl": False}, {"use_au_vl": False}])


@torch.no_grad()
def au_logits(model, images):
    return model(**images).au_logits


@BRANCHES
def test_lora_on_the_heads_learns_and_merges(switched_off):
    """A head whose weight is multiplied by hand learns nothing from an adapter, and changes when it is merged."""
    model, images = small_model(**switched_off), make_images()
    before = au_logits(model, images)
    lora = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=HEADS, init_lora_weights=False))
    lora.train()
    lora(**images, **make_labels()).loss.backward()
    gradients = {name: weight.grad for name, weight in lora.named_parameters() if "lora_" in name}
    assert len(gradients) == 2 * len(HEADS) and all(grad is not None for grad in gradients.values())
    lora.eval()
    with_lora = au_logits(lora, images)
    assert (with_lora - before).abs().max() > 0.01
    torch.testing.assert_close(au_logits(lora.merge_and_unload(), images), with_lora)


@BRANCHES
def test_an_au_reads_its_own_row_of_the_head(switched_off):
    """Logit a is row a of the head's matrix on the feature of AU a, and nothing of the other AUs'."""
    model, images = small_model(**switched_off), make_images()
    before = au_logits(model, images)
    with torch.no_grad():
        model.recognizers.au_head.weight[1] *= 2
        model.recognizers.au_head.bias[2] += 3
    after = au_logits(model, images)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(after[:, 1], 2 * before[:, 1] - model.recognizers.au_head.bias[1])
    torch.testing.assert_close(after[:, 2], before[:, 2] + 3)


def test_the_heads_of_an_adapter_are_called_too():
    model = adapted(small_model(), au_ids=[1, 4, 12], emotions=["Happiness"])
    called = []
    side_of(model).au_head.register_forward_hook(lambda *call: called.append(call))
    assert au_logits(model, make_images(len(model.label_space.region_au_ids))).shape == (3, 3)
    assert len(called) == 1


# ------------------------------------------------------------------------------------------ quantised and offloaded
def heads_with_a_joint_view(**fields):
    return small_model(joint_width=8, **fields)


MODELS = pytest.mark.parametrize("make", [small_model, heads_with_a_joint_view])


@MODELS
def test_int8_by_dynamic_quantisation(make):
    model, images = make(), make_images()
    expected = au_logits(model, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # in favour of torchao, but still what people use
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    assert not torch.equal(au_logits(quantised, images), expected)
    torch.testing.assert_close(au_logits(quantised, images), expected, rtol=0.1, atol=0.3)


@MODELS
def test_int8_by_torchao(make):
    torchao = pytest.importorskip("torchao.quantization")
    model, images = make(), make_images()
    expected = au_logits(model, images)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    assert not torch.equal(au_logits(model, images), expected)
    torch.testing.assert_close(au_logits(model, images), expected, rtol=0.1, atol=0.3)


@MODELS
@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
def test_weights_that_come_for_a_call_alone(make, offload, tmp_path):
    model, images = make(), make_images()
    expected = au_logits(model, images)
    options = {"offload_dir": tmp_path} if offload is disk_offload else {}
    offload(model, execution_device=torch.device("cpu"), **options)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(au_logits(model, images), expected)


@pytest.mark.parametrize(
    "device_map",
    [
        {"": "disk"},
        {"vision_model": "cpu", "emo": "disk", "au": "disk", "recognizers": "cpu"},
        {"vision_model": "disk", "emo": "cpu", "au": "cpu", "recognizers": "disk"},
    ],
)
def test_a_device_map_with_offloading_sees_and_writes_the_same(device_map, tmp_path):
    model, images = small_model(MF2ForConditionalGeneration), make_images()
    model.save_pretrained(tmp_path / "model")
    loaded = MF2ForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
    ).eval()
    assert any(parameter.is_meta for parameter in loaded.parameters())
    with torch.no_grad():
        expected, found = (MF2Model.forward(one, **images).au_logits for one in (model, loaded))
    assert torch.equal(found, expected)
    for kind in ("emotion", "au"):
        captions = [one.generate(**images, caption_kind=kind, max_new_tokens=4) for one in (model, loaded)]
        assert torch.equal(*captions)
