"""Classifies failed calls: retry, in doubt, dead, or the end of the run."""

import enum
from dataclasses import dataclass

import httpx2
import openai

from .limits import retry_after_s
from .server_messages import server_message


class Outcome(enum.Enum):
    """The consequence of a failed call for its request."""

    RETRY = "retry"  # not answered: send it again
    DOUBT = "doubt"  # possibly answered and billed
    DEAD = "dead"  # permanently refused
    STOP = "stop"  # the server refuses every request: no valid key, credit or model


@dataclass(frozen=True)
class Failure:
    """An outcome with its reason, and the seconds that the server asks to wait.

    `counts_as_outage` is False if the server works and only limits the rate.
    """

    outcome: Outcome
    reason: str
    retry_after_s: float | None = None
    counts_as_outage: bool = True


STOP_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "budget_exceeded", "model_not_found"}
)
"""Error codes on the account or the settings, independent of the request."""
_STOP_STATUS = frozenset({401, 403, 404})
_RETRY_STATUS = frozenset({408, 409, 425, 429})
# Errors before any byte of the request was sent.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def classify(error: openai.APIError) -> Failure:
    """Classify an exception of the client."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error)
    cause = error.__cause__
    reason = f"{type(cause or error).__name__}: {cause or error}".rstrip(": ")
    if isinstance(cause, _NOT_SENT):
        return Failure(Outcome.RETRY, f"The server cannot be reached ({reason}).")
    return Failure(Outcome.DOUBT, f"The answer was lost ({reason}).")


def _classify_status(error: openai.APIStatusError) -> Failure:
    status = error.status_code
    reason = f"HTTP {status}: {server_message(error.response.text)}"
    if (isinstance(error.code, str) and error.code in STOP_CODES) or status in _STOP_STATUS:
        return Failure(Outcome.STOP, reason)
    if status in _RETRY_STATUS or status >= 500:
        wait_s = retry_after_s(error.response.headers)
        return Failure(Outcome.RETRY, reason, wait_s, counts_as_outage=status != 429)
    return Failure(Outcome.DEAD, reason, counts_as_outage=False)
