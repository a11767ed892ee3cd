"""The store: states, durability, group commits, and what a killed run leaves behind."""

import sqlite3

import pytest
from caption_rig import local_profile, make_jobs

from mf2.dataset_tools.captions.answers import Judgement, Usage
from mf2.dataset_tools.captions.prompting import Feedback, RequestBuilder
from mf2.dataset_tools.captions.store import CaptionStore


@pytest.fixture
def requests():
    builder = RequestBuilder(local_profile("http://127.0.0.1:9/v1"), kinds=("emotion",))
    return list(builder.requests(make_jobs(3)))


def sent(store, request):
    return store.mark_sent(request, "hash", {"model": "m"})


def test_a_request_through_its_states(tmp_path, requests):
    request = requests[0]
    with CaptionStore(tmp_path) as store:
        assert store.get(request.key) is None
        sent(store, request).result()
        assert (store.get(request.key).state, store.get(request.key).sends) == ("sent", 1)
        store.mark_raw([(request.key, "text")]).result()
        assert store.get(request.key).state == "raw" and store.last_raw(request.key) == "text"
        feedback = Feedback("text", ("Too long.",))
        rejected = Judgement(None, "rules", ("Too long.",), feedback, usage=Usage(10, 0, 5))
        store.mark_judged(request.key, rejected, "new", 0.25).result()
        stored = store.get(request.key)
        assert (stored.state, stored.attempt, stored.feedback) == ("new", 1, feedback)
        sent(store, request)
        store.mark_raw([(request.key, "better")])
        store.mark_judged(request.key, Judgement("A caption.", model="m-1"), "valid", 0.5).result()
        stored = store.get(request.key)
        assert (stored.state, stored.caption, stored.response_model) == ("valid", "A caption.", "m-1")
        assert (stored.sends, stored.attempt, stored.feedback, stored.violations) == (2, 1, None, ())
        assert store.request_usd(request.key) == store.usd_spent() == 0.75


def test_what_was_sent_is_in_doubt_after_a_crash_unless_a_batch_has_it(tmp_path, requests):
    store = CaptionStore(tmp_path)
    sent(store, requests[0]).result()
    sent(store, requests[1])
    store.mark_unsent([requests[1].key])
    store._submit(lambda db: db.execute("UPDATE requests SET shard = 's' WHERE key = ?", (requests[0].key,)))
    sent(store, requests[2]).result()
    store.close()
    with CaptionStore(tmp_path) as store:
        assert [store.get(request.key).state for request in requests] == ["sent", "new", "in_doubt"]


def test_every_commit_is_synced(tmp_path):
    with CaptionStore(tmp_path) as store:
        assert store._writer.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert store._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_writes_that_wait_share_a_commit(tmp_path, requests):
    with CaptionStore(tmp_path) as store:
        commits = []
        store._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        futures = [sent(store, requests[n % 3]) for n in range(300)]
        for future in futures:
            future.result()
        assert len(commits) < 100
        assert store.get(requests[0].key).sends == 100


def test_an_answer_without_its_request_being_sent_is_not_taken(tmp_path, requests):
    with CaptionStore(tmp_path) as store:
        store.mark_raw([(requests[0].key, "text")]).result()
        assert store.get(requests[0].key) is None and store.last_raw(requests[0].key) is None


def test_a_failed_write_is_told_to_the_caller_and_changes_nothing(tmp_path, requests):
    with CaptionStore(tmp_path) as store:
        store._submit(lambda db: db.execute("CREATE TRIGGER full BEFORE INSERT ON requests "
                                            "BEGIN SELECT RAISE(ABORT, 'disk full'); END")).result()  # fmt: skip
        with pytest.raises(OSError, match=r"cannot be written.*disk full"):
            sent(store, requests[0]).result()
        assert store.get(requests[0].key) is None


def test_the_cost_of_what_is_in_doubt_is_counted_once(tmp_path, requests):
    with CaptionStore(tmp_path) as store:
        sent(store, requests[0])
        store.mark_in_doubt(requests[0].key, 0.5)
        store.mark_in_doubt(requests[0].key, 0.5).result()
        assert store.get(requests[0].key).state == "in_doubt" and store.usd_spent() == 0.5


def test_a_store_of_the_first_version_is_read_on(tmp_path):
    """It lacks the unlabelled AUs; nothing that was paid for is asked again."""
    CaptionStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("ALTER TABLE requests DROP COLUMN unlabelled_aus")
        db.execute(
            "INSERT INTO requests (key, image_id, kind, active_aus, prompt_sha256, parameters, state)"
            " VALUES ('k', 'i', 'emotion', '[]', 'p', '{}', 'valid')"
        )
        db.execute("PRAGMA user_version = 1")
    with CaptionStore(tmp_path) as store:
        assert store.get("k").unlabelled_aus == () and store.get("k").state == "valid"


def test_a_store_of_another_version_is_refused(tmp_path):
    CaptionStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ValueError, match="version 99"):
        CaptionStore(tmp_path)
