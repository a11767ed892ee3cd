"""Files that appear whole, and what is said where they cannot."""

import errno

import pytest

from mf2.dataset_tools.schema import replacing_folder
from mf2.utils.files import replacing


@pytest.mark.parametrize("writer", [replacing, replacing_folder])
def test_a_full_disk_is_an_error_that_names_the_path(tmp_path, writer):
    path = tmp_path / "out"
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"), writer(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not path.exists() and not list(tmp_path.iterdir())


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^a\.jpg is missing$"), replacing(tmp_path / "out"):
        raise FileNotFoundError("a.jpg is missing")
