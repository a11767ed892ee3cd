"""Batches that hold next to nothing train: every loss and gradient is a number, and what is there counts.

Masked data, a small share of captions, and the last batch of an epoch all make them.
"""

import pytest
import torch
from peft import get_peft_model
from small_configs import small_config

from mf2.modeling_mf2 import MF2ForPreTraining
from mf2.peft_dfn import DFNConfig

AUS, DEC, TEXT = (1, 12, 25), 49, 6
MODES = {
    "caption": {"au_text_mode": "caption"},
    "per_au": {"au_text_mode": "per_au"},
    "drawn AUs": {"au_text_mode": "per_au", "au_pairs_per_image": 1},
}
# Per case: number of images, text of each image (-1: none), whether anything is labelled.
CASES = {
    "no text": (4, [-1, -1, -1, -1], True),
    "no text, nothing labelled": (4, [-1, -1, -1, -1], False),
    "one text": (4, [-1, 2, -1, -1], True),
    "no negatives": (4, [3, 3, 3, 3], True),
    "nothing labelled": (4, [0, 1, 2, 1], False),
    "one row": (1, [1], True),
    "one row without text": (1, [-1], True),
    "one row, nothing labelled": (1, [1], False),
    "a text of a single token": (2, [4, 4], True),
}


def make_model(**fields) -> MF2ForPreTraining:
    torch.manual_seed(0)
    return MF2ForPreTraining(small_config(DEC, branch={"num_query_tokens": 2}, au_ids=AUS, **fields)).train()


def make_batch(mode: str, num_images: int, captions: list[int], is_labelled: bool) -> dict[str, torch.Tensor]:
    """As the collator makes it: texts as wide as the longest of the batch, one token where there is none."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(num_images, len(AUS), 2, 2, generator=generator) * 0.86
    texts = torch.randint(4, DEC, (6, TEXT), generator=generator)
    texts[:, 0], texts[-1] = 2, 0  # the last, -1, is no text
    texts[4, 1:] = 0
    chosen = torch.tensor(captions)
    rows = chosen if mode == "caption" else chosen[:, None].expand(-1, len(AUS))
    batch = {
        "pixel_values": torch.randn(num_images, 3, 32, 32, generator=generator),
        "au_boxes": torch.cat([corners, corners + 0.14], dim=-1),
        "emotion_labels": torch.full((num_images,), 3 if is_labelled else -100),
        "au_labels": torch.full((num_images, len(AUS)), 1 if is_labelled else -1),
        "caption_ids": chosen,
        "au_caption_ids": rows,
    }
    for prefix, of in (("", chosen), ("au_", rows)):
        width = max(int((texts[of] != 0).sum(-1).max()), 1)
        batch[f"{prefix}input_ids"] = texts[of][..., :width]
        batch[f"{prefix}attention_mask"] = (texts[of][..., :width] != 0).long()
    return batch


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients_are_finite(mode, case):
    num_images, captions, is_labelled = CASES[case]
    model = make_model(**MODES[mode])
    outputs = model(**make_batch(MODES[mode]["au_text_mode"], *CASES[case]))
    outputs.loss.backward()
    losses = {name: value.item() for name, value in outputs.losses.items()}
    assert len(losses) == 8 and all(map(torch.isfinite, outputs.losses.values()))
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    has_text, has_words = max(captions) >= 0, 0 <= max(captions) < 4
    for branch in ("emo", "au"):
        assert (losses[f"{branch}_itg"] > 0.1) == (has_words and (branch == "emo" or is_labelled or mode == "caption"))
        has_negatives = len({caption for caption in captions if caption >= 0}) > 1
        assert (losses[f"{branch}_itm"] > 0.1) == has_negatives
        assert (losses[f"{branch}_itc"] > 0.1) == (has_text and captions.count(-1) < num_images - 1)
    assert (losses["emotion"] > 0.1) == (losses["au"] > 0.1) == is_labelled


@pytest.mark.parametrize("mode", MODES)
def test_no_text_trains_as_a_model_without_alignment_does(mode):
    """The gradients are the recognisers' alone, not only finite."""
    batch = make_batch(MODES[mode]["au_text_mode"], *CASES["no text"])
    with_texts, without = make_model(**MODES[mode]).eval(), make_model(**MODES[mode]).eval()
    images = {name: batch[name] for name in ("pixel_values", "au_boxes", "emotion_labels", "au_labels")}
    with_texts(**batch).loss.backward()
    without(**images).loss.backward()
    for ours, expected in zip(with_texts.parameters(), without.parameters(), strict=True):
        of_ours = torch.zeros_like(ours) if ours.grad is None else ours.grad
        torch.testing.assert_close(of_ours, torch.zeros_like(ours) if expected.grad is None else expected.grad)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["caption", "per_au"])
def test_an_aligned_adapter_trains_on_them(mode, case):
    model = get_peft_model(make_model(**MODES[mode]), DFNConfig(r=4, alignment_weight=0.1))
    outputs = model(**make_batch(mode, *CASES[case]))
    outputs.loss.backward()
    assert len(outputs.losses) == 4 and all(map(torch.isfinite, outputs.losses.values()))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
