"""How a run behaves, online or in batches."""

from dataclasses import dataclass
from typing import Literal

from .answers import DEAD, IN_DOUBT, NEW
from .rules import TokenCounter

InDoubtPolicy = Literal["resend", "skip"]
MAX_BACKOFF_S = 60.0
MAX_HOPELESS = 30


@dataclass(frozen=True)
class RunSettings:
    """How a run behaves.

    Args:
        concurrency: requests on their way at once.
        max_reasks: how often a rejected answer is asked for again.
        max_tries: calls for one answer before the request is left to the next run.
        in_doubt: what happens to a request that was sent and whose answer never came: `resend` may pay it twice,
            `skip` leaves it without a caption.
        retry_dead: give dead letters of earlier runs another chance.
        backoff_s: wait before the first retry; doubled for each further one.
        max_hopeless: refusals, or unusable answers, without one answer of use before them after which a run stops:
            the setting is at fault, not the requests. None never stops for that.
        count_tokens: as for `validate_caption`.
    """

    concurrency: int = 16
    max_reasks: int = 2
    max_tries: int = 6
    in_doubt: InDoubtPolicy = "resend"
    retry_dead: bool = False
    backoff_s: float = 1.0
    max_hopeless: int | None = MAX_HOPELESS
    count_tokens: TokenCounter | None = None

    def __post_init__(self) -> None:
        for name, low in (("concurrency", 1), ("max_reasks", 0), ("max_tries", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}.")

    def asks_again(self, state: str) -> bool:
        """Whether a run asks for what an earlier one left in that state."""
        return state == NEW or (state == IN_DOUBT and self.in_doubt == "resend") or (state == DEAD and self.retry_dead)

    def is_hopeless(self, num_failed: int) -> bool:
        """Whether a run in which that many were refused or unusable, and none was of use, had better stop."""
        return self.max_hopeless is not None and num_failed >= self.max_hopeless

    def backoff_after_s(self, num_failures: int) -> float:
        """The wait after that many failures in a row, without jitter."""
        return min(MAX_BACKOFF_S, self.backoff_s * 2 ** (num_failures - 1))
