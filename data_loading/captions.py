"""Tokenised captions of a split; each distinct text is stored once."""

import hashlib
from collections.abc import Sequence

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.splits import Labels
from mf2.dataset_tools.captions import inactive_au_sentence, parse_au_caption

CAPTION_PROMPTS = {"emotion": "emotion:", "key_au": "key action units:"}
"""Prefix of a caption of the global branch if it learns both kinds (`emo_text="random"`)."""


def caption_hash(text: str) -> int:
    """A signed 64-bit hash of a text, equal on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def training_texts(rows: datasets.Dataset) -> list[str]:
    """The distinct captions of a split, on which a vocabulary is trained."""
    columns = ("caption_emotion", "caption_key_au", "caption_au")
    return sorted({text for column in columns for text in rows[column] if text})


class TokenTable:
    """Texts as token ids; each distinct text is stored once. Index -1, the last row, is the empty text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._indexes: dict[tuple[str, int], int] = {}
        self._sequences: list[list[int]] = []
        self._hashes: list[int] = []
        self.num_cut = 0

    def add(self, texts: Sequence[str | None], max_length: int) -> np.ndarray:
        """Add texts, truncated to `max_length` tokens with `[CLS]` and `[SEP]`.

        Returns:
            `(len(texts),)` their indexes; -1 for None.
        """
        new = [text for text in dict.fromkeys(texts) if text and (text, max_length) not in self._indexes]
        if new:
            for text, ids in zip(new, self._tokenizer(new, verbose=False)["input_ids"], strict=True):
                if len(ids) > max_length:
                    ids = [*ids[: max_length - 1], ids[-1]]
                    self.num_cut += 1
                self._indexes[text, max_length] = len(self._sequences)
                self._sequences.append(ids)
                self._hashes.append(caption_hash(text))
        return np.array([self._indexes[text, max_length] if text else -1 for text in texts], dtype=np.int64)

    def freeze(self) -> None:
        """Pack the texts into arrays, as `pad` needs them; no text can be added afterwards."""
        self._lengths = np.array([len(ids) for ids in self._sequences] + [0])
        self._ids = np.full((len(self._lengths), self._lengths.max()), self._tokenizer.pad_token_id, dtype=np.int32)
        for row, ids in enumerate(self._sequences):
            self._ids[row, : len(ids)] = ids
        self._packed_hashes = np.array([*self._hashes, 0], dtype=np.int64)
        del self._sequences, self._hashes, self._indexes

    def pad(self, indexes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids and mask `(…, T)`, padded to the longest text, and caption ids `(…)`; all int64."""
        lengths = self._lengths[indexes]
        width = max(int(lengths.max()), 1)
        mask = np.arange(width) < lengths[..., None]
        ids = self._ids[indexes, :width].astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(self.hashes(indexes))

    def hashes(self, indexes: np.ndarray) -> np.ndarray:
        """Caption ids `(…)`, int64; equal texts have equal ids."""
        return self._packed_hashes[indexes]


class CaptionTable:
    """The tokenised captions of a split for both branches of the model.

    The global branch has one text per image; the local branch has the AU caption or, with `au_text_mode="per_au"`, one
    sentence per AU. A branch without any text in the split is left out of the batches.

    Args:
        rows: a split.
        labels: its labels; the sentence of an AU is that in the caption if the AU is active, the fixed "not active"
            sentence if it is inactive, and none if it is unlabelled.
        config: decides which texts are used, and their lengths.
        tokenizer: tokenizer of the model.
        au_ids: AUs of the labels; those of `config` by default.
        share: fraction of the rows in a batch that have texts, chosen by their seeds.
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
            active_sentences = parse_au_caption(caption) if caption else {}
            for au_id, label, inactive_sentence in zip(self._au_ids, active, inactive, strict=True):
                sentences.append({1: active_sentences.get(au_id), 0: inactive_sentence}.get(int(label)))
        return self.table.add(sentences, config.au_sentence_length).reshape(labels.aus.shape)

    def indexes(self, rows: np.ndarray, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """Indexes in `table` of the texts of each branch: `emo` `(B,)` and `au` `(B,)` or `(B, A)`; -1 is no text.

        If a row has captions of both kinds, its seed chooses one.
        """
        indexes = {}
        if self._global:
            indexes["emo"] = np.array([self._choose(row, seed) for row, seed in zip(rows, seeds, strict=True)])
        if self._local is not None:
            indexes["au"] = self._local[rows]
        without_text = np.array([np.random.default_rng(seed).random() for seed in seeds]) >= self._share
        return {
            branch: np.where(without_text.reshape(-1, *[1] * (values.ndim - 1)), -1, values)
            for branch, values in indexes.items()
        }

    def used_indexes(self) -> dict[str, np.ndarray]:
        """Branch -> the sorted indexes in `table` of its texts, for branches with texts."""
        parts = {"emo": self._global, "au": [] if self._local is None else [self._local]}
        used = {
            branch: np.unique(np.concatenate([part.ravel() for part in arrays]))
            for branch, arrays in parts.items()
            if arrays
        }
        return {branch: indexes[indexes >= 0] for branch, indexes in used.items()}

    def fingerprint(self) -> str:
        """SHA-256 over `used_indexes` and the tokens of their texts."""
        digest = hashlib.sha256()
        for branch, indexes in self.used_indexes().items():
            ids, mask, _ = self.table.pad(indexes)
            digest.update(branch.encode())
            for part in (indexes, ids.numpy(), mask.numpy()):
                digest.update(part.tobytes())
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        """The text tensors of a batch: `input_ids`, `attention_mask`, `caption_ids`, and those with prefix `au_`."""
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
    """The token ids of the prompts, for `MF2Config.caption_prompt_ids`; None if captions have no prompts."""
    if emo_text != "random":
        return None
    return {kind: tokenizer(text, add_special_tokens=False)["input_ids"] for kind, text in CAPTION_PROMPTS.items()}
