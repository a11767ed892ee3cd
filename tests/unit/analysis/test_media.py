"""Sources and frames: what is taken, in which order, when, and which way up."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from blob_faces import draw_frame, write_video
from PIL import Image

from mf2.analysis import analyze, media
from mf2.analysis.media import find_sources, printable, read_frames
from mf2.analysis.peer_formats import PEER_WRITERS
from mf2.analysis.tables import WRITERS, free_name, short_names
from mf2.pipeline_mf2 import CAPTION_KINDS


def save(file: Path, brightness: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (brightness,) * 3).save(file)
    return file


def test_folders_are_searched_and_everything_comes_once(tmp_path):
    for name in ("b.PNG", "a/c.jpg", "a/.hidden.webp", "out/d.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "text.txt").write_text("")
    named = tmp_path / "in" / "a" / "no suffix"
    named.write_bytes(save(tmp_path / "x.png").read_bytes())
    paths = [tmp_path / "in" / "b.PNG", tmp_path / "in", named]
    sources, num_other = find_sources(paths, left_out=tmp_path / "in" / "out")
    names = [source.path.relative_to(tmp_path / "in").as_posix() for source in sources]
    assert names == ["b.PNG", "a/.hidden.webp", "a/c.jpg", "a/no suffix"]
    assert num_other == 2


def test_the_output_is_left_out_of_a_relative_search(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "out" / "overlay" / "a.png")
    monkeypatch.chdir(tmp_path)
    sources, _ = find_sources(["."], left_out=tmp_path / "out")
    assert [source.name for source in sources] == ["a.png"]


def test_names_can_be_printed_and_stored():
    assert printable("a/ä b.png") == "a/ä b.png"
    assert printable("line\nend\x7f") == "line\\x0aend\\x7f"
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\xe9"


def test_pictures_stay_in_order_whoever_is_read_first(tmp_path):
    files = [save(tmp_path / f"{number:02d}.png", number) for number in range(40)]
    sources, _ = find_sources(files)
    for num_threads in (1, 7):
        frames = list(read_frames(enumerate(sources), num_threads=num_threads))
        assert [frame.image[0, 0, 0] for frame in frames] == list(range(40))
        assert [frame.source_idx for frame in frames] == list(range(40))


@pytest.mark.parametrize("last", range(-1, 6))
def test_reading_goes_on_after_any_frame(tmp_path, last):
    video = write_video(tmp_path / "clip.mp4", [draw_frame([(0, 0, 20 + 10 * number, 40)]) for number in range(6)])
    sources, _ = find_sources([video, save(tmp_path / "z.png")])
    whole = list(read_frames(enumerate(sources), fps=5))
    rest = list(read_frames(enumerate(sources), fps=5, skip=(0, last)))
    expected = [frame for frame in whole if frame.source_idx == 1 or frame.index > last]
    assert [(frame.source_idx, frame.index) for frame in rest] == [(f.source_idx, f.index) for f in expected]
    assert all(np.array_equal(ours.image, theirs.image) for ours, theirs in zip(rest, expected, strict=True))


def test_a_failure_is_not_told_twice(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    sources, _ = find_sources([tmp_path])
    (failure,) = read_frames(enumerate(sources))
    assert failure.image is None and "cannot be opened" in failure.error
    assert list(read_frames(enumerate(sources), skip=(0, 0))) == []


def test_videos_are_turned_upright(tmp_path, monkeypatch):
    """As phones store them: a matrix in the container says how to turn what is encoded."""
    video = write_video(tmp_path / "clip.mp4", [draw_frame([(0, 0, 40, 30)])] * 2)
    (source,), _ = find_sources([video])
    plain = next(read_frames([(0, source)])).image
    with av.open(str(video)) as container:
        decoded = next(container.decode(video=0))
    for rotation, turns in ((0, 0), (90, 1), (-90, 3), (180, 2)):
        turned = media._upright(_Turned(decoded, rotation))
        assert np.array_equal(turned, np.rot90(plain, turns)), rotation


class _Turned:
    def __init__(self, frame: av.VideoFrame, rotation: int) -> None:
        self.frame, self.rotation = frame, rotation

    def to_ndarray(self, **kwargs):
        return self.frame.to_ndarray(**kwargs)


def test_without_pyav_videos_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'mf2-face\[video\]'"):
        media.import_av()


def test_the_command_offers_what_there_is():
    """The options are listed without loading torch; they are those of the code behind them."""
    assert list(analyze.FORMATS) == [*WRITERS, *PEER_WRITERS]
    assert set(analyze.CAPTION_KINDS) == set(CAPTION_KINDS)


def test_files_of_one_name_have_their_folders_before_it():
    taken: set[str] = set()
    sources = ["/x/a.jpg", "/y/a.jpg", "/y/a.png", "/y/a.gif", "a.jpg", "a.png", "y-a.b.jpg"]
    assert [free_name(source, taken) for source in sources] == ["a", "y-a", "y-a-2", "y-a-3", "a-2", "a-3", "y-a.b"]


def test_sources_are_called_by_what_tells_them_apart():
    sources = ["run/x/1.jpg", "run/y/1.jpg", "run/y/2.jpg", "1.jpg"]
    assert short_names(sources) == dict(zip(sources, ["x/1.jpg", "y/1.jpg", "2.jpg", "1.jpg"], strict=True))
