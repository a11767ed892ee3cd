"""The text form of an AU caption, numbered lines for one action unit each, read back from free text."""

import re
from dataclasses import dataclass

from ...caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES
from ...labels_mf2 import ACTION_UNITS, get_action_unit

# `1. AU1 (Inner Brow Raiser):`, `- **AU 01 - Inner Brow Raiser**:` and the like. A head opens a line or follows the
# end of a sentence, so that an AU mentioned inside a sentence is none.
_HEAD = re.compile(
    r"""
    (?: ^ | (?<=[.!?;]) | (?<=[.!?;]\s) )
    [ \t>#*_•\-–—]* (?: \(? \d{1,2} [.):]+ )? [ \t*_]*  # bullet, number, bold
    AU \s* 0*(?P<au_id>\d{1,2}) [ \t*_]*
    (?: \( \s* (?P<name>[A-Za-z][A-Za-z \-]*?) \s* \) | [-–—] \s* (?P<dash_name>[A-Za-z][A-Za-z \-]*?) )
    [ \t*_]* : [ \t*_]*
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_TRAILING_NUMBER = re.compile(r"\s+[(*_]*\d{1,2}[.):]*[*_]*\s*$")
_OVERALL_SENTENCE = re.compile(
    r"(?:^|(?<=[.!?]))\s*(?:overall|in summary|taken together|together these)\b.*$", re.I | re.S
)


@dataclass(frozen=True)
class AuEntry:
    """One `AU (name): sentence` of an AU caption, as it stands there."""

    au_id: int
    name: str
    sentence: str


def au_head(au_id: int) -> str:
    """`AU1 (Inner Brow Raiser)`; a `ValueError` for an AU that is not known."""
    return get_action_unit(au_id).title


def find_au_entries(text: str) -> list[AuEntry]:
    """Every headed sentence of `text` in order, duplicates and unknown AU numbers included.

    A body runs to the next head and ends at a blank line; the number of the next line and a closing "Overall, …"
    are not part of it.
    """
    heads = list(_HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [
        AuEntry(
            au_id=int(head["au_id"]),
            name=head["name"] or head["dash_name"],
            sentence=_clean_body(text[head.end() : end]),
        )
        for head, end in zip(heads, ends, strict=False)
    ]


def parse_au_caption(text: str) -> dict[int, str]:
    """AU id -> its sentence, without the head; the first of two entries for one AU, unknown numbers left out."""
    sentences: dict[int, str] = {}
    for entry in find_au_entries(text):
        if entry.au_id in ACTION_UNITS:
            sentences.setdefault(entry.au_id, entry.sentence)
    return sentences


def inactive_au_sentence(au_id: int) -> str:
    """The fixed sentence for an AU that is labelled and not active."""
    get_action_unit(au_id)
    return AU_PHRASES[au_id].inactive


def no_key_au_caption(emotion: str) -> str:
    """The fixed key-AU caption of a face without an active AU."""
    adjective = EMOTION_PHRASES[emotion].adjective
    return f"The person in the image appears to be {adjective}. No action unit is active, so none is decisive."


def _clean_body(body: str) -> str:
    body = re.split(r"\n\s*\n", body.strip(), maxsplit=1)[0]
    body = _TRAILING_NUMBER.sub("", body)
    body = _OVERALL_SENTENCE.sub("", body)
    return " ".join(body.replace("**", "").split())
