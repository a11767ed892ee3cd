"""The batch mode: sends requests in files through the Batch API, and pays for no request twice.

The states of a shard are written → uploaded → creating → created → collected (or failed). Its requests are `sent` as
soon as it is written. The only call whose repetition could cost money is the creation of a batch: its metadata have
the name of the shard, and if the answer to that call is lost, the list of batches is searched for that name.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
import openai
from openai.types import Batch, BatchError
from tqdm import tqdm

from .answers import SENT, VALID
from .failures import STOP_CODES, Outcome, classify
from .limits import Budget
from .profiles import FREE, Price
from .prompting import CaptionRequest, RequestBuilder
from .settings import RunSettings
from .shards import (
    ENDPOINT,
    MAX_SHARD_BYTES,
    MAX_SHARD_REQUESTS,
    AnswerCollector,
    ShardWriter,
    read_answer_lines,
    shard_path,
)
from .store import CaptionStore, Shard
from .tally import Tally

METADATA_KEY = "mf2_shard"
FILE_LIFETIME_S = 7 * 24 * 3600
_WAITING_STATES = ("written", "uploaded", "creating")
_OPEN_STATES = (*_WAITING_STATES, "created")
MAX_SHARDS_AT_ONCE = 100_000
"""Maximal number of running batches, until the provider reports a lower limit."""
_MAX_FAILURES = 4  # consecutive polls with failed and no ended batches before files are made smaller
_FINAL_STATUS = frozenset({"completed", "expired", "cancelled"})
_MAX_TRIES = 8  # tries of calls that cost nothing, before the run stops
_T = TypeVar("_T")


class _StoppedError(Exception):
    """The run cannot continue; the next run collects what was submitted."""


@dataclass(frozen=True)
class BatchSettings:
    """Settings of the batch mode, in addition to `RunSettings`.

    Args:
        max_requests, max_bytes: maximal size of a file.
        poll_s: seconds between two polls of the running batches.
        settle_s: seconds after which an unanswered creation of a batch that is not in the list counts as failed.
        waits: False submits the batches and returns; the next run collects them.
    """

    max_requests: int = MAX_SHARD_REQUESTS
    max_bytes: int = MAX_SHARD_BYTES
    poll_s: float = 30.0
    settle_s: float = 60.0
    waits: bool = True


def _format_batch_error(error: BatchError) -> str:
    place = "" if error.line is None else f" (line {error.line})"
    return f"{error.code}{place}: {error.message}"


class BatchRunner:
    """Requests captions through the Batch API in rounds; rejected and unanswered requests go into the next round.

    Args:
        client: made with `max_retries=0`.
        builder, store, settings, price, budget: as for `OnlineRunner`.
        batch_settings: settings of the batch mode.
        on_progress: called with (requests done, requests submitted) of the running batches after every poll.
        sleep: replaceable for tests.
    """

    def __init__(
        self,
        client: openai.OpenAI,
        builder: RequestBuilder,
        store: CaptionStore,
        settings: RunSettings,
        batch_settings: BatchSettings,
        *,
        price: Price = FREE,
        budget: Budget | None = None,
        on_progress: Callable[[int, int], None] = lambda done, submitted: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._builder = builder
        self._store = store
        self._settings = settings
        self._batch_settings = batch_settings
        self._budget = budget or Budget(spent_usd=store.usd_spent())
        self._on_progress = on_progress
        self._sleep = sleep
        self._writer = ShardWriter(
            builder,
            store,
            settings,
            price,
            max_requests=batch_settings.max_requests,
            max_bytes=batch_settings.max_bytes,
        )
        self.collector = AnswerCollector(store, settings, builder.profile.max_output_tokens, price)

    def run(self, requests: Callable[[], Iterable[CaptionRequest]]) -> Tally:
        """Settle all requests; returns the counts.

        Args:
            requests: returns the requests; called in every round.
        """
        tally = Tally()
        tally.reused = sum(self._is_valid(request) for request in requests())
        try:
            self._run_rounds(requests, tally)
        except _StoppedError as stopped:
            tally.stopped_because = str(stopped)
        tally.reasked = self.collector.num_reasked
        tally.usd = self._store.usd_spent()
        for request in requests():
            tally.count_stored(request, self._store.get(request.key))
        return tally

    # -------------------------------------------------------------------------------------------------------- rounds
    def _run_rounds(self, requests: Callable[[], Iterable[CaptionRequest]], tally: Tally) -> None:
        if self._settings.retry_dead:
            for request in requests():
                self._store.revive(request.key)
            self._store.flush()
        self.collector.judge()
        while True:
            self._writer.write(requests())
            if not (shards := self._store.shards(*_OPEN_STATES)):
                return
            if not self._batch_settings.waits:
                if stopped := self._submit_all(shards, tally):
                    raise stopped
                return
            self._run_shards(tally)
            if self.collector.refusal:
                raise _StoppedError(self.collector.refusal)

    def _run_shards(self, tally: Tally) -> None:
        """Submit the open shards, as many at once as the provider accepts, and collect their answers.

        A batch that exceeds the provider's limits is submitted again later, together with fewer others.

        Raises:
            _StoppedError: a shard cannot be submitted, or a batch failed permanently; the others are collected first.
        """
        stopped: _StoppedError | None = None
        max_running, num_failures = MAX_SHARDS_AT_ONCE, 0
        while True:
            waiting = self._store.shards(*_WAITING_STATES)
            num_free = max_running - len(self._store.shards("created"))
            if stopped is None and waiting and num_free > 0:
                stopped = self._submit_all(waiting[:num_free], tally)
            if not (running := self._store.shards("created")):
                break
            num_ended, failed = self._poll(running)
            num_failures = 0 if num_ended else num_failures + bool(failed)
            for shard, batch in failed:
                stopped = self._fail(shard, batch, num_failures) or stopped
            if failed:
                max_running = max(1, len(running) - len(failed))
                self._sleep(self._settings.backoff_after_s(max(1, num_failures)))
            elif not num_ended:
                self._sleep(self._batch_settings.poll_s)
        if stopped:
            raise stopped

    def _poll(self, running: list[Shard]) -> tuple[int, list[tuple[Shard, Batch]]]:
        """Collect the batches that have ended; returns their number, and the failed batches."""
        batches = [(shard, self._call(partial(self._retrieve, shard))) for shard in running]
        ended = [(shard, batch) for shard, batch in batches if batch.status in _FINAL_STATUS]
        for shard, batch in ended:
            self._collect(shard, batch)
        counts = [batch.request_counts for _, batch in batches if batch.request_counts]
        self._on_progress(sum(c.completed + c.failed for c in counts), sum(c.total for c in counts))
        return len(ended), [(shard, batch) for shard, batch in batches if batch.status == "failed"]

    def _collect(self, shard: Shard, batch: Batch) -> None:
        """Collect the answers of an ended batch, then delete its local files, which contain images."""
        paths = [shard_path(self._store, shard.id)]
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            path = shard_path(self._store, f"{shard.id}.{file_id}")
            self._call(partial(self._download, file_id, path))
            self.collector.collect(read_answer_lines(path), shard.id)
            paths.append(path)
        self.collector.finish_shard(shard.id)
        for path in paths:
            path.unlink(missing_ok=True)
        self._budget.settle(shard.usd, 0.0)
        self._budget.spent_usd = self._store.usd_spent()

    def _fail(self, shard: Shard, batch: Batch, num_failures: int) -> _StoppedError | None:
        """Handle a batch that the provider did not run; its requests were not sent.

        If the provider's limits were exceeded, the file is submitted again later, and after several failures its
        requests are written to smaller files. If the file is invalid, or nothing helps, the run stops.

        Args:
            shard: the shard of the batch.
            batch: the failed batch.
            num_failures: number of consecutive polls with failed and no ended batches.
        """
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        text = "; ".join(map(_format_batch_error, errors[:3])) or "no reason given"
        self._budget.settle(shard.usd, 0.0)
        is_file_error = any(error.line is not None or error.code in STOP_CODES for error in errors)
        if not is_file_error and num_failures < _MAX_FAILURES:
            tqdm.write(f"{shard.id}.jsonl is submitted again later, with fewer files at once: {text}")
            self._store.update_shard(shard.id, "uploaded", error=text, batch_id=None).result()
            return None
        keys = [stored.key for stored in self._store.find(SENT, shard.id)]
        self._writer.discount_tries(keys)
        self._store.mark_unsent(keys)
        self._store.update_shard(shard.id, "failed", error=text).result()
        if not is_file_error and shard.num_requests > 1:
            tqdm.write(f"{shard.id}.jsonl is written again as smaller files: {text}")
            self._writer.use_smaller_files(shard.num_requests)
            return None
        return _StoppedError(f"batch {batch.id} of {shard.id}.jsonl failed: {text}")

    # ---------------------------------------------------------------------------------------------------- submission
    def _submit_all(self, shards: Iterable[Shard], tally: Tally) -> _StoppedError | None:
        """Submit shards until one cannot be submitted; returns its error, so that the others are collected."""
        try:
            for shard in shards:
                tally.asked += self._submit(shard)
        except _StoppedError as stopped:
            return stopped
        return None

    def _submit(self, shard: Shard) -> int:
        """Bring a shard to the state `created`; returns the number of requests that this submitted."""
        if shard.state == "created":
            self._budget.hold(shard.usd)
            return 0
        if not self._budget.reserve(shard.usd):
            raise _StoppedError(
                f"{shard.id}.jsonl may cost up to ${shard.usd:.2f}, which would exceed --max_usd "
                f"{self._budget.max_usd}; raise it, or use smaller files with --batch_requests"
            )
        if shard.state == "written":
            file_id = self._call(partial(self._upload, shard))
            self._store.update_shard(shard.id, "uploaded", file_id=file_id).result()
        batch_id = self._find_or_create(self._shard(shard.id))
        self._store.update_shard(shard.id, "created", batch_id=batch_id).result()
        return shard.num_requests

    def _find_or_create(self, shard: Shard) -> str:
        """Find or create the batch of an uploaded shard; it is created only if no earlier attempt can have done so."""
        reason = ""
        for num_failures in range(1, _MAX_TRIES + 1):
            if shard.state == "creating" and (batch_id := self._find(shard)):
                return batch_id
            self._store.update_shard(shard.id, "creating", attempted_at=time.time()).result()
            try:
                return self._create(shard)
            except openai.APIError as error:
                failure = classify(error)
            if failure.outcome in (Outcome.STOP, Outcome.DEAD):
                self._store.update_shard(shard.id, "written").result()
                raise _StoppedError(f"the batch of {shard.id}.jsonl was refused: {failure.reason}")
            reason = failure.reason
            backoff_s = self._settings.backoff_after_s(num_failures)
            self._sleep(backoff_s if failure.retry_after_s is None else failure.retry_after_s)
            shard = self._shard(shard.id)
        raise _StoppedError(f"the batch of {shard.id}.jsonl cannot be created: {reason}")

    def _create(self, shard: Shard) -> str:
        assert shard.file_id is not None
        batch = self._client.batches.create(
            input_file_id=shard.file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={METADATA_KEY: self._name(shard)},
            output_expires_after={"anchor": "created_at", "seconds": FILE_LIFETIME_S},
        )
        return batch.id

    def _find(self, shard: Shard) -> str | None:
        """Find the batch that an unanswered attempt has created; None if it is not listed after `settle_s`."""
        deadline = (shard.attempted_at or 0.0) + self._batch_settings.settle_s
        while True:
            is_last_search = time.time() >= deadline
            if batch_id := self._call(partial(self._search_batches, self._name(shard))):
                return batch_id
            if is_last_search:
                return None
            self._sleep(min(self._batch_settings.poll_s, max(0.0, deadline - time.time())))

    def _search_batches(self, name: str) -> str | None:
        batches = self._client.batches.list(limit=100)
        return next((batch.id for batch in batches if (batch.metadata or {}).get(METADATA_KEY) == name), None)

    def _upload(self, shard: Shard) -> str:
        with shard_path(self._store, shard.id).open("rb") as file:
            uploaded = self._client.files.create(
                file=(f"{self._name(shard)}.jsonl", file),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": FILE_LIFETIME_S},
            )
        return uploaded.id

    def _retrieve(self, shard: Shard) -> Batch:
        assert shard.batch_id is not None
        return self._client.batches.retrieve(shard.batch_id)

    def _download(self, file_id: str, path: Path) -> None:
        part = path.with_suffix(".part")
        with self._client.files.with_streaming_response.content(file_id) as response:
            response.stream_to_file(part)
        part.rename(path)

    # ------------------------------------------------------------------------------------------------------- helpers
    def _call(self, function: Callable[[], _T]) -> _T:
        """Make a call that costs nothing, with retries after server and network errors."""
        reason = ""
        for num_failures in range(1, _MAX_TRIES + 1):
            try:
                return function()
            except openai.APIError as error:
                failure = classify(error)
                if failure.outcome in (Outcome.STOP, Outcome.DEAD):
                    raise _StoppedError(failure.reason) from error
                reason, wait_s = failure.reason, failure.retry_after_s
            except httpx2.TransportError as error:  # in the middle of a download
                reason, wait_s = f"{type(error).__name__}: {error}", None
            self._sleep(self._settings.backoff_after_s(num_failures) if wait_s is None else wait_s)
        raise _StoppedError(f"{_MAX_TRIES} calls in a row failed; the last one: {reason}")

    def _shard(self, shard_id: str) -> Shard:
        return next(shard for shard in self._store.shards(*_OPEN_STATES) if shard.id == shard_id)

    def _name(self, shard: Shard) -> str:
        return f"{self._store.id}-{shard.id}"

    def _is_valid(self, request: CaptionRequest) -> bool:
        stored = self._store.get(request.key)
        return stored is not None and stored.state == VALID
