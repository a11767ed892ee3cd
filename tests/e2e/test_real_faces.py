"""Photographs in the layout of Aff-Wild2 through every data stage; skipped where they are not."""

import json

import pytest
import yaml
from openai_server import OpenAIServer

from mf2.cli.data import main
from mf2.dataset_tools.captions.validate_command import ValidationReport, check_image, read_captioned_images
from mf2.dataset_tools.schema import load_mfa, read_manifest

pytestmark = pytest.mark.usefixtures("private_cache")
NUM_FACES = 2257


@pytest.fixture
def built(real_faces, tmp_path):
    """All stages with template captions; the landmarks come with the photographs, so that no detector is needed."""
    stages = {
        "index": {"unlabelled": "mask"},
        "select": {"balance": "none", "eval_fraction": 0.2},
        "import": {"captions": "none"},
        "landmarks": {},
        "caption": {"backend": "template"},
        "validate": {},
        "export": {"full": True},
    }
    config = {"reader": "affwild2", "root": str(real_faces), "output_dir": str(tmp_path / "out"), "stages": stages}
    (tmp_path / "mfa.yaml").write_text(yaml.safe_dump(config))
    assert main(["build", "--config", str(tmp_path / "mfa.yaml")]) == 0
    return tmp_path / "out"


def test_photographs_go_through_all_stages_and_a_part_to_a_captioning_model(built, tmp_path, capsys):
    splits = {split: load_mfa(built / "export", split) for split in ("train", "validation")}
    assert sum(map(len, splits.values())) == NUM_FACES
    assert not set(splits["train"]["group_id"]) & set(splits["validation"]["group_id"])
    assert all(None not in rows["caption_emotion"] and None not in rows["landmarks"] for rows in splits.values())
    assert read_manifest(built / "landmarked")["landmarks"]["counts"]["kept"] == NUM_FACES
    validation = json.loads((built / "validation" / "report.json").read_text())
    assert {kind: entry["valid"] for kind, entry in validation.items()} == {
        kind: entry["captions"] for kind, entry in validation.items()
    }

    captioned = tmp_path / "captioned"
    with OpenAIServer() as server:
        profile = {"model": "m", "base_url": server.base_url, "token_limit_name": "max_tokens"}
        (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"mine": {**profile, "max_output_tokens": 300}}))
        words = ["--profile", "mine", "--profiles", str(tmp_path / "profiles.yaml"), "-n", "20", "--yes"]
        assert main(["caption", str(built / "landmarked"), "--out", str(captioned), "--pilot", "0", *words]) == 0
        assert 40 <= sum(server.billed.values()) <= 60 and server.paid_twice() == 0
    report = ValidationReport()
    assert not [bad for image in read_captioned_images(captioned) for bad in check_image(image, report)]
    assert report.total["emotion"] == report.valid["emotion"] == 20
