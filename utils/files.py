"""Atomic file writing, JSON and checksums."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Provide a temporary path beside `path`, which is renamed to `path` if the block succeeds, and else deleted.

    A missing folder is created. The temporary name starts with a dot, contains the process id, and has the suffix of
    `path`, so that several processes can write the same file and writers can use the suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with naming_disk_errors(path):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming_disk_errors(path: Path) -> Iterator[None]:
    """Add the path to errors of a full, broken or read-only disk that have none."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text("utf-8"))


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
