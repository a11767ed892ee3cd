"""What a process without torch and all other large packages does; see `call_fresh`."""

import contextlib
import csv
import io
import sys
from pathlib import Path

from mf2.cli import main


def analyze(argv: list[str], output: str) -> dict:
    """Run `mf2 analyze`; its exit status, what it says, and the rows of the CSV that it leaves."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["analyze", *argv, "--output", output])
    table = Path(output, "faces.csv")
    rows = list(csv.DictReader(table.open(encoding="utf-8"))) if table.is_file() else []
    return {
        "status": status,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "rows": rows,
        "modules": sorted(sys.modules),
    }


def recognize(model: str, picture: str, landmarks: list | None) -> list:
    """The faces of a picture, by the class for Python."""
    from mf2.onnx_runtime import Recognizer

    return Recognizer(model)(picture, landmarks)


def run(argv: list[str]) -> dict:
    """Run another command of `mf2`."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status = main(argv)
    return {"status": status, "err": err.getvalue()}
