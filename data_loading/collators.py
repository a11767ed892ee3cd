"""From rows of a split to a batch: the collator that runs the image processor, and the order of the rows.

What is drawn at random for a row (its augmentation, which caption it shows) is a function of (seed, epoch, row) alone.
Neither the number of workers nor a restart changes it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.splits import FaceExample
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor


def row_seed(seed: int, epoch: int, row: int) -> int:
    """The seed of all that is drawn for a row in an epoch."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1, np.uint64)[0])


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
        """The batch of these examples: `pixel_values`, `au_boxes`, labels and, in training, texts."""
        batch = {
            "emotion_labels": torch.tensor([example.emotion for example in examples]),
            "au_labels": torch.from_numpy(np.stack([example.aus for example in examples])),
        }
        seeds = [row_seed(self.seed, example.epoch, example.row) for example in examples if example.epoch is not None]
        if seeds and self.captions:
            batch |= self.captions.batch(np.array([example.row for example in examples]), seeds)
        view_seeds = self._view_seeds(examples) if seeds and self.augmentation else None
        faces = self.image_processor.preprocess(
            [example.image for example in examples],
            landmarks=[example.landmarks_px for example in examples],
            augment=self.augmentation if view_seeds else None,
            augment_seeds=view_seeds,
            input_data_format="channels_last",
        )
        return batch | {"pixel_values": faces["pixel_values"], "au_boxes": faces["au_boxes"]}

    def _view_seeds(self, examples: Sequence[FaceExample]) -> list[int] | None:
        """What decides each row's augmentation; None for a view without."""
        epochs = [example.epoch for example in examples if example.epoch is not None]
        views = epochs if self.views is None else [epoch % self.views for epoch in epochs]
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
