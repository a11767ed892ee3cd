"""`mf2 data validate`: checks captions of any origin against their labels, and reports violations of the rules."""

import argparse
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...labels_mf2 import ACTION_UNITS, EMOTIONS, unlabelled_aus
from ...utils.files import write_json
from ..schema import load_mfa, read_manifest
from .results import jsonl_writer
from .rules import CAPTION_KINDS, CaptionKind, TokenCounter, load_token_counter, validate_caption
from .text import parse_au_caption

EXIT_INVALID = 1
_VARIABLE_PARTS = re.compile(r"""['"].*['"]|(?<=: ).*(?=\.$)|\d+(?= tokens)""", re.DOTALL)


@dataclass(frozen=True)
class CaptionedImage:
    """The captions and labels of one image."""

    image_id: str
    active_aus: tuple[int, ...]
    unlabelled_aus: tuple[int, ...]
    emotion: str | None
    captions: Mapping[CaptionKind, str]


@dataclass
class ValidationReport:
    """Counts per kind: captions, valid captions, images without a caption, and violations of each rule."""

    total: Counter[str] = field(default_factory=Counter)
    valid: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    rules: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in CAPTION_KINDS})

    @property
    def num_invalid(self) -> int:
        """Captions that break a rule."""
        return sum(self.total.values()) - sum(self.valid.values())

    def count(self, kind: CaptionKind, violations: Iterable[str]) -> None:
        """Count one caption."""
        rules = {_VARIABLE_PARTS.sub("…", violation) for violation in violations}
        self.total[kind] += 1
        self.valid[kind] += not rules
        self.rules[kind].update(rules)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            kind: {
                "captions": self.total[kind],
                "valid": self.valid[kind],
                "missing": self.missing[kind],
                "violations": dict(self.rules[kind].most_common()),
            }
            for kind in CAPTION_KINDS
        }

    def to_text(self) -> str:
        """A line for each kind, followed by the violated rules, the most frequent first."""
        lines = []
        for kind in CAPTION_KINDS:
            share = f" ({self.valid[kind] / self.total[kind]:.1%})" if self.total[kind] else ""
            lines.append(
                f"{kind:<8} {self.valid[kind]:,} of {self.total[kind]:,} captions valid{share}, "
                f"{self.missing[kind]:,} images without one"
            )
            lines += [f"  {count:>8,}  {rule}" for rule, count in self.rules[kind].most_common()]
        return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 data validate`."""
    add = parser.add_argument
    add(
        "captions",
        type=Path,
        help="data set folder, or a .jsonl or .csv file with the columns caption_au, caption_emotion, caption_key_au, "
        "emotion (name or index) and either active_aus (`1+2+25` or a list) or AU1, AU2, …",
    )
    add("--invalid", type=Path, metavar="FILE", help="write every invalid caption with its violations as JSONL")
    add("--sentences", type=Path, metavar="FILE", help="write AU captions as one sentence per AU, as JSONL")
    add("--report", type=Path, metavar="FILE", help="write the counts as JSON")
    add("--tokenizer", metavar="NAME", help="tokenizer that counts the tokens of captions (default: an estimate)")


def run(args: argparse.Namespace) -> int:
    """Check the captions and print the report; returns 1 if a caption is invalid, else 0."""
    count_tokens = load_token_counter(args.tokenizer)
    report = ValidationReport()
    with _optional_writer(args.invalid) as write_invalid, _optional_writer(args.sentences) as write_sentences:
        for image in read_captioned_images(args.captions):
            for kind, violations in check_image(image, report, count_tokens):
                write_invalid({"image_id": image.image_id, "kind": kind, "violations": violations,
                               "caption": image.captions[kind]})  # fmt: skip
            if "au" in image.captions:
                write_sentences({"image_id": image.image_id, "sentences": parse_au_caption(image.captions["au"])})
    if not report.total:
        raise ValueError(f"{args.captions} holds no captions.")
    if args.report:
        write_json(args.report, report.to_dict())
    print(report.to_text())
    return EXIT_INVALID if report.num_invalid else 0


def check_image(
    image: CaptionedImage, report: ValidationReport, count_tokens: TokenCounter | None = None
) -> list[tuple[CaptionKind, list[str]]]:
    """Count the captions of an image in the report; returns the invalid ones with their violations."""
    invalid = []
    for kind in CAPTION_KINDS:
        if kind not in image.captions:
            report.missing[kind] += 1
            continue
        violations = validate_caption(
            kind,
            image.captions[kind],
            image.active_aus,
            image.emotion,
            unlabelled_aus=image.unlabelled_aus,
            count_tokens=count_tokens,
        )
        report.count(kind, violations)
        if violations:
            invalid.append((kind, violations))
    return invalid


def read_captioned_images(path: Path) -> Iterator[CaptionedImage]:
    """Read the captions of a data set folder, or of a .jsonl or .csv file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, or an invalid row; its number is shown.
    """
    number = 0
    try:
        for number, row in enumerate(_read_rows(path), start=1):
            yield _parse_row(row, number)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}, after row {number - 1}: {error}" if number else str(error)) from error


def _read_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.is_dir():
        for split in read_manifest(path)["splits"]:
            dataset = load_mfa(path, split, with_images=False, au_ids=())
            yield from dataset.remove_columns([name for name in ("image", "landmarks") if name in dataset.features])
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, filter(str.strip, file))
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    else:
        raise ValueError(f"{path} is neither a data set folder nor a .jsonl or .csv file.")


def _parse_row(row: Mapping[str, Any], number: int) -> CaptionedImage:
    captions = {kind: row[f"caption_{kind}"] for kind in CAPTION_KINDS if row.get(f"caption_{kind}")}
    image_id = row.get("image_id") or row.get("file_name") or f"row {number}"
    return CaptionedImage(str(image_id), *_read_aus(row), _read_emotion(row.get("emotion")), captions)


def _read_aus(row: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read the active and the unlabelled AUs.

    They come from `active_aus` (a list, or text such as `AU1+AU25`; all other AUs are inactive), or else from the
    columns AU1, AU2, …, which are 1, 0, or anything else for unlabelled.
    """
    active_aus = row.get("active_aus")
    if active_aus is not None:
        numbers = re.findall(r"\d+", active_aus) if isinstance(active_aus, str) else active_aus
        return tuple(sorted({int(number) for number in numbers})), ()
    texts = {au_id: str(row[f"AU{au_id}"]).strip() for au_id in ACTION_UNITS if f"AU{au_id}" in row}
    labels = {au_id: {"1": 1, "0": 0}.get(text, -1) for au_id, text in texts.items()}
    return tuple(au_id for au_id, label in labels.items() if label == 1), unlabelled_aus(labels)


def _read_emotion(value: Any) -> str | None:
    """Read an emotion from an index or a name in any case; None if empty or a negative index."""
    text = "" if value is None else str(value).strip()
    if re.fullmatch(r"-?\d+", text):
        index = int(text)
        if index >= len(EMOTIONS):
            raise ValueError(f"emotion is {index}; it must be below {len(EMOTIONS)}.")
        return EMOTIONS[index] if index >= 0 else None
    if text and text.capitalize() not in EMOTIONS:
        raise ValueError(f"emotion is {text!r}; known are {', '.join(EMOTIONS)}.")
    return text.capitalize() or None


@contextmanager
def _optional_writer(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Provide a function that writes JSON lines to `path`, or nothing without a path."""
    if path is None:
        yield lambda row: None
    else:
        with jsonl_writer(path) as write:
            yield write
