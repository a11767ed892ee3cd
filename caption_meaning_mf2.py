"""What a caption says: the action units that it names, the emotions that it asserts, and what of it nothing supports.

A caption names an action unit by its code (`AU12`) or by a movement as the data set's phrases put it ("pulled up lip
corners"), and an emotion by one of its words or a closing sentence. It denies action units by the sentences on faces
at rest and on inactive action units. Free words that are none of those are not understood, so that a caption without a
contradiction is one in which none was found.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES
from .labels_mf2 import ACTION_UNITS, EMOTIONS

KINDS_OF_EMOTION = ("emotion", "key_au")
"""Kinds of caption that say which emotion a face shows; an AU caption says what an action unit can suggest."""
RERANKINGS = ("agreement", "match")
"""How the best of several captions is chosen: by what the recognisers support, and among equals by the matching head;
or by the matching head alone."""

# --------------------------------------------------------------------------------------------------- decoded text
_SPACING = (
    (re.compile(r"\s+([.,:;!?)])"), r"\1"),
    (re.compile(r"\(\s+"), "("),
    (re.compile(r"(?<=\w) - (?=\w)"), "-"),
    (re.compile(r"(?<=\w) ' (?=(?:s|t|re|ve|ll|d|m)\b)"), "'"),
)
_DECODED_AU = re.compile(r"\bau ?(\d{1,2})\b(?: \(([a-z -]+)\))?", re.IGNORECASE)
_AU_LINE = re.compile(r"\s+(?=\d{1,2}\. AU\d{1,2} \()")
_SENTENCE_START = re.compile(r"(?:^|[.!?]\s+|\):\s+)[a-z]")


def restore_case(text: str) -> str:
    """Restore the case and spacing of a caption after BERT's tokenisation.

    Spaces around punctuation go, AU codes and FACS names get their capitals (`AU12 (Lip Corner Puller)`), each AU of a
    numbered caption its own line, and every sentence its capital. Other proper nouns stay lower-case.
    """
    for pattern, replacement in _SPACING:
        text = pattern.sub(replacement, text)
    text = _DECODED_AU.sub(_spell_au, text.strip())
    text = _AU_LINE.sub("\n", text)
    return _SENTENCE_START.sub(lambda match: match[0][:-1] + match[0][-1].upper(), text)


def _spell_au(mention: re.Match[str]) -> str:
    """`au12 (lip corner puller)` to `AU12 (Lip Corner Puller)`; a name that is not that AU's is left as it is."""
    au_id, name = int(mention[1]), mention[2]
    if name is None:
        return f"AU{au_id}"
    if au_id in ACTION_UNITS and ACTION_UNITS[au_id].name.lower() == name.lower():
        name = ACTION_UNITS[au_id].name
    return f"AU{au_id} ({name})"


# ----------------------------------------------------------------------------------------------------------- emotions
# Inflections of the label may stand for it; plain synonyms only count where they assert a rival.
INFLECTIONS: dict[str, tuple[str, ...]] = {
    "Neutral": ("neutral", "neutrally", "neutrality"),
    "Anger": ("anger", "angers", "angry", "angered", "angrily", "angrier"),
    "Disgust": ("disgust", "disgusts", "disgusted", "disgusting", "disgustedly"),
    "Fear": ("fear", "fears", "feared", "fearing", "fearful", "fearfully", "fearfulness"),
    "Happiness": ("happiness", "happy", "happily", "happier"),
    "Sadness": ("sadness", "sad", "sadly", "sadder", "saddened"),
    "Surprise": ("surprise", "surprises", "surprised", "surprising"),
    "Other": (),
}
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "Anger": ("furious", "enraged", "rage"),
    "Disgust": ("revulsion", "repulsed"),
    "Fear": ("afraid", "scared", "frightened", "terrified", "terror"),
    "Happiness": ("joy", "joyful", "joyous", "delighted"),
    "Sadness": ("sorrow", "sorrowful"),
    "Surprise": ("astonished", "astonishment", "amazed", "amazement"),
}
EMOTION_OF_WORD: dict[str, str] = {
    word: emotion for emotion in EMOTIONS for word in (*INFLECTIONS[emotion], *_SYNONYMS.get(emotion, ()))
}
NEUTRAL_THINGS = frozenset({"position", "line", "shape", "pose", "background"})
"""After these "neutral" describes no emotion."""

NEGATIONS = frozenset(
    {"no", "not", "never", "without", "nor", "neither", "lacks", "lacking", "lack", "absence", "hardly", "cannot"}
)
NEGATING_PAIRS = frozenset({("rather", "than"), ("instead", "of"), ("free", "of")})
CLAUSE_ENDS = frozenset({",", ";", ":", "and", "but", "while", "yet"})
LIST_GLUE = frozenset({",", "and", "or"})
REST_PHRASES = (
    "features hardly move",
    "facial muscles are at rest",
    "nearly still",
    "no action unit is active",
    "no facial action unit is active",
)
"""Each is in one of the sentences on a face without an active action unit."""

_NEGATION_REACH = 6
_AU_MENTION = re.compile(r"\bAU\s*0*(\d{1,2})\b(?:\s*\(\s*([^()]*?)\s*\))?", re.I)
_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)*|[,;:]", re.I)


def asserted_emotion_words(sentence: str) -> list[str]:
    """The emotion words of a sentence that are not negated, in lower case."""
    words = [word.lower() for word in _WORD.findall(sentence)]
    return [
        word
        for position, word in enumerate(words)
        if word in EMOTION_OF_WORD
        and not (word == "neutral" and words[position + 1 : position + 2] and words[position + 1] in NEUTRAL_THINGS)
        and not _is_negated(words, position)
    ]


def _is_negated(words: Sequence[str], position: int) -> bool:
    """Whether a negation stands before `words[position]` in its clause, or before the list of emotions it is part of.

    In "without anger, fear or disgust" all three are negated; in "not sad, but angry" only the first is.
    """
    first = position
    while (before := _skip_list_glue(words, first)) >= 0 and words[before] in EMOTION_OF_WORD and before < first - 1:
        first = before
    for index in range(first - 1, max(-1, first - 1 - _NEGATION_REACH), -1):
        word = words[index]
        if word in CLAUSE_ENDS:
            return False
        if word in NEGATIONS or word.endswith(("n't", "n’t")) or tuple(words[index : index + 2]) in NEGATING_PAIRS:
            return True
    return False


def _skip_list_glue(words: Sequence[str], position: int) -> int:
    """The position of the nearest word before `position` that is no comma, "and" or "or"; -1 where there is none."""
    position -= 1
    while position >= 0 and words[position] in LIST_GLUE:
        position -= 1
    return position


def named_emotions(caption: str) -> list[str]:
    """The emotions that a caption asserts, in the order of `EMOTIONS`; "Other" by the data set's phrases alone."""
    text = _plain(caption)
    found = {
        EMOTION_OF_WORD[word]
        for sentence in re.split(r"(?<=[.!?])\s+", caption.strip())
        for word in asserted_emotion_words(sentence)
    }
    other = EMOTION_PHRASES["Other"]
    if other.adjective in text or other.noun in text:
        found.add("Other")
    found |= {emotion for closing, emotion in _emotion_of_closing().items() if closing in text}
    return [emotion for emotion in EMOTIONS if emotion in found]


@lru_cache(maxsize=1)
def _emotion_of_closing() -> dict[str, str]:
    """Closing sentences in lower case without a full stop, and the emotion that each is for."""
    return {
        closing.lower().rstrip("."): emotion
        for emotion, phrases in EMOTION_PHRASES.items()
        for closing in phrases.closings
    }


# ------------------------------------------------------------------------------------------------------- action units
def find_au_mentions(text: str) -> list[tuple[int, str]]:
    """(AU number, name in brackets or "") of every code in `text`."""
    return [(int(number), name) for number, name in _AU_MENTION.findall(text)]


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
    text = _plain(caption)
    by_code = {au_id for au_id, _ in find_au_mentions(caption)}
    return sorted(by_code | {au_id for phrase, au_id in _au_of_phrase().items() if phrase in text})


def names_au_twice(caption: str) -> bool:
    """Whether a sentence of a caption, finished or not, names an AU twice by code or by the same phrase."""
    return any(_repeats_au(sentence) for sentence in re.split(r"(?<=[.!?])\s+", _plain(caption)))


def _repeats_au(sentence: str) -> bool:
    codes = [au_id for au_id, _ in find_au_mentions(sentence)]
    return len(codes) > len(set(codes)) or any(sentence.count(phrase) > 1 for phrase in _au_of_phrase())


def denied_aus(caption: str) -> list[int]:
    """Numbers of the AUs that a caption says are not active, all of `ACTION_UNITS` for a face at rest."""
    text = _plain(caption)
    if any(phrase in text for phrase in REST_PHRASES):
        return sorted(ACTION_UNITS)
    return [au_id for au_id, phrases in AU_PHRASES.items() if phrases.inactive.lower().rstrip(".") in text]


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split())


# ---------------------------------------------------------------------------------------------------------- beginnings
AT_REST = "at rest"
"""What `REST_PHRASES` state: that no action unit is active."""
_MAX_PHRASE = 80
_MIN_PART = 4
"""Minimal length of a phrase's beginning that ends within a word: "in" is not taken for the beginning of "inner"."""


@lru_cache(maxsize=1)
def _statements_of_beginning() -> dict[str, frozenset[str | None]]:
    """Every beginning of a phrase, in lower case, and what the phrases that begin so state.

    That is the code of an AU, an emotion, or `AT_REST`; None for a phrase that states nothing.
    """
    statements: dict[str, set[str | None]] = {}
    for phrase, statement in _phrases_and_statements():
        for end in range(1, len(phrase) + 1):
            if end >= _MIN_PART or not phrase[end : end + 1].isalpha():
                statements.setdefault(phrase[:end], set()).add(statement)
    return {beginning: frozenset(of_phrases) for beginning, of_phrases in statements.items()}


def _phrases_and_statements() -> Iterator[tuple[str, str | None]]:
    for phrase, au_id in _au_of_phrase().items():
        yield phrase, ACTION_UNITS[au_id].code
    for unit in ACTION_UNITS.values():
        yield unit.name.lower(), unit.code
    for phrases in AU_PHRASES.values():
        yield from ((cue.lower(), None) for cue in phrases.cues)
    yield from _emotion_of_closing().items()
    yield EMOTION_PHRASES["Other"].adjective, "Other"
    yield EMOTION_PHRASES["Other"].noun.removeprefix("a "), "Other"
    yield from ((phrase, AT_REST) for phrase in REST_PHRASES)


def begun_statements(caption: str) -> frozenset[str | None]:
    """What the phrases state that the end of an unfinished caption may begin, see `_statements_of_beginning`.

    Only the longest such end counts; the result is empty if there is none.
    """
    end = _plain(caption)[-_MAX_PHRASE:]
    beginnings = (end[match.start() :] for match in re.finditer(r"\b\w", end))
    of_beginning = _statements_of_beginning()
    return next((of_beginning[text] for text in beginnings if text in of_beginning), frozenset())


# ----------------------------------------------------------------------------------------------------- contradictions
@dataclass(frozen=True)
class RecognisedState:
    """The recognised state of a face.

    Args:
        active: Codes of the AUs at or above their threshold; None where they recognise no AU at all.
        emotion: The likeliest; None where they recognise none.
    """

    active: frozenset[str] | None
    emotion: str | None

    def unsupported_aus(self, caption: str) -> list[str]:
        """Codes of the AUs that a caption names although they are not active, or not among those that are recognised;
        none where no AU is recognised."""
        if self.active is None:
            return []
        codes = [ACTION_UNITS[au_id].code if au_id in ACTION_UNITS else f"AU{au_id}" for au_id in named_aus(caption)]
        return [code for code in codes if code not in self.active]

    def rival_emotions(self, kind: str, caption: str) -> list[str]:
        """The emotions that a caption asserts beside the likeliest; none where the likeliest is none of `EMOTIONS`."""
        if kind not in KINDS_OF_EMOTION or self.emotion not in EMOTIONS:
            return []
        return [emotion for emotion in named_emotions(caption) if emotion != self.emotion]

    def wrongly_denied_aus(self, caption: str) -> list[str]:
        """Codes of the active AUs that a caption says are not active."""
        codes = [ACTION_UNITS[au_id].code for au_id in denied_aus(caption)] if self.active else []
        return [code for code in codes if code in (self.active or ())]

    def contradictions(self, kind: str, caption: str) -> int:
        """How many statements of a caption the recognisers do not support."""
        emotions, aus = self.rival_emotions(kind, caption), self.unsupported_aus(caption)
        return len(aus) + len(emotions) + bool(self.wrongly_denied_aus(caption))

    def disagreement(self, kind: str, caption: str) -> int:
        """The contradictions of a whole caption, and 1 if it should name an emotion and names none."""
        is_silent = kind in KINDS_OF_EMOTION and self.emotion in EMOTIONS and not named_emotions(caption)
        return self.contradictions(kind, caption) + is_silent

    def is_misled(self, kind: str, caption: str) -> bool:
        """Whether an unfinished caption contradicts the recognisers, or ends with the beginning of a phrase that
        does."""
        if self.contradictions(kind, caption):
            return True
        begun = begun_statements(caption)
        return bool(begun) and not any(self._supports(kind, statement) for statement in begun)

    def _supports(self, kind: str, statement: str | None) -> bool:
        if statement is None or (statement in EMOTIONS and (kind not in KINDS_OF_EMOTION or self.emotion is None)):
            return True
        if statement in EMOTIONS:
            return statement == self.emotion or self.emotion not in EMOTIONS
        if self.active is None:
            return True
        return not self.active if statement == AT_REST else statement in self.active


# --------------------------------------------------------------------------------------------------------------- flags
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
    """Convert recognised probabilities to a `RecognisedState`.

    Args:
        row: a probability per AU and, if the label space has emotions, `emotion`.
        thresholds: AU code -> threshold. AUs without a threshold are unknown to the model and never supported.
    """
    emotion = row.get("emotion")
    active = frozenset(code for code in thresholds if row[code] >= thresholds[code]) if thresholds else None
    return RecognisedState(active, emotion if isinstance(emotion, str) else None)


def flag_caption(kind: str, caption: str, row: Mapping[str, Any], thresholds: Mapping[str, float]) -> CaptionFlags:
    """Find the parts of a caption that its row's probabilities do not support; arguments as in `row_state`."""
    state = row_state(row, thresholds)
    unsupported = state.unsupported_aus(caption)
    unknown = [code for code in unsupported if code not in thresholds]
    return CaptionFlags(unsupported, state.rival_emotions(kind, caption), unknown, state.wrongly_denied_aus(caption))
