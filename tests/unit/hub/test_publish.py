"""`mf2 publish --dry_run`: what may not leave this machine, and why. No Hub is asked."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from finished_runs import FREE, RESTRICTED, exported_faces, finish_checkpoint, measured_metrics
from safetensors.torch import save_file

import mf2
from mf2.cli import main
from mf2.dataset_tools.privacy import shorten_paths
from mf2.hub import publish_checks
from mf2.hub.cards import PinnedRepo
from mf2.hub.publish_contents import open_folder, prepare, use_evaluation
from mf2.hub.publish_placement import find_placement
from mf2.training.arguments import PretrainArguments
from mf2.training.checkpoints import move_checkpoint
from mf2.training.trainer import make_training_arguments
from mf2.utils.files import sha256_of_file

LOADED = {"au_ids": [1, 12], "emotions": ["Calm"], "au_thresholds": [0.4, 0.6]}
TOKEN = "hf_" + "A1b2" * 8


@pytest.fixture(autouse=True)
def no_loading(monkeypatch):
    """Loading in a clean process is the Hub tests' business."""
    monkeypatch.setattr(publish_checks, "find_loading_problems", lambda contents: iter(()))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "unused")


@pytest.fixture
def saved(tmp_path):
    """What a checkpoint's files look like to a publisher."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mf2"} | LOADED))
    (folder / "processor_config.json").write_text("{}")
    (folder / "modeling_mf2.py").write_text("import torch\n")
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def run(saved, tmp_path):
    return finish_checkpoint(saved, tmp_path / "run")


def publish(capsys, path, *words):
    """Exit status, and what was printed: the listing or the error."""
    status = main(["publish", str(path), "--repo", "org/name", "--dry_run", *words])
    captured = capsys.readouterr()
    return status, captured.out if status == 0 else captured.err


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


# ----------------------------------------------------------------------------------------------------------- what goes
def test_the_listing_names_what_goes_and_what_stays(run, capsys):
    status, out = publish(capsys, run)
    assert status == 0 and out.startswith("checkpoint, private, ")
    assert set(re.findall(r"^ +[\d,]+  (.+)$", out, re.M)) == {
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "modeling_mf2.py",
        "overlay.png",
        "processor_config.json",
        "training_config.yaml",
    }
    assert "stays here: checkpoint-30" in out


def test_the_published_text_differs_where_it_must_and_the_folder_does_not(run):
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    contents = open_folder(run)
    contents = prepare(contents, find_placement(None, contents, "org/name", permission="Letter of 1 May."))
    settings = yaml.safe_load(contents.read_text("training_config.yaml"))
    assert settings == {"output_dir": "run", "train_data": "synth", "model": {"tokenizer": "vocabulary"}}
    card = contents.read_text("README.md")
    assert 'from_pretrained("org/name", trust_remote_code=True)' in card
    assert card.endswith("## Permission\n\nLetter of 1 May.\n")
    assert {file: file.read_bytes() for file in before} == before


def test_paths_are_shortened_at_any_depth():
    given = {"a": ["/home/me/x", {"b": "~/y/", "c": "C:\\Users\\me\\z"}], "d": "data/mfa", "e": 1e-4, "f": "org/name"}
    assert shorten_paths(given) == {"a": ["x", {"b": "y", "c": "z"}], "d": "data/mfa", "e": 1e-4, "f": "org/name"}


def test_restricted_faces_stay_here(saved, tmp_path):
    contents = open_folder(finish_checkpoint(saved, tmp_path / "run", RESTRICTED))
    contents = prepare(contents, find_placement(None, contents, "org/name"))
    assert "overlay.png" in contents.left_out and "overlay.png" not in contents.files
    assert "overlay.png" not in contents.read_text("README.md")
    assert "license: other" in contents.read_text("README.md")


# -------------------------------------------------------------------------------------------------------- what may not
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training_args.bin", "x", "training_args.bin is or may be a pickle"),
        ("notes.py", f"TOKEN = '{TOKEN}'", "notes.py holds a Hugging Face token"),
        ("notes.py", "key = 'sk-proj-" + "a1" * 15 + "'", "notes.py holds an API key"),
        ("notes.py", "AKIA" + "ABCDEFGH12345678", "notes.py holds an AWS key"),
        ("notes.py", "-----BEGIN OPENSSH PRIVATE KEY-----", "notes.py holds a private key"),
        ("notes.py", "root = '/home/someone/faces'", "notes.py holds a path of a machine"),
        ("notes.py", "root = 'C:\\\\Users\\\\someone'", "notes.py holds a path of a machine"),
        ("overlay.png", "no picture", "overlay.png is no png file"),
        ("model.safetensors", "no weights", "model.safetensors is no safetensors file"),
        ("model-00001-of-00002.safetensors", "no weights", "2 files of weights .* and no index"),
    ],
)
def test_files_that_are_refused(run, capsys, name, content, message):
    (run / name).write_text(content)
    status, err = publish(capsys, run)
    assert status == 1 and re.search(message, err) and err.count("\n") == 1


def test_secrets_in_the_header_of_weights_and_in_binary_text_are_found(run, capsys):
    save_file({"weight": torch.zeros(2)}, run / "model.safetensors", metadata={"note": TOKEN})
    (run / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    _, err = publish(capsys, run)
    assert "model.safetensors holds a Hugging Face token" in err and "vocab.txt is not text" in err


def test_the_own_token_is_found_and_not_shown(run, capsys, monkeypatch):
    monkeypatch.setattr(publish_checks, "get_token", lambda: "strange-secret")
    (run / "modeling_mf2.py").write_text("# strange-secret\n")
    _, err = publish(capsys, run)
    assert "modeling_mf2.py holds your token" in err and "strange-secret" not in err


def test_a_path_of_the_folder_itself_is_found(run, capsys):
    (run / "modeling_mf2.py").write_text(f"# {run}\n")
    assert "modeling_mf2.py holds " in publish(capsys, run)[1]


def test_everything_that_is_wrong_is_told_at_once(run, capsys):
    change(run / "config.json", au_thresholds=None, training_data=[RESTRICTED])
    (run / "processor_config.json").unlink()
    (run / "optimizer.pt").write_bytes(b"")
    status, err = publish(capsys, run, "--public")
    assert status == 1
    for message in ("optimizer.pt", "no processor_config.json", "mf2 calibrate", "derives from Aff-Wild2"):
        assert message in err


def test_thresholds_that_cannot_be(run, capsys):
    change(run / "config.json", au_thresholds=[0.4, 1.5])
    assert "The threshold of AU12 is 1.5" in publish(capsys, run)[1]


def test_thresholds_at_which_it_was_not_measured(run, capsys):
    change(run / "config.json", au_thresholds=[0.4, 0.7])
    _, err = publish(capsys, run)
    assert "AU12: measured at other thresholds" in err and "AU1:" not in err and "--evaluation" in err


def test_a_later_evaluation_takes_the_place_of_the_trainings(run, tmp_path, capsys):
    """Only if it is of the same thresholds and of videos that were not trained on."""
    change(run / "config.json", au_thresholds=[0.4, 0.7])
    metrics = measured_metrics([1, 12], [0.4, 0.7])
    metrics["evaluation"] |= {"overlap": {"videos": 3, "seen_videos": 0}, "landmarks": "none", "protocol": "mfa"}
    metrics["model"]["label_space"] = {"au_ids": [1, 12], "emotions": ["Calm"], "thresholds": [0.4, 0.7]}
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "aus.png").write_bytes((run / "overlay.png").read_bytes())
    file = folder / "metrics.json"
    file.write_text(json.dumps(metrics))
    status, out = publish(capsys, run, "--evaluation", str(folder))
    assert status == 0 and " aus.png" in out
    contents = use_evaluation(open_folder(run), folder)
    card = prepare(contents, find_placement(None, contents, "org/name")).read_text("README.md")
    assert "Landmarks: none; protocol: mfa." in card

    metrics["evaluation"]["overlap"]["seen_videos"] = 2
    file.write_text(json.dumps(metrics))
    assert "2 videos of the training" in publish(capsys, run, "--evaluation", str(folder))[1]
    change(run / "config.json", au_thresholds=[0.4, 0.8])
    assert "other labels or thresholds" in publish(capsys, run, "--evaluation", str(folder))[1]
    assert "has no metrics.json" in publish(capsys, run, "--evaluation", str(tmp_path))[1]


def test_without_metrics_there_is_no_card(run, capsys):
    (run / "metrics.json").unlink()
    assert "has no metrics.json" in publish(capsys, run)[1]


def test_what_is_none_of_these(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no checkpoint" in publish(capsys, tmp_path / "empty")[1]
    assert "There is no folder" in publish(capsys, tmp_path / "nothing")[1]
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "type 'bert'" in publish(capsys, tmp_path)[1]
    status = main(["publish", str(tmp_path), "--repo", "noslash", "--dry_run"])
    assert status == 1 and "owner/name" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- licence
def test_public_needs_a_permission_where_restricted_data_are_inherited(saved, tmp_path, capsys):
    run = finish_checkpoint(saved, tmp_path / "run", RESTRICTED)
    assert "--permission" in publish(capsys, run, "--public")[1]
    assert publish(capsys, run)[1].startswith("checkpoint, private")
    status, out = publish(capsys, run, "--public", "--permission", "Letter of the owners.")
    assert status == 0 and "inherits the terms of: Aff-Wild2" in out


def test_a_licence_that_nobody_stated_is_not_free(saved, tmp_path, capsys):
    run = finish_checkpoint(saved, tmp_path / "run", FREE | {"name": "org/unknown", "license": None})
    assert "derives from org/unknown" in publish(capsys, run, "--public")[1]


# ----------------------------------------------------------------------------------------------------------- data sets
def test_data_sets_are_exported_first(tmp_path, capsys):
    folder = exported_faces(tmp_path, license="mit", pretty_name="Made")
    assert "mf2 data export" in publish(capsys, tmp_path / "raw")[1]
    status, out = publish(capsys, folder, "--public")
    assert status == 0 and "dataset, public" in out and "annotations/train-00000-of-00001.parquet" in out


def test_restricted_pixels_need_a_permission(tmp_path, capsys):
    folder = exported_faces(tmp_path, full=True, license="other", pretty_name="Aff-Wild2")
    assert "holds the images of Aff-Wild2" in publish(capsys, folder)[1]
    assert publish(capsys, folder, "--permission", "Letter of the owners.")[0] == 0


def test_a_recipe_of_restricted_data_may_be_public(tmp_path, capsys):
    exported_faces(tmp_path, license="other", pretty_name="Aff-Wild2")
    assert main(["data", "export", str(tmp_path / "raw"), str(tmp_path / "recipe"), "--recipe_only"]) == 0
    capsys.readouterr()
    status, out = publish(capsys, tmp_path / "recipe", "--public")
    assert status == 0 and out.startswith("recipe, public") and ".parquet" not in out


def test_annotations_with_pixels_and_changed_shards_are_found(tmp_path, capsys):
    folder = exported_faces(tmp_path, license="other", pretty_name="Aff-Wild2")
    shard = next((folder / "annotations").glob("train-*"))
    shard.write_bytes(next((tmp_path / "raw" / "data").glob("train-*")).read_bytes())
    _, err = publish(capsys, folder)
    assert f"{shard.name} holds images" in err and "is not the file that manifest.json names" in err


def test_restricted_data_are_gated_by_their_card(tmp_path, capsys):
    folder = exported_faces(tmp_path, license="other", pretty_name="Aff-Wild2")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("extra_gated_prompt", "extra_prompt"))
    assert "extra_gated_prompt" in publish(capsys, folder)[1]


# ------------------------------------------------------------------------------------------------------------ adapters
def test_a_base_that_is_a_folder_needs_its_repository(saved, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "metrics.json").write_text(json.dumps({"evaluation": {"data": {"name": "Faces"}}, "training": {}}))
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(saved), "training_data": [FREE]})
    )
    contents = open_folder(adapter)
    with pytest.raises(ValueError, match=r"trained on the folder saved.*--base_repo org/name"):
        find_placement(None, contents, "org/dfn")
    other = SimpleNamespace(
        model_info=lambda name, revision: SimpleNamespace(sha="b" * 40),
        get_paths_info=lambda *_, **__: [
            SimpleNamespace(path="model.safetensors", lfs=SimpleNamespace(sha256="0" * 64))
        ],
    )
    with pytest.raises(ValueError, match="has other weights than saved"):
        find_placement(other, contents, "org/dfn", base_repo="org/base")


def test_a_fine_tuned_checkpoint_may_leave_its_base_unnamed(run, saved):
    """Its weights are its own; named, the base has to be the one that it started from."""
    (run / "training_config.yaml").write_text(yaml.safe_dump({"model": str(saved)}))
    contents = open_folder(run)
    assert find_placement(None, contents, "org/tuned").base is None
    weights = SimpleNamespace(sha256=sha256_of_file(saved / "model.safetensors"))
    hub = SimpleNamespace(
        model_info=lambda name, revision: SimpleNamespace(sha="b" * 40),
        get_paths_info=lambda *_, **__: [SimpleNamespace(path="model.safetensors", lfs=weights)],
    )
    found = find_placement(hub, contents, "org/tuned", base_repo="org/base")
    assert found.base == PinnedRepo("org/base", "b" * 40) and found.base_training_data == ()


# -------------------------------------------------------------------------------------------------------------- saving
def test_weights_of_an_earlier_save_go(tmp_path):
    source, target = tmp_path / "new", tmp_path / "target"
    source.mkdir(), target.mkdir()
    index = "model.safetensors.index.json"
    kept = ("metrics.json", "adapter.safetensors")
    for name in ("model-00001-of-00003.safetensors", "model.safetensors", index, *kept):
        (target / name).write_text("old")
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", index, "config.json"):
        (source / name).write_text("new")
    move_checkpoint(source, target)
    texts = {file.name: file.read_text() for file in target.iterdir()}
    assert texts == {
        "model-00001-of-00002.safetensors": "new",
        "model-00002-of-00002.safetensors": "new",
        index: "new",
        "config.json": "new",
        **dict.fromkeys(kept, "old"),
    }
    (source / "model.safetensors").write_text("newer")
    move_checkpoint(source, target)
    assert {file.name for file in target.glob("model*")} == {"model.safetensors"}


@pytest.mark.parametrize("field", ["push_to_hub", "hub_model_id", "hub_token"])
def test_training_does_not_push(field):
    """The trainer would do so publicly at every save, with the token in a pickle."""
    with pytest.raises(ValueError, match=rf"{field}.*mf2 publish"):
        make_training_arguments(PretrainArguments(trainer={field: "x"}))


def test_the_package_has_no_other_way_to_push():
    root = Path(mf2.__file__).parent
    calls = re.compile(r"\.push_to_hub\(|create_commit\(|upload_folder\(|upload_file\(|push_to_hub=True")
    found = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if "tests" not in file.parts and "build" not in file.parts and calls.search(file.read_text())
    }
    assert found == {"hub/publish_upload.py"}
