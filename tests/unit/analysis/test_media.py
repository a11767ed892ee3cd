"""Sources and frames: what is taken, in which order, when, and which way up."""

import gc
import importlib
import importlib.util
import io
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from blob_faces import draw_frame, write_video
from PIL import Image, TiffImagePlugin

from mf2.analysis import analyze, media
from mf2.analysis.media import Source, count_frames, find_sources, pick_frames, printable, read_frames
from mf2.analysis.peer_formats import PEER_WRITERS
from mf2.analysis.tables import WRITERS, short_names
from mf2.dataset_tools.readers.video_frames import VideoReader
from mf2.pipeline_mf2 import CAPTION_KINDS
from mf2.utils import videos
from mf2.utils.face_table import free_name

pytestmark = pytest.mark.dependencies


def save(file: Path, brightness: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (brightness,) * 3).save(file)
    return file


@pytest.mark.parametrize("name", ["._a.png", ".hidden.png", ".thumbnails/a.png"])
def test_hidden_files_are_left_out_unless_they_are_named(tmp_path, name):
    save(tmp_path / "a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    hidden = save(tmp_path / name)
    assert [source.path.name for source in find_sources([tmp_path])[0]] == ["a.png"]
    assert [source.path for source in find_sources([hidden])[0]] == [hidden]


def test_folders_are_searched_and_everything_comes_once(tmp_path):
    for name in ("b.PNG", "a/c.jpg", "a/d.webp", "out/d.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "text.txt").write_text("")
    named = tmp_path / "in" / "a" / "no suffix"
    named.write_bytes(save(tmp_path / "x.png").read_bytes())
    paths = [tmp_path / "in" / "b.PNG", tmp_path / "in", named]
    sources, num_other = find_sources(paths, excluded=tmp_path / "in" / "out")
    names = [source.path.relative_to(tmp_path / "in").as_posix() for source in sources]
    assert names == ["b.PNG", "a/c.jpg", "a/d.webp", "a/no suffix"]
    assert num_other == 2


def test_the_output_is_left_out_of_a_relative_search(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "out" / "overlay" / "a.png")
    monkeypatch.chdir(tmp_path)
    sources, _ = find_sources(["."], excluded=tmp_path / "out")
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


# What a player shows of QUADRANTS under each display matrix: a, b, c, d of x' = a x + c y, y' = b x + d y, y down.
QUADRANTS = np.array([[(255, 0, 0), (0, 0, 255)], [(0, 255, 0), (0, 0, 0)]], np.uint8)
LAYOUTS = {
    "as it is": ((1, 0, 0, 1), QUADRANTS),
    "a quarter turn": ((0, 1, -1, 0), np.rot90(QUADRANTS, -1)),
    "a half turn": ((-1, 0, 0, -1), np.rot90(QUADRANTS, 2)),
    "three quarters": ((0, -1, 1, 0), np.rot90(QUADRANTS, 1)),
    "mirrored": ((-1, 0, 0, 1), QUADRANTS[:, ::-1]),
    "upside down": ((1, 0, 0, -1), QUADRANTS[::-1]),
    "transposed": ((0, 1, 1, 0), QUADRANTS.swapaxes(0, 1)),
    "turned and mirrored": ((0, -1, -1, 0), np.rot90(QUADRANTS, 2).swapaxes(0, 1)),
}


def write_quadrants(file: Path, pixel_aspect: Fraction | None = None) -> Path:
    """Five frames of four colours, 160 × 96 stored pixels, ten a second."""
    frame = QUADRANTS.repeat(48, axis=0).repeat(80, axis=1)
    with av.open(str(file), "w", format="mpegts" if file.suffix.lower() == ".mts" else None) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def set_matrix(file: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an MP4."""
    content = bytearray(file.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(content)


def colors_of(image: np.ndarray) -> np.ndarray:
    """Those of the middles of the four quadrants, as black or full channels."""
    height, width = image.shape[:2]
    return (image[height // 4 :: height // 2, width // 4 :: width // 2] > 128).astype(np.uint8) * 255


@pytest.mark.parametrize("name", LAYOUTS)
def test_videos_are_turned_and_mirrored_as_their_container_says(tmp_path, name):
    matrix, expected = LAYOUTS[name]
    video = write_quadrants(tmp_path / "clip.mp4")
    set_matrix(video, matrix)
    (source,), _ = find_sources([video])
    for frame in read_frames([(0, source)]):
        assert frame.is_moving and max(frame.image.shape) == 160
        np.testing.assert_array_equal(colors_of(frame.image), expected)
        of_reader = np.asarray(Image.open(io.BytesIO(VideoReader().read(video, frame.index))))
        np.testing.assert_array_equal(colors_of(of_reader), expected, "as the readers of data sets see it")


@pytest.mark.parametrize(
    ("suffix", "pixel_aspect", "size"),
    [
        (".mp4", (4, 3), (96, 213)),
        (".mkv", (2, 1), (96, 320)),
        (".mp4", (1, 2), (192, 160)),
        (".mp4", (99, 1), (96, 160)),
    ],
)
def test_pixels_become_square(tmp_path, suffix, pixel_aspect, size):
    """As of camcorders: 1440 stored columns are shown as 1920."""
    (source,), _ = find_sources([write_quadrants(tmp_path / f"clip{suffix}", Fraction(*pixel_aspect))])
    frames = list(read_frames([(0, source)]))
    assert [frame.image.shape[:2] for frame in frames] == [size] * 5
    np.testing.assert_array_equal(colors_of(frames[0].image), QUADRANTS)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".MTS"])
def test_time_begins_with_the_video(tmp_path, suffix):
    """Transport streams count from anywhere."""
    (source,), _ = find_sources([write_quadrants(tmp_path / f"clip{suffix}")])
    assert [frame.time_s for frame in read_frames([(0, source)])] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [frame.index for frame in read_frames([(0, source)], fps=5)] == [0, 2, 4]
    assert count_frames(source) == 5


@pytest.mark.parametrize(("name", "pause"), [("a.tiff", 0.1), ("a.avif", 0.25), ("a.gif", 0.25), ("a.webp", 0.25)])
def test_every_picture_of_a_file_is_a_frame(tmp_path, name, pause):
    pages = [Image.new("RGB", (40, 30), (60 * number,) * 3) for number in range(3)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], duration=250)
    (source,), _ = find_sources([tmp_path / name])
    frames = list(read_frames([(0, source)]))
    assert [round(frame.image.mean() / 60) for frame in frames] == [0, 1, 2]
    assert [frame.time_s for frame in frames] == pytest.approx([0, pause, 2 * pause])
    assert all(frame.is_moving for frame in frames) and count_frames(source) == 3
    assert [frame.index for frame in read_frames([(0, source)], skip=(0, 0))] == [1, 2]


def test_the_preview_in_a_tiff_is_no_frame(tmp_path):
    """Scanners and cameras store a small version as a page of its own."""
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
        for size, kind in ((64, 0), (16, 1), (64, 0)):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info[254] = kind
            Image.new("RGB", (size, size), (200,) * 3).save(file, "TIFF", tiffinfo=info)
            file.newFrame()
    (source,), _ = find_sources([tmp_path / "a.tif"])
    assert [frame.image.shape[0] for frame in read_frames([(0, source)])] == [64, 64]


def test_a_heic_picture_is_read_or_named_as_what_it_is(tmp_path):
    if importlib.util.find_spec("pillow_heif") is None:
        (tmp_path / "a.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))
        (source,), _ = find_sources([tmp_path])
        (failure,) = read_frames([(0, source)])
        assert "is a HEIC picture, which needs pillow-heif" in failure.error
        assert "pip install 'mf2-face[heif]'" in failure.error
        return
    pillow_heif = importlib.import_module("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(QUADRANTS.repeat(32, axis=0).repeat(32, axis=1))).save(tmp_path / "a.HEIC")
    (source,), _ = find_sources([tmp_path])
    (frame,) = read_frames([(0, source)])
    np.testing.assert_array_equal(colors_of(frame.image), QUADRANTS)


def test_without_pyav_videos_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'mf2-face\[video\]'"):
        videos.import_av()


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


# ------------------------------------------------------------------------------------------------------- single frames
def write_long(
    file: Path, codec: str, start_s: float = 0.0, is_even: bool = True, options: dict | None = None
) -> Source:
    """400 frames, 25 a second or (not even) at odd distances; each frame's brightness differs from its neighbours'."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        tick = Fraction(1, 25) if is_even else Fraction(1, 1000)
        stream.time_base = stream.codec_context.time_base = tick
        ticks = round(start_s / tick)
        for number in range(400):
            image = np.full((48, 64, 3), number * 37 % 256, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = ticks, tick
            ticks += 1 if is_even else 11 + 29 * (number % 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Source(file, str(file), True)


VIDEOS = {
    "mp4, keyframes far apart": ("clip.mp4", "mpeg4", {"options": {"g": "120"}}),
    "uneven": ("clip.mkv", "mpeg4", {"is_even": False}),
    "starts late": ("clip.ts", "mpeg2video", {"start_s": 7.0}),
    "frames that look ahead": ("clip.avi", "mpeg4", {"options": {"bf": "2"}}),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_single_frames_are_those_of_the_whole_video(tmp_path, name):
    file, codec, settings = VIDEOS[name]
    source = write_long(tmp_path / file, codec, **settings)
    whole = {frame.index: frame for frame in read_frames([(0, source)]) if frame.image is not None}
    numbers = [0, 3, 120, 121, 263, 391]
    picked = list(pick_frames(source, {number: whole[number].time_s for number in reversed(numbers)}))
    assert [frame.index for frame in picked] == numbers
    for frame in picked:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
        assert frame.time_s == pytest.approx(whole[frame.index].time_s, abs=1e-6)


def test_a_video_is_not_decoded_between_frames_that_lie_far_apart(tmp_path, monkeypatch):
    source = write_long(tmp_path / "clip.mp4", "mpeg4")
    monkeypatch.setattr(media, "read_frames", None)
    shown = []
    monkeypatch.setattr(media.Screen, "show", lambda screen, decoded: shown.append(decoded.pts))
    numbers = [index for frame in pick_frames(source, {350: 14.0, 50: 2.0}) for index in [frame.index]]
    assert numbers == [50, 350] and len(shown) == 2


@pytest.mark.parametrize("reader", ["all frames", "single frames", "data set"])
def test_frames_do_not_wait_for_the_garbage_collector(tmp_path, reader):
    """A Full-HD frame has 3 MB, and hundreds would wait."""
    source = write_long(tmp_path / "clip.mp4", "mpeg4")
    of_data_set = VideoReader()
    readers = {
        "all frames": lambda: read_frames([(0, source)]),
        "single frames": lambda: pick_frames(source, {number: number / 25 for number in range(0, 100, 10)}),
        "data set": lambda: (of_data_set.read(source.path, number) for number in range(50)),
    }
    gc.collect()
    gc.disable()
    try:
        num_read = sum(1 for _ in readers[reader]())
        num_left = sum(type(item) is av.VideoFrame for item in gc.get_objects())
    finally:
        gc.enable()
    assert num_read >= 10 and num_left <= 4


def test_a_frame_that_is_not_at_its_time_is_found_by_its_number(tmp_path):
    source = write_long(tmp_path / "clip.mp4", "mpeg4")
    expected = {frame.index: frame.image for frame in read_frames([(0, source)])}
    picked = {frame.index: frame.image for frame in pick_frames(source, {10: 0.4, 200: 9.013, 300: 12.0, 999: 50.0})}
    assert list(picked) == [10, 200, 300]
    for number, image in picked.items():
        np.testing.assert_array_equal(image, expected[number])


def test_a_picture_is_its_own_single_frame(tmp_path):
    source = Source(save(tmp_path / "a.png", 90), "a.png", False)
    (frame,) = pick_frames(source, {0: 0.0})
    assert frame.image.max() == 90
    assert not list(pick_frames(Source(tmp_path / "gone.png", "gone.png", False), {0: 0.0}))
    assert not list(pick_frames(Source(tmp_path / "gone.mp4", "gone.mp4", True), {4: 0.2}))
