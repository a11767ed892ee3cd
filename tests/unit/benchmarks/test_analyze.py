"""The benchmark of `mf2 analyze` times whole analyses of the pictures that it writes. Times are not tested."""

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
