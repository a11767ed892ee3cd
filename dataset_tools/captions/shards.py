"""Shard files of the Batch API: requests written as JSONL, answers read back and joined by `custom_id`.

The files are also what `vllm run-batch` reads and writes, so that they can be answered without any hosted service.
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
    hopeless,
    judge_answer,
    next_state,
)
from .profiles import FREE, Price
from .prompting import CaptionRequest, RequestBuilder
from .server_words import server_words
from .settings import MAX_HOPELESS, RunSettings
from .store import SHARD_STATES, CaptionStore, Shard, StoredRequest

MAX_SHARD_REQUESTS = 50_000
MAX_SHARD_BYTES = 200_000_000
ENDPOINT: Final = "/v1/chat/completions"
_ANSWERS_PER_COMMIT = 500
_RETRIED_STATUS = frozenset({408, 409, 429})


@dataclass(frozen=True)
class AnswerLine:
    """One line of an output or error file: the answer's body, or the status or code of its failure."""

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
        """Whether the batch ended before this request was run, which says nothing about the request."""
        return self.error in ("batch_expired", "batch_cancelled")

    @property
    def is_refused(self) -> bool:
        """Whether the server refused the request for good, so that sending it again would not help."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _RETRIED_STATUS


def request_line(key: str, body: dict[str, Any]) -> bytes:
    """One line of a shard file."""
    line = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_answer_lines(path: Path) -> Iterator[AnswerLine]:
    """The lines of an output or error file; what is no such line comes with an empty key."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if text.strip():
                yield _answer_line(text)


def _answer_line(text: str) -> AnswerLine:
    try:
        line = json.loads(text)
        response, error = line.get("response") or {}, line.get("error") or {}
        code = error.get("code") or error.get("message") or ("error" if error else None)
        return AnswerLine(str(line.get("custom_id", "")), response.get("body"), response.get("status_code"), code)
    except (ValueError, AttributeError):
        return AnswerLine("", None, None, "not_json")


class _Draft:
    """A shard file that is being written; it has its name only when it is whole."""

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
    """Writes the requests that are still to be asked into files under `batches/` of the store's folder.

    Args:
        builder: makes the bodies. One builder has one model, and a file may only hold one.
        settings: of the run; `in_doubt` and `max_tries` decide what is still to be asked.
        price: of the model, for the most that a shard can cost.
        max_requests, max_bytes: bounds of a file.
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
            ("requests a batch file", max_requests, MAX_SHARD_REQUESTS),
            ("bytes a batch file", max_bytes, MAX_SHARD_BYTES),
        ):
            if not 1 <= value <= high:
                raise ValueError(f"{value:,} {name}; the Batch API takes 1 to {high:,}.")
        self._builder = builder
        self._store = store
        self._settings = settings
        self._price = price
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._tries: Counter[str] = Counter()
        self._prompt_sha256 = {kind: builder.prompt_sha256(kind) for kind in builder.kinds}

    def write(self, requests: Iterable[CaptionRequest]) -> list[Shard]:
        """Write every request that is due; the shards are in the store when this returns."""
        shards: list[Shard] = []
        draft: _Draft | None = None
        keys: set[str] = set()
        for request in requests:
            stored = self._store.get(request.key)
            if request.key in keys or not self._is_due(request.key, stored):
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
        """Write the requests of a file of that size into files of half of it."""
        self._max_requests = min(self._max_requests, max(1, num_requests // 2))

    def forgive(self, keys: Iterable[str]) -> None:
        """What became of the files of these requests was not their fault: it was no try."""
        self._tries.subtract(keys)

    def _is_due(self, key: str, stored: StoredRequest | None) -> bool:
        if stored is None:
            return True
        is_tried_out = self._tries[key] >= self._settings.max_tries + stored.attempt
        return stored.state != DEAD and self._settings.asks_again(stored.state) and not is_tried_out

    def _new_draft(self) -> _Draft:
        folder = self._store.folder / "batches"
        folder.mkdir(exist_ok=True)
        return _Draft(shard_path(self._store, f"{self._store.num_shards() + 1:05d}"))

    def _register(self, draft: _Draft) -> Shard:
        """The file first, then the store: a file that the store does not know is overwritten by the next one."""
        draft.finish()
        shard = Shard(draft.path.stem, "written", len(draft.members), draft.usd, None, None, None, None)
        parameters = self._builder.parameters
        members = [(request, self._prompt_sha256[request.kind], parameters) for request in draft.members]
        self._store.add_shard(shard, members).result()
        return shard


def _shard_of(store: CaptionStore, key: str) -> str | None:
    stored = store.get(key)
    return stored.shard if stored else None


def shard_path(store: CaptionStore, shard_id: str) -> Path:
    """The file of a shard."""
    return store.folder / "batches" / f"{shard_id}.jsonl"


class AnswerCollector:
    """Takes the answers of shards into the store and judges them.

    Every answer is in the store before it is judged. An answer counts once, however often its line comes; lines of
    requests that were not asked for are counted and left alone.

    Attributes:
        counts: how many lines were an `answer`, a `failure` that will be sent again, `not_run` by a batch that ended
            before, `refused` for good, a `duplicate` or `unknown`; and how many requests were `missing`.
        num_reasked: rejected answers that are asked for again.
        refusal: why nothing goes on, where every request of a shard was refused or no answer is of use; else None.
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
        self._held: list[tuple[str, str]] = []
        self._num_valid = self._num_unusable = 0

    def collect_file(self, path: Path) -> None:
        """Take a file that another program wrote, such as `vllm run-batch`, and finish the shards that it answers."""
        self.collect(read_answer_lines(path), None)
        for shard in self._store.shards("written"):
            num_open = sum(1 for _ in self._store.find(SENT, shard.id))
            if num_open < shard.num_requests:
                self.finish_shard(shard.id)

    def collect(self, lines: Iterable[AnswerLine], shard_id: str | None) -> None:
        """Take the answers to the requests of one shard, or of any; other lines are unknown."""
        lines = iter(lines)
        while chunk := list(islice(lines, _ANSWERS_PER_COMMIT)):
            self._collect_chunk(chunk, shard_id)

    def finish_shard(self, shard_id: str) -> None:
        """Nothing more comes for a shard: what was not answered may be sent again, the rest is judged."""
        held = [(key, words) for key, words in self._held if _shard_of(self._store, key) == shard_id]
        self._held = [entry for entry in self._held if entry not in held]
        missing = {stored.key for stored in self._store.find(SENT, shard_id)} - {key for key, _ in held}
        self.counts["missing"] += len(missing)
        self._store.mark_unsent(missing).result()
        self._settle_refused(shard_id, held)
        self.judge()
        self._store.update_shard(shard_id, "collected").result()

    def judge(self) -> None:
        """Judge every raw answer of a batch that the store holds."""
        for stored in list(self._store.find(RAW)):
            judgement = judge_answer(stored, self._store.last_raw(stored.key) or "", self._settings.count_tokens)
            state = next_state(judgement, stored.attempt, self._settings.max_reasks)
            usage = judgement.usage
            usd = usage.usd(self._price, batch=stored.shard is not None) if usage else self._unknown_bill_usd
            self.num_reasked += state == NEW
            self._note_use(judgement)
            self._store.mark_judged(stored.key, judgement, state, usd)
        self._store.flush()

    def _settle_refused(self, shard_id: str, held: list[tuple[str, str]]) -> None:
        """Refused requests are dead, but where a whole shard was refused and nothing ever answered: then not they."""
        shard = next(shard for shard in self._store.shards(*SHARD_STATES) if shard.id == shard_id)
        is_setting = len(held) == shard.num_requests and self._settings.is_hopeless(MAX_HOPELESS)
        if held and is_setting and not any(True for _ in self._store.find(VALID)):
            self.refusal = f"the server refused every one of {len(held)} requests: {held[0][1]}"
            self._store.mark_unsent([key for key, _ in held]).result()
            return
        for key, words in held:
            self._store.mark_dead(key, BAD_REQUEST, [words])
        self._store.flush()

    def _note_use(self, judgement: Judgement) -> None:
        self._num_valid += judgement.caption is not None
        self._num_unusable += judgement.caption is None
        is_of_use = self._num_valid or any(True for _ in self._store.find(VALID))
        if judgement.caption is None and not is_of_use and self._settings.is_hopeless(self._num_unusable):
            self.refusal = hopeless(self._num_unusable, judgement)

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
                self._held.append((line.key, f"HTTP {line.status}: {server_words(line.body)}"))
            else:
                self.counts["not_run" if line.is_not_run else "failure"] += 1
                failed.append(line.key)
        self.counts["answer"] += len(answers)
        self._store.mark_unsent(failed)
        self._store.mark_raw(answers.items()).result()
