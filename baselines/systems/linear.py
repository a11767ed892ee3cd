"""Linear heads on the pooled feature maps of the tower, the simplest baseline."""

from collections.abc import Sequence

import torch
from torch import nn

from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, SystemOutput


class System(BaselineSystem):
    """Global average pooling of all levels that MF² uses, concatenated, and one linear layer per task.

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

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        """Compute logits from the concatenated means of the maps, `(B, ΣW_l)`."""
        face = self.dropout(torch.cat([level.mean((2, 3)) for level in vision.maps], dim=1))
        return SystemOutput(
            None if self.au_head is None else self.au_head(face),
            None if self.emotion_head is None else self.emotion_head(face),
        )
