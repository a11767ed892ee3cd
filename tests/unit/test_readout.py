"""The linear readout: off it is not there, on it is averaged with the recognisers', whoever answers."""

import pytest
import torch
from peft import get_peft_model
from small_adapters import AUS, EMOTIONS, make_images, small_config, small_model

from mf2.labels_mf2 import LabelSpace
from mf2.modeling_mf2 import MF2Model
from mf2.peft_dfn import DFNConfig

GRIDS = {"readout_grids": [2]}
BRANCHES = pytest.mark.parametrize("off", [{}, {"use_emo_vl": False}, {"use_au_vl": False}])


def images_of(images, order):
    return {"pixel_values": images["pixel_values"], "au_boxes": images["au_boxes"][:, order]}


def test_without_grids_there_is_none():
    model = small_model()
    assert not [name for name in model.state_dict() if "readout" in name]
    assert "readout" not in model.encode_branches(**make_images()).pooled


@torch.no_grad()
@BRANCHES
def test_the_answer_is_the_average_of_both(off):
    """Beside them stands what is linear in the maps, the regions and where these lie."""
    images = make_images()
    answers = {share: small_model(**GRIDS, **off, readout_share=share)(**images) for share in (0.0, 0.25, 1.0)}
    plain = small_model(**off)(**images)
    for name in ("au_logits", "emotion_logits"):
        alone, mixed, readout = (answers[share][name] for share in answers)
        torch.testing.assert_close(alone, plain[name])
        torch.testing.assert_close(mixed, 0.75 * alone + 0.25 * readout)
        assert (readout - alone).abs().min() > 1e-4
    model = small_model(**GRIDS, **off)
    face = model.sample_vision(**images).face
    logits = (face - model.readout.mean) @ model.readout.weight.T + model.readout.bias
    torch.testing.assert_close(torch.cat([answers[1.0].au_logits, answers[1.0].emotion_logits], 1), logits)


@torch.no_grad()
def test_it_reads_the_places_of_the_regions():
    model, images = small_model(**GRIDS, readout_share=1.0), make_images()
    model.readout.weight[:, : model.readout.map_width] = 0
    regions = model.readout.weight[:, model.readout.map_width :].unflatten(1, (len(AUS), -1))
    regions[..., :-4] = 0  # what is left are the centres
    moved = images | {"au_boxes": images["au_boxes"] + 0.05}
    change = model(**moved).au_logits - model(**images).au_logits
    torch.testing.assert_close(change, 0.05 * regions[: len(AUS)].sum((1, 2)).expand_as(change), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_stored_features_alone_are_answered_by_the_recognisers_alone():
    """So they learn from the faces that the readout was fitted to."""
    model, images = small_model(**GRIDS), make_images()
    sampled = model.sample_vision(**images)
    stored = {"vision_tokens": sampled.tokens, "region_features": sampled.regions}
    torch.testing.assert_close(model(**stored).au_logits, small_model()(**images).au_logits)
    with_readout = model(**stored, readout_logits=model.readout(sampled.face))
    torch.testing.assert_close(with_readout.au_logits, model(**images).au_logits)


def test_it_is_saved_and_no_optimiser_changes_it(tmp_path):
    model = small_model(**GRIDS)
    assert not [name for name, _ in model.named_parameters() if name.startswith("readout")]
    model.save_pretrained(tmp_path)
    loaded = MF2Model.from_pretrained(tmp_path).eval()
    for name, buffer in model.readout.named_buffers():
        assert torch.equal(loaded.readout.get_buffer(name), buffer)
    torch.testing.assert_close(loaded(**make_images()).au_logits, model(**make_images()).au_logits)


@torch.no_grad()
def test_the_order_of_outputs_can_be_changed():
    model, images = small_model(**GRIDS), make_images()
    before, order = model(**images), [2, 0, 1]
    model.resize_label_space(LabelSpace(tuple(AUS[i] for i in order), EMOTIONS[::-1]))
    after = model(**images_of(images, order))
    torch.testing.assert_close(after.au_logits, before.au_logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.emotion_logits, before.emotion_logits.flip(1), rtol=1e-4, atol=1e-4)


def test_it_says_nothing_of_a_new_output_and_does_not_read_a_new_region():
    model = small_model(**GRIDS)
    old = model.readout
    model.resize_label_space(LabelSpace((1, 20, 12), ("Anger", "Awe")))
    new = model.readout
    assert not new.weight[1].any() and not new.weight[4].any() and new.bias[[1, 4]].tolist() == [0, 0]
    regions = new.weight[:, new.map_width :].unflatten(1, (3, -1))
    assert not regions[:, 1].any()
    assert torch.equal(regions[2, 2], old.weight[1, old.map_width :].unflatten(0, (3, -1))[1])
    assert torch.equal(new.weight[3, : new.map_width], old.weight[3 + 1, : old.map_width])


@torch.no_grad()
def test_adapters_that_answer_together_answer_as_alone():
    """Their regions are more than the base's: it finds its own among them."""
    model = get_peft_model(small_model(**GRIDS), DFNConfig(r=4, au_ids=[20, 12], emotions=list(EMOTIONS))).eval()
    regions = model.label_space.region_au_ids
    images = make_images(len(regions))
    alone = model(**images).au_logits
    wanted = list(dict.fromkeys([*regions, *AUS]))
    more = make_images(len(wanted))
    more["au_boxes"][:, : len(regions)] = images["au_boxes"]
    together = model.get_base_model().forward_adapters(["default", "base"], **more, au_ids=wanted)
    torch.testing.assert_close(together["default"].au_logits, alone)
    own = images_of(more, [wanted.index(au_id) for au_id in AUS])
    torch.testing.assert_close(together["base"].au_logits, small_model(**GRIDS)(**own).au_logits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"readout_grids": [2, 2]}, r"readout_grids is \[2, 2\]; it needs a number of cells"),
        ({"readout_grids": [0]}, r"readout_grids is \[0\]"),
        ({"readout_grids": [2], "freeze_vision": False}, "freeze_vision is False"),
        ({"readout_share": 1.5}, "readout_share is 1.5"),
    ],
)
def test_values_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        small_config(**fields)
