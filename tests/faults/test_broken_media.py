"""Two hundred inputs of which most are broken: each has a marked row, the run goes on, and it says which failed."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from blob_faces import draw_frame, write_video
from PIL import Image
from tiny_checkpoint import save_tiny_checkpoint

from mf2.analysis.media import printable
from mf2.cli import main

FACE = (10, 20, 50, 70)
NUM_OF_A_KIND = 12


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def broken_pictures(number: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of which no picture can be made; `number` varies where they break."""
    picture = Image.fromarray(draw_frame([FACE]))
    jpeg, png = encoded(picture, "JPEG"), encoded(picture, "PNG")
    yield "truncated.jpg", jpeg[: len(jpeg) * (number + 1) // (NUM_OF_A_KIND + 8)]
    yield "truncated.png", png[: len(png) * (number + 1) // (NUM_OF_A_KIND + 8)]
    yield "zero.jpg", b""
    yield "zero.webp", b""
    yield "text.jpg", b"These are words. " * number + b"No picture."
    yield "page.png", b"<html>404</html>" * (number + 1)
    yield "archive.tiff", b"PK\x03\x04" + bytes(range(200))
    yield "noise.bmp", np.random.default_rng(number).bytes(500)
    yield "one pixel.png", encoded(Image.new("RGB", (1, 1)), "PNG")
    yield "thin.png", encoded(Image.new("RGB", (200 + number, 3)), "PNG")
    yield "too many pixels.png", encoded(Image.new("1", (20_000, 3_400 + number)), "PNG")


def broken_videos(folder: Path, number: int) -> Iterator[tuple[str, bytes]]:
    whole = write_video(folder / "whole.mp4", [draw_frame([FACE])] * 8).read_bytes()
    yield "no index.mp4", whole[: len(whole) * (number + 1) // (NUM_OF_A_KIND + 2)]
    yield "zero.mkv", b""
    yield "text.avi", b"no video " * (number + 1)
    yield "noise.mov", np.random.default_rng(number).bytes(3000)


def odd_but_sound() -> Iterator[tuple[str, bytes]]:
    """Pictures that can be read, whatever is unusual about them."""
    picture = Image.fromarray(draw_frame([FACE]))
    yield "cmyk.jpg", encoded(picture.convert("CMYK"), "JPEG")
    yield "wide.png", encoded(Image.new("L", (20_000, 16)), "PNG")
    yield "jpeg inside.png", encoded(picture, "JPEG")
    yield "palette.png", encoded(picture.quantize(8), "PNG")
    yield "sixteen bits.png", encoded(Image.fromarray(np.full((20, 20), 4000, np.uint16)), "PNG")
    yield "see-through.webp", encoded(picture.convert("RGBA"), "WEBP")
    frames = [picture, Image.fromarray(draw_frame([])), picture]
    yield "moving.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200)
    for name in ("späße 😀.png", "-rf.png", "a;b'c\"d.png", "line\nbreak.png", "%s{0}.png", "…" * 60 + ".png"):
        yield name, encoded(picture, "PNG")


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> tuple[Path, list[str], list[str]]:
    """A folder, what of it cannot be read, and what can."""
    folder, scratch = tmp_path_factory.mktemp("media"), tmp_path_factory.mktemp("scratch")
    broken, sound = [], []
    for number in range(NUM_OF_A_KIND):
        below = folder / f"{number:02d}"
        below.mkdir()
        for name, content in (*broken_pictures(number), *broken_videos(scratch, number)):
            (below / name).write_bytes(content)
            broken.append(printable(below / name))
        (below / "gone.jpg").symlink_to("nowhere.jpg")
        broken.append(printable(below / "gone.jpg"))
        (below / "folder.png").mkdir()
    for name, content in odd_but_sound():
        (folder / name).write_bytes(content)
        sound.append(printable(folder / name))
    latin = os.fsencode(folder) + b"/caf\xe9.png"
    with open(latin, "wb") as file:
        file.write(encoded(Image.fromarray(draw_frame([FACE])), "PNG"))
    sound.append(printable(os.fsdecode(latin)))
    return folder, broken, sound


def test_the_run_goes_on_and_names_what_failed(media, tmp_path, capsys):
    folder, broken, sound = media
    assert len(broken) + len(sound) > 200
    save_tiny_checkpoint(tmp_path / "tiny")
    command = ["analyze", str(folder), "--model", str(tmp_path / "tiny"), "--output", str(tmp_path / "run")]
    options = ["--backend", "blob_faces:BlobDetector", "--format", "parquet,csv,jsonl,openface,pyfeat,abaw"]
    assert main([*command, *options, "--device", "cpu", "--overlay"]) == 1

    rows = pq.read_table(tmp_path / "run" / "faces.parquet").to_pylist()
    by_status = {status: {row["source"] for row in rows if row["status"] == status} for status in ("ok", "no_face")}
    errors = {row["source"]: row for row in rows if row["status"] == "error"}
    assert {row["source"] for row in rows} == {*broken, *sound}
    assert set(errors) == set(broken)
    assert all(row["error"] and "\n" not in row["error"] and row["face"] == -1 for row in errors.values())
    assert all(row["AU12"] is None and row["emotion"] is None for row in errors.values())
    names = {Path(source).name for source in by_status["ok"]}
    assert {"cmyk.jpg", "moving.gif", "line\\x0abreak.png", "caf\\xe9.png", "späße 😀.png"} <= names
    assert {"wide.png", "sixteen bits.png"} <= {Path(source).name for source in by_status["no_face"]}
    moving = [(row["frame"], row["time_s"], row["face"]) for row in rows if row["source"].endswith("moving.gif")]
    assert moving == [(0, 0.0, 0), (1, 0.2, -1), (2, 0.4, 0)]

    out, err = capsys.readouterr()
    assert f"{len(broken)} errors in {len(broken)} sources" in out
    said = [line for line in err.splitlines() if "failed: " in line]
    assert said == [f"mf2 analyze: failed: {source}: {row['error']}" for source, row in errors.items()]
    assert not any(row["error"].startswith(source) for source, row in errors.items()), "the name stands before it"
    assert "Traceback" not in err


def test_a_video_that_breaks_off_keeps_what_came_before(tmp_path):
    """Frames before the end have rows; that some are missing is an error, which the decoder passes over."""
    save_tiny_checkpoint(tmp_path / "tiny")
    frames = [np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8) for number in range(40)]
    content = write_video(tmp_path / "clip.mkv", frames).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    videos = [str(tmp_path / name) for name in ("clip.mkv", "cut.mkv")]
    command = ["analyze", *videos, "--model", str(tmp_path / "tiny"), "--landmarks", "mean_face", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 1
    rows = pq.read_table(tmp_path / "run" / "faces.parquet").to_pylist()
    seen = {video: [row["frame"] for row in rows if row["source"] == video] for video in videos}
    assert seen[videos[0]] == list(range(40))
    assert seen[videos[1]] == list(range(len(seen[videos[1]]))) and 10 < len(seen[videos[1]]) < 25
    assert [row["status"] for row in rows].count("error") == 1
    assert "of 4.0 s" in rows[-1]["error"]
