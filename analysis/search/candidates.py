"""Candidates of a search in a large index, found with faiss in compressed embeddings.

Only the candidates are then scored with their whole embeddings, by the same function as all faces in an exact search.

    candidates.json              key of the index, its shards in the order of the rows, number of rows when trained
    candidates-faces.faiss       a row per face: its embeddings as one vector, in `FACE_DIMS` dimensions of 8 bits
    candidates-vectors.faiss     a row per embedding, in `VECTOR_DIMS` dimensions of 4 bits

A face's score for a face is an inner product of the flattened embeddings; the first file finds its candidates. The
score for a text is the best over the embeddings; the second file finds these. Embeddings are projected on the leading
singular vectors of a sample, without subtracting a mean, so that inner products are kept. New shards are appended;
both are trained again when there are twice as many faces.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ...utils.files import replacing, write_json
from .face_index import FaceIndex, Shard
from .scoring import FaceScorer, Scorer, TextScorer

FORMAT = 1
NAME = "candidates.json"
FACES, VECTORS = "candidates-faces.faiss", "candidates-vectors.faiss"
FACE_DIMS, VECTOR_DIMS = 128, 64
TRAINED_FACES = 2048
"""Faces of the sample that both are trained on."""
GROWTH, MAX_REMOVED = 2.0, 0.2
"""Trained again when there are so many times as many faces, or when this share of the rows has been removed."""
MIN_FACES = 1000
"""Fewer faces are always searched exactly."""
LARGE_FACES = 20_000
"""From this number on, a search is approximate unless an exact one is requested."""
VECTORS_PER_CANDIDATE = 8
"""Embeddings that are looked for per candidate and phrasing, as several of a face may be among them."""
FACES_PER_PART = 512
"""Faces compressed at once."""
SEED = 0


def import_faiss() -> ModuleType:
    """Import faiss.

    Raises:
        ImportError: it is missing; the message names the extra.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"An approximate search needs faiss ({error}): pip install 'mf2-face[search]', or search exactly."
        ) from error
    return faiss


@dataclass(frozen=True)
class Layout:
    """The shards of the candidates' rows.

    Args:
        shards: number, rows, size and modification time of each, in the order of the rows.
        num_trained: number of rows when the projections were trained.
    """

    shards: tuple[tuple[int, int, int, int], ...] = ()
    num_trained: int = 0

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return sum(rows for _, rows, _, _ in self.shards)

    def locate(self, positions: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each shard, and its rows, for sorted positions in the candidates."""
        ends = np.cumsum([rows for _, rows, _, _ in self.shards])
        places = np.searchsorted(ends, positions, side="right")
        for place in np.unique(places):
            number, rows, _, _ = self.shards[place]
            yield number, (positions[places == place] - (ends[place] - rows)).tolist()


class Candidates:
    """Finds candidates in an index of faces; brings its files up to date with the index, which takes a while if new.

    Args:
        index: of faces, with at least `MIN_FACES`.
    Raises:
        ImportError: faiss is missing.
    """

    def __init__(self, index: FaceIndex):
        self.index = index
        self._faiss = import_faiss()
        self._files = index.files_by_shard()
        self._key = json.loads(json.dumps({"format": FORMAT, "index": index.key}))
        self._open()
        current = [
            self._describe(number) for number, files in self._files.items() if any(file.count for file in files)
        ]
        if self._is_outdated(current):
            self._train()
        self._append(current)

    # ---------------------------------------------------------------------------------------------------- keeping
    def _open(self) -> None:
        """Read the files; without any, or with files of another index, there are no rows."""
        self._layout = Layout()
        try:
            found = json.loads((self.index.folder / NAME).read_text("utf-8"))
            layout = Layout(tuple(map(tuple, found["shards"])), found["num_trained"])
            self._faces, self._vectors = (
                self._faiss.read_index(str(self.index.folder / name)) for name in (FACES, VECTORS)
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            return
        if found["key"] == self._key and self._faces.ntotal == layout.num_rows > 0:
            self._layout = layout if self._vectors.ntotal % layout.num_rows == 0 else Layout()

    def _describe(self, number: int) -> tuple[int, int, int, int]:
        stat = self.index.shard_path(number).stat()
        return number, self.index.num_rows(number), stat.st_size, stat.st_mtime_ns

    def _is_outdated(self, current: Sequence[tuple[int, int, int, int]]) -> bool:
        kept = set(self._layout.shards) & set(current)
        same = {shard[0] for shard in self._layout.shards} & {shard[0] for shard in current}
        removed = 1 - sum(shard[1] for shard in kept) / max(self._layout.num_rows, 1)
        is_larger = sum(shard[1] for shard in current) >= GROWTH * self._layout.num_trained
        return is_larger or removed > MAX_REMOVED or len(same) > len(kept)

    def _train(self) -> None:
        """Train the projections and codes on evenly spaced faces; there are no rows then."""
        faiss, sample = self._faiss, self._sample()
        num_faces, _, width = sample.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            flat = sample.flatten(1)
            basis = leading_directions(flat, min(FACE_DIMS, num_faces, flat.shape[1]))
            dims = min(VECTOR_DIMS, width)
            rotation = torch.linalg.qr(torch.randn(dims, dims))[0]  # gives each dimension its share
            rotated = leading_directions(sample.flatten(0, 1), dims) @ rotation
        codes = faiss.IndexScalarQuantizer(basis.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        self._faces = self._project_first(basis, codes, flat)
        codes = faiss.IndexPQFastScan(dims, dims, 4, faiss.METRIC_INNER_PRODUCT)
        self._vectors = self._project_first(rotated, codes, sample.flatten(0, 1))
        self._layout = Layout(num_trained=len(self.index))

    def _project_first(self, basis: torch.Tensor, codes: Any, sample: torch.Tensor) -> Any:
        """An index that projects `(N, D)` by `(D, d)`, with the codes trained on a sample."""
        faiss = self._faiss
        projection = faiss.LinearTransform(*basis.shape, False)
        faiss.copy_array_to_vector(basis.T.contiguous().flatten().numpy(), projection.A)
        projection.is_trained = True
        codes.train((sample @ basis).numpy())
        index = faiss.IndexPreTransform(projection, codes)
        for part in (projection, codes):
            part.this.disown()  # the index frees them
        index.own_fields = index.is_trained = True
        return index

    def _sample(self) -> torch.Tensor:
        """`(F, Q, P)` evenly spaced faces."""
        step = max(len(self.index) // TRAINED_FACES, 1)
        parts, offset = [], 0
        for shard in self.index.shards():
            embeds = shard.tensors["embeds"]
            parts.append(embeds[offset % step :: step].float())
            offset -= len(embeds)
        return torch.cat(parts)

    def _append(self, current: Sequence[tuple[int, int, int, int]]) -> None:
        """Add the rows of new shards, and write the files."""
        new = [shard for shard in current if shard not in set(self._layout.shards)]
        if not new:
            return
        for number, num_rows, _, _ in new:
            embeds = self.index.read_shard(number, torch.arange(num_rows), []).tensors["embeds"]
            for part in embeds.split(FACES_PER_PART):
                self._faces.add(part.float().flatten(1).numpy())
                self._vectors.add(part.float().flatten(0, 1).numpy())
        self._layout = Layout((*self._layout.shards, *new), self._layout.num_trained)
        for name, index in ((FACES, self._faces), (VECTORS, self._vectors)):
            with replacing(self.index.folder / name) as part:
                self._faiss.write_index(index, str(part))
        settings = {"key": self._key, "shards": self._layout.shards, "num_trained": self._layout.num_trained}
        write_json(self.index.folder / NAME, settings)

    # --------------------------------------------------------------------------------------------------- searching
    def shards(self, scorer: Scorer, count: int) -> Iterator[Shard]:
        """Yield the candidates of a query, shard by shard.

        Args:
            scorer: of the query.
            count: maximum number of candidates; with all faces, every one is a candidate.
        """
        if count >= len(self.index):
            yield from self.index.shards()
            return
        count += self._layout.num_rows - len(self.index)  # as many more as were removed from the index
        if isinstance(scorer, FaceScorer):
            positions = self._find_faces(scorer, count)
        else:
            positions = self._find_texts(scorer, count)
        for number, rows in self._layout.locate(np.sort(positions)):
            known = [(row, path) for row, path in self._name(number, rows) if path]
            if known:
                kept, paths = zip(*known, strict=True)
                yield self.index.read_shard(number, torch.tensor(kept), list(paths))

    def _find_faces(self, scorer: FaceScorer, count: int) -> np.ndarray:
        """Positions of the faces that are most similar to a face."""
        _, found = self._faces.search(scorer.embeds.float().flatten()[None].numpy(), min(count, self._faces.ntotal))
        return found[0][found[0] >= 0]

    def _find_texts(self, scorer: TextScorer, count: int) -> np.ndarray:
        """Positions of the faces with the best embeddings for the phrasings of a text.

        A face that is among the results of some phrasings only is given their lowest score for the others.
        """
        num_vectors = self._vectors.ntotal // self._faces.ntotal
        results = min(VECTORS_PER_CANDIDATE * count, self._vectors.ntotal)
        scores, found = self._vectors.search(scorer.features.float().numpy(), results)
        faces, places = np.unique(found // num_vectors, return_inverse=True)
        best = np.repeat(scores.min(1, keepdims=True), len(faces), axis=1)  # (M, faces)
        np.maximum.at(best, (np.arange(len(best))[:, None], places.reshape(found.shape)), scores)
        order = best.mean(0).argsort()[::-1]
        return faces[order[:count]]

    def _name(self, number: int, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield the rows of a shard with the paths of their files; empty for those of removed files."""
        listed = [file for file in self._files.get(number, []) if file.count]
        firsts = np.array([file.first for file in listed])
        for row in rows:
            place = int(np.searchsorted(firsts, row, side="right")) - 1
            is_known = place >= 0 and row < listed[place].first + listed[place].count
            yield row, listed[place].path if is_known else ""


def leading_directions(rows: torch.Tensor, count: int) -> torch.Tensor:
    """`(D, count)` leading right singular vectors of `(N, D)`, without subtracting a mean."""
    if rows.shape[0] >= rows.shape[1]:
        return torch.linalg.eigh(rows.T @ rows)[1][:, -count:].flip(1)
    return torch.svd_lowrank(rows, q=min(count + 8, len(rows)), niter=3)[2][:, :count]
