"""F1 of facial action units as an `evaluate` metric; unlabelled entries are ignored."""

from typing import Any

import datasets
import evaluate
import numpy as np

from mf2.evaluation.metrics import au_metrics

DESCRIPTION = """F1 of each action unit and their unweighted mean, with the score of always predicting
"active", 2p / (1 + p). Labels of -1 are unlabelled and ignored; action units without any label are left out of the
mean and listed in `unlabelled`."""

INPUTS = """
Args:
    predictions: rows of A probabilities of "active", or decisions 0 and 1.
    references: rows of A labels 1, 0 or -1.
    au_codes: A names [`AU0`, `AU1`, … by column].
    thresholds: probability from which an AU is "active"; one for all AUs, or A values [0.5].
Returns:
    f1, f1_all_positive: unweighted means.
    per_au: name -> f1.
    unlabelled: names of the action units without a label.
Example:
    >>> metric = evaluate.load("evaluation/metric_modules/au_f1")
    >>> metric.compute(predictions=[[0.9, 0.2], [0.3, 0.8]], references=[[1, 0], [0, -1]], au_codes=["AU6", "AU12"])
    {'f1': 0.5, 'f1_all_positive': 0.3333333333333333, 'per_au': {'AU6': 1.0, 'AU12': 0.0}, 'unlabelled': []}
"""


class AuF1(evaluate.Metric):
    """Mean F1 of action units."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(
        self, predictions: Any, references: Any, au_codes: list[str] | None = None, thresholds: Any = 0.5
    ) -> dict[str, Any]:
        probs, labels = np.asarray(predictions), np.asarray(references)
        codes = au_codes or [f"AU{index}" for index in range(labels.shape[1])]
        scores = au_metrics(probs, labels, codes, thresholds)
        per_au = {code: au["f1"] for code, au in scores["per_au"].items()}
        names = ("f1", "f1_all_positive")
        return {name: scores[name] for name in names} | {"per_au": per_au, "unlabelled": scores["unlabelled"]}
