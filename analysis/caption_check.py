"""Whether what captions say agrees with the probabilities beside them: what is flagged, and how often."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..caption_meaning_mf2 import RecognisedState, named_aus, named_emotions, recognised_state

CAPTION_PREFIX = "caption_"


@dataclass(frozen=True)
class CaptionFlags:
    """What of a caption the recognisers do not support.

    Args:
        unsupported: Codes of the AUs that it names although they are below their threshold, or not recognised at all.
        rivals: Emotions that it asserts beside the likeliest.
        unknown: Those of `unsupported` that the model does not recognise.
    """

    unsupported: list[str]
    rivals: list[str]
    unknown: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.unsupported or self.rivals)

    def __str__(self) -> str:
        """`AU4 below the threshold; AU9 not recognised; Sadness not the likeliest`; empty without a flag."""
        below = [code for code in self.unsupported if code not in self.unknown]
        parts = [f"{', '.join(below)} below the threshold"] if below else []
        parts += [f"{', '.join(self.unknown)} not recognised"] if self.unknown else []
        parts += [f"{', '.join(self.rivals)} not the likeliest"] if self.rivals else []
        return "; ".join(parts)


def row_state(row: Mapping[str, Any], thresholds: Mapping[str, float]) -> RecognisedState:
    """What the recognisers say in a row with a probability for each AU and, of label spaces that have one, `emotion`.

    Args:
        thresholds: by code. An AU that is not among them is not supported: the model does not know it.
    """
    emotion = row.get("emotion")
    return recognised_state(row, thresholds, emotion if isinstance(emotion, str) else None)


def flag_caption(kind: str, caption: str, row: Mapping[str, Any], thresholds: Mapping[str, float]) -> CaptionFlags:
    """What of a caption of that kind the probabilities beside it do not support; arguments as in [`row_state`]."""
    state = row_state(row, thresholds)
    unsupported = state.unsupported_aus(caption)
    unknown = [code for code in unsupported if code not in thresholds]
    return CaptionFlags(unsupported, state.rival_emotions(kind, caption), unknown)


@dataclass
class CaptionCheck:
    """How many captions of a kind there are, how many name an AU or an emotion, how many are flagged, and for what."""

    captions: int = 0
    naming: int = 0
    flagged: int = 0
    by_au: Counter[str] = field(default_factory=Counter)
    by_emotion: Counter[str] = field(default_factory=Counter)

    @property
    def flag_rate(self) -> float | None:
        """Share of the captions naming something that are flagged; None where none names anything."""
        return self.flagged / self.naming if self.naming else None

    def add(self, kind: str, caption: str, row: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
        """Count a caption."""
        flags = flag_caption(kind, caption, row, thresholds)
        self.captions += 1
        self.naming += bool(named_aus(caption) or named_emotions(caption))
        self.flagged += bool(flags)
        self.by_au.update(flags.unsupported)
        self.by_emotion.update(flags.rivals)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"captions": self.captions, "naming": self.naming, "flagged": self.flagged}
        causes = {"by_au": dict(self.by_au.most_common()), "by_emotion": dict(self.by_emotion.most_common())}
        return counts | {"flag_rate": self.flag_rate} | causes


def check_captions(
    rows: Iterable[Mapping[str, Any]], thresholds: Mapping[str, float], kinds: Sequence[str]
) -> dict[str, CaptionCheck]:
    """Check the captions of analysed faces.

    Args:
        rows: with `caption_<kind>` (None where there is none) and what [`row_state`] reads.
        thresholds: from which probability an AU is active, by code.
        kinds: of captions.
    """
    checks = {kind: CaptionCheck() for kind in kinds}
    for row in rows:
        for kind, check in checks.items():
            if isinstance(caption := row[CAPTION_PREFIX + kind], str):
                check.add(kind, caption, row, thresholds)
    return checks
