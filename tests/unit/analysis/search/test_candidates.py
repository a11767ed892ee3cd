"""An approximate search finds what an exact one finds, also after files were added, changed and removed."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from tiny_mf2 import save_tiny, write_pictures

from mf2.analysis.search import candidates, command
from mf2.analysis.search.candidates import Candidates, leading_directions
from mf2.analysis.search.ranking import search
from mf2.analysis.search.scoring import FaceScorer, TextScorer
from mf2.benchmarks import long_search
from mf2.cli import main

pytest.importorskip("faiss", reason="extra `search`")

COUNT, QUERIES, WIDTH = 3000, 6, 24


@pytest.fixture(scope="module")
def originals() -> long_search.Originals:
    return long_search.Originals.draw(QUERIES, WIDTH, seed=0)


@pytest.fixture(scope="module")
def made(originals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_search, "FACES_PER_SHARD", 700)
        long_search.save_index(folder, COUNT, originals.imitate(seed=1))
    return folder


@pytest.fixture
def index(made, tmp_path) -> long_search.ReadyIndex:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return long_search.ReadyIndex(tmp_path)


@pytest.fixture(scope="module")
def scorers(originals) -> list:
    likes = originals.imitate(seed=2)(10)
    return [*map(FaceScorer, likes), *map(TextScorer, originals.texts[:10])]


def found(index, scorer, shards=None) -> list:
    return search(index, scorer, 10, shards)


def mean_recall(index, scorers, count) -> float:
    prepared = Candidates(index)
    pairs = [(found(index, scorer), found(index, scorer, prepared.shards(scorer, count))) for scorer in scorers]
    return sum(len({m.path for m in a} & {m.path for m in b}) for a, b in pairs) / (10 * len(scorers))


def remove_files(index, shard, kept) -> None:
    """Keep only some files of a shard, as `FaceIndex.update` does for missing files."""
    index._forget([file.path for place, file in enumerate(index.files_by_shard()[shard]) if place not in kept])


# ---------------------------------------------------------------------------------------------------------- searching
def test_with_all_faces_as_candidates_it_is_an_exact_search(index, scorers):
    prepared = Candidates(index)
    for scorer in scorers:
        assert found(index, scorer, prepared.shards(scorer, COUNT)) == found(index, scorer)


def test_all_but_one_are_scored_like_in_an_exact_search(index, scorers):
    """Candidates go through faiss here; their scores do not depend on that."""
    prepared = Candidates(index)
    for scorer in scorers:
        exact, approximate = found(index, scorer), found(index, scorer, prepared.shards(scorer, COUNT - 1))
        assert [match.score for match in approximate] == pytest.approx([match.score for match in exact], abs=2e-4)


def test_few_candidates_hold_the_best_faces(index, scorers):
    assert mean_recall(index, scorers[:10], 60) > 0.97
    assert mean_recall(index, scorers[10:], 60) > 0.9
    assert mean_recall(index, scorers, 300) > 0.97


def test_a_candidate_is_read_from_its_own_row(index):
    shard = list(index.shards())[2]
    scorer = FaceScorer(shard.tensors["embeds"][123].float())
    parts = list(Candidates(index).shards(scorer, 20))
    assert sum(len(part.paths) for part in parts) == 20
    assert all(len(part.paths) == len(part.tensors["embeds"]) for part in parts)
    best = found(index, scorer, parts)[0]
    assert best.path == shard.paths[123] and best.score == pytest.approx(1, abs=1e-3)


def test_directions_are_those_of_the_whole_decomposition():
    rows = torch.randn(40, 8) * torch.tensor([9.0, 5, 3, 1, 0.1, 0.1, 0.1, 0.1]) + 2
    for matrix in (rows, torch.cat([rows, torch.zeros(40, 60)], dim=1)):
        expected = torch.linalg.svd(matrix, full_matrices=False)[2][:3]
        assert (expected @ leading_directions(matrix, 3)).abs().diagonal() == pytest.approx([1, 1, 1], abs=1e-3)


# ------------------------------------------------------------------------------------------------------------ keeping
def times(index) -> list[int]:
    return [(index.folder / name).stat().st_mtime_ns for name in (candidates.FACES, candidates.VECTORS)]


def train_calls(monkeypatch) -> list:
    calls, train = [], Candidates._train
    monkeypatch.setattr(Candidates, "_train", lambda self: [calls.append(len(self.index)), train(self)])
    return calls


def test_it_is_made_once(index, monkeypatch):
    calls = train_calls(monkeypatch)
    Candidates(index)
    before = times(index)
    Candidates(index)
    assert times(index) == before and calls == [COUNT]


def test_new_faces_are_appended(index, originals, monkeypatch):
    calls = train_calls(monkeypatch)
    Candidates(index)
    new = originals.imitate(seed=3)(50)
    shard = 1 + max(index.files_by_shard())
    old = next(iter(index.shards())).tensors
    tensors = {name: values[:50].clone() for name, values in old.items()} | {"embeds": new.half()}
    save_file(tensors, index.shard_path(shard))
    files = [long_search.IndexedFile(f"/new/{row}.jpg", 1, 1, shard, row, 1) for row in range(50)]
    index.files |= {file.path: file for file in files}
    scorer = FaceScorer(new[7])
    assert found(index, scorer, Candidates(index).shards(scorer, 20))[0].path == "/new/7.jpg"
    assert calls == [COUNT]


def test_twice_as_many_faces_are_trained_on_again(index, monkeypatch):
    monkeypatch.setattr(candidates, "GROWTH", 1.0)
    calls = train_calls(monkeypatch)
    Candidates(index)
    Candidates(index)
    assert calls == [COUNT, COUNT]


def test_faces_of_removed_files_are_not_found(index, scorers, monkeypatch):
    calls = train_calls(monkeypatch)
    Candidates(index)
    remove_files(index, 1, kept=range(350, 700))
    assert len(index) == COUNT - 350
    assert mean_recall(index, scorers, 100) > 0.95
    count = sum(len(part.paths) for part in Candidates(index).shards(scorers[0], 100))
    assert 100 <= count <= 450 and calls == [COUNT]


def test_many_removed_faces_are_forgotten(index, scorers, monkeypatch):
    calls = train_calls(monkeypatch)
    Candidates(index)
    remove_files(index, 1, kept=())
    assert not index.shard_path(1).exists()
    assert mean_recall(index, scorers, 100) > 0.95
    assert calls == [COUNT, COUNT - 700]


def test_a_shard_with_the_number_of_a_removed_one_is_another(index, originals, monkeypatch):
    calls = train_calls(monkeypatch)
    Candidates(index)
    tensors = dict(list(index.shards())[-1].tensors)
    save_file(tensors | {"embeds": originals.imitate(seed=9)(len(tensors["embeds"])).half()}, index.shard_path(4))
    Candidates(index)
    assert calls == [COUNT, COUNT]


@pytest.mark.parametrize("damage", ["missing", "cut", "format", "json"])
def test_damaged_files_are_made_anew(index, scorers, monkeypatch, damage):
    calls = train_calls(monkeypatch)
    Candidates(index)
    if damage == "missing":
        (index.folder / candidates.VECTORS).unlink()
    elif damage == "cut":
        (index.folder / candidates.FACES).write_bytes(b"IxPT")
    elif damage == "json":
        (index.folder / candidates.NAME).write_text("{")
    else:
        monkeypatch.setattr(candidates, "FORMAT", 2)
    assert mean_recall(index, scorers, 300) > 0.97
    assert calls == [COUNT, COUNT]


# ------------------------------------------------------------------------------------------------------------ command
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def run_search(tmp_path, checkpoint, *options) -> int:
    folders = ["--index", str(tmp_path / "index"), "--output", str(tmp_path / "out")]
    argv = ["search", "lips pressed", str(tmp_path / "faces"), "--model", str(checkpoint), "--landmarks", "mean_face"]
    return main([*argv, "--device", "cpu", "--top_k", "3", *folders, *options])


def results(tmp_path) -> list:
    return json.loads((tmp_path / "out" / "results.json").read_text())["matches"]


@pytest.mark.parametrize("method", ["auto", "approximate"])
def test_the_command_searches_among_candidates(tmp_path, checkpoint, capsys, monkeypatch, method):
    write_pictures(tmp_path / "faces", 40)
    monkeypatch.setattr(candidates, "MIN_FACES", 20)
    monkeypatch.setattr(candidates, "LARGE_FACES", 20)
    assert run_search(tmp_path, checkpoint, "--method", "exact") == 0
    exact = results(tmp_path)
    assert "approximate" not in capsys.readouterr().out
    assert run_search(tmp_path, checkpoint, "--method", method, "--candidates", "30") == 0
    assert "the 30 likeliest of 40 faces" in capsys.readouterr().out
    assert results(tmp_path)[0]["path"] == exact[0]["path"]


def test_few_faces_are_searched_exactly(tmp_path, checkpoint, capsys):
    write_pictures(tmp_path / "faces", 4)
    assert run_search(tmp_path, checkpoint, "--method", "approximate") == 0
    assert "approximate" not in capsys.readouterr().out


def test_without_faiss_it_says_what_to_install(tmp_path, checkpoint, capsys, monkeypatch):
    write_pictures(tmp_path / "faces", 4)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert run_search(tmp_path, checkpoint, "--method", "approximate") == 1
    assert "pip install 'mf2-face[search]'" in capsys.readouterr().err
    monkeypatch.setattr(candidates, "LARGE_FACES", 2)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert run_search(tmp_path, checkpoint) == 0
    assert "pip install 'mf2-face[search]'" in capsys.readouterr().err


def test_fewer_candidates_than_results_are_refused(tmp_path, checkpoint, capsys):
    assert run_search(tmp_path, checkpoint, "--candidates", "2") == 1
    assert "--candidates is 2; it must be at least --top_k, 3" in capsys.readouterr().err
