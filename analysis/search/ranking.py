"""Faces that fit a text or look like another face, and texts that fit a face.

Faces and texts are compared in the space in which a branch was trained to align them; scores are computed a part of
the index at a time.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...caption_meaning_mf2 import EMOTION_OF_WORD
from ...dataset_tools.captions import template_captions
from ...dataset_tools.contact_sheet import draw_grid
from ...labels_mf2 import PROTOTYPES
from ...modeling_mf2 import MF2Model
from ...processing_mf2 import MF2Processor
from ...utils.command_line import illustration
from ...utils.files import replacing, write_json
from ..media import Source
from ..report.page import shorten
from ..thumbnails import crop_face, read_frames
from .face_index import Encoder, FaceIndex

TEXTS_PER_CHUNK = 64
FACES_PER_PART = 64
"""Faces scored at once: as many as a processor's cache holds in float32."""
NUM_CAPTIONS = 8
"""Captions that stand for the name of an emotion."""
SHEET_COLUMNS, SHEET_FACE_PX = 6, 160

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""`(F, Q, P)` embeddings of faces -> `(F,)` how well each fits."""


@dataclass(frozen=True)
class Match:
    """A face that fits: where it is, and how well, a cosine in [-1, 1]; `box` is None for a face crop."""

    score: float
    path: str
    frame: int
    time_s: float
    face: int
    box: tuple[float, float, float, float] | None


# ------------------------------------------------------------------------------------------------------------ scoring
def text_scorer(model: MF2Model, processor: MF2Processor, text: str, branch: str) -> Scorer:
    """Scores faces by how well a text fits them.

    The text is put into the forms in which the branch has seen texts, and the mean counts: behind each opening, where
    it learned captions of several kinds; clause by clause, where it learned a sentence for each AU. For the global
    branch a bare word for an emotion stands for captions of that emotion's prototype: no caption is a single word.
    """
    texts = _phrasings(model, processor, text, branch)
    features = embed_texts(model, processor, texts, branch)
    return lambda embeds: model.get_retrieval_scores(embeds, features).mean(1)


def _phrasings(model: MF2Model, processor: MF2Processor, text: str, branch: str) -> list[str]:
    """The text in the forms in which the branch has seen texts."""
    if branch == "au" and model.config.au_text_mode == "per_au":
        return [clause.strip() for clause in text.split(",") if clause.strip()]
    if branch != "emo":
        return [text]
    texts = _captions_of(text) or [text]
    openings = [f"{processor.tokenizer.decode(ids)} " for ids in (model.config.caption_prompt_ids or {}).values()]
    return [opening + each for opening in openings or [""] for each in texts]


def _captions_of(word: str) -> list[str]:
    """Captions of the emotion that a word names, with the AUs of its FACS prototype; none for other texts."""
    emotion = EMOTION_OF_WORD.get(word.strip().lower())
    if emotion is None:
        return []
    captions = [template_captions(str(number), PROTOTYPES.get(emotion, ()), emotion) for number in range(NUM_CAPTIONS)]
    return [caption.emotion for caption in captions if caption.emotion]


@torch.inference_mode()
def embed_texts(model: MF2Model, processor: MF2Processor, texts: Sequence[str], branch: str) -> torch.Tensor:
    """`(M, P)` embeddings of texts on the CPU, `TEXTS_PER_CHUNK` of them a pass."""
    chunks = []
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        batch = processor(text=list(texts[start : start + TEXTS_PER_CHUNK])).to(model.device)
        chunks.append(model.get_text_features(**batch, branch=branch).pooler_output.cpu())
    return torch.cat(chunks)


def face_scorer(embeds: torch.Tensor) -> Scorer:
    """Scores faces by their likeness to one: the mean cosine of what each query `(Q, P)` sees in both."""
    return lambda others: others.flatten(1) @ embeds.flatten() / len(embeds)


def search(index: FaceIndex, scorer: Scorer, top_k: int) -> list[Match]:
    """The `top_k` faces that fit best, the best first; memory does not grow with the index."""
    best: list[Match] = []
    for shard in index.shards():
        parts = shard.tensors["embeds"].split(FACES_PER_PART)
        scores = torch.cat([scorer(part.float()) for part in parts])
        values, rows = scores.topk(min(top_k, len(scores)))
        found = [
            _match(shard.paths, shard.tensors, row, value)
            for row, value in zip(rows.tolist(), values.tolist(), strict=True)
        ]
        best = heapq.nlargest(top_k, best + found, key=lambda match: match.score)
    return best


def _match(paths: list[str], tensors: dict[str, torch.Tensor], row: int, score: float) -> Match:
    box = tensors["boxes"][row]
    return Match(
        score=round(score, 4),
        path=paths[row],
        frame=int(tensors["frames"][row]),
        time_s=float(tensors["times"][row]),
        face=int(tensors["ids"][row]),
        box=None if box.isnan().any() else tuple(round(side, 1) for side in box.tolist()),
    )


def describe(encoder: Encoder, embeds: torch.Tensor, texts: Sequence[str], top_k: int) -> list[tuple[str, float]]:
    """The texts that fit a face `(Q, P)` best, each with its score, the best first; in parts of `TEXTS_PER_CHUNK`."""
    model = encoder.model
    best: list[tuple[str, float]] = []
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        chunk = texts[start : start + TEXTS_PER_CHUNK]
        phrasings = [_phrasings(model, encoder.processor, text, encoder.branch) for text in chunk]
        features = embed_texts(
            model, encoder.processor, [each for forms in phrasings for each in forms], encoder.branch
        )
        scores = model.get_retrieval_scores(embeds[None], features)[0].split([len(forms) for forms in phrasings])
        scored = [(text, round(float(of_text.mean()), 4)) for text, of_text in zip(chunk, scores, strict=True)]
        best = heapq.nlargest(top_k, best + scored, key=lambda pair: pair[1])
    return best


def encode_face(encoder: Encoder, path: Path) -> torch.Tensor:
    """`(Q, P)` embeddings of the largest face of a picture.

    Raises:
        ValueError: the picture cannot be read or shows no face.
    """
    errors: list[str] = []

    def watched() -> Iterator[Any]:
        for located in encoder.locate([(0, Source(path, str(path), is_video=False))]):
            errors.extend(filter(None, [located.error]))
            yield located

    faces = list(encoder.encode(watched()))
    if not faces:
        raise ValueError(f"{path}: {errors[0] if errors else 'no face was found; try --landmarks mean_face.'}")
    return faces[0].embeds


# ------------------------------------------------------------------------------------------------------------ results
def draw_matches(matches: Sequence[Match]) -> Any:
    """A contact sheet of the faces, the best first."""
    wanted: dict[str, dict[int, float]] = {}
    for match in matches:
        wanted.setdefault(match.path, {})[match.frame] = match.time_s
    faces: dict[Match, Any] = {}
    for path, times in wanted.items():
        for frame, image in read_frames(path, times):
            shown = (match for match in matches if (match.path, match.frame) == (path, frame))
            faces |= {match: crop_face(image, match.box, SHEET_FACE_PX) for match in shown}
    cells = [
        (faces[match], f"{rank}.  {match.score:.3f}", shorten(_place(match), 30))
        for rank, match in enumerate(matches, start=1)
    ]
    return draw_grid(cells, min(SHEET_COLUMNS, len(cells)), SHEET_FACE_PX)


def _place(match: Match) -> str:
    name = Path(match.path).name
    return f"{name} {match.time_s:.1f} s" if match.frame else name


def write_results(output: Path, results: dict[str, Any], matches: Sequence[Match] = ()) -> None:
    """Write `results.json` and, of faces, `contact_sheet.png`."""
    if matches:
        results = results | {"matches": [asdict(match) for match in matches]}
    write_json(output / "results.json", results)
    sheet = output / "contact_sheet.png"
    sheet.unlink(missing_ok=True)  # of an earlier search
    if matches:
        with illustration(sheet), replacing(sheet) as part:
            draw_matches(matches).save(part)
