"""Every runtime of the throughput benchmark sees the same faces and gives the same answers. Times are not tested."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from tiny_mf2 import save_tiny, write_pictures

from mf2.analysis import onnx_int8
from mf2.benchmarks import throughput
from mf2.benchmarks.throughput import EAGER, INT8, ONNX, Contestants
from mf2.cli.benchmark import main


@pytest.fixture(scope="module")
def contestants(tmp_path_factory):
    folder = tmp_path_factory.mktemp("throughput")
    model = save_tiny(folder / "model", au_ids=(1, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_int8, "MIN_OUTPUTS", 16)
        return Contestants(str(model), folder, (ONNX, INT8), "products")


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_all_give_the_same_answers(contestants):
    inputs = contestants.faces(3)
    runs = contestants.runs(threads=1)
    assert list(runs) == [EAGER, ONNX, INT8]
    expected = runs[EAGER](inputs)
    for name, limits in {ONNX: (0, 1e-4), INT8: (1e-6, 0.1)}.items():
        found = list(runs[name](inputs).values())
        furthest = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
        assert limits[0] <= furthest <= limits[1], name


def test_a_row_for_each_runtime_ready_and_detected(contestants, tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", 2)
    looked = []

    def detect(detector, given):
        looked.append([picture.shape for picture in given])
        return [[] for _ in given]

    monkeypatch.setattr(throughput, "find_detector", lambda name: None)
    monkeypatch.setattr(throughput, "detect_in_pictures", detect)
    args = Namespace(pictures=str(tmp_path / "pictures"), repeats=2)
    rows = list(throughput.measure_batch("tiny", contestants, 1, 3, args))
    assert [(row["faces"], row["runtime"]) for row in rows] == [
        (faces, runtime) for faces in ("ready", "detected") for runtime in (EAGER, ONNX, INT8)
    ]
    assert all(row["of PyTorch"] == pytest.approx(1) for row in rows if row["runtime"] == EAGER)
    assert all(row["ms an image"] * row["images/s"] == pytest.approx(1000) for row in rows)
    rates = [row["of a product's rate"] for row in rows]
    assert all(0 < rate < 2 for rate in rates[:2]) and rates[2:] == [None] * 4, "a rate needs float32 and ready faces"
    assert looked[0] == [(48, 48, 3)] * 3 and len(pictures) == 2, "two pictures serve a batch of three"
    assert all(row["aim"] is None for row in rows), "aims are those of a batch of 1"
    alone = list(throughput.measure_batch("tiny", contestants, 1, 1, Namespace(pictures=None, repeats=1)))
    assert [row["aim"] in (True, False) for row in alone] == [False, True, True]


def test_a_wrong_number_is_refused(capsys):
    assert main(["throughput", "--repeats", "0"]) == 1
    assert "must be at least 1" in capsys.readouterr().err


def test_the_operations_are_those_of_one_face(contestants):
    before = []
    hook = contestants.path.register_forward_pre_hook(lambda module, inputs: before.append(len(inputs[0])))
    flops = contestants.flops()
    hook.remove()
    products = [module for module in contestants.path.modules() if isinstance(module, torch.nn.Linear)]
    assert before == [1] and flops > 2 * sum(module.weight.numel() for module in products) / 2


def test_files_of_an_earlier_run_are_used(contestants, monkeypatch):
    monkeypatch.setattr(throughput, "export_onnx", lambda *args: pytest.fail("exported again"))
    monkeypatch.setattr(throughput, "quantize", lambda *args: pytest.fail("converted again"))
    again = Contestants(str(contestants.folder / "model"), contestants.folder, (ONNX, INT8), "products")
    inputs = again.faces(1)
    found, before = (made.runs(1)[ONNX](inputs) for made in (again, contestants))
    assert all(np.array_equal(found[name], before[name]) for name in before)
