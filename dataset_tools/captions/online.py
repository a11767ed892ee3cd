"""The online engine: sends many simultaneous requests to a chat-completions endpoint; runs can be resumed."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import openai

from .answers import (
    BAD_REQUEST,
    DEAD,
    IN_DOUBT,
    NEW,
    RAW,
    REFUSED,
    SENT,
    VALID,
    Judgement,
    describe_giving_up,
    judge_answer,
    next_state,
)
from .failures import Failure, Outcome, classify
from .limits import LONG_PAUSE_S, Budget, Pacer
from .profiles import FREE, Price
from .prompting import CaptionRequest, Feedback, RequestBuilder
from .settings import RunSettings
from .store import CaptionStore
from .tally import IN_BATCH, UNFINISHED, Tally

HELD = "held"
"""State of a refused request while the server has answered no other."""


@dataclass(frozen=True)
class _Progress:
    """The progress of a request: its state, the number of rejected answers, and the feedback for the next call."""

    state: str
    attempt: int = 0
    feedback: Feedback | None = None
    reason: str | None = None


class OnlineRunner:
    """Requests captions through `client.chat.completions`, up to `concurrency` at a time.

    A request is stored as `sent` before the call, and a raw answer is stored before it is read. So a run that is
    killed at any point loses no received answer and does not ask for it again.

    A request that the server refuses (HTTP 4xx) is dead if another one is answered. Before that, the settings may be
    wrong: refused requests are held back, and marked as unsent if the run ends without any answer.

    Args:
        client: made with `max_retries=0`; retries are decided here.
        builder: makes the bodies, for the endpoint of the client.
        store: stores requests and answers.
        settings: settings of the run.
        price: price of the model; free by default.
        budget: budget of the run; unlimited by default.
        pacer: rate limits of the endpoint; those in its headers by default.
        is_answered: whether the server has answered requests with these settings before.
        on_settled: called with the tally whenever a caption is settled.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        builder: RequestBuilder,
        store: CaptionStore,
        settings: RunSettings,
        *,
        price: Price = FREE,
        budget: Budget | None = None,
        pacer: Pacer | None = None,
        is_answered: bool = False,
        on_settled: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self._client = client
        self._builder = builder
        self._store = store
        self._settings = settings
        self._price = price
        self._budget = budget or Budget(spent_usd=store.usd_spent())
        self._pacer = pacer or Pacer()
        self._is_answered = is_answered
        self._held_back: list[tuple[CaptionRequest, str]] = []
        self._num_valid = self._num_unusable = 0
        self._on_settled = on_settled
        self._tally = Tally()
        self._failures_in_a_row = 0
        self._max_failures_in_a_row = max(20, 4 * settings.concurrency)
        self._prompt_sha256 = {kind: builder.prompt_sha256(kind) for kind in builder.kinds}
        self._parameters = builder.parameters
        self._waiting: set[asyncio.Task[Any]] = set()
        self._num_reserved = 0
        self._released = asyncio.Event()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def is_answered(self) -> bool:
        """Whether the server has answered any request."""
        return self._is_answered

    def stop(self, reason: str) -> None:
        """Start no further request; running requests are awaited, because they are billed."""
        if self._tally.stopped_because is None:
            self._tally.stopped_because = reason
            for task in self._waiting:
                task.cancel()

    async def run(self, requests: Iterable[CaptionRequest]) -> Tally:
        """Settle all requests, in any order; returns the counts.

        Raises:
            ValueError, OSError: an image cannot be read, or the store cannot be written; the answers of running
                requests are still stored.
        """
        source = iter(requests)
        workers = [self._work(source) for _ in range(self._settings.concurrency)]
        for result in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        await self._settle_held_back()
        return self._tally

    async def _work(self, source: Iterator[CaptionRequest]) -> None:
        try:
            while self._tally.stopped_because is None and (request := next(source, None)) is not None:
                async with self._locks.setdefault(request.key, asyncio.Lock()):  # serialises equal requests
                    await self._settle(request)
        except BaseException as error:
            self.stop(f"{type(error).__name__}: {error}")
            raise

    async def _settle(self, request: CaptionRequest) -> None:
        """Settle one request, from the state in which an earlier run left it."""
        progress = await self._resume(request)
        if progress.state == VALID:
            self._tally.reused += 1
        while progress.state in (NEW, RAW):
            if progress.state == RAW:
                progress = await self._judge(
                    request, progress, self._store.last_raw(request.key) or "", reserved_usd=0.0
                )
            else:
                progress = await self._ask(request, progress)
        if progress.state != HELD:
            self._count(request, progress.state, progress.reason)

    def _count(self, request: CaptionRequest, state: str, reason: str | None) -> None:
        self._tally.count(request, state, reason)
        self._tally.usd = self._budget.spent_usd
        self._on_settled(self._tally)

    async def _resume(self, request: CaptionRequest) -> _Progress:
        """The progress of a request after earlier runs, or after an equal request of this run."""
        stored = self._store.get(request.key)
        if stored is None:
            return _Progress(NEW)
        if stored.state == SENT:
            return _Progress(UNFINISHED, reason=IN_BATCH)
        progress = _Progress(stored.state, stored.attempt, stored.feedback, stored.reason)
        if stored.state == DEAD and self._settings.retry_dead:
            await _on_disk(self._store.revive(request.key))
            return _Progress(NEW)
        if stored.state == IN_DOUBT:
            is_counted = self._store.is_last_call_counted(stored)
            return await self._mark_in_doubt(
                request, progress, 0.0 if is_counted else self._max_usd(request, stored.feedback)
            )
        return progress

    async def _ask(self, request: CaptionRequest, progress: _Progress) -> _Progress:
        """Call until there is an answer, and judge it; without an answer the request is unfinished or in doubt."""
        settings, tally = self._settings, self._tally
        unfinished = replace(progress, state=UNFINISHED, reason=None)
        max_usd = self._max_usd(request, progress.feedback)
        tokens = self._builder.estimate_tokens(request, progress.feedback)
        failure: Failure | None = None
        for num_failures in range(settings.max_tries):
            if failure and not await self._wait(self._pacer.sleep(self._retry_delay_s(failure, num_failures))):
                return unfinished
            if not await self._wait(self._pacer.wait_turn(tokens)):
                return unfinished
            if not await self._reserve(max_usd):
                return unfinished
            await _on_disk(self._store.mark_sent(request, self._prompt_sha256[request.kind], self._parameters))
            tally.asked += 1
            answer = await self._call(request, progress.feedback)
            if isinstance(answer, str):
                await _on_disk(self._store.mark_raw([(request.key, answer)]))
                return await self._judge(request, progress, answer, max_usd)
            failure = answer
            self._release(max_usd, 0.0)
            if failure.outcome is Outcome.DOUBT:
                progress = await self._mark_in_doubt(request, progress, max_usd)
                if progress.state == IN_DOUBT:
                    return progress
            elif failure.outcome is Outcome.DEAD:
                return await self._refuse(request, progress, failure.reason)
            else:
                await _on_disk(self._store.mark_unsent([request.key]))
        return unfinished

    async def _reserve(self, usd: float) -> bool:
        """Reserve the maximal cost of a call; False if the run stops because that would exceed the budget.

        A call costs less than its reservation, so that a call that does not fit waits for running ones.
        """
        while not self._budget.reserve(usd):
            if not self._num_reserved:
                self.stop(f"the next request might pass --max_usd {self._budget.max_usd}; raise it and run again")
                return False
            if not await self._wait(self._released.wait()):
                return False
        self._num_reserved += 1
        return True

    def _release(self, reserved_usd: float, spent_usd: float) -> None:
        """Replace a reservation by the real cost of the call, and wake the requests that wait for budget."""
        self._budget.settle(reserved_usd, spent_usd)
        if reserved_usd:
            self._num_reserved -= 1
        self._released.set()
        self._released = asyncio.Event()

    async def _refuse(self, request: CaptionRequest, progress: _Progress, message: str) -> _Progress:
        """Mark a refused request as dead, or hold it back if the server has not answered any request."""
        if self._is_answered:
            await _on_disk(self._store.mark_dead(request.key, BAD_REQUEST, [message]))
            return replace(progress, state=DEAD, reason=BAD_REQUEST)
        await _on_disk(self._store.mark_unsent([request.key]))
        self._held_back.append((replace(request, image=b""), message))
        if self._settings.should_give_up(len(self._held_back)):
            self._stop_refused()
        return replace(progress, state=HELD)

    async def _settle_held_back(self) -> None:
        """Settle held-back requests at the end of a run: dead if the server answered others, else unfinished."""
        is_dead = self._is_answered or self._tally.reused or self._settings.give_up_after is None
        if self._held_back and not is_dead:
            self._stop_refused()
        for request, message in self._held_back:
            if is_dead:
                await _on_disk(self._store.mark_dead(request.key, BAD_REQUEST, [message]))
            self._count(request, DEAD if is_dead else UNFINISHED, BAD_REQUEST if is_dead else REFUSED)
        self._held_back.clear()

    def _stop_refused(self) -> None:
        self._tally.is_refused = True
        message = Counter(message for _, message in self._held_back).most_common(1)[0][0]
        self.stop(f"the server refused every one of {len(self._held_back)} requests: {message}")

    async def _call(self, request: CaptionRequest, feedback: Feedback | None) -> str | Failure:
        """Make one HTTP call; returns the raw text of the answer, or the failure."""
        body = self._builder.body(request, feedback)
        try:
            # The body is passed as `extra_body`, because the client's conversion of arguments would cost more than
            # the rest of the call.
            response = await self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=[], extra_body=body
            )
        except openai.APIError as error:
            failure = classify(error)
            self._track_failure(failure)
            return failure
        self._failures_in_a_row = 0
        self._is_answered = True
        self._pacer.observe(response.headers)
        return response.http_response.text

    def _track_failure(self, failure: Failure) -> None:
        self._tally.last_failure = failure.reason
        if failure.outcome is Outcome.STOP:
            self.stop(failure.reason)
        if failure.counts_as_outage:
            self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._max_failures_in_a_row:
            self.stop(f"{self._failures_in_a_row} calls in a row failed; the last one: {failure.reason}")
        if failure.retry_after_s is not None and failure.retry_after_s > LONG_PAUSE_S:
            self._pacer.pause(failure.retry_after_s)

    async def _judge(self, request: CaptionRequest, progress: _Progress, raw: str, reserved_usd: float) -> _Progress:
        judgement = judge_answer(request, raw, self._settings.count_tokens)
        state = next_state(judgement, progress.attempt, self._settings.max_reasks)
        if judgement.usage is not None:
            usd = judgement.usage.usd(self._price, batch=False)
        else:
            usd = self._max_usd(request, progress.feedback)
        self._release(reserved_usd, usd)
        self._tally.reasked += state == NEW
        self._track_usable(judgement)
        await _on_disk(self._store.mark_judged(request.key, judgement, state, usd))
        return _Progress(state, progress.attempt + 1, judgement.feedback, judgement.reason)

    def _track_usable(self, judgement: Judgement) -> None:
        """Count usable and unusable answers, and stop if none is usable."""
        self._num_valid += judgement.caption is not None
        self._num_unusable += judgement.caption is None
        any_usable = self._num_valid or self._tally.reused
        if not any_usable and self._settings.should_give_up(self._num_unusable):
            self.stop(describe_giving_up(self._num_unusable, judgement))

    async def _mark_in_doubt(self, request: CaptionRequest, progress: _Progress, usd: float) -> _Progress:
        """Count the maximal cost of a request that may have been answered, and apply the `in_doubt` policy."""
        await _on_disk(self._store.mark_in_doubt(request.key, usd))
        self._budget.settle(0.0, usd)
        resend = self._settings.in_doubt == "resend"
        return replace(progress, state=NEW if resend else IN_DOUBT, reason=None if resend else IN_DOUBT)

    def _max_usd(self, request: CaptionRequest, feedback: Feedback | None) -> float:
        """The maximal cost of one call in US dollars."""
        tokens = self._builder.estimate_tokens(request, feedback)
        return self._price.usd(tokens, 0, self._builder.profile.max_output_tokens)

    def _retry_delay_s(self, failure: Failure, num_failures: int) -> float:
        """Seconds until the next try: as the server asks, or else exponential back-off with jitter."""
        if failure.retry_after_s is not None:
            return failure.retry_after_s
        return self._settings.backoff_after_s(num_failures) * random.uniform(0.5, 1.0)

    async def _wait(self, waiting: Coroutine[Any, Any, object]) -> bool:
        """Wait for a coroutine until the run is stopped; returns whether the run continues."""
        if self._tally.stopped_because is not None:
            waiting.close()
            return False
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            await waiting
        except asyncio.CancelledError:
            if self._tally.stopped_because is None:
                raise
        finally:
            self._waiting.discard(task)
        return self._tally.stopped_because is None


async def _on_disk(future: "Future[None]") -> None:
    """Wait for a write of the store without blocking other requests."""
    await asyncio.wrap_future(future)
