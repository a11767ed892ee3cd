"""The online engine: many requests at once against a chat-completions endpoint, each settled or left resumable."""

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
    hopeless,
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
"""Refused while the server has answered nothing else."""


@dataclass(frozen=True)
class _Progress:
    """Where a request stands: its state, its rejected answers so far, and what the next call tells the model."""

    state: str
    attempt: int = 0
    feedback: Feedback | None = None
    reason: str | None = None


class OnlineRunner:
    """Asks for captions through `client.chat.completions`, up to `concurrency` at a time.

    The order on the disk is the promise: `sent` before the call, the raw answer before it is read. A run that is
    killed anywhere loses no answer that reached it and asks for none of them again.

    Args:
        client: made with `max_retries=0`; retries are decided here.
        builder: makes the bodies, for the endpoint of the client.
        store: keeps requests and answers.
        price: of the model; free by default.
        budget: money of the run; unlimited by default.
        pacer: limits of the endpoint; those of its headers by default.
        is_answered: whether the server has answered requests of this setting before.
        on_settled: called with the tally whenever a caption is settled.

    A request that the server refuses (HTTP 4xx) is dead once another one is answered. As long as none is, the setting
    may be at fault: refused requests are held back, and left unsent where the run ends without an answer.
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
        self._held: list[tuple[CaptionRequest, str]] = []
        self._num_valid = self._num_unusable = 0
        self._on_settled = on_settled
        self._tally = Tally()
        self._failures_in_a_row = 0
        self._max_failures_in_a_row = max(20, 4 * settings.concurrency)
        self._prompt_sha256 = {kind: builder.prompt_sha256(kind) for kind in builder.kinds}
        self._parameters = builder.parameters
        self._waiting: set[asyncio.Task[Any]] = set()
        self._num_reserved = 0
        self._given_back = asyncio.Event()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def is_answered(self) -> bool:
        """Whether the server has answered any request."""
        return self._is_answered

    def stop(self, reason: str) -> None:
        """Start no further request; those on their way are waited for, because they will be billed."""
        if self._tally.stopped_because is None:
            self._tally.stopped_because = reason
            for task in self._waiting:
                task.cancel()

    async def run(self, requests: Iterable[CaptionRequest]) -> Tally:
        """Settle every request, in any order; returns what became of them.

        Raises:
            ValueError, OSError: from an image that cannot be read or a store that cannot be written; whatever was on
                its way is still kept.
        """
        source = iter(requests)
        workers = [self._work(source) for _ in range(self._settings.concurrency)]
        for result in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        await self._settle_held()
        return self._tally

    async def _work(self, source: Iterator[CaptionRequest]) -> None:
        try:
            while self._tally.stopped_because is None and (request := next(source, None)) is not None:
                async with self._locks.setdefault(request.key, asyncio.Lock()):  # equal questions take turns
                    await self._settle(request)
        except BaseException as error:
            self.stop(f"{type(error).__name__}: {error}")
            raise

    async def _settle(self, request: CaptionRequest) -> None:
        """Bring one request to its end, wherever an earlier run left it."""
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
        """Where an earlier run, or an equal question of this one, left the request."""
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
            return await self._doubt(
                request, progress, 0.0 if is_counted else self._worst_usd(request, stored.feedback)
            )
        return progress

    async def _ask(self, request: CaptionRequest, progress: _Progress) -> _Progress:
        """Call until there is an answer, and judge it; unfinished or in doubt where there is none."""
        settings, tally = self._settings, self._tally
        unfinished = replace(progress, state=UNFINISHED, reason=None)
        worst_usd = self._worst_usd(request, progress.feedback)
        tokens = self._builder.estimate_tokens(request, progress.feedback)
        failure: Failure | None = None
        for num_failures in range(settings.max_tries):
            if failure and not await self._wait(self._pacer.sleep(self._retry_delay_s(failure, num_failures))):
                return unfinished
            if not await self._wait(self._pacer.wait_turn(tokens)):
                return unfinished
            if not await self._reserve(worst_usd):
                return unfinished
            await _on_disk(self._store.mark_sent(request, self._prompt_sha256[request.kind], self._parameters))
            tally.asked += 1
            answer = await self._call(request, progress.feedback)
            if isinstance(answer, str):
                await _on_disk(self._store.mark_raw([(request.key, answer)]))
                return await self._judge(request, progress, answer, worst_usd)
            failure = answer
            self._give_back(worst_usd, 0.0)
            if failure.outcome is Outcome.DOUBT:
                progress = await self._doubt(request, progress, worst_usd)
                if progress.state == IN_DOUBT:
                    return progress
            elif failure.outcome is Outcome.DEAD:
                return await self._refuse(request, progress, failure.reason)
            else:
                await _on_disk(self._store.mark_unsent([request.key]))
        return unfinished

    async def _reserve(self, usd: float) -> bool:
        """Set money aside for a call; False where the run stops, because that would pass the bound.

        A call costs less than what is set aside for it, so one that does not fit waits for those that run.
        """
        while not self._budget.reserve(usd):
            if not self._num_reserved:
                self.stop(f"the next request might pass --max_usd {self._budget.max_usd}; raise it and run again")
                return False
            if not await self._wait(self._given_back.wait()):
                return False
        self._num_reserved += 1
        return True

    def _give_back(self, reserved_usd: float, spent_usd: float) -> None:
        """Count what a call cost, and wake the requests that wait for the money set aside for it."""
        self._budget.settle(reserved_usd, spent_usd)
        if reserved_usd:
            self._num_reserved -= 1
        self._given_back.set()
        self._given_back = asyncio.Event()

    async def _refuse(self, request: CaptionRequest, progress: _Progress, words: str) -> _Progress:
        """Settle a request that the server refuses, or hold it back while the server has answered none."""
        if self._is_answered:
            await _on_disk(self._store.mark_dead(request.key, BAD_REQUEST, [words]))
            return replace(progress, state=DEAD, reason=BAD_REQUEST)
        await _on_disk(self._store.mark_unsent([request.key]))
        self._held.append((replace(request, image=b""), words))
        if self._settings.is_hopeless(len(self._held)):
            self._stop_refused()
        return replace(progress, state=HELD)

    async def _settle_held(self) -> None:
        """At the end of a run: held requests are dead if the server answers others, else left to the next run."""
        answers = self._is_answered or self._tally.reused or self._settings.max_hopeless is None
        if self._held and not answers:
            self._stop_refused()
        for request, words in self._held:
            if answers:
                await _on_disk(self._store.mark_dead(request.key, BAD_REQUEST, [words]))
            self._count(request, DEAD if answers else UNFINISHED, BAD_REQUEST if answers else REFUSED)
        self._held.clear()

    def _stop_refused(self) -> None:
        self._tally.is_refused = True
        words = Counter(words for _, words in self._held).most_common(1)[0][0]
        self.stop(f"the server refused every one of {len(self._held)} requests: {words}")

    async def _call(self, request: CaptionRequest, feedback: Feedback | None) -> str | Failure:
        """One HTTP call: the raw text of the answer, or what its failure means."""
        body = self._builder.body(request, feedback)
        try:
            # The body goes out as it was built: `extra_body` replaces the arguments, whose conversion by the client
            # would cost more than the rest of the call.
            response = await self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=[], extra_body=body
            )
        except openai.APIError as error:
            failure = classify(error)
            self._note_failure(failure)
            return failure
        self._failures_in_a_row = 0
        self._is_answered = True
        self._pacer.observe(response.headers)
        return response.http_response.text

    def _note_failure(self, failure: Failure) -> None:
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
            usd = self._worst_usd(request, progress.feedback)
        self._give_back(reserved_usd, usd)
        self._tally.reasked += state == NEW
        self._note_use(judgement)
        await _on_disk(self._store.mark_judged(request.key, judgement, state, usd))
        return _Progress(state, progress.attempt + 1, judgement.feedback, judgement.reason)

    def _note_use(self, judgement: Judgement) -> None:
        """Stop where no answer so far was of use."""
        self._num_valid += judgement.caption is not None
        self._num_unusable += judgement.caption is None
        is_of_use = self._num_valid or self._tally.reused
        if not is_of_use and self._settings.is_hopeless(self._num_unusable):
            self.stop(hopeless(self._num_unusable, judgement))

    async def _doubt(self, request: CaptionRequest, progress: _Progress, usd: float) -> _Progress:
        """A request that may have been answered: its worst cost is counted, then the policy decides."""
        await _on_disk(self._store.mark_in_doubt(request.key, usd))
        self._budget.settle(0.0, usd)
        resend = self._settings.in_doubt == "resend"
        return replace(progress, state=NEW if resend else IN_DOUBT, reason=None if resend else IN_DOUBT)

    def _worst_usd(self, request: CaptionRequest, feedback: Feedback | None) -> float:
        """The most that one call can cost."""
        tokens = self._builder.estimate_tokens(request, feedback)
        return self._price.usd(tokens, 0, self._builder.profile.max_output_tokens)

    def _retry_delay_s(self, failure: Failure, num_failures: int) -> float:
        """What the server asked for, else twice as long after every failure, with jitter."""
        if failure.retry_after_s is not None:
            return failure.retry_after_s
        return self._settings.backoff_after_s(num_failures) * random.uniform(0.5, 1.0)

    async def _wait(self, waiting: Coroutine[Any, Any, object]) -> bool:
        """Wait, but no longer than until the run is stopped; whether it goes on."""
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
    """Wait for a write of the store without blocking the other requests."""
    await asyncio.wrap_future(future)
