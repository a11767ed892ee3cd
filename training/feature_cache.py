"""A cache of the frozen tower's features, so that an epoch only computes the branches.

    features/<key>/
        key.json                           what the features depend on, in readable form
        images-<view>-<chunk>.safetensors  `vision_tokens` (rows, N, W), `region_features` (rows, A, R, ΣW_l),
                                           `region_places` (rows, A, 4) and, of the first view, `face_features`
                                           (rows, F) if there is a linear readout; for faces without augmentation the
                                           same as `mirrored_…`, of the mirror image, if `mirror_emotions` is set
        readout-<key>.safetensors          the readout that was fitted to them, see `readout_fit`

As in the cache of DFN's states, see `state_cache`, features are stored in chunks under a hash of everything that they
depend on. A fixed number of views per row replaces random augmentation; epochs cycle through them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from mf2.configuration_mf2 import CODE_VERSION
from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.collators import FaceCollator, row_seed
from mf2.data_loading.splits import Split
from mf2.modeling_mf2 import MF2Model
from mf2.tower_mf2 import mirror_faces
from mf2.training.arguments import PretrainArguments
from mf2.training.readout_fit import ReadoutFit, Targets, feature_importance, fit_key, fit_readout
from mf2.training.state_cache import ROWS_PER_CHUNK, KeyedRows, StatesStore, chunk_file, count_chunks, fill_stores

FEATURE_NAMES = ("vision_tokens", "region_features", "region_places", "readout_logits", "mirrored")
"""Inputs of the model that replace pictures."""
STORED_NAMES = {
    "tokens": "vision_tokens",
    "regions": "region_features",
    "places": "region_places",
    "face": "face_features",
}
"""Field of `SampledFeatures` -> name of the stored tensor."""
MIRRORED_PREFIX = "mirrored_"


class FeatureStore(StatesStore):
    """The feature cache of one split: its location, and how features are computed."""

    @property
    def has_shared_files(self) -> bool:
        """Always true, as features have no shared files."""
        return True

    def fill_shared_files(self, model: MF2Model) -> None:
        """Do nothing: branches and texts are not cached, as they are still trained."""

    def _chunk_states(
        self, model: MF2Model, view: int, chunk: int, batch_size: int, num_workers: int
    ) -> dict[str, torch.Tensor]:
        """Compute the features of a view of a chunk's rows, by name."""
        rows = range(chunk * ROWS_PER_CHUNK, min((chunk + 1) * ROWS_PER_CHUNK, len(self.split.rows)))
        keyed = KeyedRows(self.split.faces, [(view, row) for row in rows])
        au_ids = model.config.label_space.region_au_ids
        has_mirror = model.config.mirror_emotions and self.images.augmentation is None
        parts: dict[str, list[torch.Tensor]] = {}
        for batch in DataLoader(keyed, batch_size, collate_fn=self.images, num_workers=num_workers):
            pixel_values, au_boxes = batch["pixel_values"].to(model.device), batch["au_boxes"].to(model.device)
            features = {"": model.sample_vision(pixel_values, au_boxes)}
            if has_mirror:
                mirrored = mirror_faces(pixel_values, au_boxes, au_ids)
                features[MIRRORED_PREFIX] = model.sample_vision(*mirrored)
            for prefix, sampled in features.items():
                for attribute, name in STORED_NAMES.items():
                    values = getattr(sampled, attribute)
                    if values is not None and (view == 0 or attribute != "face"):
                        parts.setdefault(prefix + name, []).append(values.to("cpu", self.dtype))
        return {name: torch.cat(values) for name, values in parts.items()}


class FeatureRows(Dataset):
    """Rows of a split as cached features. Keys are as in `FaceDataset`; items are references for `collate_features`.

    Args:
        store: a complete store.
        captions: captions of the training split, or None.
        seed: random seed of the run.

    If `readout_logits` `(rows, A + E)` are set, rows without an epoch (for evaluation) include them; rows of an epoch
    (for training) do not. The same holds for stored features of mirror images and `mirrored_readout_logits`.
    """

    readout_logits: torch.Tensor | None = None
    mirrored_readout_logits: torch.Tensor | None = None

    def __init__(self, store: FeatureStore, captions: CaptionTable | None, seed: int):
        self.labels, self.captions, self.seed = store.split.labels, captions, seed
        chunks = range(count_chunks(len(store.split.rows)))
        self._views = [
            [load_file(chunk_file(store.folder, view, chunk)) for chunk in chunks] for view in range(store.num_views)
        ]

    def __len__(self) -> int:
        return len(self.labels.emotion)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple["FeatureRows", int | None, int]:
        epoch, row = key if isinstance(key, tuple) else (None, key)
        return self, epoch, int(row)

    def batch(self, epoch: int | None, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Features and labels of rows, and their texts if there is an epoch, as in training without the cache."""
        chunks = self._views[(epoch or 0) % len(self._views)]
        batch: dict[str, Any] = self._read(chunks, "", rows)
        if epoch is None:
            mirrored = self._read(chunks, MIRRORED_PREFIX, rows)
            for inputs, logits in ((batch, self.readout_logits), (mirrored, self.mirrored_readout_logits)):
                if logits is not None:
                    inputs["readout_logits"] = logits[rows]
            batch |= {"mirrored": mirrored} if mirrored else {}
        batch |= self.labels.batch(rows)
        if epoch is not None and self.captions is not None:
            batch |= self.captions.batch(rows, [row_seed(self.seed, epoch, int(row)) for row in rows])
        return batch

    def _read(
        self, chunks: Sequence[dict[str, torch.Tensor]], prefix: str, rows: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Stored features of some rows whose names start with the prefix, which is removed."""
        places = [(chunks[row // ROWS_PER_CHUNK], row % ROWS_PER_CHUNK) for row in rows.tolist()]
        names = [name for name in FEATURE_NAMES if prefix + name in chunks[0]]
        return {name: torch.stack([chunk[prefix + name][row] for chunk, row in places]).float() for name in names}

    @property
    def has_mirrors(self) -> bool:
        """Whether features of the mirror images are stored."""
        return any(name.startswith(MIRRORED_PREFIX) for name in self._views[0][0])

    def face_features(self, prefix: str = "") -> torch.Tensor:
        """`(rows, F)` float32 inputs of the linear readout, from the first view or its mirror image."""
        return torch.cat([chunk[f"{prefix}face_features"] for chunk in self._views[0]]).float()


def collate_features(items: Sequence[tuple[FeatureRows, int | None, int]]) -> dict[str, torch.Tensor]:
    """Collate items of one `FeatureRows` and one epoch."""
    rows, epoch, _ = items[0]
    return rows.batch(epoch, np.array([row for _, _, row in items]))


def hash_module(module: nn.Module) -> str:
    """SHA-256 of the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def cache_features(
    arguments: PretrainArguments,
    settings: TrainingArguments,
    model: MF2Model,
    collator: FaceCollator,
    train: Split,
    evaluation: Split,
) -> tuple[FeatureRows, FeatureRows]:
    """Return both splits as cached features; missing ones are computed.

    Raises:
        ValueError: the tower is trained, so that its features cannot be cached.
    """
    if not model.config.freeze_vision:
        raise ValueError(
            f"feature_views is {arguments.feature_views}, but the tower is trained (freeze_vision is false), so that "
            f"its features change; leave feature_views out or freeze the tower."
        )
    root, dtype = Path(arguments.output_dir, "features"), torch.float16
    config, augmentation = model.config, collator.augmentation
    facts = {
        "code": CODE_VERSION,
        "tower": hash_module(model.vision_model),
        "levels": [config.global_feature_level, *config.local_feature_levels],
        "grid": config.au_region_grid,
        "readout_grids": list(config.readout_grids),
        "au_ids": list(config.label_space.region_au_ids) if config.use_au_vl else [],
        "images": collator.image_processor.to_dict(),
    }
    plain = facts | ({"mirrors": True} if config.mirror_emotions else {})
    augmented = facts | {"seed": collator.seed, "augmentation": vars(augmentation)} if augmentation else plain
    views = (arguments.feature_views or 1) if augmentation else 1
    images = FaceCollator(collator.image_processor, None, augmentation, collator.seed, views)
    unaugmented = FaceCollator(collator.image_processor)
    stores = (
        FeatureStore(root, augmented, train, images, num_kept=0, dtype=dtype, num_views=views),
        FeatureStore(root, plain, evaluation, unaugmented, num_kept=0, dtype=dtype),
    )
    was_training = model.training
    model.eval().to(settings.device)
    fill_stores(stores, lambda: model, arguments, settings)
    model.train(was_training)
    rows = FeatureRows(stores[0], collator.captions, collator.seed), FeatureRows(stores[1], None, collator.seed)
    if config.readout_grids:
        add_readout(arguments, settings, model, rows, train, stores[0].folder)
    return rows


def add_readout(
    arguments: PretrainArguments,
    settings: TrainingArguments,
    model: MF2Model,
    rows: tuple[FeatureRows, FeatureRows],
    train: Split,
    folder: Path,
) -> None:
    """Fit the linear readout of a new model, or use the checkpoint's, and add its logits to the rows.

    The logits of training rows are from cross-validation over groups.
    """
    readout = model.readout.cpu()
    if arguments.model_name_or_path:
        rows[0].readout_logits = readout(rows[0].face_features())
    else:
        targets = Targets.from_labels(train.labels, len(model.config.emotions), arguments.balance_emotions)
        groups = train.groups
        file = folder / f"readout-{fit_key(targets, groups)}.safetensors"
        with settings.main_process_first(local=False, desc="readout"):
            if not file.is_file():
                fit_readout(rows[0].face_features(), targets, groups, feature_importance(readout)).save(file)
        fit = ReadoutFit.load(file)
        fit.copy_to(readout)
        rows[0].readout_logits = fit.held_out
    rows[1].readout_logits = readout(rows[1].face_features())
    if rows[1].has_mirrors:
        rows[1].mirrored_readout_logits = readout(rows[1].face_features(MIRRORED_PREFIX))
    readout.to(model.device)
