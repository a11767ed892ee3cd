"""Shard files of the Batch API: writes requests as JSONL, reads answers and joins them by `custom_id`.

`vllm run-batch` reads and writes the same format, so that the files can be answered without a hosted service.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .answers import (
    BAD_REQUEST,
    DEAD,
    IN_DOUBT,
    NEW,
    RAW,
    SENT,
    VALID,
    Judgement,
    describe_giving_up,
    judge_answer,
    next_state,
)
from .profiles import FREE, Price
from .prompting import CaptionRequest, RequestBuilder
from .server_messages import server_message
from .settings import GIVE_UP_AFTER, RunSettings
from .store import SHARD_STATES, CaptionStore, Shard, StoredRequest

MAX_SHARD_REQUESTS = 50_000
MAX_SHARD_BYTES = 200_000_000
ENDPOINT: Final = "/v1/chat/completions"
_ANSWERS_PER_COMMIT = 500
_RETRIED_STATUS = frozenset({408, 409, 429})


@dataclass(frozen=True)
class AnswerLine:
    """One line of an output or error file: the body of the answer, or the status or code of its failure."""

    key: str
    body: Any
    status: int | None
    error: str | None

    @property
    def is_answer(self) -> bool:
        """Whether the model answered."""
        return self.status == 200 and self.error is None

    @property
    def is_not_run(self) -> bool:
        """Whether the batch ended before this request was run; that is no failure of the request."""
        return self.error in ("batch_expired", "batch_cancelled")

    @property
    def is_refused(self) -> bool:
        """Whether the server refused the request permanently."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _RETRIED_STATUS


def request_line(key: str, body: dict[str, Any]) -> bytes:
    """One line of a shard file."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_answer_lines(path: Path) -> Iterator[AnswerLine]:
    """Yield the lines of an output or error file; an invalid line has an empty key."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if text.strip():
                yield _parse_answer_line(text)


def _parse_answer_line(text: str) -> AnswerLine:
    try:
        line = json.loads(text)
        response, error = line.get("response") or {}, line.get("error") or {}
        code = error.get("code") or error.get("message") or ("error" if error else None)
        return AnswerLine(str(line.get("custom_id", "")), response.get("body"), response.get("status_code"), code)
    except (ValueError, AttributeError):
        return AnswerLine("", None, None, "not_json")


class _Draft:
    """A shard file that is being written; it gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_suffix(".part")
        self._file = self._part.open("wb")
        self.members: list[CaptionRequest] = []  # without their images
        self.num_bytes = 0
        self.usd = 0.0

    def add(self, request: CaptionRequest, line: bytes, usd: float) -> None:
        self._file.write(line)
        self.members.append(replace(request, image=b""))
        self.num_bytes += len(line)
        self.usd += usd

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.rename(self.path)


class ShardWriter:
    """Writes the pending requests into files in `batches/` of the store's folder.

    Args:
        builder: makes the bodies. A builder has one model, as a file must.
        store: the store of requests and answers.
        settings: settings of the run; `in_doubt` and `max_tries` decide which requests are pending.
        price: price of the model, for the maximal cost of a shard.
        max_requests, max_bytes: maximal size of a file.
    """

    def __init__(
        self,
        builder: RequestBuilder,
        store: CaptionStore,
        settings: RunSettings,
        price: Price = FREE,
        *,
        max_requests: int = MAX_SHARD_REQUESTS,
        max_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        for name, value, high in (
            ("requests per batch file", max_requests, MAX_SHARD_REQUESTS),
            ("bytes per batch file", max_bytes, MAX_SHARD_BYTES),
        ):
            if not 1 <= value <= high:
                raise ValueError(f"{value:,} {name}; the Batch API accepts 1 to {high:,}.")
        self._builder = builder
        self._store = store
        self._settings = settings
        self._price = price
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._tries: Counter[str] = Counter()
        self._prompt_sha256 = {kind: builder.prompt_sha256(kind) for kind in builder.kinds}

    def write(self, requests: Iterable[CaptionRequest]) -> list[Shard]:
        """Write all pending requests and register their shards in the store."""
        shards: list[Shard] = []
        draft: _Draft | None = None
        keys: set[str] = set()
        for request in requests:
            stored = self._store.get(request.key)
            if request.key in keys or not self._is_pending(request.key, stored):
                continue
            feedback = stored.feedback if stored else None
            line = request_line(request.key, self._builder.body(request, feedback))
            if draft and (len(draft.members) == self._max_requests or draft.num_bytes + len(line) > self._max_bytes):
                shards.append(self._register(draft))
                draft = None
            draft = draft or self._new_draft()
            tokens = self._builder.estimate_tokens(request, feedback)
            usd = self._price.usd(tokens, 0, self._builder.profile.max_output_tokens, batch=True)
            if stored and stored.state == IN_DOUBT:
                self._store.mark_in_doubt(request.key, usd)
            draft.add(request, line, usd)
            keys.add(request.key)
            self._tries[request.key] += 1
        return shards + ([self._register(draft)] if draft else [])

    def use_smaller_files(self, num_requests: int) -> None:
        """Write further files with at most half as many requests as a file of that size."""
        self._max_requests = min(self._max_requests, max(1, num_requests // 2))

    def discount_tries(self, keys: Iterable[str]) -> None:
        """Do not count the last try of these requests, whose file failed."""
        self._tries.subtract(keys)

    def _is_pending(self, key: str, stored: StoredRequest | None) -> bool:
        if stored is None:
            return True
        has_tries_left = self._tries[key] < self._settings.max_tries + stored.attempt
        return stored.state != DEAD and self._settings.asks_again(stored.state) and has_tries_left

    def _new_draft(self) -> _Draft:
        folder = self._store.folder / "batches"
        folder.mkdir(exist_ok=True)
        return _Draft(shard_path(self._store, f"{self._store.num_shards() + 1:05d}"))

    def _register(self, draft: _Draft) -> Shard:
        """Finish the file, then register it: a file that the store does not list is overwritten by the next one."""
        draft.finish()
        shard = Shard(draft.path.stem, "written", len(draft.members), draft.usd, None, None, None, None)
        parameters = self._builder.parameters
        members = [(request, self._prompt_sha256[request.kind], parameters) for request in draft.members]
        self._store.add_shard(shard, members).result()
        return shard


def _find_shard(store: CaptionStore, key: str) -> str | None:
    stored = store.get(key)
    return stored.shard if stored else None


def shard_path(store: CaptionStore, shard_id: str) -> Path:
    """The file of a shard."""
    return store.folder / "batches" / f"{shard_id}.jsonl"


class AnswerCollector:
    """Stores the answers of shards and judges them.

    Every answer is stored before it is judged. Duplicate lines and lines of unknown requests are counted and ignored.

    Attributes:
        counts: the number of lines that are an `answer`, a `failure` to be sent again, `not_run` because the batch
            ended, permanently `refused`, a `duplicate` or `unknown`; and the number of `missing` requests.
        num_reasked: number of rejected answers that are asked for again.
        refusal: the reason to stop, if every request of a shard was refused or no answer is usable; else None.
    """

    def __init__(
        self, store: CaptionStore, settings: RunSettings, max_output_tokens: int, price: Price = FREE
    ) -> None:
        self._store = store
        self._settings = settings
        self._unknown_bill_usd = price.usd(0, 0, max_output_tokens, batch=True)
        self._price = price
        self.counts: Counter[str] = Counter()
        self.num_reasked = 0
        self.refusal: str | None = None
        self._held_back: list[tuple[str, str]] = []
        self._num_valid = self._num_unusable = 0

    def collect_file(self, path: Path) -> None:
        """Collect a file of another program, such as `vllm run-batch`, and finish the shards that it answers."""
        self.collect(read_answer_lines(path), None)
        for shard in self._store.shards("written"):
            num_open = sum(1 for _ in self._store.find(SENT, shard.id))
            if num_open < shard.num_requests:
                self.finish_shard(shard.id)

    def collect(self, lines: Iterable[AnswerLine], shard_id: str | None) -> None:
        """Collect the answers to the requests of one shard, or of all shards without an id."""
        lines = iter(lines)
        while chunk := list(islice(lines, _ANSWERS_PER_COMMIT)):
            self._collect_chunk(chunk, shard_id)

    def finish_shard(self, shard_id: str) -> None:
        """Finish a shard: unanswered requests may be sent again, and answers are judged."""
        refused = [(key, message) for key, message in self._held_back if _find_shard(self._store, key) == shard_id]
        self._held_back = [entry for entry in self._held_back if entry not in refused]
        missing = {stored.key for stored in self._store.find(SENT, shard_id)} - {key for key, _ in refused}
        self.counts["missing"] += len(missing)
        self._store.mark_unsent(missing).result()
        self._settle_refused(shard_id, refused)
        self.judge()
        self._store.update_shard(shard_id, "collected").result()

    def judge(self) -> None:
        """Judge all raw answers in the store."""
        for stored in list(self._store.find(RAW)):
            judgement = judge_answer(stored, self._store.last_raw(stored.key) or "", self._settings.count_tokens)
            state = next_state(judgement, stored.attempt, self._settings.max_reasks)
            usage = judgement.usage
            usd = usage.usd(self._price, batch=stored.shard is not None) if usage else self._unknown_bill_usd
            self.num_reasked += state == NEW
            self._track_usable(judgement)
            self._store.mark_judged(stored.key, judgement, state, usd)
        self._store.flush()

    def _settle_refused(self, shard_id: str, refused: list[tuple[str, str]]) -> None:
        """Mark refused requests as dead, or stop if the server refused a whole shard and never answered anything."""
        shard = next(shard for shard in self._store.shards(*SHARD_STATES) if shard.id == shard_id)
        all_refused = len(refused) == shard.num_requests and self._settings.should_give_up(GIVE_UP_AFTER)
        if refused and all_refused and not any(True for _ in self._store.find(VALID)):
            self.refusal = f"the server refused every one of {len(refused)} requests: {refused[0][1]}"
            self._store.mark_unsent([key for key, _ in refused]).result()
            return
        for key, message in refused:
            self._store.mark_dead(key, BAD_REQUEST, [message])
        self._store.flush()

    def _track_usable(self, judgement: Judgement) -> None:
        self._num_valid += judgement.caption is not None
        self._num_unusable += judgement.caption is None
        any_usable = self._num_valid or any(True for _ in self._store.find(VALID))
        if judgement.caption is None and not any_usable and self._settings.should_give_up(self._num_unusable):
            self.refusal = describe_giving_up(self._num_unusable, judgement)

    def _collect_chunk(self, chunk: list[AnswerLine], shard_id: str | None) -> None:
        answers: dict[str, str] = {}
        failed: list[str] = []
        for line in chunk:
            stored = self._store.get(line.key)
            if stored is None or (shard_id and stored.shard not in (shard_id, None)):
                self.counts["unknown"] += 1
            elif line.key in answers or stored.state in (RAW, VALID, DEAD):
                self.counts["duplicate"] += 1
            elif stored.state != SENT:
                self.counts["unknown"] += 1
            elif line.is_answer:
                answers[line.key] = json.dumps(line.body)
            elif line.is_refused:
                self.counts["refused"] += 1
                self._held_back.append((line.key, f"HTTP {line.status}: {server_message(line.body)}"))
            else:
                self.counts["not_run" if line.is_not_run else "failure"] += 1
                failed.append(line.key)
        self.counts["answer"] += len(answers)
        self._store.mark_unsent(failed)
        self._store.mark_raw(answers.items()).result()
