"""Estimates the cost of a run: from the prompts before any request, and from a pilot before the other requests."""

from collections.abc import Iterable
from dataclasses import dataclass

from .answers import VALID
from .profiles import Price
from .prompting import CaptionRequest, RequestBuilder
from .tally import Tally

ANSWER_TOKENS = 90
"""Assumed tokens of an answer before a pilot has measured them."""


@dataclass(frozen=True)
class Estimate:
    """The number of remaining requests and their cost; `usd` is None if the price is unknown."""

    num_requests: int
    prompt_tokens: int
    usd: float | None
    basis: str

    def to_text(self) -> str:
        """One line."""
        cost = "at a price that is not in the table" if self.usd is None else f"about ${self.usd:,.2f}"
        return f"{self.num_requests:,} requests to send, {self.prompt_tokens:,} prompt tokens, {cost} ({self.basis})"


def estimate_from_prompts(
    builder: RequestBuilder,
    requests: Iterable[CaptionRequest],
    price: Price | None,
    *,
    batch: bool,
) -> Estimate:
    """Estimate from the length of the prompts of the remaining `requests`."""
    num_requests = prompt_tokens = 0
    for request in requests:
        num_requests += 1
        prompt_tokens += builder.estimate_tokens(request)
    usd = None if price is None else price.usd(prompt_tokens, 0, num_requests * ANSWER_TOKENS, batch=batch)
    return Estimate(num_requests, prompt_tokens, usd, f"{ANSWER_TOKENS} tokens per answer, no re-asks")


def estimate_from_pilot(
    before: Estimate, pilot: Tally, usd_spent: float, price: Price | None, *, batch: bool
) -> Estimate:
    """Estimate the remaining requests from a pilot that cost `usd_spent`, including its re-asks.

    Returns `before` if the pilot settled no request.
    """
    num_settled = pilot.num_settled
    if not num_settled:
        return before
    num_remaining = max(0, before.num_requests - num_settled)
    usd = None
    if price is not None:
        usd = usd_spent / num_settled * num_remaining * (price.batch_factor if batch else 1.0)
    valid_rate = pilot.outcomes[VALID] / num_settled
    basis = f"a pilot of {num_settled}: {valid_rate:.0%} valid, {pilot.asked / num_settled:.2f} calls per caption"
    return Estimate(num_remaining, round(before.prompt_tokens * num_remaining / before.num_requests), usd, basis)
