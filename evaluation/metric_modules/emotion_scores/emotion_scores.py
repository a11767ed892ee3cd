"""Top-1 accuracy, macro-F1 and unweighted average recall of emotions as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate

from mf2.evaluation.metrics import decision_metrics

DESCRIPTION = """Top-1 accuracy, and macro-F1 and unweighted average recall over the classes that occur in the
labels, each with the score of always predicting the most frequent class. Labels of -100 are unlabelled and ignored."""

INPUTS = """
Args:
    predictions: predicted classes, 0 to E - 1.
    references: labels, 0 to E - 1 or -100.
    num_classes: E [8].
Returns:
    top1, macro_f1, uar: each with its `majority_` baseline; only num_labelled = 0 if nothing is labelled.
    num_labelled: number of labelled entries.
"""
SCORE_NAMES = ("top1", "macro_f1", "uar", "majority_top1", "majority_macro_f1", "majority_uar", "num_labelled")


class EmotionScores(evaluate.Metric):
    """Scores of single-label classification with unbalanced classes."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any, num_classes: int = 8) -> dict[str, Any]:
        scores = decision_metrics(predictions, references, num_classes)
        return {name: scores[name] for name in SCORE_NAMES if name in scores}
