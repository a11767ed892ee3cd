"""Expected calibration error and Brier score of binary probabilities as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate
import numpy as np

from mf2.evaluation.calibration import binary_calibration

DESCRIPTION = """Expected calibration error over 15 bins of equal width, and the Brier score with that of always
predicting the prevalence. Labels of -1 are unlabelled and ignored."""

INPUTS = """
Args:
    predictions: probabilities.
    references: labels 1, 0 or -1.
Returns:
    ece, brier, brier_prevalence; None without a label.
"""
SCORE_NAMES = ("ece", "brier", "brier_prevalence")


class CalibrationError(evaluate.Metric):
    """Calibration of binary probabilities."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        probs, labels = np.asarray(predictions), np.asarray(references)
        labelled = labels >= 0
        if not labelled.any():
            return dict.fromkeys(SCORE_NAMES)
        scores = binary_calibration(probs[labelled], labels[labelled] == 1)
        return {name: scores[name] for name in SCORE_NAMES}
