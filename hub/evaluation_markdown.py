"""Formats an evaluation as Markdown tables that are also readable in a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from mf2.utils.markdown import markdown_table

LANDMARK_NAMES = {
    "detect": "landmarks found by the detector",
    "mean_face": "without landmarks (every picture a face crop)",
    "given": "with the data set's landmarks",
}
AFFECT_SCORES = {"ccc": "CCC", "rmse": "RMSE", "pcc": "PCC", "sagr": "SAGR"}
CAPTION_NAMES = {"emotion": "emotion", "key_au": "key-AU", "au": "AU"}


def format_report(metrics: dict[str, Any]) -> str:
    """The tables of an evaluator's `metrics.json`, with a heading on the data."""
    return f"{_heading(metrics).strip()}\n\n{format_scores(metrics['evaluation'])}"


def format_scores(evaluation: Mapping[str, Any], heading: str = "##") -> str:
    """The tables only, each kind under a heading of the given level."""
    parts = []
    if compared := evaluation.get("by_landmarks"):
        parts += [_landmark_table(compared), f"In full, {LANDMARK_NAMES[evaluation['landmarks']]}:"]
    parts.append(_headline_table(evaluation))
    if evaluation["aus"]["per_au"]:
        parts += [f"{heading} Action units", _au_table(evaluation)]
    if evaluation["emotion"]["num_labelled"]:
        parts += [f"{heading} Emotions", _emotion_table(evaluation["emotion"])]
    if evaluation.get("affect", {}).get("num_labelled"):
        parts += [f"{heading} Valence and arousal", _affect_table(evaluation["affect"])]
    if "by_group" in evaluation:
        parts += [f"{heading} By {evaluation['by_group']['column']}", *_group_tables(evaluation["by_group"])]
    if "retrieval" in evaluation:
        parts += [f"{heading} Retrieval", _retrieval_table(evaluation["retrieval"])]
    if "captions" in evaluation:
        parts += [f"{heading} Written captions", _caption_table(evaluation["captions"])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _heading(metrics: Mapping[str, Any]) -> str:
    evaluation, data = metrics["evaluation"], metrics["evaluation"]["data"]
    bootstrap, seen = evaluation["bootstrap"], evaluation["overlap"]["seen_videos"]
    lines = [
        f"# {metrics['model']['name']} on {data['name']} ({data['split']})",
        f"{data['rows']:,} images of {data['videos']:,} videos in {bootstrap['num_videos']:,} groups; "
        f"landmarks: {evaluation['landmarks']}; protocol: {evaluation['protocol']}. In brackets, the "
        f"{bootstrap['level']:.0%} interval over {bootstrap['num_resamples']:,} resamples of groups "
        f"(seed {bootstrap['seed']}).",
    ]
    if seen:
        lines.append(f"**{seen:,} of these videos were seen in training or tuning: this is no evaluation.**")
    elif seen is None:
        lines.append("Whether any of these videos was seen in training is not recorded.")
    if unlabelled := evaluation["aus"]["unlabelled"]:
        lines.append(f"Not labelled here, so not scored: {', '.join(unlabelled)}.")
    return "\n\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- tables
def _headline_table(evaluation: Mapping[str, Any]) -> str:
    rows = [*_au_headlines(evaluation), *_emotion_headlines(evaluation), *_affect_headlines(evaluation)]
    return markdown_table(("score", "value", "trivial"), rows)


def _landmark_table(compared: Mapping[str, Any]) -> str:
    """The scores by landmark source."""
    has_affect = all("affect" in scores for scores in compared.values())
    rows = [
        (
            LANDMARK_NAMES[source],
            f"{scores['located']:,} of {scores['faces']:,}",
            format_with_interval(scores["aus"], "f1"),
            format_with_interval(scores["aus_tuned"], "f1"),
            format_with_interval(scores["emotion"], "top1"),
            format_with_interval(scores["emotion"], "macro_f1"),
            *([format_with_interval(scores["affect"], "ccc")] if has_affect else []),
        )
        for source, scores in compared.items()
    ]
    header = ("faces", "located", "mean AU F1 at 0.5", "at tuned thresholds", "emotion top-1", "emotion macro-F1")
    return markdown_table((*header, "mean CCC") if has_affect else header, rows)


def _au_headlines(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    aus, tuned, calibration = evaluation["aus"], evaluation["aus_tuned"], evaluation["calibration"]["aus"]
    if not aus["per_au"]:
        return
    always = f"{format_value(aus['f1_all_positive'])} (always active)"
    yield "mean AU F1 at 0.5", format_with_interval(aus, "f1"), always
    yield "mean AU F1 at tuned thresholds", format_with_interval(tuned, "f1"), always
    yield (
        "mean AU average precision",
        format_with_interval(aus, "average_precision"),
        f"{format_value(aus['prevalence'])} (chance)",
    )
    if calibration:
        yield "AU calibration error (ECE)", format_value(calibration["ece"]), "-"
        yield (
            "AU Brier score",
            format_value(calibration["brier"]),
            f"{format_value(calibration['brier_prevalence'])} (prevalence)",
        )


def _emotion_headlines(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    emotion, calibration = evaluation["emotion"], evaluation["calibration"]["emotion"]
    if not emotion["num_labelled"]:
        return
    for name, title in (("top1", "top-1"), ("macro_f1", "macro-F1"), ("uar", "UAR")):
        yield (
            f"emotion {title}",
            format_with_interval(emotion, name),
            f"{format_value(emotion[f'majority_{name}'])} (majority)",
        )
    trivial = (
        f"{format_value(emotion['paper_compatible_accuracy_never'])} (never), "
        f"{format_value(emotion['paper_compatible_accuracy_constant'])} (majority)"
    )
    yield "paper-compatible accuracy (one-vs-rest)", format_value(emotion["paper_compatible_accuracy"]), trivial
    if calibration:
        yield "emotion calibration error (ECE)", format_value(calibration["ece"]), "-"
        yield (
            "emotion Brier score",
            format_value(calibration["brier"]),
            f"{format_value(calibration['brier_prevalence'])} (frequency)",
        )


def _affect_headlines(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    affect = evaluation.get("affect", {})
    if not affect.get("num_labelled"):
        return
    for name, title in AFFECT_SCORES.items():
        trivial = f"{format_value(affect[f'constant_{name}'])} (constant)"
        yield f"mean {title} of valence and arousal", format_with_interval(affect, name), trivial
    if "mtl_sum" in evaluation:
        yield "ABAW's sum P = CCC + macro-F1 + AU F1 at tuned thresholds", format_value(evaluation["mtl_sum"]), "-"


def _affect_table(affect: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            *(format_with_interval(found, score) for score in AFFECT_SCORES),
            format_value(found["constant_rmse"]),
            format_value(found["constant_sagr"]),
            f"{found['num_labelled']:,}",
        )
        for name, found in affect["per_dimension"].items()
    ]
    header = ("", *AFFECT_SCORES.values(), "RMSE of the mean", "SAGR of a sign", "labels")
    return markdown_table(header, rows)


def _au_table(evaluation: Mapping[str, Any]) -> str:
    calibration = (evaluation["calibration"]["aus"] or {}).get("per_au", {})
    rows = []
    for code, au in evaluation["aus"]["per_au"].items():
        tuned = evaluation["aus_tuned"]["per_au"][code]
        rows.append(
            (
                code,
                format_with_interval(au, "f1"),
                format_with_interval(tuned, "f1"),
                format_value(tuned["threshold"]),
                format_value(au["average_precision"]),
                format_value(au["prevalence"]),
                format_value(au["f1_all_positive"]),
                format_value(calibration.get(code, {}).get("ece")),
                f"{au['num_labelled']:,}",
            )
        )
    rows += [(code, *["-"] * 7, "0") for code in evaluation["aus"]["unlabelled"]]
    header = ("AU", "F1 at 0.5", "F1, tuned", "threshold", "AP", "prevalence", "always active", "ECE", "labels")
    return markdown_table(header, rows)


def _emotion_table(emotion: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            format_value(scores["precision"]),
            format_value(scores["recall"]),
            format_with_interval(scores, "f1"),
            f"{scores['support']:,}",
        )
        if scores["support"]
        else (name, "-", "-", "-", "0")
        for name, scores in emotion["per_class"].items()
    ]
    return markdown_table(("emotion", "precision", "recall", "F1", "labels"), rows)


def _group_tables(by_group: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            name,
            f"{group['rows']:,}",
            f"{group['videos']:,}",
            format_with_interval(group["aus_tuned"], "f1"),
            format_with_interval(group["emotion"], "macro_f1"),
            format_with_interval(group["emotion"], "uar"),
        )
        for name, group in by_group["groups"].items()
    ]
    header = (by_group["column"], "images", "videos", "mean AU F1, tuned", "emotion macro-F1", "emotion UAR")
    yield markdown_table(header, rows)
    gaps = [
        (score, gap["best"], gap["worst"], format_with_interval(gap, "gap"))
        for score, gap in by_group["gaps"].items()
        if gap is not None
    ]
    if gaps:
        yield markdown_table(("gap of", "best", "worst", "difference"), gaps)


def _retrieval_table(retrieval: Mapping[str, Any]) -> str:
    rows = []
    for kind, scores in retrieval.items():
        for direction in ("text_to_face", "face_to_text"):
            found = scores[direction]
            cells = [
                f"{format_value(recall)} ({format_value(found['chance'][k])})" for k, recall in found["recall"].items()
            ]
            sizes = f"{scores['num_faces']:,} faces, {scores['num_texts']:,} texts"
            rows.append((CAPTION_NAMES[kind], direction.replace("_to_", " → "), *cells, sizes))
    ks = next(iter(retrieval.values()))["text_to_face"]["recall"]
    return markdown_table(("captions", "direction", *(f"recall@{k} (chance)" for k in ks), "among"), rows)


def _caption_table(captions: Mapping[str, Any]) -> str:
    columns = {
        "valid_by_labels": "valid by labels",
        "valid_by_output": "valid by model output",
        "aus_agree_with_labels": "AUs as labelled",
        "aus_agree_with_output": "AUs as recognised",
        "names_emotion_of_output": "emotion as recognised",
        "named_aus_right_by_output": "AUs named that are recognised",
        "flagged": "flagged",
    }
    header, rows = ("captions", "written", *columns.values()), []
    for kind, scores in captions.items():
        cells = [format_value(scores.get(name)) for name in columns]
        rows.append((CAPTION_NAMES[kind], f"{scores['num_captions']:,}", *cells, f"{scores['mean_tokens']:.1f}"))
    return markdown_table((*header, "tokens"), rows)


# ------------------------------------------------------------------------------------------------------------- values
def format_value(value: float | None) -> str:
    """Three decimals, or "-" for None."""
    return "-" if value is None else f"{value:.3f}"


def format_with_interval(scores: dict[str, Any], name: str) -> str:
    """A score with its interval, such as `0.812 [0.790, 0.834]`."""
    bounds = scores.get(f"{name}_interval")
    text = format_value(scores.get(name))
    return f"{text} [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else text
