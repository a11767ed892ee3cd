"""A script that two processes run together, and what each of them found."""

import json
import os
import subprocess
import sys
from pathlib import Path


def reports_of_two(worker: Path, folder: Path) -> list[dict]:
    """Run `worker FOLDER` under torchrun on two CPU processes; what each wrote to `FOLDER/rank<r>.json`.

    Modules beside the worker and beside this file can be imported by it.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--local_addr", "127.0.0.1"]
    paths = [str(worker.parent), str(Path(__file__).parent)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    run = subprocess.run(
        [sys.executable, *launch, str(worker), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
