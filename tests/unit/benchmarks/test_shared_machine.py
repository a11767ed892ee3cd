"""The benchmark beside busy loops: the loops are there and end, and the table compares with the fastest setting."""

import os
import time
from pathlib import Path

from mf2.benchmarks.shared_machine import _environment, busy_loops, to_markdown


def children() -> set[str]:
    """The processes that this one has started, by number."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_loops_run_for_the_block_and_no_longer():
    before = children()
    with busy_loops(2, seconds=30) as are_running:
        assert are_running() and len(children() - before) == 2
    assert children() == before


def test_loops_end_by_themselves():
    before = children()
    with busy_loops(1, seconds=0.2) as are_running:
        (loop,) = children() - before
        deadline = time.monotonic() + 60
        while Path(f"/proc/{loop}/stat").read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline and not are_running()


def test_the_environment_holds_only_the_setting(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with _environment({"OMP_WAIT_POLICY": "passive"}):
        assert "OMP_NUM_THREADS" not in os.environ and os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["OMP_NUM_THREADS"] == "1" and "OMP_WAIT_POLICY" not in os.environ


def test_the_table_compares_with_the_fastest_beside_the_fewest_loops():
    rows = [
        {"busy": 0, "load": 1.0, "seconds": {"fitted": [0.4, 0.6, 0.5], "one": [1.0]}},
        {"busy": 6, "load": 7.0, "seconds": {"fitted": [2.0], "one": []}},
    ]
    table = to_markdown(rows)
    assert "0.50 (1.0 ×)" in table and "1.00 (2.0 ×)" in table and "2.00 (4.0 ×)" in table and "–" in table
