"""HSEmotion: EfficientNet-B0 with a linear layer and class-weighted cross-entropy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...alignment_mf2 import mean_over_batch
from ...labels_mf2 import EMOTION_UNLABELLED
from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, SystemOutput, Targets

TOWER = {
    "model_type": "timm_wrapper",
    "architecture": "tf_efficientnet_b0",
    "num_classes": 0,
    "do_pooling": False,
}
TOWERS = ("own", "shared")
"""EfficientNet-B0 as published, or the tower that the configuration has for all systems."""


class System(BaselineSystem):
    """A linear layer on the W pooled features of the last map: `(W + 1) · E` parameters.

    Action units are recognised by a linear probe on detached features, `(W + 1) · A`, as in the author's entries to
    the ABAW competitions, which fit a classifier of AUs on frozen features.
    """

    about = About(
        title="HSEmotion",
        citation="A. V. Savchenko, L. V. Savchenko, I. Makarov, Classifying emotions and engagement in online "
        "learning based on a single facial expression recognition neural network, IEEE Transactions on Affective "
        "Computing 13(4), 2022; the loss is that of A. V. Savchenko, SISY 2021.",
        deviations=(
            "The backbone is pre-trained only where --init_vision says so, and then on what that checkpoint was; the "
            "published one was pre-trained on VGGFace2 and trained on AffectNet.",
            "AdamW and the course of the other rows; published: Adam with sharpness-aware minimisation.",
            "With the option `tower` shared, as in the tables, it has the tower of the other systems.",
            "Action units are read by a linear probe beside it.",
        ),
        tables=("III",),
    )
    defaults = {"class_weights": None, "tower": "own"}
    fields = {
        "vision_config": TOWER,
        "freeze_vision": False,
        "global_feature_level": -1,
        "local_feature_levels": [-1],
    }

    variants = {"III": {"tower": "shared"}}

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        if config.options["tower"] not in TOWERS:
            raise ValueError(f"tower is {config.options['tower']!r}; choose one of {', '.join(TOWERS)}.")
        self.emotion_head = nn.Linear(widths[0], len(config.emotions))
        self.au_head = nn.Linear(widths[0], len(config.au_ids))

    @classmethod
    def required_fields(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """EfficientNet-B0 for `tower="own"`; nothing for `shared`, the tower of the configuration."""
        return {} if options.get("tower") == "shared" else dict(cls.fields)

    @classmethod
    def measure(cls, au_labels: np.ndarray, emotion_labels: np.ndarray, num_emotions: int) -> dict[str, Any]:
        """`class_weights`: count of the most frequent class over the count of each class; 1 without rows."""
        counts = np.bincount(emotion_labels[emotion_labels >= 0], minlength=num_emotions)
        return {"class_weights": np.where(counts > 0, counts.max() / np.maximum(counts, 1), 1.0).tolist()}

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        face = vision.maps[0].mean((2, 3))
        return SystemOutput(self.au_head(face.detach()), self.emotion_head(face))

    def losses(self, outputs: SystemOutput, targets: Targets) -> dict[str, torch.Tensor]:
        """`-log softmax(z)_y · max_c N_c / N_y` (SISY 2021), as a weighted mean."""
        losses = super().losses(outputs, targets)
        weights = self.config.options["class_weights"]
        labels, logits = targets.emotion_labels, outputs.emotion_logits
        if weights is None or labels is None or logits is None or "emotion" not in losses:
            return losses
        weight = logits.new_tensor(weights, dtype=torch.float32)
        total = F.cross_entropy(logits.float(), labels, weight, ignore_index=EMOTION_UNLABELLED, reduction="sum")
        share = torch.where(labels == EMOTION_UNLABELLED, 0.0, weight[labels.clamp(min=0)])
        losses["emotion"] = mean_over_batch(total, share.sum())
        return losses
