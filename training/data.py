"""From an MFA split to batches: rows, tokenised captions, and the collator that runs the image processor.

What is drawn at random for a row (its augmentation, which caption it shows) is a function of (seed, epoch, row) alone.
Neither the number of workers nor a restart changes it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mf2.configuration_mf2 import MF2Config
from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption
from mf2.dataset_tools.schema import au_columns, dataset_fingerprint, load_mfa, read_manifest
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor, read_image

CAPTION_PROMPTS = {"emotion": "emotion:", "key_au": "key action units:"}
"""What opens a caption of the global branch where it learns both kinds (`emo_text="random"`)."""

POS_WEIGHT_BOUNDS = (0.1, 10.0)
"""Active-against-not weights stay inside: a handful of active rows should not rule the AU loss."""


# ------------------------------------------------------------------------------------------------------------ loading
def load_rows(path: str, split: str, max_rows: int | None, au_ids: Sequence[int]) -> datasets.Dataset:
    """A split of a data set, checked against the schema; `max_rows` keeps that many, evenly spaced."""
    rows = load_mfa(path, split, au_ids=au_ids)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if max_rows is not None and max_rows < len(rows):
        rows = rows.select(np.linspace(0, len(rows) - 1, max_rows).round().astype(int))
    return rows


def describe_rows(path: str, split: str, rows: datasets.Dataset) -> dict[str, Any]:
    """Provenance of a split: `name`, `split`, `license`, `synthetic`, `fingerprint`, `rows`, `videos`, and
    of generated data `emotion_ceiling`, the emotion accuracy that its true AUs allow.

    What only a local manifest tells is None for a data set of the Hub. A folder gives its name, never its path.
    """
    manifest = read_manifest(path) if Path(path).is_dir() else {}
    return {
        "name": manifest.get("pretty_name") or (Path(path).name if manifest else path),
        "split": split,
        "license": manifest.get("license"),
        "synthetic": manifest.get("source") == "synthetic",
        "fingerprint": dataset_fingerprint(path) if manifest else None,
        "rows": len(rows),
        "videos": len(set(rows["video_id"])),
        "emotion_ceiling": manifest.get("emotion_ceiling", {}).get(split),
    }


@dataclass(frozen=True)
class Labels:
    """The labels of a split: `aus` (N, A) 1 / 0 / -1 and `emotion` (N,), -100 unlabelled; both int64."""

    aus: np.ndarray
    emotion: np.ndarray

    @classmethod
    def from_rows(cls, rows: datasets.Dataset, au_ids: Sequence[int]) -> "Labels":
        emotion = [EMOTION_UNLABELLED if value is None else value for value in rows["emotion"]]
        aus = np.stack([np.asarray(rows[column], dtype=np.int64) for column in au_columns(au_ids)], axis=1)
        return cls(aus, np.asarray(emotion, dtype=np.int64))

    def au_pos_weight(self) -> list[float]:
        """Not-active over active counts of each AU, within `POS_WEIGHT_BOUNDS`; 1 for an AU without a label."""
        active, inactive = (self.aus == 1).sum(0), (self.aus == 0).sum(0)
        weights = np.clip(inactive / np.maximum(active, 1), *POS_WEIGHT_BOUNDS)
        return np.where(active + inactive > 0, weights, 1.0).tolist()

    def unlabelled_aus(self) -> list[int]:
        """Positions of the AUs that no row labels."""
        return np.flatnonzero((self.aus == AU_UNLABELLED).all(0)).tolist()


@dataclass(frozen=True)
class Split:
    """A split of a data set: its rows, their labels, and where they come from (see `describe_rows`)."""

    rows: datasets.Dataset
    labels: Labels
    description: dict[str, Any]

    @classmethod
    def load(cls, path: str, split: str, max_rows: int | None, au_ids: Sequence[int]) -> "Split":
        """Load and check a split; the errors are those of `load_mfa`."""
        rows = load_rows(path, split, max_rows, au_ids)
        return cls(rows, Labels.from_rows(rows, au_ids), describe_rows(path, split, rows))

    @property
    def faces(self) -> "FaceDataset":
        """The images, for a data loader."""
        return FaceDataset(self.rows, self.labels, f"{self.description['name']} ({self.description['split']})")


# ----------------------------------------------------------------------------------------------------------- captions
def caption_hash(text: str) -> int:
    """A signed 64-bit number that is the same for the same text, everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def row_seed(seed: int, epoch: int, row: int) -> int:
    """The seed of all that is drawn for a row in an epoch."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1, np.uint64)[0])


def training_texts(rows: datasets.Dataset) -> list[str]:
    """Every distinct caption of a split: what a vocabulary is trained on."""
    columns = ("caption_emotion", "caption_key_au", "caption_au")
    return sorted({text for column in columns for text in rows[column] if text})


class TokenTable:
    """Texts as token ids, each distinct text once. Index -1, the last row, is the empty text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._index_of: dict[tuple[str, int], int] = {}
        self._sequences: list[list[int]] = []
        self._hashes: list[int] = []
        self.num_cut = 0

    def add(self, texts: Sequence[str | None], max_length: int) -> np.ndarray:
        """Indexes `(len(texts),)` of the texts, cut to `max_length` tokens with `[CLS]` and `[SEP]`; -1 for None."""
        new = [text for text in dict.fromkeys(texts) if text and (text, max_length) not in self._index_of]
        if new:
            for text, ids in zip(new, self._tokenizer(new, verbose=False)["input_ids"], strict=True):
                if len(ids) > max_length:
                    ids = [*ids[: max_length - 1], ids[-1]]
                    self.num_cut += 1
                self._index_of[text, max_length] = len(self._sequences)
                self._sequences.append(ids)
                self._hashes.append(caption_hash(text))
        return np.array([self._index_of[text, max_length] if text else -1 for text in texts], dtype=np.int64)

    def freeze(self) -> None:
        """Pack the texts into arrays, for `pad`."""
        self._lengths = np.array([len(ids) for ids in self._sequences] + [0])
        self._ids = np.full((len(self._lengths), self._lengths.max()), self._tokenizer.pad_token_id, dtype=np.int32)
        for row, ids in enumerate(self._sequences):
            self._ids[row, : len(ids)] = ids
        self._packed_hashes = np.array([*self._hashes, 0], dtype=np.int64)
        del self._sequences, self._hashes, self._index_of

    def pad(self, indexes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids and mask `(…, T)`, T the longest of them, and caption ids `(…)`, all int64."""
        lengths = self._lengths[indexes]
        width = max(int(lengths.max()), 1)
        mask = np.arange(width) < lengths[..., None]
        ids = self._ids[indexes, :width].astype(np.int64)
        hashes = self._packed_hashes[indexes]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(hashes)


class CaptionTable:
    """The captions of a split as the model reads them: one text an image for the global branch, and for the local one
    the AU caption or, with `au_text_mode="per_au"`, one sentence an AU.

    Args:
        rows: a split.
        labels: its labels; an AU's sentence is the caption's where the AU is active, the fixed "not active" one where
            it is not, and none where it is unlabelled.
        config: which texts, their lengths and the AUs.
        tokenizer: of the text side.
    """

    def __init__(self, rows: datasets.Dataset, labels: Labels, config: MF2Config, tokenizer: PreTrainedTokenizerBase):
        self._table = TokenTable(tokenizer)
        self._global: list[np.ndarray] = []  # per kind, (N,)
        self._local: np.ndarray | None = None  # (N,) or (N, A)
        if config.use_emo_vl:
            self._global = [self._add_global(rows, kind, config) for kind in self._kinds(config)]
        if config.use_au_vl and config.au_text_mode == "caption":
            self._local = self._table.add(list(rows["caption_au"]), config.au_text_length)
        elif config.use_au_vl:
            self._local = self._add_sentences(rows, labels, config)
        self.num_cut = self._table.num_cut
        self._table.freeze()

    @staticmethod
    def _kinds(config: MF2Config) -> Sequence[str]:
        return tuple(CAPTION_PROMPTS) if config.emo_text == "random" else (config.emo_text,)

    def _add_global(self, rows: datasets.Dataset, kind: str, config: MF2Config) -> np.ndarray:
        prompt = f"{CAPTION_PROMPTS[kind]} " if config.emo_text == "random" else ""
        texts = [prompt + text if text else None for text in rows[f"caption_{kind}"]]
        return self._table.add(texts, getattr(config, f"{kind}_text_length"))

    def _add_sentences(self, rows: datasets.Dataset, labels: Labels, config: MF2Config) -> np.ndarray:
        inactive = [inactive_au_sentence(au_id) for au_id in config.au_ids]
        sentences: list[str | None] = []
        for caption, active in zip(rows["caption_au"], labels.aus, strict=True):
            written = parse_au_caption(caption) if caption else {}
            for au_id, label, fixed in zip(config.au_ids, active, inactive, strict=True):
                sentences.append({1: written.get(au_id), 0: fixed}.get(int(label)))
        return self._table.add(sentences, config.au_sentence_length).reshape(labels.aus.shape)

    def batch(self, rows: np.ndarray, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        """The text part of a batch. Where a row has captions of both kinds, its seed chooses."""
        batch: dict[str, torch.Tensor] = {}
        if self._global:
            chosen = [self._choose(row, seed) for row, seed in zip(rows, seeds, strict=True)]
            batch |= _named(("input_ids", "attention_mask", "caption_ids"), self._table.pad(np.array(chosen)))
        if self._local is not None:
            names = ("au_input_ids", "au_attention_mask", "au_caption_ids")
            batch |= _named(names, self._table.pad(self._local[rows]))
        return batch

    def _choose(self, row: int, seed: int) -> int:
        present = [index[row] for index in self._global if index[row] >= 0] or [-1]
        return present[seed % len(present)]


def _named(names: Sequence[str], values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(names, values, strict=True))


def caption_prompt_ids(tokenizer: PreTrainedTokenizerBase, emo_text: str) -> dict[str, list[int]] | None:
    """The token ids of the prompts, for `MF2Config.caption_prompt_ids`; None where captions have none."""
    if emo_text != "random":
        return None
    return {kind: tokenizer(text, add_special_tokens=False)["input_ids"] for kind, text in CAPTION_PROMPTS.items()}


# ------------------------------------------------------------------------------------------------------------ batches
@dataclass(frozen=True)
class FaceExample:
    """One row: its number, the epoch that asks (None: evaluation), the RGB image, landmarks in pixels, and labels."""

    row: int
    epoch: int | None
    image: np.ndarray
    landmarks_px: np.ndarray | None
    aus: np.ndarray
    emotion: int


class FaceDataset(torch.utils.data.Dataset):
    """Rows of a split. A key is a row number, for evaluation, or (epoch, row), for training."""

    def __init__(self, rows: datasets.Dataset, labels: Labels, name: str):
        self.rows = rows.select_columns(["image", "landmarks", "file_name"])
        self.labels = labels
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> FaceExample:
        epoch, row = key if isinstance(key, tuple) else (None, key)
        content = self.rows[int(row)]
        name = f"Row {row} of {self.name} ({content['file_name']})"
        landmarks = content["landmarks"]
        return FaceExample(
            row=int(row),
            epoch=epoch,
            image=read_image(content["image"]["bytes"], name),
            landmarks_px=None if landmarks is None else np.asarray(landmarks, dtype=np.float32),
            aus=self.labels.aus[row],
            emotion=int(self.labels.emotion[row]),
        )


class FaceCollator:
    """Examples to a batch by name, see `MF2ForPreTraining.forward`.

    Training examples are augmented and carry texts; evaluation examples are neither, so that what is measured is what
    an image alone gives.
    """

    def __init__(
        self,
        image_processor: MF2ImageProcessor,
        captions: CaptionTable | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.image_processor = image_processor
        self.captions = captions
        self.augmentation = augmentation
        self.seed = seed

    def __call__(self, examples: Sequence[FaceExample]) -> dict[str, torch.Tensor]:
        batch = {
            "emotion_labels": torch.tensor([example.emotion for example in examples]),
            "au_labels": torch.from_numpy(np.stack([example.aus for example in examples])),
        }
        seeds = [row_seed(self.seed, example.epoch, example.row) for example in examples if example.epoch is not None]
        if seeds and self.captions:
            batch |= self.captions.batch(np.array([example.row for example in examples]), seeds)
        faces = self.image_processor(
            [example.image for example in examples],
            landmarks=[example.landmarks_px for example in examples],
            augment=self.augmentation if seeds else None,
            augment_seeds=seeds or None,
            input_data_format="channels_last",
        )
        return batch | {"pixel_values": faces["pixel_values"], "au_boxes": faces["au_boxes"]}


class EpochSampler(torch.utils.data.Sampler):
    """All rows in an order that (seed, epoch) decide, as (epoch, row) keys. The trainer sets `epoch`."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
        return ((epoch, int(row)) for row in order)
