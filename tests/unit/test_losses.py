"""The parts of the losses: soft targets, hard negatives, texts, drawn AUs and the recognisers' masks."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from mf2.alignment_mf2 import (
    Comparison,
    StepWords,
    TextItems,
    contrastive_loss,
    draw_groups,
    draw_match_pairs,
    find_distinct,
    image_text_similarity,
    itc_floor,
    itc_loss,
    recognition_losses,
    sample_hard_negatives,
)

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- similarity
def test_similarity_is_the_best_query_within_a_group():
    images, texts = F.normalize(random(3, 2, 4, 8), dim=-1), F.normalize(random(5, 2, 8, seed=1), dim=-1)
    similarity = image_text_similarity(images, texts)
    assert similarity.shape == (2, 3, 5)
    for group in range(2):
        for i in range(3):
            for m in range(5):
                best = max(float(query @ texts[m, group]) for query in images[i, group])
                assert similarity[group, i, m].item() == pytest.approx(best, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------- ITC
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_positive_a_row_is_cross_entropy(smoothing):
    logits, everything = random(6, 6) * 5, torch.ones(6, 6, dtype=torch.bool)
    loss = contrastive_loss(logits, torch.eye(6, dtype=torch.bool), everything, smoothing)
    expected = F.cross_entropy(logits, torch.arange(6), label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss, expected, **EXACT)


def test_columns_that_are_no_candidates_do_not_exist():
    """Neither in the sum of the softmax nor in the smoothing."""
    logits = random(4, 6) * 5
    candidates = torch.tensor([True, True, False, True, False, True]).expand(4, -1)
    positives = torch.zeros(4, 6, dtype=torch.bool)
    positives[:, 3] = True
    loss = contrastive_loss(logits, positives, candidates, 0.1)
    kept = logits[:, [0, 1, 3, 5]]
    expected = F.cross_entropy(kept, torch.full((4,), 2), label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(loss, expected, **EXACT)


def test_positives_share_the_target():
    logits, everything = random(1, 5) * 5, torch.ones(1, 5, dtype=torch.bool)
    positives = torch.tensor([[True, False, True, True, False]])
    target = torch.tensor([[0.9 / 3 + 0.02, 0.02, 0.9 / 3 + 0.02, 0.9 / 3 + 0.02, 0.02]])
    loss = contrastive_loss(logits, positives, everything, 0.1)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction="none"), **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_floor_of_itc_is_what_the_best_similarities_leave(smoothing):
    """Logits that are the logarithms of the targets, in both directions; with rows that have no text."""
    captions = torch.tensor([0, 0, 1, 2, 2, 2, 5])
    valid = torch.tensor([True] * 6 + [False])
    candidates = (valid[:, None] & valid)[None]
    positives = (captions[:, None] == captions) & candidates
    shares = (1 - smoothing) * positives[0][:6] / positives[0][:6].sum(1, keepdim=True) + smoothing * valid / 6
    best = torch.zeros(1, 7, 7)
    best[0, :6] = shares.clamp(min=1e-30).log()
    floor = itc_floor(Comparison(best, best, positives, candidates), valid[:, None], smoothing)
    at_best = itc_loss(Comparison(best, best, positives, candidates), valid[:, None], smoothing)
    torch.testing.assert_close(floor, at_best)
    worse = best + random(1, 7, 7)
    assert itc_loss(Comparison(worse, worse, positives, candidates), valid[:, None], smoothing) > floor + 1e-3
    assert floor > 0.5


def test_equal_captions_are_not_pushed_apart():
    """With every caption equal the best the loss can do is to treat all columns alike: no gradient there."""
    logits = torch.zeros(4, 4, requires_grad=True)
    everything = torch.ones(4, 4, dtype=torch.bool)
    contrastive_loss(logits, everything, everything, 0.1).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(4, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_columns_stay_finite_backward_too(dtype):
    logits = (random(3, 4) * 50).to(dtype).requires_grad_()
    candidates = torch.eye(4, dtype=torch.bool)[:3]  # every row alone
    loss = contrastive_loss(logits, candidates, candidates, 0.1)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros(3, dtype=loss.dtype))
    assert logits.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------ hard negatives
def test_negatives_follow_the_softmax_over_what_is_allowed():
    """A chi-square test over an even grid of uniform numbers, and over random ones."""
    logits = torch.tensor([1.0, 0.0, 3.0, -1.0, 2.0, 0.5])
    allowed = torch.tensor([True, False, True, True, False, True])
    draws = 20_000
    expected = logits[allowed].double().softmax(0) * draws
    even = (torch.arange(draws) + 0.5) / draws
    for uniform in (even, torch.rand(draws, generator=torch.Generator().manual_seed(0))):
        drawn, found = sample_hard_negatives(logits.expand(draws, -1), allowed.expand(draws, -1), uniform)
        counts = torch.bincount(drawn, minlength=6)
        assert found.all() and counts[~allowed].sum() == 0
        assert chisquare(counts[allowed], expected).pvalue > 0.01


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
def test_hardness_decides_how_far_negatives_follow_similarity(hardness):
    """At 0 the least similar text is met as often as the most similar one."""
    size = 2_000
    logits = torch.zeros(1, size, size)
    logits[..., : size // 2] = 2.0
    different = ~torch.eye(size, dtype=torch.bool)[None]
    torch.manual_seed(0)
    pairs = draw_match_pairs(Comparison(logits, logits, ~different, different | ~different), hardness)
    share = torch.sigmoid(torch.tensor(2.0 * hardness)).item()
    for drawn in (pairs.negative_text, pairs.negative_image):
        assert (drawn < size // 2).float().mean().item() == pytest.approx(share, abs=0.04)


def test_each_row_has_its_own_mask_and_number():
    torch.manual_seed(0)
    logits, allowed = torch.randn(2, 500, 7) * 3, torch.rand(2, 500, 7) < 0.4
    drawn, found = sample_hard_negatives(logits, allowed, torch.rand(2, 500))
    assert torch.equal(found, allowed.any(-1))
    assert not found.all()
    assert allowed.gather(-1, drawn[..., None])[found].all()
    alone, _ = sample_hard_negatives(logits[1, 3], allowed[1, 3], torch.tensor(0.4))
    again, _ = sample_hard_negatives(logits[1, 3:4], allowed[1, 3:4], torch.tensor([0.4]))
    assert alone == again[0]


def test_no_number_reaches_a_masked_column():
    """Neither zero, nor the largest number below one, nor a one that rounding made."""
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    torch.manual_seed(0)
    for width in (2, 3, 17, 1000):
        logits = torch.randn(64, width) * 5
        allowed = torch.rand(64, width) < 0.5
        allowed[::2, -1] = allowed[1::2, 0] = False
        allowed[::2, 0] = allowed[1::2, -1] = True
        for uniform in (torch.zeros(64), below_one.expand(64), torch.ones(64)):
            drawn, found = sample_hard_negatives(logits, allowed, uniform)
            assert found.all() and allowed.gather(1, drawn[:, None]).all()


def test_one_allowed_column_is_always_drawn():
    allowed = torch.eye(5, dtype=torch.bool)
    for uniform in (0.0, 0.5, 0.9999):
        drawn, _ = sample_hard_negatives(random(5, 5) * 100, allowed, torch.full((5,), uniform))
        assert drawn.tolist() == [0, 1, 2, 3, 4]


def test_extreme_similarities_do_not_break_the_draw():
    """A temperature at its lower bound gives ±1000."""
    logits = torch.tensor([[1000.0, -1000.0, 999.0], [-1000.0, -1000.0, -1000.0]])
    allowed = torch.tensor([[False, True, True], [True, True, False]])
    drawn, found = sample_hard_negatives(logits, allowed, torch.tensor([0.5, 0.75]))
    assert (drawn.tolist(), found.tolist()) == ([2, 1], [True, True])


def test_the_draw_leaves_the_similarities_alone():
    """They are used again, and get no gradient from here."""
    logits = random(3, 4).requires_grad_()
    before = logits.detach().clone()
    drawn, found = sample_hard_negatives(logits, torch.eye(4, dtype=torch.bool)[:3], torch.rand(3))
    assert torch.equal(logits, before) and not drawn.requires_grad and not found.requires_grad


# --------------------------------------------------------------------------------------------------------------- texts
def test_texts_without_mask_or_caption_ids():
    ids = torch.tensor([[[2, 9, 3, 0]], [[2, 8, 3, 0]], [[2, 9, 3, 0]], [[0, 0, 0, 0]]])
    texts = TextItems.from_batch(ids, None, None, pad_id=0)
    assert texts.attention_mask.tolist() == (ids != 0).long().tolist()
    assert texts.valid.tolist() == [[True], [True], [True], [False]]
    assert texts.caption_ids.shape == (4, 1)
    assert texts.caption_ids[0] == texts.caption_ids[2] != texts.caption_ids[1]


def test_given_masks_and_caption_ids_are_kept():
    """A text may be masked though its ids are there: an unlabelled AU."""
    ids = torch.tensor([[[2, 9, 3]], [[2, 9, 3]]])
    mask = torch.tensor([[[1, 1, 1]], [[0, 0, 0]]])
    captions = torch.tensor([[2**62], [-5]])
    texts = TextItems.from_batch(ids, mask, captions, pad_id=0)
    assert torch.equal(texts.caption_ids, captions)
    assert texts.valid.tolist() == [[True], [False]]


def test_words_of_a_step_equal_the_table_and_its_gradient():
    """One lookup of the distinct tokens gives what a lookup for each pass gives; padding has no gradient."""
    table = torch.nn.Embedding(20, 4, padding_idx=0)
    ids = torch.tensor([[2, 7, 7, 0], [2, 19, 3, 7]])
    words = StepWords(table, ids)
    weights = random(2, 4, 4)
    for embed in (words, table):
        table.zero_grad()
        (embed(ids) * weights).sum().backward(retain_graph=True)
        (embed(ids[1:]) ** 2).sum().backward()
        found = table.weight.grad.clone()
        if embed is words:
            ours = found
    torch.testing.assert_close(ours, found)
    assert not ours[0].any() and ours[7].any()


def test_distinct_entries_are_found_by_all_of_their_keys():
    keys = torch.tensor([[5, 1], [3, 0], [5, 0], [5, 1], [3, 0]])
    first, inverse = find_distinct(keys)
    assert sorted(first.tolist()) == [0, 1, 2]
    assert torch.equal(keys[first][inverse], keys)
    assert find_distinct(keys[:0])[0].shape == (0,)


def test_groups_are_drawn_from_those_with_text():
    valid = torch.zeros(3, 6, dtype=torch.bool)
    valid[0, 1] = valid[2, 4] = valid[1, 5] = True
    drawn = {tuple(draw_groups(valid, 2).tolist()) for _ in range(50)}
    assert drawn == {(1, 4), (1, 5), (4, 5)}
    assert set(draw_groups(valid, 4).tolist()) > {1, 4, 5}
    assert draw_groups(valid, None).tolist() == draw_groups(valid, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_groups_are_drawn_evenly():
    torch.manual_seed(0)
    valid = torch.ones(2, 5, dtype=torch.bool)
    counts = torch.stack([F.one_hot(draw_groups(valid, 2), 5).sum(0) for _ in range(1000)]).sum(0)
    assert chisquare(counts).pvalue > 0.01


def test_drawing_is_repeatable_by_the_default_seed():
    valid = torch.ones(2, 12, dtype=torch.bool)
    torch.manual_seed(5)
    first = [draw_groups(valid, 4).tolist() for _ in range(3)]
    torch.manual_seed(5)
    assert [draw_groups(valid, 4).tolist() for _ in range(3)] == first
    assert len({tuple(groups) for groups in first}) > 1


# --------------------------------------------------------------------------------------------------------- recognisers
def test_aus_without_a_label_do_not_count():
    logits, labels = random(3, 4), torch.tensor([[1, 0, -1, 1], [-1, -1, -1, -1], [0, -1, 1, 0]])
    loss = recognition_losses(logits, labels, None, None)["au"]
    terms = [
        -F.logsigmoid(logits[b, a] if labels[b, a] else -logits[b, a])
        for b in range(3)
        for a in range(4)
        if labels[b, a] >= 0
    ]
    assert len(terms) == 6
    torch.testing.assert_close(loss, torch.stack(terms).mean(), **EXACT)


def test_active_aus_are_weighed():
    logits, labels, weight = random(5, 3), torch.tensor([[1, 0, -1]] * 5), [2.0, 3.0, 5.0]
    loss = recognition_losses(logits, labels, None, None, weight)["au"]
    expected = (-2.0 * F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1])).sum() / 10
    torch.testing.assert_close(loss, expected, **EXACT)


def test_emotions_without_a_label_do_not_count():
    logits, labels = random(4, 8), torch.tensor([3, -100, 0, -100])
    loss = recognition_losses(None, None, logits, labels)
    assert set(loss) == {"emotion"}
    torch.testing.assert_close(loss["emotion"], F.cross_entropy(logits[[0, 2]], labels[[0, 2]]), **EXACT)


def test_rows_without_any_label_give_a_loss_of_zero_with_gradient():
    au_logits, emotion_logits = random(2, 3).requires_grad_(), random(2, 8).requires_grad_()
    losses = recognition_losses(au_logits, torch.full((2, 3), -1), emotion_logits, torch.full((2,), -100))
    assert losses["au"] == losses["emotion"] == 0
    sum(losses.values()).backward()
    assert not au_logits.grad.any() and not emotion_logits.grad.any()


def test_losses_are_computed_in_fp32():
    logits = (random(64, 3) * 5).bfloat16()
    labels = (random(64, 3, seed=1) > 0).long()
    losses = recognition_losses(logits, labels, logits, labels[:, 0])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    expected = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    torch.testing.assert_close(losses["au"], expected, **EXACT)


def test_what_is_not_given_is_not_in_the_losses():
    assert recognition_losses(random(2, 3), None, random(2, 8), None) == {}
    assert recognition_losses(None, torch.zeros(2, 3), None, torch.zeros(2)) == {}
