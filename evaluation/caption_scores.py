"""Scores of generated captions: whether they follow the rules of the data set's captions, and whether they name the
action units that are labelled and those that the model itself recognises.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mf2.caption_meaning_mf2 import KINDS_OF_EMOTION, RecognisedState, find_au_mentions, named_emotions
from mf2.caption_meaning_mf2 import named_aus as mentioned_aus
from mf2.configuration_mf2 import MF2Config
from mf2.dataset_tools.captions import find_au_entries, validate_caption
from mf2.dataset_tools.captions.rules import CAPTION_KINDS, MAX_TOKENS, CaptionKind, TokenCounter
from mf2.evaluation.metrics import mean_of_known
from mf2.evaluation.predictions import Predictions
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED, EMOTIONS, LabelSpace

NUM_EXAMPLES = 3


def caption_kinds(config: MF2Config, label_space: LabelSpace | None = None) -> tuple[CaptionKind, ...]:
    """The kinds of caption that a checkpoint was trained to generate.

    Args:
        label_space: of the active adapter, if there is one; without AUs there are no AU captions in `per_au` mode.
    """
    kinds: tuple[CaptionKind, ...] = ()
    if config.use_emo_vl and config.emo_text == "random":
        kinds = ("emotion", "key_au")
    elif config.use_emo_vl:
        kinds = tuple(kind for kind in CAPTION_KINDS if kind == config.emo_text)
    has_aus = config.au_text_mode == "caption" or bool((label_space or config.label_space).au_ids)
    return (*kinds, "au") if config.use_au_vl and has_aus else kinds


# -------------------------------------------------------------------------------------------------------------- faces
@dataclass(frozen=True)
class FaceState:
    """State of a face: AU number -> whether it is active, for known AUs; name of the emotion, or None if unknown."""

    aus: dict[int, bool]
    emotion: str | None

    def allows(self, kind: CaptionKind, named: set[int]) -> bool | None:
        """Whether the AUs that a caption names agree with the state.

        An AU caption must name all active AUs and no others, a key-AU caption some of them and no others. Unknown AUs
        are ignored; None for emotion captions and if no AU is known.
        """
        if kind == "emotion" or not self.aus:
            return None
        active, named = {au_id for au_id, is_active in self.aus.items() if is_active}, named & self.aus.keys()
        return named == active if kind == "au" else named <= active and bool(named) == bool(active)

    def names_emotion(self, kind: CaptionKind, caption: str) -> bool | None:
        """Whether a caption names the emotion and no other; None for AU captions and if the emotion is unknown."""
        if kind not in KINDS_OF_EMOTION or self.emotion not in EMOTIONS:
            return None
        return named_emotions(caption) == [self.emotion]

    def violations(self, kind: CaptionKind, caption: str, named: set[int], count_tokens: TokenCounter) -> list[str]:
        """Violations that the caption validator reports; unknown AUs are accepted either way."""
        active = {au_id for au_id, is_active in self.aus.items() if is_active} | (named - self.aus.keys())
        emotion = self.emotion if self.emotion in EMOTIONS else None
        return validate_caption(kind, caption, active, emotion, count_tokens=count_tokens)


def labelled_states(predictions: Predictions, label_space: LabelSpace) -> list[FaceState]:
    """The labelled state of each face."""
    emotions = [
        None if label == EMOTION_UNLABELLED else label_space.emotions[label] for label in predictions.emotion_labels
    ]
    aus = [
        {au_id: label == 1 for au_id, label in zip(label_space.au_ids, row, strict=True) if label != AU_UNLABELLED}
        for row in predictions.au_labels.tolist()
    ]
    return [FaceState(*state) for state in zip(aus, emotions, strict=True)]


def recognised_states(predictions: Predictions, label_space: LabelSpace) -> list[FaceState]:
    """The recognised state of each face, AUs at the label space's thresholds."""
    active = predictions.au_probs >= np.asarray(label_space.thresholds)
    aus = [dict(zip(label_space.au_ids, row, strict=True)) for row in active.tolist()]
    emotions: list[str | None] = [None] * len(predictions)
    if label_space.emotions:
        emotions = [label_space.emotions[index] for index in predictions.emotion_probs.argmax(1)]
    return [FaceState(*state) for state in zip(aus, emotions, strict=True)]


# ------------------------------------------------------------------------------------------------------------- scores
def named_aus(kind: CaptionKind, caption: str) -> set[int]:
    """Numbers of the AUs in a caption: those with an entry in an AU caption, else those mentioned."""
    if kind == "au":
        return {entry.au_id for entry in find_au_entries(caption)}
    return {au_id for au_id, _ in find_au_mentions(caption)}


def score_captions(
    captions: dict[CaptionKind, list[str]],
    predictions: Predictions,
    label_space: LabelSpace,
    count_tokens: TokenCounter,
) -> dict[str, dict[str, Any]]:
    """Scores of written captions, by kind.

    Args:
        captions: kind -> N captions, one per row of the predictions.
        predictions: labels, and the predictions of the same checkpoint.
        count_tokens: text -> number of tokens with the special ones.
    Returns:
        Kind -> scores. Shares of captions: `valid_by_labels`, `valid_by_output` (no violation, given the labels or the
        model's own predictions), `aus_agree_with_labels`, `aus_agree_with_output` (None for emotion captions),
        `names_emotion_of_labels`, `names_emotion_of_output` (None for AU captions), `too_long`, and `flagged` (not
        supported by the predictions). Shares of all AUs that are named by code or phrase:
        `named_aus_right_by_labels`, `named_aus_right_by_output`. Counts: `num_captions`, `num_distinct`,
        `mean_tokens`. `examples`: some captions with their violations, given the labels.
    """
    states = labelled_states(predictions, label_space), recognised_states(predictions, label_space)
    return {
        kind: _score_kind(kind, texts, *states, predictions.file_names.tolist(), count_tokens)
        for kind, texts in captions.items()
    }


def _score_kind(
    kind: CaptionKind,
    captions: Sequence[str],
    labelled: Sequence[FaceState],
    recognised: Sequence[FaceState],
    file_names: Sequence[str],
    count_tokens: TokenCounter,
) -> dict[str, Any]:
    named = [named_aus(kind, caption) for caption in captions]
    lengths = [count_tokens(caption) for caption in captions]
    scores: dict[str, Any] = {
        "num_captions": len(captions),
        "num_distinct": len(set(captions)),
        "mean_tokens": float(np.mean(lengths)),
        "too_long": float(np.mean(np.array(lengths) > MAX_TOKENS[kind])),
    }
    for name, states in (("labels", labelled), ("output", recognised)):
        rows = list(zip(captions, named, states, strict=True))
        violations = [state.violations(kind, caption, aus, count_tokens) for caption, aus, state in rows]
        scores[f"valid_by_{name}"] = float(np.mean([not found for found in violations]))
        scores[f"aus_agree_with_{name}"] = mean_of_known(state.allows(kind, aus) for _, aus, state in rows)
        scores[f"names_emotion_of_{name}"] = mean_of_known(state.names_emotion(kind, text) for text, _, state in rows)
        scores[f"named_aus_right_by_{name}"] = mean_of_known(
            state.aus.get(au_id) for text, _, state in rows for au_id in mentioned_aus(text)
        )
        if name == "labels":
            scores["examples"] = [
                {"file_name": str(file_name), "caption": caption, "violations": found}
                for file_name, caption, found in zip(file_names, captions, violations, strict=True)
                if found
            ][:NUM_EXAMPLES]
    scores["flagged"] = float(np.mean([is_flagged(kind, *row) for row in zip(captions, recognised, strict=True)]))
    return scores


def is_flagged(kind: CaptionKind, caption: str, face: FaceState) -> bool:
    """Whether a caption contradicts the face's AUs or emotion, see `RecognisedState.contradictions`."""
    active = frozenset(f"AU{au_id}" for au_id, is_active in face.aus.items() if is_active)
    return RecognisedState(active, face.emotion).contradictions(kind, caption) > 0
