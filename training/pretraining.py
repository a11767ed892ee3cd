"""The course of a pre-training run: setup, data, model, fit, evaluate, save."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import PredictionOutput, TrainOutput

from mf2.auto_mf2 import register_auto_classes
from mf2.configuration_mf2 import MF2Config
from mf2.dataset_tools.schema import read_manifest
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2ForPreTraining
from mf2.processing_mf2 import Augmentation, MF2Processor
from mf2.training.arguments import PretrainArguments, check_same_run, reject_unknown, save_resolved
from mf2.training.build import build_model, build_processor, build_tokenizer
from mf2.training.cards import OVERLAY_NAME, write_card
from mf2.training.checkpoint import (
    METRICS_NAME,
    describe_environment,
    find_resume_checkpoint,
    save_for_hub,
    write_json,
)
from mf2.training.data import CaptionTable, FaceCollator, Split
from mf2.training.metrics import tune_thresholds
from mf2.training.predictions import from_logits
from mf2.training.pretraining_trainer import (
    LOSS_NAMES,
    PretrainingTrainer,
    compute_metrics_for,
    make_training_arguments,
    sigmoid,
)
from mf2.training.provenance import record_training_videos
from mf2.training.report import draw_overlay
from mf2.training.scores import evaluate_predictions

logger = logging.getLogger(__name__)


def pretrain(arguments: PretrainArguments) -> dict[str, Any]:
    """Train, evaluate on images alone, and leave `arguments.output_dir` as a folder for the Hub.

    Returns:
        What `metrics.json` holds.
    Raises:
        ValueError, OSError: something the user can put right; the message is one line.
        FloatingPointError: the loss is not finite.
    """
    register_auto_classes()
    settings, checkpoint = start_run(arguments)
    train, evaluation = load_data(arguments, settings)
    model, processor = make_model(arguments, train)
    trainer = make_trainer(arguments, settings, model, processor, train, evaluation)
    if trainer.is_world_process_zero():
        save_resolved(arguments, arguments.output_dir)
        record_training_videos(arguments.output_dir, train.rows, arguments.model_name_or_path)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = evaluate(arguments, trainer, train, evaluation, result)
    save(arguments, trainer, evaluation, metrics)
    return metrics


# -------------------------------------------------------------------------------------------------------------- setup
def start_run(arguments: PretrainArguments) -> tuple[TrainingArguments, Path | None]:
    """Join the processes, check and make the output folder; the Trainer's settings and the checkpoint to continue."""
    settings = make_training_arguments(arguments)
    with settings.main_process_first(local=False, desc="output folder"):
        check_same_run(arguments, arguments.output_dir)
        checkpoint = find_resume_checkpoint(arguments.resume_from_checkpoint, arguments.output_dir)
        Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    if arguments.cpu_threads:
        torch.set_num_threads(arguments.cpu_threads)
    if checkpoint:
        logger.info(f"Continuing from {checkpoint}.")
    set_seed(arguments.seed)
    return settings, checkpoint


# --------------------------------------------------------------------------------------------------------------- data
def load_data(arguments: PretrainArguments, settings: TrainingArguments) -> tuple[Split, Split]:
    """The training and the evaluation split; `synth` is generated into the output folder first, once."""
    path = arguments.train_data
    with settings.main_process_first(local=False, desc="data"):
        if path == "synth":
            path = generate_sample(arguments, is_main=settings.process_index == 0)
        au_ids = au_ids_of(arguments)
        train = Split.load(path, arguments.train_split, arguments.max_train_rows, au_ids)
        evaluation = Split.load(arguments.eval_data or path, arguments.eval_split, arguments.max_eval_rows, au_ids)
    return train, evaluation


def generate_sample(arguments: PretrainArguments, is_main: bool) -> str:
    """The folder of the generated sample, drawn now if it is not there."""
    from mf2.dataset_tools.synth import SynthConfig, synthesize

    reject_unknown(list(arguments.synth), list(SynthConfig.__dataclass_fields__), "synth")
    config = SynthConfig(**arguments.synth)
    folder = Path(arguments.output_dir, "data")
    if not folder.exists():
        synthesize(folder, config, num_workers=os.cpu_count() or 1, show_progress=is_main)
    elif read_manifest(folder).get("config") != dataclasses.asdict(config):
        raise ValueError(f"{folder} was generated with other options than synth = {arguments.synth}; remove it.")
    return str(folder)


def au_ids_of(arguments: PretrainArguments) -> list[int]:
    """The AUs that the model will have."""
    if arguments.model_name_or_path:
        return list(MF2Config.from_pretrained(arguments.model_name_or_path).au_ids)
    return list(arguments.model.get("au_ids", AU_IDS))


# -------------------------------------------------------------------------------------------------------------- model
def make_model(arguments: PretrainArguments, train: Split) -> tuple[MF2ForPreTraining, MF2Processor]:
    """The model with what the training split decides (AU weights, provenance), and its processor."""
    tokenizer = build_tokenizer(arguments, train.rows)
    model = build_model(arguments, tokenizer)
    config = model.config
    if list(config.emotions) != list(EMOTIONS) or not config.au_ids:
        raise ValueError(
            f"The model has emotions {list(config.emotions)} and AUs {list(config.au_ids)}; pre-training needs the "
            f"data set's eight emotions ({', '.join(EMOTIONS)}) and at least one AU."
        )
    if arguments.weight_aus:
        config.au_pos_weight = train.labels.au_pos_weight()
    kept = ("name", "license", "synthetic", "fingerprint", "rows", "videos")
    config.training_data = [*(config.training_data or []), {name: train.description[name] for name in kept}]
    if unlabelled := unlabelled_aus(train, config):
        logger.warning(
            f"{', '.join(unlabelled)}: no row of the training split labels them; their outputs mean nothing."
        )
    return model, build_processor(arguments, config, tokenizer)


def unlabelled_aus(split: Split, config: MF2Config) -> list[str]:
    """Codes of the AUs that no row of a split labels."""
    return [config.label_space.au_codes[index] for index in split.labels.unlabelled_aus()]


# ---------------------------------------------------------------------------------------------------------------- fit
def make_trainer(
    arguments: PretrainArguments,
    settings: TrainingArguments,
    model: MF2ForPreTraining,
    processor: MF2Processor,
    train: Split,
    evaluation: Split,
) -> PretrainingTrainer:
    """The Trainer over both splits."""
    config = model.config
    captions = CaptionTable(train.rows, train.labels, config, processor.tokenizer)
    if captions.num_cut:
        logger.warning(
            f"{captions.num_cut} distinct texts are longer than their limit in the configuration and are cut."
        )
    losses = (config.itc_weight, config.itm_weight, config.itg_weight)
    settings.ddp_find_unused_parameters = 0 in losses
    reject_unknown(list(arguments.augmentation), list(Augmentation.__dataclass_fields__), "augmentation")
    augmentation = Augmentation(**arguments.augmentation) if arguments.augment else None
    return PretrainingTrainer(
        model,
        settings,
        data_collator=FaceCollator(processor.image_processor, captions, augmentation, arguments.seed),
        train_dataset=train.faces,
        eval_dataset=evaluation.faces,
        compute_metrics=compute_metrics_for(model.label_space),
        processor=processor,
    )


# ----------------------------------------------------------------------------------------------------------- evaluate
def evaluate(
    arguments: PretrainArguments,
    trainer: PretrainingTrainer,
    train: Split,
    evaluation: Split,
    result: TrainOutput,
) -> dict[str, Any]:
    """Tune the AU thresholds on training images, score the evaluation split, and put the figures together.

    The thresholds go into the model's configuration.
    """
    config = trainer.accelerator.unwrap_model(trainer.model).config
    num_tuning = min(arguments.tuning_rows, len(train.rows))
    tuning_rows = np.linspace(0, len(train.rows) - 1, num_tuning).round().astype(int)
    tuning = trainer.predict(torch.utils.data.Subset(trainer.train_dataset, tuning_rows.tolist()))
    config.au_thresholds = tune_thresholds(sigmoid(tuning.predictions[0]), tuning.label_ids[0])
    prediction = trainer.predict(trainer.eval_dataset)
    parameters = list(trainer.accelerator.unwrap_model(trainer.model).parameters())
    return {
        "model": {
            "name": Path(arguments.output_dir).resolve().name,
            "license": arguments.license or ("apache-2.0" if train.description["synthetic"] else "other"),
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "evaluation": score(prediction, evaluation, config),
        "training": {
            "data": train.description,
            "unlabelled_aus": unlabelled_aus(train, config),
            "tuning_rows": num_tuning,
            "seed": arguments.seed,
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "seconds": result.metrics["train_runtime"],
            "batch_size": trainer.get_total_train_batch_size(trainer.args),
            "losses": last_losses(trainer),
        },
        "environment": describe_environment(trainer.args.world_size),
    }


def score(prediction: PredictionOutput, split: Split, config: MF2Config) -> dict[str, Any]:
    """All scores of the evaluation split (see `evaluate_predictions`), and what they were measured on."""
    predictions = from_logits(split, config.label_space, *prediction.predictions)
    return {"data": split.description, **evaluate_predictions(predictions, config.label_space)}


def last_losses(trainer: PretrainingTrainer) -> dict[str, float]:
    """Each loss as it was last logged."""
    logged: dict[str, float] = {}
    for entry in trainer.state.log_history:
        logged |= {name: entry[f"loss_{name}"] for name in LOSS_NAMES if f"loss_{name}" in entry}
    return logged


# --------------------------------------------------------------------------------------------------------------- save
def save(
    arguments: PretrainArguments, trainer: PretrainingTrainer, evaluation: Split, metrics: dict[str, Any]
) -> None:
    """Write the checkpoint, `metrics.json`, `overlay.png` and the card."""
    output_dir = Path(arguments.output_dir)
    save_for_hub(trainer, trainer.processor, output_dir)
    if not trainer.is_world_process_zero():
        return
    write_json(metrics, output_dir / METRICS_NAME)
    if arguments.overlay_faces:
        count = min(arguments.overlay_faces, len(evaluation.rows))
        rows = np.linspace(0, len(evaluation.rows) - 1, count).round().astype(int)
        writer = MF2ForConditionalGeneration.from_pretrained(output_dir).eval().to(trainer.args.device)
        examples = [trainer.eval_dataset[int(row)] for row in rows]
        draw_overlay(writer, trainer.processor, examples, output_dir / OVERLAY_NAME)
    write_card(output_dir)
    logger.info(summary(metrics, output_dir))


def summary(metrics: dict[str, Any], output_dir: Path) -> str:
    """The scores beside their baselines, in a few lines."""
    aus, emotion = metrics["evaluation"]["aus"], metrics["evaluation"]["emotion"]
    lines = [f"{output_dir} is ready; overlay.png and README.md show what it does."]
    if aus["f1"] is not None:
        tuned = metrics["evaluation"]["aus_tuned"]["f1"]
        lines.append(f"mean AU F1 {aus['f1']:.3f} (tuned {tuned:.3f}; always active {aus['f1_all_positive']:.3f})")
    if emotion["num_labelled"]:
        ceiling = metrics["evaluation"]["data"]["emotion_ceiling"]
        bound = f"; true AUs allow {ceiling:.3f}" if ceiling else ""
        lines.append(f"emotion top-1 {emotion['top1']:.3f} (majority {emotion['majority_top1']:.3f}{bound})")
    return "\n".join(lines)
