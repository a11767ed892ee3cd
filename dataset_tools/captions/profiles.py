"""Endpoint profiles and prices, read from YAML files that users can replace."""

import datetime
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

PROFILES_FILE = Path(__file__).with_name("profiles.yaml")
PRICES_FILE = Path(__file__).with_name("prices.yaml")

SCHEMAS = ("json_schema", "json_object", "none")
"""Ways to request the JSON form of an answer, the strictest first."""
_HOSTED = re.compile(r"(^|/)(gpt-\d|chatgpt-|o\d(-|$)|claude-|gemini-\d|gemini-\w+-\d|grok-)", re.IGNORECASE)

RETIREMENT_MARGIN = datetime.timedelta(days=7)
"""A run that may last until this long before the shutdown of its model is not started."""
BATCH_WINDOW = datetime.timedelta(hours=24)


@dataclass(frozen=True)
class EndpointProfile:
    """A model and the request format of its server; `profiles.yaml` explains every field."""

    name: str
    model: str | None
    base_url: str
    token_limit_name: str
    max_output_tokens: int
    api_key_env: str | None = None
    detail: str | None = None
    image_tokens: int = 0
    schema: str = "json_schema"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    retires: datetime.date | None = None
    successor: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("token_limit_name", ("max_completion_tokens", "max_tokens")),
            ("schema", SCHEMAS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Profile {self.name!r}: {name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}."
                )
        if urlsplit(self.base_url).scheme not in ("http", "https") or not urlsplit(self.base_url).hostname:
            raise ValueError(f"Profile {self.name!r}: base_url is {self.base_url!r}; it must be an http(s) address.")
        if self.max_output_tokens < 1:
            raise ValueError(f"Profile {self.name!r}: max_output_tokens is {self.max_output_tokens}; at least 1.")

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def is_hosted(self) -> bool:
        """Whether the model runs on another machine, also if it is reached through a local gateway."""
        return not self.is_loopback or bool(_HOSTED.search(self.model or ""))

    @property
    def model_name(self) -> str:
        """The name of the model; a `ValueError` if the profile has none (see `resolve_model`)."""
        if self.model is None:
            raise ValueError(f"Profile {self.name!r} names no model; pass --model.")
        return self.model

    def to_dict(self) -> dict[str, Any]:
        """The fields of `profiles.yaml` except the address, as plain values."""
        excluded = ("name", "base_url", "retires", "successor")
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in excluded}
        return {**values, "parameters": dict(self.parameters)}

    def with_overrides(
        self, *, base_url: str | None = None, model: str | None = None, schema: str | None = None
    ) -> "EndpointProfile":
        """The profile with another server, model or schema; the shutdown day of another model is unknown."""
        profile = replace(self, base_url=base_url or self.base_url, schema=schema or self.schema)
        if model and model != self.model:
            profile = replace(profile, model=model, retires=None, successor=None)
        return profile

    def check_retirement(self, now: datetime.datetime, *, batch: bool) -> None:
        """Check that the model is not shut down before the run, or a batch, can end.

        Raises:
            ValueError: it is; the day and the successor are named.
        """
        if self.retires is None:
            return
        latest_end = now + (BATCH_WINDOW if batch else datetime.timedelta()) + RETIREMENT_MARGIN
        if latest_end.date() >= self.retires:
            remedy = f"use --profile {self.successor}" if self.successor else "choose another profile"
            raise ValueError(
                f"Profile {self.name!r}: {self.model} is shut down on {self.retires}, and runs are not started within "
                f"{RETIREMENT_MARGIN.days} days of that (a batch needs {BATCH_WINDOW.total_seconds() / 3600:.0f} h "
                f"more); today is {now.date()}. Instead, {remedy}."
            )


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens; `batch_factor` is the price of a batch as a fraction of it."""

    input: float
    output: float
    cached_input: float | None = None
    batch_factor: float = 1.0

    def usd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int, *, batch: bool = False) -> float:
        """The cost of one answer in US dollars; `cached_tokens` are part of `prompt_tokens`."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        online = (
            (prompt_tokens - cached_tokens) * self.input
            + cached_tokens * cached_price
            + completion_tokens * self.output
        ) / 1e6
        return online * (self.batch_factor if batch else 1.0)


FREE = Price(0.0, 0.0)
"""The price of a local server."""


def load_profiles(path: str | Path | None = None) -> dict[str, EndpointProfile]:
    """Load the shipped profiles, and those in `path`, which take precedence.

    Raises:
        ValueError: a profile is not a mapping, has unknown fields or lacks one; profile and fields are named.
    """
    entries = _read_mapping(PROFILES_FILE) | (_read_mapping(Path(path)) if path else {})
    return {name: _build(EndpointProfile, {"name": name, **values}, name) for name, values in entries.items()}


def get_profile(profiles: Mapping[str, EndpointProfile], name: str) -> EndpointProfile:
    """The profile called `name`.

    Raises:
        ValueError: there is no such profile; the known names are listed.
    """
    if name not in profiles:
        raise ValueError(f"Unknown profile {name!r}; known are {', '.join(profiles)}.")
    return profiles[name]


def load_price(profile: EndpointProfile, path: str | Path | None = None) -> Price | None:
    """The price of a profile's model: None if the table does not list it, `FREE` if it runs on this machine."""
    prices = _read_mapping(PRICES_FILE) | (_read_mapping(Path(path)) if path else {})
    if profile.model in prices:
        return _build(Price, prices[profile.model], profile.model)
    return None if profile.is_hosted else FREE


def _read_mapping(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = yaml.safe_load(path.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(values, dict) for values in entries.values()):
        raise ValueError(f"{path} must map names to settings.")
    return entries


def _build(kind: type, values: Mapping[str, Any], name: str | None) -> Any:
    known = [item.name for item in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{name!r} has unknown settings {', '.join(unknown)}; known are {', '.join(known)}.")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{name!r} is incomplete: {error}.") from error
