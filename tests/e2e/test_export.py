"""`mf2 data export`: what the Hub will show is what the data hold."""

import io
import json

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from mf2.dataset_tools.cli import main
from mf2.dataset_tools.schema import dataset_fingerprint, load_mfa, mfa_features, read_manifest, write_mfa

TERMS = {"license": "other", "license_name": "an-agreement", "license_link": "https://example.org/terms"}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def row(index):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (index, 0, 0)).save(file, "JPEG")
    return {
        "image": file.getvalue(),
        "file_name": f"v{index % 4}/{index:05d}.jpg",
        "dataset": "made",
        "video_id": f"v{index % 4}",
        "group_id": f"v{index % 4 // 2}",
        "frame": index,
        "emotion": None if index == 5 else index % 3,
        "AU1": index % 2,
        "AU2": 1,
        "landmarks": None if index < 2 else np.full((68, 2), index),
        "caption_au": "1. AU1 (Inner Brow Raiser): up.\n2. AU2 (Outer Brow Raiser): up." if index else None,
        "caption_emotion": "A calm face.",
        "caption_key_au": f"Key of {index}.",
        "caption_source": "template",
    }


@pytest.fixture
def source(tmp_path):
    splits = {"train": map(row, range(8)), "validation": map(row, (8, 12))}
    return write_mfa(tmp_path / "source", splits, manifest={"pretty_name": "Made", **TERMS}, rows_per_shard=3)


def export(*words):
    return main(["export", *map(str, words)])


def test_annotations_are_the_default_and_have_no_pixels(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(source, out) == 0
    assert not any(b"JFIF" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    loaded = load_dataset(str(out))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "validation": 2}
    assert loaded["train"].features == mfa_features(with_images=False)
    assert loaded["train"]["caption_key_au"] == [f"Key of {i}." for i in range(8)]
    assert loaded["train"][1]["landmarks"] is None and np.shape(loaded["train"][2]["landmarks"]) == (68, 2)
    streamed = load_dataset(str(out), split="validation", streaming=True)
    assert [item["frame"] for item in streamed] == [8, 12]
    assert len(load_mfa(out, "train", with_images=False)) == 8
    with pytest.raises(ValueError, match="lacks the columns image"):
        load_mfa(out, "train")
    assert read_manifest(out)["exported_from"] == dataset_fingerprint(source)


def test_full_adds_the_images_and_trains_as_it_is(source, tmp_path):
    out = tmp_path / "out"
    assert export(source, out, "--full") == 0
    full = load_dataset(str(out), "full", split="train")
    assert full.features == mfa_features() and full[3]["image"].size == (8, 8)
    assert "image" not in load_dataset(str(out), split="train").features
    assert [item["frame"] for item in load_mfa(out, "validation")] == [8, 12]


def test_the_card_counts_what_is_there(source, tmp_path):
    assert export(source, tmp_path / "out") == 0
    _, front_matter, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    for expected in (
        ["images", "8", "2"],
        ["videos", "4", "1"],
        ["groups", "2", "1"],
        ["landmarks", "6", "2"],
        ["caption_au", "7", "2"],
        ["Neutral", "3", "1"],
        ["Other", "0", "0"],
        ["unlabelled", "1", "0"],
        ["AU1", "4 / 4 / 0", "0 / 2 / 0"],
        ["AU4", "0 / 0 / 8", "0 / 0 / 2"],
    ):
        assert expected in lines
    assert "in more than one split: 1." in text  # group v0 is planted in both
    assert "`caption_au`: 1. AU1 (Inner Brow Raiser): up. / 2. AU2" in text
    fields = yaml.safe_load(front_matter)
    assert {name: fields[name] for name in TERMS} == TERMS and fields["size_categories"] == ["n<1K"]
    assert fields["extra_gated_prompt"] and "Institution" in fields["extra_gated_fields"]
    assert [info["splits"][0]["num_examples"] for info in fields["dataset_info"]] == [8]


def test_free_data_are_not_gated(tmp_path):
    source = write_mfa(tmp_path / "source", {"train": [row(1)]}, manifest={"license": "apache-2.0"})
    assert export(source, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "extra_gated" not in card and "License: apache-2.0." in card and "biometric" not in card


def test_wrong_requests(source, tmp_path, capsys):
    assert export(tmp_path / "nothing", tmp_path / "out") == 1
    assert "is no data set folder" in capsys.readouterr().err
    assert export(source, source) == 1
    assert "already exists" in capsys.readouterr().err
    assert export(source, tmp_path / "bare") == 0
    assert export(tmp_path / "bare", tmp_path / "out", "--full") == 1
    assert "has no images; leave out --full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(source, tmp_path / "bare", "--full", "--overwrite") == 0
    assert json.loads((tmp_path / "bare" / "manifest.json").read_text())["configs"] == ["annotations", "full"]
