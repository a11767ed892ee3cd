"""The way out of this machine: clients are made here, and only with a permission where images would leave it."""

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx2
import openai

from .profiles import EndpointProfile

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class UploadPermission:
    """Who allows that images leave this machine, and under which agreement. Recorded with the run."""

    agreement: str
    signatory: str

    def __post_init__(self) -> None:
        for name in ("agreement", "signatory"):
            if not getattr(self, name).strip():
                raise ValueError(f"The upload permission needs a {name}; it is empty.")

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def check_permission(profile: EndpointProfile, permission: UploadPermission | None) -> None:
    """Refuse to upload images without a permission; a model on this machine needs none.

    Raises:
        PermissionError: it says which options grant it.
    """
    if permission is None and profile.is_hosted:
        gateway = f", from where {profile.model} is reached" if profile.is_loopback else ""
        raise PermissionError(
            f"Profile {profile.name!r} would upload face images to {profile.base_url}{gateway}. Data set agreements "
            "rarely allow it. If yours does, pass --i_may_upload AGREEMENT --signatory NAME; both are recorded. "
            "--backend template uploads nothing."
        )


def read_api_key(profile: EndpointProfile) -> str:
    """The key from the profile's environment variable, or a stand-in for a server that asks for none.

    Raises:
        PermissionError: the variable is named and not set.
    """
    if profile.api_key_env is None:
        return "none"
    if key := os.environ.get(profile.api_key_env):
        return key
    raise PermissionError(f"Profile {profile.name!r} needs an API key in the variable {profile.api_key_env}.")


def open_async_client(
    profile: EndpointProfile, permission: UploadPermission | None, *, concurrency: int, timeout_s: float
) -> openai.AsyncOpenAI:
    """The client of the online engine; it never retries by itself."""
    check_permission(profile, permission)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits, **_transport(profile))
    return openai.AsyncOpenAI(http_client=http_client, **_settings(profile, timeout_s))


def open_client(profile: EndpointProfile, permission: UploadPermission | None, *, timeout_s: float) -> openai.OpenAI:
    """The client of the batch mode; it never retries by itself."""
    check_permission(profile, permission)
    http_client = openai.DefaultHttpxClient(**_transport(profile))
    return openai.OpenAI(http_client=http_client, **_settings(profile, timeout_s))


def resolve_model(profile: EndpointProfile, *, timeout_s: float = 30.0) -> EndpointProfile:
    """The profile with a model: where it names none, the only one that its server lists.

    Raises:
        ValueError: the server lists none or several.
        ConnectionError: it does not answer.
    """
    if profile.model is not None:
        return profile
    http_client = openai.DefaultHttpxClient(**_transport(profile))
    with openai.OpenAI(http_client=http_client, **_settings(profile, timeout_s)) as client:
        try:
            models = [model.id for model in client.models.list()]
        except openai.APIError as error:
            raise ConnectionError(f"{profile.base_url} does not list its models: {error}") from error
    if len(models) != 1:
        raise ValueError(f"{profile.base_url} lists {len(models)} models ({', '.join(models)}); choose with --model.")
    return replace(profile, model=models[0])


def _settings(profile: EndpointProfile, timeout_s: float) -> dict[str, Any]:
    return {
        "base_url": profile.base_url,
        "api_key": read_api_key(profile),
        "max_retries": 0,
        "timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
    }


def _transport(profile: EndpointProfile) -> dict[str, Any]:
    """A server on this machine is reached directly: no proxy of the environment may carry an image away."""
    return {"trust_env": False, "follow_redirects": False} if profile.is_loopback else {"follow_redirects": False}
