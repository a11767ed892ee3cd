"""One parser of AU names for every file that people bring."""

import pytest

from mf2.dataset_tools.au_columns import find_au_columns


@pytest.mark.parametrize(
    "column", ["AU1", "AU01", "au_1", "au1", "AU 01", "AU-1", "AU_01", "AU01_c", "AU1_C", "'AU1'", " AU01 ", '"AU1"']
)
def test_spellings_of_au1(column):
    found = find_au_columns(["path", column])
    assert found.names == {1: column} and not found.intensities and not found.unused


def test_an_intensity_is_said_to_be_one():
    found = find_au_columns(["AU01_r", "AU12"])
    assert found.names == {1: "AU01_r", 12: "AU12"} and found.intensities == ("AU01_r",)


def test_presence_goes_before_intensity():
    """OpenFace writes both."""
    found = find_au_columns(["AU01_r", "AU12_r", "AU01_c"])
    assert found.names == {1: "AU01_c", 12: "AU12_r"}
    assert found.intensities == ("AU12_r",) and found.unused == ("AU01_r",)


def test_what_is_not_known_here_is_named():
    assert find_au_columns(["AU11", "AU43", "AU45_c", "AU12"]).unused == ("AU11", "AU43", "AU45_c")


@pytest.mark.parametrize("column", ["AU1_left", "AU12R", "AU1.5", "AU001x", "AU123"])
def test_what_begins_like_an_au_is_not_lost_without_a_word(column):
    with pytest.raises(ValueError, match=f"column '{column}' starts like an action unit"):
        find_au_columns(["AU12", column])


@pytest.mark.parametrize("column", ["audio", "author", "AU", "Austria"])
def test_other_words_are_other_words(column):
    assert not find_au_columns([column]).names


def test_two_columns_of_one_au_are_refused():
    with pytest.raises(ValueError, match="AU1 and AU01 are both of AU1"):
        find_au_columns(["AU1", "AU01"])
