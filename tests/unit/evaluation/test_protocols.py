"""The ABAW protocol: each task is scored in its own official validation videos, from any split of the data set."""

import json

import numpy as np
import pytest
from samples import mfa_row, write_affwild2_labels, write_picture

from mf2.cli.data import main as data_command
from mf2.dataset_tools.schema import write_mfa
from mf2.evaluation.protocols import load_protocol
from mf2.labels_mf2 import AU_IDS

NUM_FRAMES = 4
TASK_SPLITS = {  # video -> official split of the AU task and of the expression task
    "both": ("Validation_Set", "Validation_Set"),
    "au_only": ("Validation_Set", "Train_Set"),
    "expr_only": ("Train_Set", "Validation_Set"),
    "neither": ("Train_Set", "Train_Set"),
}


@pytest.fixture
def tree(tmp_path):
    """Aff-Wild2 with four videos, in every combination of both tasks' splits."""
    root = tmp_path / "affwild2"
    for number, (video, splits) in enumerate(TASK_SPLITS.items()):
        for task, split in zip(("AU", "EXPR"), splits, strict=True):
            scratch = tmp_path / task
            write_affwild2_labels(scratch, video, [[1] * 12] * NUM_FRAMES, [number] * NUM_FRAMES, split)
            source = scratch / "annotations" / f"{task}_Some_Challenge" / split / f"{video}.txt"
            target = root / source.relative_to(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        for frame in range(1, NUM_FRAMES + 1):
            write_picture(root / "cropped_aligned" / video / f"{frame:05d}.jpg", 20 * number + frame)
    return root


def import_tree(tree, out, *options):
    assert data_command(["import", "affwild2", str(tree), str(out), *options]) == 0
    return str(out)


def test_each_task_counts_in_its_own_validation_videos(tree, tmp_path, private_cache):
    data = import_tree(tree, tmp_path / "mfa", "--unlabelled", "mask")
    split = load_protocol(data, "validation", "abaw", AU_IDS)
    videos = np.array(split.rows["video_id"])
    assert set(videos) == {"both", "au_only", "expr_only"}
    assert set(videos[(split.labels.aus >= 0).all(1)]) == {"both", "au_only"}
    assert set(videos[split.labels.emotion >= 0]) == {"both", "expr_only"}
    assert split.description["split"] == "abaw validation"
    assert split.description["rows"] == 3 * NUM_FRAMES and split.description["videos"] == 3


def test_valence_and_arousal_count_in_their_own_validation_videos(tree, tmp_path, private_cache):
    for video, folder in (("au_only", "Validation_Set"), ("both", "Train_Set"), ("felt", "Validation_Set")):
        target = tree / "annotations" / "VA_Estimation_Challenge" / folder / f"{video}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("valence,arousal\n" + "0.5,-0.25\n" * (NUM_FRAMES - 1) + "-5,-5\n")
        write_picture(tree / "cropped_aligned" / video / "00001.jpg", 90)
    data = import_tree(tree, tmp_path / "mfa", "--unlabelled", "mask")
    split = load_protocol(data, "validation", "abaw", AU_IDS, affect=True)
    videos, is_felt = np.array(split.rows["video_id"]), ~np.isnan(split.labels.affect).any(1)
    assert set(videos) == {"both", "au_only", "expr_only", "felt"} and set(videos[is_felt]) == {"au_only", "felt"}
    assert split.labels.affect[is_felt].tolist() == [[0.5, -0.25]] * NUM_FRAMES  # one crop of `felt` is there
    assert load_protocol(data, "validation", "abaw", AU_IDS).labels.affect is None


def test_a_re_split_by_video_changes_nothing(tree, tmp_path, private_cache):
    options = ("--unlabelled", "mask", "--split", "random", "--eval_fraction", "0.5")
    pooled = import_tree(tree, tmp_path / "pooled", *options)
    assert set(load_protocol(pooled, "validation", "abaw", AU_IDS).rows["video_id"]) == {
        "both",
        "au_only",
        "expr_only",
    }


def test_videos_that_are_not_there_are_counted(tree, tmp_path, private_cache, caplog):
    for crop in (tree / "cropped_aligned" / "both").iterdir():
        crop.unlink()
    data = import_tree(tree, tmp_path / "mfa", "--unlabelled", "mask")
    load_protocol(data, "validation", "abaw", AU_IDS)
    assert "1 of 2 au validation videos are not in" in caplog.text


def test_frames_of_one_task_must_have_been_kept(tree, tmp_path, private_cache):
    data = import_tree(tree, tmp_path / "mfa", "--unlabelled", "drop")
    with pytest.raises(ValueError, match=r"only frames that both tasks label; .* --unlabelled mask`"):
        load_protocol(data, "validation", "abaw", AU_IDS)


def test_a_data_set_without_the_official_splits_says_how_to_make_one(mfa_folder, tmp_path):
    with pytest.raises(ValueError, match=r"does not keep ABAW's official splits; .*`mf2 data import affwild2"):
        load_protocol(str(mfa_folder), "validation", "abaw", AU_IDS)
    report = {"settings": {"unlabelled": "mask"}, "official_splits": {"au": {"validation": ["elsewhere"]}}}
    rows = [mfa_row(index) for index in range(4)]
    other = write_mfa(tmp_path / "other", {"train": rows}, manifest={"report": json.loads(json.dumps(report))})
    with pytest.raises(ValueError, match="holds none of ABAW's validation videos"):
        load_protocol(str(other), "validation", "abaw", AU_IDS)
