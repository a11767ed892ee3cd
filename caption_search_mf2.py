"""Search for the likeliest caption that the recognisers support: beam search without tokens that contradict them.

Where a branch is sure of what the recognisers do not support, captions that are drawn at random contain it again and
again. The search only refuses tokens: what it finds is a text of the branch, with the branch's probability for it.

Symbols in shapes: R visual inputs, K beams of each, T tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

MIN_PROB, NOISE_FACTOR = 1e-4, 2
"""Minimal probability of a token: this, and that many times what label smoothing gives every token."""
MAX_WORDS_TRIED = 64
"""Maximal number of tokens that are tried after a beam."""


@dataclass
class Found:
    """The captions that were found for an input.

    Args:
        ids: token ids of each, with `[DEC]`, prompt and end.
        scores: mean log-probability of the tokens of each.
    """

    ids: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, ids: list[int], log_prob: float) -> None:
        """Add a caption by its tokens and the log-probability of all of them."""
        self.ids.append(ids)
        self.scores.append(log_prob / len(ids))


@dataclass
class _Beams:
    """The unfinished captions of all inputs: tokens, log-probability, and the input of each."""

    ids: list[list[int]]
    log_probs: list[float]
    rows: list[int]
    parents: list[int] = field(default_factory=list)


@torch.no_grad()
def search_captions(
    branch: Any,
    visual_prefix: torch.Tensor,
    opening: list[int],
    max_length: int,
    num_beams: int,
    is_refused: Callable[[int, list[int]], bool],
) -> list[Found]:
    """Find up to `num_beams` captions of each input.

    Args:
        branch: the branch that generates.
        visual_prefix: `(R, L, 2, H, Q, D / H)`, see `CaptionInputs`.
        opening: `[DEC]` and the prompt of the kind.
        max_length: maximal number of tokens.
        num_beams: number of beams of each input.
        is_refused: whether an unfinished caption of an input (its index and all tokens) is left.
    """
    config, device = branch.config, visual_prefix.device
    found = [Found() for _ in range(len(visual_prefix))]
    beams = _Beams([list(opening)] * len(found), [0.0] * len(found), list(range(len(found))))
    prefix = [tuple(layer.unbind(1)) for layer in visual_prefix.unbind(1)]
    cache, fed = DynamicCache(), torch.tensor(beams.ids, device=device)
    while beams.ids:
        scores = branch.predict_tokens(branch.decode(fed, None, prefix, cache)[:, -1]).float().log_softmax(-1)
        min_prob = max(MIN_PROB, NOISE_FACTOR * config.label_smoothing / scores.shape[-1])
        log_probs, words = scores.topk(min(MAX_WORDS_TRIED, scores.shape[-1]))
        log_probs = log_probs.masked_fill(log_probs < math.log(min_prob), -torch.inf)
        beams = _extend(beams, log_probs.cpu(), words.cpu(), num_beams, config.eos_token_id, found, is_refused)
        if not beams.ids or len(beams.ids[0]) >= max_length:
            break
        cache.batch_select_indices(torch.tensor(beams.parents, device=device))
        fed = torch.tensor([ids[-1:] for ids in beams.ids], device=device)
    return found


def _extend(
    beams: _Beams,
    log_probs: torch.Tensor,
    words: torch.Tensor,
    num_beams: int,
    end: int,
    found: list[Found],
    is_refused: Callable[[int, list[int]], bool],
) -> _Beams:
    """Extend beams by a token each: the likeliest `num_beams` of an input that are not refused.

    Captions that end are added to `found`; an input with `num_beams` of them has no beams left.

    Args:
        log_probs, words: `(beams, words tried)`, likeliest first.
    """
    longer = _Beams([], [], [])
    totals = torch.tensor(beams.log_probs)[:, None] + log_probs
    for row, of_row in enumerate(found):
        numbers = [number for number, its_row in enumerate(beams.rows) if its_row == row]
        ranked = totals[numbers].flatten().sort(descending=True)
        num_kept = 0
        for total, place in zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True):
            if total == -math.inf or num_kept == num_beams or len(of_row.ids) == num_beams:
                break
            parent, column = numbers[place // words.shape[1]], place % words.shape[1]
            ids = [*beams.ids[parent], int(words[parent, column])]
            if ids[-1] == end:
                of_row.add(ids, total)
            elif not is_refused(row, ids):
                num_kept += 1
                longer.ids.append(ids)
                longer.log_probs.append(total)
                longer.rows.append(row)
                longer.parents.append(parent)
    done = [len(of_row.ids) >= num_beams for of_row in found]
    open_ = [number for number, row in enumerate(longer.rows) if not done[row]]
    return _Beams(*([values[number] for number in open_] for values in vars(longer).values()))
