"""From what a data set calls an emotion to `EMOTIONS`, or to the data set's own list."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ...labels_mf2 import EMOTIONS
from .frame_table import EMOTION_MISSING, ReadReport

UNLABELLED = "none"
"""The target of `--emotion_map` that leaves an emotion unlabelled."""

_SYNONYMS = {
    "angry": "Anger",
    "disgusted": "Disgust",
    "fearful": "Fear",
    "afraid": "Fear",
    "happy": "Happiness",
    "joy": "Happiness",
    "sad": "Sadness",
    "surprised": "Surprise",
    "others": "Other",
}


def add_emotion_arguments(parser: argparse.ArgumentParser) -> None:
    """`--emotion_map` and `--own_emotions`."""
    parser.add_argument(
        "--emotion_map",
        nargs="+",
        default=[],
        metavar="NAME=OURS",
        help=f"read an emotion as another of {', '.join(EMOTIONS)}, or as {UNLABELLED} (Contempt=Anger)",
    )
    parser.add_argument("--own_emotions", action="store_true", help="keep the data set's own list of emotions")


def canonical_name(name: str) -> str:
    """`happy` -> `Happiness`, `CONTEMPT` -> `Contempt`."""
    return _SYNONYMS.get(name.strip().lower(), name.strip().capitalize())


def map_emotions(
    names: pd.Series,
    own: Sequence[str],
    convention: Mapping[str, str],
    args: argparse.Namespace,
    report: ReadReport,
) -> tuple[pd.Series, tuple[str, ...]]:
    """Names of emotions -> indices, and what they index.

    Args:
        names: canonical names; NA where the data set gives no emotion.
        own: the data set's list, in its order; other names are not understood.
        convention: what stands for those of `own` that are not among ours; without an entry they are unlabelled.
        args: with `emotion_map` and `own_emotions`; recorded in the report's settings.
    Raises:
        ValueError: a map that is not understood, or one together with `--own_emotions`.
    """
    given = _parse_map(args.emotion_map, own)
    if given and args.own_emotions:
        raise ValueError("--emotion_map and --own_emotions exclude each other.")
    emotions = tuple(own) if args.own_emotions else EMOTIONS
    targets = {name: name for name in own if name in emotions} | ({} if args.own_emotions else {**convention, **given})
    report.settings["emotion_map"] = {name: targets.get(name, UNLABELLED) for name in own}
    index_of = {name: emotions.index(target) for name, target in targets.items() if target != UNLABELLED}
    report.count("values_unknown", names[names.notna() & ~names.isin(list(own))])
    report.count("emotions_unmapped", names[names.isin(list(own)) & ~names.isin(list(index_of))])
    return names.map(index_of).astype(float).fillna(EMOTION_MISSING).astype(np.int8), emotions


def _parse_map(words: Sequence[str], own: Sequence[str]) -> dict[str, str]:
    """`["Contempt=Anger"]` -> `{"Contempt": "Anger"}`."""
    given = {}
    for word in words:
        name, _, target = word.partition("=")
        name, target = canonical_name(name), target if target == UNLABELLED else canonical_name(target)
        if name not in own or target not in (*EMOTIONS, UNLABELLED):
            raise ValueError(
                f"--emotion_map {word} must be NAME=OURS with NAME one of {', '.join(own)} and OURS one of "
                f"{', '.join(EMOTIONS)} or {UNLABELLED}."
            )
        given[name] = target
    return given
