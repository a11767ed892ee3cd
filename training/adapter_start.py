"""Where a DFN adapter's readout starts: at the regression that says most of what its base leaves over.

It is fitted to the first view of the training rows, the faces as they are, on top of the base's logits, and is fixed
from then on. The towers learn beside it. So the adapter's linear part needs neither a learning rate nor a number of
steps (linear probing before fine-tuning, arXiv 2202.10054), and few rows do not make it forget what the base knows:
the larger the penalty, the closer it stays.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import torch
from torch import nn

from mf2.peft_dfn import DFNSide
from mf2.recognition_mf2 import MF2Recognizers
from mf2.training.readout_fit import Targets, fit_readout

logger = logging.getLogger(__name__)

INVERSE_PENALTIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
REFERENCE_FEATURES = 640
"""The number of features of a kind at which a standardised one is not scaled. Of more each is scaled down, so that the
states weigh no more than the places, which are few, and a penalty means the same at every size."""


@torch.no_grad()
def fit_adapter_readout(
    side: DFNSide,
    base: MF2Recognizers,
    pooled: Iterable[Mapping[str, torch.Tensor]],
    targets: Targets,
    groups: np.ndarray,
) -> torch.Tensor | None:
    """Fit the readout of an untrained adapter, in place, and fix it.

    Args:
        base: the checkpoint's recognisers.
        pooled: batches of what both read of the rows, in their order.
        targets, groups: of the rows.
    Returns:
        `(N, A + E)` logits of the rows, the base's included, by fits that did not see their groups; None where there
        is one group only, and nothing is fitted.
    """
    if len(np.unique(groups)) < 2:
        logger.warning("The training rows are of one group, so that no readout can be fitted; the adapter has none.")
        return None
    was_training = side.training
    side.eval()
    kinds, offsets = [], []
    for batch in pooled:
        kinds.append(side.readout_features(batch))
        seen = side(batch, base)
        offsets.append(torch.cat([of for of in (seen.au_logits, seen.emotion_logits) if of is not None], dim=1))
    side.train(was_training)
    features = [torch.cat(of).cpu().float() for of in zip(*kinds, strict=True)]
    importance = torch.cat([torch.full((of.shape[1],), (REFERENCE_FEATURES / of.shape[1]) ** 0.5) for of in features])
    fit = fit_readout(
        torch.cat(features, dim=1), targets, groups, importance, INVERSE_PENALTIES, torch.cat(offsets).cpu().float()
    )
    readout = cast(nn.Linear, side.readout)
    readout.weight.copy_(fit.weight)
    readout.bias.copy_(fit.bias - fit.weight @ fit.mean)
    au_penalty, emotion_penalty = fit.inverse_penalties.tolist()
    logger.info(
        f"The readout is fitted, at inverse penalties of {au_penalty:g} (AUs) and {emotion_penalty:g} (emotion)."
    )
    return fit.held_out
