"""Speed and memory of the online engine against a server that takes half a second for an answer."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import openai_server
import pytest
from caption_rig import local_profile, make_jobs

from mf2.dataset_tools.captions.endpoint import open_async_client
from mf2.dataset_tools.captions.online import OnlineRunner
from mf2.dataset_tools.captions.prompting import RequestBuilder
from mf2.dataset_tools.captions.settings import RunSettings
from mf2.dataset_tools.captions.store import CaptionStore

LATENCY_S = 0.5
CONCURRENCY = 64


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def base_url():
    """The server as a process of its own, so that it does not share the engine's interpreter."""
    command = [sys.executable, openai_server.__file__, "--latency-s", str(LATENCY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="needs two idle cores; run it with -m slow")
def test_the_engine_keeps_64_requests_on_their_way_in_flat_memory(base_url, tmp_path):
    num_requests = int(os.environ.get("MF2_THROUGHPUT_REQUESTS", "3000"))
    builder = RequestBuilder(local_profile(base_url), kinds=("emotion",))
    memory_mb: list[float] = []

    def note_memory(tally) -> None:
        if tally.outcomes["valid"] % 500 == 0:
            memory_mb.append(resident_mb())

    async def run():
        with CaptionStore(tmp_path) as store:
            async with open_async_client(builder.profile, None, concurrency=CONCURRENCY, timeout_s=60) as client:
                settings = RunSettings(concurrency=CONCURRENCY)
                runner = OnlineRunner(client, builder, store, settings, on_settled=note_memory)
                return await runner.run(builder.requests(make_jobs(num_requests)))

    started = time.monotonic()
    tally = asyncio.run(run())
    rate = num_requests / (time.monotonic() - started)
    ideal = CONCURRENCY / LATENCY_S
    print(f"{rate:.1f} requests/s, {rate / ideal:.1%} of {ideal:.0f}; {memory_mb[0]:.0f} to {max(memory_mb):.0f} MB")
    assert tally.outcomes == {"valid": num_requests}
    assert rate >= 0.85 * ideal
    assert max(memory_mb) - memory_mb[0] < 10
