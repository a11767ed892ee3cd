"""A cache of the frozen model's states that DFN reads, so that adapters are trained without the model.

    states/<key>/
        key.json                           what the states depend on, in readable form
        spaces.safetensors                 each branch's frozen projections and temperature
        recognizers.safetensors            the model's recognisers, from which an adapter may be initialised
        texts-<hash>.safetensors           by branch `(texts, J, D)` of the distinct captions, and their numbers
        images-<view>-<chunk>.safetensors  by branch `(rows, K, J, D)`: pooled states of a view of the rows; also the
                                           logits of the base's readout, its features if the adapter reads them, and
                                           the positions of the AU regions

The key is a hash of everything that the states depend on (the model's weights and settings, the rows, the views'
randomness, …), and that of the texts a hash of their tokens, so that wrong states are never used. Chunks are written
atomically: an interrupted run computes only the missing chunks, and additional views only cost themselves. Files are
memory-mapped.

Symbols in shapes: B rows of a batch, K views of a branch (1, or one per AU region), J states kept, D width.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import TrainingArguments

from mf2.alignment_mf2 import split_floors
from mf2.branch_mf2 import SharedSpace
from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.collators import FaceCollator, row_seed
from mf2.data_loading.splits import Split
from mf2.modeling_mf2 import MF2Model, MF2Output
from mf2.peft_dfn import DFNSide, kept_layers
from mf2.recognition_mf2 import FACE, MIRRORED, PLACES, READOUT, MF2Recognizers, PooledTexts
from mf2.training.arguments import ScriptArguments
from mf2.utils.files import replacing, sha256_of_file, write_json

ROWS_PER_CHUNK = 1024
TEXTS_PER_PASS = 64
FORMAT_VERSION = 3
SPACES_NAME = "spaces.safetensors"
RECOGNIZERS_NAME = "recognizers.safetensors"
POOLED_NAMES = ("emo", "au", READOUT, FACE, PLACES, MIRRORED)
IMAGE_STATE_NAMES = tuple(f"{name}_states" for name in POOLED_NAMES)


def hash_weights(folder: Path) -> str:
    """SHA-256 of the names and contents of a checkpoint's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors; it is no MF² checkpoint.")
    lines = (f"{sha256_of_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------ writing
@dataclass
class StatesStore:
    """The state cache of one split: its location, and how states are computed.

    Args:
        root: folder of all caches.
        facts: JSON values that the states depend on, besides the rows.
        split: the rows.
        images: collates a view of the rows.
        num_kept: number of states kept per branch.
        dtype: dtype of the stored states.
        captions: captions of the rows; None for no text states.
        num_views: views per row.
        keeps_face: whether the features of the base's readout are stored.
    """

    root: Path
    facts: Mapping[str, Any]
    split: Split
    images: FaceCollator
    num_kept: int
    dtype: torch.dtype
    captions: CaptionTable | None = None
    num_views: int = 1
    keeps_face: bool = False

    @cached_property
    def key(self) -> dict[str, Any]:
        """Everything that the states depend on, except the number of views."""
        parts = self.split.description.get("parts", [self.split.description])
        return {
            "format": FORMAT_VERSION,
            **self.facts,
            "num_kept": self.num_kept,
            "dtype": str(self.dtype),
            "data": [[part["fingerprint"] or self.split.rows._fingerprint, part["rows"]] for part in parts],
            "split": self.split.description["split"],
            **({"face": True} if self.keeps_face else {}),
        }

    @property
    def folder(self) -> Path:
        """The folder, named by the start of the key's hash."""
        text = json.dumps(self.key, sort_keys=True, default=str)
        return self.root / hashlib.sha256(text.encode()).hexdigest()[:20]

    @cached_property
    def texts_file(self) -> Path | None:
        """The file of the text states; None without captions."""
        if self.captions is None:
            return None
        return self.folder / f"texts-{self.captions.fingerprint()[:20]}.safetensors"

    @property
    def is_complete(self) -> bool:
        """Whether all files exist."""
        return self.has_shared_files and not self._missing_chunks()

    @property
    def has_shared_files(self) -> bool:
        """Whether the files that belong to no chunk exist: the spaces, the recognisers and the texts."""
        has_texts = self.texts_file is None or self.texts_file.is_file()
        return has_texts and all((self.folder / name).is_file() for name in (SPACES_NAME, RECOGNIZERS_NAME))

    def open(self) -> "States":
        """Open the states for reading."""
        return States(self.folder, len(self.split.rows), self.num_views, self.texts_file)

    @torch.no_grad()
    def fill(
        self, model: MF2Model, batch_size: int, num_workers: int = 0, process_index: int = 0, num_processes: int = 1
    ) -> None:
        """Compute this process's share of the missing states; the first process also computes the texts.

        Args:
            model: frozen, in evaluation mode.
            batch_size: images per forward pass.
            num_workers: processes that load images.
            process_index, num_processes: of distributed training.
        """
        missing = self._missing_chunks()[process_index::num_processes]
        self.folder.mkdir(parents=True, exist_ok=True)
        if process_index == 0:
            write_json(self.folder / "key.json", json.loads(json.dumps(self.key, default=str)))
            self.fill_shared_files(model)
        description = f"states of {self.split.description['split']} rows"
        for view, chunk in tqdm(missing, desc=description, unit="chunk", disable=process_index > 0):
            _save(
                self._chunk_states(model, view, chunk, batch_size, num_workers), chunk_file(self.folder, view, chunk)
            )

    def fill_shared_files(self, model: MF2Model) -> None:
        """Write the files that belong to no chunk."""
        _save(shared_spaces(model), self.folder / SPACES_NAME)
        _save(model.recognizers.state_dict(), self.folder / RECOGNIZERS_NAME)
        if self.captions is not None and self.texts_file is not None and not self.texts_file.is_file():
            _save(self._text_states(model, self.captions), self.texts_file)

    def _missing_chunks(self) -> list[tuple[int, int]]:
        chunks = [(view, c) for view in range(self.num_views) for c in range(count_chunks(len(self.split.rows)))]
        return [chunk for chunk in chunks if not chunk_file(self.folder, *chunk).is_file()]

    def _text_states(self, model: MF2Model, captions: CaptionTable) -> dict[str, torch.Tensor]:
        """By branch, the states `(texts, J, D)` of the distinct texts and their numbers in the caption table."""
        tensors = {}
        for name, indexes in captions.used_indexes().items():
            parts = np.array_split(indexes, max(len(indexes) // TEXTS_PER_PASS, 1))
            progress = tqdm(parts, desc=f"states of {name} texts", unit="batch")
            tensors[f"{name}.states"] = torch.cat([self._pass_texts(model, captions, name, part) for part in progress])
            tensors[f"{name}.indexes"] = torch.from_numpy(indexes)
        return tensors

    def _pass_texts(self, model: MF2Model, captions: CaptionTable, branch: str, indexes: np.ndarray) -> torch.Tensor:
        """`(n, J, D)` states of texts, without communication, as the other processes wait."""
        ids, mask, _ = (tensor.to(model.device) for tensor in captions.table.pad(indexes))
        states = model.get_branch(branch).pool_text(ids, mask)
        return select_layers(states, self.num_kept).to("cpu", self.dtype)

    def _chunk_states(
        self, model: MF2Model, view: int, chunk: int, batch_size: int, num_workers: int
    ) -> dict[str, torch.Tensor]:
        """By branch, the states `(rows, K, J, D)` of a view of a chunk's rows."""
        rows = range(chunk * ROWS_PER_CHUNK, min((chunk + 1) * ROWS_PER_CHUNK, len(self.split.rows)))
        keyed = KeyedRows(self.split.faces, [(view, row) for row in rows])
        parts: dict[str, list[torch.Tensor]] = {}
        for batch in DataLoader(keyed, batch_size, collate_fn=self.images, num_workers=num_workers):
            inputs = {name: batch[name].to(model.device) for name in ("pixel_values", "au_boxes")}
            views = model.encode_branches(**inputs, au_ids=self.images.image_processor.au_ids)
            for name, states in views.pooled.items():
                if name == FACE and not self.keeps_face:
                    continue
                dtype = torch.float32 if name == PLACES else self.dtype  # float16 is too coarse for positions
                parts.setdefault(name, []).append(select_layers(states, self.num_kept).to("cpu", dtype))
        return {name: torch.cat(states) for name, states in parts.items()}


def fill_stores(
    stores: Sequence[StatesStore],
    load_model: Callable[[], MF2Model],
    arguments: ScriptArguments,
    settings: TrainingArguments,
) -> None:
    """Fill incomplete stores, each process its share; every process must call it.

    Args:
        load_model: returns the frozen model in evaluation mode on its device; only called if a store is incomplete.
    """
    missing = [store for store in stores if not store.is_complete]
    settings.distributed_state.wait_for_everyone()  # all processes check before any of them writes
    if missing:
        model = load_model()
    for store in missing:
        store.fill(
            model,
            arguments.per_device_eval_batch_size,
            arguments.dataloader_num_workers,
            settings.process_index,
            settings.world_size,
        )
    settings.distributed_state.wait_for_everyone()


class KeyedRows(Dataset):
    """A data set restricted to a list of its keys."""

    def __init__(self, rows: Dataset, keys: Sequence[tuple[int, int]]):
        self.rows, self.keys = rows, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        return self.rows[self.keys[index]]


def pool_states(model: MF2Model, batch: Mapping[str, torch.Tensor], num_kept: int) -> dict[str, torch.Tensor]:
    """All states that DFN reads of a batch: `…_states` of the images, `…_text_states` of the texts."""
    views = model.encode_branches(batch["pixel_values"], batch["au_boxes"])
    states = {f"{name}_states": select_layers(pooled, num_kept) for name, pooled in views.pooled.items()}
    for name, prefix in (("emo", ""), ("au", "au_")):
        text = (batch[f"{prefix}{part}"] for part in ("input_ids", "attention_mask", "caption_ids"))
        states[f"{name}_text_states"] = select_layers(model.pool_texts(name, *text).states, num_kept)
    return states


def select_layers(states: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Select the kept layers of `(…, J, D)` states."""
    return states[..., kept_layers(states.shape[-2], num_kept), :]


def shared_spaces(model: MF2Model) -> dict[str, torch.Tensor]:
    """`<branch>.<name>` -> parameters of the projections into the shared space of images and texts."""
    return {
        f"{name}.{key}": value.contiguous()
        for name, branch in model.branches.items()
        for key, value in branch.state_dict().items()
        if key.split(".")[0] in SharedSpace.PARTS
    }


def count_chunks(num_rows: int) -> int:
    """Number of chunks of a view."""
    return -(-num_rows // ROWS_PER_CHUNK)


def chunk_file(folder: Path, view: int, chunk: int) -> Path:
    """The file of a chunk of a view."""
    return folder / f"images-{view:03d}-{chunk:05d}.safetensors"


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    for leftover in file.parent.glob(f".{file.stem}.*{file.suffix}"):  # of an interrupted process
        leftover.unlink(missing_ok=True)
    with replacing(file) as partial:
        save_file(tensors, partial)


# ------------------------------------------------------------------------------------------------------------ reading
class FrozenSpace(SharedSpace):
    """A branch's projections and temperature without the branch."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        super().__init__()
        for name in ("vision_projection", "text_projection"):
            weight = tensors[f"{name}.weight"]
            with torch.device("meta"):
                linear = nn.Linear(weight.shape[1], weight.shape[0])
            setattr(self, name, linear)
        self.temperature = nn.Parameter(tensors["temperature"])
        self.load_state_dict(dict(tensors), assign=True)
        self.requires_grad_(False)


class States:
    """The states of a split, memory-mapped from their folder."""

    def __init__(self, folder: Path, num_rows: int, num_views: int, texts_file: Path | None):
        self.num_rows, self.num_views = num_rows, num_views
        self._chunks = [
            [load_file(chunk_file(folder, view, chunk)) for chunk in range(count_chunks(num_rows))]
            for view in range(self.num_views)
        ]
        self._texts = {} if texts_file is None else load_file(texts_file)
        self._spaces = load_file(folder / SPACES_NAME)
        self._recognizers = load_file(folder / RECOGNIZERS_NAME)

    def images(self, view: int, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """`emo_states` `(B, 1, J, D)`, `au_states` `(B, A, J, D)`, … of a view, in float32."""
        chunks = self._chunks[view]
        return {
            f"{name}_states": torch.stack(
                [chunks[row // ROWS_PER_CHUNK][name][row % ROWS_PER_CHUNK] for row in rows.tolist()]
            ).float()
            for name in chunks[0]
        }

    def texts(self, branch: str, indexes: np.ndarray) -> torch.Tensor:
        """`(…)` numbers of texts -> `(…, J, D)` states in float32; zeros for -1."""
        table, known = self._texts[f"{branch}.states"], self._texts[f"{branch}.indexes"].numpy()
        found = table[torch.from_numpy(np.searchsorted(known, np.maximum(indexes, known[0])))].float()
        return found * torch.from_numpy(indexes >= 0)[..., None, None]

    def load_recognizers(self, recognizers: MF2Recognizers) -> None:
        """Load the weights of recognisers that were built on the meta device."""
        recognizers.load_state_dict(self._recognizers, assign=True)

    def spaces(self) -> dict[str, FrozenSpace]:
        """The branches' shared spaces, by name."""
        names = dict.fromkeys(key.split(".", 1)[0] for key in self._spaces)
        return {
            name: FrozenSpace(
                {key.split(".", 1)[1]: value for key, value in self._spaces.items() if key.split(".", 1)[0] == name}
            )
            for name in names
        }


# ----------------------------------------------------------------------------------------------------------- training
class StateRows(Dataset):
    """Rows of a split as cached states. Keys are as in `FaceDataset`; items are references for `collate_states`.

    Args:
        states: states of the split.
        split: the rows.
        captions: captions of the training split, or None.
        seed: random seed of the run.
    """

    def __init__(self, states: States, split: Split, captions: CaptionTable | None, seed: int):
        self.states, self.labels, self.captions, self.seed = states, split.labels, captions, seed

    def __len__(self) -> int:
        return self.states.num_rows

    def __getitem__(self, key: int | tuple[int, int]) -> tuple["StateRows", int | None, int]:
        epoch, row = key if isinstance(key, tuple) else (None, key)
        return self, epoch, int(row)

    def batch(self, epoch: int | None, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """States and labels of rows, and their texts if there is an epoch, as in training without the cache."""
        batch = self.states.images((epoch or 0) % self.states.num_views, rows)
        batch |= self.labels.batch(rows)
        if epoch is not None and self.captions is not None:
            seeds = [row_seed(self.seed, epoch, int(row)) for row in rows]
            for name, indexes in self.captions.indexes(rows, seeds).items():
                grouped = indexes if indexes.ndim == 2 else indexes[:, None]
                batch[f"{name}_text_states"] = self.states.texts(name, grouped)
                batch[f"{name}_caption_ids"] = torch.from_numpy(self.captions.table.hashes(grouped))
                batch[f"{name}_text_valid"] = torch.from_numpy(grouped >= 0)
        return batch


def collate_states(items: Sequence[tuple[StateRows, int | None, int]]) -> dict[str, torch.Tensor]:
    """Collate items of one `StateRows` and one epoch."""
    rows, epoch, _ = items[0]
    return rows.batch(epoch, np.array([row for _, _, row in items]))


class StatesModel(nn.Module):
    """An adapter on cached states as a model for the Trainer, with the outputs and losses of the full model."""

    def __init__(self, side: DFNSide, spaces: Mapping[str, FrozenSpace], config: Any, base: MF2Recognizers):
        super().__init__()
        self.side = side
        self.base = base.requires_grad_(False)
        self.spaces = nn.ModuleDict(spaces)
        self.config = config

    def forward(
        self,
        emotion_labels: torch.Tensor | None = None,
        au_labels: torch.Tensor | None = None,
        affect_labels: torch.Tensor | None = None,
        **states: torch.Tensor,
    ) -> MF2Output:
        """`emo_states`, `au_states`, and with texts `…_text_states`, `…_caption_ids`, `…_text_valid`."""
        pooled = {name: states[f"{name}_states"] for name in POOLED_NAMES if f"{name}_states" in states}
        outputs = self.side(pooled, self.base)
        texts = {
            name: PooledTexts(*(states[f"{name}_{part}"] for part in ("text_states", "caption_ids", "text_valid")))
            for name in outputs.side_states
            if f"{name}_text_states" in states
        }
        branches = dict(self.spaces.items())
        labels = emotion_labels, au_labels
        losses, floors = split_floors(self.side.losses(outputs, *labels, texts, branches, affect_labels))
        return MF2Output(
            loss=self.side.weigh(losses),
            losses=losses,
            au_logits=outputs.au_logits,
            emotion_logits=outputs.emotion_logits,
            affect=outputs.affect,
            loss_floors=floors or None,
        )
