"""One-vs-rest accuracy of emotions, by which the paper's Table III can be read, as an `evaluate` metric."""

from typing import Any

import datasets
import evaluate

from mf2.evaluation.metrics import decision_metrics

DESCRIPTION = """Binary accuracy of each class against the rest, averaged over the classes. **Not an accuracy to report
alone**: saying "never" to each of eight classes reaches 0.875, and a constant class 0.781 where classes are even; both
stand beside it. A label of -100 is unlabelled and never counts."""

INPUTS = """
Args:
    predictions: predicted classes, 0 to E - 1.
    references: labels, 0 to E - 1 or -100.
    num_classes: E [8].
Returns:
    paper_compatible_accuracy, and of the two trivial predictors paper_compatible_accuracy_never (no class, ever) and
    paper_compatible_accuracy_constant (the most frequent class, always); nothing without a label.
"""
KEPT = ("paper_compatible_accuracy", "paper_compatible_accuracy_never", "paper_compatible_accuracy_constant")


class PaperCompatibleAccuracy(evaluate.Metric):
    """One-vs-rest accuracy with its trivial baselines."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Any, references: Any, num_classes: int = 8) -> dict[str, Any]:
        scores = decision_metrics(predictions, references, num_classes)
        return {name: scores[name] for name in KEPT if name in scores}
