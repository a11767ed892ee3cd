"""One-vs-rest accuracy of emotions, for comparison with the paper's Table III, as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate

from mf2.evaluation.metrics import decision_metrics

DESCRIPTION = """Binary accuracy of each class against the rest, averaged over the classes. **Not an accuracy to report
alone**: rejecting each of eight classes reaches 0.875, and a constant class 0.781 if classes are balanced; both are
reported with it. Labels of -100 are unlabelled and ignored."""

INPUTS = """
Args:
    predictions: predicted classes, 0 to E - 1.
    references: labels, 0 to E - 1 or -100.
    num_classes: E [8].
Returns:
    paper_compatible_accuracy, and the scores of two trivial predictors: paper_compatible_accuracy_never (rejects every
    class) and paper_compatible_accuracy_constant (always the most frequent class); empty if nothing is labelled.
"""
SCORE_NAMES = ("paper_compatible_accuracy", "paper_compatible_accuracy_never", "paper_compatible_accuracy_constant")


class PaperCompatibleAccuracy(evaluate.Metric):
    """One-vs-rest accuracy with its trivial baselines."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any, num_classes: int = 8) -> dict[str, Any]:
        scores = decision_metrics(predictions, references, num_classes)
        return {name: scores[name] for name in SCORE_NAMES if name in scores}
