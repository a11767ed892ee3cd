"""The benchmark of long runs looks at whole runs: tenths, a report's page and an index of random faces."""

import json
from dataclasses import replace

import pytest
import torch

from mf2.analysis import run_folder
from mf2.analysis.search.ranking import search
from mf2.analysis.search.scoring import FaceScorer
from mf2.benchmarks import long, long_analysis, long_process, long_search
from mf2.benchmarks.long_analysis import summarize_tenths
from mf2.benchmarks.long_process import Interval
from mf2.cli.benchmark import main


def make_intervals(process: int, start: int, end: int, factor) -> list[Interval]:
    """Ten images each, of 1 ms and a factor that depends on the number of the image."""
    return [
        Interval(process, image, image + 10, 0.02 * factor(image), 0.01 * factor(image), 0.001, 10**8)
        for image in range(start, end, 10)
    ]


def test_tenths_cover_the_run_after_its_warm_up():
    """A run that gets slower by 10 % of the first tenth in each one after it."""
    rows = list(summarize_tenths("pictures", make_intervals(1, 0, 1000, lambda image: 1 + 0.1 * (image // 100))))
    assert [row["CPU ms an image"] for row in rows] == pytest.approx([1 + 0.1 * tenth for tenth in range(10)])
    assert rows[-1]["ms an image"] == pytest.approx(3.8)
    assert rows[-1]["memory, MB, of the first"] == 1
    assert rows[-1]["CPU ms an image, of the first"] == pytest.approx(1.9)
    assert rows[-1]["≤ 1.03"] is False and rows[0]["≤ 1.03"] is None


def test_a_slower_machine_is_not_a_slower_run():
    intervals = make_intervals(1, 0, 1000, lambda image: 1 + image / 1000)
    slowed = [replace(each, control_s=0.001 * (1 + each.start / 1000)) for each in intervals]
    last = list(summarize_tenths("frames", slowed))[-1]
    assert last["CPU ms an image, of the first"] > 1.5
    assert last["CPU of short analyses, of the first"] == pytest.approx(1)
    assert last["≤ 1.03"] is True


def test_a_resumed_process_warms_up_again():
    before = make_intervals(1, 0, 500, lambda image: 1)
    after = make_intervals(2, 480, 1000, lambda image: 50 if image == 480 else 1)
    rows = list(summarize_tenths("frames", [*before, *after]))
    assert [row["CPU ms an image"] for row in rows] == pytest.approx([1] * 10)
    assert [row["processes"] for row in rows] == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]


class FakeControl:
    """Short analyses that take no time."""

    def __init__(self, source, options):
        assert len(list(source.iterdir())) in (1, long_analysis.SHORT)

    def run(self) -> float:
        return 0.001


def test_short_analyses_go_through_the_whole_command(tmp_path, monkeypatch):
    long_analysis.save_model("tiny", tmp_path / "tiny", 0)
    long_analysis.save_pictures(tmp_path / "short", 5)
    monkeypatch.setattr(long_process, "_loaded", [])
    long_process._load(long_analysis.make_options(str(tmp_path / "tiny"), "torch", 4))
    assert 0 < long_process._analyze_short(tmp_path / "short") < 10


@pytest.mark.parametrize("kind", ["frames", "pictures"])
def test_a_run_is_measured_to_its_end_and_resumes(tmp_path, monkeypatch, kind):
    """A process that is killed, and one that continues, in this process."""
    monkeypatch.setattr(long_analysis, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(run_folder, "PART_ROWS", 30)
    monkeypatch.setattr(long_process, "ShortAnalyses", FakeControl)
    monkeypatch.setattr(long_process, "limit_threads", lambda: None)
    monkeypatch.setattr(long_analysis, "MARKS", 20)
    recognize = long_process.MeasuredRecognizer.recognize
    options = long_analysis.make_options("tiny", "torch", 10)

    def stop(self, inputs):
        if self.done >= 70:
            raise KeyboardInterrupt
        return recognize(self, inputs)

    monkeypatch.setattr(long_process.MeasuredRecognizer, "recognize", stop)
    with pytest.raises(KeyboardInterrupt):
        list(long_analysis.measure_analysis(kind, 200, options, 0, str(tmp_path)))
    monkeypatch.setattr(long_process.MeasuredRecognizer, "recognize", recognize)
    rows = list(long_analysis.measure_analysis(kind, 200, options, 0, str(tmp_path)))
    assert [row["tenth"] for row in rows] == list(range(1, 11))
    folder = next(tmp_path.iterdir())
    intervals = [Interval(**json.loads(line)) for line in (folder / "intervals.jsonl").read_text().splitlines()]
    starts = [interval.start for interval in intervals]
    assert 60 in starts and starts.count(0) == 1, "the second process starts after the parts of the first"
    assert intervals[-1].end == 200
    assert json.loads((folder / "run" / "manifest.json").read_text())["summary"]["faces"] == 200


def test_an_imitated_index_is_one_that_search_reads(tmp_path):
    originals = long_search.Originals.draw(2, 8, seed=0)
    long_search.save_index(tmp_path, 5000, originals.imitate(1))
    index = long_search.ReadyIndex(tmp_path)
    shards = list(index.shards())
    assert len(index) == 5000 and len(shards) == 2
    like = shards[1].tensors["embeds"][7].float()
    best = search(index, FaceScorer(like), 3)[0]
    assert best.path == shards[1].paths[7] and best.score == pytest.approx(1, abs=1e-3)


def test_enlarged_embeddings_keep_their_cosines():
    originals = long_search.Originals.draw(3, 40, seed=0)
    large = originals.enlarge(7, 90, seed=1)
    assert large.faces.shape == (long_search.RANDOM_FACES, 7, 90) and large.texts[0].shape[1] == 90
    torch.testing.assert_close(
        large.faces[:, :3] @ large.texts[0].T, originals.faces @ originals.texts[0].T, atol=1e-5, rtol=0
    )
    with pytest.raises(ValueError, match="has 3 vectors of 40 for a face; --queries 2"):
        originals.enlarge(2, 90, seed=1)


def test_the_search_of_a_larger_index_is_compared_with_an_exact_one(tmp_path):
    pytest.importorskip("faiss", reason="extra `search`")
    originals = long_search.Originals.draw(4, 16, seed=0)
    small, large = long_search.measure_search([500, 1500], originals, 200, 5, 0, tmp_path)
    assert small["text, recall@1"] is None and small["text, exact, CPU s"] > 0
    assert small.keys() == large.keys()
    assert large["face, recall@10"] > 0.95 and large["text, recall@10"] > 0.9


def test_the_report_of_many_frames_is_small_and_has_pictures(tmp_path):
    long_analysis.save_frames(tmp_path, 600)
    long.save_run(tmp_path, tmp_path / "video.mp4", 600, seed=0)
    page = long.write_report(tmp_path)
    text = page.read_text()
    assert text.count("data:image/jpeg") > 20 and "video.mp4 · face 1" in text
    assert page.stat().st_size < 3e6


def test_too_few_images_are_refused(capsys):
    assert main(["long", "--images", "20"]) == 1
    assert "--images is 20" in capsys.readouterr().err
