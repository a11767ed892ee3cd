"""The Batch API mode: requests travel in files, and nothing is paid twice.

A shard goes written → uploaded → creating → created → collected (or failed). Its requests are `sent` from the moment
it is written. The one call whose loss could cost money is the creation of a batch: it carries the shard's name in its
metadata, and a lost answer is resolved by looking through the list of batches for that name.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
import openai
from openai.types import Batch

from .answers import SENT, VALID
from .failures import Outcome, classify
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
_OPEN_STATES = ("written", "uploaded", "creating", "created")
_FINAL_STATUS = frozenset({"completed", "expired", "cancelled"})
_MAX_TRIES = 8  # calls that cost nothing, before the run stops
_T = TypeVar("_T")


class _StoppedError(Exception):
    """The run cannot go on; what was submitted is collected by the next one."""


@dataclass(frozen=True)
class BatchSettings:
    """How the batch mode behaves, besides what it shares with the online mode.

    Args:
        max_requests, max_bytes: bounds of one file.
        poll_s: seconds between two looks at the running batches.
        settle_s: how old a creation without an answer must be before its absence from the list is believed.
        waits: False submits and returns; the next run collects.
    """

    max_requests: int = MAX_SHARD_REQUESTS
    max_bytes: int = MAX_SHARD_BYTES
    poll_s: float = 30.0
    settle_s: float = 60.0
    waits: bool = True


class BatchRunner:
    """Captions through the Batch API, in rounds: what was rejected or not answered goes into the next round's files.

    Args:
        client: made with `max_retries=0`.
        builder, store, settings, price, budget: as for the online runner.
        on_progress: called with (requests done, requests submitted) of the running batches after every look.
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
        """Settle every request; returns what became of them.

        Args:
            requests: makes the requests anew for every round.
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
            stopped = self._submit_all(shards, tally)
            if self._batch_settings.waits:
                self._collect_all()
            if stopped:
                raise stopped
            if not self._batch_settings.waits:
                return

    def _collect_all(self) -> None:
        """Wait for the running batches and take their answers.

        Raises:
            _StoppedError: every one of them failed.
        """
        errors: list[str] = []
        num_collected = 0
        while shards := self._store.shards("created"):
            batches = [(shard, self._call(partial(self._retrieve, shard))) for shard in shards]
            for shard, batch in batches:
                if batch.status in _FINAL_STATUS:
                    self._collect(shard, batch)
                    num_collected += 1
                elif batch.status == "failed":
                    errors.append(self._fail(shard, batch))
            counts = [batch.request_counts for _, batch in batches if batch.request_counts]
            self._on_progress(sum(c.completed + c.failed for c in counts), sum(c.total for c in counts))
            if self._store.shards("created"):
                self._sleep(self._batch_settings.poll_s)
        if errors and not num_collected:
            raise _StoppedError("; ".join(errors))

    def _collect(self, shard: Shard, batch: Batch) -> None:
        """Take the answers of an ended batch; afterwards its files, which hold images, are deleted here."""
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

    def _fail(self, shard: Shard, batch: Batch) -> str:
        """The provider did not accept the file: its requests were not run and are free again."""
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        text = "; ".join(f"{error.code} (line {error.line}): {error.message}" for error in errors[:3])
        self._store.mark_unsent([stored.key for stored in self._store.find(SENT, shard.id)])
        self._store.update_shard(shard.id, "failed", error=text).result()
        self._budget.settle(shard.usd, 0.0)
        return f"batch {batch.id} of {shard.id}.jsonl failed: {text or 'no reason given'}"

    # ---------------------------------------------------------------------------------------------------- submission
    def _submit_all(self, shards: Iterable[Shard], tally: Tally) -> _StoppedError | None:
        """Submit shards until one cannot be, so that those before it are still collected; returns what stopped it."""
        try:
            for shard in shards:
                tally.asked += self._submit(shard)
        except _StoppedError as stopped:
            return stopped
        return None

    def _submit(self, shard: Shard) -> int:
        """Bring a shard to `created`; returns how many requests were submitted by it just now."""
        if shard.state == "created":
            self._budget.hold(shard.usd)
            return 0
        if not self._budget.reserve(shard.usd):
            raise _StoppedError(
                f"{shard.id}.jsonl may cost up to ${shard.usd:.2f}, which would pass --max_usd "
                f"{self._budget.max_usd}; raise it, or use smaller files with --batch_requests"
            )
        if shard.state == "written":
            file_id = self._call(partial(self._upload, shard))
            self._store.update_shard(shard.id, "uploaded", file_id=file_id).result()
        batch_id = self._find_or_create(self._shard(shard.id))
        self._store.update_shard(shard.id, "created", batch_id=batch_id).result()
        return shard.num_requests

    def _find_or_create(self, shard: Shard) -> str:
        """The batch of an uploaded shard. It is created only if no earlier attempt, of any run, can have done so."""
        reason = ""
        for _ in range(_MAX_TRIES):
            if shard.state == "creating" and (found := self._find(shard)):
                return found
            self._store.update_shard(shard.id, "creating", attempted_at=time.time()).result()
            try:
                return self._create(shard)
            except openai.APIError as error:
                failure = classify(error)
            if failure.outcome in (Outcome.STOP, Outcome.DEAD):
                self._store.update_shard(shard.id, "written").result()
                raise _StoppedError(f"the batch of {shard.id}.jsonl was refused: {failure.reason}")
            reason = failure.reason
            self._sleep(failure.retry_after_s or 0.0)
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
        """The batch that an attempt without an answer has made, or None once it would have shown up."""
        believed_at = (shard.attempted_at or 0.0) + self._batch_settings.settle_s
        while True:
            is_settled = time.time() >= believed_at
            if found := self._call(partial(self._look_for, self._name(shard))):
                return found
            if is_settled:
                return None
            self._sleep(min(self._batch_settings.poll_s, max(0.0, believed_at - time.time())))

    def _look_for(self, name: str) -> str | None:
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
        """A call that costs nothing, repeated while the server or the way to it has trouble."""
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
