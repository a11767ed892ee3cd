"""Checks before an upload; all problems are reported at once."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, ModelCard, get_token

from mf2.dataset_tools.schema import MANIFEST_NAME
from mf2.hub.cards import parse_label_space
from mf2.hub.file_names import CARD_NAME, INDEX_NAME, METRICS_NAME
from mf2.hub.publish_contents import ADAPTER, BINARY_STARTS, CHECKPOINT, DATASET, PICKLES, WEIGHTS, Contents
from mf2.utils.files import sha256_of_file

ANNOTATIONS, FULL = "annotations", "full"
PROBE = Path(__file__).with_name("publish_probe.py")
PROBE_SECONDS = 600
THRESHOLD_TOLERANCE = 1e-6

SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|aws_secret_access_key\s*[=:]", re.I),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a path of a machine": re.compile(
        r"(?<![\w/.])/(?:home|Users|root|tmp|mnt|media|scratch|workspace|Volumes)/[\w.-]|\b[A-Za-z]:\\{1,2}Users\\"
    ),
}


# ----------------------------------------------------------------------------------------------------------------- all
def check(contents: Contents, *, is_public: bool, permission: str | None) -> None:
    """Raise one `ValueError` that lists all problems.

    Args:
        contents: contents to be published.
        is_public: whether the repository is public.
        permission: statement that allows publication of data under agreement.
    """
    problems = [problem for find in _CHECKS[contents.repo_type] for problem in find(contents)]
    problems += find_licence_problems(contents, is_public, permission)
    if not problems and contents.repo_type == "model":
        problems += find_loading_problems(contents)  # slow, so only if there is no other problem
    if problems:
        raise ValueError(f"{contents.source} is not published: {' '.join(problems)}")


def find_licence_problems(contents: Contents, is_public: bool, permission: str | None) -> Iterator[str]:
    """Find restricted data or their images in a public repository, and missing provenance."""
    if contents.kind in (CHECKPOINT, ADAPTER) and not contents.sources:
        yield "Its configuration does not list the training data (training_data)."
    if not contents.restricted or permission:
        return
    names = ", ".join(contents.restricted)
    if is_public:
        yield f"It derives from {names}, which may not be passed on; publish it --private or state --permission TEXT."
    if contents.kind == DATASET and any(path.startswith("data/") for path in contents.files):
        export = "`mf2 data export` without --full"
        yield f"It holds the images of {names}; make it by {export}, or state --permission TEXT."


# --------------------------------------------------------------------------------------------------------------- files
def find_file_problems(contents: Contents) -> Iterator[str]:
    """Find pickles, and files whose content does not match their extension."""
    for name in contents.left_out:
        if Path(name).suffix in PICKLES and (contents.source / name).is_file():
            yield f"{name} is or may be a pickle; save safetensors and remove it."
    for path in contents.files:
        suffix = Path(path).suffix
        if suffix == WEIGHTS:
            yield from _find_safetensors_problem(contents, path)
        elif (start := BINARY_STARTS.get(suffix)) and contents.read_bytes(path, len(start)) != start:
            yield f"{path} is no {suffix[1:]} file."


def _find_safetensors_problem(contents: Contents, path: str) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(contents.files[path], "pt") as file:
            if not file.keys():
                yield f"{path} holds no weights."
    except (SafetensorError, OSError):
        yield f"{path} is no safetensors file or is damaged."


def find_leaks(contents: Contents) -> Iterator[str]:
    """Find secrets and paths of this machine in all texts, including the headers of weights."""
    local_paths = {str(path) for path in (Path.home(), Path.cwd(), contents.source.resolve())} - {"/"}
    patterns = SECRETS | {
        f"the path {path}": re.compile(re.escape(path) + r"(?![\w.-])") for path in sorted(local_paths)
    }
    if token := get_token():
        patterns["your token"] = re.compile(re.escape(token))
    for path in contents.files:
        try:
            text = contents.read_text(path) or ""
        except UnicodeDecodeError:
            yield f"{path} is not text."
            continue
        if found := [name for name, pattern in patterns.items() if pattern.search(text)]:
            yield f"{path} holds {found[0]}; take it out."


# -------------------------------------------------------------------------------------------------------------- models
def find_model_problems(contents: Contents) -> Iterator[str]:
    """Find missing weights, a missing processor, and missing thresholds."""
    weights = {path for path in contents.files if path.endswith(WEIGHTS)}
    if INDEX_NAME in contents.files:
        named = set(contents.read_json(INDEX_NAME)["weight_map"].values())
        if named != weights:
            yield f"{INDEX_NAME} does not name the weights that are there ({', '.join(sorted(named ^ weights))})."
    elif len(weights) != 1:
        yield f"It has {len(weights)} files of weights (*.safetensors) and no index; it needs one."
    if "processor_config.json" not in contents.files:
        yield "It has no processor_config.json; save the processor beside it."
    yield from find_threshold_problems(contents)


def find_threshold_problems(contents: Contents) -> Iterator[str]:
    """Find thresholds that are missing, invalid, or different from those of the evaluation."""
    try:
        space = parse_label_space(contents.config)
    except ValueError as error:
        yield str(error)
        return
    if space is None or not space.au_ids:
        return
    if not contents.config.get("au_thresholds"):
        yield "It has no thresholds of its action units (au_thresholds); run mf2 calibrate."
    scored = contents.read_json(METRICS_NAME)["evaluation"]["aus_tuned"]["per_au"]
    thresholds = space.thresholds_by_code
    if other := [code for code, au in scored.items() if abs(au["threshold"] - thresholds[code]) > THRESHOLD_TOLERANCE]:
        yield (
            f"{', '.join(other)}: measured at other thresholds than it has; run mf2 evaluate and name its "
            "folder with --evaluation."
        )


def find_card_problems(contents: Contents) -> Iterator[str]:
    """Find missing metadata and sections of a model card."""
    card = ModelCard(contents.read_bytes(CARD_NAME).decode())
    required = ["license", "library_name"]
    required += ["pipeline_tag"] if contents.config.get("emotions") else []  # the stock pipeline needs emotions
    required += ["base_model"] if contents.kind == ADAPTER else []
    if missing := [name for name in required if not card.data.get(name)]:
        yield f"The card has no {', '.join(missing)}."
    sections = ("## Use", "## Labels", "## Results", "## Training", "## Intended use and limits")
    if missing := [name for name in sections if name not in card.text]:
        yield f"The card lacks {', '.join(missing)}."


def find_loading_problems(contents: Contents) -> Iterator[str]:
    """Load the model as remote code in a new process without this package."""
    with TemporaryDirectory(prefix="publish-") as scratch:
        folder = Path(scratch, "model")
        contents.write_to(folder)
        report = Path(scratch, "report.json")
        env = {**os.environ, "HF_MODULES_CACHE": str(Path(scratch, "modules"))}
        command = [sys.executable, "-I", str(PROBE), str(folder), str(report), *_base_revision(contents)]
        done = subprocess.run(command, env=env, cwd=scratch, capture_output=True, text=True, timeout=PROBE_SECONDS)
        if done.returncode:
            yield f"It does not load without this package: {(done.stderr.strip().splitlines() or ['no message'])[-1]}."
            return
        yield from _find_mismatches(json.loads(report.read_text("utf-8")), contents)


def _base_revision(contents: Contents) -> list[str]:
    """The commit of an adapter's base, if it is pinned."""
    revision = contents.config.get("revision") if contents.kind == ADAPTER else None
    return [revision] if revision else []


def _find_mismatches(report: dict[str, Any], contents: Contents) -> Iterator[str]:
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if found := report["mismatches"].get(kind):
            yield f"Its weights do not fit its code: {kind} {', '.join(found[:3])}."
    space = parse_label_space(contents.config)
    if space and report["label_space"] != space.to_dict():
        yield "The loaded model has other labels or thresholds than its configuration."


# ----------------------------------------------------------------------------------------------------------- data sets
def find_dataset_problems(contents: Contents) -> Iterator[str]:
    """Find data sets that were not exported, shards that differ from the manifest, and images in the annotations."""
    if contents.kind != DATASET:
        return
    manifest = contents.read_json(MANIFEST_NAME)
    if manifest.get("configs", [None])[0] != ANNOTATIONS:
        yield f"It was not exported; run mf2 data export {contents.source} OUT and publish OUT."
        return
    shards = {shard["file"]: shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]}
    for path, sha256 in shards.items():
        if path not in contents.files or sha256_of_file(contents.source / path) != sha256:
            yield f"{path} is missing or is not the file that {MANIFEST_NAME} names; export again."
    for path in contents.files:
        if path.startswith(f"{ANNOTATIONS}/") and _has_pixels(contents.source / path):
            yield f"{path} holds images; annotations must not."


def _has_pixels(shard: Path) -> bool:
    return any(pa.types.is_struct(field.type) or pa.types.is_binary(field.type) for field in pq.read_schema(shard))


def find_dataset_card_problems(contents: Contents) -> Iterator[str]:
    """Find missing metadata of a data set's card."""
    if CARD_NAME not in contents.files:
        yield "It has no card (README.md)."
        return
    data = DatasetCard(contents.read_bytes(CARD_NAME).decode()).data
    if not data.get("license"):
        yield "The card has no license."
    if contents.kind != DATASET:
        return
    configs = data.get("configs") or [{}]
    if not configs[0].get("default") or configs[0].get("config_name") != ANNOTATIONS:
        yield f"The card's default configuration is not {ANNOTATIONS}."
    if contents.restricted and not (data.get("extra_gated_prompt") and data.get("extra_gated_fields")):
        yield "The card has no extra_gated_prompt and extra_gated_fields, which restricted data need."


_CHECKS: dict[str, tuple[Callable[[Contents], Iterator[str]], ...]] = {
    "model": (find_file_problems, find_leaks, find_model_problems, find_card_problems),
    "space": (find_file_problems, find_leaks),
    "dataset": (find_file_problems, find_dataset_problems, find_dataset_card_problems, find_leaks),
}
