"""`mf2 search`: finds faces in a folder by a description or a similar face, or the texts that describe a face.

    mf2 search "brows lowered, lips pressed" photos --model M
    mf2 search --like face.jpg photos --model M
    mf2 search --describe face.jpg --texts sentences.txt --model M

Faces are encoded once and stored in an index.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...hub.sources import DEFAULT_MODEL, check_model_source
from ..face_arguments import FaceSearch, add_face_arguments

if TYPE_CHECKING:
    from ..media import Source
    from .face_index import Encoder, FaceIndex, Shard
    from .scoring import Scorer

BRANCHES = ("emo", "au")
AUTO, EXACT, APPROXIMATE = METHODS = ("auto", "exact", "approximate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 search`."""
    add = parser.add_argument
    add("query", nargs="*", metavar="TEXT PATH", help="description, and the folder; --like needs the folder only")
    add("--model", default=DEFAULT_MODEL, help="folder or Hub repository of a checkpoint [%(default)s]")
    add("--like", type=Path, metavar="IMAGE", help="search for faces similar to the one in this picture")
    add(
        "--describe",
        type=Path,
        metavar="IMAGE",
        help="rank --texts by how well they describe the face in this picture",
    )
    add("--texts", type=Path, metavar="FILE", help="one text per line")
    add("--top_k", type=int, default=12, metavar="N", help="number of results [%(default)s]")
    add("--branch", choices=BRANCHES, default="emo", help="compare whole faces or AU regions [%(default)s]")
    add(
        "--method",
        choices=METHODS,
        default=AUTO,
        help="score every face, or only candidates found with faiss; auto: candidates from 20,000 faces on, "
        "if faiss is installed [%(default)s]",
    )
    add("--candidates", type=int, default=500, metavar="N", help="of an approximate search [%(default)s]")
    add("--fps", type=float, default=1.0, help="frames per second of videos to encode [%(default)s]")
    add("--index", type=Path, metavar="DIR", help="folder of the index [a folder in ~/.cache/mf2]")
    add(
        "--output_dir",
        "--output",
        dest="output",
        type=Path,
        default=Path("outputs/search"),
        help="folder for the results [%(default)s]",
    )
    add("--device", help="cpu, cuda, cuda:1, mps, … [an accelerator if there is one]")
    add("--batch_size", type=int, default=16, metavar="N", help="faces per forward pass [%(default)s]")
    add_face_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Search, print and write the results; 1 if files could not be read."""
    if args.top_k < 1 or args.batch_size < 1 or args.fps <= 0:
        raise ValueError("--top_k, --batch_size and --fps must be above 0.")
    if args.candidates < args.top_k:
        raise ValueError(f"--candidates is {args.candidates}; it must be at least --top_k, {args.top_k}.")
    if args.method == APPROXIMATE:
        from .candidates import import_faiss

        import_faiss()  # fails before faces are encoded
    check_model_source(args.model, "mf2 search")
    if args.describe:
        return _run_describe(args)
    text, folder = _parse_query(args)
    from ..media import find_sources
    from .face_index import FaceIndex
    from .ranking import encode_face, search, text_scorer, write_results
    from .scoring import FaceScorer

    sources, _ = find_sources([folder])
    encoder = _make_encoder(args, sources)
    like = encode_face(encoder, args.like) if args.like else None
    index = FaceIndex(
        args.index or default_index_folder(folder, args.branch), encoder, _face_search_key(args, encoder)
    )
    num_encoded = index.update(sources)
    print(f"{len(index):,} faces of {len(index.files):,} files in {index.folder}, {num_encoded:,} files encoded now")
    scorer = text_scorer(encoder.model, encoder.processor, text, args.branch) if like is None else FaceScorer(like)
    matches = search(index, scorer, args.top_k, _find_candidates(args, index, scorer))
    for rank, match in enumerate(matches, start=1):
        print(f"{rank:3d}  {match.score:6.3f}  {match.path}{f' frame {match.frame}' if match.frame else ''}")
    query = {"text": text} if like is None else {"like": str(args.like)}
    settings = {"model": args.model, "branch": args.branch}
    write_results(args.output, query | settings | {"errors": index.errors}, matches)
    for path, error in index.errors.items():
        print(f"mf2 search: failed: {path}: {error}", file=sys.stderr)
    return 1 if index.errors else 0


def _find_candidates(args: argparse.Namespace, index: "FaceIndex", scorer: "Scorer") -> "Iterable[Shard] | None":
    """The faces to score; None for all."""
    from .candidates import LARGE_FACES, MIN_FACES, Candidates

    is_large = len(index) >= (LARGE_FACES if args.method == AUTO else max(MIN_FACES, args.candidates + 1))
    if args.method == EXACT or not is_large:
        return None
    if args.method == AUTO and importlib.util.find_spec("faiss") is None:
        print(
            "Every face is scored; pip install 'mf2-face[search]' for a faster, approximate search.", file=sys.stderr
        )
        return None
    print(f"approximate: the {args.candidates:,} likeliest of {len(index):,} faces are scored; --method exact for all")
    return Candidates(index).shards(scorer, args.candidates)


def _parse_query(args: argparse.Namespace) -> tuple[str, str]:
    """Return the text (empty with --like) and the folder."""
    if len(args.query) != 2 - bool(args.like):
        expected = "--like IMAGE and the folder" if args.like else "a text in quotes and the folder"
        raise ValueError(f"Give {expected}; got {args.query}.")
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
    from ..media import Source
    from .ranking import describe, encode_face, write_results

    encoder = _make_encoder(args, [Source(args.describe, str(args.describe), is_video=False)])
    found = describe(encoder, encode_face(encoder, args.describe), texts, args.top_k)
    for text, score in found:
        print(f"{score:6.3f}  {text}")
    results = [{"text": text, "score": score} for text, score in found]
    settings = {"describe": str(args.describe), "model": args.model, "branch": args.branch}
    write_results(args.output, settings | {"texts": results})
    return 0


def _make_encoder(args: argparse.Namespace, sources: Sequence["Source"]) -> "Encoder":
    from ..faces import make_finder
    from ..recognizer import Recognizer
    from .face_index import Encoder

    recognizer = Recognizer.from_pretrained(args.model, device=args.device)
    recognizer.model.get_branch(args.branch)
    preferred = recognizer.image_processor.landmark_detector
    find = make_finder(FaceSearch.from_args(args), preferred, str(recognizer.device), sources)
    return Encoder(recognizer.model, recognizer.processor, find, args.branch, args.batch_size, args.fps)


def _face_search_key(args: argparse.Namespace, encoder: "Encoder") -> str:
    """Key of the face search, which changes with the detector, its model and the file of points."""
    from ..faces import describe_finder

    search = FaceSearch.from_args(args)
    detector = describe_finder(search, encoder.processor.image_processor.landmark_detector)
    limits = [search.min_face_score, search.min_face_size, search.small_faces, search.first_frame]
    return json.dumps([detector, limits])


def default_index_folder(folder: str | Path, branch: str) -> Path:
    """`~/.cache/mf2/search/…` (or in `XDG_CACHE_HOME`), one per searched folder and branch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16]
    return cache / "mf2" / "search" / f"{name}-{branch}"
