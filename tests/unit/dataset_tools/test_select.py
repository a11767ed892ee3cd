"""The balanced split: what was asked for is met exactly, or the reason and an alternative are told."""

import argparse
import itertools

import numpy as np
import pyarrow as pa
import pytest

from mf2.dataset_tools.select import _SIZES as SIZES
from mf2.dataset_tools.select import Selector, summarize, to_markdown, usable_frames
from mf2.dataset_tools.select import _solve as solve
from mf2.dataset_tools.split_program import (
    Amounts,
    InfeasibleError,
    Pool,
    Request,
    largest_feasible,
    solve_balanced,
    solve_unbalanced,
)
from mf2.labels_mf2 import AU_IDS, EMOTIONS


def make_pool(num_groups, seed=0, frames=600):
    """Groups of skewed size and class mix, like real videos: few classes each, rare classes in few of them."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.35, 0.04, 0.03, 0.03, 0.2, 0.1, 0.06, 0.19])
    sizes = rng.lognormal(np.log(frames), 0.8, num_groups).astype(int)
    capacity = np.stack([rng.multinomial(size, rng.dirichlet(shares * 4)) for size in sizes])
    rates = np.clip(rng.beta(1, 3, (1, 8, 12)) + rng.normal(0, 0.15, (num_groups, 8, 12)), 0, 1)
    return Pool(capacity, rates, EMOTIONS)


def make_frames(lengths, seed=0, unlabelled=0.0):
    """A frame table: `lengths` maps a video to its number of frames; emotions come in runs, AUs follow them."""
    rng = np.random.default_rng(seed)
    video = [name for name, length in lengths.items() for _ in range(length)]
    frame = np.concatenate([np.arange(1, length + 1) for length in lengths.values()])
    emotion = np.repeat(rng.integers(0, 8, len(video) // 10 + 1), 10)[: len(video)].astype(np.int8)
    aus = (rng.random((len(video), 12)) < 0.1 + 0.05 * emotion[:, None]).astype(np.int8)
    aus[rng.random(aus.shape) < unlabelled] = -1
    columns = {
        "path": [f"{v}/{f:05d}.jpg" for v, f in zip(video, frame, strict=True)],
        "video_id": video,
        "group_id": [name.removesuffix("_left") for name in video],
        "frame": frame.astype(np.int32),
        "emotion": emotion,
        **{f"AU{au_id}": aus[:, i] for i, au_id in enumerate(AU_IDS)},
        "split": ["train"] * len(video),
    }
    return pa.table(columns)


def au_rates(pool, amounts):
    return (amounts[:, :, None] * pool.au_rates).sum((0, 1)) / amounts.sum()


# ------------------------------------------------------------------------------------------------------ the program
@pytest.mark.parametrize("seed", range(4))
def test_everything_asked_for_is_met_exactly(seed):
    pool = make_pool(60, seed)
    request = Request(train_per_class=300, eval_per_class=40, train_videos=40, eval_videos=8)
    amounts = solve_balanced(pool, request)
    for found, per_class, videos in ((amounts.train, 300, 40), (amounts.validation, 40, 8)):
        assert found.dtype.kind == "i" and (found >= 0).all() and (found <= pool.capacity).all()
        assert found.sum(axis=0).tolist() == [per_class] * 8
        of_group = found.sum(axis=1)
        assert (of_group > 0).sum() == videos and of_group[of_group > 0].min() >= 20
    assert not ((amounts.train.sum(axis=1) > 0) & (amounts.validation.sum(axis=1) > 0)).any()
    gap = np.abs(au_rates(pool, amounts.train) - au_rates(pool, amounts.validation))
    assert amounts.proven and gap.max() < 0.01  # 0.005 is as good as equal; rounding moves it a little


def test_au_rates_decide_among_feasible_splits():
    """Two videos could be the validation set; the one whose AU rates are like the others' must be it."""
    pool = Pool(np.full((4, 1), 100), np.array([0.3, 0.3, 0.3, 0.9]).reshape(4, 1, 1), ["one"])
    amounts = solve_balanced(pool, Request(200, 100, train_videos=2, eval_videos=1))
    assert amounts.train[3] == 0 and amounts.validation[3] == 0


def test_largest_class_size_is_that_of_an_exhaustive_search():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pool = Pool(rng.integers(0, 30, (6, 3)), rng.random((6, 3, 2)), "abc")
        best = 0
        for where in itertools.product((0, 1, 2), repeat=6):
            train, validation = (pool.capacity[np.array(where) == side].sum(axis=0) for side in (1, 2))
            best = max(best, int(min(train.min(), validation.min())))
        found = largest_feasible(pool, Request(1000, 1000, min_frames=1))
        assert (found.train_per_class, found.eval_per_class) == (best, best)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(4000, 400), r"needs 4,000 \+ 400 frames, but .*Fear has 453, .*Feasible .*: \d+ \+ \d+ per class"),
        (Request(100, 10, 55, 8), "63 videos are wanted, but only 60 of 60 have 20 usable frames"),
        (Request(200, 10, 50, 8), "160 eval frames would be needed to take 20 from each video, but only 80"),
        (Request(200, 150, 10, 2), r"No split .* the requirement of exactly 10 \+ 2 videos.*: \d+ \+ \d+ per class"),
        (Request(100, 10, 2, 1), r"exactly 2 \+ 1 videos"),
    ],
)
def test_infeasible_says_why_and_what_is_feasible(request_, message):
    pool = make_pool(60, seed=1)
    with pytest.raises(InfeasibleError, match=message) as error:
        solve_balanced(pool, request_)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_offered_can_be_had():
    pool = make_pool(60, seed=1)
    request = Request(4000, 400, 40, 8)
    best = largest_feasible(pool, request)
    amounts = solve_balanced(pool, best)
    assert amounts.train.sum(axis=0).tolist() == [best.train_per_class] * 8
    assert best.train_per_class / best.eval_per_class == pytest.approx(10, rel=0.05)
    assert largest_feasible(pool, Request(100, 10, 59, 8)) is None


def test_a_class_of_one_video_is_named_with_what_helps():
    pool = make_pool(12)
    pool.capacity[1:, 3] = 0
    args = argparse.Namespace(
        balance="largest", paper=False, eval_fraction=0.1, min_frames=1, **dict.fromkeys(SIZES, None)
    )
    with pytest.raises(InfeasibleError, match=r"^Fear: fewer than two videos show it.*--balance none"):
        solve(pool, args)


def test_unbalanced_split_keeps_the_shares():
    pool = make_pool(80, seed=2)
    amounts = solve_unbalanced(pool, 0.2)
    assert ((amounts.train + amounts.validation) == pool.capacity).all()
    assert not ((amounts.train.sum(axis=1) > 0) & (amounts.validation.sum(axis=1) > 0)).any()
    shares = amounts.validation.sum(axis=0) / pool.capacity.sum(axis=0)
    assert np.abs(shares - 0.2).max() < 0.04
    assert (solve_unbalanced(pool, 0.2, eval_videos=9).validation.sum(axis=1) > 0).sum() == 9


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="min_frames is 0"):
        Request(10, 1, min_frames=0)
    with pytest.raises(ValueError, match="both train_videos and eval_videos"):
        Request(10, 1, train_videos=3)
    with pytest.raises(ValueError, match="eval_fraction is 1"):
        solve_unbalanced(make_pool(4), 1.5)
    with pytest.raises(ValueError, match="1 videos cannot be split"):
        solve_unbalanced(make_pool(1), 0.5)


# ------------------------------------------------------------------------------------------------------- the frames
def test_usable_frames_have_an_emotion_and_an_au():
    frames = make_frames({"a": 20})
    emotion = frames["emotion"].to_pylist()
    emotion[3] = None
    frames = frames.set_column(frames.schema.get_field_index("emotion"), "emotion", pa.array(emotion, pa.int8()))
    for i, au_id in enumerate(AU_IDS):
        labels = frames[f"AU{au_id}"].to_pylist()
        labels[5] = labels[6] = -1
        labels[6] = 1 if i == 11 else -1
        column = frames.schema.get_field_index(f"AU{au_id}")
        frames = frames.set_column(column, f"AU{au_id}", pa.array(labels, pa.int8()))
    assert usable_frames(frames)["frame"].to_pylist() == [i for i in range(1, 21) if i not in (4, 6)]
    with pytest.raises(ValueError, match="None of the 1 frames"):
        usable_frames(frames.slice(5, 1))


def test_pool_counts_by_group_and_class():
    frames = make_frames({"a": 500, "a_left": 300, "b": 400}, unlabelled=0.3)
    selector = Selector(frames, seed=0)
    groups = selector.groups.to_pylist()
    assert sorted(groups) == ["a", "b"] and selector.pool.capacity.sum(axis=1)[groups.index("a")] == 800
    rows = [r for r in frames.to_pylist() if r["group_id"] == "b" and r["emotion"] == 4 and r["AU6"] >= 0]
    rate = selector.pool.au_rates[groups.index("b"), 4, AU_IDS.index(6)]
    assert rate == pytest.approx(np.mean([row["AU6"] for row in rows]))


def test_frames_are_taken_evenly_in_time():
    frames = make_frames({"a": 2000, "b": 50})
    emotion = pa.array([2] * 1000 + [5] * 1050, pa.int8())
    frames = frames.set_column(frames.schema.get_field_index("emotion"), "emotion", emotion)
    phases = set()
    for seed in range(5):
        selector = Selector(frames, seed)
        train = np.zeros((2, 8), int)
        train[selector.groups.to_pylist().index("a"), [2, 5]] = 40, 1000
        taken = selector.take(Amounts(train, np.zeros((2, 8), int), proven=True))
        first = taken["frame"].to_numpy()[:40]
        assert len(taken) == 1040 and set(np.diff(first)) == {25} and first[-1] <= 1000
        phases.add(int(first[0]))
    assert len(phases) > 1


def test_selection_is_deterministic_by_seed():
    lengths = {f"v{i}": 150 + 13 * i for i in range(30)}
    frames = make_frames(lengths, unlabelled=0.1)
    request = Request(60, 12, 20, 4)

    def select(seed):
        selector = Selector(frames, seed)
        return selector.take(solve_balanced(selector.pool, request))

    one, again, other = select(1), select(1), select(2)
    assert one.equals(again) and not one.equals(other)
    assert one["path"].to_pylist() == sorted(one["path"].to_pylist(), key=frames["path"].to_pylist().index)
    summary = summarize(frames, one)
    assert summary["train"]["emotions"] == dict.fromkeys(EMOTIONS, 60)
    assert summary["validation"]["emotions"] == dict.fromkeys(EMOTIONS, 12)
    assert (summary["train"]["videos"], summary["validation"]["videos"], summary["pool"]["videos"]) == (20, 4, 30)
    rows = one.filter(pa.compute.equal(one["split"], "train"))["AU12"].to_numpy()
    assert summary["train"]["au_rates"]["AU12"] == (rows == 1).sum() / (rows >= 0).sum()
    assert "| Fear" in to_markdown(summary) and "| videos" in to_markdown(summary)


def test_a_selection_wants_all_aus():
    frames = pa.table({"path": ["a"], "emotion": [1], "AU1": [1]})
    with pytest.raises(ValueError, match=r"no column AU2, AU4, .*; a selection needs an emotion and all AUs"):
        usable_frames(frames)
