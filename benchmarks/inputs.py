"""Inputs of the benchmarks: models of the named sizes, and batches with captions of random labels.

Template captions are tokenised by a vocabulary of their words and padded as in the collator, so that their lengths are
those of training; pixels and weights are random, which does not affect timings.
"""

from collections.abc import Mapping
from functools import cache

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from mf2.configuration_mf2 import MF2Config, MF2QFormerConfig
from mf2.data_loading.captions import CaptionTable, training_texts
from mf2.data_loading.splits import Labels
from mf2.dataset_tools.captions import template_captions
from mf2.dataset_tools.schema import au_columns
from mf2.dataset_tools.synthetic.au_prior import sample_aus
from mf2.labels_mf2 import AU_IDS, EMOTIONS
from mf2.modeling_mf2 import MF2ForPreTraining
from mf2.regions_mf2 import au_boxes_from_landmarks, mean_face
from mf2.training.tokenizer import train_tokenizer, vocabulary_fields

Batch = dict[str, torch.Tensor]

IMAGE_SIZES = {"tiny": 112, "base": 224, "paper": 224}
"""Side of a face in pixels; `tiny` as in the demo."""

NUM_CAPTIONED = 512
"""Number of rows with captions; a batch uses the first of them."""


@cache
def captioned_rows(num_rows: int, seed: int) -> datasets.Dataset:
    """Label and caption columns of an MFA split: random emotions, and AUs sampled given the emotion."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ("emotion", "caption_emotion", "caption_key_au", "caption_au")}
    aus = []
    for row in range(num_rows):
        emotion = int(rng.integers(len(EMOTIONS)))
        aus.append(sample_aus(emotion, rng))
        active = [au_id for au_id, label in zip(AU_IDS, aus[-1], strict=True) if label]
        captions = template_captions(f"benchmark-{row}", active, EMOTIONS[emotion], seed)
        texts = (captions.emotion, captions.key_au, captions.au)
        for column, value in zip(columns.values(), (emotion, *texts), strict=True):
            column.append(value)
    labels = dict(zip(au_columns(AU_IDS), np.stack(aus, axis=1).tolist(), strict=True))
    return datasets.Dataset.from_dict(columns | labels)


@cache
def caption_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerBase:
    """Train a WordPiece vocabulary on the captions."""
    return train_tokenizer(training_texts(captioned_rows(NUM_CAPTIONED, seed)), vocab_size)


def make_config(size: str, seed: int, dropout: float | None = None, **fields) -> MF2Config:
    """Make a configuration with the captions' special tokens; `dropout` replaces that of the Q-Formers.

    Generated text attends to the queries as in BLIP-2, which MF² is compared with.
    """
    tokenizer = caption_tokenizer(get_qformer_config(MF2Config.from_size(size)).vocab_size, seed)
    for name in ("emo_config", "au_config"):
        rates = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        fields[name] = {"text_reads_queries": "entering"} | rates | fields.get(name, {})
    return MF2Config.from_size(size, **vocabulary_fields(tokenizer), **fields)


def get_qformer_config(config: MF2Config, branch: str = "emo") -> MF2QFormerConfig:
    """The configuration of a branch's Q-Former."""
    qformer = getattr(config, f"{branch}_config")
    assert isinstance(qformer, MF2QFormerConfig)
    return qformer


def make_model(config: MF2Config, seed: int, device: str) -> MF2ForPreTraining:
    """Make a model with random weights on the device, in training mode."""
    torch.manual_seed(seed)
    with torch.device(device):
        return MF2ForPreTraining(config).train()


def make_batch(config: MF2Config, batch_size: int, image_size: int, seed: int, device: str) -> Batch:
    """Make a training batch; each kind of text is padded to the longest in the batch."""
    rows = captioned_rows(max(NUM_CAPTIONED, batch_size), seed)
    labels = Labels.from_rows(rows, config.au_ids)
    table = CaptionTable(rows, labels, config, caption_tokenizer(get_qformer_config(config).vocab_size, seed))
    chosen = np.arange(batch_size)
    size = (image_size, image_size)
    boxes = torch.from_numpy(au_boxes_from_landmarks(mean_face(size), size, config.au_ids))
    pixels = torch.randn(batch_size, 3, *size, generator=torch.Generator().manual_seed(seed))
    batch = table.batch(chosen, seeds=[0] * batch_size) | {
        "pixel_values": pixels,
        "au_boxes": boxes.expand(batch_size, -1, -1, -1),
        "emotion_labels": torch.from_numpy(labels.emotion[chosen]),
        "au_labels": torch.from_numpy(labels.aus[chosen]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def pad_to_limits(batch: Batch, config: MF2Config) -> Batch:
    """Pad all texts to the maximum length of their kind, as with `padding="max_length"` (LAVIS)."""
    per_au = config.au_text_mode == "per_au"
    limits = {"": config.emotion_text_length, "au_": config.au_sentence_length if per_au else config.au_text_length}
    padded = dict(batch)
    for prefix, limit in limits.items():
        for name, value in ((f"{prefix}input_ids", config.pad_token_id), (f"{prefix}attention_mask", 0)):
            padded[name] = F.pad(batch[name], (0, limit - batch[name].shape[-1]), value=value)
    return padded


def describe_texts(batches: Mapping[str, Batch]) -> list[dict[str, float | str]]:
    """Describe the texts of each branch: mean length in tokens, padded length, and share with ITM negatives.

    Args:
        batches: name of the padding -> batch.
    """
    texts = []
    for branch, prefix in (("emo", ""), ("au", "au_")):
        padded = {name: batch[f"{prefix}attention_mask"].shape[-1] for name, batch in batches.items()}
        batch = next(iter(batches.values()))
        lengths = batch[f"{prefix}attention_mask"].sum(-1).float()
        captions = batch[f"{prefix}caption_ids"]
        has_negative = (captions[:, None] != captions[None]).any(1).float()
        texts.append(
            {"branch": branch, "mean tokens": lengths.mean().item()}
            | padded
            | {"negatives": has_negative.mean().item()}
        )
    return texts


def text_of_length(
    config: MF2Config, rows: int, length: int, seed: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a mask of ones, both `(rows, length)`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(100, get_qformer_config(config).vocab_size, (rows, length), generator=generator)
    return ids.to(device), torch.ones_like(ids, device=device)
