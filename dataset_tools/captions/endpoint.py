"""Opens API clients; a client that uploads images from this machine requires a permission."""

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx2
import openai

from .profiles import EndpointProfile

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class UploadPermission:
    """The permission to upload images: the agreement that allows it and its signatory, both recorded with the run."""

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
    """Check that images may be uploaded; a model on this machine needs no permission.

    Raises:
        PermissionError: there is none; the options that grant it are named.
    """
    if permission is None and profile.is_hosted:
        gateway = f", from where {profile.model} is reached" if profile.is_loopback else ""
        raise PermissionError(
            f"Profile {profile.name!r} would upload face images to {profile.base_url}{gateway}. Data set agreements "
            "rarely allow it. If yours does, pass --i_may_upload AGREEMENT --signatory NAME; both are recorded. "
            "--backend template uploads nothing."
        )


def read_api_key(profile: EndpointProfile) -> str:
    """Read the API key from the environment variable of the profile; `none` for a server without keys.

    Raises:
        PermissionError: the variable is not set.
    """
    if profile.api_key_env is None:
        return "none"
    if key := os.environ.get(profile.api_key_env):
        return key
    raise PermissionError(f"Profile {profile.name!r} needs an API key in the variable {profile.api_key_env}.")


def open_async_client(
    profile: EndpointProfile, permission: UploadPermission | None, *, concurrency: int, timeout_s: float
) -> openai.AsyncOpenAI:
    """Open the client of the online engine, without automatic retries."""
    check_permission(profile, permission)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    http_client = openai.DefaultAsyncHttpxClient(limits=limits, **_transport_options(profile))
    return openai.AsyncOpenAI(http_client=http_client, **_client_options(profile, timeout_s))


def open_client(profile: EndpointProfile, permission: UploadPermission | None, *, timeout_s: float) -> openai.OpenAI:
    """Open the client of the batch mode, without automatic retries."""
    check_permission(profile, permission)
    http_client = openai.DefaultHttpxClient(**_transport_options(profile))
    return openai.OpenAI(http_client=http_client, **_client_options(profile, timeout_s))


def resolve_model(profile: EndpointProfile, *, timeout_s: float = 30.0) -> EndpointProfile:
    """Complete a profile without a model by the only model that its server lists.

    Raises:
        ValueError: the server lists no model, or several.
        ConnectionError: the server does not answer.
    """
    if profile.model is not None:
        return profile
    http_client = openai.DefaultHttpxClient(**_transport_options(profile))
    with openai.OpenAI(http_client=http_client, **_client_options(profile, timeout_s)) as client:
        try:
            models = [model.id for model in client.models.list()]
        except openai.APIError as error:
            raise ConnectionError(f"{profile.base_url} does not list its models: {error}") from error
    if len(models) != 1:
        raise ValueError(f"{profile.base_url} lists {len(models)} models ({', '.join(models)}); choose with --model.")
    return replace(profile, model=models[0])


def _client_options(profile: EndpointProfile, timeout_s: float) -> dict[str, Any]:
    return {
        "base_url": profile.base_url,
        "api_key": read_api_key(profile),
        "max_retries": 0,
        "timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
    }


def _transport_options(profile: EndpointProfile) -> dict[str, Any]:
    """Transport options; a server on this machine is never reached through a proxy, which could forward images."""
    return {"trust_env": False, "follow_redirects": False} if profile.is_loopback else {"follow_redirects": False}
