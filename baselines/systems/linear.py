"""Linear heads on the pooled maps of the tower: the row that keeps all others honest."""

from collections.abc import Sequence

import torch
from torch import nn

from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, Seen


class System(BaselineSystem):
    """Every level that MF² would read is averaged over the face; one linear layer an output reads them side by side.

    `(ΣW_l + 1) · (A + E)` parameters.
    """

    about = About(
        title="linear heads",
        citation="A plain baseline of this package: global average pooling and a linear layer (Lin et al., Network in "
        "Network, ICLR 2014, section 3.2).",
        tables=("II", "III"),
    )
    defaults = {"dropout": 0.0}

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        space = config.label_space
        self.dropout = nn.Dropout(config.options["dropout"])
        self.au_head = nn.Linear(sum(widths), len(space.au_ids)) if space.au_ids else None
        self.emotion_head = nn.Linear(sum(widths), len(space.emotions)) if space.emotions else None

    def forward(self, vision: VisionFeatures) -> Seen:
        """Logits from the mean of each map, `(B, W)`, side by side."""
        face = self.dropout(torch.cat([level.mean((2, 3)) for level in vision.maps], dim=1))
        return Seen(
            None if self.au_head is None else self.au_head(face),
            None if self.emotion_head is None else self.emotion_head(face),
        )
