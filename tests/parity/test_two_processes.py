"""Two processes on half a batch each give the losses and the gradients of one process on the whole of it."""

import math
import runpy
from pathlib import Path

import pytest
from two_processes import reports_of_two

WORKER = Path(__file__).with_name("two_process_worker.py")
CASES = runpy.run_path(str(WORKER))["CASES"]
TEXT_LENGTHS = {"no text at all": [[1, 1], [1, 1]], "no negatives": [[9, 9], [9, 9]]}
"""Of both processes, where a case leaves them equal."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """What both processes found, from one launch of all cases."""
    return reports_of_two(WORKER, tmp_path_factory.mktemp("two_processes"))


def test_there_are_two_processes_that_ran_every_case(reports):
    """`accelerate launch --cpu --num_processes 2` would silently run one."""
    assert [report["world_size"] for report in reports] == [2, 2]
    assert [list(report["results"]) for report in reports] == [list(CASES), list(CASES)]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_averaged_gradients_are_those_of_one_process(reports, case):
    assert [report["results"][case]["averaged"] for report in reports] == [{}, {}]


@pytest.mark.parametrize("case", CASES)
def test_gradients_through_ddp_are_those_of_one_process(reports, case):
    assert [report["results"][case]["DDP"] for report in reports] == [{}, {}]


def test_the_cases_are_what_they_say(reports):
    """Texts of unequal length, losses of some size, a gradient for every parameter."""
    for case, (_, changes) in CASES.items():
        first, second = (report["results"][case] for report in reports)
        lengths = [first["text lengths"], second["text lengths"]]
        equal = next((TEXT_LENGTHS[change] for change in changes if change in TEXT_LENGTHS), None)
        assert lengths == equal if equal else lengths[0] != lengths[1], case
        assert math.isfinite(first["loss"]) and first["loss"] > 1
        assert first["parameters"] > 100 and first["without gradient"] == []
