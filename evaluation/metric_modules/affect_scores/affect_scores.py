"""CCC, RMSE, PCC and SAGR of valence and arousal as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate
import numpy as np

from mf2.evaluation.metrics import affect_metrics

DESCRIPTION = """Concordance (CCC), root mean squared error, Pearson's correlation and sign agreement (SAGR) of valence
and arousal, each as the mean over both with the score of a constant. A label of NaN is unlabelled and ignored."""

INPUTS = """
Args:
    predictions: valence and arousal of each row, -1 to 1.
    references: labels, -1 to 1 or NaN.
Returns:
    ccc, rmse, pcc, sagr: each with its `constant_` baseline; only num_labelled = 0 if nothing is labelled.
    ccc_valence, ccc_arousal: of each dimension that has labels.
    num_labelled: number of rows with a label.
"""


class AffectScores(evaluate.Metric):
    """Scores of continuous affect."""

    def _info(self) -> evaluate.MetricInfo:
        column = datasets.List(datasets.Value("float32"))
        features = datasets.Features({"predictions": column, "references": column})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        scores = affect_metrics(np.array(predictions, float), np.array(references, float))
        per_dimension = scores.pop("per_dimension", {})
        return scores | {f"ccc_{name}": found["ccc"] for name, found in per_dimension.items()}
