"""Vision towers of every kind, tiny and random, and the AU regions that are read from their maps."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align
from transformers import Blip2VisionConfig, Blip2VisionModel

from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2Model
from mf2.tower_mf2 import build_vision_tower, map_to_tokens, sample_regions, tokens_to_map

pytestmark = pytest.mark.dependencies

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
TIMM_VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 32], "depths": [1, 1, 1], "layer_type": "basic"}
BRANCH = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_query_tokens": 2,
}

# configuration, tokens of a 64 px image, levels, and the (width, side) of each level's map
TOWERS = {
    "vit": ({"model_type": "vit", **VIT}, 17, [-1, 1], [(32, 4), (32, 4)]),
    "dinov2": ({"model_type": "dinov2", **VIT}, 17, [1, -1], [(32, 4), (32, 4)]),
    "dinov3_vit": ({"model_type": "dinov3_vit", "num_register_tokens": 4, **VIT}, 21, [0, 2], [(32, 4), (32, 4)]),
    "clip": ({"model_type": "clip_vision_model", **VIT}, 17, [-1, 1], [(32, 4), (32, 4)]),
    "eva": ({"model_type": "blip_2_vision_model", **VIT}, 17, [-1, 1], [(32, 4), (32, 4)]),
    "resnet": ({"model_type": "resnet", **RESNET}, 16, [-1, 2], [(32, 4), (16, 8)]),
    "convnext": (
        {"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        4,
        [-1, 2, 3],
        [(32, 2), (16, 8), (24, 4)],
    ),
    "timm_vit": (
        {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": TIMM_VIT},
        17,
        [-1, 0],
        [(32, 4), (32, 4)],
    ),
    "timm_cnn": (
        {"model_type": "timm_wrapper", "architecture": "test_efficientnet"},
        4,
        [-1, 3],
        [(256, 2), (48, 4)],
    ),
    "timm_backbone_cnn": (
        {
            "model_type": "timm_backbone",
            "backbone": "test_efficientnet",
            "use_pretrained_backbone": False,
            "out_indices": [3, 4],
        },
        4,
        [-1, 0],
        [(64, 2), (48, 4)],
    ),
}


def small_config(vision: dict, **fields) -> MF2Config:
    return MF2Config(
        vision_config=vision,
        emo_config=BRANCH,
        au_config=BRANCH,
        au_ids=[1, 12],
        projection_dim=8,
        bos_token_id=49,
        eos_token_id=48,
        **fields,
    )


def faces(batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 64 px, and boxes for two AUs inside them."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(batch_size, 2, 2, 2, generator=generator) * 0.86
    return torch.randn(batch_size, 3, 64, 64, generator=generator), torch.cat([corners, corners + 0.14], dim=-1)


@pytest.fixture(params=TOWERS)
def tower_case(request):
    torch.manual_seed(0)
    vision, num_tokens, levels, maps = TOWERS[request.param]
    return MF2Model(small_config(vision, local_feature_levels=levels)), num_tokens, maps


# ----------------------------------------------------------------------------------------------------------- towers
def test_a_tower_feeds_both_branches(tower_case):
    model, num_tokens, maps = tower_case
    images, boxes = faces()
    vision = model.encode_vision(images)
    width = maps[0][0] if model.config.vision_width is None else model.config.vision_width
    assert model.emo.vision_layernorm.weight.shape == (width,)
    assert vision.tokens.shape == (2, num_tokens, width)
    assert [tuple(level.shape[1:]) for level in vision.maps] == [(width, side, side) for width, side in maps]
    tokens_of_a_region = len(maps) * 2 * model.config.au_region_grid**2
    assert model.encode_regions(vision, boxes).shape == (2, 2, tokens_of_a_region, width)
    outputs = model.eval()(images, boxes)
    assert outputs.au_logits.shape == (2, 2) and outputs.au_logits.isfinite().all()


def test_a_frozen_tower_is_outside_autograd_and_stays_in_evaluation_mode(tower_case):
    model, _, _ = tower_case
    model.train()
    assert model.emo.training and not any(module.training for module in model.vision_model.modules())
    images, boxes = faces()
    before = {name: tensor.clone() for name, tensor in model.vision_model.state_dict().items()}
    vision = model.encode_vision(images.clone().requires_grad_())
    assert [x.grad_fn for x in (vision.tokens, *vision.maps)] == [None] * (1 + len(vision.maps))
    model(images, boxes).emotion_logits.sum().backward()
    assert model.emo.vision_layernorm.weight.grad is not None
    assert not any(p.requires_grad or p.grad is not None for p in model.vision_model.parameters())
    after = model.vision_model.state_dict()  # running statistics included
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tower_survives_the_disk(tower_case, tmp_path):
    """timm's configurations are written in a form of their own."""
    model, _, _ = tower_case
    model.save_pretrained(tmp_path)
    again = MF2Model.from_pretrained(tmp_path)
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(weights[name], tensor)] == []
    ours, theirs = model.eval()(*faces()), again.eval()(*faces())
    torch.testing.assert_close(theirs.au_logits, ours.au_logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs.emotion_logits, ours.emotion_logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_an_unfrozen_tower_trains(name):
    torch.manual_seed(0)
    model = MF2Model(small_config(TOWERS[name][0], freeze_vision=False)).train()
    model(*faces()).au_logits.sum().backward()
    assert model.vision_model.training
    without = [name for name, p in model.vision_model.named_parameters() if p.grad is None]
    assert without == []


def test_levels_are_the_towers_hidden_states():
    torch.manual_seed(0)
    model = MF2Model(small_config(TOWERS["vit"][0], local_feature_levels=[1, -1])).eval()
    images, _ = faces()
    expected = model.vision_model(images, output_hidden_states=True)
    first, last = model.encode_vision(images).maps
    torch.testing.assert_close(first.flatten(2).transpose(1, 2), expected.hidden_states[1][:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), expected.last_hidden_state[:, 1:], rtol=0, atol=0)


def test_one_level_needs_no_projection_and_several_have_one_each():
    levels = {n: MF2Model(small_config(TOWERS["vit"][0], local_feature_levels=n)) for n in ((-1,), (-1, 0, 1))}
    assert not hasattr(levels[(-1,)], "level_projections")
    assert len(levels[(-1, 0, 1)].level_projections) == 3


def test_a_level_that_the_tower_lacks_is_named():
    with pytest.raises(ValueError, match="local_feature_levels holds 7; this tower has the levels 0 to 2"):
        MF2Model(small_config(TOWERS["vit"][0], local_feature_levels=[-1, 7]))


def test_a_width_that_only_the_built_tower_tells_is_checked():
    vision = TOWERS["timm_cnn"][0]
    config = small_config(vision)
    config.au_config.encoder_hidden_size = 100
    with pytest.raises(ValueError, match=r"au_config\.encoder_hidden_size is 100, but the vision tower gives 256"):
        MF2Model(config)


def test_evas_last_layernorm_is_each_branchs_own():
    """BLIP-2's `ln_vision` trains with the Q-Former, so the frozen tower must end before it."""
    torch.manual_seed(0)
    theirs = Blip2VisionModel(Blip2VisionConfig(**VIT)).eval()
    model = MF2Model(small_config({"model_type": "blip_2_vision_model", **VIT})).eval()
    missing = model.vision_model.load_state_dict(theirs.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert missing.unexpected_keys == ["post_layernorm.weight", "post_layernorm.bias"]
    images, _ = faces()
    expected = theirs(images).last_hidden_state
    model.emo.vision_layernorm.load_state_dict(theirs.post_layernorm.state_dict())
    torch.testing.assert_close(model.emo.vision_layernorm(model.encode_vision(images).tokens), expected)


def test_towers_are_built_without_poolers():
    tower = build_vision_tower(small_config(TOWERS["vit"][0]))
    assert not [name for name, _ in tower.named_parameters() if "pool" in name]


# -------------------------------------------------------------------------------------------------------- token maps
@pytest.mark.parametrize("num_prefix_tokens", [0, 1, 5])
@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 7), (14, 10), (10, 14), (16, 16)])
def test_tokens_lie_in_reading_order(rows, cols, num_prefix_tokens):
    values = torch.cat([torch.full((num_prefix_tokens,), -1.0), torch.arange(rows * cols).float()])
    feature_map = tokens_to_map(values[None, :, None], rows * 16, cols * 16)
    assert torch.equal(feature_map, torch.arange(rows * cols).float().view(1, 1, rows, cols))


def test_tokens_that_form_no_grid_are_refused():
    with pytest.raises(ValueError, match="30 vision tokens of a 64×640 image form no grid"):
        tokens_to_map(torch.zeros(1, 30, 8), 64, 640)


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov3_vit", "clip", "eva"])
def test_a_patch_stands_in_the_map_where_it_stands_in_the_image(name):
    """On images that are not square, where the tower takes them; level 0, the embeddings, has not mixed patches."""
    torch.manual_seed(0)
    size = (96, 96) if name in ("clip", "eva") else (64, 96)  # transformers has these two for square images only
    vision = {**TOWERS[name][0], "image_size": size if name == "vit" else 96}
    model = MF2Model(small_config(vision, local_feature_levels=[0])).eval()
    images = torch.zeros(1, 3, *size)
    changed = images.clone()
    changed[:, :, 16:32, 32:48] = 1.0
    before, after = (model.encode_vision(x).maps[0] for x in (images, changed))
    differs = (before != after).any(1)[0]
    assert differs.shape == (size[0] // 16, size[1] // 16)
    assert differs.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize(("width", "rows", "cols"), [(16, 3, 5), (10, 4, 4), (8, 1, 6)])
def test_tokens_of_a_convolutional_tower_know_where_they_are(width, rows, cols):
    """Normalised features plus sines and cosines of their row and column; channels that are over get none."""
    feature_map = torch.randn(2, width, rows, cols, generator=torch.Generator().manual_seed(0))
    tokens, waves = map_to_tokens(feature_map), width // 4
    for row in range(rows):
        for col in range(cols):
            position = []
            for place, count in ((row, rows), (col, cols)):
                angles = [math.pi * count ** (k / (waves - 1 or 1)) * (place + 0.5) / count for k in range(waves)]
                position += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            position += [0.0] * (width - len(position))
            features = feature_map[:, :, row, col]
            normalised = (features - features.mean(1, keepdim=True)) / features.std(1, correction=0, keepdim=True)
            expected = normalised + torch.tensor(position)
            torch.testing.assert_close(tokens[:, row * cols + col], expected, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- regions
def sample_by_hand(feature_map: np.ndarray, box: np.ndarray, grid_size: int) -> np.ndarray:
    """One box of one map `(W, h, w)`, value by value: the four neighbours of each sample, edges repeated."""
    _, height, width = feature_map.shape
    x1, y1, x2, y2 = box
    samples = []
    for row in range(grid_size):
        for col in range(grid_size):
            x = (x1 + (x2 - x1) * (col + 0.5) / grid_size) * width - 0.5
            y = (y1 + (y2 - y1) * (row + 0.5) / grid_size) * height - 0.5
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            upper = feature_map[:, top, left] * (1 - x + left) + feature_map[:, top, right] * (x - left)
            lower = feature_map[:, bottom, left] * (1 - x + left) + feature_map[:, bottom, right] * (x - left)
            samples.append(upper * (1 - y + top) + lower * (y - top))
    return np.stack(samples)


@pytest.fixture
def map_and_boxes():
    """A map that is not square; boxes inside, at every border, over the whole image, and narrower than a cell."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(8, 2, generator=generator) * 0.8
    inside = torch.cat([corners, corners + 0.14], dim=1)
    border = torch.tensor([[0, 0, 0.14, 0.14], [0.86, 0.86, 1, 1], [0, 0.5, 0.14, 0.64], [0.3, 0, 0.44, 0.14]])
    other = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.2, 0.51, 0.9]])
    boxes = torch.cat([inside, border, other])
    return torch.randn(2, 6, 5, 9, generator=generator), torch.stack([boxes, boxes.flip(0)])


@pytest.fixture(params=[False, True], ids=["eager", "exporting"])
def is_exporting(request, monkeypatch):
    """Whether the samples are those of exported graphs."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: request.param)


@pytest.mark.usefixtures("is_exporting")
@pytest.mark.parametrize("grid_size", [1, 2, 3])
def test_regions_are_roi_align_with_one_sample_a_cell(map_and_boxes, grid_size):
    feature_map, boxes = map_and_boxes
    height, width = feature_map.shape[-2:]
    in_cells = boxes * torch.tensor([width, height, width, height])
    expected = roi_align(feature_map, list(in_cells), grid_size, sampling_ratio=1, aligned=True)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, boxes.shape[:2])  # (B, K, g², W)
    torch.testing.assert_close(sample_regions(feature_map, boxes, grid_size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("is_exporting")
def test_regions_are_the_neighbours_weighed(map_and_boxes):
    feature_map, boxes = map_and_boxes
    sampled = sample_regions(feature_map, boxes, 3)
    for b in range(len(boxes)):
        for k, box in enumerate(boxes[b].double().numpy()):
            expected = torch.tensor(sample_by_hand(feature_map[b].double().numpy(), box, 3)).float()
            torch.testing.assert_close(sampled[b, k], expected, rtol=1e-5, atol=1e-5)


def test_a_box_beyond_the_map_reads_its_border(map_and_boxes, monkeypatch):
    feature_map, boxes = map_and_boxes
    beyond = boxes * 1.5 - 0.25
    expected = sample_regions(feature_map, beyond, 3)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(sample_regions(feature_map, beyond, 3), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("is_exporting")
def test_regions_in_bf16_and_under_autocast(map_and_boxes):
    """`grid_sample` has no bf16 kernel on the CPU."""
    feature_map, boxes = map_and_boxes
    expected = sample_regions(feature_map, boxes, 3)
    with torch.autocast("cpu", torch.bfloat16):
        sampled = sample_regions(feature_map.bfloat16(), boxes, 3)
        torch.testing.assert_close(sample_regions(feature_map, boxes, 3), expected, rtol=0, atol=0)
    assert sampled.dtype == torch.bfloat16
    torch.testing.assert_close(sampled.float(), expected, rtol=0.02, atol=0.02)


def test_a_region_token_is_the_map_under_its_box():
    """Both centres of an AU, in order, each a grid of samples; levels side by side."""
    torch.manual_seed(0)
    model = MF2Model(small_config(TOWERS["resnet"][0])).eval()
    images, boxes = faces()
    vision = model.encode_vision(images)
    regions = model.encode_regions(vision, boxes)
    for au in range(2):
        for centre in range(2):
            expected = sample_regions(vision.maps[0], boxes[:, au, centre][:, None], 3)[:, 0]
            tokens = regions[:, au, centre * 9 : (centre + 1) * 9]
            torch.testing.assert_close(tokens, expected, rtol=0, atol=0)


def test_levels_of_a_region_lie_side_by_side():
    torch.manual_seed(0)
    model = MF2Model(small_config(TOWERS["resnet"][0], local_feature_levels=[-1, 2])).eval()
    images, boxes = faces()
    vision = model.encode_vision(images)
    regions = model.encode_regions(vision, boxes)
    for index, projection in enumerate(model.level_projections):
        expected = projection(sample_regions(vision.maps[index], boxes.flatten(1, 2), 3)).unflatten(1, (2, 2))
        tokens = regions[:, :, index * 18 : (index + 1) * 18]
        torch.testing.assert_close(tokens, expected.flatten(2, 3), rtol=0, atol=0)


@pytest.mark.parametrize("boxes", [None, torch.rand(2, 3, 2, 4), torch.rand(1, 2, 2, 4)])
def test_missing_or_misshapen_boxes_are_named(boxes):
    model = MF2Model(small_config(TOWERS["resnet"][0]))
    shape = None if boxes is None else tuple(boxes.shape)
    with pytest.raises(ValueError) as refusal:
        model(faces()[0], boxes)
    assert f"au_boxes has shape {shape}; the local branch needs (2, 2, 2, 4)" in str(refusal.value)


# --------------------------------------------------------------------------------------------------------- attention
@pytest.mark.parametrize(("tower", "of_the_tower"), [({"model_type": "resnet", **RESNET}, "eager"), (None, "sdpa")])
def test_an_attention_is_asked_of_those_parts_that_have_one(tower, of_the_tower):
    """A convolutional tower refuses every implementation but the default; asking the whole model must not fail."""
    tower = tower or {"model_type": "vit", **VIT}
    config = MF2Config(
        vision_config=tower, emo_config=BRANCH, au_config=BRANCH, bos_token_id=49, eos_token_id=3, au_ids=[1]
    )
    model = MF2Model._from_config(config, attn_implementation="sdpa")
    assert model.config._attn_implementation == "sdpa"
    assert model.vision_model.config._attn_implementation == of_the_tower
