"""Check captions against the recognised probabilities: which are flagged, and how often."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..caption_meaning_mf2 import (
    EMOTION_OF_WORD,
    REST_PHRASES,
    CaptionFlags,
    denied_aus,
    flag_caption,
    named_aus,
    named_emotions,
)
from ..caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES

CAPTION_PREFIX = "caption_"


def split_by_flags(caption: str, flags: CaptionFlags) -> list[tuple[str, bool]]:
    """A caption in pieces, each with whether it is what was flagged: the code or phrase of an AU, a word or closing
    sentence of an emotion, a phrase that denies AUs.

    The pieces side by side are the caption.
    """
    patterns = [word for word, emotion in EMOTION_OF_WORD.items() if emotion in flags.rivals]
    patterns += [closing.rstrip(".") for emotion in flags.rivals for closing in EMOTION_PHRASES[emotion].closings]
    if "Other" in flags.rivals:
        patterns += [EMOTION_PHRASES["Other"].adjective, EMOTION_PHRASES["Other"].noun]
    for au_id in (int(code.removeprefix("AU")) for code in flags.unsupported):
        patterns.append(rf"AU\s*0*{au_id}\b(?:\s*\([^()]*\))?")
        if au_id in AU_PHRASES:
            phrases = AU_PHRASES[au_id]
            patterns += [*phrases.movements, phrases.cue_noun, phrases.terse.rstrip(".")]
    if flags.denied:
        denied = [AU_PHRASES[int(code.removeprefix("AU"))].inactive.rstrip(".") for code in flags.denied]
        patterns += [*REST_PHRASES, *denied]
    if not patterns:
        return [(caption, False)]
    longest_first = sorted(patterns, key=len, reverse=True)
    either = "|".join(pattern.replace(" ", r"\s+") for pattern in longest_first)
    pieces = re.split(rf"\b((?:{either})(?!\w))", caption, flags=re.IGNORECASE)
    return [(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]


@dataclass
class CaptionCheck:
    """Counts of the captions of a kind: all, those that state something, those flagged, and the reasons."""

    captions: int = 0
    naming: int = 0
    flagged: int = 0
    by_au: Counter[str] = field(default_factory=Counter)
    by_emotion: Counter[str] = field(default_factory=Counter)
    by_denied_au: Counter[str] = field(default_factory=Counter)

    @property
    def flag_rate(self) -> float | None:
        """Share of flagged captions among those that name something; None if there are none."""
        return self.flagged / self.naming if self.naming else None

    def add(self, kind: str, caption: str, row: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
        """Check a caption and count it."""
        flags = flag_caption(kind, caption, row, thresholds)
        self.captions += 1
        self.naming += bool(named_aus(caption) or named_emotions(caption) or denied_aus(caption))
        self.flagged += bool(flags)
        self.by_au.update(flags.unsupported)
        self.by_denied_au.update(flags.denied)
        self.by_emotion.update(flags.rivals)

    def to_dict(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        counts = {"captions": self.captions, "naming": self.naming, "flagged": self.flagged}
        causes = {"by_au": self.by_au, "by_emotion": self.by_emotion, "by_denied_au": self.by_denied_au}
        return counts | {"flag_rate": self.flag_rate} | {name: dict(of.most_common()) for name, of in causes.items()}


def check_captions(
    rows: Iterable[Mapping[str, Any]], thresholds: Mapping[str, float], kinds: Sequence[str]
) -> dict[str, CaptionCheck]:
    """Check the captions of analysed faces.

    Args:
        rows: with `caption_<kind>` (None if missing) and a probability per AU and `emotion`.
        thresholds: AU code -> probability from which the AU is active.
        kinds: kinds of caption to check.
    """
    checks = {kind: CaptionCheck() for kind in kinds}
    for row in rows:
        for kind, check in checks.items():
            if isinstance(caption := row[CAPTION_PREFIX + kind], str):
                check.add(kind, caption, row, thresholds)
    return checks
