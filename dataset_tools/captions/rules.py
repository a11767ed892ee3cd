"""The rules for valid captions: their action units, emotion, language and length.

A violation is a sentence for people and for the model that is asked again; a caption without violations is valid.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Literal

from ...caption_meaning_mf2 import EMOTION_OF_WORD, INFLECTIONS, asserted_emotion_words, find_au_mentions
from ...labels_mf2 import ACTION_UNITS, EMOTIONS, NO_ACTIVE_AU_CAPTION
from .text import find_au_entries
from .wordlists import AT_REST, DISCLAIMER, ENGLISH, FOREIGN, PERSONAL, SPLIT_WORDS

TokenCounter = Callable[[str], int]
CaptionKind = Literal["au", "emotion", "key_au"]
CAPTION_KINDS: tuple[CaptionKind, ...] = ("au", "emotion", "key_au")

MAX_TOKENS: dict[CaptionKind, int] = {"au": 169, "emotion": 61, "key_au": 128}
"""Maximal number of WordPiece tokens of a caption, including [CLS] and [SEP]."""

_MARKDOWN = re.compile(r"\*\*|__|`|^\s*#|^\s*[-*•]\s|\[[^\]]*\]\([^)]*\)|^\s*\||</?[a-z]+>|\*\w[^*\n]*\*", re.M | re.I)
_LIST_NUMBER = re.compile(r"^\s*\d{1,2}[.)]", re.M)
_TOKEN = re.compile(r"[A-Za-z]+|\d+|[^\w\s]|_")


def validate_caption(
    kind: CaptionKind,
    text: str,
    active_aus: Collection[int],
    emotion: str | None,
    *,
    unlabelled_aus: Collection[int] = (),
    count_tokens: TokenCounter | None = None,
) -> list[str]:
    """Check a caption; returns one sentence per violation, an empty list for a valid caption.

    Args:
        kind: "au" (one line per active AU), "emotion" (a paragraph without AU codes) or "key_au" (a paragraph that
            names the decisive AUs).
        text: the caption.
        active_aus: numbers of the AUs that are labelled active.
        emotion: the label, one of `EMOTIONS`; None, for an unlabelled image, skips the emotion rules.
        unlabelled_aus: numbers of the AUs that are neither labelled active nor inactive: no caption may name them or
            say that the face is at rest.
        count_tokens: text -> number of tokens including special ones; an estimate of BERT's WordPiece by default.
    Raises:
        ValueError: an unknown kind or emotion.
    """
    if kind not in CAPTION_KINDS:
        raise ValueError(f"Unknown caption kind {kind!r}; known are {', '.join(CAPTION_KINDS)}.")
    if emotion is not None and emotion not in EMOTIONS:
        raise ValueError(f"Unknown emotion {emotion!r}; known are {', '.join(EMOTIONS)}.")
    if not text.strip():
        return ["The caption is empty."]
    violations: list[str] = []
    is_unknown = bool(unlabelled_aus) and not active_aus
    if is_unknown:
        violations += _rest_violations(kind, text, unlabelled_aus)
    if kind == "au":
        violations += [] if is_unknown else _au_violations(text, active_aus)
    else:
        violations += _paragraph_violations(text)
        violations += _emotion_violations(text, emotion) if emotion is not None else []
        violations += _code_violations(kind, text, active_aus)
    violations += _language_violations(text)
    num_tokens = (count_tokens or estimate_tokens)(text)
    if num_tokens > MAX_TOKENS[kind]:
        violations.append(f"The caption has {num_tokens} tokens; at most {MAX_TOKENS[kind]} are allowed.")
    return violations


def load_token_counter(tokenizer_name: str | None) -> TokenCounter | None:
    """Load a counter that uses a Hugging Face tokenizer, special tokens included; None without a name."""
    if tokenizer_name is None:
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    return lambda text: len(tokenizer(text)["input_ids"])


def estimate_tokens(text: str) -> int:
    """Estimate the number of BERT's WordPiece tokens of `text`, including [CLS] and [SEP].

    A word, a number and a punctuation mark count as one token, `AU12` as two, and FACS words that BERT splits as their
    number of pieces.
    """
    return 2 + sum(SPLIT_WORDS.get(token.lower(), 1) for token in _TOKEN.findall(text))


# ------------------------------------------------------------------------------------------------------ action units
def _rest_violations(kind: CaptionKind, text: str, unlabelled_aus: Collection[int]) -> Iterator[str]:
    """Violations for a face with unlabelled AUs and no active one, which may not be at rest."""
    verb = "is" if len(unlabelled_aus) == 1 else "are"
    unknown = f"no AU is labelled active and {_codes(unlabelled_aus)} {verb} unlabelled"
    if kind != "emotion":
        yield f"There is no {'AU' if kind == 'au' else 'key-AU'} caption of this face: {unknown}."
    elif at_rest := AT_REST.search(text):
        yield f"The caption says that the face is at rest ({at_rest.group()!r}), but {unknown}."


def _au_violations(text: str, active_aus: Collection[int]) -> Iterator[str]:
    active = set(active_aus)
    if not active:
        if text.strip() != NO_ACTIVE_AU_CAPTION:
            yield f"No AU is active; the caption must be {NO_ACTIVE_AU_CAPTION!r}."
        return
    entries = find_au_entries(text)
    described = [entry.au_id for entry in entries]
    if missing := active - set(described):
        yield f"Active AUs without a line of their own: {_codes(missing)}."
    if extra := set(described) - active:
        yield f"Lines for AUs that are not active: {_codes(extra)}."
    if duplicates := {au_id for au_id in described if described.count(au_id) > 1}:
        yield f"AUs with more than one line: {_codes(duplicates)}."
    if empty := {entry.au_id for entry in entries if not entry.sentence}:
        yield f"AUs without a sentence: {_codes(empty)}."
    yield from _name_violations((entry.au_id, entry.name) for entry in entries)
    bodies = "\n".join(entry.sentence for entry in entries)
    mentions = find_au_mentions(bodies)
    if foreign := {au_id for au_id, _ in mentions} - active:
        yield f"Sentences mention AUs that are not active: {_codes(foreign)}."
    yield from _name_violations((au_id, name) for au_id, name in mentions if name)


def _code_violations(kind: CaptionKind, text: str, active_aus: Collection[int]) -> Iterator[str]:
    """An emotion caption must not name AUs; a key-AU caption must name some by code and name, and only active ones."""
    mentions = find_au_mentions(text)
    mentioned = {au_id for au_id, _ in mentions}
    if kind == "emotion":
        if mentioned:
            yield f"An emotion caption must not name AU codes; it names {_codes(mentioned)}."
        return
    if active_aus and not mentioned:
        yield "The caption names no AU; it must name at least one active AU by code and name."
    if foreign := mentioned - set(active_aus):
        yield f"The caption names AUs that are not active: {_codes(foreign)}."
    named = {au_id for au_id, name in mentions if name}
    if nameless := (mentioned & set(ACTION_UNITS)) - named:
        yield f"AUs without their FACS name in brackets: {_codes(nameless)}."
    yield from _name_violations((au_id, name) for au_id, name in mentions if name)


def _name_violations(names: Iterator[tuple[int, str]]) -> Iterator[str]:
    for au_id, name in names:
        if au_id in ACTION_UNITS and name != ACTION_UNITS[au_id].name:
            yield f"AU{au_id} is called {name!r}; its FACS name is {ACTION_UNITS[au_id].name!r}."


def _codes(au_ids: Collection[int]) -> str:
    return ", ".join(f"AU{au_id}" for au_id in sorted(au_ids))


# ---------------------------------------------------------------------------------------------------------- emotion
def _emotion_violations(text: str, emotion: str) -> Iterator[str]:
    """The first sentence must assert the emotion or an inflection of it, and no sentence another emotion."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    label_words = INFLECTIONS[emotion]
    if label_words and not any(word in label_words for word in asserted_emotion_words(sentences[0])):
        yield f"The first sentence does not assert the emotion {emotion!r} (or an inflection of it)."
    others = {
        word for sentence in sentences for word in asserted_emotion_words(sentence) if EMOTION_OF_WORD[word] != emotion
    }
    if others:
        yield f"The caption asserts another emotion than {emotion!r}: {', '.join(sorted(others))}."


# --------------------------------------------------------------------------------------------------------- language
def _paragraph_violations(text: str) -> Iterator[str]:
    if "\n" in text.strip():
        yield "The caption must be one paragraph without line breaks."
    if _LIST_NUMBER.search(text):
        yield "The caption must not be a numbered list."


def _language_violations(text: str) -> Iterator[str]:
    if personal := sorted({match.group().lower() for match in PERSONAL.finditer(text)}):
        yield f"Words about identity, age, race or gender are not allowed: {', '.join(personal)}."
    if disclaimer := DISCLAIMER.search(text.replace("’", "'")):
        yield f"Disclaimers are not allowed: {disclaimer.group()!r}."
    if _MARKDOWN.search(text):
        yield "The caption must be plain text without markdown."
    if not _is_english(text):
        yield "The caption must be written in English."


def _is_english(text: str) -> bool:
    """Whether all letters are Latin, and function words of other languages do not outnumber English ones."""
    if any(char.isalpha() and ord(char) > 0x24F for char in text):
        return False
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", text)]
    foreign = sum(word in FOREIGN for word in words)
    return foreign <= sum(word in ENGLISH for word in words)
