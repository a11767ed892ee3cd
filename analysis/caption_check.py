"""Whether what a caption says agrees with the probabilities beside it.

A caption names an action unit by its code (`AU12`) or by a movement as the data set's phrases put it ("pulled up lip
corners"). One that names a unit whose probability is below its threshold is flagged. Free words that are none of those
phrases are not understood, so that an unflagged caption is one without a contradiction that was found.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ..dataset_tools.captions import find_au_mentions
from ..dataset_tools.captions.phrases import AU_PHRASES
from ..labels_mf2 import ACTION_UNITS

CAPTION_PREFIX = "caption_"


@lru_cache(maxsize=1)
def _au_of_phrase() -> dict[str, int]:
    """Phrases in lower case and the AU that each stands for."""
    return {
        phrase.lower(): au_id
        for au_id, phrases in AU_PHRASES.items()
        for phrase in (*phrases.movements, phrases.cue_noun, phrases.terse.rstrip("."))
    }


def named_aus(caption: str) -> list[int]:
    """Numbers of the AUs that a caption names, by code or by phrase, in order of number."""
    text = " ".join(caption.lower().split())
    by_code = {au_id for au_id, _ in find_au_mentions(caption)}
    return sorted(by_code | {au_id for phrase, au_id in _au_of_phrase().items() if phrase in text})


def unsupported_aus(caption: str, probs: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[str]:
    """Codes of the AUs that a caption names although their probability is below their threshold.

    Args:
        caption: the sentences.
        probs: holds the probability of each AU by its code; other entries do not matter.
        thresholds: by code. An AU that is not among them is not supported: the model does not know it.
    """
    codes = [ACTION_UNITS[au_id].code if au_id in ACTION_UNITS else f"AU{au_id}" for au_id in named_aus(caption)]
    return [code for code in codes if code not in thresholds or probs[code] < thresholds[code]]


@dataclass
class CaptionCheck:
    """How many captions of a kind there are, how many name an AU, how many are flagged, and for which AUs."""

    captions: int = 0
    naming: int = 0
    flagged: int = 0
    by_au: Counter[str] = field(default_factory=Counter)

    @property
    def flag_rate(self) -> float | None:
        """Share of the captions naming an AU that are flagged; None where none names any."""
        return self.flagged / self.naming if self.naming else None

    def add(self, caption: str, probs: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
        """Count a caption."""
        unsupported = unsupported_aus(caption, probs, thresholds)
        self.captions += 1
        self.naming += bool(named_aus(caption))
        self.flagged += bool(unsupported)
        self.by_au.update(unsupported)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"captions": self.captions, "naming": self.naming, "flagged": self.flagged}
        return counts | {"flag_rate": self.flag_rate, "by_au": dict(self.by_au.most_common())}


def check_captions(
    rows: Iterable[Mapping[str, Any]], thresholds: Mapping[str, float], kinds: Sequence[str]
) -> dict[str, CaptionCheck]:
    """Check the captions of analysed faces.

    Args:
        rows: with `caption_<kind>` (None where there is none) and a probability for each AU.
        thresholds: from which probability an AU is active, by code.
        kinds: of captions.
    """
    checks = {kind: CaptionCheck() for kind in kinds}
    for row in rows:
        for kind, check in checks.items():
            if isinstance(caption := row[CAPTION_PREFIX + kind], str):
                check.add(caption, row, thresholds)
    return checks
