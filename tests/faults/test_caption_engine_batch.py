"""The batch mode against everything that can become of a batch: joined by id, and never paid twice."""

import json

import pytest
from caption_rig import ANSWER_USD, PRICE, local_profile, make_jobs, run_batch, run_online, stored_requests
from openai_server import OpenAIServer, completion

from mf2.dataset_tools.captions.prompting import RequestBuilder
from mf2.dataset_tools.captions.settings import RunSettings
from mf2.dataset_tools.captions.shards import AnswerCollector, ShardWriter, read_answer_lines, shard_path
from mf2.dataset_tools.captions.store import CaptionStore


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


def test_a_batch_captions_every_image_at_half_the_price(server, tmp_path):
    tally, counts = run_batch(server, tmp_path, make_jobs(5), price=PRICE)
    assert tally.outcomes == {"valid": 15} and counts["answer"] == tally.asked == 15
    assert tally.usd == pytest.approx(15 * ANSWER_USD / 2)
    tally, _ = run_batch(server, tmp_path, make_jobs(5))
    assert (tally.asked, tally.reused) == (0, 15)
    assert server.calls["create"] == 1 and server.paid_twice() == 0
    assert not list((tmp_path / "batches").iterdir()), "files with images do not stay"


def test_the_lines_and_the_upload_are_what_the_api_asks_for(server, tmp_path):
    run_batch(server, tmp_path, make_jobs(1), kinds=("emotion",))
    (batch,) = server.batches.values()
    assert batch["endpoint"] == "/v1/chat/completions" and batch["completion_window"] == "24h"
    fields = server.file_fields[batch["input_file_id"]]
    assert fields["purpose"] == "batch" and fields["expires_after[seconds]"] == str(7 * 24 * 3600)
    (line,) = map(json.loads, server.files[batch["input_file_id"]].splitlines())
    assert set(line) == {"custom_id", "method", "url", "body"}
    assert line["url"] == "/v1/chat/completions" and line["body"]["response_format"]["json_schema"]["strict"]
    assert line["custom_id"] == stored_requests(tmp_path)[0].key


@pytest.mark.parametrize("bound", [{"max_requests": 4}, {"max_bytes": 8_000}])
def test_files_are_bounded_by_requests_and_by_bytes(server, tmp_path, bound):
    run_batch(server, tmp_path, make_jobs(10), kinds=("emotion",), batch=bound)
    files = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert len(files) >= 3
    assert all(len(file.splitlines()) <= bound.get("max_requests", 10) for file in files)
    assert all(len(file) <= bound.get("max_bytes", 10**9) for file in files)
    assert sum(len(file.splitlines()) for file in files) == 10


def test_bounds_beyond_the_api_are_refused(server, tmp_path):
    with pytest.raises(ValueError, match="50,000"):
        run_batch(server, tmp_path, [], batch={"max_requests": 50_001})


def test_results_in_any_order_with_duplicate_and_unknown_ids_are_joined(server, tmp_path):
    server.batch_faults = ["shuffled"]
    tally, counts = run_batch(server, tmp_path, make_jobs(6), kinds=("key_au",))
    assert tally.outcomes == {"valid": 6}
    assert (counts["answer"], counts["duplicate"], counts["unknown"]) == (6, 2, 1)


def test_failures_of_single_lines_are_sent_again_or_dead(server, tmp_path):
    server.batch_faults = ["mixed_errors"]  # lines 0, 6: HTTP 500; 3, 9: HTTP 400
    tally, counts = run_batch(server, tmp_path, make_jobs(10), kinds=("emotion",))
    assert tally.outcomes == {"valid": 8, "dead": 2}
    assert (counts["failure"], counts["refused"]) == (2, 2)
    assert tally.reasons == {"bad_request": 2}
    assert server.calls["create"] == 2 and server.paid_twice() == 0


@pytest.mark.parametrize("fault", ["half_expired", "cancelled"])
def test_what_an_expired_or_cancelled_batch_finished_is_kept_and_the_rest_sent_again(server, tmp_path, fault):
    server.batch_faults = [fault]
    tally, _ = run_batch(server, tmp_path, make_jobs(8), kinds=("emotion",))
    assert tally.outcomes == {"valid": 8} and tally.asked == 12
    assert server.paid_twice() == 0


def test_a_batch_without_an_output_file(server, tmp_path):
    server.batch_faults = ["no_output_file"]
    tally, counts = run_batch(server, tmp_path, make_jobs(4), kinds=("emotion",))
    assert tally.outcomes == {"valid": 2, "dead": 2} and counts["refused"] == 2


def test_a_line_that_never_came_is_sent_again(server, tmp_path):
    server.batch_faults = ["missing_line"]
    tally, counts = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3} and counts["missing"] == 1


def test_a_file_that_fails_validation_stops_the_run_with_the_provider_s_words(server, tmp_path):
    server.batch_faults = ["failed_validation"]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert "invalid_json_line (line 3): bad line" in tally.stopped_because
    assert tally.outcomes == {"unfinished": 3} and not server.billed
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3}


def test_rejected_answers_go_into_the_next_round_with_what_was_wrong(server, tmp_path):
    server.batch_faults = ["content:banned_word", "content:banned_word"]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3} and tally.reasked == 6 and len(server.batches) == 3
    assert "identity, age, race or gender" in server.requests[-1]["messages"][-1]["content"]

    server.batch_faults = ["content:banned_word"] * 3
    tally, _ = run_batch(server, tmp_path / "dead", make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"dead": 3} and tally.reasons == {"rules": 3}


def test_a_lost_answer_to_the_creation_is_found_in_the_list_and_not_created_again(server, tmp_path):
    server.create_faults = ["lost_answer"]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3}
    assert server.calls["create"] == 1 and server.calls["list"] >= 1
    assert server.paid_twice() == 0


@pytest.mark.parametrize("fault", ["lost_request", "500", "429"])
def test_a_creation_that_never_happened_is_repeated_after_a_look(server, tmp_path, fault):
    server.create_faults = [fault]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3}
    assert server.calls["create"] == 2 and server.calls["list"] >= 1 and len(server.batches) == 1


def test_a_refused_creation_stops_the_run_which_goes_on_later(server, tmp_path):
    server.create_faults = ["insufficient_quota"]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert "insufficient_quota" in tally.stopped_because or "HTTP 429" in tally.stopped_because
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3} and server.paid_twice() == 0


def test_submit_now_and_collect_later(server, tmp_path):
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",), batch={"waits": False})
    assert tally.outcomes == {"unfinished": 3} and tally.asked == 3
    tally, _ = run_batch(server, tmp_path, make_jobs(4), kinds=("emotion",))
    assert tally.outcomes == {"valid": 4} and server.paid_twice() == 0


def test_the_budget_bounds_what_is_submitted(server, tmp_path):
    options = {"kinds": ("emotion",), "price": PRICE, "batch": {"max_requests": 5}}
    tally, _ = run_batch(server, tmp_path, make_jobs(20), **options, max_usd=0.02)
    assert "--max_usd" in tally.stopped_because
    assert 0 < sum(server.billed.values()) * ANSWER_USD / 2 <= 0.02
    assert tally.outcomes["valid"] == sum(server.billed.values()), "what was submitted is collected"
    tally, _ = run_batch(server, tmp_path, make_jobs(20), **options)
    assert tally.outcomes == {"valid": 20} and server.paid_twice() == 0


def test_online_and_batch_share_what_they_have(server, tmp_path):
    run_online(server, tmp_path, make_jobs(2), kinds=("emotion",))
    tally, _ = run_batch(server, tmp_path, make_jobs(4), kinds=("emotion",))
    assert tally.outcomes == {"valid": 4} and (tally.asked, tally.reused) == (2, 2)


def test_shards_answered_by_another_program_are_collected_from_its_file(tmp_path):
    """`vllm run-batch -i shard.jsonl -o answers.jsonl` needs no server at all."""
    builder = RequestBuilder(local_profile("http://127.0.0.1:9/v1"))
    with CaptionStore(tmp_path) as store:
        (shard,) = ShardWriter(builder, store, RunSettings()).write(builder.requests(make_jobs(2)))
        answers = tmp_path / "answers.jsonl"
        with answers.open("w") as file:
            for line in map(json.loads, shard_path(store, shard.id).open()):
                response = {"status_code": 200, "request_id": "x", "body": completion(line["body"])}
                file.write(json.dumps({"id": "x", "custom_id": line["custom_id"], "response": response}) + "\n")
            file.write("half a li")
        collector = AnswerCollector(store, RunSettings(), builder.profile.max_output_tokens)
        collector.collect(read_answer_lines(answers), shard.id)
        collector.finish_shard(shard.id)
        assert collector.counts == {"answer": 6, "unknown": 1, "missing": 0}
        assert len(list(store.find("valid"))) == 6


def test_a_provider_without_room_gets_fewer_batches_at_once_and_loses_no_request(server, tmp_path):
    server.max_running = 1
    tally, counts = run_batch(server, tmp_path, make_jobs(20), kinds=("emotion",), batch={"max_requests": 3})
    assert tally.outcomes == {"valid": 20} and counts["answer"] == 20
    assert server.paid_twice() == 0 and server.calls["upload"] == 7, "a file that waits is not sent again"


def test_a_file_for_which_there_is_never_room_is_written_as_smaller_ones(server, tmp_path):
    server.max_batch_requests = 3
    tally, _ = run_batch(server, tmp_path, make_jobs(10), kinds=("emotion",))
    assert tally.outcomes == {"valid": 10} and server.paid_twice() == 0


def test_a_batch_that_can_never_run_stops_in_the_provider_s_words_and_goes_on_in_any_later_run(server, tmp_path):
    server.max_batch_requests = 0
    for _ in range(4):  # more runs than a request has tries
        tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
        assert "token_limit_exceeded: Enqueued token limit reached" in tally.stopped_because
        assert tally.outcomes == {"unfinished": 3}
    server.max_batch_requests = None
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert tally.outcomes == {"valid": 3} and server.paid_twice() == 0


def test_a_batch_of_which_all_is_refused_leaves_nothing_dead(server, tmp_path):
    server.batch_faults = ["all_refused"]
    tally, _ = run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))
    assert "HTTP 400: this model takes no images" in tally.stopped_because and tally.outcomes == {"unfinished": 3}
    assert run_batch(server, tmp_path, make_jobs(3), kinds=("emotion",))[0].outcomes == {"valid": 3}


def test_batches_without_one_usable_answer_are_not_asked_again(server, tmp_path):
    server.batch_faults = ["content:banned_word"] * 9
    tally, _ = run_batch(server, tmp_path, make_jobs(40), kinds=("emotion",))
    assert tally.asked == 40 and "answers is usable; the last one: rules" in tally.stopped_because
