"""The GPU benchmark runs on the CPU in small: rows are kept, limits hold, and a section that fails stops no other."""

import dataclasses
import json
import sys
import time

import pytest
import torch

from mf2.benchmarks import gpu, gpu_sections, gpu_tools
from mf2.benchmarks.gpu_tools import FLOOR_SECONDS, Plan, TrainingStep, attempt, relative_error
from mf2.cli.benchmark import main

PLAN = Plan(device="cpu", dry_run=True)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


# -------------------------------------------------------------------------------------------------------- measurements
OWN_TESTS, LONG = ("parity", "fsdp", "machine"), ("commands", "compiled_layers", "compiled_model", "flex")
QUICK = [name for name in gpu_sections.SECTIONS if name not in OWN_TESTS + LONG]
"""The sections that take seconds on a CPU; the long ones compile, trace large graphs or run whole commands."""


@pytest.mark.parametrize("name", QUICK)
def test_every_section_measures(name):
    rows = list(gpu_sections.SECTIONS[name].measure(PLAN))
    assert rows
    assert not [row for row in rows if "error" in row]
    json.dumps(rows)


def test_parity_on_the_same_device_is_exact():
    rows = list(gpu_sections.measure_parity(PLAN))
    by_name = {(row["model"], row["precision"]): row for row in rows}
    for model in ("golden", "base"):
        assert by_name[model, "float32"]["au_logits, Δ probability"] < 1e-5
        assert 1e-4 < by_name[model, "bfloat16"]["au_logits, relative"] < 0.05
    step = by_name["base, training step", "float32"]
    assert step["loss, relative"] < 1e-6 and step["gradient, relative"] < 1e-5
    assert 1e-5 < by_name["base, training step", "bfloat16 autocast"]["gradient, relative"] < 0.2


def test_sharding_over_one_device_changes_no_loss():
    alone, sharded = gpu_sections.measure_fsdp(PLAN)
    assert sharded["units"] == 3 and sharded["loss"] == pytest.approx(alone["loss"], rel=1e-2)


def test_texts_of_full_length_have_it():
    step = TrainingStep.build(PLAN, "tiny", "per_au", full_texts=True)
    config = step.model.config
    assert step.batch["input_ids"].shape == (4, config.emotion_text_length)
    assert step.batch["au_attention_mask"].shape == (4, len(config.au_ids), config.au_sentence_length)
    assert step.batch["au_attention_mask"].all()


def test_the_share_of_the_floor():
    """56 images of `base` with AU captions take 56 × 44 s / 31,320 at least."""
    assert 56 * FLOOR_SECONDS["base", "caption"] == pytest.approx(0.0787, abs=1e-4)
    step = TrainingStep.build(PLAN, "tiny")
    step.size = "base"
    row = step.time(PLAN, 1, 0)
    assert row["share of the floor"] == pytest.approx(FLOOR_SECONDS["base", "caption"] * row["images/s"])


def test_what_fails_is_a_row():
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB.")

    row = attempt(PLAN, {"images": 56}, fail)
    assert row == {"images": 56, "error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB."}


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------------------------- the run
def stand_in(tmp_path, monkeypatch, sections: dict[str, str]):
    """Sections whose processes run the given code once they are told to."""
    made = {}
    for name, code in sections.items():
        made[name] = gpu_sections.GpuSection(name.title(), 20, lambda plan: iter(()))
        script = tmp_path / f"{name}.py"
        script.write_text(f"import sys\nsys.stdin.readline()\nrows = open(sys.argv[3], 'a')\n{code}\n")
    monkeypatch.setattr(gpu, "SECTIONS", made)
    started = gpu.subprocess.Popen

    def start(command, **options):
        return started([sys.executable, str(tmp_path / f"{command[3]}.py"), *command[3:]], **options)

    monkeypatch.setattr(gpu.subprocess, "Popen", start)
    return made


ROW = 'rows.write(\'{"section": "%s", "row": {"ms": 1.5}}\\n\'); rows.flush()'


def test_a_section_that_fails_or_hangs_stops_no_other(tmp_path, monkeypatch):
    made = stand_in(
        tmp_path,
        monkeypatch,
        {
            "broken": ROW % "broken" + "\nraise RuntimeError('device-side assert')",
            "slow": ROW % "slow" + "\nimport time; time.sleep(60)",
            "good": ROW % "good",
        },
    )
    monkeypatch.setattr(gpu, "MIN_SECONDS", 0.1)
    made["slow"] = dataclasses.replace(made["slow"], seconds=2.0)
    outcomes = gpu.measure_all(list(made), PLAN, tmp_path, minutes=1, scale=1)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "broken": "failed",
        "slow": "timed out",
        "good": "done",
    }
    assert all(outcome.rows == [{"ms": 1.5}] for outcome in outcomes.values())
    assert "device-side assert" in outcomes["broken"].log[-1]
    written = json.loads((tmp_path / gpu.RESULTS).read_text())
    assert list(written["sections"]) == list(made) and written["sections"]["slow"]["rows"] == [{"ms": 1.5}]


def test_what_is_over_when_the_time_is_up_is_skipped(tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, {"first": "import time; time.sleep(1)", "second": ROW % "second"})
    monkeypatch.setattr(gpu, "MIN_SECONDS", 2.0)
    started = time.monotonic()
    outcomes = gpu.measure_all(["first", "second"], PLAN, tmp_path, minutes=2.5 / 60, scale=1)
    assert [outcome.status for outcome in outcomes.values()] == ["done", "skipped"]
    assert time.monotonic() - started < 20


def test_the_command_writes_its_results(tmp_path, capsys):
    assert main(["gpu", "--dry_run", "--sections", "machine", "--output_dir", str(tmp_path)]) == 0
    results = json.loads((tmp_path / gpu.RESULTS).read_text())
    assert results["plan"]["dry_run"] and results["machine"]["torch"] == torch.__version__
    rows = results["sections"]["machine"]["rows"]
    assert [row["what"] for row in rows][:2] == ["copy", "product, bfloat16"] and rows[0]["TB/s"] > 0


def test_sections_run_in_the_order_given(tmp_path, monkeypatch, capsys):
    stand_in(tmp_path, monkeypatch, {"machine": ROW % "machine", "flex": ROW % "flex"})
    assert main(["gpu", "--dry_run", "--sections", "flex", "machine", "flex", "--output_dir", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / gpu.RESULTS).read_text())["sections"]) == ["flex", "machine"]


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--scale_limits", "-1"]])
def test_limits_are_checked(words, capsys):
    assert main(["gpu", "--dry_run", *words]) == 1
    assert "must be > 0" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["gpu"]) == 1
    assert "finds no GPU" in capsys.readouterr().err


def test_the_plan_travels_to_the_process_of_a_section():
    assert gpu_tools.Plan(**json.loads(json.dumps(dataclasses.asdict(PLAN)))) == PLAN
