"""Training videos: what is recorded beside a checkpoint, and what is refused because of it."""

import json

import datasets
import pytest

from mf2.hub.provenance import (
    HASH_DIGITS,
    TRAINING_VIDEOS_NAME,
    find_overlap,
    hash_video,
    read_training_videos,
    record_training_videos,
    refuse_overlap,
)


def rows_of(*groups, dataset="affwild2"):
    return datasets.Dataset.from_dict({"dataset": [dataset] * len(groups), "group_id": list(groups)})


def test_names_are_hashed_once_each_and_sorted(tmp_path):
    record_training_videos(tmp_path, rows_of("video2", "video1", "video1"))
    text = (tmp_path / TRAINING_VIDEOS_NAME).read_text()
    hashes = json.loads(text)["videos"]
    assert "video1" not in text and hashes == sorted(hashes) and len(hashes) == 2
    assert {len(value) for value in hashes} == {HASH_DIGITS}


def test_the_hash_is_what_the_file_says_it_is():
    # The first digits of `printf affwild2/video1 | sha256sum`: other tools can check against it.
    assert hash_video("affwild2", "video1") == "3ef10e72341a"


def test_a_seen_video_is_refused_with_count_and_example(tmp_path):
    record_training_videos(tmp_path, rows_of("a", "b"))
    overlap = find_overlap(rows_of("b", "b", "c"), [tmp_path])
    assert overlap.to_dict() == {"videos": 2, "seen_videos": 1}
    with pytest.raises(ValueError, match=r"1 of 2 videos were seen .* for example b; .*--allow_seen"):
        refuse_overlap(overlap, [tmp_path])


def test_the_same_name_in_another_data_set_is_another_video(tmp_path):
    record_training_videos(tmp_path, rows_of("S001"))
    refuse_overlap(find_overlap(rows_of("S001", dataset="ck"), [tmp_path]), [tmp_path])


def test_what_the_start_has_seen_counts_too(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    record_training_videos(base, rows_of("a"))
    record_training_videos(adapter, rows_of("b"), base, None)
    assert find_overlap(rows_of("a", "b", "c"), [adapter]).seen == ["a", "b"]


def test_a_second_record_keeps_the_first(tmp_path):
    record_training_videos(tmp_path, rows_of("a"))
    record_training_videos(tmp_path, rows_of("b"))
    assert len(read_training_videos(tmp_path)) == 2


def test_without_a_record_nothing_is_known(tmp_path):
    overlap = find_overlap(rows_of("a"), [tmp_path])
    assert overlap.to_dict() == {"videos": 1, "seen_videos": None}
    refuse_overlap(overlap, [tmp_path])


def test_of_a_part_that_records_nothing_only_what_is_seen_is_known(tmp_path):
    recorded, silent = tmp_path / "base", tmp_path / "adapter"
    recorded.mkdir(), silent.mkdir()
    record_training_videos(recorded, rows_of("a"))
    assert find_overlap(rows_of("a", "b"), [recorded, silent]).seen == ["a"]
    assert find_overlap(rows_of("b"), [recorded, silent]).seen is None
    assert find_overlap(rows_of("b"), [recorded]).seen == []


def test_a_damaged_record_is_an_error(tmp_path):
    (tmp_path / TRAINING_VIDEOS_NAME).write_text("[1")
    with pytest.raises(ValueError, match="is damaged"):
        read_training_videos(tmp_path)
