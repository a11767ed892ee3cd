"""What is said where too few captions are valid: how many, why, and what the server said."""

import json
from collections.abc import Iterable
from pathlib import Path

from .answers import DEAD, IN_DOUBT, read_text
from .store import CaptionStore, StoredRequest
from .tally import Tally

_MAX_EXCERPT = 160


def check_share(min_valid: float) -> float:
    """The bound itself.

    Raises:
        ValueError: it is no share.
    """
    if not 0 <= min_valid <= 1:
        raise ValueError(f"--min_valid is {min_valid}; it is a share from 0 to 1.")
    return min_valid


def describe_shortfall(what: str, tally: Tally, min_valid: float, store: CaptionStore, letters: Path) -> str:
    """One line: the share and the bound, the commonest reason, an example of the server's words, the remedy.

    Args:
        what: what fell short, as the beginning of a sentence.
        letters: file with the dead letters.
    """
    lines = [
        f"{what}: {tally.valid_share:.0%} of {tally.num_settled:,} captions are valid, --min_valid {min_valid:g}."
    ]
    if tally.reasons:
        (reason, count), *_ = tally.reasons.most_common(1)
        lines.append(f"The commonest reason is {reason} ({count:,}){_example(reason, store)}.")
    lines.append(
        f"All are in {letters}. Mend the setting and run again (--retry_dead asks for them again with the same one); "
        "a lower --min_valid goes on with what there is."
    )
    return " ".join(lines)


def _example(reason: str, store: CaptionStore) -> str:
    """A rejected answer of that reason: what was wrong with it, and its beginning."""
    letters: Iterable[StoredRequest] = (stored for state in (DEAD, IN_DOUBT) for stored in store.find(state))
    stored = next((stored for stored in letters if stored.reason == reason), None)
    if stored is None:
        return ""
    violations = " ".join(stored.violations).removesuffix(".")
    said = " ".join((read_text(store.last_raw(stored.key) or "")).split())
    cut = said[:_MAX_EXCERPT] + "…" * (len(said) > _MAX_EXCERPT)
    return f": {violations}" + (f"; the server said {json.dumps(cut, ensure_ascii=False)}" if cut else "")
