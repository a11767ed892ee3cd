"""What has weights is called as a module, so that what wraps modules is seen: adapters, quantisation, offloading."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from small_adapters import adapted, make_images, make_labels, side_of, small_model

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
    assert au_logits(model, make_images()).shape == (3, 3)
    assert len(called) == 1
