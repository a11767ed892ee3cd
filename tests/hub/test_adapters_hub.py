"""Adapters on machines without the package: trained here in the label spaces of three data sets, answering there."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import call_fresh
from hub_server import Account, HubServer
from peft import get_peft_model
from small_adapters import BP4D, DISFA, RAF_DB
from transformers import AutoModel

import mf2
from mf2.labels_mf2 import AU_IDS
from mf2.peft_dfn import DFNConfig

VISITS = Path(__file__).with_name("adapter_visits.py")
SPACES = {
    "disfa": {"au_ids": DISFA, "emotions": []},
    "bp4d": {"au_ids": BP4D, "emotions": []},
    "rafdb": {"au_ids": [], "emotions": RAF_DB},
}


def train_adapter(base: Path, folder: Path, name_in_config: str, seed: int = 0, **fields: Any) -> Path:
    """A few steps on noise; the adapter as it is published, naming its base."""
    torch.manual_seed(seed)
    model = get_peft_model(mf2.MF2Model.from_pretrained(base), DFNConfig(r=4, alignment_weight=0, **fields)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    num_aus, num_emotions = len(model.label_space.au_ids), len(model.label_space.emotions)
    corners = torch.rand(4, len(model.label_space.region_au_ids), 2, 2) * 0.86
    batch = {"pixel_values": torch.randn(4, 3, 32, 32), "au_boxes": torch.cat([corners, corners + 0.14], dim=-1)}
    batch |= {"au_labels": torch.randint(0, 2, (4, num_aus))} if num_aus else {}
    batch |= {"emotion_labels": torch.randint(0, num_emotions, (4,))} if num_emotions else {}
    losses = []
    for _ in range(6):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.peft_config["default"].base_model_name_or_path = name_in_config
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapters(checkpoint, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: str(train_adapter(checkpoint, root / name, str(checkpoint), **f)) for name, f in SPACES.items()}


def visit(function: str, home: Path, hide: tuple[str, ...] = (), **arguments: Any) -> Any:
    """Call a function of `adapter_visits.py` in a fresh process without a Hub."""
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    return call_fresh(VISITS, function, hide=hide, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, **arguments)


def load_visits() -> Any:
    """The module whose functions the fresh processes call, in this process."""
    spec = importlib.util.spec_from_file_location(VISITS.stem, VISITS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, dict) else value), name


@pytest.fixture(scope="module")
def report(checkpoint, adapters, tmp_path_factory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    return visit("visit", home, hide=("mf2",), base=str(checkpoint), adapters=adapters)


def test_each_answers_by_name(report, adapters):
    """What the package makes of an adapter is what a machine without it makes of it, under the right names."""
    assert report["module"].startswith("transformers_modules")
    codes = {name: [f"AU{au_id}" for au_id in fields["au_ids"]] for name, fields in SPACES.items()}
    assert list(report["alone"]["disfa"]["aus"]) == codes["disfa"]
    assert list(report["alone"]["bp4d"]["aus"]) == codes["bp4d"]
    assert set(report["alone"]["disfa"]) == {"aus", "active"}
    assert set(report["alone"]["rafdb"]["emotions"]) == set(RAF_DB) and "aus" not in report["alone"]["rafdb"]


def test_the_package_says_the_same(report, adapters, checkpoint):
    visits = load_visits()
    processor = visits.load_processor(str(checkpoint))
    for name, folder in adapters.items():
        model = AutoModel.from_pretrained(folder).eval()
        assert type(model) is mf2.MF2Model
        assert_same_state(report["alone"][name], visits.name_states(model, processor))


def test_peft_loads_them_on_a_base(report):
    for name, state in report["alone"].items():
        assert_same_state(report["peft"][name], state)


def test_a_bf16_base_leaves_them_in_fp32(report):
    assert report["dtypes"] == {name: ["torch.float32"] for name in SPACES}


def test_three_answer_for_one_picture_in_one_pass(report):
    assert list(report["together"]) == [*SPACES, "base"]
    for name, state in report["alone"].items():
        assert_same_state(report["together"][name], state)
    assert_same_state(report["together"]["base"], report["base alone"])
    assert list(report["base alone"]["aus"]) == [f"AU{au_id}" for au_id in AU_IDS]


@pytest.mark.parametrize("first", ["copy", "package"])
def test_the_method_is_registered_once_whoever_comes_first(checkpoint, adapters, tmp_path, first, report):
    found = visit("visit_with_both", tmp_path, base=str(checkpoint), adapter=adapters["disfa"], first=first)
    assert found["registered"] == {"copy": "transformers_modules", "package": "mf2"}[first]
    assert found["re-exported"] and found["members"] == 1
    assert found["isinstance"] == {"use_copy": True, "use_package": True}
    for state in found["states"].values():
        assert_same_state(state, report["alone"]["disfa"])


def test_base_and_adapter_are_pinned_by_sha(checkpoint, tmp_path):
    """A later commit of the adapter changes what is loaded by name, and not what is pinned."""
    first, later = (
        train_adapter(checkpoint, tmp_path / name, "alice/mf2-tiny", seed, **SPACES["disfa"])
        for name, seed in (("first", 1), ("later", 2))
    )
    ids = {"base_id": "alice/mf2-tiny", "adapter_id": "alice/mf2-tiny-disfa"}
    with HubServer({"hf_alice": Account("alice")}) as hub:
        arguments = {"base": str(checkpoint), "adapter": str(first), "other": str(later), **ids}
        shas = call_fresh(VISITS, "push", env=hub.client_env(tmp_path / "pusher", "hf_alice"), **arguments)
        env = hub.client_env(tmp_path / "visitor")
        seen = call_fresh(VISITS, "visit_hub", hide=("mf2",), env=env, **shas, **ids)
    visits = load_visits()
    processor = visits.load_processor(str(checkpoint))
    for name, folder in (("pinned", first), ("now", later)):
        model = mf2.MF2Model.from_pretrained(checkpoint).eval()
        model.load_adapter(folder)
        assert_same_state(seen[name], visits.name_states(model, processor))
    assert seen["pinned"] != seen["now"]
