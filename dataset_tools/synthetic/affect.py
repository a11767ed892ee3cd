"""Valence and arousal of generated faces: emotions as points of the circumplex, scaled by how strongly a face moves.

The points are the mean ratings of pleasure and arousal of Russell and Mehrabian, Evidence for a three-factor theory of
emotions, Journal of Research in Personality 11, 1977 (of their terms angry, disgusted, fearful, happy, sad and
surprised); a neutral face and one of another emotion lie at the origin, as in Russell's circumplex model of affect
(Journal of Personality and Social Psychology 39, 1980). A face's point lies half way between that of its emotion and
those of the emotions that its AUs speak for, times the mean intensity of its active AUs:

    (valence, arousal) = strength · Σ_e ½ (1[e = emotion] + P(e | AUs)) point_e + noise

So the label follows the face, also of an emotion without a point of its own, and is no function of it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...labels_mf2 import AFFECT, EMOTIONS
from .au_prior import Floats, log_likelihood

_POINTS: dict[str, tuple[float, float]] = {
    "Neutral": (0.0, 0.0),
    "Anger": (-0.51, 0.59),
    "Disgust": (-0.60, 0.35),
    "Fear": (-0.64, 0.60),
    "Happiness": (0.81, 0.51),
    "Sadness": (-0.63, -0.27),
    "Surprise": (0.40, 0.67),
    "Other": (0.0, 0.0),
}
POINTS: Floats = np.array([_POINTS[emotion] for emotion in EMOTIONS])
"""(8, 2) valence and arousal of each emotion at full strength."""
NOISE = 0.1
"""Standard deviation of what annotators disagree by."""


def emotion_posterior(aus: ArrayLike) -> Floats:
    """P(emotion | AUs) with all emotions equally frequent: (N, 12) labels -> (N, 8)."""
    log_likelihoods = log_likelihood(aus)
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True))
    return likelihoods / likelihoods.sum(axis=1, keepdims=True)


def _strength(aus: ArrayLike, intensities: ArrayLike) -> Floats:
    """(N, 1) mean intensity of the active AUs; 0 of a face without one."""
    active = np.asarray(aus, np.float64)
    moved = (active * np.asarray(intensities, np.float64)).sum(axis=1, keepdims=True)
    return moved / np.maximum(active.sum(axis=1, keepdims=True), 1)


def visible_affect(aus: ArrayLike, intensities: ArrayLike) -> Floats:
    """The mean valence and arousal of faces with these AUs, whatever their emotion: (N, 12) each -> (N, 2)."""
    return _strength(aus, intensities) * (emotion_posterior(aus) @ POINTS)


def sample_affect(
    emotion_idx: int, aus: NDArray[np.int8], intensities: NDArray[np.float32], rng: np.random.Generator
) -> Floats:
    """(2,) valence and arousal of one face with that emotion, (12,) AU labels and (12,) intensities."""
    mean = (visible_affect([aus], [intensities]) + _strength([aus], [intensities]) * POINTS[emotion_idx])[0] / 2
    return np.clip(mean + NOISE * rng.standard_normal(len(AFFECT)), -1, 1)


def affect_ceiling(aus: ArrayLike, intensities: ArrayLike, affect: ArrayLike) -> dict[str, float]:
    """The correlation of `visible_affect` with the (N, 2) labels, by dimension.

    No guess from AUs and their intensities correlates more with the labels than their conditional mean does, and no
    concordance (CCC) exceeds the correlation.
    """
    means, labels = visible_affect(aus, intensities), np.asarray(affect)
    return {name: float(np.corrcoef(means[:, i], labels[:, i])[0, 1]) for i, name in enumerate(AFFECT)}
