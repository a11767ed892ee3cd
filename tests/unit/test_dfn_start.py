"""An untrained adapter says what its base says, bit for bit; one from before that says what it said."""

import json

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel, get_peft_model
from small_adapters import AUS, EMOTIONS, adapted, make_batch, make_images, small_model

from mf2.peft_dfn import DFNConfig

BASES = {
    "linear heads": {},
    "joint view": {"joint_width": 8, "recognition_dropout": 0.4},
    "global branch": {"use_au_vl": False, "joint_width": 8},
    "local branch": {"use_emo_vl": False, "joint_width": 8},
    "places": {"joint_width": 8, "joint_places": True},
    "linear readout": {"readout_grids": [2], "joint_width": 8},
    "mirror images": {"mirror_emotions": True, "mirror_aus": True},
    "other thresholds": {"au_thresholds": [0.2, 0.3, 0.7]},
}
SPACES = {
    "the same": {},
    "fewer AUs": {"au_ids": [15, 1]},
    "new AUs": {"au_ids": [20, 12, 2, 15, 1]},
    "no AUs": {"au_ids": []},
    "other emotions": {"emotions": ["Sadness", "Awe", "Neutral"]},
    "AUs only": {"emotions": [], "au_ids": [1, 12, 15, 17]},
}
NEAREST = {20: 12, 2: 1, 17: 12}
TOWERS = [{}, {"use_gates": False}, {"decoupled": False}, {"num_kept_states": 1}, {"activation": "sigmoid"}]


@torch.no_grad()
def answers(model, num_aus: int | None = None):
    return model(**make_images(num_aus or len(model.label_space.region_au_ids)))


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_an_untrained_adapter_answers_as_its_base(base, space):
    expected = answers(small_model(**base))
    model = get_peft_model(small_model(**base), DFNConfig(r=4, **space)).eval()
    outputs = answers(model)
    for column, au_id in enumerate(model.label_space.au_ids):
        theirs = AUS.index(NEAREST.get(au_id, au_id))
        assert torch.equal(outputs.au_logits[:, column], expected.au_logits[:, theirs])
        assert model.label_space.thresholds[column] == small_model(**base).label_space.thresholds[theirs]
    emotions = model.label_space.emotions
    for name in set(emotions) & set(EMOTIONS):
        ours, theirs = emotions.index(name), EMOTIONS.index(name)
        assert torch.equal(outputs.emotion_logits[:, ours], expected.emotion_logits[:, theirs])


@pytest.mark.parametrize("towers", TOWERS)
def test_whatever_its_towers(towers):
    base = {"joint_width": 8}
    model = get_peft_model(small_model(**base), DFNConfig(r=4, **towers)).eval()
    for name in ("au_logits", "emotion_logits"):
        assert torch.equal(answers(model)[name], answers(small_model(**base))[name])


def test_dropout_of_the_base_is_not_its_answer():
    """Nor is it left in another mode."""
    base = small_model(joint_width=8, recognition_dropout=0.5)
    expected = answers(base)
    model = get_peft_model(base, DFNConfig(r=4)).train()
    outputs = answers(model)
    assert torch.equal(outputs.au_logits, expected.au_logits)
    assert model.get_base_model().recognizers.base_layer.training


def test_after_a_few_steps_everything_has_moved():
    model = get_peft_model(small_model(joint_width=8), DFNConfig(r=4, activation="sigmoid"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(**make_batch()).loss.backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[name])]
    assert still == []


def test_a_base_whose_weights_are_elsewhere_is_started_from():
    base = small_model(joint_width=8)
    expected = answers(base)
    model = get_peft_model(base, DFNConfig(r=4)).eval()
    cpu_offload(model)
    assert torch.equal(answers(model).au_logits, expected.au_logits)


def test_an_adapter_from_before_answers_as_it_did(tmp_path):
    """Its file has neither a start nor the base's regions."""
    model = adapted(small_model(joint_width=8), start="nothing", au_ids=[1, 2, 12])
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    for name in ("start", "base_region_au_ids", "joint_width", "recognition_dropout"):
        del config[name]
    file.write_text(json.dumps(config))
    loaded = PeftModel.from_pretrained(small_model(joint_width=8), tmp_path).eval()
    assert loaded.label_space.region_au_ids == (1, 2, 12)
    ours, theirs = answers(loaded), answers(model)
    assert torch.equal(ours.au_logits, theirs.au_logits) and torch.equal(ours.emotion_logits, theirs.emotion_logits)


def test_a_saved_adapter_starts_nowhere_again(tmp_path):
    """What was trained comes back, whatever the base it is loaded beside."""
    model = adapted(small_model(joint_width=8), au_ids=[20, 1])
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(small_model(joint_width=8), tmp_path).eval()
    assert torch.equal(answers(loaded).au_logits, answers(model).au_logits)
