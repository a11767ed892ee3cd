"""The fine-tuning methods: which parameters they train, and their Trainer."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import TrainingArguments, set_seed

from mf2.configuration_mf2 import CODE_VERSION
from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.collators import FaceCollator
from mf2.modeling_mf2 import MF2ForPreTraining, MF2Model
from mf2.peft_dfn import DFNConfig
from mf2.training.adapter_start import fit_adapter_readout
from mf2.training.arguments import FinetuneArguments, reject_unknown
from mf2.training.finetuning_task import Task, make_caption_table
from mf2.training.lifecycle import TaskConfig, make_augmentation, provenance
from mf2.training.readout_fit import Targets, feature_importance
from mf2.training.state_cache import (
    IMAGE_STATE_NAMES,
    StateRows,
    States,
    StatesModel,
    StatesStore,
    collate_states,
    fill_stores,
    hash_weights,
)
from mf2.training.trainer import PretrainingTrainer, compute_metrics_for

ADAPTER = "default"
LORA_TARGETS = r"(emo|au)\.qformer\..*\.(query|value)"
FIELDS_WITHOUT_EFFECT = (
    "au_thresholds",
    "au_pos_weight",
    "emotion_logit_shift",
    "joint_width",
    "recognition_dropout",
    "training_data",
    "emotions",
    "id2label",
    "label2id",
    "_name_or_path",
)
"""Fields of a configuration that do not affect the states."""


@dataclass
class Method:
    """A method ready for training.

    Args:
        model: the model to save; its parameters are counted.
        config: configuration with the task's label space.
        trainer: the Trainer, which evaluates on the held-out rows if there are any.
        evaluation: the rows of the evaluation split, in the form that the Trainer takes.
        is_adapter: whether the model is saved as an adapter.
    """

    model: nn.Module
    config: TaskConfig
    trainer: PretrainingTrainer
    evaluation: Dataset
    is_adapter: bool = False


def make_method(
    arguments: FinetuneArguments,
    settings: TrainingArguments,
    task: Task,
    model: nn.Module,
    config: TaskConfig,
    collator: FaceCollator,
    is_adapter: bool = False,
) -> Method:
    """Make a method that trains on images."""
    faces = task.evaluation.faces
    trainer = PretrainingTrainer(
        model,
        settings,
        data_collator=collator,
        **task.datasets(task.train.faces, faces),
        compute_metrics=compute_metrics_for(task.label_space),
        processor=task.processor,
        patience=arguments.patience,
    )
    return Method(model, config, trainer, faces, is_adapter)


# ---------------------------------------------------------------------------------------------------------------- dfn
def prepare_dfn(arguments: FinetuneArguments, settings: TrainingArguments, task: Task) -> Method:
    """DFN: side networks on the frozen model, with cached states or (`no_cache`) without."""
    config = make_adapter_config(arguments, task)
    captions = make_caption_table(task) if config.alignment_weight else None
    augmentation = make_augmentation(arguments)
    collator = FaceCollator(task.processor.image_processor, captions, augmentation, arguments.seed, arguments.views)
    if arguments.no_cache:
        base = MF2Model.from_pretrained(task.base)
        set_seed(arguments.seed)
        model = attach(base, config, arguments.model, task)
        initialize_readout(arguments, task, model, read_live_features(base.to(settings.device), task, arguments))
        return make_method(arguments, settings, task, model, config, collator, is_adapter=True)
    train, evaluation = cache_states(arguments, settings, task, config, collator)
    with torch.device("meta"):  # only the recognisers of the base are needed from here on
        base = MF2Model(task.config)
    train.load_recognizers(base.recognizers)
    set_seed(arguments.seed)  # so that initialisation does not depend on what was computed before
    model = attach(base, config, arguments.model, task)
    initialize_readout(arguments, task, model, read_cached_features(train, task, arguments))
    recognizers: Any = model.get_base_model().recognizers  # replaced by DFN's layer in PEFT
    rows = [
        StateRows(train, task.train, captions, arguments.seed),
        StateRows(evaluation, task.evaluation, None, arguments.seed),
    ]
    trainer = PretrainingTrainer(
        StatesModel(recognizers.dfn_sides[ADAPTER], train.spaces(), task.config, recognizers.base_layer),
        settings,
        data_collator=collate_states,
        **task.datasets(*rows),
        compute_metrics=compute_metrics_for(task.label_space),
        processor=task.processor,
        image_names=IMAGE_STATE_NAMES,
        patience=arguments.patience,
    )
    return Method(model, config, trainer, rows[1], is_adapter=True)


def make_adapter_config(arguments: FinetuneArguments, task: Task) -> DFNConfig:
    """Make the adapter's configuration from the arguments, in the task's label space."""
    reject_unknown(list(arguments.dfn), [field.name for field in dataclasses.fields(DFNConfig)], "dfn")
    config = DFNConfig(
        **arguments.dfn,
        au_ids=list(task.label_space.au_ids),
        emotions=list(task.label_space.emotions),
        affect=task.label_space.affect,
        au_pos_weight=task.train.labels.au_pos_weight() if arguments.weight_aus and task.label_space.au_ids else None,
        emotion_logit_shift=emotion_shift(arguments, task),
        training_data=provenance(task.train),
    )
    config.take_base(task.config)
    return config


def initialize_readout(
    arguments: FinetuneArguments, task: Task, model: PeftModel, pooled: Iterator[Mapping[str, torch.Tensor]]
) -> None:
    """Fit the readout of a new adapter, if it has one, to the training rows; it is not trained further.

    Args:
        pooled: pooled states of these rows, in batches.
    """
    base: Any = model.get_base_model()
    side, space = base.recognizers.dfn_sides[ADAPTER], task.label_space
    if not side.config.readout or not (space.au_ids or space.emotions):
        return
    rows, labels = task.train_rows, task.train.labels
    targets = Targets.from_labels(labels, len(task.label_space.emotions), arguments.balance_emotions).take(rows)
    importance = feature_importance(base.readout) if side.config.base_readout_width else None
    fit_adapter_readout(side, base.recognizers.base_layer, pooled, targets, task.train.groups[rows], importance)


def read_cached_features(
    states: States, task: Task, arguments: FinetuneArguments
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the pooled states of the training rows, from the cache of the first view."""
    for rows in split_into_batches(task.train_rows, arguments):
        yield {name.removesuffix("_states"): values for name, values in states.images(0, rows).items()}


@torch.no_grad()
def read_live_features(model: MF2Model, task: Task, arguments: FinetuneArguments) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the pooled states of the training rows, computed by the frozen model."""
    was_training, collate = model.training, FaceCollator(task.processor.image_processor)
    model.eval()
    for rows in tqdm(split_into_batches(task.train_rows, arguments), desc="readout", unit="batch"):
        batch = collate(task.train.faces.__getitems__([int(row) for row in rows]))
        inputs: dict[str, Any] = {name: batch[name].to(model.device) for name in ("pixel_values", "au_boxes")}
        yield model.encode_branches(**inputs, au_ids=collate.image_processor.au_ids).pooled
    model.train(was_training)


def split_into_batches(rows: np.ndarray, arguments: FinetuneArguments) -> list[np.ndarray]:
    """Split rows into batches of the evaluation batch size."""
    size = arguments.per_device_eval_batch_size
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def attach(model: MF2Model, config: DFNConfig, base: str, task: Task) -> PeftModel:
    """Add a new adapter to the model, and record the base in its configuration."""
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = base if task.revision else str(Path(base).resolve())
    config.revision = task.revision  # PEFT has set the folder of the download
    return adapted


def cache_states(
    arguments: FinetuneArguments, settings: TrainingArguments, task: Task, config: DFNConfig, collator: FaceCollator
) -> tuple[States, States]:
    """Return the cached states of both splits; missing ones are computed."""
    make_store = partial(
        StatesStore,
        root=Path(arguments.cache_dir or Path(arguments.output_dir, "states")),
        num_kept=config.num_kept_states,
        dtype=getattr(torch, arguments.cache_dtype),
        keeps_face=config.reads_face(task.config),
    )
    facts = {
        "code": CODE_VERSION,
        "weights": hash_weights(task.base),
        "model": {name: value for name, value in task.config.to_dict().items() if name not in FIELDS_WITHOUT_EFFECT},
        "images": task.processor.image_processor.to_dict(),
        "au_ids": list(task.label_space.region_au_ids),
    }
    images = FaceCollator(collator.image_processor, None, collator.augmentation, collator.seed, collator.views)
    randomness = {"seed": arguments.seed, "augmentation": vars(collator.augmentation)} if collator.augmentation else {}
    train = make_store(
        facts=facts | randomness,
        split=task.train,
        images=images,
        captions=collator.captions,
        num_views=arguments.views if collator.augmentation else 1,
    )
    evaluation = make_store(facts=facts, split=task.evaluation, images=FaceCollator(collator.image_processor))

    def load_model() -> MF2Model:
        return MF2Model.from_pretrained(task.base).eval().requires_grad_(False).to(settings.device)

    fill_stores((train, evaluation), load_model, arguments, settings)
    return train.open(), evaluation.open()


# ------------------------------------------------------------------------------------------------------ other methods
def prepare_full(arguments: FinetuneArguments, settings: TrainingArguments, task: Task) -> Method:
    """Full fine-tuning: everything but a frozen tower, with the task's losses or all."""
    model_class = MF2ForPreTraining if arguments.losses == "all" else MF2Model
    model = load_resized(arguments, task, model_class)
    if arguments.freeze_vision:
        model.config.freeze_vision = True
        model.vision_model.requires_grad_(False)
    captions = make_caption_table(task) if arguments.losses == "all" else None
    return make_method(arguments, settings, task, model, model.config, live_collator(arguments, task, captions))


def prepare_lora(arguments: FinetuneArguments, settings: TrainingArguments, task: Task) -> Method:
    """LoRA: low-rank updates of queries and values in both Q-Formers, and the recognisers.

    The result is merged into a checkpoint, as LoRA's file cannot store recognisers of another label space.
    """
    base = load_resized(arguments, task, MF2Model)
    lora = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=2 * arguments.lora_r,
        target_modules=LORA_TARGETS,
        modules_to_save=["recognizers"],
    )
    model = get_peft_model(base, lora)
    return make_method(arguments, settings, task, model, base.config, live_collator(arguments, task))


def prepare_head(arguments: FinetuneArguments, settings: TrainingArguments, task: Task) -> Method:
    """Head: only the recognisers."""
    model = load_resized(arguments, task, MF2Model).requires_grad_(False)
    model.recognizers.requires_grad_(True)
    return make_method(arguments, settings, task, model, model.config, live_collator(arguments, task))


def load_resized(arguments: FinetuneArguments, task: Task, model_class: type[MF2Model]) -> MF2Model:
    """Load the base and resize its outputs to the task."""
    model = model_class.from_pretrained(task.base)
    model.resize_label_space(task.label_space)
    if arguments.weight_aus:
        model.config.au_pos_weight = task.train.labels.au_pos_weight()
    model.config.emotion_logit_shift = emotion_shift(arguments, task)
    model.config.training_data = [*(model.config.training_data or []), *provenance(task.train)]
    return model


def emotion_shift(arguments: FinetuneArguments, task: Task) -> list[float] | None:
    """Logit shift that balances the task's emotions in the loss; None without balancing."""
    num_emotions = len(task.label_space.emotions)
    if not (arguments.balance_emotions and num_emotions):
        return None
    return task.train.labels.emotion_logit_shift(num_emotions, arguments.balance_emotions)


def live_collator(arguments: FinetuneArguments, task: Task, captions: CaptionTable | None = None) -> FaceCollator:
    """A collator with new augmentation in every epoch."""
    return FaceCollator(task.processor.image_processor, captions, make_augmentation(arguments), arguments.seed)


METHODS: dict[str, Callable[[FinetuneArguments, TrainingArguments, Task], Method]] = {
    "dfn": prepare_dfn,
    "full": prepare_full,
    "lora": prepare_lora,
    "head": prepare_head,
}
