"""What tests of several folders share; the data that they are made of stand in `samples`."""

from pathlib import Path

import pytest

REAL_FACES = Path(__file__).parents[1].parent / "shared" / "data" / "real_faces"


@pytest.fixture
def private_cache(tmp_path, monkeypatch):
    """The test's own cache of `datasets`, so that nothing of it stays and no other test's data are found."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """Photographs in the layout of Aff-Wild2; the test is skipped where they are not."""
    if not REAL_FACES.is_dir():
        pytest.skip(f"{REAL_FACES} is not here")
    return REAL_FACES


@pytest.fixture
def mfa_folder(tmp_path, private_cache) -> Path:
    """A data set of twelve pictures in four videos: `samples.mfa_row`."""
    from samples import write_mfa_folder

    return write_mfa_folder(tmp_path / "made")
