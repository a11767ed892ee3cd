"""The best of several captions: they are written beside each other, and the one that the model agrees with is kept.

Two things in a model know whether a sentence fits a face: its image-text matching head (Eq. 4), which learned to tell
a face's caption from another's, and its recognisers, which a caption should not contradict. The recognisers are asked
at the end of every clause, so that a caption that begins to contradict them gives way to a copy of one that does not:
one good clause of several at each place is enough, where whole captions would have to be right by chance. Inputs
of which every candidate contradicts them are written of again. The paper does not rank captions.

Words are drawn with random numbers that follow from the image alone, so that what is written of it depends neither on
its batch nor on what was written before.

Symbols in shapes: R visual inputs (faces, or regions of active AUs), K candidates of each, T tokens, D branch width.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache

from .caption_meaning_mf2 import RERANKINGS, RecognisedState, named_aus, restore_case
from .labels_mf2 import LabelSpace
from .qformer_mf2 import KeyValue, select_rows
from .recognition_mf2 import Recognition

NUM_CANDIDATES = 8
MIN_P = 0.1
"""Words are drawn that have at least so much of the likeliest one's probability: label smoothing leaves a little to
every word of the vocabulary, and any of those would spoil a sentence."""
ATTEMPTS = 3
"""How often an input is written of at most."""
MAX_WORDS_DRAWN_FROM = 64
CLAUSE_ENDS = (",", ".", ";", ":", ")", "and")


@dataclass
class Described:
    """The visual inputs that captions are written of.

    Args:
        visual_prefix: `(R, L, 2, H, Q, D / H)`, the keys and values that the queries leave for text.
        query_embeds: `(R, Q, D)`, for the matching head.
        vision_key_values: A layer's projected image, `(R, regions, H, N, D / H)`, for the matching head.
        states: What the recognisers say of each input's face.
        seeds: What the words of each input's candidates are drawn by.
        own_aus: The AU that each input's sentence is about; None of whole captions.
    """

    visual_prefix: torch.Tensor
    query_embeds: torch.Tensor
    vision_key_values: list[KeyValue | None]
    states: Sequence[RecognisedState]
    seeds: Sequence[tuple[int, ...]]
    own_aus: Sequence[int] | None = None

    def select(self, rows: torch.Tensor) -> "Described":
        """Some of the inputs."""
        numbers = rows.tolist()
        return Described(
            self.visual_prefix[rows],
            self.query_embeds[rows],
            select_rows(self.vision_key_values, rows),
            [self.states[row] for row in numbers],
            [self.seeds[row] for row in numbers],
            None if self.own_aus is None else [self.own_aus[row] for row in numbers],
        )


def image_seeds(pixel_values: torch.Tensor) -> list[int]:
    """`(B, 3, H, W)` -> a number for each image, which its pixels decide."""
    return [zlib.crc32(image.float().cpu().numpy().tobytes()) for image in pixel_values]


def recognised_states(seen: Recognition, label_space: LabelSpace, batch_size: int) -> list[RecognisedState]:
    """What recognisers say of each image of a batch, AUs at the label space's thresholds."""
    active, emotions = [None] * batch_size, [None] * batch_size
    if seen.au_logits is not None:
        is_active = seen.au_logits.float().sigmoid() >= seen.au_logits.new_tensor(label_space.thresholds).float()
        active = [frozenset(compress(label_space.au_codes, row)) for row in is_active.tolist()]
    if seen.emotion_logits is not None:
        emotions = [label_space.emotions[index] for index in seen.emotion_logits.argmax(-1).tolist()]
    return [RecognisedState(*state) for state in zip(active, emotions, strict=True)]


# ------------------------------------------------------------------------------------------------------------ writing
@dataclass
class CaptionRanking:
    """Writes several captions of each input and keeps the best.

    Args:
        branch: which writes and matches.
        caption_kind: which it is to write.
        max_length: tokens of a caption, `[DEC]` and the kind's prompt included.
        rerank: one of `RERANKINGS`.
        num_candidates: of each input; the first is greedy.
        tokenizer: of the branch's vocabulary.
    Raises:
        ValueError: an unknown way, no candidate, no tokenizer, or a matching head that was never trained.
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

    def write_best(self, described: Described) -> torch.Tensor:
        """The best caption of each input, `(R, T)` from `[DEC]` on, without the kind's prompt."""
        best, match, wrong = self._attempt(described, 0)
        for attempt in range(1, ATTEMPTS if self.rerank == "agreement" else 1):
            rows = wrong.nonzero().flatten()
            if not len(rows):
                break
            again, again_match, again_wrong = self._attempt(described.select(rows), attempt)
            is_better = (again_wrong < wrong[rows]) | ((again_wrong == wrong[rows]) & (again_match > match[rows]))
            rows = rows[is_better]
            best[rows], match[rows], wrong[rows] = again[is_better], again_match[is_better], again_wrong[is_better]
        length = int((best != self.branch.config.pad_token_id).sum(1).max())
        return best[:, :length]

    def _attempt(self, described: Described, attempt: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each input the best candidate of one writing `(R, max_length)`, its match `(R,)` and its disagreement."""
        ids = self.write(described, attempt)
        match, wrong = self.match_scores(described, ids), torch.zeros(ids.shape[:2], dtype=torch.long)
        if self.rerank == "agreement":
            counts = [[self.disagreement(described, row, text) for text in texts] for row, texts in enumerate(ids)]
            wrong = torch.tensor(counts)
        wrong = wrong.to(ids.device)
        ranked = match.masked_fill(wrong > wrong.min(1, keepdim=True).values, -torch.inf)
        best = torch.arange(len(ids), device=ids.device), ranked.argmax(1)
        ids = F.pad(ids, (0, self.max_length - ids.shape[-1]), value=self.branch.config.pad_token_id)
        return ids[best], match[best], wrong[best]

    def write(self, described: Described, attempt: int = 0) -> torch.Tensor:
        """All candidates, `(R, K, T)`, padded after their end; another attempt draws other words."""
        config, device = self.branch.config, described.visual_prefix.device
        num_rows = len(described.states) * self.num_candidates
        prefix = described.visual_prefix.repeat_interleave(self.num_candidates, dim=0)
        prefix = [tuple(layer.unbind(1)) for layer in prefix.unbind(1)]
        seeds = [(*seed, attempt) for seed in described.seeds]
        cache, drawing = DynamicCache(), Drawing(seeds, self.num_candidates, self.max_length)
        wrong = np.zeros((len(described.states), self.num_candidates), dtype=int)
        ids = torch.tensor([[config.bos_token_id, *self._prompt]], device=device).expand(num_rows, -1)
        fed, is_over = ids, torch.zeros(num_rows, dtype=torch.bool, device=device)
        while ids.shape[1] < self.max_length and not is_over.all():
            scores = self.branch.predict_tokens(self.branch.decode(fed, None, prefix, cache)[:, -1])
            words = drawing.draw(scores, ids.shape[1]).masked_fill(is_over, config.pad_token_id)
            ids = torch.cat([ids, words[:, None]], dim=1)
            if self.rerank == "agreement":
                self._count_wrong(described, ids, wrong)
                if (order := drawing.survivors(wrong, ids.shape[1] - 1)) is not None:
                    ids, wrong = ids[order.to(device)], wrong.ravel()[order.numpy()].reshape(wrong.shape)
                    cache.reorder_cache(order.to(device))
            fed, is_over = ids[:, -1:], ((ids[:, -1] == config.eos_token_id) | (ids[:, -1] == config.pad_token_id))
        ids = torch.cat([ids[:, :1], ids[:, 1 + len(self._prompt) :]], dim=1)
        return ids.unflatten(0, (-1, self.num_candidates))

    def _count_wrong(self, described: Described, ids: torch.Tensor, wrong: np.ndarray) -> None:
        """Count anew what is not supported in the candidates that have come to the end of a clause."""
        for number in torch.isin(ids[:, -1].cpu(), self._clause_ends).nonzero().flatten().tolist():
            row, candidate = divmod(number, self.num_candidates)
            text = ids[number, 1 + len(self._prompt) :]
            wrong[row, candidate] = self.disagreement(described, row, text, is_whole=False)

    # -------------------------------------------------------------------------------------------------------- judging
    def match_scores(self, described: Described, ids: torch.Tensor) -> torch.Tensor:
        """ITM's log-odds of each `(R, K, T)` candidate with its input, `(R, K)`; a head that was never trained prefers
        the first."""
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

    def disagreement(self, described: Described, row: int, ids: torch.Tensor, is_whole: bool = True) -> int:
        """How much of a text the recognisers do not support, see `RecognisedState.disagreement`.

        A sentence about an AU may name no other without naming its own.
        """
        text = restore_case(self.tokenizer.decode(ids, skip_special_tokens=True))
        wrong = described.states[row].disagreement(self.caption_kind, text, is_whole)
        if is_whole and described.own_aus is not None and (named := named_aus(text)):
            wrong += described.own_aus[row] not in named
        return wrong


# ------------------------------------------------------------------------------------------------------------ drawing
class Drawing:
    """The random numbers of all candidates, and what is drawn with them.

    Args:
        seeds: what the numbers of each input's candidates follow from.
        num_candidates: of each input; row r · K + k is candidate k of input r.
        num_steps: words of a candidate.
    """

    def __init__(self, seeds: Sequence[tuple[int, ...]], num_candidates: int, num_steps: int):
        keys = [(*seed, number) for seed in seeds for number in range(num_candidates)]
        numbers = np.stack([np.random.default_rng(key).random((2, num_steps)) for key in keys])
        self._of_words, self._of_copies = torch.from_numpy(numbers[:, 0]), numbers[:, 1]
        self._is_greedy = torch.arange(len(keys)) % num_candidates == 0

    def draw(self, scores: torch.Tensor, step: int) -> torch.Tensor:
        """`(R · K, vocabulary)` scores -> `(R · K)` words, by inverting the sum of the probabilities; the likeliest in
        the first candidate of each input."""
        probs, words = scores.double().softmax(-1).topk(min(MAX_WORDS_DRAWN_FROM, scores.shape[-1]))
        probs = probs * (probs >= MIN_P * probs[:, :1])
        mass = probs.cumsum(-1)
        drawn = torch.searchsorted(mass, self._of_words[:, step, None].to(mass.device) * mass[:, -1:], right=True)
        drawn = torch.minimum(drawn, (probs > 0).sum(-1, keepdim=True) - 1)  # rounding can end one past the last
        return words.gather(1, drawn.masked_fill(self._is_greedy[:, None].to(drawn.device), 0)).squeeze(1)

    def survivors(self, wrong: np.ndarray, step: int) -> torch.Tensor | None:
        """Which candidate each is to go on from, `(R · K)`: itself, or one of its input's with the least wrong, drawn
        evenly. None where all go on from themselves.

        Args:
            wrong: `(R, K)`, how much of each is not supported so far.
        """
        is_least = wrong == wrong.min(1, keepdims=True)
        if is_least.all():
            return None
        order = np.arange(wrong.size)
        for number in np.flatnonzero(~is_least.ravel()):
            row = number // wrong.shape[1]
            least = np.flatnonzero(is_least[row])
            order[number] = row * wrong.shape[1] + least[int(self._of_copies[number, step] * len(least))]
        return torch.from_numpy(order)


def refuse_settings(settings: Mapping[str, Any]) -> None:
    """Raise for settings of generation that candidates are not written by."""
    neutral = {"num_beams": 1, "num_return_sequences": 1, "do_sample": False, "use_cache": True}
    if given := sorted(name for name, value in settings.items() if value not in (None, neutral.get(name))):
        raise ValueError(f"rerank writes its own candidates; leave out {', '.join(given)}.")
