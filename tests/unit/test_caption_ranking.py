"""The best of several captions: drawn as the model says, the same for the same image, supported by the recognisers.

A vocabulary of whole words stands for a tokenizer, and a planted branch for one that was trained: what it would write,
and which of it the recognisers contradict, is then known.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_mf2 import make_tiny, write_pictures

from mf2.caption_meaning_mf2 import RecognisedState
from mf2.caption_ranking_mf2 import MIN_P, CandidateSampler, CaptionInputs, CaptionRanking
from mf2.caption_search_mf2 import Found, search_captions

WORDS = [
    "[PAD]",
    "[CLS]",
    "[DEC]",
    "[SEP]",
    "[UNK]",
    ".",
    ",",
    "the",
    "face",
    "is",
    "happy",
    "sad",
    "angry",
    "au12",
    "au4",
]
PAD, CLS, DEC, SEP = 0, 1, 2, 3
ID = {word: index for index, word in enumerate(WORDS)}


class WordTokenizer:
    cls_token_id, unk_token_id = CLS, ID["[UNK]"]

    def convert_tokens_to_ids(self, word: str) -> int:
        return ID.get(word, self.unk_token_id)

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool = True) -> str:
        return " ".join(WORDS[i] for i in ids.tolist() if not (skip_special_tokens and i <= 3))


class PlantedBranch:
    """Writes "the face is X, Y." with an emotion X and an AU Y by given probabilities, whatever came before."""

    def __init__(self, emotions: dict[str, float], aus: dict[str, float], itm_weight: float = 1.0):
        self.config = SimpleNamespace(
            bos_token_id=DEC,
            eos_token_id=SEP,
            pad_token_id=PAD,
            caption_prompt_ids=None,
            itm_weight=itm_weight,
            label_smoothing=0.0,
        )
        self.slots = [{"the": 1.0}, {"face": 1.0}, {"is": 1.0}, emotions, {",": 1.0}, aus, {".": 1.0}, {"[SEP]": 1.0}]
        self.matched: list[torch.Tensor] = []

    def decode(self, ids, attention_mask, prefix, cache):
        num_past = max(cache.get_seq_length() - prefix[0][0].shape[2], 0)
        if not cache.get_seq_length():
            cache.update(*prefix[0], 0)
        keys = ids[:, None, :, None].float()
        cache.update(keys, keys, 0)
        return torch.arange(num_past, num_past + ids.shape[1]).expand(len(ids), -1)

    def predict_tokens(self, positions):
        scores = torch.full((len(positions), len(WORDS)), -30.0)
        for row, position in enumerate(positions.tolist()):
            for word, prob in self.slots[min(position, len(self.slots) - 1)].items():
                scores[row, ID[word]] = float(np.log(prob))
        return scores

    def match(self, query_embeds, vision_key_values, ids, mask):
        """Prefers AU4."""
        self.matched.append(ids)
        return torch.stack([torch.zeros(len(ids)), (ids == ID["au4"]).any(1).float()], dim=1)


EMOTIONS, AUS = {"happy": 0.3, "sad": 0.5, "angry": 0.2}, {"au12": 0.4, "au4": 0.6}


def describe(num_inputs: int, active=("AU12",), emotion: str | None = "Happiness") -> CaptionInputs:
    return CaptionInputs(
        visual_prefix=torch.zeros(num_inputs, 1, 2, 1, 2, 1),
        query_embeds=torch.zeros(num_inputs, 2, 1),
        vision_key_values=[],
        states=[RecognisedState(frozenset(active), emotion)] * num_inputs,
        seeds=[(number,) for number in range(num_inputs)],
    )


def rank(branch: PlantedBranch, rerank: str = "agreement", num_candidates: int = 8) -> CaptionRanking:
    return CaptionRanking(branch, "key_au", 12, rerank, num_candidates, WordTokenizer())


def texts(ids: torch.Tensor) -> list[str]:
    return [WordTokenizer().decode(row) for row in ids]


# ------------------------------------------------------------------------------------------------------------ sampler
def test_words_are_drawn_by_their_probabilities_and_the_unlikely_never():
    probs = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])  # the last two are below a tenth of the likeliest
    assert probs[3] < MIN_P * probs[0] < probs[2]
    count = 20_000
    sampler = CandidateSampler([(number,) for number in range(count // 4)], num_candidates=4, num_steps=3)
    words = sampler.draw(probs.log().expand(count, -1), step=2).unflatten(0, (-1, 4))
    assert not words[:, 0].any()  # the first candidate is greedy
    counts = torch.bincount(words[:, 1:].flatten(), minlength=5)
    assert counts[3:].tolist() == [0, 0]
    expected = probs[:3].double() / probs[:3].double().sum() * counts.sum()
    assert chisquare(counts[:3], expected).pvalue > 0.01


def test_what_is_drawn_follows_from_the_seed_alone():
    scores = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    alone, among = CandidateSampler([(7,)], 4, 5), CandidateSampler([(3,), (7,)], 4, 5)
    torch.manual_seed(1)
    assert torch.equal(alone.draw(scores[4:], 1), among.draw(scores, 1)[4:])


def test_the_wrong_go_on_from_copies_of_the_least_wrong_of_their_input():
    sampler = CandidateSampler([(0,), (1,), (2,)], 4, 3)
    wrong = np.array([[0, 2, 0, 1], [1, 1, 1, 1], [3, 2, 2, 4]])
    order = sampler.survivors(wrong, step=1).reshape(3, 4)
    assert order[0, [0, 2]].tolist() == [0, 2] and set(order[0, [1, 3]].tolist()) <= {0, 2}
    assert order[1].tolist() == [4, 5, 6, 7]
    assert order[2, [1, 2]].tolist() == [9, 10] and set(order[2, [0, 3]].tolist()) <= {9, 10}
    assert sampler.survivors(np.ones((3, 4), int), step=1).tolist() == list(range(12))


# ------------------------------------------------------------------------------------------------------------ ranking
def test_agreement_keeps_what_the_recognisers_support():
    """By chance one whole caption in eight is; the matching head prefers the wrong AU."""
    best = texts(rank(PlantedBranch(EMOTIONS, AUS)).write_best(describe(50)))
    assert best == ["the face is happy , au12 ."] * 50


def test_clauses_that_contradict_are_left_before_the_caption_ends():
    """Then most candidates are right, where of whole captions 12 % would be."""
    written = rank(PlantedBranch(EMOTIONS, AUS)).write(describe(50)).flatten(0, 1)
    right = np.mean([text == "the face is happy , au12 ." for text in texts(written)])
    alone = rank(PlantedBranch(EMOTIONS, AUS), "match").write(describe(50)).flatten(0, 1)
    by_chance = np.mean([text == "the face is happy , au12 ." for text in texts(alone)])
    assert right > 0.9 and by_chance < 0.25


def test_the_matching_head_decides_among_equals_and_alone():
    branch = PlantedBranch(EMOTIONS, AUS)
    supported = describe(20, active=("AU4", "AU12"))
    assert set(texts(rank(branch).write_best(supported))) == {"the face is happy , au4 ."}
    assert all("au4" in text for text in texts(rank(branch, "match").write_best(describe(20))))
    assert all((ids[:, 0] == CLS).all() for ids in branch.matched)  # it reads texts as in training


def test_what_cannot_be_right_is_as_little_wrong_as_it_can_be():
    """Of a surprised face that this branch has no word for, and no AU: one emotion and one AU are wrong."""
    described = describe(5, active=(), emotion="Surprise")
    ranking = rank(PlantedBranch(EMOTIONS, AUS))
    for row, ids in enumerate(ranking.write_best(described)):
        assert ranking.disagreement(described, row, ids) == 2


def test_an_emotion_that_the_branch_hardly_ever_writes_is_found_by_a_search():
    """0.2 % of what is drawn names it, and a word below a tenth of the likeliest is never drawn."""
    ranking = rank(PlantedBranch({"sad": 0.998, "happy": 0.002}, {"au12": 1.0}))
    assert not (ranking.write(describe(20)) == ID["happy"]).any()
    assert texts(ranking.write_best(describe(20))) == ["the face is happy , au12 ."] * 20


def test_a_sentence_names_an_action_unit_once():
    """Of two drawn in a row, 68 % are the same."""
    branch = PlantedBranch({"happy": 1.0}, {"au12": 0.8, "au4": 0.2})
    branch.slots[6:6] = branch.slots[4:6]
    written = texts(rank(branch).write_best(describe(50, active=("AU4", "AU12"))))
    assert set(written) == {"the face is happy , au12 , au4 .", "the face is happy , au4 , au12 ."}


def test_what_label_smoothing_alone_makes_possible_is_not_written():
    branch = PlantedBranch({"sad": 0.992, "happy": 0.008}, {"au12": 1.0})
    branch.config.label_smoothing = 0.1  # 0.1 / 15 words
    assert texts(rank(branch).write_best(describe(3))) == ["the face is sad , au12 ."] * 3


def test_only_what_contradicts_the_recognisers_is_searched_for(monkeypatch):
    searched = []
    monkeypatch.setattr(
        "mf2.caption_ranking_mf2.search_captions",
        lambda branch, prefix, *_: searched.append(len(prefix)) or [Found() for _ in prefix],
    )
    described = describe(6, active=("AU4", "AU12"), emotion=None)
    described.states[2:4] = [RecognisedState(frozenset(), "Surprise")] * 2
    rank(PlantedBranch(EMOTIONS, AUS)).write_best(described)
    assert searched == [2]


def test_the_likeliest_supported_captions_are_found_in_order():
    branch = PlantedBranch(EMOTIONS, AUS)
    (found,) = search_captions(
        branch, torch.zeros(1, 1, 2, 1, 2, 1), [DEC], 12, num_beams=3, is_refused=lambda row, ids: ids[-1] == ID["sad"]
    )
    assert texts(torch.tensor(found.ids)) == [
        f"the face is {text} ." for text in ("happy , au4", "happy , au12", "angry , au4")
    ]
    np.testing.assert_allclose(np.exp(np.multiply(found.scores, 9)), [0.18, 0.12, 0.12], rtol=1e-4)


def test_without_a_trained_matching_head_the_greedy_one_is_preferred():
    best = rank(PlantedBranch({"happy": 0.6, "angry": 0.4}, AUS, itm_weight=0)).write_best(
        describe(20, active=("AU4", "AU12"), emotion=None)
    )
    assert set(texts(best)) == {"the face is happy , au4 ."}


# ----------------------------------------------------------------------------------------------------------- generate
@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    model, processor = make_tiny(au_text_mode="per_au")
    return model, processor, processor(images=write_pictures(tmp_path_factory.mktemp("pictures"), 4))


@pytest.mark.parametrize("kind", ["emotion", "au"])
@pytest.mark.parametrize("rerank", ["agreement", "match"])
def test_the_best_do_not_depend_on_the_batch_or_on_what_was_drawn_before(tiny, kind, rerank):
    model, processor, batch = tiny
    settings = {"caption_kind": kind, "rerank": rerank, "tokenizer": processor.tokenizer, "num_candidates": 3}
    together = model.generate(**batch, **settings)
    torch.rand(5)
    for row in range(4):
        one = {name: batch[name][row : row + 1] for name in ("pixel_values", "au_boxes")}
        alone = model.generate(**one, **settings)
        length = min(alone.shape[-1], together.shape[-1])
        assert torch.equal(together[row, ..., :length], alone[0, ..., :length])
        assert not together[row, ..., length:].any() and not alone[0, ..., length:].any()


@pytest.mark.parametrize("kind", ["emotion", "au"])
def test_one_candidate_is_the_greedy_caption(tiny, kind):
    model, processor, batch = tiny
    greedy = model.generate(**batch, caption_kind=kind, num_beams=1)
    best = model.generate(**batch, caption_kind=kind, rerank="match", num_candidates=1, tokenizer=processor.tokenizer)
    assert torch.equal(best, greedy[..., : best.shape[-1]]) and not greedy[..., best.shape[-1] :].any()


def test_texts_are_as_long_as_is_asked_for(tiny):
    model, processor, batch = tiny
    best = model.generate(**batch, rerank="match", tokenizer=processor.tokenizer, max_new_tokens=3)
    assert best.shape[1] <= 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rerank": "best"}, "rerank is 'best'; choose one of agreement, match, or None"),
        ({"rerank": "match", "num_candidates": 0}, "num_candidates is 0; it must be >= 1"),
        ({"rerank": "match", "tokenizer": None}, "give tokenizer=processor.tokenizer"),
        ({"rerank": "match", "num_beams": 4, "do_sample": True}, "leave out do_sample, num_beams"),
    ],
)
def test_what_cannot_be_ranked_is_refused(tiny, settings, words):
    model, processor, batch = tiny
    with pytest.raises(ValueError, match=words):
        model.generate(**batch, **{"tokenizer": processor.tokenizer} | settings)


def test_a_matching_head_that_was_never_trained_ranks_nothing():
    model, processor = make_tiny(itm_weight=0)
    pixels = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="itm_weight is 0"):
        model.generate(pixels, torch.rand(1, 12, 2, 4).sort(-1).values, rerank="match", tokenizer=processor.tokenizer)
