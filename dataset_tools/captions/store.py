"""The SQLite store of requests, answers and costs, which survives SIGKILL.

States of a request: `new` → `sent` → `raw` → `valid` | `dead` | `new` (a re-ask), and `in_doubt` for a request that
was sent but never answered. `sent` is on disk before the call, and a raw answer is on disk before it is read.

All writes go through one thread. It commits all waiting writes as one transaction (`synchronous=FULL`) before their
callers continue, so that many requests share the cost of a sync.
"""

import fcntl
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import NEW, Judgement
from .prompting import CaptionRequest, Feedback
from .rules import CaptionKind

STORE_VERSION = 2
SHARD_STATES = ("written", "uploaded", "creating", "created", "collected", "failed")
_MAX_GROUP = 1000  # writes that share one commit

_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO about VALUES ('id', lower(hex(randomblob(16))));
CREATE TABLE runs (started_at REAL NOT NULL, settings TEXT NOT NULL);
CREATE TABLE requests (
    key TEXT PRIMARY KEY,
    image_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    active_aus TEXT NOT NULL,                -- JSON list
    unlabelled_aus TEXT NOT NULL,            -- JSON list
    emotion TEXT,
    prompt_sha256 TEXT NOT NULL,
    parameters TEXT NOT NULL,                -- JSON object; holds the requested model
    state TEXT NOT NULL CHECK (state IN ('new', 'sent', 'raw', 'valid', 'dead', 'in_doubt')),
    attempt INTEGER NOT NULL DEFAULT 0,      -- number of rejected answers
    sends INTEGER NOT NULL DEFAULT 0,        -- number of calls
    shard TEXT,                              -- the batch shard it was last sent with
    feedback TEXT,                           -- JSON: feedback for the next call
    reason TEXT, violations TEXT,            -- of the last rejected answer; violations are a JSON list
    caption TEXT, key_aus TEXT, response_model TEXT
) WITHOUT ROWID;
CREATE INDEX requests_by_state ON requests (state, shard);
CREATE TABLE answers (
    key TEXT NOT NULL, number INTEGER NOT NULL, received_at REAL NOT NULL,
    raw TEXT,                                -- NULL: not received
    usd REAL, prompt_tokens INTEGER, completion_tokens INTEGER,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;
CREATE TABLE shards (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('written', 'uploaded', 'creating', 'created', 'collected', 'failed')),
    num_requests INTEGER NOT NULL, usd REAL NOT NULL, file_id TEXT, batch_id TEXT, attempted_at REAL, error TEXT
);
"""


@dataclass(frozen=True)
class StoredRequest:
    """One row of `requests`."""

    key: str
    image_id: str
    kind: CaptionKind
    active_aus: tuple[int, ...]
    unlabelled_aus: tuple[int, ...]
    emotion: str | None
    prompt_sha256: str
    parameters: dict[str, Any]
    state: str
    attempt: int
    sends: int
    shard: str | None
    feedback: Feedback | None
    reason: str | None
    violations: tuple[str, ...]
    caption: str | None
    key_aus: tuple[int, ...]
    response_model: str | None


@dataclass(frozen=True)
class Shard:
    """One row of `shards`: a file of requests for the Batch API."""

    id: str
    state: str
    num_requests: int
    usd: float
    file_id: str | None
    batch_id: str | None
    attempted_at: float | None
    error: str | None


_Write = Callable[[sqlite3.Connection], Any]


class CaptionStore:
    """Opens or creates the store in a folder and locks it for this process.

    Every method that writes returns a `Future` that is done when the change is on disk. Writes keep their order.

    Raises:
        BlockingIOError: another process has the store open.
        ValueError: the file has another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(self.folder / "store.lock")
        path = self.folder / "store.sqlite"
        self._writes: queue.SimpleQueue[tuple[_Write, Future[Any]] | None] = queue.SimpleQueue()
        self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._prepare(path)
        self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._reader.execute("PRAGMA query_only = ON")
        self._reader.row_factory = sqlite3.Row
        self._thread = threading.Thread(target=self._write_forever, name="caption-store", daemon=True)
        self._thread.start()

    def __enter__(self) -> "CaptionStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        """Wait until all earlier writes are on disk."""
        self._submit(lambda db: None).result()

    def close(self) -> None:
        """Finish all writes and close the files."""
        self._writes.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._lock_file.close()

    # ------------------------------------------------------------------------------------------------------- reading
    @property
    def id(self) -> str:
        """A unique name of the store, which batches have in their metadata."""
        return self._reader.execute("SELECT value FROM about WHERE name = 'id'").fetchone()[0]

    def get_metadata(self, name: str) -> str | None:
        """The value that `set_metadata` stored under a name; None without one."""
        row = self._reader.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def get(self, key: str) -> StoredRequest | None:
        """The request with that key, or None if there is none."""
        row = self._reader.execute("SELECT * FROM requests WHERE key = ?", (key,)).fetchone()
        return None if row is None else _parse_row(row)

    def find(self, state: str, shard: str | None = None) -> Iterator[StoredRequest]:
        """The requests in a state, optionally of one shard."""
        sql, values = "SELECT * FROM requests WHERE state = ?", [state]
        if shard is not None:
            sql, values = f"{sql} AND shard = ?", [state, shard]
        return map(_parse_row, self._reader.execute(sql, values))

    def shards(self, *states: str) -> list[Shard]:
        """The shards in any of these states, in the order in which they were written."""
        marks = ", ".join("?" * len(states))
        rows = self._reader.execute(f"SELECT * FROM shards WHERE state IN ({marks}) ORDER BY id", states)
        return [Shard(**dict(row)) for row in rows]

    def num_shards(self) -> int:
        """The number of shards in any state."""
        return self._reader.execute("SELECT COUNT(*) FROM shards").fetchone()[0]

    def last_raw(self, key: str) -> str | None:
        """The last raw answer to a request, or None without any."""
        sql = "SELECT raw FROM answers WHERE key = ? AND raw IS NOT NULL ORDER BY number DESC LIMIT 1"
        row = self._reader.execute(sql, (key,)).fetchone()
        return None if row is None else row[0]

    def is_last_call_counted(self, stored: StoredRequest) -> bool:
        """Whether the cost of the last call of a request is recorded, with or without an answer."""
        sql = "SELECT 1 FROM answers WHERE key = ? AND number = ?"
        return self._reader.execute(sql, (stored.key, stored.sends)).fetchone() is not None

    def request_usd(self, key: str) -> float:
        """The cost of a request with all its re-asks, in US dollars."""
        sql = "SELECT COALESCE(SUM(usd), 0) FROM answers WHERE key = ?"
        return self._reader.execute(sql, (key,)).fetchone()[0]

    def usd_spent(self) -> float:
        """The cost of all answers in US dollars, including estimates of unknown costs."""
        return self._reader.execute("SELECT COALESCE(SUM(usd), 0) FROM answers").fetchone()[0]

    # ------------------------------------------------------------------------------------------------------- writing
    def record_run(self, settings: dict[str, Any]) -> "Future[None]":
        """Record the settings of a run: profile, prompts, and the permission to upload."""
        values = (time.time(), json.dumps(settings, sort_keys=True))
        return self._submit(lambda db: db.execute("INSERT INTO runs VALUES (?, ?)", values))

    def set_metadata(self, name: str, value: str) -> "Future[None]":
        """Store a value, such as a detected feature of a server, under a name."""
        sql = "INSERT OR REPLACE INTO about VALUES (?, ?)"
        return self._submit(lambda db: db.execute(sql, (name, value)))

    def mark_sent(self, request: CaptionRequest, prompt_sha256: str, parameters: dict[str, Any]) -> "Future[None]":
        """Mark a request as `sent`; wait for this write before the call."""
        values = _insert_values(request, prompt_sha256, parameters)
        return self._submit(lambda db: _mark_sent(db, values, None))

    def mark_raw(self, answers: Iterable[tuple[str, str]]) -> "Future[None]":
        """Store (key, raw answer) pairs in one transaction; wait for this write before reading the answers."""
        received = [(key, time.time(), raw) for key, raw in answers]

        def write(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT OR IGNORE INTO answers (key, number, received_at, raw) "
                "SELECT key, sends, ?2, ?3 FROM requests WHERE key = ?1 AND state = 'sent'",
                received,
            )
            db.executemany(
                "UPDATE requests SET state = 'raw' WHERE key = ? AND state = 'sent'", [(key,) for key, *_ in received]
            )

        return self._submit(write)

    def mark_judged(self, key: str, judgement: Judgement, state: str, usd: float) -> "Future[None]":
        """Store the judgement of the last answer; the state `new` asks again."""
        usage, feedback = judgement.usage, judgement.feedback
        answer = (usd, usage and usage.prompt_tokens, usage and usage.completion_tokens, key)
        values = (
            state,
            int(state == NEW),
            json.dumps([feedback.content, feedback.violations]) if feedback else None,
            judgement.reason or None,
            json.dumps(judgement.violations),
            judgement.caption,
            json.dumps(judgement.key_aus),
            judgement.model,
            key,
        )

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE answers SET usd = ?1, prompt_tokens = ?2, completion_tokens = ?3 WHERE key = ?4 "
                "AND number = (SELECT MAX(number) FROM answers WHERE key = ?4)",
                answer,
            )
            db.execute(
                "UPDATE requests SET state = ?, attempt = attempt + ?, feedback = ?, reason = ?, violations = ?, "
                "caption = ?, key_aus = ?, response_model = ?, shard = NULL WHERE key = ?",
                values,
            )

        return self._submit(write)

    def mark_unsent(self, keys: Iterable[str]) -> "Future[None]":
        """Mark requests that the server did not accept or will not answer; they may be sent again."""
        values = [(key,) for key in keys]
        sql = "UPDATE requests SET state = 'new', shard = NULL WHERE key = ? AND state IN ('sent', 'in_doubt')"
        return self._submit(lambda db: db.executemany(sql, values))

    def mark_in_doubt(self, key: str, usd: float) -> "Future[None]":
        """Mark a request that may have been answered without our receiving it, and count its estimated cost."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR IGNORE INTO answers (key, number, received_at, usd) "
                "SELECT key, sends, ?2, ?3 FROM requests WHERE key = ?1",
                (key, time.time(), usd),
            )
            db.execute("UPDATE requests SET state = 'in_doubt' WHERE key = ?", (key,))

        return self._submit(write)

    def mark_dead(self, key: str, reason: str, violations: Sequence[str]) -> "Future[None]":
        """Mark a request that the server refused permanently."""
        sql = "UPDATE requests SET state = 'dead', shard = NULL, reason = ?, violations = ? WHERE key = ?"
        return self._submit(lambda db: db.execute(sql, (reason, json.dumps(violations), key)))

    def revive(self, key: str) -> "Future[None]":
        """Reset a dead request to `new`, with all its attempts."""
        sql = "UPDATE requests SET state = 'new', attempt = 0, feedback = NULL WHERE key = ? AND state = 'dead'"
        return self._submit(lambda db: db.execute(sql, (key,)))

    def add_shard(self, shard: Shard, members: Sequence[tuple[CaptionRequest, str, dict[str, Any]]]) -> "Future[None]":
        """Register a written shard with its (request, prompt hash, parameters), and mark these as `sent`."""
        rows = [_insert_values(*member) for member in members]

        def write(db: sqlite3.Connection) -> None:
            sql = "INSERT INTO shards (id, state, num_requests, usd) VALUES (?, ?, ?, ?)"
            db.execute(sql, (shard.id, shard.state, shard.num_requests, shard.usd))
            for values in rows:
                _mark_sent(db, values, shard.id)

        return self._submit(write)

    def update_shard(self, shard_id: str, state: str, **columns: Any) -> "Future[None]":
        """Set the state of a shard and any of its `file_id`, `batch_id`, `attempted_at`, `error`."""
        assignments = "".join(f", {name} = ?" for name in columns)
        values = (state, *columns.values(), shard_id)
        return self._submit(lambda db: db.execute(f"UPDATE shards SET state = ?{assignments} WHERE id = ?", values))

    # ------------------------------------------------------------------------------------------------------ internals
    def _prepare(self, path: Path) -> None:
        db = self._writer
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {STORE_VERSION};COMMIT;")
        elif version == 1:  # without unlabelled AUs
            db.execute("ALTER TABLE requests ADD COLUMN unlabelled_aus TEXT NOT NULL DEFAULT '[]'")
            db.execute(f"PRAGMA user_version = {STORE_VERSION}")
        elif version != STORE_VERSION:
            raise ValueError(f"{path} has version {version}; this code reads {STORE_VERSION}. Use another --store.")
        # Requests that a killed run has sent online without an answer. Requests in a batch are found by their shard.
        db.execute("UPDATE requests SET state = 'in_doubt' WHERE state = 'sent' AND shard IS NULL")

    def _submit(self, write: _Write) -> "Future[None]":
        future: Future[None] = Future()
        self._writes.put((write, future))
        return future

    def _write_forever(self) -> None:
        is_open = True
        while is_open:
            group = [self._writes.get()]
            with suppress(queue.Empty):
                while len(group) < _MAX_GROUP:
                    group.append(self._writes.get_nowait())
            is_open = None not in group
            self._commit([item for item in group if item is not None])

    def _commit(self, group: list[tuple[_Write, "Future[None]"]]) -> None:
        """Commit a group as one transaction; if that fails, nothing is written and every future gets the error."""
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            for write, _ in group:
                write(db)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            for _, future in group:
                future.set_exception(OSError(f"The caption store cannot be written: {error}"))
        else:
            for _, future in group:
                future.set_result(None)


def _lock(path: Path) -> Any:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(
            f"{path.parent} is in use by another run; wait for it or pass another --store."
        ) from None
    return file


def _insert_values(request: CaptionRequest, prompt_sha256: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    return (
        request.key,
        request.image_id,
        request.kind,
        json.dumps(request.active_aus),
        json.dumps(request.unlabelled_aus),
        request.emotion,
        prompt_sha256,
        json.dumps(parameters, sort_keys=True),
    )


def _mark_sent(db: sqlite3.Connection, values: tuple[Any, ...], shard: str | None) -> None:
    db.execute(
        "INSERT INTO requests"
        " (key, image_id, kind, active_aus, unlabelled_aus, emotion, prompt_sha256, parameters, state, sends, shard)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'sent', 1, ?9)"
        " ON CONFLICT (key) DO UPDATE SET state = 'sent', sends = sends + 1, shard = ?9",
        (*values, shard),
    )


def _parse_row(row: sqlite3.Row) -> StoredRequest:
    values = dict(row)
    for name in ("active_aus", "unlabelled_aus"):
        values[name] = tuple(json.loads(row[name]))
    values["parameters"] = json.loads(row["parameters"])
    values["violations"] = tuple(json.loads(row["violations"] or "[]"))
    values["key_aus"] = tuple(json.loads(row["key_aus"] or "[]"))
    if row["feedback"] is not None:
        content, violations = json.loads(row["feedback"])
        values["feedback"] = Feedback(content, tuple(violations))
    return StoredRequest(**values)
