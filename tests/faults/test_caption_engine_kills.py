"""SIGKILL at random times: nothing finished is lost or asked again, and little is paid twice, as the server counts."""

import random
import subprocess
import sys
import time

import caption_rig
import pytest
from caption_rig import local_profile, make_jobs, run_batch, run_online, stored_requests
from openai_server import OpenAIServer

from mf2.dataset_tools.captions.prompting import RequestBuilder

CONCURRENCY = 8


def server_names(server: OpenAIServer, count: int) -> dict[str, str]:
    """Key of each request -> the name under which the server counts it."""
    builder = RequestBuilder(local_profile(server.base_url), kinds=("emotion",))
    requests = builder.requests(make_jobs(count))
    return {request.key: server.name_of(builder.body(request)) for request in requests}


def run_and_kill(server: OpenAIServer, mode: str, folder, count: int, num_calls: int, then_s: float) -> bool:
    """Start a run and kill it once the server has heard `num_calls` more calls; whether it had to be killed."""
    command = [sys.executable, caption_rig.__file__, mode, server.base_url, str(folder), str(count), str(CONCURRENCY)]
    before = server.num_calls
    with subprocess.Popen(command) as child:
        deadline = time.monotonic() + 60
        while server.num_calls < before + num_calls and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(then_s)
        was_running = child.poll() is None
        child.kill()
    time.sleep(0.2)  # what the server was answering is billed by now
    return was_running


def check_online(folder, count: int, kills: int, rng: random.Random) -> None:
    with OpenAIServer(latency_s=0.05) as server:
        names = server_names(server, count)
        num_kills = 0
        finished: dict[str, int] = {}
        while num_kills < kills:
            num_calls = rng.randint(0, max(1, (count - len(finished)) // (kills - num_kills)))
            if not run_and_kill(server, "online", folder, count, num_calls, rng.uniform(0, 0.1)):
                break
            num_kills += 1
            for stored in stored_requests(folder):
                if stored.state in ("raw", "valid"):
                    hits = server.hits[names[stored.key]]
                    assert finished.setdefault(stored.key, hits) == hits, "a finished request was asked again"
        tally = run_online(server, folder, make_jobs(count), kinds=("emotion",), concurrency=CONCURRENCY)
        assert tally.outcomes == {"valid": count}
        assert all(server.hits[names[key]] == hits for key, hits in finished.items())
        print(f"online: {num_kills} kills, {server.paid_twice()} of at most {CONCURRENCY * num_kills} paid twice")
        assert server.paid_twice() <= CONCURRENCY * num_kills
        assert num_kills >= kills // 2, "the runs must be long enough to be killed"


def check_batch(folder, count: int, kills: int, rng: random.Random) -> None:
    with OpenAIServer() as server:
        server.polls_per_batch, server.create_latency_s = 6, 0.05
        num_kills = 0
        while num_kills < kills and run_and_kill(server, "batch", folder, count, rng.randint(0, 3), rng.random() / 10):
            num_kills += 1
        batch = {"max_requests": 50, "poll_s": 0.01, "settle_s": 0.1}
        tally, _ = run_batch(server, folder, make_jobs(count), kinds=("emotion",), batch=batch)
        assert tally.outcomes == {"valid": count}
        print(f"batch: {num_kills} kills, {server.paid_twice()} paid twice, {len(server.batches)} batches")
        assert server.paid_twice() == 0
        assert num_kills >= 2


def test_online_runs_killed_at_random_times(tmp_path):
    check_online(tmp_path, count=150, kills=4, rng=random.Random(0))


def test_batch_runs_killed_at_random_times(tmp_path):
    check_batch(tmp_path, count=150, kills=4, rng=random.Random(0))


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="minutes; run it with -m slow")
@pytest.mark.parametrize("mode", ["online", "batch"])
def test_twenty_kills_in_six_hundred_requests(tmp_path, mode):
    check = check_online if mode == "online" else check_batch
    check(tmp_path, count=600, kills=20, rng=random.Random(1))
