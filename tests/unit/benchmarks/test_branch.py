"""The benchmark compares what is equal: passes, losses and gradients of both sides, at a toy size.

Times are not tested.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from mf2.benchmarks import branch, timing
from mf2.benchmarks.blip2_step import generation_mask
from mf2.benchmarks.inputs import captioned_rows, describe_texts, make_batch, make_config, pad_to_limits
from mf2.benchmarks.workloads import PassBench, Settings, StepBench, itg_pair, pass_pairs, without_regions
from mf2.cli.benchmark import main

EXACT = {"rtol": 1e-5, "atol": 1e-5}
TOY = Settings(batch_size=3, repeats=1, dropout=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pass_bench() -> PassBench:
    return PassBench.build("tiny", TOY)


def gradients(bench: PassBench, function: Callable[[], torch.Tensor], weights: torch.Tensor) -> dict:
    """Of a weighted sum of the function's result, by the branch's parameter names."""
    bench.branch.zero_grad()
    (function() * weights).sum().backward()
    return {name: p.grad.clone() for name, p in bench.branch.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["query-only", "text-only", "joint", "joint, to ITM logits"])
def test_passes_are_equal(pass_bench, name):
    """Unequal passes would make a ratio of their times worthless."""
    pair = pass_pairs(pass_bench.branch, pass_bench.reference, pass_bench.vision_states, *pass_bench.text(9))[name]
    ours, theirs = pair.ours(), pair.theirs()
    torch.testing.assert_close(ours, theirs, **EXACT)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    our_grads, their_grads = (gradients(pass_bench, side, weights) for side in (pair.ours, pair.theirs))
    unused = {name for name, grad in our_grads.items() if name not in their_grads and grad.any()}
    assert not unused
    for parameter, grad in their_grads.items():
        torch.testing.assert_close(our_grads.get(parameter, torch.zeros_like(grad)), grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [2, 61])
def test_two_stage_itg_equals_the_full_pass(pass_bench, length):
    pair = itg_pair(pass_bench.branch, pass_bench.reference, pass_bench.vision_states, *pass_bench.text(length))
    torch.testing.assert_close(pair.ours(), pair.theirs(), **EXACT)


def test_generation_mask_written_out():
    """Queries see their own region; text sees all queries, itself and earlier text, save padding."""
    mask = generation_mask(torch.tensor([[1, 1, 0]]), num_queries=4, num_regions=2)
    wanted = [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 0],
    ]
    assert mask[0, 0].int().tolist() == wanted


# --------------------------------------------------------------------------------------------------------------- step
@pytest.mark.parametrize("au_text_mode", branch.AU_TEXT_MODES)
def test_steps_have_equal_losses_and_gradients(au_text_mode):
    bench = StepBench.build("tiny", au_text_mode, TOY)
    losses, grads = {}, {}
    for name in bench.steps:
        losses[name] = bench.losses(name)
        losses[name]["loss"].backward()
        grads[name] = {key: p.grad for key, p in bench.model.named_parameters() if p.grad is not None}
        bench.model.zero_grad()
    ours = losses.pop("MF²")
    assert set(ours) == {f"{b}_{k}" for b in ("emo", "au") for k in ("itc", "itm", "itg")} | {"emotion", "au", "loss"}
    for name, theirs in losses.items():
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
        torch.testing.assert_close(grads[name], grads["MF²"], rtol=1e-3, atol=1e-4)


def test_items_without_negatives_are_left_out_of_both_steps():
    """In a small batch an AU can have one sentence for all images."""
    bench = StepBench.build("tiny", "per_au", TOY)
    for _, batch in bench.steps.values():
        batch["au_caption_ids"] = torch.zeros_like(batch["au_caption_ids"])
    losses = [bench.losses(name)["au_itm"] for name in bench.steps]
    assert losses == [0, 0, 0]


def test_reference_holds_the_models_own_parameters():
    bench = StepBench.build("tiny", "caption", TOY)
    own = {id(parameter) for parameter in bench.model.parameters()}
    step, _ = bench.steps["composed, limit"]
    assert {id(parameter) for parameter in step.parameters()} == own


def test_update_leaves_the_weights():
    """Each repeat must compute the same."""
    bench = StepBench.build("tiny", "per_au", TOY)
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    for phase in bench.phases("MF²", bench.optimizer()).values():
        phase()
    assert all(torch.equal(p, before[name]) for name, p in bench.model.named_parameters())
    assert all(p.grad is None for p in bench.model.parameters())


def test_composed_step_costs_more_operations():
    bench = StepBench.build("tiny", "caption", TOY)
    flops = {name: bench.count_flops(name) for name in bench.steps}
    assert flops["MF²"] < flops["composed, longest"] < flops["composed, limit"]


# ------------------------------------------------------------------------------------------------------------- inputs
def test_batch_is_what_training_sees():
    config = make_config("tiny", seed=0, au_text_mode="caption")
    batch = make_batch(config, 4, 112, seed=0, device="cpu")
    again = make_batch(config, 4, 112, seed=0, device="cpu")
    torch.testing.assert_close(batch, again, rtol=0, atol=0)
    assert batch["pixel_values"].shape == (4, 3, 112, 112) and batch["au_boxes"].shape == (4, 12, 2, 4)
    assert len(set(batch["caption_ids"].tolist())) == 4
    rows = captioned_rows(512, 0)
    assert {f"AU{au_id}" for au_id in config.au_ids} <= set(rows.column_names)


@pytest.mark.parametrize(("au_text_mode", "au_limit"), [("caption", 169), ("per_au", 32)])
def test_padding_to_the_limits(au_text_mode, au_limit):
    config = make_config("tiny", seed=0, au_text_mode=au_text_mode)
    batch = make_batch(config, 3, 112, seed=0, device="cpu")
    padded = pad_to_limits(batch, config)
    emo, au = describe_texts({"longest": batch, "limit": padded})
    assert (emo["limit"], au["limit"]) == (61, au_limit)
    for text in (emo, au):
        assert text["mean tokens"] <= text["longest"] < text["limit"]
    width = batch["au_input_ids"].shape[-1]
    assert torch.equal(padded["au_input_ids"][..., :width], batch["au_input_ids"])
    assert not padded["au_attention_mask"][..., width:].any()


def test_model_without_regions_sees_the_same_face():
    bench = StepBench.build("tiny", "caption", TOY)
    model, (_, batch) = bench.model.eval(), bench.steps["MF²"]
    alone = without_regions(model)
    assert set(alone.branches) == {"emo"}
    with torch.no_grad():
        views = model.encode_branches(batch["pixel_values"], batch["au_boxes"])
        alone_views = alone.encode_branches(batch["pixel_values"], None)
    torch.testing.assert_close(alone_views["emo"].states, views["emo"].states, **EXACT)


# ------------------------------------------------------------------------------------------------------------ measure
def test_runs_take_turns_and_warm_up_is_not_timed():
    calls = []
    seconds = iter(range(1000))
    runs = {name: {phase: lambda call=name + phase: calls.append(call) for phase in "12"} for name in "ab"}
    timings = timing.time_side_by_side(
        runs, repeats=2, warm_up=1, device="cpu", title="test", clock=lambda: next(seconds)
    )
    assert calls == ["b1", "b2", "a1", "a2", "a1", "a2", "b1", "b2", "b1", "b2", "a1", "a2"]
    assert timings["a"].phases == {"1": [1, 1], "2": [1, 1]}
    assert timings["a"].seconds == 2 and timings["a"].phase("1") == 1


@pytest.mark.skipif(not timing.can_measure_memory("cpu"), reason="peak memory of a process is read from Linux's /proc")
def test_peak_memory_is_what_was_used_meanwhile():
    """The high-water mark of before would hide it, and so would memory that this process has freed and kept."""
    code = (
        "import torch; from mf2.benchmarks import timing; torch.ones(50_000_000); own = timing.memory_in_use('cpu'); "
        "print(timing.peak_memory_during(lambda: torch.ones(25_000_000), 'cpu') - own)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 90e6 <= int(printed) < 150e6


# ------------------------------------------------------------------------------------------------------------- script
def test_results_are_printed_and_written(tmp_path, capsys):
    file = tmp_path / "benchmark.json"
    sections = ["passes", "itg", "texts", "step", "regions"]
    argv = ["--sizes", "tiny", "--repeats", "1", "--batch_size", "2", "--threads", "1", "--seed", "3"]
    assert main(["branch", *argv, "--only", *sections, "--output", str(file)]) == 0
    results, printed = json.loads(file.read_text("utf-8")), capsys.readouterr().out
    assert list(results["sections"]) == sections
    assert results["machine"]["torch"] == torch.__version__ and results["settings"]["seed"] == 3
    for section in results["sections"].values():
        assert section["rows"] and f"## {section['title']}" in printed
    steps = results["sections"]["step"]["rows"]
    assert [row["au_text_mode"] for row in steps] == ["caption"] * 3 + ["per_au"] * 3
    assert "the LM head at every position" in printed


@pytest.mark.skipif(not timing.can_measure_memory("cpu"), reason="peak memory of a process is read from Linux's /proc")
def test_memory_of_a_step_in_a_process_of_its_own():
    settings = Settings(batch_size=2, threads=1)
    measured = timing.in_fresh_process(branch.step_memory, "tiny", "per_au", "MF²", settings)
    assert measured["peak, MiB"] > measured["gradients and AdamW, MiB"] / 2 > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size", "1"], "batch_size is 1; it must be >= 2"),
        (["--repeats", "0"], "repeats is 0; it must be >= 1"),
        (["--threads", "0"], "threads is 0"),
        (["--dropout", "2"], "hidden_dropout_prob is 2"),
    ],
)
def test_values_out_of_range(argv, message, capsys):
    assert main(["branch", *argv, "--sizes", "tiny", "--only", "step"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said(capsys):
    assert main(["branch", "--device", "cuda"]) == 1
    assert "finds no GPU" in capsys.readouterr().err
