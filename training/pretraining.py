"""A pre-training run: set-up, data, model, fit, evaluate, save."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainingArguments

from mf2.auto_mf2 import register_auto_classes
from mf2.baselines.modeling import BaselineModel, register_baselines
from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.collators import FaceCollator
from mf2.data_loading.splits import Split
from mf2.dataset_tools.schema import read_manifest
from mf2.evaluation.predictions import IMAGE_NAMES
from mf2.evaluation.tower_probes import (
    SCORES,
    has_probes,
    headline_scores,
    measure_tower_probes,
    scores_not_above_probes,
)
from mf2.hub.provenance import record_training_videos
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.modeling_mf2 import MF2ForPreTraining
from mf2.processing_mf2 import MF2Processor
from mf2.training.arguments import PretrainArguments, reject_unknown, save_resolved
from mf2.training.checkpoints import save_for_hub
from mf2.training.feature_cache import FEATURE_NAMES, cache_features, collate_features
from mf2.training.lifecycle import (
    evaluate,
    finish,
    finished_metrics,
    make_augmentation,
    provenance,
    report_run,
    start_run,
)
from mf2.training.model_setup import build_model, build_processor, build_tokenizer
from mf2.training.trainer import PretrainingTrainer, compute_metrics_for

logger = logging.getLogger(__name__)


def pretrain(arguments: PretrainArguments) -> dict[str, Any]:
    """Train, evaluate on images only, and write `arguments.output_dir` as a folder for the Hub.

    Returns:
        The content of `metrics.json`.
    Raises:
        ValueError, OSError: an error that the user can fix, with a one-line message.
        FloatingPointError: the loss is not finite.
    """
    register_auto_classes()
    register_baselines()
    settings, checkpoint = start_run(arguments)
    train, evaluation, au_ids = load_data(arguments, settings)
    metrics = finished_metrics(arguments, train, evaluation)
    if metrics is None:
        metrics = fit(arguments, settings, checkpoint, train, evaluation, au_ids)
    if settings.process_index == 0:
        report_run(arguments, metrics, evaluation, settings.device)
    return metrics


# --------------------------------------------------------------------------------------------------------------- data
def load_data(arguments: PretrainArguments, settings: TrainingArguments) -> tuple[Split, Split, list[int]]:
    """Load the training and evaluation splits, and return them with the AUs of their labels.

    The data set `synth` is first generated into the output folder.
    """
    path = arguments.train_data
    with settings.main_process_first(local=False, desc="data"):
        if path == "synth":
            path = generate_sample(arguments, is_main=settings.process_index == 0)
        au_ids = get_au_ids(arguments)
        train = Split.load(path, arguments.train_split, arguments.max_train_rows, au_ids)
        if not arguments.model_name_or_path and (labelled := select_labelled_aus(train, au_ids)) != au_ids:
            au_ids = labelled
            train = Split.load(path, arguments.train_split, arguments.max_train_rows, au_ids)
        if recognises_affect(arguments):
            train = add_affect(arguments, train)
        eval_path, affect = arguments.eval_data or path, train.labels.affect is not None
        evaluation = Split.load(eval_path, arguments.eval_split, arguments.max_eval_rows, au_ids, affect)
    return train, evaluation, au_ids


def add_affect(arguments: PretrainArguments, train: Split) -> Split:
    """The training split with its labels of valence and arousal; where no row has one, a new model leaves them out.

    Raises:
        ValueError: no row has one, but the starting checkpoint recognises them.
    """
    labelled = train.with_affect()
    if labelled.labels.has_affect:
        return labelled
    unlabelled = f"{arguments.train_data}: no row of the training split labels valence or arousal"
    if arguments.model_name_or_path:
        raise ValueError(f"{unlabelled}, which {arguments.model_name_or_path} recognises; start from another.")
    logger.warning(f"{unlabelled}; the model leaves them out.")
    return train


def generate_sample(arguments: PretrainArguments, is_main: bool) -> str:
    """Return the folder of the generated sample; generate it if it does not exist."""
    from mf2.dataset_tools.synthetic.synth import SynthConfig, draw_sheet, synthesize

    reject_unknown(list(arguments.synth), list(SynthConfig.__dataclass_fields__), "synth")
    config = SynthConfig(**arguments.synth)
    folder = Path(arguments.output_dir, "data")
    if not folder.exists():
        synthesize(folder, config, num_workers=os.cpu_count() or 1, show_progress=is_main)
    elif (manifest := read_manifest(folder)).get("config") != dataclasses.asdict(config):
        raise ValueError(f"{folder} was generated with other options than synth = {arguments.synth}; remove it.")
    elif recognises_affect(arguments) and "affect" not in manifest:
        raise ValueError(f"{folder} was generated before faces had valence and arousal; remove it.")
    else:
        draw_sheet(folder, config)
    return str(folder)


def select_labelled_aus(train: Split, au_ids: list[int]) -> list[int]:
    """The AUs with labels in the training split, which are the outputs of a new model; all AUs if none is labelled."""
    unlabelled = train.labels.unlabelled_aus()
    unlabelled_codes = [f"AU{au_ids[index]}" for index in unlabelled]
    if not unlabelled:
        return au_ids
    if len(unlabelled) == len(au_ids):
        logger.warning("No row of the training split labels an AU; the AU outputs mean nothing.")
        return au_ids
    logger.warning(
        f"{', '.join(unlabelled_codes)}: no row of the training split labels them; the model leaves them out."
    )
    return [au_id for index, au_id in enumerate(au_ids) if index not in unlabelled]


def recognises_affect(arguments: PretrainArguments) -> bool:
    """Whether the starting checkpoint, or else a new model, recognises valence and arousal."""
    if arguments.model_name_or_path:
        return MF2Config.from_pretrained(arguments.model_name_or_path).affect
    return bool(arguments.model.get("affect", False))


def get_au_ids(arguments: PretrainArguments) -> list[int]:
    """The AUs of the starting checkpoint or of the arguments."""
    if arguments.model_name_or_path:
        return list(MF2Config.from_pretrained(arguments.model_name_or_path).au_ids)
    return list(arguments.model.get("au_ids", AU_IDS))


# -------------------------------------------------------------------------------------------------------------- model
def make_model(
    arguments: PretrainArguments, train: Split, au_ids: list[int]
) -> tuple[MF2ForPreTraining | BaselineModel, MF2Processor]:
    """Build the model, with the AUs, loss weights and provenance of the training split, and its processor."""
    tokenizer = build_tokenizer(arguments, train.rows)
    model = build_model(arguments, tokenizer, au_ids, train.labels.affect is not None)
    config = model.config
    if list(config.emotions) != list(EMOTIONS) or not config.au_ids:
        raise ValueError(
            f"The model has emotions {list(config.emotions)} and AUs {list(config.au_ids)}; pre-training needs the "
            f"data set's eight emotions ({', '.join(EMOTIONS)}) and at least one AU."
        )
    if arguments.probes and not (isinstance(model, MF2ForPreTraining) and has_probes(model)):
        raise ValueError("probes is true, but there is no frozen tower with AU regions to probe; leave it out.")
    lacks_features = not (arguments.feature_views or arguments.model_name_or_path or arguments.baseline)
    if config.readout_grids and lacks_features:
        raise ValueError(
            f"model.readout_grids is {list(config.readout_grids)}: the readout of a new model is fitted to kept "
            f"features; give --feature_views, 1 or more, or --model.readout_grids '[]'."
        )
    if isinstance(model, BaselineModel):
        statistics = model.system.measure(train.labels.aus, train.labels.emotion, len(EMOTIONS))
        config.baseline_options = statistics | (config.baseline_options or {})
    if arguments.weight_aus:
        config.au_pos_weight = train.labels.au_pos_weight()
    if arguments.balance_emotions:
        config.emotion_logit_shift = train.labels.emotion_logit_shift(len(EMOTIONS), arguments.balance_emotions)
    config.training_data = [*(config.training_data or []), *provenance(train)]
    return model, build_processor(arguments, config, tokenizer)


# ---------------------------------------------------------------------------------------------------------------- fit
def fit(
    arguments: PretrainArguments,
    settings: TrainingArguments,
    checkpoint: Path | None,
    train: Split,
    evaluation: Split,
    au_ids: list[int],
) -> dict[str, Any]:
    """Train, starting from a checkpoint if given, evaluate and save; returns the content of `metrics.json`."""
    model, processor = make_model(arguments, train, au_ids)
    trainer = make_trainer(arguments, settings, model, processor, train, evaluation)
    if trainer.is_world_process_zero():
        save_resolved(arguments, arguments.output_dir)
        record_training_videos(arguments.output_dir, train.rows, arguments.model_name_or_path)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    metrics = evaluate(arguments, trainer, model, model.config, train, evaluation, result)
    if arguments.probes and isinstance(model, MF2ForPreTraining) and trainer.is_world_process_zero():
        metrics |= compare_with_probes(metrics, model, processor, train, evaluation)
    save_for_hub(trainer, processor, arguments.output_dir)
    if trainer.is_world_process_zero():
        finish(arguments, metrics, processor, evaluation, settings.device)
    return metrics


def compare_with_probes(
    metrics: dict[str, Any], model: MF2ForPreTraining, processor: MF2Processor, train: Split, evaluation: Split
) -> dict[str, Any]:
    """Scores of the linear probes, and the scores (`not_above`) in which the model does not beat the better one."""
    rows = measure_tower_probes(model.eval(), processor.image_processor, train, evaluation)
    not_above = scores_not_above_probes(metrics["evaluation"], rows)
    for row in [{"name": "this model", **headline_scores(metrics["evaluation"])}, *rows]:
        known = (f"{title} {row[name]:.3f}" for name, title in SCORES.items() if row[name] is not None)
        logger.info(f"{row['name']}: {', '.join(known)}")
    if not_above:
        logger.warning(f"A linear probe on the frozen tower is as good or better in {', '.join(not_above)}.")
    return {"probes": {"rows": rows, "not_above": not_above}}


def make_trainer(
    arguments: PretrainArguments,
    settings: TrainingArguments,
    model: MF2ForPreTraining | BaselineModel,
    processor: MF2Processor,
    train: Split,
    evaluation: Split,
) -> PretrainingTrainer:
    """Make the Trainer for both splits."""
    captions = make_captions(arguments, model, processor, train)
    settings.ddp_find_unused_parameters = may_skip_parameters(model)
    collator = FaceCollator(processor.image_processor, captions, make_augmentation(arguments), arguments.seed)
    datasets: tuple[Dataset, Dataset] = (train.faces, evaluation.faces)
    collate: Callable[..., dict[str, torch.Tensor]] = collator
    image_names: Sequence[str] = IMAGE_NAMES
    if arguments.feature_views and isinstance(model, MF2ForPreTraining):
        datasets = cache_features(arguments, settings, model, collator, train, evaluation)
        collate, image_names = collate_features, FEATURE_NAMES
    return PretrainingTrainer(
        model,
        settings,
        data_collator=collate,
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        compute_metrics=compute_metrics_for(model.label_space),
        processor=processor,
        image_names=image_names,
    )


def make_captions(
    arguments: PretrainArguments, model: MF2ForPreTraining | BaselineModel, processor: MF2Processor, train: Split
) -> CaptionTable | None:
    """The captions that the model is trained on; None for a baseline without text."""
    config = model.config
    if isinstance(model, BaselineModel) and not model.system.reads:
        return None
    captioned = train.with_shuffled_captions(arguments.seed) if arguments.captions == "shuffled" else train
    rows = model.system.choose_texts(captioned.rows) if isinstance(model, BaselineModel) else captioned.rows
    captions = CaptionTable(rows, captioned.labels, config, processor.tokenizer, share=arguments.caption_share)
    if captions.num_cut:
        logger.warning(
            f"{captions.num_cut} distinct texts are longer than their limit in the configuration and are cut."
        )
    return captions


def may_skip_parameters(model: MF2ForPreTraining | BaselineModel) -> bool:
    """Whether a step may leave parameters without a gradient, which DDP needs to know."""
    if isinstance(model, BaselineModel):
        return model.system.skips_parameters
    config = model.config
    return 0 in (config.itc_weight, config.itm_weight, config.itg_weight)
