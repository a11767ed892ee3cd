"""One process is not taken for several that were asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mf2
from mf2.utils.environment import check_all_processes_run

ROOT = Path(mf2.__file__).parent
ONE_OF_TWO = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ACCELERATE_MIXED_PRECISION": "no"},
        {"MASTER_ADDR": "10.0.0.1"},
        {**ONE_OF_TWO, "WORLD_SIZE": "2"},
        {**ONE_OF_TWO, "OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_other_launches_pass(environment):
    check_all_processes_run(environment)


def test_one_of_several_is_refused():
    with pytest.raises(ValueError, match="torchrun --nproc_per_node"):
        check_all_processes_run(ONE_OF_TWO)


def test_accelerate_launch_of_two_on_cpus_is_refused_in_one_line(tmp_path):
    """Without this it trains alone, at half of the batch, and ends as if nothing were wrong."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--num_machines", "1"]
    script = [ROOT / "training" / "pretrain.py", "--config", ROOT / "training" / "configs" / "demo.yaml"]
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "WORLD_SIZE")}
    run = subprocess.run(
        [sys.executable, *map(str, [*launch, *script, "--output_dir", tmp_path / "out"])],
        env=environment | {"HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0 and not (tmp_path / "out").exists()
    assert "on CPUs it starts one" in run.stderr and "torchrun" in run.stderr
