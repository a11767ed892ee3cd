"""The recognisers: what the joint view adds, and that a model without it is the paper's."""

import pytest
import torch
from torch.nn import functional as F

from mf2.alignment_mf2 import recognition_losses
from mf2.configuration_mf2 import MF2Config
from mf2.labels_mf2 import LabelSpace
from mf2.recognition_mf2 import MF2Recognizers

AUS = (1, 4, 12)
WIDTHS = {"emo": 8, "au": 8}
PLACES = pytest.mark.parametrize("joint_places", [False, True])
JOINT = pytest.mark.parametrize("widths", [WIDTHS, {"emo": 8}, {"au": 8}])


def make_recognizers(widths=WIDTHS, joint_width=16, au_ids=AUS, **fields) -> MF2Recognizers:
    torch.manual_seed(0)
    config = MF2Config.from_size("tiny", au_ids=au_ids, au_pairs_per_image=1, joint_width=joint_width, **fields)
    return MF2Recognizers(widths, config).eval()


def make_pooled(widths=WIDTHS, num_aus=3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    num_views = {"emo": 1, "au": num_aus}
    pooled = {name: torch.randn(4, num_views[name], 3, width, generator=generator) for name, width in widths.items()}
    return pooled | {"places": torch.rand(4, num_aus, 1, 4, generator=generator)}


def reached(recognizers: MF2Recognizers, changed_au: int) -> list[bool]:
    """Which AU logits another region of one AU changes."""
    pooled = make_pooled()
    before = recognizers(pooled).au_logits
    pooled["au"][:, changed_au, :, 0] += 1
    return ((recognizers(pooled).au_logits - before).abs().amax(0) > 1e-5).tolist()


def test_an_au_sees_all_regions_in_the_joint_view_only():
    assert reached(make_recognizers(joint_width=0), 1) == [False, True, False]
    assert reached(make_recognizers(), 1) == [True, True, True]


def test_without_a_joint_view_the_recognisers_are_two_linear_heads():
    assert MF2Config().joint_width == 0  # what a configuration without the field means
    parts = {name.split(".")[0] for name in make_recognizers(joint_width=0).state_dict()}
    assert parts == {"au_head", "emotion_head"}


@JOINT
def test_any_branch_may_be_off(widths):
    seen = make_recognizers(widths)(make_pooled(widths))
    assert seen.au_logits.shape == (4, len(AUS)) and seen.emotion_logits.shape == (4, 8)


@JOINT
@PLACES
def test_the_order_of_aus_can_be_changed(widths, joint_places):
    """A head's weights follow the AUs whose regions they read."""
    old, pooled = make_recognizers(widths, joint_places=joint_places), make_pooled(widths)
    before = old(pooled)
    order = [2, 0, 1]
    fields = {"au_pairs_per_image": 1, "joint_width": 16, "joint_places": joint_places}
    config = MF2Config.from_size("tiny", au_ids=[AUS[i] for i in order], **fields)
    new = old.resized(LabelSpace(au_ids=AUS), config).eval()
    after = new({name: states if name == "emo" else states[:, order] for name, states in pooled.items()})
    torch.testing.assert_close(after.au_logits, before.au_logits[:, order])
    torch.testing.assert_close(after.emotion_logits, before.emotion_logits)


def test_a_new_au_is_read_by_no_old_head():
    old = make_recognizers()
    config = MF2Config.from_size("tiny", au_ids=[*AUS, 15], au_pairs_per_image=1, joint_width=16)
    new = old.resized(LabelSpace(au_ids=AUS), config)
    assert new.au_head.weight.shape == (4, 16 + 5 * 16)
    assert not new.au_head.weight[:3, -16:].any() and new.au_head.weight[3, -16:].any()
    torch.testing.assert_close(new.au_head.weight[:3, :-16], old.au_head.weight)
    embeddings = new.joint_view.view_embeddings.weight
    torch.testing.assert_close(embeddings[4], embeddings[3])  # AU15 lies where AU12 does


def test_places_are_read_in_the_joint_view_where_it_is_asked_for():
    for joint_places in (False, True):
        recognizers, pooled = make_recognizers(joint_places=joint_places), make_pooled()
        before = recognizers(pooled)
        pooled["places"] = pooled["places"] + 0.01
        after = recognizers(pooled)
        for name in ("au_logits", "emotion_logits"):
            assert bool((getattr(after, name) != getattr(before, name)).any()) == joint_places
    del pooled["places"]
    with pytest.raises(ValueError, match="region_places are missing"):
        recognizers(pooled)


def test_the_place_of_a_new_au_is_not_read():
    old = make_recognizers(joint_places=True)
    fields = {"au_pairs_per_image": 1, "joint_width": 16, "joint_places": True}
    new = old.resized(LabelSpace(au_ids=AUS), MF2Config.from_size("tiny", au_ids=[*AUS, 15], **fields))
    pooled = make_pooled(num_aus=4)
    before = new(pooled)
    pooled["places"][:, 3] += 0.5
    torch.testing.assert_close(new(pooled).au_logits, before.au_logits, rtol=0, atol=0)
    pooled["places"][:, 2] += 0.5
    assert not torch.equal(new(pooled).au_logits, before.au_logits)


def test_a_mean_face_is_nothing_to_say():
    view = make_recognizers(joint_places=True).joint_view
    mean = torch.tensor(view.mean_places)[None]
    assert mean.shape == (1, len(AUS), 4) and mean.min() > 0.1 and mean.max() < 0.9
    shifted = []
    view.place_projection.register_forward_pre_hook(lambda _, inputs: shifted.append(inputs[0]))
    view({name: torch.randn(1, 1 if name == "emo" else 3, 8) for name in WIDTHS}, mean)
    assert shifted[0].abs().max() < 1e-5


def test_dropout_is_of_training_only():
    recognizers, pooled = make_recognizers(recognition_dropout=0.5), make_pooled()
    torch.testing.assert_close(recognizers(pooled).au_logits, recognizers(pooled).au_logits, rtol=0, atol=0)
    recognizers.train()
    assert not torch.equal(recognizers(pooled).au_logits, recognizers(pooled).au_logits)


def test_the_shift_is_of_the_loss_only():
    logits, labels, shift = torch.randn(5, 3), torch.tensor([0, 2, -100, 1, 0]), [-0.1, -2.0, -3.0]
    shifted = recognition_losses(None, None, logits, labels, emotion_logit_shift=shift)["emotion"]
    torch.testing.assert_close(shifted, F.cross_entropy(logits + torch.tensor(shift), labels))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"joint_width": -4}, "joint_width is -4; it must be >= 0"),
        ({"joint_width": 6}, "joint_width is 6; it must be a multiple of 4"),
        ({"recognition_dropout": 1.5}, "recognition_dropout is 1.5"),
        ({"emotion_logit_shift": [0.0]}, "emotion_logit_shift has 1 values for 8 emotions"),
    ],
)
def test_values_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MF2Config.from_size("tiny", **fields)
