"""The online engine against everything a server can do to it: each fault has its outcome, counted by the server."""

import asyncio
import json
import threading

import pytest
from caption_rig import ANSWER_USD, PRICE, Waits, local_profile, make_jobs, run_batch, run_online, stored_requests
from openai_server import WRAPPED, OpenAIServer

from mf2.dataset_tools.captions import validate_caption
from mf2.dataset_tools.captions.endpoint import open_async_client
from mf2.dataset_tools.captions.limits import Pacer
from mf2.dataset_tools.captions.online import OnlineRunner
from mf2.dataset_tools.captions.prompting import CaptionJob, RequestBuilder
from mf2.dataset_tools.captions.settings import RunSettings
from mf2.dataset_tools.captions.store import CaptionStore

pytestmark = pytest.mark.dependencies


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


def test_three_valid_captions_an_image_with_their_provenance(server, tmp_path):
    tally = run_online(server, tmp_path, make_jobs(4), concurrency=3)
    assert tally.outcomes == {"valid": 12} and tally.is_complete
    assert tally.asked == sum(server.billed.values()) == 12
    stored = stored_requests(tmp_path)
    assert sorted({request.kind for request in stored}) == ["au", "emotion", "key_au"]
    for request in stored:
        assert validate_caption(request.kind, request.caption, (6, 12, 25), "Happiness") == []
        assert request.response_model == "test-model-0001"
        assert request.parameters["model"] == "test-model" and request.parameters["seed"] == 2025
        assert len(request.prompt_sha256) == 64
    assert {request.key_aus for request in stored if request.kind == "key_au"} == {(6, 12, 25)}


def test_a_second_run_asks_nothing(server, tmp_path):
    run_online(server, tmp_path, make_jobs(3))
    tally = run_online(server, tmp_path, make_jobs(3))
    assert (tally.asked, tally.reused) == (0, 9)
    assert sum(server.hits.values()) == 9


def test_equal_images_with_equal_labels_are_asked_once(server, tmp_path):
    (job,) = make_jobs(1)
    twin = CaptionJob("twin", job.load_image, job.active_aus, job.emotion)
    tally = run_online(server, tmp_path, [job, twin], kinds=("emotion",), concurrency=2)
    assert tally.outcomes == {"valid": 2} and sum(server.hits.values()) == 1


def test_no_active_au_and_no_emotion_ask_nothing_that_has_a_fixed_answer(server, tmp_path):
    jobs = [make_jobs(1, active_aus=())[0], make_jobs(1, emotion=None)[0]]
    run_online(server, tmp_path, jobs)
    assert sorted(request.kind for request in stored_requests(tmp_path)) == ["au", "emotion"]


@pytest.mark.parametrize(
    ("fault", "waited_s"), [("429:1", [1.0]), ("429:300", [300.0]), ("429:date", None), ("429", None), ("500", None)]
)
def test_a_refused_request_waits_as_long_as_it_is_told_and_is_sent_again(server, tmp_path, fault, waited_s):
    server.faults = [fault]
    waits = Waits()
    tally = run_online(server, tmp_path, make_jobs(1), kinds=("emotion",), waits=waits)
    assert tally.outcomes == {"valid": 1}
    assert (sum(server.hits.values()), sum(server.billed.values())) == (2, 1)
    if waited_s is not None:
        assert waits.slept_s == waited_s
    elif fault == "429:date":
        assert 0 <= waits.slept_s[0] <= 2  # the date was two seconds ahead
    else:
        assert 0.5 <= waits.slept_s[0] <= 1.0  # backoff with jitter


def test_a_long_retry_after_pauses_every_request(server, tmp_path):
    server.faults = ["429:300"]
    waits = Waits()
    tally = run_online(server, tmp_path, make_jobs(6), kinds=("emotion",), waits=waits, concurrency=3)
    assert tally.outcomes == {"valid": 6}
    assert waits.now_s >= 300


@pytest.mark.parametrize("fault", ["insufficient_quota", "401"])
def test_no_money_and_no_key_stop_the_run_which_goes_on_later(server, tmp_path, fault):
    server.faults = ["ok", fault]
    tally = run_online(server, tmp_path, make_jobs(5), kinds=("emotion",))
    assert tally.outcomes["valid"] == 1 and not tally.is_complete
    assert "HTTP 4" in tally.stopped_because
    assert sum(server.hits.values()) == 2, "nothing is sent after the stop"
    tally = run_online(server, tmp_path, make_jobs(5), kinds=("emotion",))
    assert tally.outcomes == {"valid": 5} and tally.reused == 1
    assert server.paid_twice() == 0


def test_a_bad_request_is_dead_at_once_and_can_be_given_another_chance(server, tmp_path):
    server.faults = ["400"]
    tally = run_online(server, tmp_path, make_jobs(2), kinds=("emotion",))
    assert tally.outcomes == {"dead": 1, "valid": 1}
    assert run_online(server, tmp_path, make_jobs(2), kinds=("emotion",)).outcomes["dead"] == 1
    assert run_online(server, tmp_path, make_jobs(2), kinds=("emotion",), retry_dead=True).outcomes == {"valid": 2}


def test_an_outage_leaves_requests_unfinished_and_stops_the_run(server, tmp_path):
    server.faults = ["500"] * 1000
    tally = run_online(server, tmp_path, make_jobs(40), kinds=("emotion",))
    assert "20 calls in a row failed" in tally.stopped_because and "HTTP 500" in tally.stopped_because
    assert tally.outcomes["dead"] == 0 and sum(server.hits.values()) == 20
    server.faults = []
    assert run_online(server, tmp_path, make_jobs(40), kinds=("emotion",)).outcomes == {"valid": 40}


def test_a_server_that_is_not_there_stops_the_run(tmp_path):
    with OpenAIServer() as gone:
        pass
    tally = run_online(gone, tmp_path, make_jobs(40), kinds=("emotion",))
    assert "cannot be reached" in tally.stopped_because
    assert all(request.state == "new" for request in stored_requests(tmp_path)), "nothing was sent, nothing in doubt"


@pytest.mark.parametrize("fault", ["timeout", "drop", "reset"])
def test_a_lost_answer_is_sent_again_or_skipped_as_the_policy_says(server, tmp_path, fault):
    options = {"kinds": ("emotion",), "price": PRICE, "timeout_s": 2.0 if fault == "timeout" else 60.0}
    server.faults = [fault]
    tally = run_online(server, tmp_path / "resend", make_jobs(1), **options)
    assert tally.outcomes == {"valid": 1} and sum(server.hits.values()) == 2
    assert server.paid_twice() == (0 if fault == "drop" else 1)
    assert tally.usd > ANSWER_USD, "the lost answer may have been billed and is counted"

    server.faults = [fault]
    tally = run_online(server, tmp_path / "skip", make_jobs(1), **options, in_doubt="skip")
    assert tally.outcomes == {"in_doubt": 1} and tally.is_complete
    tally = run_online(server, tmp_path / "skip", make_jobs(1), **options, in_doubt="skip")
    assert tally.outcomes == {"in_doubt": 1} and tally.asked == 0
    tally = run_online(server, tmp_path / "skip", make_jobs(1), **options, in_doubt="resend")
    assert tally.outcomes == {"valid": 1}


@pytest.mark.parametrize(
    ("kind", "fault", "reason", "told"),
    [
        ("emotion", "truncated", "not_json", None),
        ("emotion", "html", "not_json", None),
        ("emotion", "null_choices", "no_choices", None),
        ("emotion", "length", "length", "cut off at the token limit"),
        ("emotion", "not_schema", "schema", "exactly: caption"),
        ("au", "wrong_au", "rules", "AUs that are not in the list: AU1"),
        ("au", "missing_au", "rules", "Active AUs are missing: AU6"),
        ("au", "duplicate_au", "rules", "described more than once: AU6"),
        ("key_au", "wrong_name", "rules", "is called 'Face Mover'"),
        ("emotion", "rival_emotion", "rules", "asserts another emotion"),
        ("key_au", "rival_emotion", "rules", "asserts another emotion"),
        ("emotion", "banned_word", "rules", "identity, age, race or gender"),
        ("au", "banned_word", "rules", "identity, age, race or gender"),
        ("emotion", "disclaimer", "rules", "Disclaimers"),
        ("emotion", "overlong", "rules", "at most 61"),
        ("au", "overlong", "rules", "at most 169"),
    ],
)
def test_an_invalid_answer_is_asked_again_twice_and_then_dead(server, tmp_path, kind, fault, reason, told):
    server.faults = [fault, fault]
    tally = run_online(server, tmp_path / "better", make_jobs(1), kinds=(kind,))
    assert tally.outcomes == {"valid": 1} and tally.reasked == 2
    reask = server.requests[1]["messages"]
    if told is None:
        assert reask == server.requests[0]["messages"], "the model did nothing wrong: the same question again"
    else:
        assert told in reask[-1]["content"], "the re-ask lists what was violated"
        assert reask[:2] == server.requests[0]["messages"]

    server.faults = [fault] * 3
    tally = run_online(server, tmp_path / "dead", make_jobs(1), kinds=(kind,))
    assert tally.outcomes == {"dead": 1} and tally.asked == 3 and tally.reasons == {reason: 1}
    assert run_online(server, tmp_path / "dead", make_jobs(1), kinds=(kind,)).asked == 0, "a dead letter stays dead"


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
def test_a_refusal_is_dead_at_once_and_reported_per_emotion_and_au(server, tmp_path, fault):
    server.faults = [fault]
    tally = run_online(server, tmp_path, make_jobs(2), kinds=("au",))
    assert tally.outcomes == {"dead": 1, "valid": 1} and tally.asked == 2
    assert tally.reasons == {fault: 1}
    assert tally.by_emotion["Happiness"] == {"dead": 1, "valid": 1}
    assert tally.by_au[12] == {"dead": 1, "valid": 1}
    assert "1 of" in tally.to_text() and "50.0%" in tally.to_text()


def test_a_paid_answer_is_on_the_disk_before_it_is_read(server, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the judge is broken")

    monkeypatch.setattr("mf2.dataset_tools.captions.online.judge_answer", broken)
    with pytest.raises(RuntimeError, match="judge"):
        run_online(server, tmp_path, make_jobs(1), kinds=("emotion",))
    monkeypatch.undo()
    (stored,) = stored_requests(tmp_path)
    assert stored.state == "raw"
    tally = run_online(server, tmp_path, make_jobs(1), kinds=("emotion",))
    assert tally.outcomes == {"valid": 1} and sum(server.hits.values()) == 1


def test_the_budget_holds_to_the_last_request(server, tmp_path):
    jobs = make_jobs(60)
    tally = run_online(server, tmp_path, jobs, kinds=("emotion",), price=PRICE, max_usd=20 * ANSWER_USD, concurrency=4)
    assert "--max_usd" in tally.stopped_because
    assert sum(server.billed.values()) == 17, (
        "an answer may cost 3.56 times as much as it does: a request fits below 16.44"
    )
    assert tally.usd == pytest.approx(17 * ANSWER_USD)
    again = run_online(server, tmp_path, jobs, kinds=("emotion",), price=PRICE, max_usd=20 * ANSWER_USD)
    assert again.asked == 0 and sum(server.billed.values()) == 17, "what earlier runs spent counts"
    assert run_online(server, tmp_path, jobs, kinds=("emotion",), price=PRICE).outcomes == {"valid": 60}
    assert server.paid_twice() == 0


def test_the_limits_of_the_headers_are_obeyed(server, tmp_path):
    server.headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    waits = Waits()
    run_online(server, tmp_path, make_jobs(5), kinds=("emotion",), waits=waits)
    assert waits.now_s == pytest.approx(4.0), "one request a second after the first answer"


def test_an_unreadable_image_ends_the_run_but_keeps_what_was_paid(server, tmp_path):
    def missing() -> bytes:
        raise FileNotFoundError("image2.jpg is missing")

    jobs = [*make_jobs(2), CaptionJob("image2", missing, (6,), "Happiness")]
    with pytest.raises(FileNotFoundError, match=r"image2\.jpg"):
        run_online(server, tmp_path, jobs, concurrency=4)
    assert sum(server.billed.values()) == sum(request.state == "valid" for request in stored_requests(tmp_path)) == 6


def run_until_stopped(server, folder, concurrency, before_stop, after_stop):
    """Run 50 jobs with the clock of the machine; `before_stop(slept)` is true when the run is to be stopped."""
    builder = RequestBuilder(local_profile(server.base_url), kinds=("emotion",))
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        await asyncio.sleep(seconds)

    async def run():
        with CaptionStore(folder) as store:
            async with open_async_client(builder.profile, None, concurrency=concurrency, timeout_s=60) as client:
                settings = RunSettings(concurrency=concurrency)
                runner = OnlineRunner(client, builder, store, settings, pacer=Pacer(sleep=sleep))
                task = asyncio.create_task(runner.run(builder.requests(make_jobs(50))))
                while not before_stop(slept):
                    await asyncio.sleep(0.01)
                runner.stop("interrupted")
                after_stop()
                return await asyncio.wait_for(task, 200)

    return asyncio.run(run())


def test_a_stop_waits_for_what_is_on_its_way_and_wakes_what_sleeps(server, tmp_path):
    is_stopped = threading.Event()

    def answer_after_the_stop(body):
        assert is_stopped.wait(60)
        return "ok"

    server.faults = ["429:300", *[answer_after_the_stop] * 3]
    tally = run_until_stopped(
        server, tmp_path, 4, lambda slept: slept and sum(server.hits.values()) == 4, is_stopped.set
    )
    assert tally.stopped_because == "interrupted"
    assert tally.outcomes == {"valid": 3, "unfinished": 1} and sum(server.billed.values()) == 3


def test_a_refusal_that_comes_after_the_stop_is_not_waited_for(server, tmp_path):
    is_stopped = threading.Event()

    def refuse_after_the_stop(body):
        assert is_stopped.wait(60)
        return "429:300"

    server.faults = [refuse_after_the_stop]
    tally = run_until_stopped(server, tmp_path, 1, lambda slept: sum(server.hits.values()) == 1, is_stopped.set)
    assert tally.stopped_because == "interrupted" and tally.outcomes == {"unfinished": 1}


def test_only_one_run_may_hold_a_store(server, tmp_path):
    with CaptionStore(tmp_path), pytest.raises(BlockingIOError, match="in use by another run"):
        CaptionStore(tmp_path)


def test_no_request_is_sent_by_the_client_itself_a_second_time(server, tmp_path):
    server.faults = ["500"]
    run_online(server, tmp_path, make_jobs(1), kinds=("emotion",), max_tries=1)
    assert sum(server.hits.values()) == 1


def test_what_is_stored_about_an_answer_is_what_the_server_sent(server, tmp_path):
    run_online(server, tmp_path, make_jobs(1), kinds=("emotion",), price=PRICE)
    with CaptionStore(tmp_path) as store:
        (stored,) = store.find("valid")
        assert json.loads(store.last_raw(stored.key))["usage"]["prompt_tokens"] == 400
        assert store.request_usd(stored.key) == pytest.approx(ANSWER_USD)


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("kind", ["au", "emotion", "key_au"])
def test_a_right_answer_is_read_in_any_wrapping(server, tmp_path, kind, wrapping):
    server.faults = [wrapping]
    tally = run_online(server, tmp_path, make_jobs(1), kinds=(kind,))
    assert tally.outcomes == {"valid": 1} and tally.asked == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": {"message": "no images", "code": {"odd": 1}}}', "HTTP 400: no images"),
        (400, b'{"error": "no images"}', "HTTP 400: no images"),
        (422, b'{"detail": [{"loc": ["body", "seed"], "msg": "not allowed"}]}', "HTTP 422: body.seed: not allowed"),
        (400, b'[{"error": {"message": "first"}}, {"error": "second"}]', "HTTP 400: first; second"),
        (413, b"<html><style>p {}</style><h1>Too  large</h1></html>", "HTTP 413: Too large"),
        (400, b"plain " + b"x" * 999, "HTTP 400: plain xxx"),
        (400, b"", "HTTP 400: no reason given"),
    ],
)
def test_what_refuses_every_request_stops_the_run_in_the_server_s_words_and_leaves_nothing_dead(
    server, tmp_path, status, body, words
):
    server.refusal = (status, body)
    tally = run_online(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert "refused every one of 3 requests" in tally.stopped_because and words in tally.stopped_because
    assert len(tally.stopped_because) < 400
    assert tally.outcomes == {"unfinished": 3} and tally.is_refused
    server.refusal = None
    assert run_online(server, tmp_path, make_jobs(3), kinds=("emotion",)).outcomes == {"valid": 3}


def test_refusals_of_all_stop_a_long_run_early(server, tmp_path):
    server.refusal = (400, b"no")
    tally = run_online(server, tmp_path, make_jobs(100), kinds=("emotion",))
    assert sum(server.hits.values()) == 30 and tally.outcomes["dead"] == 0


def test_a_server_none_of_whose_answers_is_of_use_is_not_asked_to_the_end(server, tmp_path):
    server.faults = ["prose"] * 1000
    tally = run_online(server, tmp_path, make_jobs(100), kinds=("emotion",))
    assert tally.asked == 30 and "none of 30 answers is usable" in tally.stopped_because
    server.faults = ["ok", *["prose"] * 150]
    tally = run_online(server, tmp_path / "one", make_jobs(51), kinds=("emotion",))
    assert tally.outcomes == {"valid": 1, "dead": 50}, "where one is of use, the others are what is wrong"


def test_a_request_that_a_batch_holds_is_neither_asked_online_nor_done(server, tmp_path):
    run_batch(server, tmp_path, make_jobs(2), kinds=("emotion",), batch={"waits": False})
    tally = run_online(server, tmp_path, make_jobs(2), kinds=("emotion",))
    assert tally.outcomes == {"unfinished": 2} and tally.reasons == {"in_batch": 2} and not tally.is_complete
