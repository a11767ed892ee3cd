"""Validates the raw answers of a model in a fixed order of checks, without trusting any part of them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from ...labels_mf2 import render_au_caption
from .profiles import Price
from .prompting import Feedback
from .rules import CaptionKind, TokenCounter, validate_caption
from .server_messages import server_message

NEW, SENT, RAW, VALID, DEAD, IN_DOUBT = "new", "sent", "raw", "valid", "dead", "in_doubt"
"""States of a request."""
BAD_REQUEST = "bad_request"
"""Reason of a dead request that the server refused permanently."""
REFUSED = "refused"
"""Reason of an unfinished request, if the server refused all requests."""


_REQUIRED_KEYS: dict[CaptionKind, frozenset[str]] = {
    "au": frozenset({"items"}),
    "emotion": frozenset({"caption"}),
    "key_au": frozenset({"key_aus", "caption"}),
}
"""The keys of an answer's JSON object."""
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reason|reasoning|analysis|reflection)\s*>", re.IGNORECASE)
_THOUGHT_START = re.compile(
    r"\A\s*<(?:think|thinking|thought|reason|reasoning|analysis|reflection)\s*>", re.IGNORECASE
)
_DECODER = json.JSONDecoder()


class Question(Protocol):
    """The kind and the labels of a requested caption, against which an answer is checked."""

    @property
    def kind(self) -> CaptionKind:
        """The kind of caption."""

    @property
    def active_aus(self) -> tuple[int, ...]:
        """The AUs labelled active."""

    @property
    def unlabelled_aus(self) -> tuple[int, ...]:
        """The AUs without a label."""

    @property
    def emotion(self) -> str | None:
        """The name of the emotion; None if unlabelled."""


@dataclass(frozen=True)
class Usage:
    """The billed tokens of an answer; `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def usd(self, price: Price, *, batch: bool) -> float:
        """The cost of the answer in US dollars."""
        return price.usd(self.prompt_tokens, self.cached_tokens, self.completion_tokens, batch=batch)


@dataclass(frozen=True)
class Judgement:
    """The result of checking one answer.

    `caption` is the valid text or None. Without a caption, `reason` is a category (`not_json`, `no_choices`,
    `content_filter`, `length`, `refusal`, `no_content`, `schema`, `rules`), `violations` describe the errors,
    `feedback` is the feedback for a re-ask (None: send the same request again), and `is_final` is True if asking again
    would not help.
    """

    caption: str | None
    reason: str = ""
    violations: tuple[str, ...] = ()
    feedback: Feedback | None = None
    is_final: bool = False
    model: str | None = None
    key_aus: tuple[int, ...] = ()
    usage: Usage | None = None


class _RejectedError(Exception):
    """An answer without a usable caption."""

    def __init__(
        self,
        reason: str,
        *violations: str,
        content: str | None = None,
        gives_feedback: bool = True,
        is_final: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.violations = violations
        self.feedback = Feedback(content, violations) if gives_feedback else None
        self.is_final = is_final


def judge_answer(question: Question, raw: str, count_tokens: TokenCounter | None = None) -> Judgement:
    """Check the raw text of an HTTP 200 answer: JSON, then `finish_reason`, refusal, content, schema and the rules.

    Any `finish_reason` but `length` and `content_filter` is accepted: servers use values of their own, or null.

    Args:
        question: kind and labels of the caption.
        raw: the body of the answer, which may be HTML, truncated JSON or without choices.
        count_tokens: as for `validate_caption`.
    """
    answer: Any = None
    try:
        answer = _parse_json_object(raw)
        caption, key_aus = _read_caption(question, _read_content(answer), count_tokens)
    except _RejectedError as rejected:
        return Judgement(
            caption=None,
            reason=rejected.reason,
            violations=rejected.violations,
            feedback=rejected.feedback,
            is_final=rejected.is_final,
            model=_read_model(answer),
            usage=_read_usage(answer),
        )
    return Judgement(caption=caption, model=_read_model(answer), key_aus=key_aus, usage=_read_usage(answer))


def next_state(judgement: Judgement, attempt: int, max_reasks: int) -> str:
    """`valid`, `dead`, or `new` to ask again; `attempt` is the number of previously rejected answers."""
    if judgement.caption is not None:
        return VALID
    return DEAD if judgement.is_final or attempt >= max_reasks else NEW


def describe_giving_up(num_answers: int, last: Judgement) -> str:
    """The reason for stopping a run without any usable answer."""
    return f"none of {num_answers} answers is usable; the last one: {last.reason}: {' '.join(last.violations)}"


def _parse_json_object(raw: str) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise _RejectedError(
            "not_json", f"The server's answer is not JSON: {raw[:80]!r}.", gives_feedback=False
        ) from None
    if not isinstance(answer, dict):
        raise _RejectedError(
            "not_json", f"The server's answer is not a JSON object: {raw[:80]!r}.", gives_feedback=False
        )
    return answer


def _read_content(answer: dict[str, Any]) -> str:
    """Read the text of the first choice, after checking choices, finish reason and refusal."""
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        message_text = f": {server_message(answer['error'])}" if answer.get("error") else ""
        raise _RejectedError("no_choices", f"The answer has no choices{message_text}.", gives_feedback=False)
    finish_reason = choice.get("finish_reason")
    if finish_reason == "content_filter":
        raise _RejectedError("content_filter", "The answer was stopped by the content filter.", is_final=True)
    if finish_reason == "length":
        raise _RejectedError("length", "The answer was cut off at the token limit; write less.")
    if message.get("refusal"):
        raise _RejectedError("refusal", f"The model refused: {message['refusal']}", is_final=True)
    content = _join_text_parts(message.get("content"))
    if not content.strip():
        suffix = "" if finish_reason in (None, "stop") else f"; it finished by {finish_reason!r}"
        raise _RejectedError("no_content", f"The answer has no content{suffix}.", gives_feedback=False)
    return content


def read_text(raw: str) -> str:
    """The text of an answer for display: that of its first choice, else the raw answer."""
    try:
        return _join_text_parts(json.loads(raw)["choices"][0]["message"]["content"]) or raw
    except (ValueError, RecursionError, LookupError, TypeError):
        return raw


def _join_text_parts(content: Any) -> str:
    """The text of a message's content, which is a text or a list of parts; parts with reasoning are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    is_text = [isinstance(part, dict) and part.get("type", "text") in ("text", "output_text") for part in parts]
    texts = [part.get("text") for part, is_answer in zip(parts, is_text, strict=True) if is_answer]
    return "".join(text for text in texts if isinstance(text, str))


def _read_caption(question: Question, content: str, count_tokens: TokenCounter | None) -> tuple[str, tuple[int, ...]]:
    """Read the caption from the content and, for a key-AU answer, the chosen AUs."""
    answer = _find_answer(question.kind, content)
    if violations := _schema_violations(question.kind, answer):
        raise _RejectedError("schema", *violations, content=content)
    key_aus: tuple[int, ...] = ()
    if question.kind == "au":
        if violations := _item_violations(answer["items"], question.active_aus):
            raise _RejectedError("rules", *violations, content=content)
        caption = render_au_caption({item["au"]: item["sentence"] for item in answer["items"]})
    else:
        key_aus = tuple(answer.get("key_aus", ()))
        violations = _choice_violations(key_aus, question.active_aus) if question.kind == "key_au" else []
        caption = answer["caption"].strip()
    violations += validate_caption(
        question.kind,
        caption,
        question.active_aus,
        question.emotion,
        unlabelled_aus=question.unlabelled_aus,
        count_tokens=count_tokens,
    )
    if violations:
        raise _RejectedError("rules", *violations, content=content)
    return caption, key_aus


def _find_answer(kind: CaptionKind, content: str) -> dict[str, Any]:
    """Find the JSON object in the content, which may be surrounded by reasoning, prose or a Markdown fence.

    Of several objects, the last valid one is used: earlier ones are drafts or examples.
    """
    objects = list(_find_json_objects(_strip_reasoning(content)))
    valid = [found for found in objects if not _schema_violations(kind, found)]
    if not objects:
        raise _RejectedError("schema", "The answer must be one JSON object.", content=content)
    return (valid or objects)[-1]


def _strip_reasoning(content: str) -> str:
    """The text after a block of reasoning; empty if the block does not end."""
    if ends := list(_THOUGHT_END.finditer(content)):
        return content[ends[-1].end() :]
    return "" if _THOUGHT_START.match(content) else content


def _find_json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text in order, without nested ones."""
    position = text.find("{")
    while position >= 0:
        try:
            found, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield found
        position = text.find("{", end)


def _schema_violations(kind: CaptionKind, answer: Any) -> list[str]:
    required = _REQUIRED_KEYS[kind]
    if not isinstance(answer, dict) or set(answer) != required:
        return [f"The answer must be a JSON object with exactly: {', '.join(sorted(required))}."]
    violations = []
    if "caption" in answer and not (isinstance(answer["caption"], str) and answer["caption"].strip()):
        violations.append("caption must be a text.")
    if "key_aus" in answer and not (isinstance(answer["key_aus"], list) and all(map(_is_int, answer["key_aus"]))):
        violations.append("key_aus must be a list of numbers.")
    if "items" in answer and not (isinstance(answer["items"], list) and all(map(_is_item, answer["items"]))):
        violations.append("items must be a list of objects with exactly: au (a number), sentence (a text).")
    return violations


def _is_item(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and set(item) == {"au", "sentence"}
        and _is_int(item["au"])
        and isinstance(item["sentence"], str)
        and bool(item["sentence"].strip())
    )


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _item_violations(items: list[dict[str, Any]], active_aus: tuple[int, ...]) -> list[str]:
    """Check that the AUs of the items are the active AUs, without duplicates, before the text is rendered."""
    described = [item["au"] for item in items]
    violations = []
    if missing := sorted(set(active_aus) - set(described)):
        violations.append(f"Active AUs are missing: {_codes(missing)}.")
    if extra := sorted(set(described) - set(active_aus)):
        violations.append(f"AUs that are not in the list: {_codes(extra)}.")
    if duplicates := sorted({au_id for au_id in described if described.count(au_id) > 1}):
        violations.append(f"AUs described more than once: {_codes(duplicates)}.")
    return violations


def _choice_violations(key_aus: tuple[int, ...], active_aus: tuple[int, ...]) -> list[str]:
    violations = []
    if not key_aus:
        violations.append("key_aus is empty; choose at least one action unit.")
    if extra := sorted(set(key_aus) - set(active_aus)):
        violations.append(f"key_aus has AUs that are not in the list: {_codes(extra)}.")
    if len(set(key_aus)) < len(key_aus):
        violations.append("key_aus has duplicates.")
    return violations


def _codes(au_ids: list[int]) -> str:
    return ", ".join(f"AU{au_id}" for au_id in au_ids)


def _read_model(answer: Any) -> str | None:
    model = answer.get("model") if isinstance(answer, dict) else None
    return model if isinstance(model, str) else None


def _read_usage(answer: Any) -> Usage | None:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=_read_count(usage, "prompt_tokens"),
        cached_tokens=_read_count(details, "cached_tokens"),
        completion_tokens=_read_count(usage, "completion_tokens"),
    )


def _read_count(counts: Any, name: str) -> int:
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if _is_int(count) else 0
