"""Each system of the tables: its parameters, its gradients, what it can learn, and one output that stays as it is."""

import json
from pathlib import Path

import pytest
import torch
from baseline_models import (
    AU_IDS,
    BRANCH,
    EMOTIONS,
    VOCABULARY,
    fill_by_formula,
    small_baseline,
    small_baseline_config,
    small_batch,
)
from transformers import AutoModel

from mf2.baselines.configuration import BaselineConfig
from mf2.baselines.modeling import BaselineModel, register_baselines
from mf2.baselines.registry import baseline_names, load_system
from mf2.branch_mf2 import MF2Branch
from mf2.recognition_mf2 import BASE

NAMES = baseline_names()
A, E, W = len(AU_IDS), len(EMOTIONS), (16, 8)  # the face level, then the other
GOLDEN = Path(__file__).parents[2] / "golden" / "baselines.json"


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def me_graphau(width: int) -> int:
    nodes = (W[0] + 3) * width + A * (width**2 + 4 * width) + 2 * (width**2 + width) + 2 * A + (width + 1) * E
    edges = 5 * (width**2 + width) + 2 * A**2 + 2 * (5 * width**2 + 2 * A + 2 * A**2) + 4 * (width + 1)
    return nodes + edges


def vl_fau(width: int) -> int:
    squeezed = width // 4
    branch = 2 * width * squeezed + squeezed + width + 2 * 7**2 + 1 + width + 1
    writer = (width + 1) * width + 4 * (2 * width**2 + 2 * width)
    words = 2 * VOCABULARY * width + VOCABULARY
    return (sum(W) + len(W)) * width + A * branch + (A + 1) * writer + words + (width + 1) * E


def exp_blip() -> int:
    """The branch of MF² over the face, which is counted with it, and two linear heads."""
    config = small_baseline_config("exp_blip")
    config.emo_config.encoder_hidden_size = W[0]
    return count(MF2Branch(config, config.emo_config, is_local=False)) + (BRANCH["hidden_size"] + 1) * (A + E)


PARAMETERS = {
    "linear": (sum(W) + 1) * (A + E),
    "hsemotion": (W[0] + 1) * (A + E),
    "exp_blip": exp_blip(),
    "vl_fau": vl_fau(W[0]),
    "me_graphau": me_graphau(W[0] // 2),
}
"""By the formulas of the systems' own pages and code."""


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_as_many_as_the_formula_says(name):
    assert count(small_baseline(name).system) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_every_parameter(name):
    model, names = small_baseline(name), set()
    for progress in (0.0, 1.0):  # the first stage and the last
        model.set_progress(progress)
        outputs = model(**small_batch(6))
        outputs.loss.backward()
        names |= set(outputs.losses)
    assert names == set(model.loss_names)
    silent = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


WIDER = {"me_graphau": {"reduction": 1}}
"""Of eight channels that are never negative all can end at nothing."""


@pytest.mark.parametrize(("name", "table"), [(name, of) for name in NAMES for of in load_system(name).about.tables])
def test_it_learns_sixteen_faces_by_heart(name, table):
    """In each table what it stands there for."""
    options = {**load_system(name).variants.get(table, {}), **WIDER.get(name, {})}
    model, batch = small_baseline(name, baseline_options=options, initializer_range=0.1), small_batch(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(120):
        model.set_progress(step / 120)
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        seen = model(batch["pixel_values"])
    if table == "II":
        is_right = (seen.au_logits > 0) == batch["au_labels"].bool()
        assert is_right[batch["au_labels"] >= 0].float().mean() > 0.95
    else:
        is_right = seen.emotion_logits.argmax(1) == batch["emotion_labels"]
        assert is_right[batch["emotion_labels"] >= 0].float().mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_back_from_disk_as_it_was(name, tmp_path):
    register_baselines()
    model = small_baseline(name, au_thresholds=[0.3, 0.4, 0.5, 0.6]).eval()
    model.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is BaselineModel and loaded.label_space == model.label_space
    pixel_values = small_batch(3)["pixel_values"]
    with torch.no_grad():
        theirs, ours = loaded(pixel_values), model(pixel_values)
    torch.testing.assert_close([theirs.au_logits, theirs.emotion_logits], [ours.au_logits, ours.emotion_logits])


@pytest.mark.parametrize("name", NAMES)
def test_its_output_is_the_golden_one(name):
    model = fill_by_formula(small_baseline(name)).eval()
    with torch.no_grad():
        seen = model(small_batch(2)["pixel_values"].sign())
    golden = json.loads(GOLDEN.read_text())[name]
    torch.testing.assert_close(seen.au_logits, torch.tensor(golden["au"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.emotion_logits, torch.tensor(golden["emotion"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    about = load_system(name).about
    assert about.title and about.tables and set(about.tables) <= {"II", "III"}
    assert any(character.isdigit() for character in about.citation)


def test_hsemotion_takes_the_tower_that_all_have_where_it_is_asked_to():
    system = load_system("hsemotion")
    assert system.required_fields({})["vision_config"]["architecture"] == "tf_efficientnet_b0"
    assert system.required_fields(system.variants["III"]) == {}
    with pytest.raises(ValueError, match="tower is 'given'; choose one of own, shared"):
        small_baseline("hsemotion", baseline_options={"tower": "given"})


def test_labels_that_are_not_there_need_no_head():
    model = small_baseline("linear", emotions=[])
    outputs = model(**{name: value for name, value in small_batch(3).items() if name != "emotion_labels"})
    assert outputs.emotion_logits is None and list(outputs.losses) == ["au"]


def test_an_argument_that_nothing_reads_is_refused():
    """Labels under a misspelt name would be missing silently; what a processor returns besides is no mistake."""
    model, batch = small_baseline("linear"), small_batch(2)
    batch["au_lables"] = batch.pop("au_labels")
    with pytest.raises(TypeError, match="no argument 'au_lables'; did you mean 'au_labels'"):
        model(**batch)
    with pytest.raises(TypeError, match="forward_adapters has no argument 'pixels'"):
        model.forward_adapters([BASE], batch["pixel_values"], pixels=1)
    assert model(batch["pixel_values"], landmarks_px=torch.zeros(2, 68, 2)).loss is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"baseline": "linaer"}, "did you mean 'linear'"),
        ({"baseline": "linear", "baseline_options": {"dropuot": 0.1}}, "did you mean 'dropout'"),
        ({"baseline": "linear", "baseline_options": {"dropout": "much"}}, "'much'; it must be float"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BaselineConfig(**fields)


def test_its_code_does_not_travel(tmp_path):
    small_baseline_config("linear").save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
