"""Fitting a model's linear readout to a training split: logistic regressions with a penalty, all outputs at once.

The features are standardised and weighed by where they come from. With more features than faces, the regressions are
solved in the space of the faces: the features' Gram matrix is decomposed once, and its basis has as many dimensions as
there are faces. The penalty is that which predicts held-out groups best, for the AUs and for the emotion apart.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mf2.data_loading.splits import Labels, spaced_rows
from mf2.readout_mf2 import NUM_CENTERS, FaceReadout
from mf2.utils.files import replacing

INVERSE_PENALTIES = (3e-4, 1e-3, 2e-3, 4e-3, 1e-2)
FOLDS = 5
MAX_ROWS = 4096
MAX_ITERATIONS = 60
FOLD_ITERATIONS = 20
"""Enough in a fold, where each penalty begins with the weights of the one before."""
MAP_SCALE, REGION_SCALE, CENTER_SCALE = 0.2**0.5, 1.0, 4.0
"""What a standardised feature of the maps, of the regions and of the regions' places is multiplied by: the larger, the
less its weights are held down. Chosen by held-out groups."""


@dataclass
class Targets:
    """What is predicted: labels, which of them count, and how much a row does.

    Args:
        aus: `(N, A)`, -1 unlabelled.
        emotions: `(N,)`, negative unlabelled.
        num_emotions: classes.
        balance: 0 weighs emotions by their frequency, 1 all the same.
    """

    aus: torch.Tensor
    emotions: torch.Tensor
    num_emotions: int
    balance: float

    @classmethod
    def of(cls, labels: Labels, num_emotions: int, balance: float) -> "Targets":
        """Those of a split."""
        return cls(torch.from_numpy(labels.aus), torch.from_numpy(labels.emotion), num_emotions, balance)

    def take(self, rows: np.ndarray) -> "Targets":
        """Some of the rows."""
        return Targets(self.aus[rows], self.emotions[rows], self.num_emotions, self.balance)

    def au_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Sum over the rows and AUs, active and not active counting the same in each AU."""
        known, active = (self.aus >= 0).double(), (self.aus == 1).double()
        count, positive = known.sum(0), active.sum(0)
        weights = active * count / (2 * positive).clamp(min=1) + (known - active) * count / (
            2 * (count - positive)
        ).clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, active, weights, reduction="sum")

    def emotion_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Sum over the labelled rows, rare emotions weighing more."""
        labelled = self.emotions >= 0
        if not labelled.any():
            return logits.sum() * 0
        labels = self.emotions[labelled]
        frequencies = torch.bincount(labels, minlength=self.num_emotions).double().clamp(min=1)
        weights = frequencies[labels] ** -self.balance
        losses = F.cross_entropy(logits[labelled], labels, reduction="none")
        return (losses * weights / weights.mean()).sum()


@dataclass
class Standardisation:
    """`(F,)` each: what is subtracted from a feature, and what it is multiplied by afterwards."""

    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, importance: torch.Tensor) -> "Standardisation":
        """Of `(N, F)` features, each of them weighed by its `(F,)` importance."""
        return cls(features.mean(0), importance / (features.std(0) + 1e-4))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """`(N, F)` -> `(N, F)`."""
        return (features - self.mean) * self.scale


class Basis:
    """The space of N faces: `faces` are their coordinates `(N, R)`, `back` leads from it to the features."""

    def __init__(self, features: torch.Tensor):
        values, vectors = torch.linalg.eigh((features @ features.T).double())
        kept = values > values[-1] * 1e-8
        self.faces = vectors[:, kept] * values[kept].sqrt()
        self._features, self._dual = features, vectors[:, kept] / values[kept].sqrt()

    def back(self, weights: torch.Tensor) -> torch.Tensor:
        """`(R, O)` -> `(F, O)`."""
        return self._features.T @ (self._dual @ weights).float()


def solve(
    faces: torch.Tensor,
    targets: Targets,
    inverse_penalties: tuple[float, float],
    offsets: torch.Tensor | float = 0.0,
    start: tuple[torch.Tensor, ...] | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[torch.Tensor, ...]:
    """Weights `(R, A + E)` and bias `(A + E,)` of the regressions, by L-BFGS.

    Args:
        offsets: `(N, A + E)` logits to which those of the regressions add.
        start: weights and bias to begin with, such as those of a larger penalty.
    """
    num_aus, num_outputs = targets.aus.shape[1], targets.aus.shape[1] + targets.num_emotions
    zeros = faces.new_zeros(faces.shape[1], num_outputs), faces.new_zeros(num_outputs)
    weights, bias = (of.clone().requires_grad_() for of in start or zeros)
    decay = torch.full((num_outputs,), 0.5 / inverse_penalties[0], dtype=torch.float64)
    decay[num_aus:] = 0.5 / inverse_penalties[1]
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=max_iterations, history_size=8, tolerance_change=1e-5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = offsets + faces @ weights + bias
        loss = targets.au_loss(logits[:, :num_aus]) + targets.emotion_loss(logits[:, num_aus:])
        loss = loss + (decay * weights.square()).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach(), bias.detach()


def group_folds(groups: np.ndarray, num_folds: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Seen and held-out rows of each fold; a group is in one fold, and the folds are about as large."""
    names, counts = np.unique(groups, return_counts=True)
    sizes, fold_of = np.zeros(num_folds), {}
    for index in np.argsort(-counts, kind="stable"):
        fold = int(sizes.argmin())
        fold_of[names[index]] = fold
        sizes[fold] += counts[index]
    folds = np.array([fold_of[group] for group in groups])
    for fold in range(num_folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def importance_of(readout: FaceReadout) -> torch.Tensor:
    """`(F,)`: `MAP_SCALE`, `REGION_SCALE` or `CENTER_SCALE` of each feature."""
    region = torch.full((readout.region_width,), REGION_SCALE)
    region[-2 * NUM_CENTERS :] = CENTER_SCALE
    return torch.cat([torch.full((readout.map_width,), MAP_SCALE), region.repeat(len(readout.region_au_ids))])


@dataclass
class ReadoutFit:
    """A fitted readout.

    Args:
        mean, weight, bias: As in [`FaceReadout`].
        held_out: `(N, A + E)` logits of the training rows, each of regressions that did not see its group.
        inverse_penalties: `(2,)` of the AUs and of the emotion.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    held_out: torch.Tensor
    inverse_penalties: torch.Tensor

    def save(self, file: Path) -> None:
        """Write it; the file appears whole."""
        with replacing(file) as partial:
            save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, partial)

    @classmethod
    def load(cls, file: Path) -> "ReadoutFit":
        """Read what `save` wrote."""
        return cls(**load_file(file))

    def put_into(self, readout: FaceReadout) -> None:
        """Fill the readout's buffers, in place."""
        for name in ("mean", "weight", "bias"):
            getattr(readout, name).copy_(getattr(self, name))


@torch.no_grad()
def fit_readout(
    features: torch.Tensor,
    targets: Targets,
    groups: np.ndarray,
    importance: torch.Tensor,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
    offsets: torch.Tensor | None = None,
) -> ReadoutFit:
    """Fit to `(N, F)` features of a split's rows; of more than `MAX_ROWS` to evenly spaced ones.

    Args:
        inverse_penalties: to choose from, ascending: each fit of a fold begins where the one before ended.
        offsets: `(N, A + E)` logits that are there already and to which those of the readout add; none by default.
            `held_out` of the result contains them.
    Raises:
        ValueError: fewer groups than two, so that none can be held out.
    """
    num_folds = min(FOLDS, len(np.unique(groups)))
    if num_folds < 2:
        raise ValueError(
            f"The training rows are of {num_folds} group; a readout needs two, to hold one out. "
            "Leave model.readout_grids empty or give rows of more persons."
        )
    num_aus, penalties = targets.aus.shape[1], [(value, value) for value in inverse_penalties]
    num_outputs = num_aus + targets.num_emotions
    offsets = torch.zeros(len(features), num_outputs) if offsets is None else offsets
    offsets = offsets.double()
    held_out = torch.zeros(len(penalties), len(features), num_outputs, dtype=torch.float64)
    for seen, unseen in group_folds(groups, num_folds):
        seen = _at_most(seen)
        standardise = Standardisation.of(features[seen], importance)
        basis, of_seen, rest = Basis(standardise(features[seen])), targets.take(seen), standardise(features[unseen])
        start = None
        for index, pair in enumerate(penalties):
            weights, bias = start = solve(basis.faces, of_seen, pair, offsets[seen], start, FOLD_ITERATIONS)
            held_out[index, unseen] = offsets[unseen] + (rest @ basis.back(weights)).double() + bias
    best_au = int(np.argmin([targets.au_loss(logits[:, :num_aus]).item() for logits in held_out]))
    best_emotion = int(np.argmin([targets.emotion_loss(logits[:, num_aus:]).item() for logits in held_out]))
    chosen = (inverse_penalties[best_au], inverse_penalties[best_emotion])
    rows = _at_most(np.arange(len(features)))
    standardise = Standardisation.of(features[rows], importance)
    basis = Basis(standardise(features[rows]))
    weights, bias = solve(basis.faces, targets.take(rows), chosen, offsets[rows])
    return ReadoutFit(
        mean=standardise.mean,
        weight=(basis.back(weights) * standardise.scale[:, None]).T,
        bias=bias.float(),
        held_out=torch.cat([held_out[best_au, :, :num_aus], held_out[best_emotion, :, num_aus:]], 1).float(),
        inverse_penalties=torch.tensor(chosen),
    )


def _at_most(rows: np.ndarray) -> np.ndarray:
    return rows[spaced_rows(len(rows), MAX_ROWS)]


def fit_key(targets: Targets, groups: np.ndarray) -> str:
    """What the fit follows from beside the features, as part of a file's name."""
    digest = hashlib.sha256()
    settings = [INVERSE_PENALTIES, FOLDS, MAP_SCALE, REGION_SCALE, CENTER_SCALE, targets.num_emotions, targets.balance]
    digest.update(json.dumps([*settings, list(groups)]).encode())
    digest.update(targets.aus.numpy().tobytes() + targets.emotions.numpy().tobytes())
    return digest.hexdigest()[:20]
