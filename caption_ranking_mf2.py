"""Re-ranking of captions: several candidates are generated in parallel, and the one with the best score is kept.

Two parts of the model measure whether a caption fits a face: the image-text matching head (Eq. 4), and the
recognisers, which a caption should not contradict. Candidates are compared with the recognisers at the end of every
clause, and one that contradicts them is replaced by a copy of one that does not (as in a particle filter), so that it
is sufficient if some candidates have a correct clause at each point. If all candidates of an input contradict the
recognisers, a search follows (`caption_search_mf2`). The paper does not rank captions.

The random numbers of the sampling are seeded by the image alone, so that a caption depends neither on the batch nor on
earlier calls.

Symbols in shapes: R visual inputs (faces, or regions of active AUs), K candidates of each, T tokens, D branch width.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from .caption_meaning_mf2 import RERANKINGS, RecognisedState, named_aus, names_au_twice, restore_case
from .caption_search_mf2 import search_captions
from .labels_mf2 import LabelSpace
from .qformer_mf2 import KeyValue, select_rows
from .recognition_mf2 import Recognition

NUM_CANDIDATES = 8
MIN_P = 0.1
"""Minimal probability of a sampled token relative to the most likely one (min-p sampling): label smoothing gives every
token of the vocabulary some probability, and a single such token would spoil a sentence."""
NUM_BEAMS = 16
"""Number of beams of the search for a caption of an input whose drawn candidates all contradict the recognisers."""
MAX_WORDS_DRAWN_FROM = 64
CLAUSE_ENDS = (",", ".", ";", ":", ")", "and")


@dataclass
class CaptionInputs:
    """The visual inputs of captions.

    Args:
        visual_prefix: `(R, L, 2, H, Q, D / H)`, the queries' keys and values in every layer, which the text reads.
        query_embeds: `(R, Q, D)`, for the matching head.
        vision_key_values: For each layer the keys and values of the image, `(R, regions, H, N, D / H)`, for the
            matching head.
        states: The recognised state of each input's face.
        seeds: The seeds of each input's candidates.
        own_aus: The AU that each input's sentence describes; None for whole captions.
    """

    visual_prefix: torch.Tensor
    query_embeds: torch.Tensor
    vision_key_values: list[KeyValue | None]
    states: Sequence[RecognisedState]
    seeds: Sequence[tuple[int, ...]]
    own_aus: Sequence[int] | None = None

    def select(self, rows: torch.Tensor) -> "CaptionInputs":
        """Select inputs by their indexes."""
        numbers = rows.tolist()
        return CaptionInputs(
            self.visual_prefix[rows],
            self.query_embeds[rows],
            select_rows(self.vision_key_values, rows),
            [self.states[row] for row in numbers],
            [self.seeds[row] for row in numbers],
            None if self.own_aus is None else [self.own_aus[row] for row in numbers],
        )


def image_seeds(pixel_values: torch.Tensor) -> list[int]:
    """`(B, 3, H, W)` -> a seed for each image, a checksum of its pixels."""
    return [zlib.crc32(image.float().cpu().numpy().tobytes()) for image in pixel_values]


def recognised_states(output: Recognition, label_space: LabelSpace, batch_size: int) -> list[RecognisedState]:
    """The recognised states of the images of a batch, with AUs at the thresholds of the label space."""
    active, emotions = [None] * batch_size, [None] * batch_size
    if output.au_logits is not None:
        is_active = output.au_logits.float().sigmoid() >= output.au_logits.new_tensor(label_space.thresholds).float()
        active = [frozenset(compress(label_space.au_codes, row)) for row in is_active.tolist()]
    if output.emotion_logits is not None:
        emotions = [label_space.emotions[index] for index in output.emotion_logits.argmax(-1).tolist()]
    return [RecognisedState(*state) for state in zip(active, emotions, strict=True)]


# ------------------------------------------------------------------------------------------------------------ writing
@dataclass
class CaptionRanking:
    """Generates several captions for each input and keeps the best.

    Args:
        branch: the branch that generates and matches.
        caption_kind: the kind of caption.
        max_length: maximal number of tokens, including `[DEC]` and the prompt of the kind.
        rerank: one of `RERANKINGS`.
        num_candidates: number of candidates per input; the first is greedy.
        tokenizer: tokenizer of the branch's vocabulary.
    Raises:
        ValueError: an unknown `rerank`, less than one candidate, no tokenizer, or an untrained matching head.
    """

    branch: Any
    caption_kind: str
    max_length: int
    rerank: str
    num_candidates: int
    tokenizer: Any

    def __post_init__(self):
        if self.rerank not in RERANKINGS:
            raise ValueError(f"rerank is {self.rerank!r}; choose one of {', '.join(RERANKINGS)}, or None.")
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates is {self.num_candidates}; it must be >= 1.")
        if self.tokenizer is None:
            raise ValueError("rerank reads what is written; give tokenizer=processor.tokenizer.")
        config = self.branch.config
        if self.rerank == "match" and not config.itm_weight:
            raise ValueError("rerank='match' needs a matching head, but itm_weight is 0: this one was never trained.")
        self._prompt = list((config.caption_prompt_ids or {}).get(self.caption_kind, []))
        ends = {self.tokenizer.convert_tokens_to_ids(end) for end in CLAUSE_ENDS} - {self.tokenizer.unk_token_id}
        self._clause_ends = torch.tensor([config.eos_token_id, *sorted(ends)])

    def write_best(self, described: CaptionInputs) -> torch.Tensor:
        """Generate the best caption of each input, `(R, T)` from `[DEC]` on, without the prompt of the kind."""
        ids = self.write(described)
        match, wrong = self.match_scores(described, ids), torch.zeros(ids.shape[:2], dtype=torch.long)
        if self.rerank == "agreement":
            counts = [[self.disagreement(described, row, text) for text in texts] for row, texts in enumerate(ids)]
            wrong = torch.tensor(counts)
        wrong, least = wrong.to(ids.device), wrong.min(1).values.tolist()
        best = match.masked_fill(wrong > wrong.min(1, keepdim=True).values, -torch.inf).argmax(1)
        ids = ids[torch.arange(len(ids), device=ids.device), best]
        texts = dict(enumerate(ids.unbind()))
        texts |= self._search([row for row, count in enumerate(least) if count], described, least)
        return pad_sequence(list(texts.values()), batch_first=True, padding_value=self.branch.config.pad_token_id)

    def _search(self, rows: list[int], described: CaptionInputs, least: Sequence[int]) -> dict[int, torch.Tensor]:
        """Search for captions of inputs that were left with a disagreement, see `search_captions`.

        Returns:
            Index of an input -> caption with less disagreement than `least`.
        """
        if not rows:
            return {}
        device = described.visual_prefix.device
        found = search_captions(
            self.branch,
            described.visual_prefix[torch.tensor(rows, device=device)],
            [self.branch.config.bos_token_id, *self._prompt],
            self.max_length,
            NUM_BEAMS,
            lambda place, ids: self._is_misled(described.states[rows[place]], ids),
        )
        better: dict[int, torch.Tensor] = {}
        for row, of_row in zip(rows, found, strict=True):
            texts = [torch.tensor([ids[0], *ids[1 + len(self._prompt) :]], device=device) for ids in of_row.ids]
            wrong = [self.disagreement(described, row, text) for text in texts]
            best = min(range(len(texts)), key=lambda index: (wrong[index], -of_row.scores[index]), default=None)
            if best is not None and wrong[best] < least[row]:
                better[row] = texts[best]
        return better

    def _is_misled(self, state: RecognisedState, ids: list[int]) -> bool:
        """Whether the search leaves an unfinished caption: it is misled, or repeats itself."""
        text = self._read(torch.tensor(ids[1 + len(self._prompt) :]))
        return state.is_misled(self.caption_kind, text) or names_au_twice(text)

    def write(self, described: CaptionInputs) -> torch.Tensor:
        """Draw all candidates, `(R, K, T)`, padded after their end."""
        config, device = self.branch.config, described.visual_prefix.device
        num_rows = len(described.states) * self.num_candidates
        prefix = described.visual_prefix.repeat_interleave(self.num_candidates, dim=0)
        prefix = [tuple(layer.unbind(1)) for layer in prefix.unbind(1)]
        cache, sampler = DynamicCache(), CandidateSampler(described.seeds, self.num_candidates, self.max_length)
        wrong = np.zeros((len(described.states), self.num_candidates), dtype=int)
        ids = torch.tensor([[config.bos_token_id, *self._prompt]], device=device).expand(num_rows, -1)
        fed, rows = ids, torch.arange(num_rows, device=device)
        while ids.shape[1] < self.max_length and len(rows):
            scores = self.branch.predict_tokens(self.branch.decode(fed, None, prefix, cache)[:, -1])
            words = ids.new_full((num_rows,), config.pad_token_id)
            words[rows] = sampler.draw(scores, ids.shape[1], rows.cpu())
            ids, order = torch.cat([ids, words[:, None]], dim=1), torch.arange(num_rows)
            if self.rerank == "agreement":
                self._count_wrong(described, ids, wrong)
                order = sampler.survivors(wrong, ids.shape[1] - 1)
                ids, wrong = ids[order.to(device)], wrong.ravel()[order.numpy()].reshape(wrong.shape)
            rows = self._go_on(ids, rows, order.to(device), cache)
            fed = ids[rows, -1:]
        ids = torch.cat([ids[:, :1], ids[:, 1 + len(self._prompt) :]], dim=1)
        return ids.unflatten(0, (-1, self.num_candidates))

    def _go_on(self, ids: torch.Tensor, rows: torch.Tensor, order: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Reduce the cache to the candidates that have not ended, in the order of their indexes, which are returned.

        Args:
            ids: `(R · K, T)`, all candidates.
            rows: indexes of the candidates in the cache.
            order: `(R · K)`, the candidate that each one was copied from.
        """
        place = torch.full_like(order, -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        is_over = (ids[:, -1] == self.branch.config.eos_token_id) | (ids[:, -1] == self.branch.config.pad_token_id)
        open_rows = (~is_over).nonzero().flatten()
        kept = place[order[open_rows]]
        if len(kept) and not torch.equal(kept, place[rows]):
            cache.batch_select_indices(kept)
        return open_rows

    def _count_wrong(self, described: CaptionInputs, ids: torch.Tensor, wrong: np.ndarray) -> None:
        """Update the disagreement of the candidates that are at the end of a clause."""
        for number in torch.isin(ids[:, -1].cpu(), self._clause_ends).nonzero().flatten().tolist():
            row, candidate = divmod(number, self.num_candidates)
            text = ids[number, 1 + len(self._prompt) :]
            wrong[row, candidate] = self.disagreement(described, row, text, is_whole=False)

    # -------------------------------------------------------------------------------------------------------- judging
    def match_scores(self, described: CaptionInputs, ids: torch.Tensor) -> torch.Tensor:
        """ITM log-odds `(R, K)` of each candidate `(R, K, T)`; with an untrained head, scores fall with the index."""
        config = self.branch.config
        if not config.itm_weight:
            return -torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[:2]).float()
        opening = ids.new_tensor([self.tokenizer.cls_token_id, *self._prompt]).expand(len(ids), -1)
        scores = []
        for candidate in ids.unbind(1):
            texts = torch.cat([opening, candidate[:, 1:]], dim=1)  # as in training: [CLS], not [DEC]
            mask = (texts != config.pad_token_id).long()
            logits = self.branch.match(described.query_embeds, described.vision_key_values, texts, mask).float()
            scores.append(logits[:, 1] - logits[:, 0])
        return torch.stack(scores, dim=1)

    def _read(self, ids: torch.Tensor) -> str:
        return restore_case(self.tokenizer.decode(ids, skip_special_tokens=True))

    def disagreement(self, described: CaptionInputs, row: int, ids: torch.Tensor, is_whole: bool = True) -> int:
        """The number of statements that the recognisers do not support, see `RecognisedState.disagreement`.

        A sentence that names an AU twice counts as one more; a sentence on an AU that names other AUs must also name
        that AU.
        """
        text = self._read(ids)
        state, repeats = described.states[row], names_au_twice(text)
        if not is_whole:
            return state.contradictions(self.caption_kind, text) + repeats
        wrong = state.disagreement(self.caption_kind, text) + repeats
        if described.own_aus is not None and (named := named_aus(text)):
            wrong += described.own_aus[row] not in named
        return wrong


# ------------------------------------------------------------------------------------------------------------ sampler
class CandidateSampler:
    """Samples tokens and surviving candidates with seeded random numbers.

    Args:
        seeds: the seeds of each input.
        num_candidates: number of candidates per input; row r · K + k is candidate k of input r.
        num_steps: maximal number of tokens of a candidate.
    """

    def __init__(self, seeds: Sequence[tuple[int, ...]], num_candidates: int, num_steps: int):
        keys = [(*seed, number) for seed in seeds for number in range(num_candidates)]
        numbers = np.stack([np.random.default_rng(key).random((2, num_steps)) for key in keys])
        self._of_words, self._of_copies = torch.from_numpy(numbers[:, 0]), numbers[:, 1]
        self._is_greedy = torch.arange(len(keys)) % num_candidates == 0

    def draw(self, scores: torch.Tensor, step: int, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Sample tokens by inverse transform sampling: `(N, vocabulary)` scores -> `(N)` token ids.

        The first candidate of each input takes the most likely token.

        Args:
            rows: the candidates of the scores, by default all.
        """
        scores, words = scores.topk(min(MAX_WORDS_DRAWN_FROM, scores.shape[-1]))
        probs = (scores.double() - scores[:, :1].double()).exp()  # relative to the likeliest
        probs = probs * (probs >= MIN_P)
        mass = probs.cumsum(-1)
        chance = self._of_words[rows, step, None].to(mass.device)
        drawn = torch.searchsorted(mass, chance * mass[:, -1:], right=True)
        drawn = torch.minimum(drawn, (probs > 0).sum(-1, keepdim=True) - 1)  # rounding can end one past the last
        return words.gather(1, drawn.masked_fill(self._is_greedy[rows, None].to(drawn.device), 0)).squeeze(1)

    def survivors(self, wrong: np.ndarray, step: int) -> torch.Tensor:
        """The candidate from which each one continues, `(R · K)`.

        Candidates with more disagreement than the best of their input are replaced by a random one of the best.

        Args:
            wrong: `(R, K)`, the disagreement of each candidate so far.
            step: index of the token.
        """
        is_least = wrong == wrong.min(1, keepdims=True)
        order = np.arange(wrong.size)
        for number in np.flatnonzero(~is_least.ravel()):
            row = number // wrong.shape[1]
            least = np.flatnonzero(is_least[row])
            order[number] = row * wrong.shape[1] + least[int(self._of_copies[number, step] * len(least))]
        return torch.from_numpy(order)


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for settings of `generate` that re-ranking does not support."""
    neutral = {"num_beams": 1, "num_return_sequences": 1, "do_sample": False, "use_cache": True}
    if given := sorted(name for name, value in settings.items() if value not in (None, neutral.get(name))):
        raise ValueError(f"rerank writes its own candidates; leave out {', '.join(given)}.")
