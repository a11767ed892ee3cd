"""The fit of the linear readout: the regression that scikit-learn finds, and held-out rows that were not seen."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mf2.training.readout_fit import Basis, Standardisation, Targets, fit_readout, group_folds, solve

ROWS, FEATURES = 60, 90


def make_task(seed: int = 0, rows: int = ROWS) -> tuple[torch.Tensor, Targets, np.ndarray]:
    """Features that tell two AUs and three emotions, with noise; AU 1 has gaps."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, FEATURES, generator=generator)
    aus = (features[:, :2] + 0.3 * torch.randn(rows, 2, generator=generator) > 0.2).long()
    aus[::7, 1] = -1
    emotions = features[:, 2:5].argmax(1)
    emotions[::9] = -100
    groups = np.repeat(np.arange(rows // 3), 3).astype(str)
    return features, Targets(aus, emotions, num_emotions=3, balance=0.5), groups


def test_it_is_the_regression_of_scikit_learn():
    features, targets, _ = make_task()
    standardise = Standardisation.from_features(features, torch.full((FEATURES,), 0.5))
    basis = Basis(standardise(features))
    weights, bias = solve(basis.faces, targets, (0.02, 0.05))
    logits = standardise(features) @ basis.to_features(weights) + bias
    x = standardise(features).numpy()
    for au in range(2):
        known = (targets.aus[:, au] >= 0).numpy()
        theirs = LogisticRegression(C=0.02, class_weight="balanced", tol=1e-8, max_iter=5000)
        theirs.fit(x[known], targets.aus[:, au].numpy()[known])
        np.testing.assert_allclose(logits[:, au], theirs.decision_function(x), atol=2e-3)
    known = (targets.emotions >= 0).numpy()
    labels = targets.emotions.numpy()[known]
    share = np.bincount(labels)[labels] ** -0.5
    theirs = LogisticRegression(C=0.05, tol=1e-8, max_iter=5000).fit(x[known], labels, share / share.mean())
    probs = logits[:, 2:].softmax(1)
    np.testing.assert_allclose(probs, theirs.predict_proba(x), atol=2e-3)


def test_held_out_rows_are_of_regressions_that_did_not_see_their_group():
    features, targets, groups = make_task()
    fit = fit_readout(features, targets, groups, torch.ones(FEATURES))
    changed = Targets(targets.aus.clone(), targets.emotions, 3, 0.5)
    changed.aus[:3] = 1 - changed.aus[:3].clamp(min=0)  # the first group's
    other = fit_readout(features, changed, groups, torch.ones(FEATURES))
    assert torch.equal(fit.inverse_penalties, other.inverse_penalties)
    torch.testing.assert_close(fit.held_out[:3], other.held_out[:3], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(fit.held_out[3:, :2], other.held_out[3:, :2], atol=1e-3)


def test_it_predicts_what_it_did_not_see():
    features, targets, groups = make_task(rows=300)
    fit = fit_readout(features, targets, groups, torch.ones(FEATURES))
    new, truth, _ = make_task(seed=1, rows=300)
    logits = (new - fit.mean) @ fit.weight.T + fit.bias
    assert ((logits[:, 0] > 0) == (truth.aus[:, 0] == 1)).float().mean() > 0.8
    assert (fit.held_out[:, 2:].argmax(1) == targets.emotions)[targets.emotions >= 0].float().mean() > 0.6


def test_a_group_is_held_out_whole_and_once():
    groups = np.array(list("aabbbcdddde"))
    unseen = [set(groups[rest]) for seen, rest in group_folds(groups, 3) if not set(groups[seen]) & set(groups[rest])]
    assert len(unseen) == 3 and sorted(name for part in unseen for name in part) == sorted(set(groups))


def test_rows_of_one_group_are_refused():
    features, targets, _ = make_task()
    with pytest.raises(ValueError, match="1 group; a readout needs two"):
        fit_readout(features, targets, np.array(["a"] * ROWS), torch.ones(FEATURES))
