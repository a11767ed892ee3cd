"""Valence and arousal in the model: the loss, the head, and that nothing else knows of them."""

import math
from functools import partial

import pytest
import torch
from peft import get_peft_model
from small_adapters import make_batch, make_images, small_model

from mf2.alignment_mf2 import affect_loss
from mf2.configuration_mf2 import MF2Config
from mf2.labels_mf2 import LabelSpace
from mf2.modeling_mf2 import MF2Model
from mf2.peft_dfn import DFNConfig
from mf2.processing_mf2 import MF2Processor

NAN = math.nan


def slow_loss(values, labels, mse_weight):
    """1 - CCC + weight · MSE, sum by sum."""
    total, dimensions = 0.0, 0
    for column in range(2):
        pairs = [(x[column], y[column]) for x, y in zip(values, labels, strict=True) if not math.isnan(y[column])]
        if not pairs:
            continue
        n, dimensions = len(pairs), dimensions + 1
        mean_x, mean_y = sum(x for x, _ in pairs) / n, sum(y for _, y in pairs) / n
        covariance = variance_x = variance_y = error = 0.0
        for x, y in pairs:
            covariance += (x - mean_x) * (y - mean_y) / n
            variance_x += (x - mean_x) ** 2 / n
            variance_y += (y - mean_y) ** 2 / n
            error += (x - y) ** 2 / n
        if n > 1:
            total += 1 - 2 * covariance / (variance_x + variance_y + (mean_x - mean_y) ** 2)
        total += mse_weight * error
    return total / max(dimensions, 1)


@pytest.mark.parametrize("mse_weight", [0.0, 0.3])
def test_the_loss_is_the_double_loop(mse_weight):
    generator = torch.Generator().manual_seed(0)
    values, labels = (torch.rand(9, 2, generator=generator) * 2 - 1 for _ in range(2))
    labels[2], labels[5, 0] = NAN, NAN
    found = affect_loss(values, labels, mse_weight)
    assert found.item() == pytest.approx(slow_loss(values.tolist(), labels.tolist(), mse_weight), abs=1e-6)
    assert affect_loss(labels.nan_to_num(), labels, mse_weight).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("labels", [[[NAN, NAN]] * 3, [[0.5, NAN], [NAN, NAN], [NAN, NAN]], [[0.5, 0.5]] * 3])
def test_rows_that_say_little_have_finite_gradients(labels):
    values = torch.zeros(3, 2, requires_grad=True)
    loss = affect_loss(values.tanh(), torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.isfinite() and values.grad.isfinite().all()
    assert loss.item() == pytest.approx(slow_loss([[0.0, 0.0]] * 3, labels, 0.1))


def test_unlabelled_values_have_no_gradient():
    values = torch.rand(5, 2).requires_grad_()
    labels = torch.rand(5, 2)
    labels[3, 1], labels[0] = NAN, NAN
    affect_loss(values, labels, 0.1).backward()
    assert (values.grad == 0).tolist() == labels.isnan().tolist()


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"affect_labels has -5: labels are -1 … 1, and NaN where there is none"):
        affect_loss(torch.zeros(2, 2), torch.tensor([[0.5, NAN], [0.5, -5.0]]), 0.1)


# --------------------------------------------------------------------------------------------------------------- model
def tiny(**fields) -> MF2Model:
    torch.manual_seed(0)
    return MF2Model(MF2Config.from_size("tiny", au_ids=[1, 12], au_pairs_per_image=1, **fields)).eval()


def test_a_model_is_without_it_by_default():
    model = tiny()
    assert not model.label_space.affect and "affect" not in model.label_space.to_dict()
    assert not any("va_head" in name for name in model.state_dict())
    with torch.device("meta"):
        for size in ("paper", "base", "small"):
            assert not MF2Config.from_size(size).affect


def test_the_head_changes_no_other_initial_weight_and_no_other_output():
    without, model = tiny(), tiny(affect=True)
    extra = model.state_dict().keys() - without.state_dict().keys()
    assert extra == {"recognizers.va_head.weight", "recognizers.va_head.bias"}
    model.load_state_dict(without.state_dict(), strict=False)
    images = {"pixel_values": torch.randn(3, 3, 32, 32), "au_boxes": torch.rand(3, 2, 2, 2).repeat(1, 1, 1, 2)}
    with torch.no_grad():
        outputs, others = model(**images), without(**images)
    assert outputs.affect.shape == (3, 2) and others.affect is None
    assert outputs.affect.abs().max() < 1
    torch.testing.assert_close(outputs.au_logits, others.au_logits)
    assert others.to_tuple()[0].shape == outputs.to_tuple()[0].shape


def test_its_loss_is_weighed_as_the_configuration_says():
    model = tiny(affect=True, affect_weight=3.0, affect_mse_weight=0.0)
    images = {"pixel_values": torch.randn(4, 3, 32, 32), "au_boxes": torch.rand(4, 2, 2, 2).repeat(1, 1, 1, 2)}
    labels = torch.rand(4, 2) * 2 - 1
    outputs = model(**images, affect_labels=labels)
    torch.testing.assert_close(outputs.losses["affect"], affect_loss(outputs.affect, labels, 0.0))
    torch.testing.assert_close(outputs.loss, 3 * outputs.losses["affect"])
    assert tiny()(**images, affect_labels=labels).losses is None


def test_results_name_valence_and_arousal():
    name_results = partial(MF2Processor.post_process_facial_states, None)  # which a label space makes all of
    outputs = {"au_logits": torch.zeros(1, 2), "emotion_logits": None, "affect": torch.tensor([[0.25, -0.5]])}
    (result,) = name_results(outputs, LabelSpace((1, 12), (), affect=True))
    assert (result["valence"], result["arousal"]) == (0.25, -0.5) and set(result["aus"]) == {"AU1", "AU12"}
    (alone,) = name_results({"affect": torch.zeros(1, 2)}, LabelSpace((), (), affect=True))
    assert alone == {"valence": 0.0, "arousal": 0.0}


def test_other_outputs_keep_what_the_head_knows():
    model = tiny(affect=True)
    kept = model.recognizers.va_head.weight.clone()
    model.resize_label_space(LabelSpace((1, 12), ("Anger",), affect=True))
    torch.testing.assert_close(model.recognizers.va_head.weight, kept)
    model.resize_label_space(LabelSpace((1, 12), ("Anger",)))
    assert not hasattr(model.recognizers, "va_head") and not model.config.affect


# ------------------------------------------------------------------------------------------------------------ adapters
def test_an_adapter_learns_it_on_a_base_without_it():
    model = get_peft_model(small_model(), DFNConfig(affect=True))
    outputs = model(**make_images())
    assert model.get_base_model().label_space.affect
    torch.testing.assert_close(outputs.affect, torch.zeros_like(outputs.affect))  # of what is new it says 0 at first
    batch = make_batch()
    batch["affect_labels"] = torch.rand(len(batch["pixel_values"]), 2)
    losses = model(**batch).losses
    losses["affect"].backward()
    (name,) = [name for name, _ in model.named_parameters() if "va_head.weight" in name]
    assert dict(model.named_parameters())[name].grad.abs().sum() > 0
    with model.disable_adapter():
        assert model(**make_images()).affect is None


def test_an_adapter_starts_at_what_its_base_says():
    base = small_model(affect=True)
    images = make_images()
    with torch.no_grad():
        before = base.eval()(**images).affect
        model = get_peft_model(base, DFNConfig()).eval()
        after = model(**images).affect
    assert before.abs().sum() > 0
    torch.testing.assert_close(after, before)


def test_an_adapter_without_it_on_a_base_with_it():
    model = get_peft_model(small_model(affect=True), DFNConfig(affect=False))
    assert model(**make_images()).affect is None and not model.get_base_model().label_space.affect


def test_an_adapters_file_from_before_the_field_has_none():
    fields = {name: value for name, value in DFNConfig().to_dict().items() if not name.startswith("affect")}
    old = DFNConfig(**{name: value for name, value in fields.items() if name != "peft_type"})
    assert old.affect is False
    old.take_base(MF2Config.from_size("tiny", affect=True))
    assert old.affect is False


def test_an_adapter_of_valence_and_arousal_alone():
    model = get_peft_model(small_model(), DFNConfig(au_ids=[], emotions=[], affect=True))
    outputs = model(**make_images())
    assert outputs.affect.shape[1] == 2 and outputs.au_logits is outputs.emotion_logits is None
