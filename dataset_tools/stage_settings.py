"""The settings of every stage that a data set went through, kept in its manifest, from which its recipe is made."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STAGES_KEY = "stages"
"""Where a manifest keeps them: stage -> option -> value, as the configuration of `mf2 data build` has them."""

NOT_SETTINGS = frozenset(
    {
        *("overwrite", "out", "selection", "prompts", "dry_run", "yes", "store", "answers", "compare"),
        *("replaced", "prices"),
        *("shard", "num_workers", "batch_size", "device", "redo"),
        *("concurrency", "rpm", "tpm", "timeout", "poll", "no_wait", "batch_requests", "retry_dead", "in_doubt"),
        *("max_usd", "i_may_upload", "signatory", "base_url", "pilot"),
    }
)
"""Options that say where, how fast, for whom or for how much, and nothing about what comes out."""


def settings_of(
    args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], object]
) -> dict[str, Any]:
    """The options of a command that belong to its result, those at their defaults among them.

    Args:
        args: as parsed; what is not among them is left out.
        add_arguments: adds the command's arguments to a parser; positional ones do not count.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    names = [action.dest for action in parser._actions if action.option_strings and action.dest not in NOT_SETTINGS]
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    given = {name: value for name, value in values.items() if not (value is None or value is False or value == [])}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def with_stage(manifest: Mapping[str, Any], stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"stages": …}`: those of a manifest, and one more."""
    return {STAGES_KEY: {**manifest.get(STAGES_KEY, {}), stage: dict(settings)}}
