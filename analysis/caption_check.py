"""Check captions against the recognised probabilities: which are flagged, and how often."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..caption_meaning_mf2 import (
    EMOTION_OF_WORD,
    REST_PHRASES,
    RecognisedState,
    denied_aus,
    named_aus,
    named_emotions,
    recognised_state,
)
from ..caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES

CAPTION_PREFIX = "caption_"


@dataclass(frozen=True)
class CaptionFlags:
    """Parts of a caption that the recognisers do not support.

    Args:
        unsupported: codes of named AUs that are below their threshold or not recognised by the model.
        rivals: named emotions other than the most probable one.
        unknown: those of `unsupported` that the model does not recognise.
        denied: codes of AUs that are active although the caption says they are not.
    """

    unsupported: list[str]
    rivals: list[str]
    unknown: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.unsupported or self.rivals or self.denied)

    def __str__(self) -> str:
        """`AU4 below the threshold; AU9 not recognised; AU12 active; Sadness not the likeliest`; empty if nothing is
        flagged."""
        below = [code for code in self.unsupported if code not in self.unknown]
        parts = [f"{', '.join(below)} below the threshold"] if below else []
        parts += [f"{', '.join(self.unknown)} not recognised"] if self.unknown else []
        parts += [f"{', '.join(self.denied)} active"] if self.denied else []
        parts += [f"{', '.join(self.rivals)} not the likeliest"] if self.rivals else []
        return "; ".join(parts)


def row_state(row: Mapping[str, Any], thresholds: Mapping[str, float]) -> RecognisedState:
    """Convert a row of the analysis to a `RecognisedState`.

    Args:
        row: a probability per AU and, if the label space has emotions, `emotion`.
        thresholds: AU code -> threshold. AUs without a threshold are unknown to the model and never supported.
    """
    emotion = row.get("emotion")
    return recognised_state(row, thresholds, emotion if isinstance(emotion, str) else None)


def flag_caption(kind: str, caption: str, row: Mapping[str, Any], thresholds: Mapping[str, float]) -> CaptionFlags:
    """Find the parts of a caption that its row's probabilities do not support; arguments as in `row_state`."""
    state = row_state(row, thresholds)
    unsupported = state.unsupported_aus(caption)
    unknown = [code for code in unsupported if code not in thresholds]
    return CaptionFlags(unsupported, state.rival_emotions(kind, caption), unknown, state.wrongly_denied_aus(caption))


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
        rows: with `caption_<kind>` (None if missing) and the columns of `row_state`.
        thresholds: AU code -> probability from which the AU is active.
        kinds: kinds of caption to check.
    """
    checks = {kind: CaptionCheck() for kind in kinds}
    for row in rows:
        for kind, check in checks.items():
            if isinstance(caption := row[CAPTION_PREFIX + kind], str):
                check.add(kind, caption, row, thresholds)
    return checks
