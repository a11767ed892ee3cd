"""Counts of the captions of a run by outcome, reason, emotion and AU."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ...labels_mf2 import EMOTIONS
from .answers import DEAD, IN_DOUBT, VALID, Question
from .store import StoredRequest

UNFINISHED = "unfinished"
"""Outcome: not settled when the run ended; the next run continues with it."""
NOT_ASKED = "not_asked"
"""Outcome: not reached when the run stopped."""
IN_BATCH = "in_batch"
"""Reason of an unfinished caption whose request is in a running batch."""


@dataclass
class Tally:
    """Counts of a run. `outcomes` maps `valid`, `dead`, `in_doubt`, `unfinished` and `not_asked` to numbers.

    `is_refused` is True if the server refused all requests; `last_failure` is its last error message.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    reused: int = 0
    reasked: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    by_emotion: dict[str, Counter[str]] = field(default_factory=dict)
    by_au: dict[int, Counter[str]] = field(default_factory=dict)
    usd: float = 0.0
    stopped_because: str | None = None
    is_refused: bool = False
    last_failure: str | None = None

    def count(self, question: Question, outcome: str, reason: str | None = None) -> None:
        """Count a caption with its outcome."""
        self.outcomes[outcome] += 1
        if reason and outcome != VALID:
            self.reasons[reason] += 1
        if question.emotion is not None:
            self.by_emotion.setdefault(question.emotion, Counter())[outcome] += 1
        for au_id in question.active_aus:
            self.by_au.setdefault(au_id, Counter())[outcome] += 1

    def count_stored(self, question: Question, stored: StoredRequest | None) -> None:
        """Count a caption with the outcome in the store."""
        state = stored.state if stored else UNFINISHED
        outcome = state if state in (VALID, DEAD, IN_DOUBT) else UNFINISHED
        self.count(question, outcome, stored.reason if stored else None)

    def add_not_asked(self, num_captions: int) -> None:
        """Count the captions that the run did not reach, given their total number."""
        if missing := num_captions - sum(self.outcomes.values()):
            self.outcomes[NOT_ASKED] += missing

    @property
    def num_settled(self) -> int:
        """Captions that are valid, dead or in doubt."""
        return sum(self.outcomes[outcome] for outcome in (VALID, DEAD, IN_DOUBT))

    @property
    def valid_share(self) -> float:
        """The share of valid captions among the settled ones; 1 without any."""
        return self.outcomes[VALID] / self.num_settled if self.num_settled else 1.0

    @property
    def is_complete(self) -> bool:
        """Whether every caption was settled, be it as a dead letter."""
        return self.stopped_because is None and not self.outcomes[UNFINISHED] and not self.outcomes[NOT_ASKED]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "outcomes": dict(self.outcomes),
            "asked": self.asked,
            "reused": self.reused,
            "reasked": self.reasked,
            "reasons": dict(self.reasons.most_common()),
            "by_emotion": {name: dict(self.by_emotion[name]) for name in EMOTIONS if name in self.by_emotion},
            "by_au": {f"AU{au_id}": dict(self.by_au[au_id]) for au_id in sorted(self.by_au)},
            "usd": round(self.usd, 6),
            "stopped_because": self.stopped_because,
        }

    def to_text(self) -> str:
        """A line of totals, and a table of missing captions by emotion and AU, which unbalance the data set."""
        outcomes = self.outcomes
        lines = [
            f"{outcomes[VALID]:,} valid ({self.reused:,} from earlier runs), {outcomes[DEAD]:,} dead, "
            f"{outcomes[IN_DOUBT]:,} in doubt, {outcomes[UNFINISHED]:,} unfinished, "
            f"{outcomes[NOT_ASKED]:,} not asked; "
            f"{self.asked:,} calls, {self.reasked:,} re-asks; ${self.usd:,.2f} spent with this store"
        ]
        if self.reasons:
            lines.append("reasons: " + ", ".join(f"{reason} {n:,}" for reason, n in self.reasons.most_common()))
        groups = [(name, self.by_emotion[name]) for name in EMOTIONS if name in self.by_emotion]
        groups += [(f"AU{au_id}", self.by_au[au_id]) for au_id in sorted(self.by_au)]
        for name, counts in groups:
            if lost := sum(counts.values()) - counts[VALID]:
                total = sum(counts.values())
                lines.append(f"  {name:<10} {lost:>8,} of {total:>8,} without a caption ({lost / total:.1%})")
        if self.stopped_because:
            lines.append(f"stopped: {self.stopped_because}")
        return "\n".join(lines)
