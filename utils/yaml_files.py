"""Reads YAML files of settings."""

import re
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """A loader for which `1e-4` is a number (YAML 1.1 requires `1.0e-4`)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that contains a mapping."""
    try:
        content = yaml.load(Path(path).read_text("utf-8"), _Loader)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no configuration file {path}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__} instead of `name: value` lines.")
    return content


def parse_yaml(text: str) -> Any:
    """Parse a line of YAML."""
    return yaml.load(text, _Loader)
