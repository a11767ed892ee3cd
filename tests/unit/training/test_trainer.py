"""The Trainer's habits, one by one, on a stand-in for the model."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from mf2.modeling_mf2 import MF2Output
from mf2.training.arguments import PretrainArguments
from mf2.training.checkpoints import find_resume_checkpoint
from mf2.training.trainer import COLLAPSE_WINDOWS, CollapseCallback, PretrainingTrainer, make_training_arguments
from mf2.utils.files import replacing

pytestmark = pytest.mark.dependencies


class StandIn(nn.Module):
    """Takes what MF2ForPreTraining takes and keeps the names; its losses are what a test sets."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.loss = 1.0
        self.floors: dict[str, torch.Tensor] | None = None
        self.seen: set[str] = set()

    def forward(self, **inputs):
        self.seen = set(inputs)
        loss = self.loss * self.temperature / self.temperature.detach()
        logits = {"au_logits": torch.zeros(2, 12), "emotion_logits": torch.zeros(2, 8)}
        return MF2Output(loss=loss, losses={"emo_itc": loss, "au": 2 * loss}, loss_floors=self.floors, **logits)


@pytest.fixture
def trainer(tmp_path):
    arguments = PretrainArguments(output_dir=str(tmp_path), learning_rate=1e-3, max_steps=4, warmup_steps=2)
    settings = make_training_arguments(arguments)
    dataset = torch.utils.data.TensorDataset(torch.zeros(4, 1))
    return PretrainingTrainer(StandIn(), settings, train_dataset=dataset, eval_dataset=dataset, processor=None)


BATCH = {
    "pixel_values": torch.zeros(2, 3, 4, 4),
    "au_boxes": torch.zeros(2, 12, 2, 4),
    "au_labels": torch.zeros(2, 12, dtype=torch.long),
    "emotion_labels": torch.zeros(2, dtype=torch.long),
    "input_ids": torch.zeros(2, 3, dtype=torch.long),
}


def test_only_matrices_decay(trainer):
    assert trainer.get_decay_parameter_names(trainer.model) == ["linear.weight"]
    groups = trainer.create_optimizer().param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 4]


def test_the_learning_rate_warms_up_and_falls_to_its_end(trainer):
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps=10)
    rates = []
    for _ in range(11):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([0, 5e-4, 1e-3])
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_learning_rate_of_zero_leaves_the_model_as_it_starts(tmp_path):
    """So that an adapter's readout can be measured alone."""
    arguments = PretrainArguments(output_dir=str(tmp_path), learning_rate=0.0, min_learning_rate=0.0, max_steps=2)
    dataset = torch.utils.data.TensorDataset(torch.zeros(4, 1))
    settings = make_training_arguments(arguments)
    trainer = PretrainingTrainer(StandIn(), settings, train_dataset=dataset, eval_dataset=dataset, processor=None)
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps=2)
    for _ in range(3):
        assert scheduler.get_last_lr() == [0.0, 0.0]
        trainer.optimizer.step()
        scheduler.step()


def test_evaluation_passes_images_and_nothing_else(trainer):
    loss, logits, labels = trainer.prediction_step(trainer.model, BATCH, prediction_loss_only=False)
    assert trainer.model.seen == {"pixel_values", "au_boxes"}
    assert loss is None
    no_affect = (2, 0)
    assert [tuple(x.shape) for x in logits] == [(2, 12), (2, 8), no_affect]
    assert [tuple(x.shape) for x in labels] == [(2, 12), (2,), no_affect]


def test_losses_are_logged_apart_as_means_of_the_window(trainer):
    for trainer.model.loss in (1.0, 3.0):
        trainer.compute_loss(trainer.model, BATCH)
    logs = {"loss": 2.0}
    trainer.log(logs)
    assert logs["loss_emo_itc"] == pytest.approx(2.0) and logs["loss_au"] == pytest.approx(4.0)
    assert "loss_emotion" not in logs
    trainer.compute_loss(trainer.model, BATCH)
    trainer.log(logs := {"loss": 3.0})
    assert logs["loss_au"] == pytest.approx(6.0)


def test_losses_are_logged_above_their_floors(trainer):
    """ITC of 3.2 above a floor of 2.6 has learned something; 3.2 reads as guessing among 32."""
    for trainer.model.loss, floor in ((3.2, 2.6), (1.0, 0.5)):
        trainer.model.floors = {"emo_itc": torch.tensor(floor)}
        loss = trainer.compute_loss(trainer.model, BATCH)
    assert loss.item() == pytest.approx(1.0)
    trainer.log(logs := {"loss": 2.1})
    assert logs["loss_emo_itc"] == pytest.approx((0.6 + 0.5) / 2) and logs["loss_au"] == pytest.approx(4.2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_its_parts(trainer, value):
    trainer.model.loss = value
    with pytest.raises(FloatingPointError, match=rf"The loss is {value} at step 1 \(emo_itc {value}, au {value}\)"):
        trainer.compute_loss(trainer.model, BATCH)


def test_collapse_of_matching_is_said_once(caplog):
    callback, state, control = CollapseCallback(), TrainerState(), TrainerControl()
    with caplog.at_level(logging.WARNING, logger="mf2"):
        for value in (0.69, *[0.6366] * (COLLAPSE_WINDOWS + 3)):
            callback.on_log(None, state, control, logs={"loss_emo_itm": value, "loss_au_itm": 0.5})
    (message,) = (record.getMessage() for record in caplog.records)
    assert "emo_itm has stayed at 0.6366" in message and "collapsed" in message


def test_a_dip_is_no_collapse(caplog):
    callback, state, control = CollapseCallback(), TrainerState(), TrainerControl()
    for value in (*[0.6366] * (COLLAPSE_WINDOWS - 1), 0.6, *[0.6366] * (COLLAPSE_WINDOWS - 1)):
        callback.on_log(None, state, control, logs={"loss_au_itm": value})
    assert not caplog.records


def test_the_newest_complete_checkpoint_is_continued(tmp_path):
    for step, state in ((9, "{}"), (10, "{}"), (11, "{")):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
        (folder / "rng_state.pth").touch()
    assert find_resume_checkpoint("auto", tmp_path) == tmp_path / "checkpoint-10"
    assert find_resume_checkpoint("auto", tmp_path / "empty") is None
    with pytest.raises(FileExistsError, match="holds checkpoint-11 of an earlier run"):
        find_resume_checkpoint("none", tmp_path)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(file) as partial:
        partial.write_text("half")
        raise OSError("full")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
