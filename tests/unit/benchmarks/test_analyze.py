"""The benchmark of `mf2 analyze` times whole analyses of the pictures that it writes. Times are not tested."""

import argparse
from collections import Counter

import pyarrow.parquet as pq
import pytest
from tiny_checkpoint import save_tiny_checkpoint

from mf2.analysis.engine import AnalyzeOptions, analyze
from mf2.analysis.face_arguments import FaceSearch
from mf2.analysis.recognizer import Recognizer
from mf2.benchmarks import analyze as benchmark_analyze


def test_both_sides_see_every_picture(tmp_path, monkeypatch):
    save_tiny_checkpoint(tmp_path / "tiny")
    benchmark_analyze.save_pictures(tmp_path, 5)
    recognizer = Recognizer.from_pretrained(str(tmp_path / "tiny"), device="cpu")
    seen: list[int] = []
    forward = recognizer.model.forward_adapters

    def counting(names, pixel_values, au_boxes, **options):
        seen.append(len(pixel_values))
        return forward(names, pixel_values, au_boxes, **options)

    monkeypatch.setattr(recognizer.model, "forward_adapters", counting)
    benchmark_analyze.plain_loop(recognizer, 5, 1)()
    assert seen == [1] * 5
    seen.clear()
    landmarks = str(tmp_path / "landmarks.csv")
    options = AnalyzeOptions(str(tmp_path / "tiny"), device="cpu", batch_size=2, faces=FaceSearch(landmarks))
    for kind in benchmark_analyze.PICTURE_SIZES:
        benchmark_analyze.make_analysis(tmp_path / kind, recognizer, options)()
        assert seen == [2, 2, 1], "every picture has the face that the landmark file gives it"
        seen.clear()


def test_the_video_has_as_many_frames_as_asked_for(tmp_path):
    save_tiny_checkpoint(tmp_path / "tiny")
    video = benchmark_analyze.save_video(tmp_path / "clip.mp4", 60)
    options = AnalyzeOptions(str(tmp_path / "tiny"), device="cpu", faces=FaceSearch("mean_face"))
    assert analyze([video], tmp_path / "run", options).frames == 60
    times = pq.read_table(tmp_path / "run" / "faces.parquet")["time_s"].to_pylist()
    assert times == pytest.approx([number / 25 for number in range(60)])


def test_the_floor_is_the_sum_of_the_stages(tmp_path, monkeypatch):
    """Stages of known CPU times; every picture goes through all of them."""
    benchmark_analyze.save_pictures(tmp_path, 5)
    seen = Counter()
    prepare = Recognizer.prepare
    monkeypatch.setattr(
        Recognizer, "prepare", lambda self, *args: [seen.update(faces=len(args[0])), prepare(self, *args)][1]
    )
    stages = {"decode_all": 0.01, "align_all": 0.03, "plain_loop": 0.04, "make_analysis": 0.1}
    clock = [0.0]
    for name, seconds in stages.items():
        monkeypatch.setattr(benchmark_analyze, name, ticking(getattr(benchmark_analyze, name), clock, seconds))
    monkeypatch.setattr(benchmark_analyze, "process_time", lambda: clock[0])
    args = argparse.Namespace(seed=0, batch_sizes=[2], kinds=["crops"], repeats=2)
    (row,) = benchmark_analyze.measure_floor("tiny", args, tmp_path)
    assert row["of the floor"] == pytest.approx(0.8) and row["≥ 0.95"] is False
    assert row["align, CPU ms an image"] == pytest.approx(6)
    assert seen["faces"] == 5 * 3 * 2, "three passes each of the alignment and of the analysis"


def ticking(function, clock, seconds):
    """A function, or the function that it makes, each call of which takes so much time."""

    def tick(*args):
        result = function(*args)
        if callable(result):
            return lambda: [clock.__setitem__(0, clock[0] + seconds), result()]
        clock[0] += seconds
        return result

    return tick
