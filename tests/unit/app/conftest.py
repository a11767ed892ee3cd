"""A tiny checkpoint, examples and what shows them, for the tests of the page."""

import copy

import pytest
import torch
from peft import get_peft_model
from tiny_mf2 import save_tiny, write_pictures

import mf2
from mf2.analysis.face_arguments import FaceSearch
from mf2.app.examples import draw_examples
from mf2.app.settings import AppSettings
from mf2.app.viewer import Viewer
from mf2.peft_dfn import DFNConfig


@pytest.fixture(scope="package")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="package")
def adapters(model, tmp_path_factory):
    """Two, of other AUs, whose heads answer something."""
    folders = []
    for name, au_ids in (("one", [1, 9, 12]), ("two", [4, 6])):
        torch.manual_seed(len(name))
        config = DFNConfig(au_ids=au_ids, emotions=[], au_thresholds=[0.5] * len(au_ids), r=4, num_kept_states=1)
        adapted = get_peft_model(mf2.MF2Model.from_pretrained(model), config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        folders.append(tmp_path_factory.mktemp("adapters") / name)
        adapted.save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="package")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"), count=3, size_px=64)


@pytest.fixture(scope="package")
def loaded(model, examples):
    return Viewer.load(AppSettings(str(model), faces=FaceSearch("mean_face")), examples)


@pytest.fixture
def viewer(loaded):
    """With no detector."""
    return copy.copy(loaded)


@pytest.fixture
def picture(tmp_path):
    (file,) = write_pictures(tmp_path, 1)
    return file
