"""The benchmark of fine-tuning methods measures what it says."""

import json

import pytest
import torch

from mf2.benchmarks import finetune
from mf2.benchmarks.workloads import Settings
from mf2.cli.benchmark import main

SETTINGS = Settings(repeats=1, batch_size=2, threads=1)


@pytest.mark.parametrize("name", finetune.METHODS)
def test_a_step_trains_what_the_method_trains_and_nothing_else(name):
    method = finetune.METHODS[name]("tiny", SETTINGS)
    phases = method.phases(SETTINGS)
    phases["forward"]()
    phases["backward"]()
    with_gradient = {key for key, p in method.module.named_parameters() if p.grad is not None}
    assert with_gradient and with_gradient <= {key for key, p in method.module.named_parameters() if p.requires_grad}
    if name.startswith("DFN"):
        assert all("side" in key for key in with_gradient)
        assert any("text" in key for key in with_gradient)  # they are aligned
    if name == "head only":
        assert all("recognizers" in key for key in with_gradient)


def test_cached_states_are_shaped_as_live_ones_are():
    live, cached = (finetune.METHODS[name]("tiny", SETTINGS) for name in ("DFN live", "DFN cached"))
    with torch.no_grad():
        states = finetune.pool_states(live.module.get_base_model().eval(), live.batch, 7)
    assert {name: cached.batch[name].shape for name in states} == {name: s.shape for name, s in states.items()}
    assert sum(p.numel() for p in live.parameters) == sum(p.numel() for p in cached.parameters)


def test_results_are_printed_and_written(tmp_path, capsys):
    file = tmp_path / "results.json"
    flags = ["--sizes", "tiny", "--repeats", "1", "--batch_size", "2", "--threads", "1", "--output", str(file)]
    assert main(["finetune", *flags, "--only", "steps", "inference", "cache"]) == 0
    sections = json.loads(file.read_text("utf-8"))["sections"]
    steps = {row["method"]: row for row in sections["steps"]["rows"]}
    assert list(steps) == list(finetune.METHODS)
    assert steps["full, task loss"]["faster than full, task loss"] == 1
    for row in steps.values():
        assert row["s an epoch of MFA"] == pytest.approx(row["ms a step"] / 1e3 * 31_320 / 2)
    assert len(sections["inference"]["rows"]) == 4
    assert "# Fine-tuning benchmark" in capsys.readouterr().out
