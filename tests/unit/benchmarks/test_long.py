"""The benchmark of long runs looks at whole runs: tenths, a report's page and an index of random faces."""

import itertools

import pytest
import torch

from mf2.analysis.search.ranking import face_scorer, search
from mf2.benchmarks import long
from mf2.cli.benchmark import main


def test_tenths_cover_the_run_after_its_warm_up():
    """A run that gets slower by 10 % of the first tenth in each one after it."""
    marks, at = [(0, 0.0, 0.0, 10**8)], 0.0
    for count in range(1, 1001):
        at += 0.001 * (1 + 0.1 * ((count - 1) // 100))
        marks.append((count, 2 * at, at, 10**8))
    rows = list(long.summarize_tenths("pictures", marks))
    assert [row["CPU ms an image"] for row in rows] == pytest.approx([1 + 0.1 * tenth for tenth in range(10)])
    assert rows[-1]["ms an image"] == pytest.approx(3.8)
    assert rows[-1]["memory, MB, of the first"] == 1 and rows[-1]["CPU ms an image, of the first"] == pytest.approx(
        1.9
    )
    assert rows[-1]["≤ 1.03"] is False and rows[0]["≤ 1.03"] is None


def test_a_run_is_noted_to_its_end(tmp_path):
    long.save_model("tiny", tmp_path / "tiny", 0)
    (tmp_path / "pictures").mkdir()
    long.save_pictures(tmp_path / "pictures", 70)
    threads = torch.get_num_threads()
    marks = long.analyze_measured(str(tmp_path / "pictures"), str(tmp_path / "tiny"), str(tmp_path / "run"))
    torch.set_num_threads(threads)
    assert marks[-1][0] == 70 and len(marks) > 1
    assert all(before < after for before, after in itertools.pairwise(marks))


def test_the_index_is_one_that_search_reads(tmp_path):
    long.save_index(tmp_path, 5000, 2, 8, seed=0)
    index = long.ReadyIndex(tmp_path)
    shards = list(index.shards())
    assert len(index) == 5000 and len(shards) == 2
    like = shards[1].tensors["embeds"][7].float()
    best = search(index, face_scorer(like), 3)[0]
    assert best.path == shards[1].paths[7] and best.score == pytest.approx(1, abs=1e-3)


def test_the_report_of_many_frames_is_small_and_has_pictures(tmp_path):
    long.save_frames(tmp_path, 600)
    long.save_run(tmp_path, tmp_path / "video.mp4", 600, seed=0)
    page = long.write_report(tmp_path)
    text = page.read_text()
    assert text.count("data:image/jpeg") > 20 and "video.mp4 · face 1" in text
    assert page.stat().st_size < 3e6


def test_too_few_images_are_refused(capsys):
    assert main(["long", "--images", "20"]) == 1
    assert "--images is 20" in capsys.readouterr().err
