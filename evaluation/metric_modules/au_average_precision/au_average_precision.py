"""Average precision of facial action units as an `evaluate` metric; unlabelled entries are ignored."""

from typing import Any

import datasets
import evaluate
import numpy as np

from mf2.evaluation.metrics import au_metrics

DESCRIPTION = """Average precision of each action unit and their unweighted mean, with the prevalence, which is
what a random order reaches. Labels of -1 are unlabelled and ignored; action units without a positive label are left
out of the mean."""

INPUTS = """
Args:
    predictions: rows of A probabilities of "active".
    references: rows of A labels 1, 0 or -1.
    au_codes: A names [`AU0`, `AU1`, … by column].
Returns:
    average_precision, prevalence: unweighted means.
    per_au: name -> average precision, None without a positive label.
    unlabelled: names of the action units without a label.
"""


class AuAveragePrecision(evaluate.Metric):
    """Mean average precision of action units."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Sequence(datasets.Value("int64")),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any, au_codes: list[str] | None = None) -> dict[str, Any]:
        probs, labels = np.asarray(predictions), np.asarray(references)
        codes = au_codes or [f"AU{index}" for index in range(labels.shape[1])]
        scores = au_metrics(probs, labels, codes)
        per_au = {code: au["average_precision"] for code, au in scores["per_au"].items()}
        names = ("average_precision", "prevalence")
        return {name: scores[name] for name in names} | {"per_au": per_au, "unlabelled": scores["unlabelled"]}
