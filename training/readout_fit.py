"""Fits a model's linear readout to a training split: penalised logistic regressions for all outputs at once.

The features are standardised and weighted by their source. As there are more features than faces, the regressions are
solved in the span of the faces: the Gram matrix is decomposed once, and the basis has at most as many dimensions as
there are faces. Penalties are chosen by cross-validation over groups, separately for the AUs and for the emotion.
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
"""Iterations in a fold, where each penalty starts from the solution of the previous one."""
MAP_SCALE, REGION_SCALE, CENTER_SCALE = 0.2**0.5, 1.0, 4.0
"""Scales of the standardised features of the maps, of the regions and of the regions' centres: the larger, the less
their weights are penalised. Chosen on held-out groups."""


@dataclass
class Targets:
    """Targets of the regressions.

    Args:
        aus: `(N, A)` labels, -1 unlabelled.
        emotions: `(N,)` classes, negative unlabelled.
        num_emotions: number of classes.
        balance: 0 weights emotions by their frequency, 1 all equally.
    """

    aus: torch.Tensor
    emotions: torch.Tensor
    num_emotions: int
    balance: float

    @classmethod
    def from_labels(cls, labels: Labels, num_emotions: int, balance: float) -> "Targets":
        """The targets of a split."""
        return cls(torch.from_numpy(labels.aus), torch.from_numpy(labels.emotion), num_emotions, balance)

    def take(self, rows: np.ndarray) -> "Targets":
        """The selected rows."""
        return Targets(self.aus[rows], self.emotions[rows], self.num_emotions, self.balance)

    def au_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Loss summed over rows and AUs; active and inactive labels have equal total weight in each AU."""
        labelled, active = (self.aus >= 0).double(), (self.aus == 1).double()
        count, positive = labelled.sum(0), active.sum(0)
        weights = active * count / (2 * positive).clamp(min=1) + (labelled - active) * count / (
            2 * (count - positive)
        ).clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, active, weights, reduction="sum")

    def emotion_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Loss summed over the labelled rows; rare emotions have larger weights."""
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
    """`(F,)` mean and scale: features are `(x - mean) * scale`."""

    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def from_features(cls, features: torch.Tensor, importance: torch.Tensor) -> "Standardisation":
        """Standardise `(N, F)` features and multiply them by their `(F,)` importance."""
        return cls(features.mean(0), importance / (features.std(0) + 1e-4))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Apply it: `(N, F)` -> `(N, F)`."""
        return (features - self.mean) * self.scale


class Basis:
    """Basis of the span of N faces: `faces` are coordinates `(N, R)`, `to_features` maps weights to the features."""

    def __init__(self, features: torch.Tensor):
        values, vectors = torch.linalg.eigh((features @ features.T).double())
        nonzero = values > values[-1] * 1e-8
        self.faces = vectors[:, nonzero] * values[nonzero].sqrt()
        self._features, self._dual = features, vectors[:, nonzero] / values[nonzero].sqrt()

    def to_features(self, weights: torch.Tensor) -> torch.Tensor:
        """Map weights `(R, O)` of the basis to weights `(F, O)` of the features."""
        return self._features.T @ (self._dual @ weights).float()


def solve(
    faces: torch.Tensor,
    targets: Targets,
    inverse_penalties: tuple[float, float],
    offsets: torch.Tensor | float = 0.0,
    start: tuple[torch.Tensor, ...] | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[torch.Tensor, ...]:
    """Solve the regressions by L-BFGS; returns weights `(R, A + E)` and bias `(A + E,)`.

    Args:
        faces: `(N, R)` coordinates, see `Basis`.
        inverse_penalties: of the AUs and of the emotion.
        offsets: `(N, A + E)` logits that the regressions are added to.
        start: initial weights and bias, such as the solution for a larger penalty.
    """
    num_aus, num_outputs = targets.aus.shape[1], targets.aus.shape[1] + targets.num_emotions
    zeros = faces.new_zeros(faces.shape[1], num_outputs), faces.new_zeros(num_outputs)
    weights, bias = (tensor.clone().requires_grad_() for tensor in start or zeros)
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
    """Yield fitted and held-out rows of each fold; groups are not divided, and folds are of similar size."""
    names, counts = np.unique(groups, return_counts=True)
    sizes, folds_by_group = np.zeros(num_folds), {}
    for index in np.argsort(-counts, kind="stable"):
        fold = int(sizes.argmin())
        folds_by_group[names[index]] = fold
        sizes[fold] += counts[index]
    folds = np.array([folds_by_group[group] for group in groups])
    for fold in range(num_folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def feature_importance(readout: FaceReadout) -> torch.Tensor:
    """`(F,)` scale of each feature: `MAP_SCALE`, `REGION_SCALE` or `CENTER_SCALE`."""
    region = torch.full((readout.region_width,), REGION_SCALE)
    region[-2 * NUM_CENTERS :] = CENTER_SCALE
    return torch.cat([torch.full((readout.map_width,), MAP_SCALE), region.repeat(len(readout.region_au_ids))])


@dataclass
class ReadoutFit:
    """A fitted readout.

    Args:
        mean, weight, bias: see `FaceReadout`.
        held_out: `(N, A + E)` logits of the training rows from cross-validation over groups.
        inverse_penalties: `(2,)`, of the AUs and of the emotion.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    held_out: torch.Tensor
    inverse_penalties: torch.Tensor

    def save(self, file: Path) -> None:
        """Write it to a safetensors file, atomically."""
        with replacing(file) as partial:
            save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, partial)

    @classmethod
    def load(cls, file: Path) -> "ReadoutFit":
        """Read a file of `save`."""
        return cls(**load_file(file))

    def copy_to(self, readout: FaceReadout) -> None:
        """Copy it into a readout's buffers."""
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
    """Fit a readout to a split's rows, at most `MAX_ROWS` evenly spaced ones.

    Args:
        features: `(N, F)`.
        groups: `(N,)`; rows of a group are never divided between folds.
        importance: `(F,)` scale of the standardised features.
        inverse_penalties: candidates in ascending order; each fit of a fold starts from the previous solution.
        offsets: `(N, A + E)` logits that the readout is added to; 0 by default. They are included in `held_out`.
    Raises:
        ValueError: there are fewer than two groups.
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
    for fitted, unseen in group_folds(groups, num_folds):
        fitted = _subsample(fitted)
        standardise = Standardisation.from_features(features[fitted], importance)
        basis, fold_targets = Basis(standardise(features[fitted])), targets.take(fitted)
        unseen_features, start = standardise(features[unseen]), None
        for index, pair in enumerate(penalties):
            weights, bias = start = solve(basis.faces, fold_targets, pair, offsets[fitted], start, FOLD_ITERATIONS)
            held_out[index, unseen] = offsets[unseen] + (unseen_features @ basis.to_features(weights)).double() + bias
    best_au = int(np.argmin([targets.au_loss(logits[:, :num_aus]).item() for logits in held_out]))
    best_emotion = int(np.argmin([targets.emotion_loss(logits[:, num_aus:]).item() for logits in held_out]))
    chosen = (inverse_penalties[best_au], inverse_penalties[best_emotion])
    rows = _subsample(np.arange(len(features)))
    standardise = Standardisation.from_features(features[rows], importance)
    basis = Basis(standardise(features[rows]))
    weights, bias = solve(basis.faces, targets.take(rows), chosen, offsets[rows])
    return ReadoutFit(
        mean=standardise.mean,
        weight=(basis.to_features(weights) * standardise.scale[:, None]).T,
        bias=bias.float(),
        held_out=torch.cat([held_out[best_au, :, :num_aus], held_out[best_emotion, :, num_aus:]], 1).float(),
        inverse_penalties=torch.tensor(chosen),
    )


def _subsample(rows: np.ndarray) -> np.ndarray:
    return rows[spaced_rows(len(rows), MAX_ROWS)]


def fit_key(targets: Targets, groups: np.ndarray) -> str:
    """Key of everything that the fit depends on besides the features, for the file's name."""
    digest = hashlib.sha256()
    settings = [INVERSE_PENALTIES, FOLDS, MAP_SCALE, REGION_SCALE, CENTER_SCALE, targets.num_emotions, targets.balance]
    digest.update(json.dumps([*settings, list(groups)]).encode())
    digest.update(targets.aus.numpy().tobytes() + targets.emotions.numpy().tobytes())
    return digest.hexdigest()[:20]
