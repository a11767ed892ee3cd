"""Ranks faces by a text or a similar face, and texts by a face.

Faces and texts are compared in the embedding space that a branch was trained to align; scores are computed for a part
of the index at a time.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

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
from .face_index import Encoder, FaceIndex, Shard
from .scoring import Scorer, TextScorer

TEXTS_PER_CHUNK = 64
FACES_PER_PART = 64
"""Faces scored at once, chosen to fit into a CPU cache in float32."""
NUM_CAPTIONS = 8
"""Number of template captions used in place of an emotion's name."""
SHEET_COLUMNS, SHEET_FACE_PX = 6, 160


@dataclass(frozen=True)
class Match:
    """A result: the position of a face and its score, a cosine in [-1, 1]; `box` is None for a face crop."""

    score: float
    path: str
    frame: int
    time_s: float
    face: int
    box: tuple[float, float, float, float] | None


# ------------------------------------------------------------------------------------------------------------ scoring
def text_scorer(model: MF2Model, processor: MF2Processor, text: str, branch: str) -> TextScorer:
    """Make a scorer of faces by a text.

    The text is converted to the forms that the branch was trained on, and their scores are averaged: with the prompt
    of each kind of caption, if there are several; split into clauses, if AU captions are one sentence per AU. For the
    global branch, a single emotion word is replaced by captions of that emotion's prototype, as no caption in training
    is a single word.
    """
    return TextScorer(embed_texts(model, processor, _phrasings(model, processor, text, branch), branch))


def _phrasings(model: MF2Model, processor: MF2Processor, text: str, branch: str) -> list[str]:
    """Convert a text to the forms that the branch was trained on."""
    if branch == "au" and model.config.au_text_mode == "per_au":
        return [clause.strip() for clause in text.split(",") if clause.strip()]
    if branch != "emo":
        return [text]
    texts = _emotion_captions(text) or [text]
    prompts = [f"{processor.tokenizer.decode(ids)} " for ids in (model.config.caption_prompt_ids or {}).values()]
    return [prompt + caption for prompt in prompts or [""] for caption in texts]


def _emotion_captions(word: str) -> list[str]:
    """Template captions of the emotion that a word names, with its prototype's AUs; empty for other texts."""
    emotion = EMOTION_OF_WORD.get(word.strip().lower())
    if emotion is None:
        return []
    captions = [template_captions(str(number), PROTOTYPES.get(emotion, ()), emotion) for number in range(NUM_CAPTIONS)]
    return [caption.emotion for caption in captions if caption.emotion]


@torch.inference_mode()
def embed_texts(model: MF2Model, processor: MF2Processor, texts: Sequence[str], branch: str) -> torch.Tensor:
    """`(M, P)` embeddings of texts on the CPU, in batches of `TEXTS_PER_CHUNK`."""
    chunks = []
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        batch = processor(text=list(texts[start : start + TEXTS_PER_CHUNK])).to(model.device)
        chunks.append(model.get_text_features(**batch, branch=branch).pooler_output.cpu())
    return torch.cat(chunks)


def search(index: FaceIndex, scorer: Scorer, top_k: int, shards: Iterable[Shard] | None = None) -> list[Match]:
    """Return the `top_k` faces with the highest scores, best first; memory does not grow with the index.

    Args:
        index: the faces.
        scorer: of the query.
        top_k: number of results.
        shards: faces of the index to score instead of all, see `Candidates.shards`.
    """
    best: list[Match] = []
    for shard in index.shards() if shards is None else shards:
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
    """Return the `top_k` texts with the highest scores for a face `(Q, P)`, best first."""
    model = encoder.model
    best: list[tuple[str, float]] = []
    for start in range(0, len(texts), TEXTS_PER_CHUNK):
        chunk = texts[start : start + TEXTS_PER_CHUNK]
        phrasings = [_phrasings(model, encoder.processor, text, encoder.branch) for text in chunk]
        features = embed_texts(
            model, encoder.processor, [phrasing for forms in phrasings for phrasing in forms], encoder.branch
        )
        scores = model.get_retrieval_scores(embeds[None], features)[0].split([len(forms) for forms in phrasings])
        scored = [(text, round(float(values.mean()), 4)) for text, values in zip(chunk, scores, strict=True)]
        best = heapq.nlargest(top_k, best + scored, key=lambda pair: pair[1])
    return best


def encode_face(encoder: Encoder, path: Path) -> torch.Tensor:
    """`(Q, P)` embeddings of the largest face in a picture.

    Raises:
        ValueError: the picture cannot be read or no face is found.
    """
    errors: list[str] = []

    def locate() -> Iterator[Any]:
        for located in encoder.locate([(0, Source(path, str(path), is_video=False))]):
            errors.extend(filter(None, [located.error]))
            yield located

    faces = list(encoder.encode(locate()))
    if not faces:
        raise ValueError(f"{path}: {errors[0] if errors else 'no face was found; try --landmarks mean_face.'}")
    return faces[0].embeds


# ------------------------------------------------------------------------------------------------------------ results
def draw_matches(matches: Sequence[Match]) -> Any:
    """Draw a contact sheet of the faces, best first."""
    faces = crop_matches(matches, SHEET_FACE_PX)
    cells = [
        (faces[match], f"{rank}.  {match.score:.3f}", shorten(_format_location(match), 30))
        for rank, match in enumerate(matches, start=1)
    ]
    return draw_grid(cells, min(SHEET_COLUMNS, len(cells)), SHEET_FACE_PX)


def crop_matches(matches: Sequence[Match], size: int) -> dict[Match, Image.Image]:
    """Crop the faces from their sources, as squares of `size` pixels; sources that are gone are omitted."""
    times_by_path: dict[str, dict[int, float]] = {}
    for match in matches:
        times_by_path.setdefault(match.path, {})[match.frame] = match.time_s
    faces: dict[Match, Image.Image] = {}
    for path, times in times_by_path.items():
        for frame, image in read_frames(path, times):
            in_frame = (match for match in matches if (match.path, match.frame) == (path, frame))
            faces |= {match: crop_face(image, match.box, size) for match in in_frame}
    return faces


def _format_location(match: Match) -> str:
    name = Path(match.path).name
    return f"{name} {match.time_s:.1f} s" if match.frame else name


def write_results(output: Path, results: dict[str, Any], matches: Sequence[Match] = ()) -> None:
    """Write `results.json` and, if there are matches, `contact_sheet.png`."""
    if matches:
        results = results | {"matches": [asdict(match) for match in matches]}
    write_json(output / "results.json", results)
    sheet = output / "contact_sheet.png"
    sheet.unlink(missing_ok=True)  # from an earlier search
    if matches:
        with illustration(sheet), replacing(sheet) as part:
            draw_matches(matches).save(part)
