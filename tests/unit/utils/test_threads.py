"""Threads by what is free: measured counters to a number, and that number to torch."""

import pytest
import torch

from mf2.utils import threads
from mf2.utils.threads import Reading, ThreadFitter, fit_threads, read_cores


class Machine:
    """Cores of which other processes take some and this one the given rest."""

    def __init__(self, monkeypatch, cores: float = 4):
        self.cores, self.now = cores, Reading(100.0, 0.0, 0.0)
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now.time)

    def read(self) -> Reading:
        return self.now

    def pass_time(self, seconds: float, others: float, own: float) -> None:
        idle = (self.cores - others - own) * seconds
        self.now = Reading(self.now.time + seconds, self.now.idle + idle, self.now.process + own * seconds)


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def torch_threads(machine, monkeypatch):
    """Four threads of torch on that machine, restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "_local", threads.threading.local())
    monkeypatch.setattr(threads.ThreadFitter.__init__, "__defaults__", (machine.read,))
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [
        (0, 4, 4),  # alone
        (0, 1, 4),  # alone, one thread so far
        (0.3, 3, 4),  # something small beside it
        (1, 3, 3),
        (2, 1, 2),
        (3.4, 0.6, 1),  # six busy loops
        (4, 0, 1),
    ],
)
def test_as_many_as_others_leave(machine, others, own, expected):
    fitter = ThreadFitter(4, machine.read)
    machine.pass_time(2.5, others, own)
    assert fitter.fit() == expected


def test_never_more_than_were_set(machine):
    fitter = ThreadFitter(2, machine.read)
    machine.pass_time(3, 0, 1)
    assert fitter.fit() == 2


def test_the_number_stays_within_a_window_and_follows_the_load(machine):
    fitter = ThreadFitter(4, machine.read)
    machine.pass_time(1, 4, 0)
    assert fitter.fit() == 4
    machine.pass_time(1.5, 4, 0)
    assert fitter.fit() == 1
    machine.pass_time(2, 0, 1)
    assert fitter.fit() == 4


def test_torch_computes_with_that_number(machine, torch_threads):
    fit_threads("cpu")
    assert torch.get_num_threads() == 4
    machine.pass_time(2, 3, 1)
    fit_threads("cpu")
    assert torch.get_num_threads() == 1
    machine.pass_time(2, 0, 1)
    fit_threads("cpu")
    assert torch.get_num_threads() == 4


def test_a_number_that_is_set_by_hand_is_the_most(machine, torch_threads):
    fit_threads("cpu")
    torch.set_num_threads(1)
    for _ in range(3):
        machine.pass_time(2, 0, 1)
        fit_threads("cpu")
        assert torch.get_num_threads() == 1, "one thread is bit by bit the same, so it stays one"
    torch.set_num_threads(3)
    machine.pass_time(2, 0, 1)
    fit_threads("cpu")
    assert torch.get_num_threads() == 3


def test_a_gpu_leaves_the_threads_as_they_are(machine, torch_threads):
    fit_threads("cuda")
    machine.pass_time(2, 4, 0)
    fit_threads("cuda")
    assert torch.get_num_threads() == 4


def test_the_counters_of_this_machine():
    """What this process computes is its own, and no core is idle or computes for longer than the time."""
    before = read_cores()
    sum(range(2_000_000))
    after = read_cores()
    assert 0 < after.process - before.process <= (after.time - before.time) * 64
    assert after.idle >= before.idle
