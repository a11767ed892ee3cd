"""Template captions: fixed phrases chosen by a hash of the image's name, without a model or network."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...caption_phrases_mf2 import AU_PHRASES, EMOTION_PHRASES, REST_SENTENCES
from ...labels_mf2 import PROTOTYPES, get_action_unit, render_au_caption
from .rules import CAPTION_KINDS, MAX_TOKENS, estimate_tokens
from .text import au_head, no_key_au_caption

MAX_EMOTION_CUES = 3
"""Maximal number of movements in an emotion caption."""
_ESTIMATE_MARGIN = 8  # tokens by which a tokenizer may exceed the estimate

_OPENINGS = (
    "The person in the image appears to be {adjective}.",
    "The person looks {adjective}.",
    "The face shows {noun}.",
    "The expression conveys {noun}.",
    "The face in the image seems {adjective}.",
    "This face expresses {noun}.",
)
_CUE_SENTENCES = (
    "This can be seen in the {cues}.",
    "It shows in the {cues}.",
    "The impression comes from the {cues}.",
    "It is visible in the {cues}.",
)
_KEY_SENTENCES = (
    "The decisive {units}.",
    "The most telling {units}.",
    "The key {units}.",
)
_PROTOTYPE_REASONS = (
    "The {cues} are typical of {noun}.",
    "Signs such as the {cues} point to {noun}.",
)
_OTHER_REASONS = (
    "The {cues} shape the expression.",
    "The look of the face comes from the {cues}.",
)


@dataclass(frozen=True)
class Captions:
    """The three captions of one image; None for a caption that the labels do not determine."""

    au: str | None
    emotion: str | None
    key_au: str | None


class _Chooser:
    """Chooses options by the digits of a hash, so that the same name, kind and seed always give the same text."""

    def __init__(self, image_id: str, kind: str, seed: int) -> None:
        self._digits = int.from_bytes(hashlib.sha256(f"{image_id}|{kind}|{seed}".encode()).digest(), "big")

    def __call__(self, options: Sequence[str]) -> str:
        self._digits, choice = divmod(self._digits, len(options))
        return options[choice]


def template_captions(
    image_id: str,
    active_aus: Sequence[int],
    emotion: str | None,
    seed: int = 0,
    *,
    unlabelled_aus: Collection[int] = (),
) -> Captions:
    """Write the three captions of an image from its labels.

    Captions say nothing about unlabelled AUs. If some AUs are unlabelled and no other is active, the face may not be
    at
    rest: there is then no AU and no key-AU caption, and the emotion caption names no movement.

    Args:
        image_id: a unique name of the image, which decides on the paraphrases.
        active_aus: numbers of the active AUs, in any order.
        emotion: one of `EMOTIONS`, or None if unlabelled.
        seed: seed of the choice of paraphrases.
        unlabelled_aus: numbers of the AUs that are neither labelled active nor inactive.
    Raises:
        ValueError: an unknown AU or emotion.
    """
    active = sorted(set(active_aus))
    for au_id in active:
        get_action_unit(au_id)
    if emotion is not None and emotion not in EMOTION_PHRASES:
        raise ValueError(f"Unknown emotion {emotion!r}; known are {', '.join(EMOTION_PHRASES)}.")
    is_known = bool(active) or not unlabelled_aus
    choose = {kind: _Chooser(image_id, kind, seed) for kind in CAPTION_KINDS}
    return Captions(
        au=_au_caption(active, choose["au"]) if is_known else None,
        emotion=None if emotion is None else _emotion_caption(active, emotion, choose["emotion"], is_known),
        key_au=_key_au_caption(active, emotion, choose["key_au"]) if is_known and emotion is not None else None,
    )


def select_key_aus(active_aus: Sequence[int], emotion: str) -> list[int]:
    """The active AUs in the FACS prototype of the emotion; without any, the first two active AUs."""
    key_aus = [au_id for au_id in active_aus if au_id in PROTOTYPES.get(emotion, ())]
    return key_aus or list(active_aus[:2])


def _au_caption(active: Sequence[int], choose: _Chooser) -> str:
    """The longest wording within the token limit: movement and cue, the movement alone, or a few words."""
    movements = {au_id: choose(AU_PHRASES[au_id].movements) for au_id in active}
    cues = {au_id: choose(AU_PHRASES[au_id].cues) for au_id in active}
    wordings = (
        {au_id: f"{movements[au_id]}, {cues[au_id]}." for au_id in active},
        {au_id: f"{movements[au_id]}." for au_id in active},
    )
    for sentences in wordings:
        caption = render_au_caption(sentences)
        if estimate_tokens(caption) <= MAX_TOKENS["au"] - _ESTIMATE_MARGIN:
            return caption
    return render_au_caption({au_id: AU_PHRASES[au_id].terse for au_id in active})


def _emotion_caption(active: Sequence[int], emotion: str, choose: _Chooser, is_known: bool) -> str:
    key_aus = select_key_aus(active, emotion)
    others = [au_id for au_id in active if au_id not in key_aus]
    named = sorted((key_aus + others)[:MAX_EMOTION_CUES])
    if named:
        cue_sentence = choose(_CUE_SENTENCES).format(cues=_cue_list(named))
    else:
        cue_sentence = choose(REST_SENTENCES) if is_known else ""
    sentences = (_opening(emotion, choose), cue_sentence, choose(EMOTION_PHRASES[emotion].closings))
    return " ".join(filter(None, sentences))


def _key_au_caption(active: Sequence[int], emotion: str, choose: _Chooser) -> str:
    if not active:
        return no_key_au_caption(emotion)
    key_aus = select_key_aus(active, emotion)
    verb = "action unit is" if len(key_aus) == 1 else "action units are"
    units = f"{verb} {_join([au_head(au_id) for au_id in key_aus])}"
    is_prototypical = set(key_aus) <= set(PROTOTYPES.get(emotion, ()))
    reason = choose(_PROTOTYPE_REASONS if is_prototypical else _OTHER_REASONS)
    return " ".join(
        (
            _opening(emotion, choose),
            choose(_KEY_SENTENCES).format(units=units),
            reason.format(cues=_cue_list(key_aus), noun=EMOTION_PHRASES[emotion].noun),
        )
    )


def _opening(emotion: str, choose: _Chooser) -> str:
    phrases = EMOTION_PHRASES[emotion]
    return choose(_OPENINGS).format(adjective=phrases.adjective, noun=phrases.noun)


def _cue_list(au_ids: Sequence[int]) -> str:
    return _join([AU_PHRASES[au_id].cue_noun for au_id in au_ids])


def _join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
