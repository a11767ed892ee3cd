"""The readout that a DFN adapter starts with: a regression on top of the base, of groups that it has not seen."""

import pytest
import torch
from peft import get_peft_model
from small_adapters import small_model

from mf2.peft_dfn import DFNConfig
from mf2.recognition_mf2 import FACE, PLACES
from mf2.training.adapter_start import choose_shares, fit_adapter_readout
from mf2.training.readout_fit import Targets

ROWS = 240


def make_adapter(**fields):
    torch.manual_seed(0)
    layer = get_peft_model(small_model(**fields), DFNConfig(r=4)).get_base_model().recognizers
    return layer.dfn_sides["default"].eval(), layer.base_layer


def make_pooled(side, base) -> dict[str, torch.Tensor]:
    """Of faces whose first AU is active where its region lies to the right; nothing else tells."""
    generator = torch.Generator().manual_seed(1)
    num_states = {name: len(side.towers[f"{name}_image"].cells) for name in side.widths}
    views = {"emo": 1, "au": len(base.label_space.au_ids)}
    pooled = {
        name: torch.randn(ROWS, views[name], num_states[name], width, generator=generator)
        for name, width in side.widths.items()
    }
    return pooled | {PLACES: 0.5 + 0.02 * torch.randn(ROWS, views["au"], 1, 4, generator=generator)}


def make_targets(pooled, base) -> Targets:
    aus = torch.full((ROWS, len(base.label_space.au_ids)), -1)
    aus[:, 0] = (pooled[PLACES][:, 0, 0, 0] > 0.5).long()
    return Targets(aus, torch.full((ROWS,), -100), len(base.label_space.emotions), balance=0.0)


def groups():
    return torch.arange(ROWS).div(6, rounding_mode="floor").numpy().astype(str)


def in_batches(pooled):
    return [{name: of[start : start + 50] for name, of in pooled.items()} for start in range(0, ROWS, 50)]


def right(logits, targets):
    return ((logits[:, 0] > 0) == (targets.aus[:, 0] == 1)).float().mean()


@pytest.mark.parametrize("fields", [{}, {"joint_width": 8, "recognition_dropout": 0.5}, {"direct_states": True}])
def test_it_finds_what_the_base_does_not_know(fields):
    side, base = make_adapter(**fields)
    pooled = make_pooled(side, base)
    targets = make_targets(pooled, base)
    before = side(pooled, base).au_logits
    assert right(before, targets) < 0.65
    held_out = fit_adapter_readout(side, base, in_batches(pooled), targets, groups())
    after = side(pooled, base)
    assert right(after.au_logits, targets) > 0.8 and right(held_out, targets) > 0.72
    assert not any(parameter.requires_grad for parameter in side.readout.parameters())
    torch.testing.assert_close(after.au_logits[:, 1], before[:, 1], rtol=0, atol=0.02)  # nothing labels it
    expected = torch.cat([before, side(pooled, base).emotion_logits], 1) - torch.cat([before, after.emotion_logits], 1)
    assert expected.abs().max() == 0


def test_what_the_base_knows_is_left_as_it_is():
    """Labels that are the base's own answers leave nothing to fit but the sharpness of its logits."""
    side, base = make_adapter()
    pooled = make_pooled(side, base)
    logits = side(pooled, base).au_logits
    targets = make_targets(pooled, base)
    targets.aus = (torch.rand(logits.shape) < logits.sigmoid()).long()
    fit_adapter_readout(side, base, in_batches(pooled), targets, groups())
    assert (side(pooled, base).au_logits - logits).abs().mean() < 0.3 * logits.std() + 0.3


def test_one_group_fits_nothing(caplog):
    side, base = make_adapter()
    pooled = make_pooled(side, base)
    one = groups()
    one[:] = "a"
    assert fit_adapter_readout(side, base, in_batches(pooled), make_targets(pooled, base), one) is None
    assert "one group" in caplog.text and side.readout.weight.abs().max() == 0


def test_a_readout_that_is_not_told_the_places_says_so():
    side, base = make_adapter()
    pooled = make_pooled(side, base)
    del pooled[PLACES]
    with pytest.raises(ValueError, match=r"where the AU regions are.*readout=False"):
        side(pooled, base)


# ----------------------------------------------------------------------------------- a base that has a linear readout
def make_face_adapter():
    side, base = make_adapter(readout_grids=[2])
    pooled = make_pooled(side, base)
    face = 0.1 * torch.randn(ROWS, 1, 1, side.config.base_readout_width, generator=torch.Generator().manual_seed(2))
    face[:, 0, 0, 3] = pooled[PLACES][:, 0, 0, 0] - 0.5
    return side, base, pooled | {FACE: face}


def test_a_readout_of_the_tower_is_averaged_with_the_base():
    side, base, pooled = make_face_adapter()
    targets = make_targets(pooled, base)
    before = side(pooled, base)
    width = side.config.base_readout_width
    held_out = fit_adapter_readout(side, base, in_batches(pooled), targets, groups(), torch.ones(width))
    after, shares = side(pooled, base), 1 - side.base_shares
    num_aus = len(base.label_space.au_ids)
    assert shares[0] > 0.5 and shares[1:num_aus].abs().max() == 0, "nothing labels the others"
    assert right(after.au_logits, targets) > 0.8 and right(held_out, targets) > 0.72
    torch.testing.assert_close(after.au_logits[:, 1:], before.au_logits[:, 1:])
    readout = side.readout(pooled[FACE].flatten(1))[:, 0] / shares[0]
    torch.testing.assert_close(after.au_logits[:, 0], torch.lerp(before.au_logits[:, 0], readout, shares[0]))


def test_the_better_of_base_and_readout_has_the_larger_share():
    generator = torch.Generator().manual_seed(3)
    good, noise = torch.randn(2, 500, 2, generator=generator)
    targets = Targets(
        (torch.rand(500, 2, generator=generator) < (3 * good).sigmoid()).long(), torch.full((500,), -100), 0, 0
    )
    assert choose_shares(3 * good, noise, targets).max() < 0.3
    assert choose_shares(noise, 3 * good, targets).min() > 0.7
    targets.aus[:, 1] = -1
    assert choose_shares(noise, 3 * good, targets)[1] == 0


def test_a_base_that_knows_all_keeps_its_answer():
    side, base, pooled = make_face_adapter()
    targets = make_targets(pooled, base)
    base_logits = side(pooled, base).au_logits
    targets.aus = (
        torch.rand(base_logits.shape, generator=torch.Generator().manual_seed(4)) < base_logits.sigmoid()
    ).long()
    fit_adapter_readout(side, base, in_batches(pooled), targets, groups(), torch.ones(side.config.base_readout_width))
    assert side.base_shares[: base_logits.shape[1]].min() > 0.5
