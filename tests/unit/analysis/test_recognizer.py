"""The recogniser of `mf2 analyze`."""

from functools import partial

import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint

from mf2.analysis.recognizer import Recognizer


def test_a_compiled_image_path_sees_the_same(tmp_path, monkeypatch):
    """Traced as for a compiler, and run by PyTorch, for batches of any size."""
    save_tiny_checkpoint(tmp_path)
    plain = Recognizer.from_pretrained(str(tmp_path), device="cpu")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = Recognizer.from_pretrained(str(tmp_path), device="cpu", compile=True)
    size = plain.image_processor.size["height"]
    for count in (1, 3):
        torch.manual_seed(count)
        boxes = torch.rand(count, len(plain.image_processor.au_ids), 2, 4).sort(-1).values
        inputs = {"pixel_values": torch.randn(count, 3, size, size), "au_boxes": boxes}
        for ours, theirs in zip(compiled.recognize(inputs), plain.recognize(inputs), strict=True):
            assert ours.pop("emotion") == theirs.pop("emotion")
            assert ours == pytest.approx(theirs, abs=1e-6)
