"""Two processes that share the weights by FSDP2 train as one process does, and go on where they were stopped."""

from pathlib import Path

import pytest
from two_processes import reports_of_two

WORKER = Path(__file__).with_name("fsdp_worker.py")


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """What both processes found."""
    return reports_of_two(WORKER, tmp_path_factory.mktemp("fsdp"))


def test_the_weights_are_shared(reports):
    """The tower's two layers and the rest are units, and each process holds about half."""
    assert [report["world_size"] for report in reports] == [2, 2]
    assert [report["num_units"] for report in reports] == [3, 3]
    assert all(0.45 < report["share"] < 0.55 for report in reports)
    assert sum(report["share"] for report in reports) == pytest.approx(1)


def test_it_trains_as_one_process_does(reports):
    assert reports[0]["from_one_process"] == {}


def test_it_resumes_exactly(reports):
    assert [report["from_uninterrupted"] for report in reports] == [[], []]
