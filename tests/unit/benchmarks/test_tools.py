"""Other tools over the same frames: stand-ins that answer as the real ones do, and the real ones on made weights."""

import argparse
import json
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from mf2.benchmarks import tools
from mf2.benchmarks.tools import EMOTION_NAMES, MODEL, run
from mf2.data_loading.splits import Split
from mf2.evaluation.external_predictions import ExternalPredictions


def arguments(data: Path, output: Path, *names: str, **values) -> argparse.Namespace:
    given = {"split": "validation", "max_rows": None, "openface": None, **values}
    return argparse.Namespace(data=str(data), output_dir=str(output), tools=list(names), **given)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    monkeypatch.delenv("DEEPFACE_HOME", raising=False)
    return tmp_path / "home"


def pretend(monkeypatch, name: str, **content) -> None:
    """A package of that name is installed."""
    module = ModuleType(name)
    vars(module).update(content)
    module.__spec__ = SimpleNamespace(name=name)
    monkeypatch.setitem(sys.modules, name, module)


def scored(file: Path, data: Path):
    """What the evaluator makes of a tool's CSV."""
    table = ExternalPredictions.read(file)
    return table.match(Split.load(str(data), "validation", None, table.label_space.au_ids)), table.label_space


def test_what_is_not_here_is_skipped_with_what_to_do(mfa_folder, tmp_path, home, monkeypatch, capsys):
    pretend(monkeypatch, "emotiefflib")
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda name: name == "emotiefflib" or None)
    assert run(arguments(mfa_folder, tmp_path / "out", "emotiefflib", "deepface", "pyfeat", "openface")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"put {MODEL}.onnx of https://github.com/sb-ai-lab/EmotiEffLib" in lines[0] and str(home) in lines[0]
    assert "pip install deepface" in lines[1] and "pip install py-feat" in lines[2] and "--openface" in lines[3]


def test_emotiefflibs_classes_are_ours_and_contempt_is_other(mfa_folder, tmp_path, home, monkeypatch):
    names = iter(["Contempt", "Happiness", "Neutral", "Anger"])

    class Recognizer:
        def __init__(self, engine, model_name, device):
            assert (engine, model_name) == ("onnx", MODEL)

        def predict_emotions(self, face, logits):
            assert face.ndim == 3 and not logits
            return [next(names)], [[0.0]]

    pretend(monkeypatch, "emotiefflib")
    pretend(monkeypatch, "emotiefflib.facial_analysis", EmotiEffLibRecognizer=Recognizer)
    (home / ".emotiefflib").mkdir(parents=True)
    (home / ".emotiefflib" / f"{MODEL}.onnx").touch()
    out = tmp_path / "out"
    assert run(arguments(mfa_folder, out, "emotiefflib")) == 0
    assert pd.read_csv(out / "emotiefflib.csv")["emotion"].tolist() == ["Other", "Happiness", "Neutral", "Anger"]
    entry = json.loads((out / "tools.json").read_text())["tools"]["emotiefflib"]
    assert entry["pictures"] == 4 and entry["without_face"] == 0 and entry["seconds_per_picture"] > 0
    predictions, space = scored(out / "emotiefflib.csv", mfa_folder)
    assert predictions.emotion_probs.shape == (4, len(space.emotions))


ENGINES = {None: "h5", "tensorflow": "h5", "pytorch": "pth", "onnx": "onnx"}


@pytest.mark.parametrize(("engine", "suffix"), ENGINES.items())
def test_deepface_reads_the_weights_of_its_engine(mfa_folder, tmp_path, home, monkeypatch, capsys, engine, suffix):
    pretend(monkeypatch, "deepface")
    if engine:
        pretend(monkeypatch, "deepface.commons")
        pretend(monkeypatch, "deepface.commons.backend_utils", get_backend_engine=lambda: engine)
    assert run(arguments(mfa_folder, tmp_path / "out", "deepface")) == 1
    said = capsys.readouterr()
    assert f"put facial_expression_model_weights.{suffix} of" in said.out + said.err


def test_deepface_sees_bgr(mfa_folder, tmp_path, home, monkeypatch):
    def analyze(image, **options):
        assert options["detector_backend"] == "skip" and options["actions"] == ["emotion"]
        return [{"dominant_emotion": "happy", "emotion": {"happy": 99.0}}]

    pretend(monkeypatch, "deepface", DeepFace=SimpleNamespace(analyze=analyze))
    file = home / ".deepface" / "weights" / "facial_expression_model_weights.h5"
    file.parent.mkdir(parents=True)
    file.touch()
    assert run(arguments(mfa_folder, tmp_path / "out", "deepface")) == 0
    assert set(pd.read_csv(tmp_path / "out" / "deepface.csv")["emotion"]) == {"Happiness"}


@pytest.mark.parametrize(
    ("release", "emotions"),
    [("Detector", ("happiness", "anger")), ("Detectorv1", ("happiness", "anger")), ("Detectorv2", ("Happy", "Anger"))],
)
def test_pyfeats_table_is_read_and_a_frame_without_a_face_counts(
    mfa_folder, tmp_path, home, monkeypatch, release, emotions
):
    class Detector:
        def __init__(self, device):
            pass

        def detect(self, paths, data_type):
            assert data_type == "image"
            rows = [{"input": path, "frame": i, "FaceRectX": 1.0, "FaceScore": 0.9} for i, path in enumerate(paths)]
            table = pd.DataFrame(rows).assign(AU01=0.25, AU12=0.75, Identity="Person_0")
            table[list(emotions)] = 0.8, 0.1
            table["frame"] = 0
            table.loc[1, ["FaceRectX", "FaceScore"]] = None
            return table

    pretend(monkeypatch, "feat", **{release: Detector})
    assert run(arguments(mfa_folder, tmp_path / "out", "pyfeat")) == 0
    table = pd.read_csv(tmp_path / "out" / "pyfeat.csv")
    assert table["AU12"].tolist() == [0.75, 0.0, 0.75, 0.75] and table["emotion"].tolist()[:2] == [
        "Happiness",
        "Neutral",
    ]
    assert json.loads((tmp_path / "out" / "tools.json").read_text())["tools"]["pyfeat"]["without_face"] == 1
    scored(tmp_path / "out" / "pyfeat.csv", mfa_folder)


def test_pyfeat_is_not_let_download_its_weights(mfa_folder, tmp_path, home, monkeypatch, capsys):
    class Detectorv2:
        def __init__(self, device):
            assert tools.constants.HF_HUB_OFFLINE
            raise LocalEntryNotFoundError("not on disk")

    pretend(monkeypatch, "feat", Detectorv2=Detectorv2, __file__="/site/feat/__init__.py")
    monkeypatch.setattr(tools.constants, "HF_HUB_OFFLINE", False)
    assert run(arguments(mfa_folder, tmp_path / "out", "pyfeat")) == 1
    assert "not in /site/feat/resources: run once with a net: python -c" in capsys.readouterr().out
    assert not tools.constants.HF_HUB_OFFLINE


def test_a_release_of_pyfeat_without_a_known_detector_is_skipped(mfa_folder, tmp_path, home, monkeypatch, capsys):
    pretend(monkeypatch, "feat")
    assert run(arguments(mfa_folder, tmp_path / "out", "pyfeat")) == 1
    assert "has none of Detectorv2, Detectorv1, Detector" in capsys.readouterr().out


SCRIPT = """#!{python}
import pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(arguments["-out_dir"])
out.mkdir(exist_ok=True)
for picture in sorted(pathlib.Path(arguments["-fdir"]).iterdir()):
    line = "0, 0.975, 1.0, 2.0, 2.31, 1"
    text = "face, confidence, x_0, y_0, AU12_r, AU12_c\\n" + line + "\\n"
    (out / (picture.stem + ".csv")).write_text(text)
"""


def test_openfaces_executable_writes_a_file_a_picture(mfa_folder, tmp_path, home):
    program = tmp_path / "FaceLandmarkImg"
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert run(arguments(mfa_folder, tmp_path / "out", "openface", openface=str(program))) == 0
    assert pd.read_csv(tmp_path / "out" / "openface.csv")["AU12"].tolist() == [1.0] * 4
    predictions, space = scored(tmp_path / "out" / "openface.csv", mfa_folder)
    assert space.au_codes == ("AU12",) and predictions.au_probs.shape == (4, 1)


# ------------------------------------------------------------ tools as they are published, where they are installed
def write_onnx_classifier(file: Path) -> None:
    """Eight classes of the mean colour of `input`, (N, 3, 224, 224), as HSEmotion's files end: by a `Gemm` node."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.normal(size=(8, 3)).astype("float32"), "weight")
    bias = onnx.numpy_helper.from_array(np.zeros(8, "float32"), "bias")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["features"]),
        onnx.helper.make_node("Gemm", ["features", "weight", "bias"], ["output"], transB=1),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", [None, 3, 224, 224]), ("output", [None, 8]))
    ]
    graph = onnx.helper.make_graph(nodes, "stand_in", values[:1], values[1:], [weight, bias])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    file.parent.mkdir(parents=True)
    onnx.save(model, str(file))


def check_rows(name: str, data: Path, output: Path) -> None:
    table = pd.read_csv(output / f"{name}.csv")
    assert len(table) == 4 and set(table["emotion"]) <= set(EMOTION_NAMES.values())
    predictions, space = scored(output / f"{name}.csv", data)
    assert predictions.emotion_probs.shape == (4, len(space.emotions))


def test_emotiefflib(mfa_folder, tmp_path, home, capsys):
    """It runs to rows where its file lies, and is skipped with the name of the file and its place without."""
    pytest.importorskip("emotiefflib")
    file = home / ".emotiefflib" / f"{MODEL}.onnx"
    assert run(arguments(mfa_folder, tmp_path / "out", "emotiefflib")) == 1
    assert f"put {MODEL}.onnx of https://github.com/sb-ai-lab/EmotiEffLib" in (said := capsys.readouterr().out)
    assert str(file) in said and not file.exists()
    write_onnx_classifier(file)
    assert run(arguments(mfa_folder, tmp_path / "out", "emotiefflib")) == 0
    check_rows("emotiefflib", mfa_folder, tmp_path / "out")


def test_deepface(mfa_folder, tmp_path, home, capsys, monkeypatch):
    pytest.importorskip("deepface")
    from deepface.commons import backend_utils

    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "pytorch")
    monkeypatch.setattr(backend_utils, "_backend_engine", None)
    file = home / ".deepface" / "weights" / "facial_expression_model_weights.pth"
    assert run(arguments(mfa_folder, tmp_path / "out", "deepface")) == 1
    assert str(file) in capsys.readouterr().out and not file.exists()
    from deepface.models.demography.pytorch.Emotion import base_model

    torch.manual_seed(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(base_model().state_dict(), file)
    assert run(arguments(mfa_folder, tmp_path / "out", "deepface")) == 0
    check_rows("deepface", mfa_folder, tmp_path / "out")


def test_pyfeat_says_where_its_weights_would_be(mfa_folder, tmp_path, home, capsys):
    feat = pytest.importorskip("feat")
    resources = Path(feat.__file__).with_name("resources")
    if any(resources.glob("models--*")):
        pytest.skip("its weights are here")
    assert run(arguments(mfa_folder, tmp_path / "out", "pyfeat")) == 1
    assert f"its weights are not in {resources}: run once with a net" in capsys.readouterr().out
