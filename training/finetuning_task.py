"""The task of a fine-tuning run: the base checkpoint, and data in the task's label space."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from torch.utils.data import Dataset
from transformers import TrainingArguments

from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.csv_files import data_folders
from mf2.data_loading.splits import RowSubset, Split, find_label_space, hold_out_groups
from mf2.hub.sources import check_model_source
from mf2.labels_mf2 import LabelSpace
from mf2.processing_mf2 import MF2Processor
from mf2.training.arguments import FinetuneArguments

logger = logging.getLogger(__name__)

CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.py")


@dataclass
class Task:
    """A fine-tuning task.

    Args:
        base: folder of the base checkpoint; in the local cache for a Hub repository.
        revision: commit of the Hub repository; None for a folder.
        config: configuration of the base.
        processor: processor with the regions of the task's label space.
        label_space: AUs and emotions of the task.
        train, evaluation: both splits.
        held_out: indices of the training rows for model selection; empty without `holdout_share`.
    """

    base: Path
    revision: str | None
    config: MF2Config
    processor: MF2Processor
    label_space: LabelSpace
    train: Split
    evaluation: Split
    held_out: np.ndarray

    @property
    def train_rows(self) -> np.ndarray:
        """Indices of the training rows that are trained on."""
        return np.setdiff1d(np.arange(len(self.train.rows)), self.held_out)

    def datasets(self, train: Dataset, evaluation: Dataset) -> dict[str, Any]:
        """The Trainer's `train_dataset` and `eval_dataset`; the latter are the held-out rows, if there are any.

        Args:
            train, evaluation: all rows of both splits.
        """
        if not len(self.held_out):
            return {"train_dataset": train, "eval_dataset": evaluation}
        return {
            "train_dataset": RowSubset(train, self.train_rows),
            "eval_dataset": RowSubset(train, self.held_out),
        }


def load_task(arguments: FinetuneArguments, settings: TrainingArguments) -> Task:
    """Locate the base and load the data in the task's label space."""
    check_model_source(arguments.model, "an adapter")
    base, revision = locate_base(arguments.model)
    config = MF2Config.from_pretrained(base)
    with settings.main_process_first(local=False, desc="data"):
        train_paths = data_folders(arguments.data, arguments.output_dir)
        eval_paths = data_folders(arguments.eval_data or arguments.data, arguments.output_dir)
    found = find_label_space(train_paths, arguments.train_split, arguments.max_train_rows)
    au_ids = found.au_ids if arguments.au_ids is None else arguments.au_ids
    emotions = found.emotions if arguments.emotions is None else arguments.emotions
    label_space = LabelSpace(tuple(au_ids), tuple(emotions), affect=arguments.affect)
    if arguments.method == "dfn":
        if arguments.dfn.get("start", "base") == "base":
            label_space = label_space.looking_at(config.label_space.region_au_ids)
    else:  # these methods keep the base's AUs if the task has none
        label_space = LabelSpace(
            label_space.au_ids or tuple(config.au_ids), label_space.emotions, affect=label_space.affect
        )
    train = Split.join(train_paths, arguments.train_split, arguments.max_train_rows, label_space)
    evaluation = Split.join(eval_paths, arguments.eval_split, arguments.max_eval_rows, label_space)
    if label_space.affect and not train.labels.has_affect:
        raise ValueError(f"{arguments.data}: no row labels valence or arousal; leave out --affect.")
    held_out = np.arange(0)
    if arguments.holdout_share:
        held_out = hold_out_groups(train.rows["group_id"], arguments.holdout_share, arguments.seed)
    processor = MF2Processor.from_pretrained(base).for_label_spaces(label_space)
    logger.info(
        f"The task has {len(label_space.au_ids)} AUs ({', '.join(label_space.au_codes) or 'none'}) and "
        f"{len(label_space.emotions)} emotions ({', '.join(label_space.emotions) or 'none'})"
        f"{', valence and arousal' if label_space.affect else ''}; "
        f"{len(train.rows) - len(held_out)} rows to train on, {len(held_out)} to choose by, {len(evaluation.rows)} to "
        f"evaluate on."
    )
    return Task(base, revision, config, processor, label_space, train, evaluation, held_out)


def locate_base(model: str) -> tuple[Path, str | None]:
    """Return the folder of a checkpoint, and its commit if it is on the Hub."""
    if Path(model).is_dir():
        return Path(model), None
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise FileNotFoundError(f"{model} is neither a checkpoint folder nor a Hub id such as `org/mf2`.")
    folder = Path(snapshot_download(model, allow_patterns=list(CHECKPOINT_FILES)))
    return folder, folder.name


def make_caption_table(task: Task) -> CaptionTable | None:
    """Tokenize the captions of the training split for the base; None if there are none."""
    captions = CaptionTable(
        task.train.rows, task.train.labels, task.config, task.processor.tokenizer, task.label_space.au_ids
    )
    if captions.num_cut:
        logger.warning(f"{captions.num_cut} distinct texts are longer than their limit in the base and are cut.")
    if not captions.used_indexes():
        logger.warning("The data have no captions, so nothing is aligned with texts.")
        return None
    return captions
