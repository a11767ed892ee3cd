"""The linear readout: a regression from the features of a frozen tower to action units and emotions.

With a few thousand faces, a branch learns slowly, but a penalised regression on the features of a pre-trained tower
works well. The readout is that regression; it is fitted before training and then fixed. The recognisers are trained
without it, and their logits are averaged with its own: trained on its residuals on the same faces, they would overfit.
It is an addition to the paper: without `readout_grids` in the configuration there is none.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_mf2 import MF2Config
from .labels_mf2 import LabelSpace
from .regions_mf2 import nearest_au_indexes
from .tower_mf2 import VisionFeatures

NUM_CENTERS = 2


def describe_regions(regions: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The features of a region: the mean of the samples around each of its centres, and the positions of the centres.

    Args:
        regions: `(B, A, R, ΣW_l)`, the samples of the first centre before those of the second.
        places: `(B, A, 4)` x and y of the two centres, as fractions of the image.
    Returns:
        `(B, A, 2 · ΣW_l + 4)`.
    """
    means = regions.unflatten(2, (NUM_CENTERS, -1)).mean(3).flatten(2)
    return torch.cat([means, places.to(means.dtype)], dim=-1)


class FaceReadout(nn.Module):
    """Logits of a label space, linear in the features of a face: its maps, followed by its regions.

    The weights are buffers, so that they are no trainable parameters.

    Args:
        config: configuration with `readout_grids`.
        level_widths: widths of the feature levels.
        has_regions: whether there is a local branch with regions.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, config: MF2Config, level_widths: Sequence[int], has_regions: bool):
        super().__init__()
        space = config.label_space
        self.num_aus, self.num_outputs = len(space.au_ids), len(space.au_ids) + len(space.emotions)
        self.grids = list(config.readout_grids)
        self.region_au_ids = space.region_au_ids if has_regions else ()
        self.map_width = sum(width * grid**2 for width, grid in zip(level_widths, self.grids, strict=True))
        self.region_width = NUM_CENTERS * (sum(level_widths) + 2)
        width = self.map_width + len(self.region_au_ids) * self.region_width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("weight", torch.zeros(self.num_outputs, width))
        self.register_buffer("bias", torch.zeros(self.num_outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, F)` -> `(B, A + E)` logits, the AUs before the emotions, in fp32."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float() - self.mean.float(), self.weight.float(), self.bias.float())

    def describe(
        self,
        vision: VisionFeatures,
        regions: torch.Tensor | None,
        places: torch.Tensor | None,
        au_ids: Sequence[int],
    ) -> torch.Tensor:
        """The features of faces, `(B, F)`: every map averaged to its grid, and the readout's regions.

        Args:
            vision: the tower's features.
            regions, places: As in `describe_regions`, for `au_ids`; None without a local branch.
            au_ids: the AUs of the regions; an AU of the readout that is not among them is replaced by the nearest.
        """
        maps = zip(vision.maps, self.grids, strict=True)
        parts = [F.adaptive_avg_pool2d(of.float(), grid).flatten(1) for of, grid in maps]
        if regions is not None and places is not None:
            described = describe_regions(regions.float(), places)
            if tuple(au_ids) != tuple(self.region_au_ids):
                described = described[:, nearest_au_indexes(self.region_au_ids, tuple(au_ids))]
            parts.append(described.flatten(1))
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def resized(self, old: LabelSpace, config: MF2Config, level_widths: Sequence[int]) -> "FaceReadout":
        """The readout for the label space of `config`, with the weights of the AUs and emotions in both label spaces.

        New AUs and emotions have zero weights, and so have new regions.
        """
        new, space = FaceReadout(config, level_widths, bool(self.region_au_ids)), config.label_space
        new.to(self.weight)
        columns = [slice(0, self.map_width)] * 2, *self._shared_columns(new.region_au_ids)
        names = [[*of.au_ids, *of.emotions] for of in (space, old)]
        for target, source in columns:
            new.mean[target] = self.mean[source]
        for row, name in enumerate(names[0]):
            if name in names[1]:
                old_row = names[1].index(name)
                new.bias[row] = self.bias[old_row]
                for target, source in columns:
                    new.weight[row, target] = self.weight[old_row, source]
        return new

    def _shared_columns(self, new_au_ids: Sequence[int]) -> list[tuple[slice, slice]]:
        """The columns of common regions in the new features, and in these."""

        def region_columns(index: int) -> slice:
            start = self.map_width + index * self.region_width
            return slice(start, start + self.region_width)

        common = [au_id for au_id in new_au_ids if au_id in self.region_au_ids]
        return [
            (region_columns(new_au_ids.index(au_id)), region_columns(self.region_au_ids.index(au_id)))
            for au_id in common
        ]
