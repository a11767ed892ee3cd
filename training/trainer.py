"""transformers' `Trainer` for MF²: separately logged losses, reproducible data order, evaluation on images only."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import EvalPrediction, ProgressCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from mf2.data_loading.collators import EpochSampler
from mf2.evaluation.metrics import affect_metrics, au_metrics, emotion_metrics, scalar_metrics
from mf2.evaluation.predictions import IMAGE_NAMES
from mf2.labels_mf2 import LabelSpace
from mf2.modeling_mf2 import MF2Output
from mf2.processing_mf2 import MF2Processor
from mf2.training.arguments import FinetuneArguments, ScriptArguments, reject_unknown
from mf2.utils.threads import fit_threads

logger = logging.getLogger(__name__)

LOSS_PREFIX = "loss_"
LOSS_NAMES = ("emo_itc", "emo_itm", "emo_itg", "au_itc", "au_itm", "au_itg", "emotion", "au", "affect")
ITM_PRIOR_ENTROPY = 0.6365
"""ITM loss of a head that predicts the prior, one matching pair in three: the entropy of (1/3, 2/3)."""
COLLAPSE_MARGIN = 0.003
COLLAPSE_WINDOWS = 5
LABEL_NAMES = ("au_labels", "emotion_labels", "affect_labels")
SHOWN_SCORES = (
    *("au_f1", "au_f1_all_positive", "emotion_top1", "emotion_majority_top1", "emotion_macro_f1"),
    "affect_ccc",
)
SELECTION_SCORE = "score"
"""Name of the score for model selection: the mean of AU F1, emotion top-1 and the mean CCC of valence and arousal, as
far as there are labels."""
SHARED_FIELDS = (
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "bf16",
    "seed",
    "logging_steps",
    "save_total_limit",
    "dataloader_num_workers",
)
"""Arguments with the same name in transformers' `TrainingArguments`."""


# ----------------------------------------------------------------------------------------------------------- settings
def make_training_arguments(arguments: ScriptArguments) -> TrainingArguments:
    """Make the Trainer's settings; `arguments.trainer` can add further fields.

    Raises:
        ValueError: a field is unknown, is set by another argument, or would push to the Hub.
    """
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in SHARED_FIELDS}
    for kind, steps in (("eval", arguments.eval_steps), ("save", arguments.save_steps)):
        settings[f"{kind}_strategy"] = "steps" if steps else "epoch"
        settings |= {f"{kind}_steps": steps} if steps else {}
    peak = arguments.learning_rate
    min_share = arguments.min_learning_rate / peak if peak else 1.0  # a peak of 0 leaves the model as it starts
    settings |= {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": min_share},
        "logging_nan_inf_filter": False,
        "report_to": ["tensorboard"],
        "remove_unused_columns": False,
        "use_cpu": not torch.accelerator.is_available(),  # needed for distributed training on CPUs
        "label_names": list(LABEL_NAMES[:2]),  # which all batches have
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if isinstance(arguments, FinetuneArguments) and arguments.holdout_share:
        settings |= {
            name.replace("eval", "save"): settings[name]
            for name in ("eval_strategy", "eval_steps")
            if name in settings
        }
        settings |= {"load_best_model_at_end": True, "metric_for_best_model": SELECTION_SCORE}
    extra = arguments.trainer
    reject_unknown(list(extra), list(TrainingArguments.__dataclass_fields__), "trainer")
    if clash := sorted(set(extra) & set(SHARED_FIELDS)):
        raise ValueError(f"trainer sets {', '.join(clash)}; these have a field of their own.")
    if pushing := sorted(name for name in extra if name.startswith(("push_to_hub", "hub_"))):
        raise ValueError(f"trainer sets {', '.join(pushing)}; training pushes nothing. Use `mf2 publish` afterwards.")
    return TrainingArguments(**{**settings, **extra})


def compute_metrics_for(label_space: LabelSpace) -> Any:
    """Make the Trainer's `compute_metrics`: AU F1 at 0.5, emotion scores and CCC with baselines, as flat scalars."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        au_logits, emotion_logits, affect = by_task(prediction.predictions)
        au_labels, emotion_labels, affect_labels = by_task(prediction.label_ids)
        aus = au_metrics(sigmoid(au_logits), au_labels, label_space.au_codes)
        scores = scalar_metrics(
            aus,
            emotion_metrics(emotion_logits, emotion_labels, label_space.emotions),
            affect_metrics(affect, affect_labels) if label_space.affect else None,
        )
        selection = [scores[name] for name in ("au_f1", "emotion_top1", "affect_ccc") if name in scores]
        return scores | ({SELECTION_SCORE: float(np.mean(selection))} if selection else {})

    return compute_metrics


def by_task(arrays: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpack the arrays of `prediction_step`: AUs `(N, A)`, emotions `(N, E)` or `(N,)`, and affect `(N, 2)` or, where
    it is not asked for, `(N, 0)`."""
    aus, emotions, affect = arrays
    return aus, emotions, affect


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Numerically stable sigmoid."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


# ---------------------------------------------------------------------------------------------------------- callbacks
class EpochCallback(TrainerCallback):
    """Sets the sampler's epoch, also after resuming (accelerate loses it with several processes)."""

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Set the epoch."""
        self.sampler.epoch = int(state.epoch)


class ThreadsCallback(TrainerCallback):
    """Adapts the number of CPU threads to the free cores before each training and evaluation step."""

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Adapt the number of threads."""
        fit_threads(args.device)

    def on_prediction_step(self, args, state, control, **kwargs) -> None:
        """Adapt the number of threads."""
        fit_threads(args.device)


class StageCallback(TrainerCallback):
    """Passes the progress of the run to models that train in stages."""

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Pass the progress."""
        if hasattr(model, "set_progress"):
            model.set_progress(state.global_step / max(state.max_steps, 1))

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        """Pass the end of the run."""
        if hasattr(model, "set_progress"):
            model.set_progress(1.0)


class ElapsedTimeCallback(TrainerCallback):
    """Reads how long a run had trained before the checkpoint that it resumes from."""

    seconds = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Read the elapsed time from the checkpoint's log."""
        self.seconds = max((entry.get("elapsed_seconds", 0.0) for entry in state.log_history), default=0.0)


class PatienceCallback(TrainerCallback):
    """Early stopping after `patience` consecutive evaluations without improvement.

    It uses the log, which is part of checkpoints, so that a resumed run stops at the same step as an uninterrupted
    one. The best checkpoint is looked for in the current output folder, which may have been moved.

    Args:
        patience: number of evaluations; None for no early stopping.
    """

    def __init__(self, patience: int | None):
        self.patience = patience

    def should_stop(self, state: TrainerState) -> bool:
        """Whether the log shows no improvement for `patience` evaluations."""
        scores = [entry[name] for entry in state.log_history if (name := f"eval_{SELECTION_SCORE}") in entry]
        return bool(scores and self.patience) and len(scores) - 1 - int(np.argmax(scores)) >= (self.patience or 0)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Find the best checkpoint, and check whether the run had stopped already."""
        best = Path(args.output_dir, f"checkpoint-{state.best_global_step}")
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        control.should_training_stop = self.should_stop(state)

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Stop the run if there was no improvement."""
        if self.should_stop(state):
            logger.info(f"No evaluation since step {state.best_global_step} was better; training ends.")
            control.should_training_stop = True


class ConsoleCallback(ProgressCallback):
    """The progress bar, with a readable line per log entry instead of a dictionary."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Write losses and learning rate, or the scores of an evaluation."""
        if self.training_bar is None:
            return
        position = f"step {state.global_step}, epoch {state.epoch:.2f}"
        if "loss" in logs:
            parts = " ".join(f"{name} {value:.3f}" for name, value in extract_losses(logs).items())
            self.training_bar.write(f"{position}: loss {logs['loss']:.3f}  ({parts})  lr {logs['learning_rate']:.2e}")
        elif scores := [f"{name} {logs[f'eval_{name}']:.3f}" for name in SHOWN_SCORES if f"eval_{name}" in logs]:
            self.training_bar.write(f"{position}: evaluation {', '.join(scores)}")

    def close(self) -> None:
        """Close the bars, so that further output starts on a new line."""
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()


class CollapseCallback(TrainerCallback):
    """Warns if image-text matching has collapsed to the prior."""

    def __init__(self) -> None:
        self._windows: Counter[str] = Counter()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Count logging windows at the prior's entropy, and warn after `COLLAPSE_WINDOWS`."""
        for name in ("emo_itm", "au_itm"):
            value = (logs or {}).get(f"loss_{name}")
            if value is None:
                continue
            self._windows[name] = self._windows[name] + 1 if abs(value - ITM_PRIOR_ENTROPY) < COLLAPSE_MARGIN else 0
            if self._windows[name] == COLLAPSE_WINDOWS and state.is_world_process_zero:
                logger.warning(
                    f"{name} has stayed at {value:.4f} for {COLLAPSE_WINDOWS} logged windows: {ITM_PRIOR_ENTROPY} is "
                    f"the entropy of guessing by the prior, so matching has collapsed. Warm up longer, lower the "
                    f"learning rate, or look whether the captions of a batch differ."
                )


# ------------------------------------------------------------------------------------------------------------ trainer
class PretrainingTrainer(Trainer):
    """The Trainer for MF² and the baselines.

    - Each loss is logged separately, as the mean over the logging window and all processes, minus its minimum on the
      batch: equal captions and smoothed targets keep ITC above 0 by more than what there is to learn.
    - A loss that is not finite ends the run with an error that names it.
    - The order of rows depends only on (seed, epoch), so that a resumed run equals an uninterrupted one.
    - Evaluation passes only `image_names` of a batch: images or their cached states, never text.
    - A checkpoint that cannot be written completely is removed; earlier ones are kept.
    """

    model: Any  # never None here, unlike in Trainer's types
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        *args: Any,
        processor: MF2Processor,
        image_names: Sequence[str] = IMAGE_NAMES,
        patience: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.image_names = image_names
        vars(self.model.config).pop("use_cache", None)  # set by Trainer; not a field of our configuration
        self.model_accepts_loss_kwargs = False  # losses are means, to be divided by the accumulation steps
        self._start = perf_counter()
        self.loss_names: Sequence[str] = getattr(self.model, "loss_names", LOSS_NAMES)
        self._loss_sums = torch.zeros(len(self.loss_names), 2, device=self.args.device)  # sum, count
        self._train_sampler = EpochSampler(len(self.train_dataset), self.args.seed)
        self._earlier = ElapsedTimeCallback()
        self.add_callback(self._earlier)
        self.add_callback(EpochCallback(self._train_sampler))
        self.add_callback(CollapseCallback())
        self.add_callback(StageCallback())
        self.add_callback(ThreadsCallback())
        if self.args.load_best_model_at_end:
            self.add_callback(PatienceCallback(patience))
        if self.pop_callback(ProgressCallback):
            self.add_callback(ConsoleCallback())

    @property
    def seconds_before(self) -> float:
        """Seconds of training before the checkpoint that a run was resumed from."""
        return self._earlier.seconds

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self._train_sampler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters with weight decay: those of more than one dimension (not biases, norms, temperatures)."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, and close the progress bar in any case."""
        try:
            return super().train(*args, **kwargs)
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ConsoleCallback):
                    callback.close()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Skip the epoch if the run is finished; resumed within an epoch, the Trainer would take one more step."""
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------------- losses
    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss of a batch, and record its parts for the log.

        Raises:
            ValueError: the batch has neither labels nor captions.
            FloatingPointError: the loss is not finite.
        """
        outputs = model(**inputs)
        if outputs.loss is None:
            raise ValueError("A batch has neither labels nor captions, so there is nothing to learn from it.")
        if not torch.isfinite(outputs.loss):
            parts = ", ".join(f"{name} {value.item():.4g}" for name, value in outputs.losses.items())
            raise FloatingPointError(
                f"The loss is {outputs.loss.item()} at step {self.state.global_step + 1} ({parts}). Lower "
                f"learning_rate (now {self.args.learning_rate}) or warm up longer; with bf16, try without."
            )
        for name, value in subtract_floors(outputs).items():
            self._loss_sums[self.loss_names.index(name)] += torch.stack(
                [value.detach().float(), torch.ones_like(value)]
            )
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with separate losses and the elapsed seconds."""
        if "loss" in logs:
            logs |= self._drain_losses()
        logs["elapsed_seconds"] = self.seconds_before + perf_counter() - self._start
        super().log(logs, start_time)

    def _drain_losses(self) -> dict[str, float]:
        """Return and reset `loss_emo_itc`, …: means since the last call, over all processes."""
        sums = self.accelerator.reduce(self._loss_sums, reduction="sum").tolist()
        self._loss_sums.zero_()
        named = zip(self.loss_names, sums, strict=True)
        return {f"{LOSS_PREFIX}{name}": total / count for name, (total, count) in named if count}

    # ------------------------------------------------------------------------------------------------ evaluation
    def prediction_step(
        self, model: nn.Module, inputs: dict, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Any, Any]:
        """Answers and labels of a batch, predicted from the images only."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**{name: inputs[name] for name in self.image_names if name in inputs})
        first = inputs[LABEL_NAMES[0]]
        no_columns = torch.zeros(len(first), 0, device=first.device)
        labels = tuple(inputs.get(name, no_columns) for name in LABEL_NAMES)
        answers = (outputs.au_logits, outputs.emotion_logits, outputs.affect)
        return None, tuple(no_columns if x is None else x.float() for x in answers), labels

    # ----------------------------------------------------------------------------------------------- checkpoints
    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.processor.save_pretrained(output_dir or self.args.output_dir)

    def _load_best_model(self) -> None:
        """Load it as when resuming; the Trainer's own method leaves an adapter's parameters frozen."""
        logger.info(f"The best of {self.state.global_step} steps was {self.state.best_global_step}; it is kept.")
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output_dir = str(self.args.output_dir)
        folder = Path(output_dir, f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} could not be written ({error}); {free_space(output_dir)}. Earlier checkpoints "
                f"are intact: make room and run the same command again."
            ) from error


def extract_losses(entry: Mapping[str, Any]) -> dict[str, float]:
    """The losses in a log entry, by name."""
    return {name.removeprefix(LOSS_PREFIX): value for name, value in entry.items() if name.startswith(LOSS_PREFIX)}


def subtract_floors(outputs: MF2Output) -> dict[str, torch.Tensor]:
    """Each loss minus its minimum on the batch."""
    floors = outputs.get("loss_floors") or {}
    return {name: value - floors.get(name, 0.0) for name, value in (outputs.losses or {}).items()}


def free_space(folder: str | os.PathLike) -> str:
    """A text such as `1.2 GB are free on its disk`."""
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free on its disk"
