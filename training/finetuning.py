"""A fine-tuning run: load the task, prepare the method, fit, evaluate, save.

    dfn               states of the frozen model, cached ─▶ side networks ─▶ adapter
    dfn, no_cache     the frozen model, live ─────────────▶ side networks ─▶ adapter
    full, lora, head  the model ─▶ parameters of the method ─▶ checkpoint with the task's outputs

All methods use the same rows and the same scores, and produce a folder for the Hub.
"""

import logging
import math
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import TrainingArguments

from mf2.auto_mf2 import register_auto_classes
from mf2.hub.provenance import record_training_videos
from mf2.training.arguments import FinetuneArguments, save_resolved
from mf2.training.checkpoints import save_for_hub, save_model, saving_folder
from mf2.training.finetuning_methods import METHODS, Method
from mf2.training.finetuning_task import Task, load_task
from mf2.training.lifecycle import evaluate, finish, finished_metrics, report_run, start_run
from mf2.training.trainer import PretrainingTrainer

logger = logging.getLogger(__name__)


def finetune(arguments: FinetuneArguments) -> dict[str, Any]:
    """Fine-tune, evaluate on images only, and write `arguments.output_dir` as a folder for the Hub.

    Returns:
        The content of `metrics.json`.
    Raises:
        ValueError, OSError: an error that the user can fix, with a one-line message.
        FloatingPointError: the loss is not finite.
    """
    register_auto_classes()
    settings, checkpoint = start_run(arguments)
    task = load_task(arguments, settings)
    metrics = finished_metrics(arguments, task.train, task.evaluation)
    if metrics is None:
        check_warmup(settings, len(task.train_rows))
        metrics = fit(arguments, settings, checkpoint, task)
    if settings.process_index == 0:
        report_run(arguments, metrics, task.evaluation, settings.device)
    return metrics


def check_warmup(settings: TrainingArguments, num_rows: int) -> None:
    """Refuse a warm-up that is longer than the run, which would never reach its learning rate.

    Raises:
        ValueError: the warm-up is too long; the message shows both counts and the remedy.
    """
    steps_per_epoch = math.ceil(num_rows / (settings.train_batch_size * settings.world_size))
    updates_per_epoch = max(steps_per_epoch // settings.gradient_accumulation_steps, 1)
    num_steps = settings.max_steps
    if num_steps <= 0:
        num_steps = math.ceil(settings.num_train_epochs * updates_per_epoch)
    num_warmup = settings.get_warmup_steps(num_steps)
    if num_warmup >= num_steps > 0:
        raise ValueError(
            f"warmup_steps is {settings.warmup_steps:g}, but the run has {num_steps} steps and would end before its "
            f"learning rate is reached; give a share of the run, such as --warmup_steps 0.05, or train longer."
        )


def fit(
    arguments: FinetuneArguments, settings: TrainingArguments, checkpoint: Path | None, task: Task
) -> dict[str, Any]:
    """Train, starting from a checkpoint if given, evaluate and save; returns the content of `metrics.json`."""
    start = perf_counter()
    method = METHODS[arguments.method](arguments, settings, task)
    preparation_seconds = perf_counter() - start  # mostly for caching states
    trainer = method.trainer
    if trainer.is_world_process_zero():
        save_resolved(arguments, arguments.output_dir)
        record_training_videos(arguments.output_dir, task.train.rows, task.base)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    held_out = trainer.eval_dataset if len(task.held_out) else None
    trainer.eval_dataset = method.evaluation
    metrics = evaluate(arguments, trainer, method.model, method.config, task.train, task.evaluation, result, held_out)
    metrics["training"] |= {
        "preparation_seconds": preparation_seconds,
        "chosen": describe_selection(arguments, trainer, task),
    }
    base = arguments.model if task.revision else task.base.resolve().name
    metrics["model"] |= {"method": arguments.method, "base": base, "base_revision": task.revision}
    save(method, task, Path(arguments.output_dir))
    if trainer.is_world_process_zero():
        checkpoint_of_adapter = task.base if method.is_adapter else None
        finish(arguments, metrics, task.processor, task.evaluation, settings.device, checkpoint_of_adapter)
    return metrics


def describe_selection(arguments: FinetuneArguments, trainer: PretrainingTrainer, task: Task) -> dict[str, Any] | None:
    """Held-out rows and chosen step of a run with model selection; None if no rows are held out."""
    if not len(task.held_out):
        return None
    groups = task.train.groups[task.held_out]
    return {
        "rows": len(task.held_out),
        "groups": len(np.unique(groups)),
        "patience": arguments.patience,
        "step": trainer.state.best_global_step,
        "score": trainer.state.best_metric,
    }


def save(method: Method, task: Task, output_dir: Path) -> None:
    """Save the adapter or checkpoint with its processor; every process must call it."""
    if not isinstance(method.model, PeftModel):
        save_for_hub(method.trainer, task.processor, output_dir)
        return
    if method.trainer.is_world_process_zero():
        with saving_folder(task.processor, output_dir) as folder:
            if method.is_adapter:
                method.model.save_pretrained(str(folder), save_embedding_layers=False)  # else PEFT asks the Hub
                Path(folder, "README.md").unlink(missing_ok=True)  # PEFT's; our card is written from the metrics
            else:
                save_model(method.model.merge_and_unload(), folder)
    method.trainer.accelerator.wait_for_everyone()
