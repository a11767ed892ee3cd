"""Retrieval between faces and captions: recall@k in both directions, by kind of caption.

All faces with the same caption are correct answers to it, and a caption that several faces share is one text, so
identical texts never count as errors. Ties count against the model, so that mapping everything to one point scores 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom
from transformers import PreTrainedTokenizerBase

from mf2.alignment_mf2 import image_text_similarity
from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.captions import CAPTION_PROMPTS, TokenTable
from mf2.data_loading.splits import Split
from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption
from mf2.labels_mf2 import AU_UNLABELLED
from mf2.modeling_mf2 import CAPTION_BRANCH, MF2Model, MF2Output

RECALLS_AT = (1, 5, 10)
TEXT_BATCH_SIZE = 256
MAX_SIMILARITIES = 1 << 24
"""Similarities between queries and texts in memory at a time: 64 MiB."""


def retrieval_scores(
    model: MF2Model, tokenizer: PreTrainedTokenizerBase, split: Split, outputs: Sequence[MF2Output]
) -> dict[str, dict[str, Any]]:
    """Recall for every kind of caption that the split has and the model has a branch for.

    Args:
        model: embeds the texts.
        split: faces and captions; faces without a caption of a kind are skipped for that kind.
        outputs: the model's outputs for the faces of the split, by batch, on the CPU.
    Returns:
        Kind -> `{"num_faces", "num_texts", "text_to_face", "face_to_text"}`. Each direction is `{"recall": {"1": …},
        "chance": {"1": …}}`: the share of queries with a correct answer among the first k, and the same for a random
        order.
    """
    scores = {}
    for kind, branch in CAPTION_BRANCH.items():
        captions = np.array(split.rows[f"caption_{kind}"], dtype=object)
        faces = np.flatnonzero(captions.astype(bool))
        if branch in model.branches and len(faces):
            texts, text_of_face = np.unique(captions[faces].astype(str), return_inverse=True)
            unlabelled = np.zeros((len(texts), split.labels.aus.shape[1]), bool)
            np.logical_or.at(unlabelled, text_of_face, split.labels.aus[faces] == AU_UNLABELLED)
            embeds = TextReader(model, tokenizer).embed(kind, texts.tolist(), unlabelled)
            scores[kind] = bidirectional_recall(face_embeds(outputs, branch, embeds)[faces], embeds, text_of_face)
    return scores


def face_embeds(outputs: Sequence[MF2Output], branch: str, text_embeds: torch.Tensor) -> torch.Tensor:
    """`(N, G, Q, P)` queries of all faces: G is 1, or A if the texts are one per AU."""
    if branch == "emo":
        return torch.cat([output.emotion_embeds for output in outputs if output.emotion_embeds is not None])[:, None]
    regions = torch.cat([output.au_embeds for output in outputs if output.au_embeds is not None])  # (N, A, Q, P)
    return regions if text_embeds.shape[1] == regions.shape[1] else regions.flatten(1, 2)[:, None]


# -------------------------------------------------------------------------------------------------------------- texts
@dataclass(frozen=True)
class TextReader:
    """Embeds captions in the form that the model was trained on."""

    model: MF2Model
    tokenizer: PreTrainedTokenizerBase

    def embed(self, kind: str, captions: Sequence[str], unlabelled: np.ndarray | None = None) -> torch.Tensor:
        """Return `(M, G, P)` embeddings on the CPU: G is 1, or A for AU captions in `per_au` mode.

        Args:
            unlabelled: `(M, A)` bool, AUs that are unlabelled in the faces of a caption; their embeddings are 0, and
                `similarity` skips them.
        """
        config = self.model.config
        if kind == "au" and config.au_text_mode == "per_au":
            sentences = [sentence for caption in captions for sentence in au_sentences(caption, config)]
            embeds = self._embed_texts(kind, sentences, config.au_sentence_length).unflatten(0, (len(captions), -1))
            return embeds if unlabelled is None else embeds.masked_fill(torch.from_numpy(unlabelled)[..., None], 0)
        prompt = f"{CAPTION_PROMPTS[kind]} " if kind in CAPTION_PROMPTS and config.emo_text == "random" else ""
        length = getattr(config, f"{kind}_text_length")
        return self._embed_texts(kind, [prompt + caption for caption in captions], length)[:, None]

    @torch.no_grad()
    def _embed_texts(self, kind: str, texts: Sequence[str], max_length: int) -> torch.Tensor:
        """`(len(texts), P)`; each distinct text is encoded once."""
        branch = CAPTION_BRANCH[kind]
        positions = self.model.get_branch(branch).embeddings.position_embeddings.num_embeddings
        table = TokenTable(self.tokenizer)
        indexes = table.add(texts, min(max_length, positions))
        table.freeze()
        distinct, index_of_text = np.unique(indexes, return_inverse=True)
        parts = []
        for start in range(0, len(distinct), TEXT_BATCH_SIZE):
            ids, mask, _ = table.pad(distinct[start : start + TEXT_BATCH_SIZE])
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            parts.append(self.model.get_text_features(ids, mask, branch=branch).pooler_output.float().cpu())
        return torch.cat(parts)[index_of_text]


def au_sentences(caption: str, config: MF2Config) -> list[str]:
    """One sentence per AU of the model: the caption's, or the fixed sentence of an inactive AU.

    The caller has to mask unlabelled AUs.
    """
    written = parse_au_caption(caption)
    return [written.get(au_id) or inactive_au_sentence(au_id) for au_id in config.au_ids]


# ------------------------------------------------------------------------------------------------------------- recall
def bidirectional_recall(faces: torch.Tensor, texts: torch.Tensor, text_of_face: np.ndarray) -> dict[str, Any]:
    """Recall of text-to-face and face-to-text retrieval; see `retrieval_scores`.

    Args:
        faces: `(N, G, Q, P)`.
        texts: `(M, G, P)`, all distinct.
        text_of_face: `(N,)` index of each face's text.
    """
    text_idx, columns = torch.from_numpy(text_of_face), torch.arange(len(texts))
    num_queries = faces.shape[1] * faces.shape[2]
    by_text = search(
        compare=lambda rows: similarity(faces, texts[rows]).T,
        is_right=lambda rows: rows[:, None] == text_idx,
        blocks=columns.split(max(1, MAX_SIMILARITIES // (len(faces) * num_queries))),
    )
    by_face = search(
        compare=lambda rows: similarity(faces[rows], texts),
        is_right=lambda rows: text_idx[rows, None] == columns,
        blocks=torch.arange(len(faces)).split(max(1, MAX_SIMILARITIES // (len(texts) * num_queries))),
    )
    return {
        "num_faces": len(faces),
        "num_texts": len(texts),
        "text_to_face": recall_at_k(*by_text, num_candidates=len(faces)),
        "face_to_text": recall_at_k(*by_face, num_candidates=len(texts)),
    }


def similarity(faces: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """`(N, M)`: the maximum over a face's queries for each text, averaged over the AUs that have a text.

    AUs without a text have embedding 0.
    """
    return image_text_similarity(faces, texts).sum(0) / texts.any(-1).sum(1).clamp(min=1)


def search(
    compare: Callable[[torch.Tensor], torch.Tensor],
    is_right: Callable[[torch.Tensor], torch.Tensor],
    blocks: Iterable[torch.Tensor],
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the first correct answer and number of correct answers of each query.

    Args:
        compare: query indices `(R,)` -> similarities `(R, C)` with all candidates.
        is_right: query indices -> `(R, C)` bool.
        blocks: query indices, split into blocks that fit into memory.
    Returns:
        `(sum of R,)` ranks from 0, and counts.
    """
    ranks, num_right = [], []
    for rows in blocks:
        right = is_right(rows)
        ranks.append(rank_of_first(compare(rows), right))
        num_right.append(right.sum(1))
    return torch.cat(ranks).numpy(), torch.cat(num_right).numpy()


def rank_of_first(similarities: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`(R,)`: number of wrong candidates at least as similar as the best correct one; both arguments are `(R, C)`."""
    best = similarities.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((similarities >= best) & ~right).sum(1)


def recall_at_k(ranks: np.ndarray, num_right: np.ndarray, num_candidates: int) -> dict[str, dict[str, float]]:
    """Recall@k of `(R,)` ranks, and its expectation for a random order."""
    recall = {str(k): float(np.mean(ranks < k)) for k in RECALLS_AT}
    chance = {
        str(k): float(np.mean(1 - hypergeom.pmf(0, num_candidates, num_right, min(k, num_candidates))))
        for k in RECALLS_AT
    }
    return {"recall": recall, "chance": chance}
