"""Maps the emotion names of a data set to `EMOTIONS`, or to the data set's own list."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ...labels_mf2 import EMOTIONS
from .frame_table import EMOTION_MISSING, ReadReport

UNLABELLED = "none"
"""The target in `--emotion_map` that leaves an emotion unlabelled."""

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
    """Add `--emotion_map` and `--own_emotions`."""
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
    dataset_emotions: Sequence[str],
    defaults: Mapping[str, str],
    args: argparse.Namespace,
    report: ReadReport,
) -> tuple[pd.Series, tuple[str, ...]]:
    """Map emotion names to indices; returns the indices (-1 = unlabelled) and the list that they index.

    Args:
        names: canonical names; NA where the data set gives no emotion.
        dataset_emotions: the data set's list, in its order; any other name counts as unknown.
        defaults: data-set emotion -> emotion of `EMOTIONS`, for those that `EMOTIONS` lacks; without an entry here or
            in `--emotion_map` they are unlabelled.
        args: with `emotion_map` and `own_emotions`; the resulting map is recorded in the report's settings.
    Raises:
        ValueError: a map that cannot be parsed, or a map together with `--own_emotions`.
    """
    overrides = _parse_map(args.emotion_map, dataset_emotions)
    if overrides and args.own_emotions:
        raise ValueError("--emotion_map and --own_emotions exclude each other.")
    emotions = tuple(dataset_emotions) if args.own_emotions else EMOTIONS
    targets = {name: name for name in dataset_emotions if name in emotions}
    if not args.own_emotions:
        targets |= {**defaults, **overrides}
    report.settings["emotion_map"] = {name: targets.get(name, UNLABELLED) for name in dataset_emotions}
    emotion_idx = {name: emotions.index(target) for name, target in targets.items() if target != UNLABELLED}
    is_known = names.isin(list(dataset_emotions))
    report.count("values_unknown", names[names.notna() & ~is_known])
    report.count("emotions_unmapped", names[is_known & ~names.isin(list(emotion_idx))])
    return names.map(emotion_idx).astype(float).fillna(EMOTION_MISSING).astype(np.int8), emotions


def _parse_map(pairs: Sequence[str], dataset_emotions: Sequence[str]) -> dict[str, str]:
    """`["Contempt=Anger"]` -> `{"Contempt": "Anger"}`."""
    emotion_map = {}
    for pair in pairs:
        name, _, target = pair.partition("=")
        name, target = canonical_name(name), target if target == UNLABELLED else canonical_name(target)
        if name not in dataset_emotions or target not in (*EMOTIONS, UNLABELLED):
            raise ValueError(
                f"--emotion_map {pair} must be NAME=OURS with NAME one of {', '.join(dataset_emotions)} and OURS one "
                f"of {', '.join(EMOTIONS)} or {UNLABELLED}."
            )
        emotion_map[name] = target
    return emotion_map
