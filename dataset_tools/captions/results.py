"""Reads the captions of images from a store, with their provenance, and writes dead letters."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...labels_mf2 import NO_ACTIVE_AU_CAPTION
from ...utils.files import replacing
from .answers import DEAD, IN_DOUBT, VALID
from .prompting import CaptionJob, RequestBuilder, requested_kinds
from .rules import CAPTION_KINDS, CaptionKind
from .store import CaptionStore, StoredRequest
from .template import template_captions
from .text import no_key_au_caption

TEMPLATE_SOURCE = "template"
DEAD_LETTERS_NAME = "dead_letters.jsonl"


@dataclass(frozen=True)
class ImageCaptions:
    """The captions of one image and the source of each: the name of a profile, or `template`."""

    texts: dict[CaptionKind, str | None]
    sources: dict[CaptionKind, str]
    requests: dict[CaptionKind, StoredRequest]
    prompt_sha256: str | None

    def columns(self) -> dict[str, str | None]:
        """The caption columns of a data set row.

        `caption_source` is one name if all captions share their source, else `au=paper emotion=template …`.
        """
        sources = set(self.sources.values())
        models = sorted({request.response_model or "" for request in self.requests.values()})
        return {
            **{f"caption_{kind}": self.texts.get(kind) for kind in CAPTION_KINDS},
            "caption_source": self._mixed_source() if len(sources) > 1 else next(iter(sources), None),
            "caption_model": ", ".join(models) or None,
            "prompt_sha256": self.prompt_sha256 if self.requests else None,
        }

    def provenance(self) -> dict[str, Any]:
        """The provenance of each caption from a model: request key, parameters, prompt and answering model."""
        return {
            kind: {
                "key": request.key,
                "model": request.response_model,
                "parameters": request.parameters,
                "prompt_sha256": request.prompt_sha256,
                "reasks": request.attempt,
                "key_aus": list(request.key_aus),
            }
            for kind, request in self.requests.items()
        }

    def _mixed_source(self) -> str:
        return " ".join(f"{kind}={source}" for kind, source in self.sources.items())


def template_image_captions(job: CaptionJob, seed: int = 0) -> ImageCaptions:
    """The captions of the offline backend."""
    captions = template_captions(job.image_id, job.active_aus, job.emotion, seed, unlabelled_aus=job.unlabelled_aus)
    texts: dict[CaptionKind, str | None] = {
        "au": captions.au,
        "emotion": captions.emotion,
        "key_au": captions.key_au,
    }
    sources: dict[CaptionKind, str] = {kind: TEMPLATE_SOURCE for kind, text in texts.items() if text is not None}
    return ImageCaptions(texts, sources, {}, None)


class ResultReader:
    """Reads the captions of jobs from a store.

    Args:
        store: the store with the answers.
        builder: the request builder of the run.
        with_template: replace missing captions by template captions, which are marked as such.
        seed: seed of the template.
    """

    def __init__(self, store: CaptionStore, builder: RequestBuilder, *, with_template: bool, seed: int = 0) -> None:
        self._store = store
        self._builder = builder
        self._with_template = with_template
        self._seed = seed

    def captions_of(self, job: CaptionJob) -> ImageCaptions:
        """The three captions of an image; None for a missing caption that is not replaced."""
        texts: dict[CaptionKind, str | None] = dict(_fixed_captions(job))
        sources: dict[CaptionKind, str] = {}
        requests: dict[CaptionKind, StoredRequest] = {}
        for request in self._builder.requests([job]):
            stored = self._store.get(request.key)
            if stored is not None and stored.state == VALID:
                texts[request.kind] = stored.caption
                sources[request.kind] = self._builder.profile.name
                requests[request.kind] = stored
        if self._with_template:
            template = template_image_captions(job, self._seed)
            for kind in requested_kinds(job.active_aus, job.emotion):
                if kind not in requests:
                    texts[kind], sources[kind] = template.texts[kind], TEMPLATE_SOURCE
        if not sources and any(texts.values()):
            sources = dict.fromkeys(texts, TEMPLATE_SOURCE)
        return ImageCaptions(texts, sources, requests, self._builder.all_prompts_sha256)


def _fixed_captions(job: CaptionJob) -> dict[CaptionKind, str]:
    """The fixed captions of a face with all AUs labelled and none active; they need no model."""
    if job.active_aus or job.unlabelled_aus:
        return {}
    fixed: dict[CaptionKind, str] = {"au": NO_ACTIVE_AU_CAPTION}
    if job.emotion is not None:
        fixed["key_au"] = no_key_au_caption(job.emotion)
    return fixed


def write_dead_letters(store: CaptionStore, path: Path) -> int:
    """Write the requests that ended without a caption as JSONL, with their reasons; returns their number."""
    letters = (
        {
            "image_id": stored.image_id,
            "kind": stored.kind,
            "active_aus": stored.active_aus,
            "emotion": stored.emotion,
            "state": stored.state,
            "reason": stored.reason,
            "violations": stored.violations,
            "key": stored.key,
            "answer": store.last_raw(stored.key),
        }
        for state in (DEAD, IN_DOUBT)
        for stored in store.find(state)
    )
    num_letters = 0
    with jsonl_writer(path) as write:
        for letter in letters:
            write(letter)
            num_letters += 1
    return num_letters


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Provide a function that writes a row as a JSON line; the file gets its name if the block succeeds."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write
