"""int8: a file that sees nearly what the float32 file sees is written with its scores, others are refused."""

import csv
import shutil
from argparse import Namespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from samples import mfa_row
from tiny_mf2 import make_tiny, save_tiny, write_pictures

from mf2.analysis import onnx_int8
from mf2.analysis.export import check_arguments
from mf2.analysis.onnx_export import export_onnx
from mf2.analysis.onnx_int8 import Int8Record, export_int8, kept_in_float
from mf2.cli import main
from mf2.dataset_tools.schema import write_mfa
from mf2.labels_mf2 import AU_IDS, MEAN_FACE_68
from mf2.onnx_runtime import Recognizer

pytestmark = pytest.mark.dependencies

AUS = (1, 12)
NUM_TRAIN, NUM_EVAL = 12, 6


def write_faces(folder, **columns):
    """Labelled pictures of coloured blocks with the landmarks of the mean face."""
    files = write_pictures(folder / "pictures", NUM_TRAIN + NUM_EVAL)
    points = (np.array(MEAN_FACE_68) * 48).astype(np.float32)
    rows = [mfa_row(number, image=file.read_bytes(), landmarks=points, **columns) for number, file in enumerate(files)]
    splits = {"train": rows[:NUM_TRAIN], "validation": rows[NUM_TRAIN:]}
    return str(write_mfa(folder / "faces", splits, manifest={"license": "other", "pretty_name": "Blocks"}))


@pytest.fixture
def faces(tmp_path, private_cache):
    return write_faces(tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with its processor, and its file in float32."""
    model, processor = make_tiny(au_ids=AUS)
    file = tmp_path_factory.mktemp("float32") / "tiny.onnx"
    export_onnx(model, processor, file)
    return model, processor, file


@pytest.fixture
def export_once(exported, monkeypatch):
    """Where int8 begins with the float32 file, it is there."""
    monkeypatch.setattr(onnx_int8, "export_onnx", lambda model, processor, file, opset: shutil.copy(exported[2], file))
    return exported[:2]


@pytest.fixture(autouse=True)
def narrow_layers(monkeypatch):
    """The tiny model's layers have 32 outputs and fewer."""
    monkeypatch.setattr(onnx_int8, "MIN_OUTPUTS", 16)


def operators_of(file) -> list[str]:
    return [node.op_type for node in onnx.load(str(file)).graph.node]


def test_the_command_writes_a_file_that_analyses(tmp_path, faces, exported, capsys, monkeypatch):
    """Its probabilities are near the float32 file's and not the same; its metadata have the printed scores."""
    monkeypatch.setattr(onnx_int8, "MAX_LOSS", 0.5)  # six faces: one is worth 17 points
    model = save_tiny(tmp_path / "model", au_ids=AUS)
    exact, small = exported[2], tmp_path / "small.onnx"
    words = ["--dtype", "int8", "--calibration_data", faces, "--calibration_faces", "8"]
    assert main(["export", "--model", str(model), "--onnx", str(small), *words]) == 0
    record = Recognizer(small).description.int8
    assert record["calibration_faces"] == 8 and record["checked_faces"] == NUM_EVAL
    assert record["layers"] == "convolutions and products"
    assert Int8Record(**record).to_line() in capsys.readouterr().out
    assert Recognizer(small).description.dtype == "int8" and Recognizer(exact).description.int8 is None
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(operators_of(small))
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["small.onnx"]
    pictures = sorted((tmp_path / "pictures").iterdir())[-NUM_EVAL:]
    seen = [
        np.array([list(face["au_probs"].values()) for [face] in Recognizer(file)(pictures)]) for file in (exact, small)
    ]
    assert 1e-6 < np.abs(seen[0] - seen[1]).max() < 0.1
    analyze = ["analyze", str(pictures[0]), "--model", str(small), "--landmarks", "mean_face", "--format", "csv"]
    assert main([*analyze, "--output", str(tmp_path / "run")]) == 0
    [row] = csv.DictReader((tmp_path / "run" / "faces.csv").open(encoding="utf-8"))
    assert float(row["AU1"]) == pytest.approx(seen[1][0, 0], abs=1e-5)


def test_a_loss_is_refused_with_its_figures_and_nothing_is_left(tmp_path, faces, export_once, monkeypatch):
    """Every recipe is tried; what they score stands in the error."""
    monkeypatch.setattr(onnx_int8, "MAX_LOSS", -1.0)
    folder = tmp_path / "out"
    with pytest.raises(ValueError) as refused:
        export_int8(*export_once, folder / "small.onnx", faces)
    for layers in onnx_int8.RECIPES:
        assert f"{layers}: AU F1 " in str(refused.value)
    assert " on 6 faces" in str(refused.value) and "was not written" in str(refused.value)
    assert list(folder.iterdir()) == []


def test_the_next_recipe_is_taken_where_the_first_loses(tmp_path, faces, export_once, monkeypatch):
    monkeypatch.setattr(Int8Record, "is_near", lambda record: record.layers == "products")
    record = export_int8(*export_once, tmp_path / "small.onnx", faces)
    assert record.layers == "products" == Recognizer(tmp_path / "small.onnx").description.int8["layers"]
    graph = onnx.load(str(tmp_path / "small.onnx")).graph
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    fed = {node.op_type for node in graph.node if quantised & set(node.input) and node.op_type != "QuantizeLinear"}
    assert "MatMul" in fed and "Conv" not in fed


def test_faces_without_labels_cannot_check(tmp_path, private_cache):
    unlabelled = write_faces(tmp_path, emotion=None, **{f"AU{au_id}": -1 for au_id in AU_IDS})
    with pytest.raises(ValueError, match=r"\(validation\): no row labels AU1, AU12, Neutral"):
        export_int8(*make_tiny(au_ids=AUS), tmp_path / "small.onnx", unlabelled)


@pytest.mark.parametrize(
    ("scores", "near"),
    [
        ({"au_f1": (0.8, 0.795), "emotion_top1": (0.7, 0.71)}, True),
        ({"au_f1": (0.8, 0.7949), "emotion_top1": (0.7, 0.71)}, False),
        ({"au_f1": (0.8, 0.8), "emotion_top1": (0.7, 0.69)}, False),
        ({"au_f1": None, "emotion_top1": (0.7, 0.7)}, True),
    ],
)
def test_half_a_point_of_either_score_is_the_most(scores, near):
    assert Int8Record("products", "made", 8, 100, **scores).is_near() is near


def test_products_of_activations_and_narrow_layers_stay_in_float():
    weights = [helper.make_tensor(name, TensorProto.FLOAT, (2, n), [0.0] * 2 * n) for name, n in (("w", 16), ("n", 8))]
    scalar = helper.make_tensor("one", TensorProto.FLOAT, (), [1.0])
    nodes = [
        helper.make_node("MatMul", [left, right], [f"{right}_out"], name=name)
        for name, left, right in (("wide", "x", "w"), ("narrow", "x", "n"), ("attention", "x", "y"))
    ]
    nodes.append(helper.make_node("Mul", ["x", "one"], ["z"], name="scale"))
    graph = helper.make_graph(nodes, "graph", [], [], initializer=[*weights, scalar])
    assert kept_in_float(graph) == ["narrow", "attention"]


@pytest.mark.parametrize(
    ("dtype", "data", "faces", "message"),
    [
        ("int8", None, 128, "--dtype is int8 and --calibration_data None; int8 needs labelled faces"),
        ("float32", "made", 128, "--dtype is float32 and --calibration_data made"),
        ("int8", "made", 0, "--calibration_faces is 0; it must be at least 1"),
    ],
)
def test_arguments_that_do_not_go_together(dtype, data, faces, message):
    arguments = Namespace(dtype=dtype, calibration_data=data, calibration_faces=faces, max_check_faces=None)
    with pytest.raises(ValueError, match=message):
        check_arguments(arguments)


def test_a_file_of_an_earlier_export_has_no_int8(tmp_path, exported):
    """Fields that came later need not be there."""
    file = tmp_path / "tiny.onnx"
    model = onnx.load(str(exported[2]))
    [entry] = model.metadata_props
    entry.value = entry.value.replace(', "int8": null', "")
    onnx.save(model, str(file))
    assert Recognizer(file).description.int8 is None
