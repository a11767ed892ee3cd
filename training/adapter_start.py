"""Initialisation of a DFN adapter's linear readout, which stays fixed while the side networks are trained.

The readout is fitted to the first view of the training rows (without augmentation). Usually it is a regression on top
of the base's logits: with few rows it does not forget what the base knows, and the larger the penalty, the closer it
stays to the base. If the base has a linear readout itself, the adapter's reads the same thousands of features of the
tower. It is then fitted without the base, and the two are averaged, which is better than a readout on top of a readout
(docs/diary.md). Penalties and shares are chosen on held-out groups.

The adapter's linear part therefore needs no learning rate and no number of steps (linear probing before fine-tuning,
arXiv 2202.10054).
"""

import logging
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from mf2.peft_dfn import DFNSide
from mf2.recognition_mf2 import MF2Recognizers
from mf2.training.readout_fit import ReadoutFit, Targets, fit_readout

logger = logging.getLogger(__name__)

INVERSE_PENALTIES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
REFERENCE_FEATURES = 640
"""Number of features of a kind at which they are not rescaled. With more features, each is scaled down, so that the
many states do not outweigh the few positions, and a penalty has the same meaning for every model size."""
SHARES = tuple(step / 10 for step in range(11))
"""Candidates for the readout's share in its average with the base."""


@torch.no_grad()
def fit_adapter_readout(
    side: DFNSide,
    base: MF2Recognizers,
    pooled: Iterable[Mapping[str, torch.Tensor]],
    targets: Targets,
    groups: np.ndarray,
    importance: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Fit the readout of an untrained adapter in place.

    Args:
        side: the adapter's side networks.
        base: the checkpoint's recognisers.
        pooled: batches of pooled states of the rows, in order.
        targets, groups: targets and groups of the rows.
        importance: `(F,)` scale of the features of the base's readout, for an adapter that reads them.
    Returns:
        `(N, A + E)` logits of the rows, including the base's, from cross-validation over groups; None if there is only
        one group, so that nothing is fitted.
    """
    if len(np.unique(groups)) < 2:
        logger.warning("The training rows are of one group, so that no readout can be fitted; the adapter has none.")
        return None
    was_training = side.training
    side.eval()
    kinds, logits_of_base = [], []
    for batch in pooled:
        kinds.append(side.readout_features(batch))
        outputs = side(batch, base)
        logits = [part for part in (outputs.au_logits, outputs.emotion_logits) if part is not None]
        logits_of_base.append(torch.cat(logits, dim=1))
    side.train(was_training)
    features = [torch.cat(parts).cpu().float() for parts in zip(*kinds, strict=True)]
    base_logits = torch.cat(logits_of_base).cpu().float()
    if importance is None:
        fit = _fit_residual(features, base_logits, targets, groups)
    else:
        fit, shares = _fit_average(torch.cat(features, dim=1), base_logits, targets, groups, importance)
        side.base_shares.copy_(1 - shares)
    side.readout.weight.copy_(fit.weight)
    side.readout.bias.copy_(fit.bias - fit.weight @ fit.mean)
    au_penalty, emotion_penalty = fit.inverse_penalties.tolist()
    logger.info(
        f"The readout is fitted, at inverse penalties of {au_penalty:g} (AUs) and {emotion_penalty:g} (emotion)."
    )
    return fit.held_out


def _fit_residual(
    features: list[torch.Tensor], base_logits: torch.Tensor, targets: Targets, groups: np.ndarray
) -> ReadoutFit:
    """A readout on top of the base's logits; each kind of feature weighs as much as the others."""
    widths = [part.shape[1] for part in features]
    importance = torch.cat([torch.full((width,), (REFERENCE_FEATURES / width) ** 0.5) for width in widths])
    return fit_readout(torch.cat(features, dim=1), targets, groups, importance, INVERSE_PENALTIES, base_logits)


def _fit_average(
    features: torch.Tensor,
    base_logits: torch.Tensor,
    targets: Targets,
    groups: np.ndarray,
    importance: torch.Tensor,
) -> tuple[ReadoutFit, torch.Tensor]:
    """A readout without the base, multiplied by its shares `(A + E,)` of the average, and these."""
    fit = fit_readout(features, targets, groups, importance)
    shares = choose_shares(base_logits, fit.held_out, targets)
    logger.info(f"Shares of the readout, of AUs and emotions: {', '.join(f'{share:g}' for share in shares.tolist())}.")
    averaged = ReadoutFit(
        mean=fit.mean,
        weight=fit.weight * shares[:, None],
        bias=fit.bias * shares,
        held_out=torch.lerp(base_logits, fit.held_out, shares),
        inverse_penalties=fit.inverse_penalties,
    )
    return averaged, shares


def choose_shares(base: torch.Tensor, readout: torch.Tensor, targets: Targets) -> torch.Tensor:
    """`(A + E,)` shares of a readout in the average with the base: the best of `SHARES` on rows that neither has seen.

    One share is chosen for all AUs and one for the emotions; AUs that no row labels keep the base's logits.

    Args:
        base, readout: `(N, A + E)` logits.
    """
    num_aus = targets.aus.shape[1]
    averages = [torch.lerp(base, readout, share).double() for share in SHARES]
    au_losses = [targets.au_loss(logits[:, :num_aus]).item() for logits in averages]
    emotion_losses = [targets.emotion_loss(logits[:, num_aus:]).item() for logits in averages]
    of_aus, of_emotions = (SHARES[int(np.argmin(losses))] for losses in (au_losses, emotion_losses))
    labelled = (targets.aus >= 0).any(dim=0).float()
    return torch.cat([labelled * of_aus, torch.full((targets.num_emotions,), of_emotions)])
