"""Batches: texts as the model reads them, labels, and randomness that depends on (seed, epoch, row) alone."""

import numpy as np
import pytest
import torch

from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.captions import CaptionTable, TokenTable, caption_hash, training_texts
from mf2.data_loading.collators import EpochSampler, FaceCollator, row_seed
from mf2.data_loading.splits import POS_WEIGHT_BOUNDS, Labels, Split
from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption
from mf2.dataset_tools.schema import load_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.labels_mf2 import AU_IDS
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor
from mf2.training.arguments import PretrainArguments
from mf2.training.model_setup import build_config, build_tokenizer
from mf2.training.tokenizer import SPECIAL_TOKENS, train_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = SynthConfig(num_train=16, num_eval=8, frames_per_identity=8, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture(scope="module")
def split(folder):
    return Split.load(str(folder), "train", None, AU_IDS)


@pytest.fixture(scope="module")
def tokenizer(split):
    return build_tokenizer(PretrainArguments(), split.rows)


def make_config(tokenizer, **fields) -> MF2Config:
    return build_config(PretrainArguments(size="tiny", model=fields), tokenizer)


def make_collator(split, tokenizer, augmentation=None, seed=0, **fields):
    captions = CaptionTable(split.rows, split.labels, make_config(tokenizer, **fields), tokenizer)
    image_processor = MF2ImageProcessor(size={"height": 64, "width": 64})
    return FaceCollator(image_processor, captions, augmentation, seed)


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


# ---------------------------------------------------------------------------------------------------------- tokenizer
def test_the_vocabulary_is_a_function_of_the_texts_whatever_their_order(split):
    texts = training_texts(split.rows)
    first, second = train_tokenizer(texts, 200), train_tokenizer(texts[::-1] * 2, 200)
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == 200
    assert tuple(first.convert_ids_to_tokens(range(6))) == SPECIAL_TOKENS


def test_words_beyond_the_vocabulary_fall_apart_into_characters(split):
    tokenizer = train_tokenizer(training_texts(split.rows), 100)
    text = "raised cheeks"
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids
    assert decode(tokenizer, tokenizer(text).input_ids) == text


# -------------------------------------------------------------------------------------------------------------- texts
def test_equal_texts_share_ids_and_hashes_and_the_empty_text_is_masked(tokenizer):
    table = TokenTable(tokenizer)
    index = table.add(["the face", None, "the cheeks", "the face"], 8)
    assert index.tolist() == [0, -1, 1, 0]
    table.freeze()
    ids, mask, hashes = table.pad(index)
    assert ids.dtype == mask.dtype == hashes.dtype == torch.int64
    assert ids[0].tolist() == ids[3].tolist() == tokenizer("the face").input_ids
    assert mask.sum(1).tolist() == [4, 0, 4, 4]
    assert hashes.tolist() == [caption_hash("the face"), 0, caption_hash("the cheeks"), caption_hash("the face")]


def test_long_texts_keep_their_end_token(tokenizer):
    table = TokenTable(tokenizer)
    table.add(["the face in the image seems angry", "the face"], 5)
    assert table.num_cut == 1
    table.freeze()
    ids, mask, _ = table.pad(np.array([0]))
    assert ids.shape == (1, 5) and mask.all()
    assert ids[0, 0] == tokenizer.cls_token_id and ids[0, -1] == tokenizer.sep_token_id


def test_the_hash_is_the_same_everywhere():
    assert caption_hash("The face is at rest.") == -96228879374943270


def test_a_share_of_the_faces_shows_its_texts_to_both_branches_or_to_none(split, tokenizer):
    config = make_config(tokenizer)
    captions, some = (CaptionTable(split.rows, split.labels, config, tokenizer, share=share) for share in (1.0, 0.5))
    rows, seeds = np.tile(np.arange(len(split.rows)), 40), range(40 * len(split.rows))
    whole, found = captions.indexes(rows, seeds), some.indexes(rows, seeds)
    is_shown = found["emo"] >= 0
    assert 0.4 < is_shown.mean() < 0.6
    np.testing.assert_array_equal(found["emo"], np.where(is_shown, whole["emo"], -1))
    np.testing.assert_array_equal(found["au"], np.where(is_shown[:, None], whole["au"], -1))


def test_au_captions_go_to_the_local_branch_whole(split, tokenizer):
    collator = make_collator(split, tokenizer, au_text_mode="caption", au_pairs_per_image=None, au_text_length=256)
    batch = collator([split.faces[(0, row)] for row in (3, 5)])
    assert batch["au_input_ids"].ndim == 2
    for ids, row in zip(batch["au_input_ids"], (3, 5), strict=True):
        expected = tokenizer(split.rows[row]["caption_au"]).input_ids
        assert decode(tokenizer, ids) == decode(tokenizer, expected)


def test_per_au_sentences_follow_the_labels(folder, tokenizer):
    split = Split.load(str(folder), "train", None, AU_IDS)
    split.labels.aus[4, 2] = -1
    collator = make_collator(split, tokenizer, au_text_mode="per_au")
    batch = collator([split.faces[(0, 4)]])
    written = parse_au_caption(split.rows[4]["caption_au"])
    assert batch["au_input_ids"].shape[:2] == (1, 12)
    assert batch["au_caption_ids"].shape == (1, 12)
    for index, (au_id, label) in enumerate(zip(AU_IDS, split.labels.aus[4], strict=True)):
        expected = {1: written.get(au_id), 0: inactive_au_sentence(au_id), -1: None}[int(label)]
        mask = batch["au_attention_mask"][0, index]
        if expected is None:
            assert mask.sum() == 0 and batch["au_caption_ids"][0, index] == 0
        else:
            assert batch["au_caption_ids"][0, index] == caption_hash(expected)
            assert mask.sum() == len(tokenizer(expected).input_ids)


def test_random_emotion_texts_use_both_kinds_with_their_prompts(split, tokenizer):
    config = make_config(tokenizer, emo_text="random")
    collator = make_collator(split, tokenizer, emo_text="random")
    seen = set()
    for epoch in range(6):
        batch = collator([split.faces[(epoch, 0)]])
        text = decode(tokenizer, batch["input_ids"][0])
        kind = "emotion" if text.startswith("emotion") else "key_au"
        prompt = config.caption_prompt_ids[kind]
        assert batch["input_ids"][0, 1 : 1 + len(prompt)].tolist() == prompt
        seen.add(kind)
    assert seen == {"emotion", "key_au"}


def test_one_kind_has_no_prompt(split, tokenizer):
    assert make_config(tokenizer, emo_text="key_au").caption_prompt_ids is None
    batch = make_collator(split, tokenizer, emo_text="key_au")([split.faces[(0, 2)]])
    expected = tokenizer(split.rows[2]["caption_key_au"]).input_ids
    assert batch["input_ids"][0].tolist() == expected


def test_a_branch_that_is_off_gets_no_text(split, tokenizer):
    names = set(make_collator(split, tokenizer, use_au_vl=False)([split.faces[(0, 0)]]))
    assert "input_ids" in names and "au_input_ids" not in names


# ---------------------------------------------------------------------------------------------------------- randomness
def test_an_augmented_row_does_not_depend_on_its_batch(split, tokenizer):
    collator = make_collator(split, tokenizer, Augmentation(), seed=3, emo_text="random")
    alone = collator([split.faces[(2, 7)]])
    together = collator([split.faces[(2, row)] for row in (1, 7, 9)])
    for name in ("pixel_values", "au_boxes", "caption_ids"):
        torch.testing.assert_close(alone[name][0], together[name][1])


def test_epochs_rows_and_seeds_draw_differently(split, tokenizer):
    collator = make_collator(split, tokenizer, Augmentation(), seed=3)
    first, again, next_epoch = (collator([split.faces[key]])["pixel_values"] for key in ((0, 1), (0, 1), (1, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_epoch)
    assert len({row_seed(0, 0, 1), row_seed(0, 1, 0), row_seed(1, 0, 0), row_seed(0, 0, 0)}) == 4


def test_evaluation_examples_carry_neither_text_nor_augmentation(split, tokenizer):
    augmented = make_collator(split, tokenizer, Augmentation())
    plain = make_collator(split, tokenizer, None)
    batch = augmented([split.faces[5]])
    assert set(batch) == {"pixel_values", "au_boxes", "au_labels", "emotion_labels"}
    assert torch.equal(batch["pixel_values"], plain([split.faces[5]])["pixel_values"])


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide():
    sampler = EpochSampler(10, seed=1)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert sorted(row for _, row in first) == list(range(10))
    assert {epoch for epoch, _ in second} == {1}
    assert [row for _, row in first] != [row for _, row in second]
    assert list(EpochSampler(10, seed=1)) == first


# -------------------------------------------------------------------------------------------------------------- labels
def test_labels_are_those_of_the_data_set(folder, split, tokenizer):
    batch = make_collator(split, tokenizer)([split.faces[row] for row in range(16)])
    rows = load_mfa(folder, "train")
    assert batch["emotion_labels"].tolist() == list(rows["emotion"])
    assert batch["au_labels"][:, 6].tolist() == list(rows["AU12"])
    assert batch["au_labels"].shape == (16, 12)


def test_missing_landmarks_get_the_mean_face(split, tokenizer):
    example = split.faces[0]
    object.__setattr__(example, "landmarks_px", None)
    batch = make_collator(split, tokenizer)([example, split.faces[1]])
    assert batch["au_boxes"].shape == (2, 12, 2, 4)
    assert not torch.equal(batch["au_boxes"][0], batch["au_boxes"][1])


def test_au_weights_are_counts_within_bounds_and_one_where_nothing_is_labelled():
    aus = np.array([[1, -1, 0, 1], [0, -1, 0, 1], [0, -1, 0, 1], [-1, -1, 1, 1]])
    labels = Labels(aus, np.zeros(4, dtype=np.int64))
    assert labels.au_pos_weight() == [2.0, 1.0, 3.0, POS_WEIGHT_BOUNDS[0]]
    assert labels.unlabelled_aus() == [1]


def test_the_emotions_shares_balance_their_loss():
    labels = Labels(np.zeros((6, 0), dtype=np.int64), np.array([0, 0, 0, 2, -100, 0]))
    shift = labels.emotion_logit_shift(3, strength=0.5)
    np.testing.assert_allclose(shift, 0.5 * np.log([4 / 6, 1 / 6, 1 / 6]))


def test_unlabelled_emotions_become_minus_100(split):
    rows = split.rows.map(lambda row, index: {"emotion": None if index == 0 else row["emotion"]}, with_indices=True)
    assert Labels.from_rows(rows, AU_IDS).emotion[0] == -100


def test_fewer_rows_are_evenly_spaced(folder):
    split = Split.load(str(folder), "train", 4, AU_IDS)
    assert list(split.rows["file_name"]) == [load_mfa(folder, "train")[row]["file_name"] for row in (0, 5, 10, 15)]


def test_the_description_names_the_data_and_no_path(folder, split):
    assert split.description["name"] == "Generated faces"
    assert split.description["synthetic"] is True
    assert (split.description["rows"], split.description["videos"]) == (16, 2)
    assert str(folder.parent) not in str(split.description)


def test_an_unreadable_image_names_its_row(split):
    faces = split.faces
    faces.rows = faces.rows.map(lambda row: {"image": {"bytes": b"no picture", "path": None}})
    with pytest.raises(ValueError, match=r"Row 3 of Generated faces \(train\) \(.*\.jpg\)"):
        faces[(0, 3)]
