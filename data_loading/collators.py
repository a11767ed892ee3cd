"""Makes batches from the rows of a split: the collator, which runs the image processor, and the sampler.

The random choices for a row (its augmentation and its caption) are a function of (seed, epoch, row), independent of
the number of workers and of restarts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mf2.data_loading.captions import CaptionTable
from mf2.data_loading.splits import FaceExample
from mf2.processing_mf2 import Augmentation, MF2ImageProcessor


def row_seed(seed: int, epoch: int, row: int) -> int:
    """The seed of all random choices for a row in an epoch."""
    return int(np.random.SeedSequence((seed, epoch, row)).generate_state(1, np.uint64)[0])


class FaceCollator:
    """Collates examples to a batch with the argument names of `MF2ForPreTraining.forward`.

    Training examples are augmented and have texts. Evaluation examples (without an epoch) have neither, so that the
    model is measured on images alone.

    Args:
        image_processor: the image processor of the model.
        captions: captions of the split; None for batches without texts.
        augmentation: augmentation of training images; None for none.
        seed: seed of all random choices.
        views: number of different views of a row, of which epochs use one after the other, the first not augmented;
            None for a new augmentation in every epoch.
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
        """Collate examples: `pixel_values`, `au_boxes`, labels and, in training, texts."""
        batch = {
            "emotion_labels": torch.tensor([example.emotion for example in examples]),
            "au_labels": torch.from_numpy(np.stack([example.aus for example in examples])),
        }
        if affect := [example.affect for example in examples if example.affect is not None]:
            batch["affect_labels"] = torch.from_numpy(np.stack(affect))
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
        """The seed of each row's augmentation; None for the view without augmentation."""
        epochs = [example.epoch for example in examples if example.epoch is not None]
        views = epochs if self.views is None else [epoch % self.views for epoch in epochs]
        if self.views is not None and views[0] == 0:
            return None  # all rows of a batch have the same epoch, and so the same view
        return [row_seed(self.seed, view, example.row) for view, example in zip(views, examples, strict=True)]


class EpochSampler(torch.utils.data.Sampler):
    """Samples all rows as keys (epoch, row), in an order given by (seed, epoch). The trainer sets `epoch`."""

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
