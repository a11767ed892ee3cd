"""Top-1 accuracy, macro-F1 and unweighted average recall of emotions as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate

from mf2.evaluation.metrics import decision_metrics

DESCRIPTION = """Top-1 accuracy, and macro-F1 and unweighted average recall over the classes that the labels hold.
Beside each stands what the most frequent class reaches. A label of -100 is unlabelled and never counts."""

INPUTS = """
Args:
    predictions: predicted classes, 0 to E - 1.
    references: labels, 0 to E - 1 or -100.
    num_classes: E [8].
Returns:
    top1, macro_f1, uar: each with its `majority_` baseline; nothing but num_labelled = 0 without a label.
    num_labelled: how many labels counted.
"""
KEPT = ("top1", "macro_f1", "uar", "majority_top1", "majority_macro_f1", "majority_uar", "num_labelled")


class EmotionScores(evaluate.Metric):
    """Scores of a single-label classification whose classes may be uneven."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any, num_classes: int = 8) -> dict[str, Any]:
        scores = decision_metrics(predictions, references, num_classes)
        return {name: scores[name] for name in KEPT if name in scores}
