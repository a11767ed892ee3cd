"""From an MFA split to batches: rows, tokenised captions, and the collator that runs the image processor.

What is drawn at random for a row (its augmentation, which caption it shows) is a function of (seed, epoch, row) alone.
Neither the number of workers nor a restart changes it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedTokenizerBase

from mf2.configuration_mf2 import MF2Config
from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption
from mf2.dataset_tools.schema import au_columns, dataset_fingerprint, load_mfa, read_manifest
from mf2.labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED, EMOTIONS, LabelSpace
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor, read_image

CAPTION_PROMPTS = {"emotion": "emotion:", "key_au": "key action units:"}
"""What opens a caption of the global branch where it learns both kinds (`emo_text="random"`)."""

KEPT_COLUMNS = (
    *("image", "file_name", "dataset", "video_id", "group_id", "frame", "landmarks"),
    *("caption_emotion", "caption_au", "caption_key_au"),
)
"""What of a row is used beside its labels."""

POS_WEIGHT_BOUNDS = (0.1, 10.0)
"""Active-against-not weights stay inside: a handful of active rows should not rule the AU loss."""


# ------------------------------------------------------------------------------------------------------------ loading
def load_rows(path: str, split: str, max_rows: int | None, au_ids: Sequence[int] | None) -> datasets.Dataset:
    """A split of a data set, checked against the schema; `max_rows` keeps that many, evenly spaced."""
    rows = load_mfa(path, split, au_ids=au_ids)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if max_rows is not None and max_rows < len(rows):
        rows = rows.select(spaced_rows(len(rows), max_rows))
    return rows


def spaced_rows(num_rows: int, num_chosen: int) -> np.ndarray:
    """At most `num_chosen` of `num_rows` row numbers, evenly spaced."""
    return np.linspace(0, num_rows - 1, min(num_chosen, num_rows)).round().astype(int)


def find_label_space(paths: Sequence[str], split: str, max_rows: int | None = None) -> LabelSpace:
    """What a split of data sets labels together: each AU with a label, and each emotion that occurs."""
    parts = [load_rows(path, split, max_rows, au_ids=None) for path in paths]
    columns = [name for rows in parts for name in rows.column_names if name.removeprefix("AU").isdigit()]
    labelled = {int(name[2:]) for name in columns for rows in parts if _is_labelled(rows, name)}
    emotions: list[str] = []
    for rows in parts:
        present = set(rows["emotion"])
        emotions += [name for index, name in enumerate(rows.features["emotion"].names) if index in present]
    return LabelSpace(tuple(sorted(labelled)), tuple(dict.fromkeys(emotions)))


def _is_labelled(rows: datasets.Dataset, column: str) -> bool:
    return column in rows.column_names and bool((np.asarray(rows[column]) != AU_UNLABELLED).any())


def adopt_label_space(rows: datasets.Dataset, label_space: LabelSpace) -> datasets.Dataset:
    """The rows with the AU columns and the emotion names of a label space; what it does not know is unlabelled."""
    names = rows.features["emotion"].names
    index_of = {i: label_space.emotions.index(name) for i, name in enumerate(names) if name in label_space.emotions}
    emotions = [index_of.get(value) for value in rows["emotion"]]
    labels = {
        column: np.asarray(rows[column], dtype=np.int8)
        if column in rows.column_names
        else np.full(len(rows), AU_UNLABELLED, np.int8)
        for column in au_columns(label_space.au_ids)
    }
    rows = rows.select_columns([name for name in KEPT_COLUMNS if name in rows.column_names])
    feature = datasets.ClassLabel(names=list(label_space.emotions or EMOTIONS))  # it must have names, used or not
    rows = rows.add_column("emotion", emotions, feature=feature)
    for column, values in labels.items():
        rows = rows.add_column(column, values)
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


def _describe_together(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One description of several splits; a licence that is not shared is `other`."""
    licenses, fingerprints = ({entry[name] for entry in described} for name in ("license", "fingerprint"))
    return {
        "name": " + ".join(entry["name"] for entry in described),
        "split": described[0]["split"],
        "license": licenses.pop() if len(licenses) == 1 else "other",
        "synthetic": all(entry["synthetic"] for entry in described),
        "fingerprint": None if None in fingerprints else "+".join(sorted(fingerprints)),
        "rows": sum(entry["rows"] for entry in described),
        "videos": sum(entry["videos"] for entry in described),
        "emotion_ceiling": None,
        "parts": list(described),
    }


@dataclass(frozen=True)
class Labels:
    """The labels of a split: `aus` (N, A) 1 / 0 / -1 and `emotion` (N,), -100 unlabelled; both int64."""

    aus: np.ndarray
    emotion: np.ndarray

    @classmethod
    def from_rows(cls, rows: datasets.Dataset, au_ids: Sequence[int]) -> "Labels":
        emotion = [EMOTION_UNLABELLED if value is None else value for value in rows["emotion"]]
        columns = [np.asarray(rows[column], dtype=np.int64) for column in au_columns(au_ids)]
        aus = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.int64)
        return cls(aus, np.asarray(emotion, dtype=np.int64))

    def au_pos_weight(self) -> list[float]:
        """Not-active over active counts of each AU, within `POS_WEIGHT_BOUNDS`; 1 for an AU without a label."""
        active, inactive = (self.aus == 1).sum(0), (self.aus == 0).sum(0)
        weights = np.clip(inactive / np.maximum(active, 1), *POS_WEIGHT_BOUNDS)
        return np.where(active + inactive > 0, weights, 1.0).tolist()

    def emotion_logit_shift(self, num_emotions: int, strength: float) -> list[float]:
        """`strength` times the log of each emotion's share of the labelled rows; one that no row has counts as one."""
        counts = np.bincount(self.emotion[self.emotion >= 0], minlength=num_emotions).clip(min=1)
        return (strength * np.log(counts / counts.sum())).tolist()

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

    @classmethod
    def join(cls, paths: Sequence[str], split: str, max_rows: int | None, label_space: LabelSpace) -> "Split":
        """The split of several data sets as one, in a label space of its own: what one does not label is masked.

        Args:
            max_rows: of each data set.
        Raises:
            ValueError: no row labels anything of the label space; else the errors of `load_mfa`.
        """
        parts = [load_rows(path, split, max_rows, au_ids=None) for path in paths]
        described = [describe_rows(path, split, rows) for path, rows in zip(paths, parts, strict=True)]
        rows = datasets.concatenate_datasets([adopt_label_space(part, label_space) for part in parts])
        labels = Labels.from_rows(rows, label_space.au_ids)
        if (labels.aus == AU_UNLABELLED).all() and (labels.emotion == EMOTION_UNLABELLED).all():
            wanted = ", ".join((*label_space.au_codes, *label_space.emotions)) or "any AU or emotion"
            raise ValueError(f"{', '.join(paths)} ({split}): no row labels {wanted}.")
        return cls(rows, labels, described[0] if len(described) == 1 else _describe_together(described))

    def with_shuffled_captions(self, seed: int) -> "Split":
        """The rows with each other's captions, and the labels that these were written for: nothing to learn from."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return replace(
            self, rows=self.rows.select(order), labels=Labels(self.labels.aus[order], self.labels.emotion[order])
        )

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
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(self.hashes(indexes))

    def hashes(self, indexes: np.ndarray) -> np.ndarray:
        """Caption ids `(…)`, int64: equal where texts are."""
        return self._packed_hashes[indexes]


class CaptionTable:
    """The captions of a split as the model reads them: one text an image for the global branch, and for the local one
    the AU caption or, with `au_text_mode="per_au"`, one sentence an AU. A branch for which no row has a text has none.

    Args:
        rows: a split.
        labels: its labels; an AU's sentence is the caption's where the AU is active, the fixed "not active" one where
            it is not, and none where it is unlabelled.
        config: which texts, and their lengths.
        tokenizer: of the text side.
        au_ids: of the labels; those of `config` by default.
        share: of the rows of a batch, those that show their texts; their seeds decide.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        labels: Labels,
        config: MF2Config,
        tokenizer: PreTrainedTokenizerBase,
        au_ids: Sequence[int] | None = None,
        share: float = 1.0,
    ):
        self._share = share
        self._au_ids = config.au_ids if au_ids is None else au_ids
        self.table = TokenTable(tokenizer)
        self._global: list[np.ndarray] = []  # per kind, (N,)
        self._local: np.ndarray | None = None  # (N,) or (N, A)
        if config.use_emo_vl:
            self._global = [self._add_global(rows, kind, config) for kind in self._kinds(config)]
        if config.use_au_vl and config.au_text_mode == "caption":
            self._local = self.table.add(list(rows["caption_au"]), config.au_text_length)
        elif config.use_au_vl and len(self._au_ids):
            self._local = self._add_sentences(rows, labels, config)
        self._global = [indexes for indexes in self._global if (indexes >= 0).any()]
        if self._local is not None and not (self._local >= 0).any():
            self._local = None
        self.num_cut = self.table.num_cut
        self.table.freeze()

    @staticmethod
    def _kinds(config: MF2Config) -> Sequence[str]:
        return tuple(CAPTION_PROMPTS) if config.emo_text == "random" else (config.emo_text,)

    def _add_global(self, rows: datasets.Dataset, kind: str, config: MF2Config) -> np.ndarray:
        prompt = f"{CAPTION_PROMPTS[kind]} " if config.emo_text == "random" else ""
        texts = [prompt + text if text else None for text in rows[f"caption_{kind}"]]
        return self.table.add(texts, getattr(config, f"{kind}_text_length"))

    def _add_sentences(self, rows: datasets.Dataset, labels: Labels, config: MF2Config) -> np.ndarray:
        inactive = [inactive_au_sentence(au_id) for au_id in self._au_ids]
        sentences: list[str | None] = []
        for caption, active in zip(rows["caption_au"], labels.aus, strict=True):
            written = parse_au_caption(caption) if caption else {}
            for au_id, label, fixed in zip(self._au_ids, active, inactive, strict=True):
                sentences.append({1: written.get(au_id), 0: fixed}.get(int(label)))
        return self.table.add(sentences, config.au_sentence_length).reshape(labels.aus.shape)

    def indexes(self, rows: np.ndarray, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """Which text of `table` each branch reads, `emo` `(B,)` and `au` `(B,)` or `(B, A)`; -1 is none.

        Where a row has captions of both kinds, its seed chooses.
        """
        found = {}
        if self._global:
            found["emo"] = np.array([self._choose(row, seed) for row, seed in zip(rows, seeds, strict=True)])
        if self._local is not None:
            found["au"] = self._local[rows]
        is_silent = np.array([np.random.default_rng(seed).random() for seed in seeds]) >= self._share
        return {name: np.where(is_silent.reshape(-1, *[1] * (of.ndim - 1)), -1, of) for name, of in found.items()}

    def used_indexes(self) -> dict[str, np.ndarray]:
        """All texts of `table` that a branch may read, sorted; of branches that read any."""
        parts = {"emo": self._global, "au": [] if self._local is None else [self._local]}
        used = {branch: np.unique(np.concatenate([part.ravel() for part in of])) for branch, of in parts.items() if of}
        return {branch: indexes[indexes >= 0] for branch, indexes in used.items()}

    def fingerprint(self) -> str:
        """A sha256 over the tokens of `used_indexes`: equal where the same texts have the same numbers."""
        digest = hashlib.sha256()
        for branch, indexes in self.used_indexes().items():
            ids, mask, _ = self.table.pad(indexes)
            for part in (branch.encode(), indexes, ids.numpy(), mask.numpy()):
                digest.update(part)
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        """The text part of a batch."""
        batch: dict[str, torch.Tensor] = {}
        for branch, indexes in self.indexes(rows, seeds).items():
            prefix = "au_" if branch == "au" else ""
            names = (f"{prefix}{name}" for name in ("input_ids", "attention_mask", "caption_ids"))
            batch |= dict(zip(names, self.table.pad(indexes), strict=True))
        return batch

    def _choose(self, row: int, seed: int) -> int:
        present = [index[row] for index in self._global if index[row] >= 0] or [-1]
        return present[seed % len(present)]


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
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[FaceExample]:
        """The examples of a batch, read in one go, as a DataLoader asks for them."""
        pairs = [key if isinstance(key, tuple) else (None, key) for key in keys]
        contents = self.rows[[int(row) for _, row in pairs]]
        columns = (contents[name] for name in ("image", "landmarks", "file_name"))
        return [self._example(*pair, *values) for pair, *values in zip(pairs, *columns, strict=True)]

    def _example(
        self, epoch: int | None, row: int, image: dict[str, Any], landmarks: ArrayLike | None, file_name: str
    ) -> FaceExample:
        return FaceExample(
            row=int(row),
            epoch=epoch,
            image=read_image(image["bytes"], f"Row {row} of {self.name} ({file_name})"),
            landmarks_px=None if landmarks is None else np.asarray(landmarks, dtype=np.float32),
            aus=self.labels.aus[row],
            emotion=int(self.labels.emotion[row]),
        )


class FaceCollator:
    """Examples to a batch by name, see `MF2ForPreTraining.forward`.

    Training examples are augmented and carry texts; evaluation examples are neither, so that what is measured is what
    an image alone gives. With a number of `views`, epochs take turns in showing that many views of a row, the first of
    which is not augmented.
    """

    def __init__(
        self,
        image_processor: MF2ImageProcessor,
        captions: CaptionTable | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        views: int | None = None,
    ):
        self.image_processor = image_processor
        self.captions = captions
        self.augmentation = augmentation
        self.seed = seed
        self.views = views

    def __call__(self, examples: Sequence[FaceExample]) -> dict[str, torch.Tensor]:
        batch = {
            "emotion_labels": torch.tensor([example.emotion for example in examples]),
            "au_labels": torch.from_numpy(np.stack([example.aus for example in examples])),
        }
        seeds = [row_seed(self.seed, example.epoch, example.row) for example in examples if example.epoch is not None]
        if seeds and self.captions:
            batch |= self.captions.batch(np.array([example.row for example in examples]), seeds)
        view_seeds = self._view_seeds(examples) if seeds and self.augmentation else None
        faces = self.image_processor(
            [example.image for example in examples],
            landmarks=[example.landmarks_px for example in examples],
            augment=self.augmentation if view_seeds else None,
            augment_seeds=view_seeds,
            input_data_format="channels_last",
        )
        return batch | {"pixel_values": faces["pixel_values"], "au_boxes": faces["au_boxes"]}

    def _view_seeds(self, examples: Sequence[FaceExample]) -> list[int] | None:
        """What decides each row's augmentation; None for a view without."""
        views = [example.epoch if self.views is None else example.epoch % self.views for example in examples]
        if self.views is not None and views[0] == 0:
            return None  # a batch lies within an epoch, so all of it shows the same view
        return [row_seed(self.seed, view, example.row) for view, example in zip(views, examples, strict=True)]


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
