"""Limits on rate and cost: token buckets, `Retry-After`, and a budget that is reserved before it is spent."""

import asyncio
import datetime
import time
from collections.abc import Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

LONG_PAUSE_S = 20.0
"""A server that asks for a longer wait than this pauses all requests, not only the refused one."""


class TokenBucket:
    """A token bucket: an allowance per minute that refills continuously up to the amount of one minute.

    Args:
        per_minute: the allowance; None for no limit.
        clock: monotonic time in seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if per_minute is not None and per_minute <= 0:
            raise ValueError(f"A limit per minute is {per_minute}; it must be positive.")
        self._clock = clock
        self._ceiling = per_minute
        self.per_minute = per_minute
        self._level = per_minute or 0.0
        self._filled_at = clock()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` can be taken; amounts above that of a minute count as that of a minute."""
        if self.per_minute is None:
            return 0.0
        self._refill()
        lacking = min(amount, self.per_minute) - self._level
        return max(0.0, lacking * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Use `amount` of the allowance."""
        self._refill()
        self._level -= amount

    def observe(self, per_minute: float | None, remaining: float | None) -> None:
        """Adopt the limits that the server sends; the limit never exceeds the one set by the user."""
        if per_minute is not None and per_minute > 0:
            if self.per_minute is None:
                self._level, self._filled_at = per_minute, self._clock()
            self.per_minute = min(per_minute, self._ceiling or per_minute)
        if remaining is not None and self.per_minute is not None:
            self._refill()
            self._level = min(self._level, remaining)

    def _refill(self) -> None:
        now = self._clock()
        if self.per_minute is not None:
            self._level = min(self.per_minute, self._level + (now - self._filled_at) * self.per_minute / 60)
        self._filled_at = now


class Pacer:
    """Decides when the next request may start: after any pause, and when both buckets hold enough.

    Args:
        requests_per_minute, tokens_per_minute: limits set by the user; None uses those in the server's headers.
        clock, sleep: replaceable for tests.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        self._requests = TokenBucket(requests_per_minute, clock)
        self._tokens = TokenBucket(tokens_per_minute, clock)
        self._clock = clock
        self.sleep = sleep
        self._paused_until = clock()

    async def wait_turn(self, tokens: float) -> None:
        """Return when a request of that many tokens may start, and count it."""
        while (delay_s := self._delay_s(tokens)) > 0:
            await self.sleep(delay_s)
        self._requests.take(1)
        self._tokens.take(tokens)

    def pause(self, seconds: float) -> None:
        """Start no request for that many seconds."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def observe(self, headers: Mapping[str, str]) -> None:
        """Adopt the limits in the `x-ratelimit-*` headers of an answer."""
        for bucket, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            bucket.observe(
                _parse_number(headers.get(f"x-ratelimit-limit-{unit}")),
                _parse_number(headers.get(f"x-ratelimit-remaining-{unit}")),
            )

    def _delay_s(self, tokens: float) -> float:
        pause_s = self._paused_until - self._clock()
        return max(pause_s, self._requests.wait_s(1), self._tokens.wait_s(tokens))


class Budget:
    """A budget: the money spent, the maximal cost of running requests, and the bound on their sum.

    A request reserves its maximal cost before it is sent, so that the bound is never exceeded.
    """

    def __init__(self, max_usd: float | None = None, spent_usd: float = 0.0) -> None:
        if max_usd is not None and max_usd < 0:
            raise ValueError(f"--max_usd is {max_usd}; it must not be negative.")
        self.max_usd = max_usd
        self.spent_usd = spent_usd
        self._reserved_usd = 0.0

    def reserve(self, usd: float) -> bool:
        """Reserve `usd`; False if that would exceed the bound."""
        if self.max_usd is not None and self.spent_usd + self._reserved_usd + usd > self.max_usd:
            return False
        self.hold(usd)
        return True

    def hold(self, usd: float) -> None:
        """Set `usd` aside for what was already sent."""
        self._reserved_usd += usd

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Give a reservation back and count what was really spent."""
        self._reserved_usd -= reserved_usd
        self.spent_usd += spent_usd


def retry_after_s(headers: Mapping[str, str], now: datetime.datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` (a number or an HTTP date) or `retry-after-ms` asks for; None without either."""
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    text = headers.get("retry-after")
    if text is None:
        return None
    if (seconds := _parse_number(text)) is not None:
        return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds())


def _parse_number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
