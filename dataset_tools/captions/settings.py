"""Settings of a captioning run, online or in batches."""

from dataclasses import dataclass
from typing import Literal

from .answers import DEAD, IN_DOUBT, NEW
from .rules import TokenCounter

InDoubtPolicy = Literal["resend", "skip"]
MAX_BACKOFF_S = 60.0
GIVE_UP_AFTER = 30


@dataclass(frozen=True)
class RunSettings:
    """Settings of a captioning run.

    Args:
        concurrency: number of simultaneous requests.
        max_reasks: how often the model is asked again after a rejected answer.
        max_tries: calls for one answer before the request is left to the next run.
        in_doubt: what to do with a request that was sent but never answered: `resend` may pay for it twice, `skip`
            leaves it without a caption.
        retry_dead: retry the dead letters of earlier runs.
        backoff_s: seconds before the first retry; doubled for each further one.
        give_up_after: number of refused requests, or of unusable answers, after which a run without any usable answer
            stops, because its settings must be wrong; None never stops for that reason.
        count_tokens: as for `validate_caption`.
    """

    concurrency: int = 16
    max_reasks: int = 2
    max_tries: int = 6
    in_doubt: InDoubtPolicy = "resend"
    retry_dead: bool = False
    backoff_s: float = 1.0
    give_up_after: int | None = GIVE_UP_AFTER
    count_tokens: TokenCounter | None = None

    def __post_init__(self) -> None:
        for name, low in (("concurrency", 1), ("max_reasks", 0), ("max_tries", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}.")

    def asks_again(self, state: str) -> bool:
        """Whether a run sends a request that an earlier run left in that state."""
        return state == NEW or (state == IN_DOUBT and self.in_doubt == "resend") or (state == DEAD and self.retry_dead)

    def should_give_up(self, num_failed: int) -> bool:
        """Whether to stop a run with that many refused requests or unusable answers and no usable answer."""
        return self.give_up_after is not None and num_failed >= self.give_up_after

    def backoff_after_s(self, num_failures: int) -> float:
        """Seconds to wait after that many consecutive failures, without jitter."""
        return min(MAX_BACKOFF_S, self.backoff_s * 2 ** (num_failures - 1))
