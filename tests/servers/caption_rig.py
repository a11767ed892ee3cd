"""Runs the caption engine against the loopback server, with waits that are noted instead of waited for."""

import asyncio
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from openai_server import OpenAIServer

from mf2.dataset_tools.captions.batch import BatchRunner, BatchSettings
from mf2.dataset_tools.captions.endpoint import open_async_client, open_client
from mf2.dataset_tools.captions.limits import Budget, Pacer
from mf2.dataset_tools.captions.online import OnlineRunner
from mf2.dataset_tools.captions.profiles import FREE, EndpointProfile, Price, load_profiles
from mf2.dataset_tools.captions.prompting import CaptionJob, RequestBuilder
from mf2.dataset_tools.captions.rules import CAPTION_KINDS
from mf2.dataset_tools.captions.settings import RunSettings
from mf2.dataset_tools.captions.store import CaptionStore, StoredRequest
from mf2.dataset_tools.captions.tally import Tally

PRICE = Price(input=1.0, output=10.0, batch_factor=0.5)
ANSWER_USD = PRICE.usd(400, 0, 60)
"""What the loopback server's answers cost."""


class Waits:
    """Stands in for time: sleeping moves the clock and is noted."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


def make_jobs(count: int, active_aus: Sequence[int] = (6, 12, 25), emotion: str = "Happiness") -> list[CaptionJob]:
    """Jobs whose images differ in four bytes."""
    return [
        CaptionJob(f"image{n}", lambda n=n: b"\xff\xd8\xff" + n.to_bytes(4, "big"), tuple(active_aus), emotion)
        for n in range(count)
    ]


def local_profile(base_url: str, **changes: Any) -> EndpointProfile:
    """The profile `local`, for the loopback server."""
    profile = load_profiles()["local"].with_overrides(base_url=base_url, model="test-model")
    return dataclasses.replace(profile, **changes)


def run_online(
    server: OpenAIServer,
    folder: Path,
    jobs: Iterable[CaptionJob],
    *,
    kinds: Sequence[str] = CAPTION_KINDS,
    price: Price = FREE,
    max_usd: float | None = None,
    waits: Waits | None = None,
    timeout_s: float = 60.0,
    **settings: Any,
) -> Tally:
    """One run of the online engine in `folder`, with one request at a time unless `concurrency` says otherwise."""
    waits = waits or Waits()
    settings = {"concurrency": 1, **settings}
    builder = RequestBuilder(local_profile(server.base_url), kinds=kinds)  # type: ignore[arg-type]

    async def run() -> Tally:
        with CaptionStore(folder) as store:
            async with open_async_client(
                builder.profile, None, concurrency=settings["concurrency"], timeout_s=timeout_s
            ) as client:
                runner = OnlineRunner(
                    client,
                    builder,
                    store,
                    RunSettings(**settings),
                    price=price,
                    budget=Budget(max_usd, store.usd_spent()),
                    pacer=Pacer(clock=waits.clock, sleep=waits.sleep),
                )
                return await runner.run(builder.requests(jobs))

    return asyncio.run(run())


def run_batch(
    server: OpenAIServer,
    folder: Path,
    jobs: Sequence[CaptionJob],
    *,
    kinds: Sequence[str] = CAPTION_KINDS,
    price: Price = FREE,
    max_usd: float | None = None,
    batch: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Tally, dict[str, int]]:
    """One run of the batch mode in `folder`; returns the tally and the counts of the collected lines."""
    builder = RequestBuilder(local_profile(server.base_url), kinds=kinds)  # type: ignore[arg-type]
    with CaptionStore(folder) as store, open_client(builder.profile, None, timeout_s=10.0) as client:
        runner = BatchRunner(
            client,
            builder,
            store,
            RunSettings(**settings),
            BatchSettings(**{"poll_s": 0.01, "settle_s": 0.05, **(batch or {})}),
            price=price,
            budget=Budget(max_usd, store.usd_spent()),
            sleep=lambda seconds: None,
        )
        tally = runner.run(lambda: builder.requests(jobs))
        return tally, dict(runner.collector.counts)


def stored_requests(folder: Path) -> list[StoredRequest]:
    """Every request of a store, in any state."""
    with CaptionStore(folder) as store:
        states = ("new", "sent", "raw", "valid", "dead", "in_doubt")
        return [stored for state in states for stored in store.find(state)]


def main() -> None:
    """`caption_rig.py MODE BASE_URL FOLDER COUNT CONCURRENCY`: one run, to be killed from outside."""
    mode, base_url, folder, count, concurrency = sys.argv[1:]
    server = SimpleNamespace(base_url=base_url)
    jobs = make_jobs(int(count))
    if mode == "online":
        run_online(server, Path(folder), jobs, kinds=("emotion",), concurrency=int(concurrency))  # type: ignore[arg-type]
    else:
        batch = {"max_requests": 50, "poll_s": 0.05, "settle_s": 0.3}
        run_batch(server, Path(folder), jobs, kinds=("emotion",), batch=batch, backoff_s=0.01)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
