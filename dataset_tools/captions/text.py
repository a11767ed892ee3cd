"""Parses AU captions, which have one numbered line per action unit, from free text."""

import re
from dataclasses import dataclass

from ...caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES, NO_KEY_AU_SENTENCE
from ...labels_mf2 import ACTION_UNITS, get_action_unit

# Heads such as `1. AU1 (Inner Brow Raiser):` and `- **AU 01 - Inner Brow Raiser**:`. A head is at the start of a line
# or after the end of a sentence; an AU inside a sentence is a mention.
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
    """One entry `AU (name): sentence` of an AU caption."""

    au_id: int
    name: str
    sentence: str


def au_head(au_id: int) -> str:
    """The head `AU1 (Inner Brow Raiser)`; a `ValueError` for an unknown AU."""
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
    """Parse an AU caption: AU id -> sentence without its head; duplicate and unknown AUs are skipped."""
    sentences: dict[int, str] = {}
    for entry in find_au_entries(text):
        if entry.au_id in ACTION_UNITS:
            sentences.setdefault(entry.au_id, entry.sentence)
    return sentences


def inactive_au_sentence(au_id: int) -> str:
    """The fixed sentence for an AU that is labelled inactive."""
    get_action_unit(au_id)
    return AU_PHRASES[au_id].inactive


def no_key_au_caption(emotion: str) -> str:
    """The fixed key-AU caption of a face without an active AU."""
    adjective = EMOTION_PHRASES[emotion].adjective
    return f"The person in the image appears to be {adjective}. {NO_KEY_AU_SENTENCE}"


def _clean_body(body: str) -> str:
    body = re.split(r"\n\s*\n", body.strip(), maxsplit=1)[0]
    body = _TRAILING_NUMBER.sub("", body)
    body = _OVERALL_SENTENCE.sub("", body)
    return " ".join(body.replace("**", "").split())
