"""Annotations without pixels and the pictures of a disk become a data set."""

import pytest
from samples import write_mfa_folder, write_picture

from mf2.cli.data import main
from mf2.dataset_tools.export import export
from mf2.dataset_tools.schema import load_mfa, read_manifest


@pytest.fixture
def annotations(tmp_path, private_cache):
    """The annotations of eight and four pictures, and their pictures as files."""
    source = write_mfa_folder(tmp_path / "source", 8, 4, caption_emotion="A calm face.")
    for split in ("train", "validation"):
        for row in load_mfa(source, split):
            write_picture(tmp_path / "pictures" / row["file_name"], 100 + row["frame"])
    return export(source, tmp_path / "annotations")


def test_rows_get_their_pictures(annotations, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"annotations alone.*mf2 data join"):
        load_mfa(annotations, "train")
    out = tmp_path / "joined"
    assert main(["join", str(annotations), str(out), "--images", str(tmp_path / "pictures")]) == 0
    assert "8 train, 4 validation" in capsys.readouterr().out
    rows = load_mfa(out, "validation")
    assert [row["image"].getpixel((0, 0))[0] for row in rows] == [108, 109, 110, 111]
    assert rows["caption_emotion"] == ["A calm face."] * 4 and rows["AU1"] == [0, 1, 0, 1]
    assert rows[0]["landmarks"][0] == [8.0, 8.0]
    assert read_manifest(out)["license"] == read_manifest(annotations)["license"]


def test_missing_pictures_are_named(annotations, tmp_path, capsys):
    (tmp_path / "pictures" / "v1" / "00001.jpg").unlink()
    assert main(["join", str(annotations), str(tmp_path / "out"), "--images", str(tmp_path / "pictures")]) == 1
    assert "lacks 1 of 12 images, v1/00001.jpg for example" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_card_says_how(annotations, tmp_path):
    text = (annotations / "README.md").read_text()
    assert "holds **no images**" in text and "mf2 data join ID OUT --images ROOT" in text
    full = export(tmp_path / "source", tmp_path / "full", full=True)
    assert 'load_dataset("ID", "full")' in (full / "README.md").read_text()


@pytest.mark.parametrize("path", ["outputs/faces", "./faces", "a/b/c", "faces", "/nowhere"])
def test_a_folder_that_is_missing_is_not_asked_of_the_hub(path):
    with pytest.raises(FileNotFoundError, match="neither a data set folder nor a Hub id"):
        load_mfa(path, "train")
