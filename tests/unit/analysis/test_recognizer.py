"""The recogniser of `mf2 analyze`."""

from functools import partial

import numpy as np
import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint

from mf2.analysis import recognizer as module
from mf2.analysis.recognizer import Recognizer, compile_image_passes
from mf2.utils.devices import FLOAT32, TF32


def test_a_compiled_image_path_sees_the_same(tmp_path, monkeypatch):
    """Traced as for a compiler, and run by PyTorch: once for one face, and once for batches of any other size."""
    save_tiny_checkpoint(tmp_path, mirror_emotions=True)
    plain = Recognizer.from_pretrained(str(tmp_path), device="cpu")
    graphs = []

    def run_by_pytorch(graph, inputs):
        graphs.append(graph.graph)
        return graph.forward

    monkeypatch.setattr(module, "compile_image_passes", partial(compile_image_passes, backend=run_by_pytorch))
    compiled = Recognizer.from_pretrained(str(tmp_path), device="cpu", compile=True)
    size = plain.image_processor.size["height"]
    torch._dynamo.reset()
    for count in (1, 3, 4, 7):
        torch.manual_seed(count)
        boxes = torch.rand(count, len(plain.image_processor.au_ids), 2, 4).sort(-1).values
        inputs = {"pixel_values": torch.randn(count, 3, size, size), "au_boxes": boxes}
        for ours, theirs in zip(compiled.recognize(inputs), plain.recognize(inputs), strict=True):
            assert ours.pop("emotion") == theirs.pop("emotion")
            assert ours == pytest.approx(theirs, abs=1e-6)
    assert len(graphs) == 2
    traced = [node.meta["example_value"] for graph in graphs for node in graph.find_nodes(op="placeholder")]
    sides = [side for value in traced if isinstance(value, torch.Tensor) for side in value.shape[1:]]
    assert all(isinstance(side, int) for side in sides), "only the batch size is a symbol"


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision, flag", [(None, True), (TF32, True), (FLOAT32, False)])
def test_a_gpu_multiplies_as_asked_and_only_here(tmp_path, monkeypatch, precision, flag):
    """Products and convolutions use TF32 while faces are seen and captions written, and as before afterwards."""
    save_tiny_checkpoint(tmp_path)
    recognizer = Recognizer.from_pretrained(
        str(tmp_path), device="cpu", **({} if precision is None else {"precision": precision})
    )
    seen = []
    for name in ("forward_adapters", "generate"):
        computed = getattr(recognizer.model, name)

        def watched(*args, computed=computed, **kwargs):
            seen.append(tf32_flags())
            return computed(*args, **kwargs)

        monkeypatch.setattr(recognizer.model, name, watched)
    before = tf32_flags()
    size = recognizer.image_processor.size["height"]
    picture = np.zeros((size, size, 3), dtype=np.uint8)
    inputs = recognizer.prepare([picture], [None])
    recognizer.recognize(inputs)
    recognizer.write_captions(inputs, ["emotion"], rerank=None)
    assert seen == [(flag, flag)] * 2
    assert tf32_flags() == before


def test_another_precision_is_refused(tmp_path):
    save_tiny_checkpoint(tmp_path)
    recognizer = Recognizer.from_pretrained(str(tmp_path), device="cpu", precision="int4")
    with pytest.raises(ValueError, match="precision is 'int4'; it is one of tf32, float32"):
        recognizer.recognize({"pixel_values": torch.zeros(1, 3, 8, 8), "au_boxes": torch.zeros(1, 1, 2, 4)})
