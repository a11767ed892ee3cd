"""The options of `mf2 data caption`."""

import argparse
from pathlib import Path

from .profiles import SCHEMAS
from .prompting import PROMPTS_FOLDER

DEFAULT_PROFILE = "current"
COMPARED_IMAGES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data caption`."""
    add = parser.add_argument
    add("data", type=Path, help="data set folder")
    add(
        "--output_dir",
        "--out",
        dest="out",
        type=Path,
        help="folder of the captioned data set (default: DATA itself)",
    )
    add("--backend", choices=("template", "model"), help="template works offline; the default without --profile")
    add("-n", "--limit", type=int, metavar="N", help="caption only N images, evenly spread")
    add("--seed", type=int, default=0, help="seed of the template (default: %(default)s)")
    add("--dry_run", action="store_true", help="print the number of requests and their cost, and send none")
    _add_model_arguments(parser)
    _add_run_arguments(parser)
    _add_batch_arguments(parser)
    _add_money_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--profile", metavar="NAME", help=f"paper, current, local or one of --profiles (default: {DEFAULT_PROFILE})")
    add("--profiles", type=Path, metavar="FILE", help="YAML file with your own profiles")
    add("--base_url", metavar="URL", help="another OpenAI-compatible server")
    add("--model", metavar="NAME", help="another model")
    add(
        "--schema",
        choices=SCHEMAS,
        help="how to request the JSON form of answers (default: as in the profile, or less if the server refuses it)",
    )
    add("--prompts", type=Path, default=PROMPTS_FOLDER, metavar="DIR", help="folder with your own prompt files")
    add("--tokenizer", metavar="NAME", help="tokenizer that counts the tokens of captions (default: an estimate)")
    add("--compare", nargs=2, metavar=("A", "B"), help=f"compare two profiles, on -n {COMPARED_IMAGES} images")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--store", type=Path, metavar="DIR", help="folder of requests and answers (default: OUT.captions)")
    add("--concurrency", type=int, default=16, metavar="N", help="simultaneous requests (default: %(default)s)")
    add("--rpm", type=float, metavar="N", help="requests per minute (default: the limit that the server sends)")
    add("--tpm", type=float, metavar="N", help="tokens per minute (default: the limit that the server sends)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds for an answer (default: %(default)s)")
    add(
        "--max_reasks", type=int, default=2, metavar="N", help="retries after an invalid answer (default: %(default)s)"
    )
    add(
        "--in_doubt",
        choices=("resend", "skip"),
        default="resend",
        help="requests that were sent but never answered: resend may pay twice (default: %(default)s)",
    )
    add("--retry_dead", action="store_true", help="send the dead letters of earlier runs again")
    add(
        "--fallback",
        choices=("none", "template"),
        default="none",
        help="replaces a missing caption, and is marked as such (default: %(default)s)",
    )
    add(
        "--min_valid",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="stop after the pilot, or write nothing, if fewer captions are valid (default: %(default)s)",
    )


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("batch").add_argument
    add(
        "--mode",
        choices=("online", "batch", "write-shards"),
        default="online",
        help="batch uses the Batch API; write-shards writes its files for `vllm run-batch` (default: %(default)s)",
    )
    add("--batch_requests", type=int, metavar="N", help="requests per batch file (default: the maximum)")
    add("--poll", type=float, default=30.0, metavar="S", help="seconds between status requests (default: %(default)s)")
    add("--no_wait", action="store_true", help="submit and exit; the same command collects the answers later")
    add("--answers", type=Path, nargs="+", metavar="FILE", help="answers of `vllm run-batch` to written shards")


def _add_money_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("money and permission").add_argument
    add("--pilot", type=int, default=30, metavar="N", help="requests before the estimate (default: %(default)s)")
    add("--max_usd", type=float, metavar="USD", help="never spend more, including earlier runs with the same store")
    add("--yes", action="store_true", help="do not ask for confirmation of the estimate")
    add("--prices", type=Path, metavar="FILE", help="YAML file with your own prices")
    add("--i_may_upload", metavar="AGREEMENT", help="the agreement that allows uploading the images")
    add("--signatory", metavar="NAME", help="the person who signed it")
