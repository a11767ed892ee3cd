"""Two processes that share the weights by FSDP2 train as one process does, and go on where they were stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("fsdp_worker.py")
PATHS = [str(WORKER.parent), str(WORKER.parents[1] / "servers")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """What both processes found."""
    folder = tmp_path_factory.mktemp("fsdp")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--local_addr", "127.0.0.1"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(PATHS),
    }
    run = subprocess.run(
        [sys.executable, *launch, str(WORKER), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


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
