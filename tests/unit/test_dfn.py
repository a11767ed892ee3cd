"""DFN's arithmetic: counts, equations, gradients, label spaces, and what it refuses."""

import dataclasses
import math
from contextlib import ExitStack

import pytest
import torch
from peft import PeftModel, get_peft_model
from small_adapters import (
    AUS,
    DISFA,
    EMOTIONS,
    RAF_DB,
    adapted,
    make_batch,
    make_images,
    make_labels,
    make_texts,
    side_of,
    small_model,
    watch_states,
)

from mf2.configuration_mf2 import MF2Config
from mf2.labels_mf2 import AU_IDS
from mf2.modeling_mf2 import MF2ForPreTraining, MF2Model
from mf2.peft_dfn import DFNConfig, DFNLayer, SideTower, kept_layers

KEPT = {(5, 7): [0, 1, 2, 3, 4], (4, 7): [0, 1, 2, 3], (5, 3): [0, 2, 4], (4, 3): [0, 2, 3], (5, 1): [4], (4, 1): [3]}
"""Which of a branch's states a tower reads, by their number and `num_kept_states`."""


# -------------------------------------------------------------------------------------------------------------- counts
@pytest.fixture(scope="module")
def base_size() -> PeftModel:
    """The adapter with its defaults on the default model, without memory."""
    with torch.device("meta"):
        return get_peft_model(MF2Model(MF2Config.from_size("base")), DFNConfig())


def count(model, part: str = "") -> int:
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and part in name)


def test_the_default_has_28_cells_and_gates(base_size):
    """4 towers of 7 cells, of 2 · 768 · r + r + 768 parameters each, and a gate a cell."""
    assert count(base_size, "towers.") == 28 * (2 * 768 * 64 + 64 + 768) + 28 == 2_775_836
    assert sum(".cells." in name and name.endswith("down.weight") for name, _ in base_size.named_parameters()) == 28


def test_nothing_but_towers_and_recognisers_is_trained(base_size):
    """As many as the base's recognisers have."""
    recognisers = sum(p.numel() for p in base_size.get_base_model().recognizers.base_layer.parameters())
    assert count(base_size) == 2_775_836 + recognisers == count(base_size, "dfn_sides")
    assert count(base_size, "joint_view") > 64 * 768


def test_the_papers_count_needs_the_parameters_around_the_encoders():
    """52.88 M is met by r = 72 with everything but the encoders trainable too, which no loss of DFN would reach."""
    with torch.device("meta"):
        branch = MF2Model(MF2Config.from_size("paper", use_au_vl=False)).emo
        tower = SideTower(768, 7, DFNConfig(r=72))
    around = sum(p.numel() for name, p in branch.named_parameters() if not name.startswith("qformer.encoder."))
    side = 4 * sum(p.numel() for p in tower.parameters())
    assert (around, side) == (24_881_726, 28 * (2 * 768 * 72 + 72 + 768) + 28)
    assert 2 * around + side == 52_883_576


# ----------------------------------------------------------------------------------------------------------- equations
def slow_tower(tower, states: list[torch.Tensor], config: DFNConfig) -> torch.Tensor:
    """A tower's recurrence, cell by cell, over the vectors that a branch left after its layers."""
    hidden = torch.zeros_like(states[0])
    kept = KEPT[len(states), config.num_kept_states]
    for j, layer in enumerate(kept):
        gate = 0.5
        if config.use_gates:
            gate = 1 / (1 + math.exp(-tower.gates[j].item() / config.gate_temperature))
        state = states[layer]
        if config.start == "base":
            state = (state - state.mean()) / (state.var(correction=0) + 1e-5).sqrt()
        u = gate * state + (1 - gate) * hidden
        down, up = tower.cells[j].down, tower.cells[j].up
        inner = down.weight @ u + down.bias
        inner = inner.clamp(min=0) if config.activation == "relu" else 1 / (1 + torch.exp(-inner))
        is_added_to_the_last = config.start == "base" and j == len(kept) - 1
        hidden = (states[-1] if is_added_to_the_last else u) + up.weight @ inner + up.bias
    return hidden


def seen_states(model: MF2Model, images: dict[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """By branch, `(rows, Q, D)` of the image pass's embeddings and after each of its layers."""
    with ExitStack() as watched:
        states = {name: watched.enter_context(watch_states(branch)) for name, branch in model.branches.items()}
        model.encode_branches(**images)
    return states


@torch.no_grad()
def slow_forward(model: PeftModel, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Logits, image by image and AU by AU."""
    base, side = model.get_base_model(), side_of(model)
    modality = "image" if side.config.decoupled else "shared"
    seen = seen_states(base, images)
    logits = {"au_logits": [], "emotion_logits": []}
    for image in range(len(images["pixel_values"])):
        ends = {}
        for name, states in seen.items():
            num_views = len(states[0]) // len(images["pixel_values"])
            ends[name] = [
                slow_tower(
                    side.towers[f"{name}_{modality}"],
                    [layer[image * num_views + k].mean(0) for layer in states],
                    side.config,
                )
                for k in range(num_views)
            ]
        local = ends.get("au", [])
        face = ends.get("emo", [])
        of_base = local[: len(side.config.base_region_au_ids or local)]
        mean_local = [sum(of_base) / len(of_base)] if local else []
        if hasattr(side, "emotion_head"):
            read = torch.cat([*face, *mean_local])
            logits["emotion_logits"].append(side.emotion_head.weight @ read + side.emotion_head.bias)
        if hasattr(side, "au_head"):
            own = [local[base.label_space.region_au_ids.index(a)] for a in base.label_space.au_ids] if local else []
            joined = [torch.cat([*own[i : i + 1], *face]) for i in range(len(side.au_head.bias))]
            rows = zip(side.au_head.weight, side.au_head.bias, joined, strict=True)
            logits["au_logits"].append(torch.stack([weight @ read + bias for weight, bias, read in rows]))
    logits = {name: torch.stack(rows) for name, rows in logits.items() if rows}
    if side.config.start == "base":
        add_the_bases(logits, model, seen, len(images["pixel_values"]))
    return logits


def add_the_bases(logits, model: PeftModel, seen: dict[str, list[torch.Tensor]], num_images: int) -> None:
    """Of a known label the base's logit, of a new AU that of the nearest, of a new emotion 0."""
    pooled = {
        name: torch.stack(states, 1).mean(2).unflatten(0, (num_images, -1))[:, : len(AUS)]
        for name, states in seen.items()
    }
    of_base = model.get_base_model().recognizers.base_layer(pooled)
    for column, au_id in enumerate(model.label_space.au_ids):
        nearest = {2: 1, 4: 1, 6: 12, 9: 12, 20: 12, 25: 12, 26: 12}.get(au_id, au_id)
        logits["au_logits"][:, column] += of_base.au_logits[:, AUS.index(nearest)]
    for column, emotion in enumerate(model.label_space.emotions):
        if emotion in EMOTIONS:
            logits["emotion_logits"][:, column] += of_base.emotion_logits[:, EMOTIONS.index(emotion)]


VARIANTS = {
    "default": {},
    "sigmoid": {"activation": "sigmoid"},
    "another temperature": {"gate_temperature": 0.7},
    "gates off": {"use_gates": False},
    "image cells only": {"text_cells": False, "alignment_weight": 0},
    "shared cells": {"decoupled": False},
    "three kept states": {"num_kept_states": 3},
    "one kept state": {"num_kept_states": 1},
    "from nothing": {"start": "nothing"},
    "from nothing, shared cells": {"start": "nothing", "decoupled": False, "use_gates": False},
    "fewer, other and new AUs": {"au_ids": [20, 15, 1], "emotions": ["Anger", "Joy", "Awe", "Neutral"]},
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_the_forward_pass_is_the_equations(fields):
    model = adapted(**fields)
    images = make_images(len(model.label_space.region_au_ids))
    expected = slow_forward(model, images)
    outputs = model(**images)
    assert expected["au_logits"].shape == (3, 3) and expected["emotion_logits"].shape == (3, 4)
    for name, values in expected.items():
        torch.testing.assert_close(outputs[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branch", ["use_emo_vl", "use_au_vl"])
def test_one_branch_alone(branch):
    model = adapted(small_model(**{branch: False}))
    expected = slow_forward(model, make_images())
    outputs = model(**make_batch())
    for name, values in expected.items():
        torch.testing.assert_close(outputs[name], values, rtol=1e-5, atol=1e-5)
    on = {"use_emo_vl": "au", "use_au_vl": "emo"}[branch]
    assert set(outputs.losses) == {"emotion", "au", f"{on}_itc"}
    assert {name.split("_")[0] for name in side_of(model).towers} == {on}


@pytest.mark.parametrize(
    ("layers", "kept", "expected"), [(13, 7, [0, 2, 4, 6, 8, 10, 12]), (25, 7, [*range(0, 25, 4)])]
)
def test_kept_states_are_evenly_spaced(layers, kept, expected):
    assert kept_layers(layers, kept) == expected


@pytest.mark.parametrize(("sizes", "expected"), KEPT.items())
def test_kept_states_of_few(sizes, expected):
    """One is the last, which has seen the image; of fewer than wanted all are kept, each once."""
    assert kept_layers(*sizes) == expected


def test_towers_start_near_the_gated_states_and_gates_in_the_middle():
    model = get_peft_model(small_model(), DFNConfig(r=4))
    for tower in side_of(model).towers.values():
        assert tower.gates.tolist() == [0] * len(tower.cells)
        for cell in tower.cells:
            assert cell.down.bias.abs().max() == cell.up.bias.abs().max() == 0
            assert 0.005 < cell.down.weight.std() < 0.02


def test_towers_by_modality():
    def towers(**fields):
        return set(side_of(adapted(**fields)).towers)

    assert towers() == {"emo_image", "emo_text", "au_image", "au_text"}
    assert towers(decoupled=False) == {"emo_shared", "au_shared"}
    assert towers(text_cells=False, alignment_weight=0) == {"emo_image", "au_image"}


# -------------------------------------------------------------------------------------------------------------- losses
def slow_itc(images: torch.Tensor, texts: torch.Tensor, valid: torch.Tensor, space, smoothing: float) -> torch.Tensor:
    """Eq. 3 of `(I, D)` ends and `(I, D)` ends of texts, all different: both directions over the images with text."""
    rows = valid.nonzero().flatten().tolist()
    image_embeds = torch.nn.functional.normalize(space.vision_projection(images[rows]), dim=-1)
    text_embeds = torch.nn.functional.normalize(space.text_projection(texts[rows]), dim=-1)
    to_text = image_embeds @ text_embeds.T / space.temperature.item()
    to_image = to_text.T
    losses = []
    for logits in (to_text, to_image):
        log_probs = logits.log_softmax(-1)
        for i in range(len(rows)):
            target = torch.full((len(rows),), smoothing / len(rows))
            target[i] += 1 - smoothing
            losses.append(-(target * log_probs[i]).sum())
    return torch.stack(losses).sum() / 2


@pytest.mark.parametrize("fields", [{}, {"decoupled": False}], ids=["decoupled", "shared"])
@torch.no_grad()
def test_the_alignment_loss_is_itc_of_the_towers_ends(fields):
    model, batch = adapted(**fields), make_batch()
    base, side = model.get_base_model(), side_of(model)
    text_tower = "text" if side.config.decoupled else "shared"
    image_tower = "image" if side.config.decoupled else "shared"
    seen, losses = seen_states(base, make_images()), model(**batch).losses
    for name, prefix in (("emo", ""), ("au", "au_")):
        branch = base.branches[name]
        ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
        ids, mask = (x if x.ndim == 3 else x[:, None] for x in (ids, mask))
        num_views = ids.shape[1]
        totals, num_valid = [], 0
        for k in range(num_views):
            valid = mask[:, k].any(-1)
            text_ends, image_ends = [], []
            for image in range(len(ids)):
                length = max(int(mask[image, k].sum()), 1)
                with watch_states(branch) as states:
                    branch.encode_text(ids[image : image + 1, k, :length], torch.ones(1, length))
                text_ends.append(
                    slow_tower(side.towers[f"{name}_{text_tower}"], [s[0, 0] for s in states], side.config)
                )
                pooled = [s[image * num_views + k].mean(0) for s in seen[name]]
                image_ends.append(slow_tower(side.towers[f"{name}_{image_tower}"], pooled, side.config))
            totals.append(slow_itc(torch.stack(image_ends), torch.stack(text_ends), valid, branch, 0.1))
            num_valid += int(valid.sum())
        torch.testing.assert_close(losses[f"{name}_itc"], sum(totals) / num_valid, rtol=1e-4, atol=1e-5)


def test_the_loss_weighs_the_task_and_the_alignment():
    model = adapted(alignment_weight=0.3, emotion_weight=2, au_weight=0.5)
    outputs = model(**make_batch())
    parts = outputs.losses
    assert set(parts) == {"emotion", "au", "emo_itc", "au_itc"}
    expected = 2 * parts["emotion"] + 0.5 * parts["au"] + 0.3 * (parts["emo_itc"] + parts["au_itc"])
    torch.testing.assert_close(outputs.loss, expected)


def test_the_task_losses_mask_what_is_unlabelled():
    model = adapted(au_pos_weight=[2.0, 1.0, 0.5])
    outputs = model(**make_images(), **make_labels())
    labels = make_labels()
    known = labels["emotion_labels"] >= 0
    emotion = torch.nn.functional.cross_entropy(outputs.emotion_logits[known], labels["emotion_labels"][known])
    torch.testing.assert_close(outputs.losses["emotion"], emotion)
    terms = []
    for row, column in (labels["au_labels"] >= 0).nonzero().tolist():
        probability = torch.sigmoid(outputs.au_logits[row, column])
        weight = (2.0, 1.0, 0.5)[column]
        is_active = labels["au_labels"][row, column] == 1
        terms.append(-weight * probability.log() if is_active else -(1 - probability).log())
    torch.testing.assert_close(outputs.losses["au"], torch.stack(terms).mean())


def test_without_labels_and_texts_there_is_no_loss():
    assert adapted()(**make_images()).loss is None


def test_pre_training_losses_are_not_an_adapters():
    """The branches are frozen: of the model's own losses none is left, and the adapter's are those of `MF2Model`."""
    torch.manual_seed(0)
    trained, plain = adapted(small_model(MF2ForPreTraining)), adapted(small_model())
    ours, theirs = trained(**make_batch()), plain(**make_batch())
    assert set(ours.losses) == {"emotion", "au", "emo_itc", "au_itc"}
    torch.testing.assert_close(ours.loss, theirs.loss)


# ----------------------------------------------------------------------------------------------------------- gradients
def gradients(model: PeftModel, batch: dict[str, torch.Tensor]) -> dict[str, bool]:
    """By parameter, whether a step would move it."""
    model.train()
    model(**batch).loss.backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_text_towers_learn_exactly_when_they_are_aligned(weight):
    moved = gradients(adapted(alignment_weight=weight), make_batch())
    text = {name: value for name, value in moved.items() if "_text." in name}
    image = {name: value for name, value in moved.items() if "_image." in name}
    assert len(text) == len(image) == 2 * 1 + (5 + 4) * 4
    assert set(text.values()) == {weight > 0}
    assert all(image.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_upstream_is_differentiated(checkpointing):
    model = adapted()
    if checkpointing:
        model.activation_checkpointing_enable()
    moved = gradients(model, make_batch())
    assert {name for name, value in moved.items() if value} == {name for name in moved if "dfn_sides" in name}
    assert not any(p.requires_grad for name, p in model.named_parameters() if "dfn_sides" not in name)


def test_nothing_upstream_is_differentiated_though_it_asks_for_gradients():
    """A base that is not frozen (someone switched it on): the towers detach what they read."""
    model = adapted()
    model.get_base_model().emo.requires_grad_(True)
    moved = gradients(model, make_images() | make_labels())
    assert not any(value for name, value in moved.items() if "dfn_sides" not in name)


def test_gradients_are_those_without_checkpointing():
    plain, checkpointed = adapted(), adapted()
    checkpointed.activation_checkpointing_enable()
    for model in (plain, checkpointed):
        gradients(model, make_batch())
    for (name, ours), theirs in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad), name


# -------------------------------------------------------------------------------------------------------- label spaces
def test_the_label_space_is_the_bases_unless_given():
    base = small_model(au_thresholds=[0.2, 0.5, 0.7])
    model = adapted(base)
    assert model.label_space == base.config.label_space
    assert model.peft_config["default"].au_thresholds == [0.2, 0.5, 0.7]


def test_own_thresholds_of_the_bases_aus():
    assert adapted(au_thresholds=[0.3, 0.4, 0.6]).label_space.thresholds == (0.3, 0.4, 0.6)


def test_unknown_aus_look_with_the_nearest_ones_embedding():
    """14 and 20 lie where 12 lies; 12 keeps its own, whatever its place."""
    model = adapted(au_ids=[14, 12, 20, 1], emotions=[], start="nothing")
    branch = model.get_base_model().au
    rows = [AUS.index(au_id) for au_id in (12, 12, 12, 1)]
    expected = branch.query_tokens + branch.au_embeddings.weight[rows][:, None]
    assert torch.equal(branch.query_embeds((14, 12, 20, 1)), expected)
    images = make_images(4)
    images["au_boxes"][:, 1] = images["au_boxes"][:, 0]
    states = model(**images).au_states
    torch.testing.assert_close(states[:, 0], states[:, 1])
    assert not torch.allclose(states[:, 0], states[:, 2])
    assert model(**images).au_logits.shape == (3, 4)


def test_emotions_only():
    """The regions are then the 12 of MFA: where to look is not what is asked. An adapter that starts at its base looks
    where the base does."""
    assert adapted(au_ids=[], emotions=RAF_DB).label_space.region_au_ids == AUS
    model = adapted(au_ids=[], emotions=RAF_DB, start="nothing")
    assert model.label_space.region_au_ids == AU_IDS
    outputs = model(**make_images(12), **make_labels(0, 4))
    assert outputs.au_logits is None and outputs.emotion_logits.shape == (3, 7)
    assert set(outputs.losses) == {"emotion"}
    assert slow_forward(model, make_images(12))["emotion_logits"].shape == (3, 7)


def test_aus_only():
    model = adapted(au_ids=DISFA, emotions=[])
    images = make_images(9)  # AU15, which the base looks at, beside them
    outputs = model(**images, **make_labels(8, 0))
    assert outputs.au_states.shape[1] == outputs.au_embeds.shape[1] == 8
    assert outputs.emotion_logits is None and outputs.au_logits.shape == (3, 8)
    assert set(outputs.losses) == {"au"}
    torch.testing.assert_close(outputs.au_logits, slow_forward(model, images)["au_logits"])


def test_regions_of_other_aus_are_refused():
    with pytest.raises(ValueError, match=r"au_boxes has shape \(3, 3, 2, 4\).*AUs 1, 12, 15, 2, 4.*for_label_spaces"):
        adapted(au_ids=DISFA)(**make_images(3))


# ------------------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, r"r is 0; it must be at least 1"),
        ({"num_kept_states": 0}, r"num_kept_states is 0; it must be at least 1"),
        ({"gate_temperature": 0.0}, r"gate_temperature is 0.0; it must be above 0"),
        ({"start": "middle"}, r"start is 'middle'; choose one of base, nothing"),
        ({"activation": "gelu"}, r"activation is 'gelu'; choose one of relu, sigmoid"),
        ({"alignment_weight": -0.1}, r"alignment_weight is -0.1; it must be at least 0"),
        ({"emotion_weight": -1}, r"emotion_weight is -1; it must be at least 0"),
        ({"au_weight": -1}, r"au_weight is -1; it must be at least 0"),
        ({"label_smoothing": 1.5}, r"label_smoothing is 1.5; it must be at most 1"),
        ({"text_cells": False}, r"alignment_weight is 0.1 and text_cells is False.*set alignment_weight to 0"),
        ({"au_ids": [1, 3]}, r"3"),
        ({"au_ids": [1, 1]}, r"au_ids has duplicates: \[1, 1\]"),
        ({"emotions": ["Joy", "Joy"]}, r"emotions has duplicates"),
        ({"au_ids": [1, 2], "au_thresholds": [0.5]}, r"1 thresholds for 2 AUs; give one each"),
        ({"au_ids": [1], "au_thresholds": [1.0]}, r"threshold of AU1 is 1.0; it must lie between 0 and 1"),
        ({"au_ids": [1, 2], "au_pos_weight": [1.0]}, r"au_pos_weight has 1 values for 2 AUs"),
        ({"au_ids": [], "emotions": []}, r"au_ids and emotions are both empty.*give one"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        DFNConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"au_thresholds": [0.5]}, r"1 thresholds for 3 AUs; give one each"),
        ({"au_pos_weight": [1.0]}, r"au_pos_weight has 1 values for 3 AUs"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_there(fields, message):
    """The AUs are the base's, so it shows when the adapter meets it."""
    config = DFNConfig(**fields)
    with pytest.raises(ValueError, match=message):
        get_peft_model(small_model(), config)


def test_every_field_has_help():
    own = {field.name for field in dataclasses.fields(DFNConfig)} - {
        field.name for field in dataclasses.fields(DFNConfig.__mro__[1])
    }
    assert all(field.metadata.get("help") for field in dataclasses.fields(DFNConfig) if field.name in own)


# ------------------------------------------------------------------------------------------------------------ refusals
def test_only_mf2_models_are_adapted():
    from transformers import ViTConfig, ViTModel

    vit = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match=r"DFN adapts MF² models; this one is of the type 'vit'"):
        get_peft_model(vit, DFNConfig())


def test_merging_is_refused_with_the_reason():
    model = adapted()
    layer = model.get_base_model().recognizers
    assert isinstance(layer, DFNLayer)
    for merge in (model.merge_adapter, model.merge_and_unload, model.unmerge_adapter, layer.merge, layer.unmerge):
        with pytest.raises(NotImplementedError, match=r"cannot be merged: its towers compute beside.*unload"):
            merge()


def test_two_active_adapters_are_refused_with_the_remedy():
    model = adapted(adapted(name="a"), name="b")
    model.base_model.set_adapter(["a", "b"])
    with pytest.raises(ValueError, match=r"'a', 'b' are active.*forward_adapters\(\['a', 'b'\], …\)"):
        model(**make_images())


def test_the_checkpoints_own_name_is_taken():
    with pytest.raises(ValueError, match=r"cannot be called 'base'.*choose another"):
        adapted(name="base")


def test_an_unknown_adapter_is_named_with_those_that_are_loaded():
    with pytest.raises(ValueError, match=r"No adapter is called 'c'; loaded are 'base', 'default'"):
        adapted().forward_adapters(["c"], **make_images())


def test_texts_are_read_only_by_an_adapter_that_is_aligned():
    batch = make_images() | make_labels()
    without = adapted(alignment_weight=0.0)(**batch, **make_texts())
    assert set(without.losses) == {"emotion", "au"}
