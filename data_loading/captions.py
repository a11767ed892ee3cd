"""The captions of a split as token ids, each distinct text once."""

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
"""What opens a caption of the global branch where it learns both kinds (`emo_text="random"`)."""


def caption_hash(text: str) -> int:
    """A signed 64-bit number that is the same for the same text, everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


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
            digest.update(branch.encode())
            for part in (indexes, ids.numpy(), mask.numpy()):
                digest.update(part.tobytes())
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
