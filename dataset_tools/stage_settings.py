"""Records the settings of every stage of a data set in its manifest, from which its recipe is made."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STAGES_KEY = "stages"
"""Key in the manifest: stage -> option -> value, as in the configuration of `mf2 data build`."""

NOT_SETTINGS = frozenset(
    {
        *("overwrite", "out", "selection", "prompts", "dry_run", "yes", "store", "answers", "compare"),
        *("replaced", "prices"),
        *("shard", "num_workers", "batch_size", "device", "redo"),
        *("concurrency", "rpm", "tpm", "timeout", "poll", "no_wait", "batch_requests", "retry_dead", "in_doubt"),
        *("max_usd", "i_may_upload", "signatory", "base_url", "pilot"),
    }
)
"""Options on locations, speed, permissions and costs, which do not affect the result."""


def collect_settings(
    args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], object]
) -> dict[str, Any]:
    """Collect the options of a command that affect its result, including those with default values.

    Args:
        args: the parsed arguments; options missing in it are left out.
        add_arguments: adds the arguments of the command to a parser; positional arguments are ignored.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    names = [action.dest for action in parser._actions if action.option_strings and action.dest not in NOT_SETTINGS]
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    is_set = {name: not (value is None or value is False or value == []) for name, value in values.items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items() if is_set[name]}


def add_stage_settings(manifest: Mapping[str, Any], stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"stages": …}` with the stages of a manifest and the settings of one more."""
    return {STAGES_KEY: {**manifest.get(STAGES_KEY, {}), stage: dict(settings)}}
