"""Exported files see what PyTorch sees, in processes that have neither torch nor any other large package."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fresh_process import call_fresh
from PIL import Image
from tiny_mf2 import make_tiny, save_tiny, write_pictures

from mf2.analysis.onnx_export import export_onnx
from mf2.analysis.onnx_settings import TOLERANCES
from mf2.analysis.recognizer import Recognizer as TorchRecognizer
from mf2.cli import main
from mf2.labels_mf2 import MEAN_FACE_68
from mf2.onnx_runtime import Recognizer
from mf2.onnx_runtime.description import METADATA_KEY, FileDescription

VISITS = Path(__file__).with_name("light_visits.py")
LARGE = (
    "torch",
    "torchvision",
    "transformers",
    "pyarrow",
    "pandas",
    "scipy",
    "matplotlib",
    "datasets",
    "psutil",
    "yaml",
)
AUS, THRESHOLDS = (1, 12, 15), [0.2, 0.4, 0.6]
SIZES = [(48, 48), (90, 60), (240, 320), (33, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with its exported file."""
    model = save_tiny(tmp_path_factory.mktemp("tiny") / "model", au_ids=AUS, au_thresholds=THRESHOLDS)
    export_onnx(*make_tiny(au_ids=AUS, au_thresholds=THRESHOLDS), model / "tiny.onnx")
    return model


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    blocks = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)) for _ in SIZES]
    return [
        np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image, size in zip(blocks, SIZES, strict=True)
    ]


def faces_in(picture: np.ndarray, count: int) -> np.ndarray:
    """`(count, 68, 2)` points of mean faces, turned and of other sizes."""
    height, width = picture.shape[:2]
    points = np.asarray(MEAN_FACE_68) * min(height, width) * 0.7
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.linspace(0, 0.5, count)]
    return np.stack([points @ turn.T * (1 - 0.2 * i) + (3 + i, 2) for i, turn in enumerate(turns)])


def visit(function: str, home: Path, **arguments):
    env = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    return call_fresh(VISITS, function, hide=LARGE, env=env, **arguments)


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """Equal within what the export allows."""
    assert [row.keys() for row in found] == [row.keys() for row in expected] and found
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, abs=TOLERANCES["float32"]) if name != "emotion" else value), name


# ------------------------------------------------------------------------------------------------------------- equal
@pytest.mark.dependencies
def test_faces_of_any_size_give_what_pytorch_gives(folder, pictures):
    ours, theirs = Recognizer(folder), TorchRecognizer.from_pretrained(str(folder), device="cpu")
    landmarks = [None, faces_in(pictures[1], 1), faces_in(pictures[2], 3), None]
    found, expected = ours.prepare(pictures, landmarks), theirs.prepare(pictures, landmarks)
    assert ours.label_spaces == theirs.label_spaces and ours.label_spaces[""].thresholds == tuple(THRESHOLDS)
    assert ours.landmark_detector == theirs.landmark_detector
    np.testing.assert_allclose(found["pixel_values"], expected["pixel_values"].numpy(), atol=2e-4)
    np.testing.assert_array_equal(found["au_boxes"], expected["au_boxes"].numpy())
    np.testing.assert_array_equal(found["align_matrix"], expected["align_matrix"])
    rows = ours.recognize(found)
    assert len(rows) == 6 and np.ptp([row["AU12"] for row in rows]) > 1e-3
    assert_same(rows, theirs.recognize(expected))


def test_a_processor_with_other_settings_is_followed(tmp_path, pictures):
    model, processor = make_tiny(au_ids=AUS)
    images = processor.image_processor
    images.image_mean, images.image_std, images.do_align = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], False
    images.eye_centers, images.au_region_size = [[0.3, 0.3], [0.7, 0.3]], 0.2
    export_onnx(model, processor, tmp_path / "other.onnx")
    ours, theirs = Recognizer(tmp_path / "other.onnx"), TorchRecognizer(model, processor)
    for landmarks in ([None] * 4, [faces_in(picture, 2) for picture in pictures]):
        found, expected = ours.prepare(pictures, landmarks), theirs.prepare(pictures, landmarks)
        for name in ("pixel_values", "au_boxes", "align_matrix"):
            np.testing.assert_allclose(found[name], expected[name], atol=5e-4)


def test_adapters_of_other_labels_answer_beside_it(folder, tmp_path, pictures):
    """Each is given the boxes of its own regions."""
    other = make_tiny(seed=5, au_ids=(4, 12), emotions=["Joy", "Calm"])
    export_onnx(*other, tmp_path / "smile.v2.onnx")
    both = Recognizer(folder, [tmp_path / "smile.v2.onnx"])
    assert list(both.label_spaces) == ["", "smile_v2."] and both.au_ids == (1, 12, 15, 4)
    landmarks = [faces_in(picture, 1) for picture in pictures]
    alone = [one.recognize(one.prepare(pictures, landmarks)) for one in (Recognizer(folder), TorchRecognizer(*other))]
    named = [{f"smile_v2.{name}": value for name, value in row.items()} for row in alone[1]]
    expected = [first | second for first, second in zip(alone[0], named, strict=True)]
    found = both.recognize(both.prepare(pictures, landmarks))
    names = [name for name in found[0] if name not in ("emotion", "smile_v2.emotion")]
    assert [row["smile_v2.emotion"] for row in found] == [row["smile_v2.emotion"] for row in expected]
    assert_same(
        [{name: row[name] for name in names} for row in found],
        [{name: row[name] for name in names} for row in expected],
    )
    assert both(pictures[0])[0]["au_probs"].keys() == {"AU1", "AU12", "AU15"}
    with pytest.raises(ValueError, match="smile_v2, smile_v2; names must differ"):
        Recognizer(folder, [tmp_path / "smile.v2.onnx"] * 2)


# ----------------------------------------------------------------------------------------- without large packages
def test_a_command_without_large_packages_writes_the_same_rows(folder, tmp_path):
    """Crops, and points of a file."""
    paths = write_pictures(tmp_path / "faces", 3)
    points = tmp_path / "points.csv"
    names = [f"{axis}{point}" for point in range(68) for axis in "xy"]
    with points.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["video", "frame", *names])
        for path in paths[:2]:
            lines.writerow([path.name, 0, *(np.asarray(MEAN_FACE_68) * 40 + 3).ravel().round(3)])
    for landmarks in ("mean_face", str(points)):
        argv = [str(paths[0].parent), "--landmarks", landmarks, "--format", "csv"]
        done = visit(
            "analyze", tmp_path, argv=[*argv, "--model", str(folder)], output=str(tmp_path / f"light-{len(landmarks)}")
        )
        assert done["status"] == 0, done["err"]
        assert "3 sources, 3 frames" in done["out"]
        assert not {name for name in done["modules"] if name.partition(".")[0] in LARGE}
        whole = tmp_path / f"whole-{len(landmarks)}"
        assert main(["analyze", *argv, "--model", str(folder), "--runtime", "torch", "--output", str(whole)]) == 0
        expected = list(csv.DictReader((whole / "faces.csv").open()))
        assert [row["landmarks_found"] for row in done["rows"]] == [row["landmarks_found"] for row in expected]
        for row, wanted in zip(done["rows"], expected, strict=True):
            for name, value in wanted.items():
                is_number = value and name.startswith(("AU", "emotion_", "x", "y", "pose"))
                assert row[name] == value or (is_number and float(row[name]) == pytest.approx(float(value), abs=1e-4))
    manifest = json.loads((tmp_path / "light-9" / "manifest.json").read_text())
    assert manifest["thresholds"] == {"AU1": 0.2, "AU12": 0.4, "AU15": 0.6}
    assert manifest["versions"]["onnxruntime"] == onnxruntime.__version__
    assert manifest["settings"]["formats"] == ["csv"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--captions", "au"], "--captions needs --runtime torch"),
        (["--device", "cuda"], "--device cuda needs --runtime torch"),
        (["--format", "parquet"], "--format parquet needs pyarrow: pip install mf2-face"),
        (["--overlay"], "needs pyarrow"),
        (["--report"], "--report needs pandas, pyarrow"),
        (["--runtime", "torch"], "No module named 'torch': pip install mf2-face"),
    ],
)
def test_what_needs_more_is_refused_in_one_line(folder, tmp_path, argv, message):
    (picture,) = write_pictures(tmp_path, 1)
    argv = [str(picture), "--model", str(folder), "--landmarks", "mean_face", *argv]
    done = visit("analyze", tmp_path, argv=argv, output=str(tmp_path / "out"))
    assert done["status"] == 1 and not (tmp_path / "out").exists()
    (line,) = done["err"].splitlines()
    assert message in line


def test_other_commands_name_the_whole_package(tmp_path):
    done = visit("run", tmp_path, argv=["explain", str(tmp_path / "face.png"), "--model", str(tmp_path)])
    assert done["status"] == 1 and "pip install mf2-face" in done["err"] and len(done["err"].splitlines()) == 1


def test_the_class_for_python_gives_what_the_pipeline_names(folder, tmp_path, pictures):
    path = tmp_path / "two.png"
    Image.fromarray(pictures[2]).save(path)
    points = faces_in(pictures[2], 2)
    found = visit("recognize", tmp_path, model=str(folder), picture=str(path), landmarks=points.tolist())
    assert [face["face"] for face in found] == [0, 1] and all(face["landmarks_found"] for face in found)
    assert found[0]["box"]["xmax"] == pytest.approx(points[0, :, 0].max())
    torch = TorchRecognizer.from_pretrained(str(folder), device="cpu")
    row, _ = torch.recognize(torch.prepare([pictures[2]], [points]))
    assert found[0]["au_probs"] == pytest.approx({code: row[code] for code in ("AU1", "AU12", "AU15")}, abs=1e-4)
    limits = dict(zip(("AU1", "AU12", "AU15"), THRESHOLDS, strict=True))
    assert found[0]["active_aus"] == [code for code, prob in found[0]["au_probs"].items() if prob >= limits[code]]
    assert found[0]["emotion"] == row["emotion"] and sum(found[0]["emotion_probs"].values()) == pytest.approx(1)


def test_one_picture_gives_its_faces_and_several_a_list_of_them(folder, pictures):
    recognizer = Recognizer(folder / "tiny.onnx", num_threads=1)
    (crop,) = recognizer(pictures[0])
    assert not crop["landmarks_found"] and crop["score"] is None and crop["box"]["xmax"] == pytest.approx(48)
    found = recognizer([pictures[0], pictures[1]], [None, faces_in(pictures[1], 2)])
    assert [len(faces) for faces in found] == [1, 2] and found[0] == [crop]
    assert recognizer(np.stack([pictures[0]] * 2)) == [[crop], [crop]]
    with pytest.raises(ValueError, match="1 sets of landmarks for 2 images"):
        recognizer(pictures[:2], [None])


# ------------------------------------------------------------------------------------------------------- which file
def test_what_is_no_exported_file_is_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mf2 export --model .*empty --onnx .*mf2\.onnx"):
        Recognizer(make_folder(tmp_path / "empty"))
    several = make_folder(tmp_path / "several")
    for name in ("a.onnx", "b.onnx"):
        (several / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"holds a\.onnx, b\.onnx; name one"):
        Recognizer(several)
    with pytest.raises(ValueError, match=r"a\.onnx cannot be loaded as an ONNX model"):
        Recognizer(several / "a.onnx")
    with pytest.raises(ValueError, match=r"no \.onnx file"):
        Recognizer(folder / "config.json")


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_metadata_that_say_too_little_are_refused(folder):
    written = Recognizer(folder).description.to_dict()
    path = Path("old.onnx")
    assert FileDescription.from_metadata({METADATA_KEY: json.dumps(written)}, path).to_dict() == written
    del written["region_au_codes"]
    with pytest.raises(ValueError, match=r"did not write region_au_codes; export it again"):
        FileDescription.from_metadata({METADATA_KEY: json.dumps(written)}, path)
    with pytest.raises(ValueError, match="was not written by `mf2 export --onnx`"):
        FileDescription.from_metadata({}, path)
