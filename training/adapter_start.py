"""Initialisation of a DFN adapter's linear readout by a regression on the residual of its base model.

The readout is fitted to the first view of the training rows (without augmentation), on top of the base's logits, and
stays fixed while the side networks are trained. The adapter's linear part therefore needs no learning rate and no
number of steps (linear probing before fine-tuning, arXiv 2202.10054), and with few rows it does not forget what the
base knows: the larger the penalty, the closer it stays to the base.
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
"""Number of features of a kind at which they are not rescaled. With more features, each is scaled down, so that the
many states do not outweigh the few positions, and a penalty has the same meaning for every model size."""


@torch.no_grad()
def fit_adapter_readout(
    side: DFNSide,
    base: MF2Recognizers,
    pooled: Iterable[Mapping[str, torch.Tensor]],
    targets: Targets,
    groups: np.ndarray,
) -> torch.Tensor | None:
    """Fit the readout of an untrained adapter in place.

    Args:
        side: the adapter's side networks.
        base: the checkpoint's recognisers.
        pooled: batches of pooled states of the rows, in order.
        targets, groups: targets and groups of the rows.
    Returns:
        `(N, A + E)` logits of the rows, including the base's, from cross-validation over groups; None if there is only
        one group, so that nothing is fitted.
    """
    if len(np.unique(groups)) < 2:
        logger.warning("The training rows are of one group, so that no readout can be fitted; the adapter has none.")
        return None
    was_training = side.training
    side.eval()
    kinds, offsets = [], []
    for batch in pooled:
        kinds.append(side.readout_features(batch))
        outputs = side(batch, base)
        logits = [part for part in (outputs.au_logits, outputs.emotion_logits) if part is not None]
        offsets.append(torch.cat(logits, dim=1))
    side.train(was_training)
    features = [torch.cat(parts).cpu().float() for parts in zip(*kinds, strict=True)]
    widths = [part.shape[1] for part in features]
    importance = torch.cat([torch.full((width,), (REFERENCE_FEATURES / width) ** 0.5) for width in widths])
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
