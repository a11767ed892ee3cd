"""A tiny checkpoint as training leaves it, for the tests of how checkpoints travel."""

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import save_tiny_checkpoint

from mf2.labels_mf2 import MEAN_FACE_68


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "mf2-tiny"
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def sharded_checkpoint(tmp_path_factory) -> Path:
    """The same weights in files of at most 100 kB."""
    folder = tmp_path_factory.mktemp("sharded") / "mf2-sharded"
    save_tiny_checkpoint(folder, max_shard_size="100KB")
    return folder


@pytest.fixture(scope="session")
def landmarks() -> list[list[float]]:
    """68 points of a turned face, in pixels of a picture of 40 × 50."""
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((np.array(MEAN_FACE_68) - 0.5) @ turn.T * 30 + (20, 25)).tolist()
