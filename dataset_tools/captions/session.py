"""A session of `mf2 data caption` with a model: endpoint, estimate, pilot, run, and output."""

import argparse
import asyncio
import datetime
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ... import __version__
from ...utils.files import write_json
from ..stage_settings import collect_settings
from .answers import DEAD, SENT, VALID
from .arguments import add_arguments
from .batch import BatchRunner, BatchSettings
from .compare import compare_stored
from .endpoint import UploadPermission, check_permission, open_async_client, open_client, read_api_key, resolve_model
from .estimate import Estimate, estimate_from_pilot, estimate_from_prompts
from .limits import Budget, Pacer
from .mfa_io import MfaImages
from .online import OnlineRunner
from .profiles import FREE, SCHEMAS, EndpointProfile, Price, get_profile, load_price, load_profiles
from .prompting import CaptionJob, CaptionRequest, RequestBuilder
from .results import DEAD_LETTERS_NAME, ImageCaptions, ResultReader, jsonl_writer, write_dead_letters
from .rules import CAPTION_KINDS, load_token_counter
from .settings import GIVE_UP_AFTER, RunSettings
from .shards import MAX_SHARD_REQUESTS, AnswerCollector, ShardWriter, shard_path
from .shortfall import describe_shortfall
from .store import CaptionStore
from .tally import Tally

EXIT_UNFINISHED = 3
"""Exit status of a run that stopped or waits for a batch; the same command continues it."""
_SERVER_ERROR = "HTTP 500"
"""Start of the failure message of a server that cannot process a request, rather than lacking capacity."""
_SCHEMA_TRIES = 3


@dataclass(frozen=True)
class Endpoint:
    """A checked profile with its price (None if unknown), upload permission and request builder."""

    profile: EndpointProfile
    price: Price | None
    permission: UploadPermission | None
    builder: RequestBuilder


def open_endpoint(args: argparse.Namespace, profile_name: str) -> Endpoint:
    """Load a profile and check all conditions for sending requests.

    Raises:
        ValueError: an unknown profile, a model that is about to be shut down, or a budget with an unknown price.
        PermissionError: images would be uploaded without a permission.
    """
    profile = get_profile(load_profiles(args.profiles), profile_name)
    profile = profile.with_overrides(base_url=args.base_url, model=args.model, schema=args.schema)
    profile.check_retirement(datetime.datetime.now(), batch=args.mode == "batch")
    permission = _read_permission(args)
    uploads = not args.dry_run and args.mode != "write-shards" and not args.answers
    if uploads:
        check_permission(profile, permission)
        read_api_key(profile)
    profile = resolve_model(profile)
    if uploads:
        check_permission(profile, permission)
    price = load_price(profile, args.prices)
    if price is None and args.max_usd is not None:
        raise ValueError(f"--max_usd needs the price of {profile.model}; add it to a file and pass it with --prices.")
    return Endpoint(profile, price, permission if uploads else None, RequestBuilder(profile, args.prompts))


def _read_permission(args: argparse.Namespace) -> UploadPermission | None:
    if args.i_may_upload is None and args.signatory is None:
        return None
    return UploadPermission(args.i_may_upload or "", args.signatory or "")


def run_session(args: argparse.Namespace) -> int:
    """Caption a data set with a model; returns the exit status."""
    endpoint = open_endpoint(args, args.profile)
    images = MfaImages(args.data)
    with _open_store(args) as store:
        return Session(args, endpoint, images, store).run()


def compare_profiles(args: argparse.Namespace) -> int:
    """Run two profiles on the same images and print their comparison; returns the exit status."""
    endpoints = [open_endpoint(args, name) for name in args.compare]
    images = MfaImages(args.data)
    with _open_store(args) as store:
        sessions = [Session(args, endpoint, images, store) for endpoint in endpoints]
        tallies = [session.ask() for session in sessions]
        if args.dry_run:
            return 0
        if not all(tally and tally.is_complete for tally in tallies):
            stops = [tally.stopped_because for tally in tallies if tally and tally.stopped_because]
            print("\n".join(f"stopped: {stop}" for stop in stops))
            print("The comparison is not complete; run the same command again to continue.")
            return EXIT_UNFINISHED
        builders = (sessions[0].endpoint.builder, sessions[1].endpoint.builder)
        count_tokens = load_token_counter(args.tokenizer)
        comparison = compare_stored(builders, store, list(images.jobs(args.limit)), count_tokens)
        write_json(store.folder / "comparison.json", comparison.to_dict())
        print(comparison.to_text())
    return 0


class Session:
    """A captioning run on one data set, endpoint and store.

    Args:
        args: the options of the command.
        endpoint: from `open_endpoint`.
        images: the images of the data set.
        store: the store of requests and answers.
    """

    def __init__(self, args: argparse.Namespace, endpoint: Endpoint, images: MfaImages, store: CaptionStore) -> None:
        self._args = args
        self.endpoint = endpoint
        self._images = images
        self._store = store
        self._budget = Budget(args.max_usd, store.usd_spent())
        self._settings = RunSettings(
            concurrency=args.concurrency,
            max_reasks=args.max_reasks,
            in_doubt=args.in_doubt,
            retry_dead=args.retry_dead,
            give_up_after=GIVE_UP_AFTER if args.min_valid > 0 else None,
            count_tokens=load_token_counter(args.tokenizer),
        )
        self._is_answered = False
        if args.schema is None and (schema := store.get_metadata(self._schema_name)):
            self._use_schema(schema)

    def run(self) -> int:
        """Request all captions and write the data set; returns the exit status."""
        if self._args.answers:
            tally = self._collect_answers()
        elif self._args.mode == "write-shards":
            return self._write_shards()
        elif (result := self.ask()) is None:
            return 0
        else:
            tally = result
        tally.add_not_asked(self._count_captions())
        num_letters = write_dead_letters(self._store, self._letters)
        write_json(self._store.folder / "report.json", tally.to_dict())
        print(tally.to_text())
        if num_letters:
            print(f"{num_letters:,} dead letters: {self._letters}")
        if not tally.is_complete:
            remedy = "fix the cause, then " if tally.stopped_because else ""
            print(f"No data set is written yet; {remedy}run the same command again to continue.")
            return EXIT_UNFINISHED
        self._check_share("No data set is written", tally)
        self._write_data_set(tally)
        return 0

    def ask(self) -> Tally | None:
        """Estimate the cost, run the pilot, ask for confirmation, and run all requests; None after a dry run."""
        estimate = self._estimate()
        print(f"{self.endpoint.profile.name}: {estimate.to_text()}")
        if self._args.dry_run:
            return None
        costs_money = self.endpoint.price != FREE and estimate.num_requests > 0
        if costs_money and not self._may_spend and not sys.stdin.isatty():
            raise ValueError(f"This costs money ({estimate.to_text()}); pass --max_usd USD or --yes.")
        asks_online = self._args.mode == "online" or costs_money
        if asks_online and estimate.num_requests and self._args.pilot > 0:
            self._find_schema()
        self._store.record_run(self._description()).result()
        if asks_online and estimate.num_requests > self._args.pilot > 0:
            estimate = self._run_pilot(estimate)
            print(f"{self.endpoint.profile.name}: {estimate.to_text()}")
        if costs_money and not self._may_spend and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ValueError("Stopped before the run; only the requests of the pilot were sent.")
        return self._run_batch() if self._args.mode == "batch" else self._run_online(self._requests(), "captions")

    # --------------------------------------------------------------------------------------------------- preparation
    @property
    def _may_spend(self) -> bool:
        """Whether an option confirms the cost or limits it."""
        return self._args.yes or self._args.max_usd is not None

    @property
    def _price(self) -> Price:
        return self.endpoint.price or FREE

    def _requests(self, sample: int | None = None) -> Iterator[CaptionRequest]:
        return self.endpoint.builder.requests(self._images.jobs(self._args.limit, sample))

    def _pending(self, sample: int | None = None) -> Iterator[CaptionRequest]:
        """Yield the requests that this run has to send, including those in unsubmitted batch files."""
        unsubmitted = {shard.id for shard in self._store.shards("written", "uploaded", "creating")}
        for request in self._requests(sample):
            stored = self._store.get(request.key)
            is_waiting = stored is not None and stored.state == SENT and stored.shard in unsubmitted
            is_unsent = stored is None or self._settings.asks_again(stored.state)
            if is_unsent or (is_waiting and self._args.mode == "batch"):
                yield request

    def _count_captions(self) -> int:
        """The number of captions that the model has to write, without reading images."""
        jobs = self._images.jobs(self._args.limit)
        return sum(len(self.endpoint.builder.kinds_of(job)) for job in jobs)

    @property
    def _letters(self) -> Path:
        return self._store.folder / DEAD_LETTERS_NAME

    def _check_share(self, what: str, tally: Tally) -> None:
        """Check that enough captions are valid.

        Raises:
            ValueError: too few are; the most frequent reason and an example are shown.
        """
        if tally.valid_share < self._args.min_valid:
            write_dead_letters(self._store, self._letters)
            raise ValueError(describe_shortfall(what, tally, self._args.min_valid, self._store, self._letters))

    # -------------------------------------------------------------------------------------------------- answer schema
    @property
    def _schema_name(self) -> str:
        """The name under which the store records which schema option the server accepts."""
        profile = self.endpoint.profile
        return f"schema {profile.base_url} {profile.model_name} {profile.schema}"

    def _use_schema(self, schema: str) -> None:
        profile = replace(self.endpoint.profile, schema=schema)
        self.endpoint = replace(self.endpoint, profile=profile, builder=RequestBuilder(profile, self._args.prompts))

    def _find_schema(self) -> None:
        """Send one request with each schema option until the server accepts one, and record that option.

        Some servers answer an unknown schema option with HTTP 500.

        Raises:
            ConnectionError: the server refuses the request with every option.
        """
        profile, name = self.endpoint.profile, self._schema_name
        schemas = SCHEMAS[SCHEMAS.index(profile.schema) :] if self._args.schema is None else (profile.schema,)
        for schema in schemas:
            self._use_schema(schema)
            tally = self._run_online(islice(self._pending(), 1), "pilot", _SCHEMA_TRIES)
            has_error = not self._is_answered and (tally.last_failure or "").startswith(_SERVER_ERROR)
            if not tally.is_refused and (tally.stopped_because or not has_error):
                if tally.stopped_because:
                    raise ConnectionError(f"The pilot stopped: {tally.stopped_because}")
                if self._is_answered:
                    self._store.set_metadata(name, schema).result()
                return
            if schema != schemas[-1]:
                print(f"{profile.name}: {tally.stopped_because or tally.last_failure}; trying it without {schema}")
        self._use_schema(profile.schema)
        if has_error:
            raise ConnectionError(f"The pilot stopped: the server fails on every request: {tally.last_failure}")

    def _estimate(self) -> Estimate:
        requests = tqdm(self._pending(), desc="requests", unit="", leave=False)
        is_batch = self._args.mode == "batch"
        return estimate_from_prompts(self.endpoint.builder, requests, self.endpoint.price, batch=is_batch)

    def _run_pilot(self, estimate: Estimate) -> Estimate:
        """Send a few requests online, spread over the data set, and keep their answers."""
        spent_usd = self._budget.spent_usd
        sample = math.ceil(self._args.pilot / len(CAPTION_KINDS))
        tally = self._run_online(self._pending(sample), "pilot")
        if tally.stopped_because:
            raise ConnectionError(f"The pilot stopped: {tally.stopped_because}")
        self._check_share("The pilot stopped", tally)
        is_batch = self._args.mode == "batch"
        pilot_usd = self._budget.spent_usd - spent_usd
        return estimate_from_pilot(estimate, tally, pilot_usd, self.endpoint.price, batch=is_batch)

    # ------------------------------------------------------------------------------------------------------ requests
    def _run_online(self, requests: Iterator[CaptionRequest], title: str, max_tries: int | None = None) -> Tally:
        settings = self._settings if max_tries is None else replace(self._settings, max_tries=max_tries)
        with tqdm(desc=title, unit="caption") as bar:
            return asyncio.run(self._run_online_async(requests, settings, _progress_callback(bar)))

    async def _run_online_async(
        self, requests: Iterator[CaptionRequest], settings: RunSettings, on_settled: Callable[[Tally], None]
    ) -> Tally:
        endpoint, args = self.endpoint, self._args
        async with open_async_client(
            endpoint.profile, endpoint.permission, concurrency=args.concurrency, timeout_s=args.timeout
        ) as client:
            runner = OnlineRunner(
                client,
                endpoint.builder,
                self._store,
                settings,
                price=self._price,
                budget=self._budget,
                pacer=Pacer(args.rpm, args.tpm),
                is_answered=self._is_answered,
                on_settled=on_settled,
            )
            with _stopping_on_interrupt(runner):
                tally = await runner.run(requests)
        self._is_answered = runner.is_answered
        return tally

    def _run_batch(self) -> Tally:
        endpoint, args = self.endpoint, self._args
        settings = BatchSettings(
            max_requests=args.batch_requests or MAX_SHARD_REQUESTS, poll_s=args.poll, waits=not args.no_wait
        )
        with (
            open_client(endpoint.profile, endpoint.permission, timeout_s=args.timeout) as client,
            tqdm(desc="batches", unit="caption") as bar,
        ):

            def on_progress(done: int, submitted: int) -> None:
                bar.total, bar.n = submitted, done
                bar.set_postfix_str(f"${self._store.usd_spent():.2f}")

            runner = BatchRunner(
                client,
                endpoint.builder,
                self._store,
                self._settings,
                settings,
                price=self._price,
                budget=self._budget,
                on_progress=on_progress,
            )
            return runner.run(self._requests)

    def _write_shards(self) -> int:
        writer = ShardWriter(
            self.endpoint.builder,
            self._store,
            self._settings,
            max_requests=self._args.batch_requests or MAX_SHARD_REQUESTS,
        )
        shards = writer.write(tqdm(self._requests(), desc="shards", unit="request"))
        for shard in shards:
            print(f"{shard_path(self._store, shard.id)}: {shard.num_requests:,} requests")
        print("Answer each file, e.g. `vllm run-batch -i FILE -o ANSWERS --model MODEL`, then pass --answers.")
        return EXIT_UNFINISHED if shards else 0

    def _collect_answers(self) -> Tally:
        collector = AnswerCollector(self._store, self._settings, self.endpoint.profile.max_output_tokens, self._price)
        for path in self._args.answers:
            collector.collect_file(path)
        print(", ".join(f"{count:,} {name}" for name, count in collector.counts.items() if count))
        tally = Tally(reasked=collector.num_reasked, usd=self._store.usd_spent())
        tally.stopped_because = collector.refusal
        for request in self._requests():
            tally.count_stored(request, self._store.get(request.key))
        return tally

    # -------------------------------------------------------------------------------------------------------- output
    def _write_data_set(self, tally: Tally) -> None:
        """Write captions and provenance; a missing caption is null, or replaced by the template's."""
        args = self._args
        out_dir = args.out or args.data
        with_template = args.fallback == "template"
        reader = ResultReader(self._store, self.endpoint.builder, with_template=with_template, seed=args.seed)
        count = self._images.count(args.limit)
        path = self._store.folder / "provenance.jsonl"
        with jsonl_writer(path) as write_provenance, tqdm(total=count, desc="data set", unit="image") as bar:

            def captions_of(job: CaptionJob) -> ImageCaptions:
                captions = reader.captions_of(job)
                write_provenance({"image_id": job.image_id, "captions": captions.provenance()})
                bar.update()
                return captions

            manifest = {**self._description(), "tally": tally.to_dict()}
            settings = {**collect_settings(args, add_arguments), "schema": self.endpoint.profile.schema}
            self._images.write(out_dir, captions_of, manifest, settings, args.limit)
        num_missing = sum(tally.outcomes.values()) - tally.outcomes[VALID]
        remedy = "replaced by the template" if with_template else "they are null; --fallback template fills them"
        in_place = "" if args.out else " (replaced in place once it was complete)"
        print(
            f"{count:,} images captioned: {out_dir}{in_place}"
            + (f" ({num_missing:,} captions missing: {remedy})" if num_missing else "")
        )
        if tally.outcomes[DEAD]:
            print("Dead letters shift the class balance: `mf2 data top_up` replaces these frames in the selection.")

    def _description(self) -> dict[str, Any]:
        """The description of the run in the store and in the manifest."""
        builder, profile, permission = self.endpoint.builder, self.endpoint.profile, self.endpoint.permission
        return {
            "backend": "model",
            "profile": profile.name,
            "base_url": profile.base_url,
            "endpoint": profile.to_dict(),
            "mode": self._args.mode,
            "parameters": builder.parameters,
            "detail": profile.detail,
            "schema": profile.schema,
            "prompt_sha256": {kind: builder.prompt_sha256(kind) for kind in builder.kinds},
            "upload_permission": permission.to_dict() if permission else None,
            "store": self._store.id,
            "version": __version__,
        }


@contextmanager
def _open_store(args: argparse.Namespace) -> Iterator[CaptionStore]:
    """Open the store of the run; a dry run without an existing store uses a temporary one."""
    target: Path = (args.out or args.data).resolve()
    folder = args.store or target.with_name(f"{target.name}.captions")
    is_temporary = args.dry_run and not folder.exists()
    with (
        tempfile.TemporaryDirectory() if is_temporary else nullcontext(folder) as actual,
        CaptionStore(actual) as store,
    ):
        yield store


def _progress_callback(bar: tqdm) -> Callable[[Tally], None]:
    """A callback that updates a progress bar with cost and numbers of valid, re-asked and dead captions."""

    def on_settled(tally: Tally) -> None:
        bar.set_postfix_str(
            f"${tally.usd:.2f}, {tally.outcomes[VALID]} valid, {tally.reasked} re-asked, {tally.outcomes[DEAD]} dead",
            refresh=False,
        )
        bar.update()

    return on_settled


@contextmanager
def _stopping_on_interrupt(runner: OnlineRunner) -> Iterator[None]:
    """Within the block, the first Ctrl-C stops the runner after its running requests, and the second one at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        runner.stop("interrupted")

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
