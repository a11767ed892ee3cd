"""Parameter counts of the named sizes, on the meta device: nothing is allocated.

Table IV of the paper trains 186.7 M parameters with one branch and 373.4 M with both. Those are stage-1 branches of
BLIP-2 on a frozen EVA ViT-g/14, before the recognisers and the embeddings of AUs and places in a region.
"""

from functools import cache

import pytest
import torch

from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2Model

PARTS_AT_PAPER_SIZE = {
    "embeddings.word_embeddings": 23_441_664,
    "embeddings.position_embeddings": 393_216,
    "qformer.layernorm": 1_536,
    "attention.": 28_366_848,
    "crossattention.": 20_081_664,
    "text FFN": 56_687_616,
    "query FFN": 56_687_616,
    "lm_head.bias": 30_523,
    "lm_head": 592_128,
    "query_tokens": 24_576,
    "vision_projection": 196_864,
    "text_projection": 196_864,
    "itm_head": 1_538,
    "temperature": 1,
    "vision_layernorm": 2_816,
}


@cache
def model_of(size: str) -> MF2Model:
    with torch.device("meta"):
        return MF2Model(MF2Config.from_size(size))


def trainable(module: torch.nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in module.named_parameters() if p.requires_grad}


def part_of(name: str) -> str:
    """The row of `PARTS_AT_PAPER_SIZE` that a branch's parameter counts for."""
    if name.startswith("qformer.encoder."):
        block = name.split(".")[4]  # qformer.encoder.layer.N.block
        if block.startswith(("intermediate", "output")):
            return "query FFN" if block.endswith("_query") else "text FFN"
        return f"{block}."
    return next(part for part in PARTS_AT_PAPER_SIZE if name.startswith(part))


@pytest.mark.parametrize(
    ("size", "one_branch", "local_branch"),
    [("paper", 186_705_470, 186_740_030), ("base", 180_805_950, 180_828_990)],
)
def test_trainable_parameters(size, one_branch, local_branch):
    model = model_of(size)
    of_face, of_aus = trainable(model.emo), trainable(model.au)
    assert sum(of_aus.values()) == local_branch
    embeddings = {name: of_aus.pop(name) for name in ("au_embeddings.weight", "region_embeddings.weight")}
    assert sum(of_face.values()) == sum(of_aus.values()) == one_branch
    assert embeddings["au_embeddings.weight"] == 12 * 768
    recognisers = sum(trainable(model.recognizers).values())
    assert sum(trainable(model).values()) == 2 * one_branch + sum(embeddings.values()) + recognisers
    assert {"paper": 373_410_940, "base": 361_611_900}[size] == 2 * one_branch


def test_where_the_paper_sized_branch_has_them():
    counts = dict.fromkeys(PARTS_AT_PAPER_SIZE, 0)
    for name, count in trainable(model_of("paper").emo).items():
        counts[part_of(name)] += count
    assert counts == PARTS_AT_PAPER_SIZE


@pytest.mark.parametrize("size", ["paper", "base"])
def test_only_the_frozen_tower_does_not_train(size):
    model = model_of(size)
    assert not trainable(model.vision_model)
    parts = {name.split(".")[0] for name in trainable(model)}
    assert parts == {"emo", "au", "recognizers"}
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"vision_model"}


def test_the_tiny_tower_trains():
    model = model_of("tiny")
    assert len(trainable(model)) == len(list(model.parameters()))


@pytest.mark.parametrize(("switch", "left"), [("use_emo_vl", "au"), ("use_au_vl", "emo")])
def test_a_branch_that_is_off_has_no_parameters(switch, left):
    with torch.device("meta"):
        model = MF2Model(MF2Config.from_size("base", **{switch: False, "joint_width": 0}))
    assert list(model.branches) == [left]
    assert {name.split(".")[0] for name in trainable(model)} == {left, "recognizers"}
    assert model.recognizers.au_head.weight.shape == (12, 768)
