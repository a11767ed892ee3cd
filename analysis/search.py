"""`mf2 search`: the faces of a folder that fit a description or look like another face, or the words that fit a face.

    mf2 search "brows lowered, lips pressed" photos --model M
    mf2 search --like face.jpg photos --model M
    mf2 search --describe face.jpg --texts sentences.txt --model M

Faces and texts are compared in the space in which a branch was trained to align them. Faces are kept in an index and
encoded once; scores are computed a part of the index at a time.
"""

import argparse
import hashlib
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..dataset_tools.contact_sheet import draw_grid
from ..dataset_tools.report import replacing, write_json
from ..modeling_mf2 import MF2Model
from ..processing_mf2 import MF2Processor
from .face_index import Encoder, FaceIndex
from .faces import DETECT, make_finder
from .media import Source, find_sources
from .recognizer import Recognizer
from .report import shorten
from .thumbnails import crop_face, read_frames

BRANCHES = ("emo", "au")
TEXTS_PER_CHUNK = 64
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

    A branch that learned captions of several kinds, each behind an opening of its own, sees the text behind each, and
    the mean counts. One that learned a sentence for each AU sees the clauses of the text, and the mean counts.
    """
    texts = _phrasings(model, processor, text, branch)
    features = embed_texts(model, processor, texts, branch)
    return lambda embeds: model.get_retrieval_scores(embeds, features).mean(1)


def _phrasings(model: MF2Model, processor: MF2Processor, text: str, branch: str) -> list[str]:
    """The text in the forms in which the branch has seen texts."""
    if branch == "au" and model.config.au_text_mode == "per_au":
        return [clause.strip() for clause in text.split(",") if clause.strip()]
    prompts = (model.config.caption_prompt_ids or {}).values() if branch == "emo" else ()
    return [f"{processor.tokenizer.decode(ids)} {text}" for ids in prompts] or [text]


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
    return lambda others: (others * embeds).sum(-1).mean(1)


def search(index: FaceIndex, scorer: Scorer, top_k: int) -> list[Match]:
    """The `top_k` faces that fit best, the best first; memory does not grow with the index."""
    best: list[Match] = []
    for shard in index.shards():
        scores = scorer(shard.tensors["embeds"].float())
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
    model, best = encoder.model, []
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
        raise ValueError(errors[0] if errors else f"No face was found in {path}; try --landmarks mean_face.")
    return faces[0].embeds


# ------------------------------------------------------------------------------------------------------------ results
def draw_matches(matches: Sequence[Match]) -> Any:
    """A contact sheet of the faces, the best first."""
    wanted: dict[str, set[int]] = {}
    for match in matches:
        wanted.setdefault(match.path, set()).add(match.frame)
    frames = {path: read_frames(path, numbers) for path, numbers in wanted.items()}
    cells = []
    for rank, match in enumerate(matches, start=1):
        face = crop_face(frames[match.path][match.frame], match.box, SHEET_FACE_PX)
        cells.append((face, f"{rank}.  {match.score:.3f}", shorten(_place(match), 30)))
    return draw_grid(cells, min(SHEET_COLUMNS, len(cells)), SHEET_FACE_PX)


def _place(match: Match) -> str:
    name = Path(match.path).name
    return f"{name} {match.time_s:.1f} s" if match.frame else name


def write_results(output: Path, results: dict[str, Any], matches: Sequence[Match]) -> None:
    """Write `results.json` and, of faces, `contact_sheet.png`."""
    output.mkdir(parents=True, exist_ok=True)
    if matches:
        with replacing(output / "contact_sheet.png") as part:
            draw_matches(matches).save(part)
    write_json(output / "results.json", results)


# ------------------------------------------------------------------------------------------------------------ command
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mf2 search`."""
    add = parser.add_argument
    add("query", nargs="*", metavar="TEXT PATH", help="description, and the folder; --like needs the folder only")
    add("--model", required=True, help="checkpoint folder or Hub repository")
    add("--like", type=Path, metavar="IMAGE", help="search for faces like that of this picture instead of a text")
    add("--describe", type=Path, metavar="IMAGE", help="choose from --texts what fits the face of this picture")
    add("--texts", type=Path, metavar="FILE", help="one text a line")
    add("--top_k", type=int, default=12, metavar="N", help="how many [%(default)s]")
    add("--branch", choices=BRANCHES, default="emo", help="compare whole faces or AU regions [%(default)s]")
    add("--landmarks", default=DETECT, metavar="detect|mean_face|FILE", help="as of `mf2 analyze` [detect]")
    add("--backend", help="detector [the checkpoint's]")
    add("--model_file", metavar="FILE", help="weights of the detector, where it wants them named")
    add("--fps", type=float, default=1.0, help="frames a second to take of videos [%(default)s]")
    add("--index", type=Path, metavar="DIR", help="where encoded faces are kept [a folder in ~/.cache/mf2]")
    add("--output", type=Path, default=Path("outputs/search"), help="folder of the results [%(default)s]")
    add("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    add("--batch_size", type=int, default=16, metavar="N", help="faces in a pass [%(default)s]")


def run(args: argparse.Namespace) -> int:
    """Search, print what was found, and write it; 1 where files could not be read."""
    if args.top_k < 1 or args.batch_size < 1 or args.fps <= 0:
        raise ValueError("--top_k, --batch_size and --fps must be above 0.")
    if args.describe:
        return _run_describe(args)
    text, folder = _query_of(args)
    sources, _ = find_sources([folder])
    encoder = _make_encoder(args, sources)
    like = encode_face(encoder, args.like) if args.like else None
    index = FaceIndex(args.index or default_index_folder(folder, args.branch), encoder, _faces_key(args, encoder))
    num_encoded = index.update(sources)
    print(f"{len(index):,} faces of {len(index.files):,} files in {index.folder}, {num_encoded:,} files encoded now")
    scorer = text_scorer(encoder.model, encoder.processor, text, args.branch) if like is None else face_scorer(like)
    matches = search(index, scorer, args.top_k)
    for rank, match in enumerate(matches, start=1):
        print(f"{rank:3d}  {match.score:6.3f}  {match.path}{f' frame {match.frame}' if match.frame else ''}")
    query = {"text": text} if like is None else {"like": str(args.like)}
    settings = {"model": args.model, "branch": args.branch}
    results = query | settings | {"matches": [asdict(match) for match in matches], "errors": index.errors}
    write_results(args.output, results, matches)
    for error in index.errors.values():
        print(error)
    return 1 if index.errors else 0


def _query_of(args: argparse.Namespace) -> tuple[str, str]:
    """The text (empty with --like) and the folder."""
    if len(args.query) != 2 - bool(args.like):
        wanted = "--like IMAGE and the folder" if args.like else "a text in quotes and the folder"
        raise ValueError(f"Give {wanted}; got {args.query}.")
    *texts, folder = args.query
    if texts and not texts[0].strip():
        raise ValueError("The text is empty; describe a face, such as 'brows lowered, lips pressed'.")
    return "".join(texts), folder


def _run_describe(args: argparse.Namespace) -> int:
    if args.texts is None or args.query:
        raise ValueError("--describe IMAGE needs --texts FILE, one text a line, and no folder.")
    texts = [line.strip() for line in args.texts.read_text("utf-8").splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{args.texts} holds no text; write one a line.")
    encoder = _make_encoder(args, [Source(args.describe, str(args.describe), is_video=False)])
    found = describe(encoder, encode_face(encoder, args.describe), texts, args.top_k)
    for text, score in found:
        print(f"{score:6.3f}  {text}")
    results = [{"text": text, "score": score} for text, score in found]
    settings = {"describe": str(args.describe), "model": args.model, "branch": args.branch}
    write_results(args.output, settings | {"texts": results}, [])
    return 0


def _make_encoder(args: argparse.Namespace, sources: Sequence[Source]) -> Encoder:
    recognizer = Recognizer.from_pretrained(args.model, device=args.device)
    recognizer.model.get_branch(args.branch)
    backend = args.backend or recognizer.image_processor.landmark_detector
    names = [source.name for source in sources]
    find = make_finder(args.landmarks, backend, str(recognizer.device), args.model_file, names)
    return Encoder(recognizer.model, recognizer.processor, find, args.branch, args.batch_size, args.fps)


def _faces_key(args: argparse.Namespace, encoder: Encoder) -> str:
    """Names the way in which faces are found; a changed file of landmarks is another way."""
    if args.landmarks == DETECT:
        return f"{args.backend or encoder.processor.image_processor.landmark_detector} {args.model_file or ''}".strip()
    file = Path(args.landmarks)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else args.landmarks


def default_index_folder(folder: str | Path, branch: str) -> Path:
    """`~/.cache/mf2/search/…` (or below `XDG_CACHE_HOME`), one for each searched folder and branch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16]
    return cache / "mf2" / "search" / f"{name}-{branch}"
