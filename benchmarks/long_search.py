"""How the index of `mf2 search` grows: building, size, queries, and what an approximate search misses.

An index of any size is made by imitating real embeddings, those of pictures by a checkpoint: each face lies between a
real one and one of its nearest neighbours, with noise. Without pictures, embeddings are random mixtures of a few
directions. Larger shapes than the checkpoint's are made by repeating the vectors of a face, with further noise, and by
an isometry to more dimensions, which keeps all cosines.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from tqdm import tqdm

from mf2.analysis.face_arguments import MEAN_FACE, FaceSearch
from mf2.analysis.faces import make_finder
from mf2.analysis.media import find_sources
from mf2.analysis.recognizer import Recognizer
from mf2.analysis.search.candidates import FACES, MIN_FACES, NAME, VECTORS, Candidates
from mf2.analysis.search.face_index import FORMAT, INDEX_NAME, Encoder, FaceIndex, IndexedFile
from mf2.analysis.search.ranking import search, text_scorer
from mf2.analysis.search.scoring import FaceScorer, Scorer, TextScorer
from mf2.dataset_tools.captions import template_captions
from mf2.labels_mf2 import PROTOTYPES
from mf2.utils.files import write_json

FACES_PER_SHARD = 4096
NEIGHBOURS = 10
NOISE, COPY_NOISE = 0.1, 0.05
"""Length of the noise that is added to vectors of length 1: to all, and to repeated ones."""
RANDOM_FACES, RANDOM_DIRECTIONS, RANDOM_TEXTS, RANDOM_PHRASINGS = 1000, 24, 20, 4
TOP_K = 10
TIMED_EXACT = 3
"""Timed exact searches of each kind."""
FACES_PER_PART = 64

Result = TypeVar("Result")
Queries = Mapping[str, Sequence[Scorer]]
"""Kind of the queries -> queries."""


@dataclass(frozen=True)
class Originals:
    """Embeddings to imitate.

    Args:
        faces: `(N, Q, P)`.
        texts: `(M, P)` phrasings of each text.
    """

    faces: torch.Tensor
    texts: list[torch.Tensor]

    @classmethod
    def encode(cls, pictures: str, model: str, folder: Path) -> "Originals":
        """Encode the faces of pictures, with the mean face as landmarks, and captions of all emotions."""
        recognizer = Recognizer.from_pretrained(model, device="cpu")
        sources, _ = find_sources([pictures])
        find = make_finder(FaceSearch(MEAN_FACE), "", "cpu", sources)
        branch = next(iter(recognizer.model.branches))
        index = FaceIndex(folder, Encoder(recognizer.model, recognizer.processor, find, branch), MEAN_FACE)
        index.update(sources)
        faces = torch.cat([shard.tensors["embeds"].float() for shard in index.shards()])
        score = partial(text_scorer, recognizer.model, recognizer.processor, branch=branch)
        captions = [
            text
            for number in range(3)
            for emotion, au_ids in PROTOTYPES.items()
            if (text := template_captions(str(number), au_ids, emotion).emotion)
        ]
        return cls(faces, [score(text).features for text in captions])

    @classmethod
    def draw(cls, queries: int, width: int, seed: int) -> "Originals":
        """Draw random mixtures of a few directions for each query, and texts among the vectors."""
        generator = torch.Generator().manual_seed(seed)
        directions = unit(queries, RANDOM_DIRECTIONS, width, generator=generator)
        mixture = torch.randn(RANDOM_FACES, RANDOM_DIRECTIONS, generator=generator)
        faces = normalize(torch.einsum("fd,qdp->fqp", mixture, directions), dim=-1)
        texts = [
            noisy(faces[2 * text, : min(RANDOM_PHRASINGS, queries)], 0.5, generator) for text in range(RANDOM_TEXTS)
        ]
        return cls(faces, texts)

    def enlarge(self, queries: int, width: int, seed: int) -> "Originals":
        """Repeat the vectors of a face up to `queries`, and map all to `width` dimensions by a random isometry."""
        generator = torch.Generator().manual_seed(seed)
        old_queries, old_width = self.faces.shape[1:]
        if queries < old_queries or width < old_width:
            raise ValueError(
                f"The checkpoint has {old_queries} vectors of {old_width} for a face; --queries {queries} and --width "
                f"{width} must not be less."
            )
        isometry = torch.linalg.qr(torch.randn(width, old_width, generator=generator))[0].T
        copies = [noisy(self.faces, COPY_NOISE, generator) for _ in range(-(-queries // old_queries) - 1)]
        faces = torch.cat([self.faces, *copies], dim=1)[:, :queries]
        return Originals(faces @ isometry, [text @ isometry for text in self.texts])

    def imitate(self, seed: int) -> Callable[[int], torch.Tensor]:
        """Make a function that draws so many new faces, `(F, Q, P)`."""
        generator = torch.Generator().manual_seed(seed)
        flat = self.faces.flatten(1)
        neighbours = (flat @ flat.T).topk(NEIGHBOURS + 1).indices[:, 1:]

        def draw(count: int) -> torch.Tensor:
            first = torch.randint(len(self.faces), (count,), generator=generator)
            second = neighbours[first, torch.randint(NEIGHBOURS, (count,), generator=generator)]
            share = torch.rand(count, 1, 1, generator=generator)
            return noisy(self.faces[first].lerp(self.faces[second], share), NOISE, generator)

        return draw


def unit(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Random vectors of length 1."""
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def noisy(vectors: torch.Tensor, length: float, generator: torch.Generator) -> torch.Tensor:
    """Vectors of length 1 with noise of a length, normalised again."""
    return normalize(vectors + length * unit(*vectors.shape, generator=generator), dim=-1)


# -------------------------------------------------------------------------------------------------------- measuring
class ReadyIndex(FaceIndex):
    """A prepared index, with the key in its folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = json.loads((folder / INDEX_NAME).read_text())["key"]
        self.files = self._load()


def measure_search(
    counts: Sequence[int], originals: Originals, candidates: int, searches: int, seed: int, folder: Path
) -> Iterator[dict[str, object]]:
    """Measure an index of each number of faces.

    Args:
        counts: numbers of faces.
        originals: embeddings that are imitated.
        candidates: faces that an approximate search scores exactly.
        searches: number of queries by a face, and by a text, at most.
        seed: of the imitations.
        folder: for the indices; deleted after each.
    """
    likes = originals.imitate(seed + 1)(searches)
    queries: Queries = {
        "face": [FaceScorer(like) for like in likes],
        "text": [TextScorer(text) for text in originals.texts[:searches]],
    }
    for count in counts:
        place = folder / str(count)
        place.mkdir(parents=True)
        num_vectors, width = originals.faces.shape[1:]
        row: dict[str, object] = {"faces": count, "vectors": num_vectors, "width": width}
        _, row["CPU s to build"] = clock(partial(save_index, place, count, originals.imitate(seed)))
        row["KB a face"] = size_of(place, "*") / count / 1e3
        index, row["CPU s to open"] = clock(partial(ReadyIndex, place))
        timed = {kind: scorers[:TIMED_EXACT] for kind, scorers in queries.items()}
        _, seconds = time_queries(index, timed, None, candidates)
        row |= {f"{kind}, exact, CPU s": value for kind, value in seconds.items()}
        row |= measure_approximate(index, queries, candidates)
        yield row
        for file in place.iterdir():
            file.unlink()


def measure_approximate(index: FaceIndex, queries: Queries, count: int) -> dict[str, object]:
    """The columns of an approximate search, empty for few faces."""
    names = ["candidates: CPU s to build", "candidates: KB a face", "candidates: CPU s to open"]
    names += [f"{kind}, {what}" for kind in queries for what in ("approximate, CPU s", "recall@1", f"recall@{TOP_K}")]
    row: dict[str, object] = dict.fromkeys(names)
    if len(index) <= max(count, MIN_FACES - 1):
        return row
    _, row[names[0]] = clock(partial(Candidates, index))
    row[names[1]] = sum(size_of(index.folder, name) for name in (NAME, FACES, VECTORS)) / len(index) / 1e3
    candidates, row[names[2]] = clock(partial(Candidates, index))
    exact = search_all(index, queries)
    found, seconds = time_queries(index, queries, candidates, count)
    for kind in queries:
        row[f"{kind}, approximate, CPU s"] = seconds[kind]
        for k in (1, TOP_K):
            row[f"{kind}, recall@{k}"] = recall(exact[kind], found[kind], k)
    return row


def search_all(index: FaceIndex, queries: Queries) -> dict[str, list[list[str]]]:
    """The paths of the best faces of each query, by its kind; one pass over the index for all queries."""
    best: dict[str, list[list[tuple[float, str]]]] = {kind: [[] for _ in scorers] for kind, scorers in queries.items()}
    for shard in tqdm(index.shards(), desc=f"{len(index)} faces, exactly", leave=False):
        parts = [part.float() for part in shard.tensors["embeds"].split(FACES_PER_PART)]
        for kind, scorers in queries.items():
            for found, scorer in zip(best[kind], scorers, strict=True):
                scores, rows = torch.cat([scorer(part) for part in parts]).topk(min(TOP_K, len(shard.paths)))
                found += [(score, shard.paths[row]) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
                found.sort(key=lambda pair: -round(pair[0], 4))  # stable, with the ties that `search` has
                del found[TOP_K:]
    return {kind: [[path for _, path in found] for found in founds] for kind, founds in best.items()}


def time_queries(
    index: FaceIndex, queries: Queries, candidates: Candidates | None, count: int
) -> tuple[dict[str, list[list[str]]], dict[str, float]]:
    """The paths of the best faces of each query, and the median CPU seconds of a query, by its kind."""
    found: dict[str, list[list[str]]] = {}
    seconds = {}
    for kind, scorers in queries.items():
        elapsed = []
        found[kind] = []
        for scorer in tqdm(scorers, desc=f"{len(index)} faces, by a {kind}", leave=False):
            shards = None if candidates is None else candidates.shards(scorer, count)  # lazy
            matches, cpu_s = clock(partial(search, index, scorer, TOP_K, shards))
            found[kind].append([match.path for match in matches])
            elapsed.append(cpu_s)
        seconds[kind] = median(elapsed)
    return found, seconds


def recall(exact: Sequence[Sequence[str]], found: Sequence[Sequence[str]], k: int) -> float:
    """Share of the k best of exact searches that are among the k best found."""
    pairs = zip(exact, found, strict=True)
    return sum(len(set(best[:k]) & set(other[:k])) for best, other in pairs) / (k * len(exact))


def clock(function: Callable[[], Result]) -> tuple[Result, float]:
    """The result of a call, and its CPU seconds."""
    started = process_time()
    result = function()
    return result, process_time() - started


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of the files of a folder."""
    return sum(file.stat().st_size for file in folder.glob(pattern))


def save_index(folder: Path, count: int, draw: Callable[[int], torch.Tensor]) -> None:
    """Write an index of `count` faces in as many files, in the format of `FaceIndex`."""
    for shard, start in enumerate(range(0, count, FACES_PER_SHARD)):
        faces = min(FACES_PER_SHARD, count - start)
        tensors = {
            "embeds": draw(faces).half(),
            "boxes": torch.full((faces, 4), float("nan")),
            "frames": torch.zeros(faces, dtype=torch.long),
            "times": torch.zeros(faces, dtype=torch.float64),
            "ids": torch.zeros(faces, dtype=torch.long),
        }
        save_file(tensors, folder / f"faces-{shard:05d}.safetensors")
        files = [IndexedFile(f"/faces/{start + row:07d}.jpg", 1, 1, shard, row, 1) for row in range(faces)]
        write_json(folder / f"files-{shard:05d}.json", {"files": [asdict(file) for file in files]})
    write_json(folder / INDEX_NAME, {"key": {"format": FORMAT, "model": "imitated"}})
