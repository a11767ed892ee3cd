"""The joint distribution of emotions and action units in generated faces, and the emotion accuracy that AUs allow.

The AUs in the FACS prototype of an emotion are likely but not certain, and other AUs occur sometimes, so that the
emotion is no function of the AUs. The AUs are drawn one after the other in the order of `AU_IDS`. The log-odds of each
are those of its rate under the emotion, shifted by the AUs already drawn:

    logit P(a_j = 1 | emotion, a_1 … a_{j-1}) = logit rate[emotion, j] + Σ_{i<j} links[i, j] (a_i - rate[emotion, i])

With 12 AUs there are 4,096 combinations, so that every probability of this model, including the accuracy of the Bayes
classifier of the emotion, is a finite sum. Rates and links are set to reproduce the co-occurrence in EmotioNet's
public
labels: P(12|6) .88, P(25|26) .93, P(25|12) .76, P(25|6) .85; 1-2 and 1-4 attract; 4-6, 4-12, 1-6, 1-12 repel.
"""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...labels_mf2 import AU_IDS, EMOTIONS

Floats = NDArray[np.float64]

# Percentage of the faces of an emotion with each AU active, without the links.
_RATES: dict[str, dict[int, int]] = {
    "Neutral": {1: 4, 2: 4, 4: 5, 6: 2, 7: 6, 10: 3, 12: 4, 15: 5, 23: 5, 24: 6, 25: 5, 26: 2},
    "Anger": {1: 3, 2: 6, 4: 90, 6: 3, 7: 78, 10: 24, 12: 3, 15: 12, 23: 66, 24: 52, 25: 5, 26: 2},
    "Disgust": {1: 4, 2: 3, 4: 72, 6: 6, 7: 40, 10: 92, 12: 6, 15: 50, 23: 12, 24: 8, 25: 28, 26: 5},
    "Fear": {1: 90, 2: 66, 4: 82, 6: 3, 7: 34, 10: 10, 12: 4, 15: 8, 23: 6, 24: 3, 25: 78, 26: 40},
    "Happiness": {1: 5, 2: 8, 4: 3, 6: 86, 7: 26, 10: 8, 12: 92, 15: 2, 23: 3, 24: 2, 25: 88, 26: 10},
    "Sadness": {1: 84, 2: 8, 4: 74, 6: 4, 7: 14, 10: 6, 12: 3, 15: 86, 23: 14, 24: 22, 25: 6, 26: 2},
    "Surprise": {1: 88, 2: 90, 4: 5, 6: 3, 7: 4, 10: 3, 12: 8, 15: 2, 23: 2, 24: 2, 25: 86, 26: 64},
    "Other": {1: 12, 2: 34, 4: 16, 6: 22, 7: 46, 10: 34, 12: 54, 15: 24, 23: 46, 24: 40, 25: 20, 26: 8},
}
# Added to the log-odds of the second AU if the first is active.
_LINKS: dict[tuple[int, int], float] = {
    (1, 2): 0.6, (1, 4): 0.4, (1, 6): -0.8, (1, 12): -0.6, (4, 6): -0.8, (4, 12): -0.8, (6, 12): 3.2, (6, 25): 1.2,
    (12, 25): 1.6, (12, 15): -1.0, (23, 25): -1.2, (24, 25): -6.0, (24, 26): -2.0, (25, 26): 2.5,
}  # fmt: skip


def _matrix(links: dict[tuple[int, int], float]) -> Floats:
    out = np.zeros((len(AU_IDS), len(AU_IDS)))
    for (earlier, later), weight in links.items():
        out[AU_IDS.index(earlier), AU_IDS.index(later)] = weight
    return out


RATES: Floats = np.array([[_RATES[emotion][au_id] / 100 for au_id in AU_IDS] for emotion in EMOTIONS])
"""(8, 12) rate of each AU under each emotion, without the links."""
LINKS: Floats = _matrix(_LINKS)
"""(12, 12) strictly upper triangular."""


def _next_probability(rates: Floats, drawn: Floats, au_idx: int) -> Floats:
    """P(AU active | emotion, the AUs before it); `rates` (..., 12), `drawn` (..., 12) with the labels drawn so far."""
    rate = rates[..., au_idx]
    shift = (drawn[..., :au_idx] - rates[..., :au_idx]) @ LINKS[:au_idx, au_idx]
    return 1 / (1 + (1 - rate) / rate * np.exp(-shift))


def sample_aus(emotion_idx: int, rng: np.random.Generator) -> NDArray[np.int8]:
    """Draw (12,) labels 0/1 for one face with that emotion."""
    rates, drawn = RATES[emotion_idx], np.zeros(len(AU_IDS))
    for au_idx, uniform in enumerate(rng.random(len(AU_IDS))):
        drawn[au_idx] = uniform < _next_probability(rates, drawn, au_idx)
    return drawn.astype(np.int8)


def log_likelihood(aus: ArrayLike) -> Floats:
    """log P(AUs | emotion): (N, 12) labels -> (N, 8)."""
    active = np.asarray(aus, np.float64)[:, None, :]
    total = np.zeros((active.shape[0], len(EMOTIONS)))
    for au_idx in range(len(AU_IDS)):
        probability = _next_probability(RATES, active, au_idx)
        total += np.log(np.where(active[..., au_idx] > 0, probability, 1 - probability))
    return total


def bayes_emotion(aus: ArrayLike) -> NDArray[np.int64]:
    """(N,) the most likely emotion for each row of (N, 12) true AU labels, with equally frequent emotions."""
    return log_likelihood(aus).argmax(axis=1)


@cache
def joint_table() -> tuple[Floats, Floats]:
    """All AU combinations (4096, 12) and P(combination | emotion) (4096, 8)."""
    count = len(AU_IDS)
    combinations = ((np.arange(2**count)[:, None] >> np.arange(count)) & 1).astype(np.float64)
    return combinations, np.exp(log_likelihood(combinations))


def prevalence() -> Floats:
    """(12,) P(AU active) with all emotions equally frequent."""
    combinations, likelihood = joint_table()
    return combinations.T @ likelihood.mean(axis=1)


def conditional(au_id: int, given: int) -> float:
    """P(AU active | another AU active) with all emotions equally frequent."""
    combinations, likelihood = joint_table()
    probability = likelihood.mean(axis=1) * combinations[:, AU_IDS.index(given)]
    return float(probability @ combinations[:, AU_IDS.index(au_id)] / probability.sum())


def expected_ceiling() -> float:
    """Top-1 accuracy of `bayes_emotion` over the whole distribution: no prediction from the AUs alone is better."""
    _, likelihood = joint_table()
    return float(likelihood.max(axis=1).sum() / len(EMOTIONS))
