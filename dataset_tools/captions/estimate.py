"""What a run will cost: from the prompts before anything is sent, and from a pilot before the rest is."""

from collections.abc import Iterable
from dataclasses import dataclass

from .answers import VALID
from .profiles import Price
from .prompting import CaptionRequest, RequestBuilder
from .tally import Tally

ANSWER_TOKENS = 90
"""About what an answer has, before a pilot tells."""


@dataclass(frozen=True)
class Estimate:
    """`num_requests` are still to be asked; `usd` is None where the price is not known."""

    num_requests: int
    prompt_tokens: int
    usd: float | None
    basis: str

    def to_text(self) -> str:
        """One line."""
        cost = "at a price that is not in the table" if self.usd is None else f"about ${self.usd:,.2f}"
        return f"{self.num_requests:,} requests to ask, {self.prompt_tokens:,} prompt tokens, {cost} ({self.basis})"


def estimate_from_prompts(
    builder: RequestBuilder,
    requests: Iterable[CaptionRequest],
    price: Price | None,
    *,
    batch: bool,
) -> Estimate:
    """Estimate from the length of the prompts of `requests`, which are still to be asked."""
    num_requests = prompt_tokens = 0
    for request in requests:
        num_requests += 1
        prompt_tokens += builder.estimate_tokens(request)
    usd = None if price is None else price.usd(prompt_tokens, 0, num_requests * ANSWER_TOKENS, batch=batch)
    return Estimate(num_requests, prompt_tokens, usd, f"{ANSWER_TOKENS} tokens an answer, no re-asks")


def estimate_from_pilot(
    before: Estimate, pilot: Tally, usd_spent: float, price: Price | None, *, batch: bool
) -> Estimate:
    """The estimate for what remains after a pilot that cost `usd_spent`, its re-asks included.

    `before` stands where the pilot settled nothing.
    """
    num_settled = pilot.num_settled
    if not num_settled:
        return before
    num_left = max(0, before.num_requests - num_settled)
    usd = None
    if price is not None:
        usd = usd_spent / num_settled * num_left * (price.batch_factor if batch else 1.0)
    valid_rate = pilot.outcomes[VALID] / num_settled
    basis = f"a pilot of {num_settled}: {valid_rate:.0%} valid, {pilot.asked / num_settled:.2f} calls a caption"
    return Estimate(num_left, round(before.prompt_tokens * num_left / before.num_requests), usd, basis)
