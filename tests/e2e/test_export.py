"""`mf2 data export`: what the Hub will show is what the data hold."""

import json
import shutil

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from openai_server import OpenAIServer
from samples import picture, write_affwild2_labels, write_picture

from mf2.cli.data import main
from mf2.dataset_tools.captions.prompting import PROMPTS_FOLDER
from mf2.dataset_tools.export import required_privacy
from mf2.dataset_tools.schema import dataset_fingerprint, load_mfa, mfa_features, read_manifest, write_mfa

TERMS = {"license": "other", "license_name": "an-agreement", "license_link": "https://example.org/terms"}
pytestmark = pytest.mark.usefixtures("private_cache")


def row(index):
    return {
        "image": picture(index, 8),
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
    assert not any(b"IHDR" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    loaded = load_dataset(str(out))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 8, "validation": 2}
    assert loaded["train"].features == mfa_features(with_images=False)
    assert loaded["train"]["caption_key_au"] == [f"Key of {i}." for i in range(8)]
    assert loaded["train"][1]["landmarks"] is None and np.shape(loaded["train"][2]["landmarks"]) == (68, 2)
    streamed = load_dataset(str(out), split="validation", streaming=True)
    assert [item["frame"] for item in streamed] == [8, 12]
    assert len(load_mfa(out, "train", with_images=False)) == 8
    with pytest.raises(ValueError, match="annotations alone, without the column image"):
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


def test_the_card_cites_the_source(tmp_path):
    manifest = {"license": "apache-2.0", "citation": "Kollias and Zafeiriou, Aff-Wild2, BMVC 2019"}
    source = write_mfa(tmp_path / "source", {"train": [row(1)]}, manifest=manifest)
    assert export(source, tmp_path / "out") == 0
    assert (
        "## Citation\n\nKollias and Zafeiriou, Aff-Wild2, BMVC 2019." in (tmp_path / "out" / "README.md").read_text()
    )


def test_free_data_are_not_gated(tmp_path):
    source = write_mfa(tmp_path / "source", {"train": [row(1)]}, manifest={"license": "apache-2.0"})
    assert export(source, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "extra_gated" not in card and "License: apache-2.0." in card and "biometric" not in card


def test_wrong_requests(source, tmp_path, capsys):
    assert export(tmp_path / "nothing", tmp_path / "out") == 1
    assert "is not a data set folder" in capsys.readouterr().err
    assert export(source, source) == 1
    assert "already exists" in capsys.readouterr().err
    assert export(source, tmp_path / "bare") == 0
    assert export(tmp_path / "bare", tmp_path / "out", "--full") == 1
    assert "has no images; leave out --full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(source, tmp_path / "bare", "--full", "--overwrite") == 0
    assert json.loads((tmp_path / "bare" / "manifest.json").read_text())["configs"] == ["annotations", "full"]


# ------------------------------------------------------------------------------------------------- who may see what
@pytest.mark.parametrize(
    ("manifest", "private", "reason"),
    [
        ({"license": "apache-2.0"}, False, "its license is apache-2.0"),
        ({"license": "other", "license_name": "an-agreement"}, True, "data under an-agreement; public only with"),
        ({}, True, "unstated terms"),
        ({"format": "mfa-recipe", "source": {"license": "other"}}, False, "a recipe holds no annotations"),
    ],
)
def test_who_may_see_a_repository(manifest, private, reason):
    rule = required_privacy(manifest)
    assert rule.private is private and reason in rule.reason


def test_an_export_says_who_may_see_it(source, tmp_path, capsys):
    assert export(source, tmp_path / "out") == 0
    assert "on the Hub private; it derives from data under an-agreement" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- a recipe
@pytest.fixture
def built(tmp_path):
    """A data set made by all stages, captioned by a model, with the configuration that made it."""
    root, marked = tmp_path / "root", "verysecretvideo"
    for v in range(2):
        write_affwild2_labels(root, f"{marked}{v}", [[1, 0] * 6] * 8, range(8))
        for k in range(1, 9):
            write_picture(root / "cropped_aligned" / f"{marked}{v}" / f"{k:05d}.jpg", v * 16 + k)
    with OpenAIServer() as server:
        limit = {"token_limit_name": "max_tokens", "max_output_tokens": 90}
        profile = {"model": "caption-model", "base_url": server.base_url, **limit}
        (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"mine": profile}))
        stages = {
            "index": {"unlabelled": "mask"},
            "import": {"split": "random", "eval_fraction": 0.5, "captions": "none"},
            "caption": {"profile": "mine", "profiles": str(tmp_path / "profiles.yaml"), "pilot": 0, "yes": True},
        }
        config = {"reader": "affwild2", "root": str(root), "output_dir": str(tmp_path / "out"), "stages": stages}
        (tmp_path / "mfa.yaml").write_text(yaml.safe_dump(config))
        assert main(["build", "--config", str(tmp_path / "mfa.yaml")]) == 0
    return tmp_path / "out" / "captioned"


def test_a_recipe_tells_how_and_nothing_about_an_image(built, tmp_path):
    out = tmp_path / "recipe"
    assert export(built, out, "--recipe-only", "--config", tmp_path / "mfa.yaml") == 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    prompts = {name for name in names if name.startswith("prompts/")}
    assert names - prompts == {"README.md", "manifest.json", "profiles.yaml", "recipe.yaml"} and len(prompts) == 10
    recipe = json.loads((out / "manifest.json").read_text())
    assert recipe["captions"]["parameters"]["model"] == "caption-model" and recipe["counts"]["train"]["images"] == 8
    assert recipe["source"]["license"] == "other" and recipe["making"]["made_by"] == "mf2 data import affwild2"
    settings = yaml.safe_load((out / "recipe.yaml").read_text())
    assert (settings["root"], settings["stages"]["caption"]["profiles"]) == ("root", "profiles.yaml")
    for path in out.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "verysecretvideo" not in text and str(tmp_path) not in text and "127.0.0.1" not in text
    caption = load_mfa(built, "train")[0]["caption_emotion"]
    card = (out / "README.md").read_text()
    assert (
        caption and caption not in card and "caption-model" in card and "mf2 data build --config recipe.yaml" in card
    )


def test_prompts_of_a_recipe_are_those_that_were_used(built, tmp_path, capsys):
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["captions"]["prompt_sha256"]["au"] = "0" * 64
    (built / "manifest.json").write_text(json.dumps(manifest))
    assert export(built, tmp_path / "recipe", "--recipe_only") == 1
    assert "The captions au come from other prompts; name their folder with --prompts." in capsys.readouterr().err
    assert not (tmp_path / "recipe").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--recipe_only", "--full"], "leave out --full or --recipe_only"), (["--config", "x"], "add --recipe_only")],
)
def test_options_that_do_not_go_together(source, tmp_path, capsys, words, message):
    assert export(source, tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err


def test_a_data_set_is_rebuilt_from_its_recipe_to_equal_fingerprints(tmp_path):
    root = tmp_path / "root"
    for v in range(6):
        labels = [[1, 0] * 6, [1, -1, *[0] * 10], [-1] * 12, [0] * 12] * 2
        write_affwild2_labels(root, f"v{v}", labels, [k % 7 for k in range(8)])
        for k in range(8):  # crops that count from 0
            write_picture(root / "cropped_aligned" / f"v{v}" / f"{k:05d}.jpg", v * 16 + k)
    words = ["--unlabelled", "mask", "--first_image", "0"]
    assert main(["index", "affwild2", str(root), str(tmp_path / "index"), *words]) == 0
    assert main(["select", str(tmp_path / "index"), str(tmp_path / "chosen"), "--balance", "none", "--seed", "5"]) == 0
    made, captioned = tmp_path / "made", tmp_path / "captioned"
    words += ["--selection", str(tmp_path / "chosen"), "--captions", "none", "--dataset_name", "mine"]
    assert main(["import", "affwild2", str(root), str(made), *words]) == 0
    assert main(["caption", str(made), "--out", str(captioned), "--seed", "9"]) == 0
    assert export(captioned, tmp_path / "recipe", "--recipe_only") == 0
    recipe = yaml.safe_load((tmp_path / "recipe" / "recipe.yaml").read_text())
    assert recipe["reader"] == "affwild2" and list(recipe["stages"]) == ["index", "select", "import", "caption"]
    assert recipe["stages"]["index"] == {"unlabelled": "mask", "layout": "auto", "first_image": "0"}
    assert (recipe["stages"]["select"]["seed"], recipe["stages"]["caption"]["seed"]) == (5, 9)
    recipe |= {"root": str(root), "output_dir": str(tmp_path / "rebuilt")}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["build", "--config", str(tmp_path / "again.yaml")]) == 0
    assert dataset_fingerprint(tmp_path / "rebuilt" / "captioned") == dataset_fingerprint(captioned)


def test_replaced_frames_and_a_model_of_ones_own_are_part_of_a_recipe(tmp_path):
    """Refusals of the first run are not repeated in the second: the frames that it replaced stay replaced."""
    root = tmp_path / "root"
    for v in range(4):
        write_affwild2_labels(root, f"v{v}", [[1, 0] * 6] * 24, [k % 8 for k in range(24)])
        for k in range(1, 25):
            write_picture(root / "cropped_aligned" / f"v{v}" / f"{k:05d}.jpg", v * 24 + k)
    prompts = tmp_path / "prompts"
    shutil.copytree(PROMPTS_FOLDER, prompts)
    (prompts / "au_setup.txt").write_text("Describe what moves in the face.")
    with OpenAIServer() as server:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"mine": server.profile}))
        caption = {"profile": "mine", "profiles": str(tmp_path / "mine.yaml"), "prompts": str(prompts)}
        stages = {
            "index": {},
            "select": {"train_per_class": 3, "eval_per_class": 2, "min_frames": 1, "seed": 3},
            "import": {"captions": "none"},
            "caption": {**caption, "pilot": 0, "concurrency": 1, "yes": True, "min_valid": 0.5},
            "top_up": {},
            "export": {"full": True},
        }
        config = {"reader": "affwild2", "root": str(root), "output_dir": str(tmp_path / "out"), "stages": stages}
        (tmp_path / "mfa.yaml").write_text(yaml.safe_dump(config))
        server.faults = ["refusal", "ok", "refusal", *["ok"] * 30, "refusal"]
        assert main(["build", "--config", str(tmp_path / "mfa.yaml")]) == 0
        exported = tmp_path / "out" / "export"
        words = ["--recipe_only", "--prompts", str(prompts)]
        assert export(exported, tmp_path / "recipe", *words) == 0
        assert {"replaced.json", "profiles.yaml", "prompts"} < {path.name for path in (tmp_path / "recipe").iterdir()}
        text = (tmp_path / "recipe" / "recipe.yaml").read_text() + (tmp_path / "recipe" / "replaced.json").read_text()
        assert "v0" not in text and server.base_url not in text and str(tmp_path) not in text

        recipe = yaml.safe_load((tmp_path / "recipe" / "recipe.yaml").read_text())
        assert recipe["stages"]["select"]["replaced"] == "replaced.json" and recipe["stages"]["top_up"]
        recipe |= {"root": str(root), "output_dir": str(tmp_path / "rebuilt")}
        recipe["stages"]["caption"] |= {"base_url": server.base_url, "yes": True}
        recipe["stages"]["export"] = {"full": True}
        (tmp_path / "recipe" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["build", "--config", str(tmp_path / "recipe" / "recipe.yaml")]) == 0
    rounds = json.loads((tmp_path / "out" / "selection" / "top_up.json").read_text())["rounds"]
    assert sum(each["counts"]["same_video"] + each["counts"]["other_video"] for each in rounds) >= 2
    assert dataset_fingerprint(tmp_path / "rebuilt" / "export") == dataset_fingerprint(exported)


def test_replacements_of_another_source_are_refused(tmp_path, capsys):
    root = tmp_path / "root"
    for v in range(2):
        write_affwild2_labels(root, f"v{v}", [[1, 0] * 6] * 8, range(8))
        for k in range(1, 9):
            write_picture(root / "cropped_aligned" / f"v{v}" / f"{k:05d}.jpg", k)
    assert main(["index", "affwild2", str(root), str(tmp_path / "index")]) == 0
    select = ["select", str(tmp_path / "index"), str(tmp_path / "chosen"), "--balance", "none", "--replaced"]
    (tmp_path / "replaced.json").write_text(json.dumps([{"replaces": True, "failed": ["0123456789abcdef"]}]))
    assert main([*select, str(tmp_path / "replaced.json")]) == 1
    assert "1 of 1 replaced frames are not in the index" in capsys.readouterr().err
    (tmp_path / "replaced.json").write_text("[1]")
    assert main([*select, str(tmp_path / "replaced.json")]) == 1
    assert "replaced.json does not hold the replacements of a selection" in capsys.readouterr().err
    assert not (tmp_path / "chosen").exists()
