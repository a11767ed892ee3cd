"""What tests of several folders share; the data that they are made of stand in `samples`."""

import os
from pathlib import Path

import deprecations
import pytest

SERVERS = Path(__file__).with_name("servers")
SHARED = Path(__file__).parents[1].parent / "shared"
REAL_FACES = SHARED / "data" / "real_faces"
PHOTOGRAPHS = SHARED / "data" / "photographs"
LANDMARKER_VARIABLE = "MF2_FACE_LANDMARKER"


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


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Whole photographs, of one person each in `single/`, of several in `groups/`; skipped where they are not."""
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"{PHOTOGRAPHS} is not here")
    return PHOTOGRAPHS


@pytest.fixture(scope="session")
def face_landmarker() -> Path:
    """MediaPipe's real FaceLandmarker bundle; the test is skipped where it, or MediaPipe, is not."""
    file = Path(os.environ.get(LANDMARKER_VARIABLE) or SHARED / "models" / "face_landmarker.task")
    if not file.is_file():
        pytest.skip(f"{file} is not here; {LANDMARKER_VARIABLE} names MediaPipe's face_landmarker.task")
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed")
    return file


@pytest.fixture(autouse=True)
def no_detectors_of_this_machine(monkeypatch, tmp_path_factory):
    """No test finds a detector's model file, or another default detector, because this machine has one."""
    for name in (LANDMARKER_VARIABLE, "MF2_LANDMARK_DETECTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MF2_DETECTORS", str(tmp_path_factory.getbasetemp() / "no_detectors"))


@pytest.fixture
def mfa_folder(tmp_path, private_cache) -> Path:
    """A data set of twelve pictures in four videos: `samples.mfa_row`."""
    from samples import write_mfa_folder

    return write_mfa_folder(tmp_path / "made")


# --------------------------------------------------------------------------------------------- what needs the internet
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need the internet run where `-m` names them, and are skipped elsewhere."""
    if "network" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("network"):
            item.add_marker(pytest.mark.skip(reason="needs the internet: pytest -m network"))


# -------------------------------------------------------------------------------------- what we use is not deprecated
@pytest.fixture(scope="session", autouse=True)
def deprecations_file(tmp_path_factory) -> Path:
    """Where this process and those that it starts write down what of a library is deprecated and used by us."""
    path = tmp_path_factory.mktemp("deprecations") / "notes.txt"
    path.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(deprecations.NOTES, str(path))
        patch.setenv("PYTHONPATH", str(SERVERS), prepend=os.pathsep)
        deprecations.watch_log()
        yield path


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    deprecations.watch_warnings()


@pytest.fixture(autouse=True)
def nothing_deprecated_is_used(deprecations_file):
    """So that what a library renames is seen while it is still a warning."""
    yield
    if notes := deprecations_file.read_text().splitlines():
        deprecations_file.write_text("")
        pytest.fail("deprecated, and used by our code:\n" + "\n".join(dict.fromkeys(notes)), pytrace=False)
