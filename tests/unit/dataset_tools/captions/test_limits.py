"""Rate limits, Retry-After and budgets, against a clock that is turned by hand."""

import asyncio
import datetime

import pytest
from caption_rig import Waits

from mf2.dataset_tools.captions.limits import Budget, Pacer, TokenBucket, retry_after_s

NOW = datetime.datetime(2026, 11, 20, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "1"}, 1.0),
        ({"retry-after": "300"}, 300.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers, seconds):
    assert retry_after_s(headers, NOW) == seconds


def test_a_bucket_holds_a_minute_and_refills_steadily():
    waits = Waits()
    bucket = TokenBucket(60, waits.clock)
    bucket.take(60)
    assert bucket.wait_s(1) == pytest.approx(1.0)
    waits.now_s = 30.0
    assert bucket.wait_s(30) == pytest.approx(0.0) and bucket.wait_s(40) == pytest.approx(10.0)
    waits.now_s = 1000.0
    assert bucket.wait_s(60) == 0.0 and bucket.wait_s(1e9) == 0.0, "more than a minute's worth cannot be saved up"


def test_a_bucket_without_a_limit_never_waits_until_the_server_names_one():
    bucket = TokenBucket(None, Waits().clock)
    bucket.take(1e9)
    assert bucket.wait_s(1e9) == 0.0
    bucket.observe(None, 5)
    assert bucket.wait_s(1e9) == 0.0
    bucket.observe(120, 0)
    assert bucket.wait_s(1) == pytest.approx(0.5)


def test_the_server_may_lower_a_limit_but_not_raise_one_set_by_hand():
    waits = Waits()
    bucket = TokenBucket(60, waits.clock)
    bucket.observe(6000, 6000)
    assert bucket.per_minute == 60
    bucket.observe(30, 0)
    assert bucket.per_minute == 30
    assert bucket.wait_s(1) == pytest.approx(2.0)


def test_limits_must_be_positive():
    with pytest.raises(ValueError, match="-1"):
        TokenBucket(-1)


def test_the_pacer_keeps_to_requests_tokens_and_pauses():
    waits = Waits()
    pacer = Pacer(60, 600, waits.clock, waits.sleep)

    async def run():
        for _ in range(60):
            await pacer.wait_turn(5)
        assert waits.now_s == 0.0, "a minute's worth may start at once"
        await pacer.wait_turn(5)
        assert waits.now_s == pytest.approx(1.0)
        await pacer.wait_turn(600)  # 295 of 600 tokens are used
        assert waits.now_s > 29
        pacer.pause(300)
        before = waits.now_s
        await pacer.wait_turn(1)
        assert waits.now_s >= before + 300

    asyncio.run(run())


def test_a_budget_is_reserved_before_it_is_spent():
    budget = Budget(1.0, spent_usd=0.5)
    assert budget.reserve(0.3) and not budget.reserve(0.3)
    budget.settle(0.3, 0.1)
    assert budget.reserve(0.3) and budget.spent_usd == pytest.approx(0.6)
    assert Budget().reserve(1e9)
    with pytest.raises(ValueError, match="-1"):
        Budget(-1)
