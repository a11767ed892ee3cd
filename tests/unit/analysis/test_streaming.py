"""Stages in threads: order, a bound on what waits, errors in their place, and no thread left behind."""

import threading
import time

import pytest

from mf2.analysis.streaming import run_ahead


def test_items_come_in_order():
    assert list(run_ahead(iter(range(100)), 3)) == list(range(100))
    assert list(run_ahead([], 1)) == []


def test_no_more_than_the_bound_waits():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    stage = run_ahead(items(), 4)
    assert next(stage) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 4 + 1, "taken, waiting, and the one that found no room"
    stage.close()


def test_stages_run_beside_the_caller():
    """While the caller sleeps the next item is made: 5 × 40 ms twice take less than one after the other."""

    def items():
        for number in range(5):
            time.sleep(0.04)
            yield number

    started = time.perf_counter()
    for _ in run_ahead(items(), 2):
        time.sleep(0.04)
    assert time.perf_counter() - started < 0.36


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise OSError("the disk is gone")

    stage = run_ahead(items(), 2)
    assert next(stage) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(stage)


def test_leaving_early_ends_all_threads():
    before = threading.active_count()
    stage = run_ahead(run_ahead(iter(range(10**9)), 2), 2)
    next(stage)
    assert threading.active_count() == before + 2
    stage.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
