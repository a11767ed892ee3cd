"""Linear probes on a frozen tower: what they find, how their penalty is chosen, and what a model is held against."""

import numpy as np
import pytest
import torch

from mf2.data_loading.splits import Labels, Split
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.evaluation.tower_probes import (
    ALL_REGIONS,
    INVERSE_PENALTIES,
    OWN_REGION,
    choose_penalty,
    measure_tower_probes,
    predict_tower_probes,
    scores_not_above_probes,
)
from mf2.labels_mf2 import AU_IDS
from mf2.training.arguments import PretrainArguments
from mf2.training.model_setup import build_model, build_processor, build_tokenizer


class Rows(dict):
    """A split's rows as far as the probes look at them."""


def make_split(num_rows=180, seed=0):
    """AU 0 shows in region 1 alone, AU 1 in its own; the emotion is AU 0's."""
    rng = np.random.default_rng(seed)
    aus = rng.integers(0, 2, (num_rows, 2))
    faces, regions = rng.normal(size=(num_rows, 4)), rng.normal(size=(num_rows, 2, 3))
    regions[:, 1, 0] += 3 * aus[:, 0]
    regions[:, 1, 1] += 3 * aus[:, 1]
    groups = [f"g{row % 6}" for row in range(num_rows)]
    return Split(Rows(group_id=groups), Labels(aus, aus[:, 0] * 4), {}), (faces, regions)


def test_all_regions_find_what_the_own_region_does_not_show():
    (train, features), (held_out, eval_features) = make_split(), make_split(seed=1)
    found = dict(predict_tower_probes(features, train, eval_features))
    right = {name: ((probs >= 0.5) == held_out.labels.aus).mean(0) for name, (probs, _) in found.items()}
    assert right[OWN_REGION][0] < 0.65 and right[ALL_REGIONS][0] > 0.85
    assert right[OWN_REGION][1] > 0.85 and right[ALL_REGIONS][1] > 0.85
    emotion = found[ALL_REGIONS][1]
    assert emotion.shape == (180, 8) and (emotion.argmax(1) == held_out.labels.emotion).mean() > 0.85


def test_the_penalty_is_the_one_that_serves_held_out_groups():
    """Noise with many features wants a strong one; a clear signal with many rows a weak one."""
    rng = np.random.default_rng(0)
    groups = np.array([f"g{row % 6}" for row in range(240)])
    labels = rng.integers(0, 2, 240)
    noise = rng.normal(size=(240, 400))
    clear = labels[:, None] + 0.1 * rng.normal(size=(240, 1))
    assert choose_penalty(noise, labels, groups, 2) < INVERSE_PENALTIES[-1]
    assert choose_penalty(clear, labels, groups, 2) == INVERSE_PENALTIES[-1]


def test_what_does_not_beat_the_better_probe_is_named():
    probes = [
        {"au_f1": 0.8, "au_ap": 0.9, "emotion_top1": 0.7, "emotion_macro_f1": 0.5},
        {"au_f1": 0.7, "au_ap": 0.8, "emotion_top1": 0.8, "emotion_macro_f1": 0.5},
    ]
    evaluation = {"aus": {"f1": 0.85, "average_precision": 0.85}, "emotion": {"top1": 0.75, "macro_f1": 0.6}}
    assert scores_not_above_probes(evaluation, probes) == ["mean AP", "emotion top-1"]
    assert scores_not_above_probes({"aus": evaluation["aus"], "emotion": {"num_labelled": 0}}, probes) == ["mean AP"]


@pytest.mark.parametrize("level", [-1, 0])
def test_the_probes_read_the_tower_of_a_model(tmp_path, level):
    config = SynthConfig(num_train=48, num_eval=16, frames_per_identity=4, image_size=64)
    folder = synthesize(tmp_path / "faces", config, show_progress=False)
    train, evaluation = (Split.load(str(folder), name, None, AU_IDS) for name in ("train", "validation"))
    arguments = PretrainArguments(
        size="tiny", image_size=64, model={"freeze_vision": True, "global_feature_level": level}
    )
    torch.manual_seed(0)
    tokenizer = build_tokenizer(arguments, train.rows)
    model = build_model(arguments, tokenizer).eval()
    processor = build_processor(arguments, model.config, tokenizer)
    rows = measure_tower_probes(model, processor.image_processor, train, evaluation)
    assert [row["name"] for row in rows] == [OWN_REGION, ALL_REGIONS]
    assert all(0 < row[name] < 1 for row in rows for name in ("au_f1", "au_ap"))
