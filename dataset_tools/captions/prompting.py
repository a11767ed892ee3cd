"""Builds the requests to a model: prompt files, JSON schemas, request bodies and request keys."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from ...labels_mf2 import EMOTIONS
from ...utils.data_uris import make_data_uri
from .profiles import EndpointProfile
from .rules import CAPTION_KINDS, MAX_TOKENS, CaptionKind
from .text import au_head

PROMPTS_FOLDER = Path(__file__).with_name("prompts")
STAGES = ("setup", "format", "signal")
REASK_FILE = "reask.txt"

CHARS_PER_TOKEN = 4
"""For estimates of prompt tokens."""
_HEAD_TOKENS = 11.5  # average number of tokens of a head such as `1. AU1 (Inner Brow Raiser):`
_MAX_SENTENCE_WORDS = 20

_EMOTION_RULE = "Name it in the first sentence, as {emotion} or the like, and suggest none of: {others}."
_OTHER_RULE = "The label means an expression that is none of the basic ones: name none of {others}."


@dataclass(frozen=True)
class CaptionJob:
    """An image to caption and its labels.

    `image_id` is unique to the image; `load_image` returns the encoded file (JPEG, PNG, WebP or GIF) on demand;
    `emotion` is one of `EMOTIONS`, or None if unlabelled. AUs that are neither active nor in `unlabelled_aus` are
    labelled inactive.
    """

    image_id: str
    load_image: Callable[[], bytes]
    active_aus: tuple[int, ...]
    emotion: str | None
    unlabelled_aus: tuple[int, ...] = ()


@dataclass(frozen=True)
class CaptionRequest:
    """A request for one caption. `key` identifies its content, so that equal requests are sent once."""

    key: str
    image_id: str
    kind: CaptionKind
    active_aus: tuple[int, ...]
    emotion: str | None
    image: bytes
    unlabelled_aus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Feedback:
    """The feedback to the model in a re-ask: its last answer, if any, and the violated rules."""

    content: str | None
    violations: tuple[str, ...]


def requested_kinds(active_aus: Sequence[int], emotion: str | None) -> list[CaptionKind]:
    """The kinds to request: AU captions need an active AU, emotion captions an emotion, key-AU captions both."""
    is_requested: dict[CaptionKind, bool] = {
        "au": bool(active_aus),
        "emotion": emotion is not None,
        "key_au": bool(active_aus) and emotion is not None,
    }
    return [kind for kind in CAPTION_KINDS if is_requested[kind]]


class RequestBuilder:
    """Makes requests from jobs and request bodies from requests, for one endpoint profile.

    Args:
        profile: the profile of the endpoint, with a model.
        prompts_folder: folder with the ten prompt files; the shipped one by default.
        kinds: the kinds of captions to request.
    """

    def __init__(
        self,
        profile: EndpointProfile,
        prompts_folder: Path = PROMPTS_FOLDER,
        kinds: Sequence[CaptionKind] = CAPTION_KINDS,
    ) -> None:
        self.profile = profile
        self.kinds = tuple(kinds)
        self._prompts = load_prompts(prompts_folder)

    def prompt_sha256(self, kind: CaptionKind) -> str:
        """SHA-256 over the prompt files of a kind of caption."""
        return prompt_sha256(self._prompts, kind)

    @property
    def all_prompts_sha256(self) -> str:
        """One hash over all prompt files."""
        return _hash_texts(self._prompts.values())

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a request besides its messages and its schema."""
        profile = self.profile
        return {
            "model": profile.model_name,
            profile.token_limit_name: profile.max_output_tokens,
            **profile.parameters,
        }

    def requests(self, jobs: Iterable[CaptionJob]) -> Iterator[CaptionRequest]:
        """Yield the requests of every job; only one image at a time is in memory."""
        for job in jobs:
            if not (kinds := self.kinds_of(job)):
                continue
            image = job.load_image()
            active_aus = tuple(sorted(set(job.active_aus)))
            for kind in kinds:
                request = CaptionRequest("", job.image_id, kind, active_aus, job.emotion, image, job.unlabelled_aus)
                yield replace(request, key=self._key(request))

    def kinds_of(self, job: CaptionJob) -> list[CaptionKind]:
        """The kinds of captions of an image that are requested from a model."""
        return [kind for kind in requested_kinds(job.active_aus, job.emotion) if kind in self.kinds]

    def body(self, request: CaptionRequest, feedback: Feedback | None = None) -> dict[str, Any]:
        """The JSON body of a request; `feedback` makes it a re-ask."""
        uri = make_data_uri(request.image, _image_mime(request.image, request.image_id))
        body = self._body(request, uri)
        if feedback is not None:
            if feedback.content is not None:
                body["messages"].append({"role": "assistant", "content": feedback.content})
            violations = "\n".join(f"- {violation}" for violation in feedback.violations)
            text = Template(self._prompts[REASK_FILE]).substitute(violations=violations)
            body["messages"].append({"role": "user", "content": text})
        return body

    def estimate_tokens(self, request: CaptionRequest, feedback: Feedback | None = None) -> int:
        """Estimate the number of tokens of a request's prompt, including its image."""
        body = self._body(request, "")
        num_characters = sum(len(_message_text(message)) for message in body["messages"])
        if feedback is not None:
            num_characters += len(feedback.content or "") + sum(map(len, feedback.violations))
        return num_characters // CHARS_PER_TOKEN + self.profile.image_tokens

    def _key(self, request: CaptionRequest) -> str:
        """SHA-256 of the canonical body, in which the image is replaced by its SHA-256."""
        body = self._body(request, f"sha256:{hashlib.sha256(request.image).hexdigest()}")
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _body(self, request: CaptionRequest, image_url: str) -> dict[str, Any]:
        setup, answer_format, signal = (
            Template(self._prompts[name]).substitute(_prompt_values(request)) for name in _stage_files(request.kind)
        )
        image: dict[str, Any] = {"url": image_url}
        if self.profile.detail is not None:
            image["detail"] = self.profile.detail
        messages = [
            {"role": "system", "content": f"{setup}\n\n{answer_format}"},
            {
                "role": "user",
                "content": [{"type": "text", "text": signal}, {"type": "image_url", "image_url": image}],
            },
        ]
        body = {**self.parameters, "messages": messages}
        if self.profile.schema == "json_schema":
            body["response_format"] = {"type": "json_schema", "json_schema": answer_schema(request.kind)}
        elif self.profile.schema == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def load_prompts(folder: Path = PROMPTS_FOLDER) -> dict[str, str]:
    """Load the prompt files: file name -> text, for the three stages of each kind and the re-ask.

    Raises:
        FileNotFoundError: files are missing; they are named.
    """
    names = [name for kind in CAPTION_KINDS for name in _stage_files(kind)] + [REASK_FILE]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks the prompt files {', '.join(missing)}.")
    return {name: (folder / name).read_text("utf-8").strip() for name in names}


def prompt_sha256(prompts: Mapping[str, str], kind: CaptionKind) -> str:
    """SHA-256 over the prompt files of a kind of caption."""
    return _hash_texts(prompts[name] for name in (*_stage_files(kind), REASK_FILE))


def answer_schema(kind: CaptionKind) -> dict[str, Any]:
    """The strict JSON schema of an answer: all properties are required, and no others allowed."""
    text, number = {"type": "string"}, {"type": "integer"}
    properties: dict[CaptionKind, dict[str, Any]] = {
        "au": {"items": {"type": "array", "items": _strict_object({"au": number, "sentence": text})}},
        "emotion": {"caption": text},
        "key_au": {"key_aus": {"type": "array", "items": number}, "caption": text},
    }
    return {"name": f"{kind}_caption", "strict": True, "schema": _strict_object(properties[kind])}


def _stage_files(kind: CaptionKind) -> list[str]:
    return [f"{kind}_{stage}.txt" for stage in STAGES]


def _hash_texts(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _prompt_values(request: CaptionRequest) -> dict[str, str]:
    return {
        "active_aus": ", ".join(map(au_head, request.active_aus)),
        "emotion": request.emotion or "",
        "emotion_rule": _emotion_rule(request.emotion),
        "max_words": str(_max_words(request.kind, len(request.active_aus))),
    }


def _emotion_rule(emotion: str | None) -> str:
    others = ", ".join(other.lower() for other in EMOTIONS if other not in (emotion, "Other"))
    rule = _OTHER_RULE if emotion == "Other" else _EMOTION_RULE
    return rule.format(emotion=(emotion or "").lower(), others=others)


def _max_words(kind: CaptionKind, num_active: int) -> int:
    """A number of words that fits the token limit, for the whole text or for the sentence of one AU."""
    if kind != "au":
        return MAX_TOKENS[kind] * 3 // 4
    sentence_tokens = (MAX_TOKENS["au"] - 2) / num_active - _HEAD_TOKENS
    return max(2, min(_MAX_SENTENCE_WORDS, int(sentence_tokens) - 2))


def _message_text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else content[0]["text"]


def _image_mime(image: bytes, image_id: str) -> str:
    for magic, mime in ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif")):
        if image.startswith(magic):
            return f"image/{mime}"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"The image {image_id} is not a JPEG, PNG, WebP or GIF file; convert it first.")
