"""Steps shared by all training runs: start, evaluation, and writing the folder for the Hub."""

import json
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoModel, TrainingArguments, set_seed
from transformers.trainer_utils import PredictionOutput, TrainOutput

from mf2.data_loading.splits import Split, spaced_rows
from mf2.evaluation.landmark_sources import GIVEN, brief_scores, landmark_sources
from mf2.evaluation.metrics import tune_thresholds
from mf2.evaluation.predictions import predict, predictions_from_logits
from mf2.evaluation.scores import evaluate_predictions
from mf2.hub.cards import write_card
from mf2.hub.file_names import METRICS_NAME, OVERLAY_NAME
from mf2.labels_mf2 import LabelSpace
from mf2.landmarks_mf2 import MEAN_FACE
from mf2.modeling_mf2 import MF2ForConditionalGeneration
from mf2.processing_mf2 import Augmentation, MF2Processor
from mf2.training.arguments import ScriptArguments, SplitArguments, check_same_run, reject_unknown
from mf2.training.checkpoints import find_resume_checkpoint, has_weights
from mf2.training.overlay import draw_overlay
from mf2.training.trainer import (
    SHOWN_SCORES,
    PretrainingTrainer,
    by_task,
    extract_losses,
    make_training_arguments,
    sigmoid,
)
from mf2.utils.command_line import illustration
from mf2.utils.environment import check_all_processes_run, describe_environment
from mf2.utils.files import read_json, write_json
from mf2.utils.malloc import keep_freed_memory
from mf2.utils.threads import fit_threads

logger = logging.getLogger(__name__)


class TaskConfig(Protocol):
    """A configuration with a label space, of a model or an adapter."""

    au_thresholds: Any

    @property
    def label_space(self) -> LabelSpace:
        """AUs and emotions of the outputs."""


# -------------------------------------------------------------------------------------------------------------- setup
def start_run(arguments: ScriptArguments) -> tuple[TrainingArguments, Path | None]:
    """Set up the processes and the output folder; returns the Trainer's settings and the checkpoint to resume from."""
    check_all_processes_run()
    settings = make_training_arguments(arguments)
    with settings.main_process_first(local=False, desc="output folder"):
        check_same_run(arguments, arguments.output_dir)
        checkpoint = find_resume_checkpoint(arguments.resume_from_checkpoint, arguments.output_dir)
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    if settings.use_cpu:
        keep_freed_memory()
    if arguments.cpu_threads:
        torch.set_num_threads(arguments.cpu_threads)
    fit_threads(settings.device)  # measures the free cores before the first step
    if checkpoint:
        logger.info(f"Continuing from {checkpoint}.")
    set_seed(arguments.seed)
    return settings, checkpoint


# --------------------------------------------------------------------------------------------------------------- data
def provenance(train: Split) -> list[dict[str, Any]]:
    """Entries of the training data for a configuration, one per data set."""
    names = ("name", "license", "synthetic", "fingerprint", "revision", "rows", "videos")
    parts = train.description.get("parts", [train.description])
    return [{name: part[name] for name in names if name != "revision" or part[name]} for part in parts]


def make_augmentation(arguments: SplitArguments) -> Augmentation | None:
    """The augmentation of the arguments; None if it is disabled."""
    reject_unknown(list(arguments.augmentation), list(Augmentation.__dataclass_fields__), "augmentation")
    return Augmentation(**arguments.augmentation) if arguments.augment else None


def unlabelled_aus(split: Split, label_space: LabelSpace) -> list[str]:
    """Codes of the AUs without a label in a split."""
    return [label_space.au_codes[index] for index in split.labels.unlabelled_aus()]


# ----------------------------------------------------------------------------------------------------------- evaluate
def evaluate(
    arguments: ScriptArguments,
    trainer: PretrainingTrainer,
    model: nn.Module,
    task: TaskConfig,
    train: Split,
    evaluation: Split,
    result: TrainOutput,
    held_out: Dataset | None = None,
) -> dict[str, Any]:
    """Tune the AU thresholds on training images, score the evaluation split, and collect the metrics.

    Args:
        model: its parameters are counted.
        task: configuration of the model or adapter; the thresholds are set in it.
        result: of the training.
        held_out: training images that were not trained on; if given, the thresholds are tuned on them.
    Returns:
        `model`, `evaluation`, `training` and `environment` of `metrics.json`.
    """
    tuning_dataset: Any = trainer.train_dataset if held_out is None else held_out
    tuning_rows = spaced_rows(len(tuning_dataset), arguments.tuning_rows)
    tuning = trainer.predict(torch.utils.data.Subset(tuning_dataset, tuning_rows.tolist()))
    au_logits, au_labels = by_task(tuning.predictions)[0], by_task(tuning.label_ids)[0]
    task.au_thresholds = tune_thresholds(sigmoid(au_logits), au_labels)
    prediction = trainer.predict(trainer.eval_dataset)
    parameters = list(model.parameters())
    return {
        "model": {
            "name": Path(arguments.output_dir).resolve().name,
            "license": arguments.license or ("apache-2.0" if train.description["synthetic"] else "other"),
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "evaluation": compute_scores(prediction, evaluation, task.label_space),
        "training": {
            "data": train.description,
            "unlabelled_aus": unlabelled_aus(train, task.label_space),
            "tuning_rows": len(tuning_rows),
            "seed": arguments.seed,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "seconds": trainer.seconds_before + result.metrics["train_runtime"],
            "seconds_of_earlier_starts": trainer.seconds_before,
            "batch_size": trainer.get_total_train_batch_size(trainer.args),
            "losses": last_losses(trainer),
            "history": evaluation_history(trainer),
        },
        "environment": describe_environment(trainer.args.world_size),
    }


def compute_scores(prediction: PredictionOutput, split: Split, label_space: LabelSpace) -> dict[str, Any]:
    """All scores of the evaluation split (see `evaluate_predictions`), with its description."""
    predictions = predictions_from_logits(split, label_space, *prediction.predictions)
    return {"data": split.description, **evaluate_predictions(predictions, label_space)}


def evaluation_history(trainer: PretrainingTrainer) -> list[dict[str, float]]:
    """The scores of every evaluation during training, with its step and the elapsed seconds."""
    names = (*SHOWN_SCORES, "elapsed_seconds")
    entries = [entry for entry in trainer.state.log_history if any(name.startswith("eval_") for name in entry)]
    return [
        {"step": entry["step"]}
        | {name: value for key, value in entry.items() if (name := key.removeprefix("eval_")) in names}
        for entry in entries
    ]


def last_losses(trainer: PretrainingTrainer) -> dict[str, float]:
    """The last logged value of each loss."""
    logged: dict[str, float] = {}
    for entry in trainer.state.log_history:
        logged |= extract_losses(entry)
    return logged


def add_scores_without_landmarks(
    metrics: dict[str, Any],
    folder: Path,
    base: str | Path | None,
    processor: MF2Processor,
    split: Split,
    batch_size: int,
    device: torch.device,
) -> None:
    """Also score the saved model without landmarks; adds `by_landmarks` and `landmarks` to the evaluation."""
    model = AutoModel.from_pretrained(base or folder)
    if base is not None:
        model.load_adapter(str(folder))
    (source,) = landmark_sources([MEAN_FACE], "", device).values()
    image_processor = processor.for_label_spaces(model.label_space).image_processor
    predictions = predict(model, image_processor, split, batch_size, device, source)
    evaluation = metrics["evaluation"]
    compared = {MEAN_FACE: brief_scores(evaluate_predictions(predictions, model.label_space), source.num_faces, 0)}
    if source.num_given:
        compared[GIVEN] = brief_scores(evaluation, source.num_faces, source.num_given)
    evaluation |= {"landmarks": GIVEN if source.num_given else MEAN_FACE, "by_landmarks": compared}


# --------------------------------------------------------------------------------------------------------------- save
def finish(
    arguments: ScriptArguments,
    metrics: dict[str, Any],
    processor: MF2Processor,
    evaluation: Split,
    device: torch.device,
    base: str | Path | None = None,
) -> None:
    """Add the model card and, last, `metrics.json` to the saved checkpoint or adapter.

    Args:
        base: base checkpoint of an adapter; None for a checkpoint.
    """
    output_dir = Path(arguments.output_dir)
    batch_size = arguments.per_device_eval_batch_size
    add_scores_without_landmarks(metrics, output_dir, base, processor, evaluation, batch_size, device)
    (output_dir / OVERLAY_NAME).unlink(missing_ok=True)  # of an earlier run
    write_card(output_dir, metrics=metrics)
    write_json(output_dir / METRICS_NAME, metrics)


def finished_metrics(arguments: ScriptArguments, train: Split, evaluation: Split) -> dict[str, Any] | None:
    """Return `metrics.json` of a finished run; None if there is something left to train or evaluate.

    A run is finished if its folder has weights, and metrics that were measured on the same data. Finished runs are
    only reused with `--resume_from_checkpoint auto`.
    """
    output_dir = Path(arguments.output_dir)
    if arguments.resume_from_checkpoint != "auto" or not (output_dir / METRICS_NAME).is_file():
        return None
    metrics = read_json(output_dir / METRICS_NAME)
    measured_data = [metrics.get(part, {}).get("data") for part in ("training", "evaluation")]
    if measured_data != json.loads(json.dumps([train.description, evaluation.description])):
        return None
    if not has_weights(output_dir):
        return None
    logger.info(f"{output_dir} was trained and measured to its end; remove its {METRICS_NAME} to measure it anew.")
    return metrics


def report_run(arguments: ScriptArguments, metrics: dict[str, Any], evaluation: Split, device: torch.device) -> None:
    """Draw `overlay.png` if requested and missing, add it to the card, and log the scores."""
    output_dir = Path(arguments.output_dir)
    file = output_dir / OVERLAY_NAME
    if arguments.overlay_faces and not file.is_file():
        with illustration(file):
            rows = spaced_rows(len(evaluation.rows), arguments.overlay_faces)
            model = MF2ForConditionalGeneration.from_pretrained(output_dir).eval().to(device)
            processor = MF2Processor.from_pretrained(output_dir)
            draw_overlay(model, processor, [evaluation.faces[int(row)] for row in rows], file)
        write_card(output_dir)
    logger.info(summary(metrics, output_dir))


def summary(metrics: dict[str, Any], output_dir: Path) -> str:
    """The scores with their baselines, in a few lines."""
    aus, emotion = metrics["evaluation"]["aus"], metrics["evaluation"]["emotion"]
    lines = [f"{output_dir} is ready; README.md shows what it does."]
    if aus["f1"] is not None:
        tuned = metrics["evaluation"]["aus_tuned"]["f1"]
        lines.append(f"mean AU F1 {aus['f1']:.3f} (tuned {tuned:.3f}; always active {aus['f1_all_positive']:.3f})")
    if emotion["num_labelled"]:
        ceiling = metrics["evaluation"]["data"]["emotion_ceiling"]
        bound = f"; true AUs allow {ceiling:.3f}" if ceiling else ""
        lines.append(f"emotion top-1 {emotion['top1']:.3f} (majority {emotion['majority_top1']:.3f}{bound})")
    if (affect := metrics["evaluation"].get("affect", {})).get("num_labelled"):
        ceilings = metrics["evaluation"]["data"].get("affect_ceiling") or {}
        parts = [
            f"{name} {found['ccc']:.3f}" + (f" (true AUs allow {ceilings[name]:.3f})" if ceilings else "")
            for name, found in affect["per_dimension"].items()
        ]
        lines.append(f"CCC of {', '.join(parts)}; a constant has 0")
    return "\n".join(lines)
