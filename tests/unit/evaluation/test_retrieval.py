"""Recall between faces and captions against a brute-force search, and how texts are embedded."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_mf2 import make_tiny

from mf2.alignment_mf2 import image_text_similarity
from mf2.dataset_tools.captions import inactive_au_sentence
from mf2.evaluation import retrieval
from mf2.evaluation.protocols import load_protocol
from mf2.evaluation.retrieval import (
    TextReader,
    au_sentences,
    bidirectional_recall,
    face_embeds,
    rank_of_first,
    recall_at_k,
    retrieval_scores,
    similarity,
)
from mf2.labels_mf2 import AU_IDS
from mf2.modeling_mf2 import MF2Model


def unit(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@pytest.fixture
def texts_of_faces():
    """12 faces that show 5 texts; some texts are shown by several faces."""
    return np.array([0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 4, 3])


@pytest.mark.parametrize("num_views", [1, 3])
def test_recall_equals_a_search_one_by_one(texts_of_faces, num_views):
    faces, texts = unit(12, num_views, 2, 8), unit(5, num_views, 8, seed=1)
    found = bidirectional_recall(faces, texts, texts_of_faces)
    similarity = np.array(
        [
            [np.mean([max(float(q @ texts[m, g]) for q in faces[i, g]) for g in range(num_views)]) for m in range(5)]
            for i in range(12)
        ]
    )
    for k in (1, 5, 10):
        by_text = np.mean([m in texts_of_faces[np.argsort(-similarity[:, m])[:k]] for m in range(5)])
        by_face = np.mean([texts_of_faces[i] in np.argsort(-similarity[i])[:k] for i in range(12)])
        assert found["text_to_face"]["recall"][str(k)] == pytest.approx(by_text)
        assert found["face_to_text"]["recall"][str(k)] == pytest.approx(by_face)


def test_blocks_change_nothing(texts_of_faces, monkeypatch):
    faces, texts = unit(12, 1, 2, 8), unit(5, 1, 8, seed=1)
    whole = bidirectional_recall(faces, texts, texts_of_faces)
    monkeypatch.setattr(retrieval, "MAX_SIMILARITIES", 1)
    assert bidirectional_recall(faces, texts, texts_of_faces) == whole


def test_perfect_embeddings_are_always_found_and_collapsed_ones_never(texts_of_faces):
    texts = torch.eye(5)[:, None]
    perfect = bidirectional_recall(torch.eye(5)[texts_of_faces][:, None, None], texts, texts_of_faces)
    assert perfect["text_to_face"]["recall"]["1"] == perfect["face_to_text"]["recall"]["1"] == 1.0
    collapsed = bidirectional_recall(torch.ones(12, 1, 1, 5), torch.ones(5, 1, 5), texts_of_faces)
    assert collapsed["text_to_face"]["recall"]["1"] == collapsed["face_to_text"]["recall"]["1"] == 0.0


def test_every_face_with_the_same_caption_is_right():
    similarities = torch.tensor([[0.9, 0.8, 0.1, 0.7]])
    assert rank_of_first(similarities, torch.tensor([[False, True, False, True]])).tolist() == [1]
    assert rank_of_first(similarities, torch.tensor([[True, True, False, False]])).tolist() == [0]


def test_chance_is_what_random_orders_reach():
    rng, num_right = np.random.default_rng(0), np.array([1, 3])
    found = recall_at_k(np.array([0, 7]), num_right, num_candidates=20)
    assert found["recall"] == {"1": 0.5, "5": 0.5, "10": 1.0}
    for k in (1, 5, 10):
        hits = [np.min(rng.permutation(20)[:count]) < k for count in num_right for _ in range(4000)]
        assert found["chance"][str(k)] == pytest.approx(np.mean(hits), abs=0.02)
    assert recall_at_k(np.array([0]), np.array([1]), num_candidates=3)["chance"]["10"] == 1.0


# --------------------------------------------------------------------------------------------------------------- texts
def test_an_au_caption_is_a_sentence_for_each_au():
    model, _ = make_tiny()
    sentences = au_sentences("1. AU12 (Lip Corner Puller): The lip corners rise.", model.config)
    assert sentences[AU_IDS.index(12)] == "The lip corners rise."
    assert sentences[0] == inactive_au_sentence(1) and len(sentences) == 12


def test_unlabelled_aus_are_not_denied():
    """What a face shows of an AU without a label counts neither for nor against a caption."""
    model, processor = make_tiny(au_text_mode="per_au")
    unlabelled = np.zeros((1, 12), bool)
    unlabelled[0, 3:] = True
    texts = TextReader(model, processor.tokenizer).embed("au", ["1. AU1 (Inner Brow Raiser): Up."], unlabelled)
    assert texts[0, :3].any(-1).all() and not texts[0, 3:].any()
    faces = unit(4, 12, 2, 16)
    others = torch.cat([faces[:, :3], unit(4, 9, 2, 16, seed=1)], dim=1)
    assert torch.equal(similarity(faces, texts), similarity(others, texts))
    torch.testing.assert_close(similarity(faces, texts), image_text_similarity(faces[:, :3], texts[:, :3]).mean(0))


@pytest.mark.parametrize("mode", ["caption", "per_au"])
def test_the_labels_of_a_split_say_what_its_captions_leave_open(mode, mfa_folder, monkeypatch):
    """Two faces share a caption; AU1 of one and AU2 of the other have no label, so that it says nothing of either."""
    model, processor = make_tiny(au_text_mode=mode)
    split = load_protocol(str(mfa_folder), "train", "mfa", AU_IDS)
    rows = split.rows.remove_columns("caption_au").add_column("caption_au", ["The same."] * 2 + ["Other."] * 6)
    aus = np.zeros_like(split.labels.aus)
    aus[0, 0] = aus[1, 1] = aus[5, 4] = -1
    split = type(split)(rows, dataclasses.replace(split.labels, aus=aus), split.description)
    given = {}
    embed = TextReader.embed
    monkeypatch.setattr(
        TextReader,
        "embed",
        lambda self, kind, captions, unlabelled: (
            given.update({kind: (captions, unlabelled)}) or embed(self, kind, captions, unlabelled)
        ),
    )
    batch = processor(images=[face.image for face in split.faces])
    with torch.no_grad():
        outputs = [MF2Model.forward(model, batch["pixel_values"], batch["au_boxes"])]
    retrieval_scores(model, processor.tokenizer, split, outputs)
    captions, unlabelled = given["au"]
    assert [(caption, np.flatnonzero(of).tolist()) for caption, of in zip(captions, unlabelled, strict=True)] == [
        ("Other.", [4]),
        ("The same.", [0, 1]),
    ]


@pytest.mark.parametrize("mode", ["caption", "per_au"])
def test_texts_are_embedded_as_the_model_reads_them(mode):
    model, processor = make_tiny(au_text_mode=mode)
    captions = ["The brows are raised.", "The lip corners rise.", "The brows are raised."]
    embeds = TextReader(model, processor.tokenizer).embed("emotion", captions)
    assert embeds.shape == (3, 1, 16) and torch.equal(embeds[0], embeds[2])
    ids = processor(text=captions[1])["input_ids"]
    torch.testing.assert_close(embeds[1], model.get_text_features(ids, branch="emo").pooler_output)
    of_aus = TextReader(model, processor.tokenizer).embed("au", captions)
    assert of_aus.shape == (3, 12 if mode == "per_au" else 1, 16)


@pytest.mark.parametrize("mode", ["caption", "per_au"])
def test_each_kind_of_caption_that_is_there_is_scored(mode, mfa_folder):
    model, processor = make_tiny(au_text_mode=mode)
    split = load_protocol(str(mfa_folder), "train", "mfa", AU_IDS)
    captions = [f"The brows are raised {index % 3} times." for index in range(8)]
    rows = split.rows.remove_columns("caption_emotion").add_column("caption_emotion", captions)
    rows = rows.remove_columns("caption_au").add_column("caption_au", [None, *captions[1:]])
    rows = rows.remove_columns("caption_key_au").add_column("caption_key_au", [None] * 8)
    split = type(split)(rows, split.labels, split.description)
    batch = processor(images=[face.image for face in split.faces])
    with torch.no_grad():
        outputs = [MF2Model.forward(model, batch["pixel_values"], batch["au_boxes"])]
    found = retrieval_scores(model, processor.tokenizer, split, outputs)
    assert set(found) == {"emotion", "au"}
    assert (found["emotion"]["num_faces"], found["emotion"]["num_texts"]) == (8, 3)
    assert found["au"]["num_faces"] == 7
    regions = face_embeds(outputs, "au", torch.zeros(1, 12 if mode == "per_au" else 1, 16))
    assert regions.shape == ((8, 12, 2, 16) if mode == "per_au" else (8, 1, 24, 16))
    assert image_text_similarity(regions, torch.zeros(1, regions.shape[1], 16)).shape[1:] == (8, 1)
