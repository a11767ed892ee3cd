"""The error message for too few valid captions: how many, the most frequent reason, and an example."""

import json
from collections.abc import Iterable
from pathlib import Path

from .answers import DEAD, IN_DOUBT, read_text
from .store import CaptionStore, StoredRequest
from .tally import Tally

_MAX_EXCERPT = 160


def check_share(min_valid: float) -> float:
    """Check and return the minimal share of valid captions.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 <= min_valid <= 1:
        raise ValueError(f"--min_valid is {min_valid}; it is a share from 0 to 1.")
    return min_valid


def describe_shortfall(what: str, tally: Tally, min_valid: float, store: CaptionStore, letters: Path) -> str:
    """One line: the share and the bound, the most frequent reason, an example of an answer, the remedy.

    Args:
        what: what was stopped, as the beginning of a sentence.
        tally: the counts of the run.
        min_valid: the minimal share of valid captions.
        store: the store with the answers.
        letters: file with the dead letters.
    """
    lines = [
        f"{what}: {tally.valid_share:.0%} of {tally.num_settled:,} captions are valid, --min_valid {min_valid:g}."
    ]
    if tally.reasons:
        (reason, count), *_ = tally.reasons.most_common(1)
        lines.append(f"The most frequent reason is {reason} ({count:,}){_example(reason, store)}.")
    lines.append(
        f"All are in {letters}. Fix the settings and run again (--retry_dead asks again with the same ones); "
        "a lower --min_valid accepts what there is."
    )
    return " ".join(lines)


def _example(reason: str, store: CaptionStore) -> str:
    """A rejected answer with that reason: its violations, and its beginning."""
    letters: Iterable[StoredRequest] = (stored for state in (DEAD, IN_DOUBT) for stored in store.find(state))
    stored = next((stored for stored in letters if stored.reason == reason), None)
    if stored is None:
        return ""
    violations = " ".join(stored.violations).removesuffix(".")
    answer = " ".join((read_text(store.last_raw(stored.key) or "")).split())
    excerpt = answer[:_MAX_EXCERPT] + "…" * (len(answer) > _MAX_EXCERPT)
    return f": {violations}" + (f"; the server said {json.dumps(excerpt, ensure_ascii=False)}" if excerpt else "")
