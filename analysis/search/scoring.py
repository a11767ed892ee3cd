"""Scores of faces for a query, which is a face or a text; cosines in [-1, 1]."""

from dataclasses import dataclass

import torch

from ...modeling_mf2 import MF2Model


@dataclass(frozen=True)
class FaceScorer:
    """Scores faces by similarity to a face: the mean cosine over queries.

    Args:
        embeds: `(Q, P)` of the face.
    """

    embeds: torch.Tensor

    def __call__(self, others: torch.Tensor) -> torch.Tensor:
        """`(F, Q, P)` embeddings of faces -> `(F,)` scores."""
        return others.flatten(1) @ self.embeds.flatten() / len(self.embeds)


@dataclass(frozen=True)
class TextScorer:
    """Scores faces by a text: for each of its phrasings the best cosine over queries, averaged over phrasings.

    Args:
        features: `(M, P)` of the phrasings.
    """

    features: torch.Tensor

    def __call__(self, others: torch.Tensor) -> torch.Tensor:
        """`(F, Q, P)` embeddings of faces -> `(F,)` scores."""
        return MF2Model.get_retrieval_scores(others, self.features).mean(1)


Scorer = FaceScorer | TextScorer
