"""Logistic regression on features, for the reference predictors and the linear probes."""

import numpy as np

MAX_ITERATIONS = 1000


def class_probabilities(
    train_x: np.ndarray,
    labels: np.ndarray,
    eval_x: np.ndarray,
    num_classes: int,
    class_weight: str | None = None,
    inverse_penalty: float = 1.0,
) -> np.ndarray:
    """Fit a logistic regression on standardised features and return its class probabilities.

    Args:
        train_x: `(N, F)` features.
        labels: `(N,)` int; rows with a negative label are unlabelled and are not trained on.
        eval_x: `(M, F)` features.
        class_weight, inverse_penalty: `class_weight` and `C` of scikit-learn's `LogisticRegression`.
    Returns:
        `(M, num_classes)`. A class without a training row has probability 0; if there is only one class, it has 1.
    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ValueError("The references need scikit-learn; pip install 'mf2-face[test]'.") from None
    probs, labelled = np.zeros((len(eval_x), num_classes)), labels >= 0
    classes = np.unique(labels[labelled])
    if len(classes) < 2:
        probs[:, classes] = 1
        return probs
    regression = LogisticRegression(C=inverse_penalty, class_weight=class_weight, max_iter=MAX_ITERATIONS)
    probe = make_pipeline(StandardScaler(), regression).fit(train_x[labelled], labels[labelled])
    probs[:, classes] = probe.predict_proba(eval_x)
    return probs
