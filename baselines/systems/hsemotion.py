"""HSEmotion as a row that is trained: EfficientNet-B0 with a linear layer and cross-entropy by class frequency."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...alignment_mf2 import mean_over_batch
from ...labels_mf2 import EMOTION_UNLABELLED
from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, Seen, Targets

TOWER = {
    "model_type": "timm_wrapper",
    "architecture": "tf_efficientnet_b0",
    "num_classes": 0,
    "do_pooling": False,
}


class System(BaselineSystem):
    """The pooled features of the last map, W wide, and a linear layer: `(W + 1) · E` parameters.

    Action units have a linear layer, too, `(W + 1) · A`, which trains nothing but itself: the author's entries to the
    ABAW competitions fit a classifier of AUs to frozen features in the same way.
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
            "Action units are read by a linear probe beside it.",
        ),
        tables=("III",),
    )
    defaults = {"class_weights": None}
    fields = {
        "vision_config": TOWER,
        "freeze_vision": False,
        "global_feature_level": -1,
        "local_feature_levels": [-1],
    }

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        self.emotion_head = nn.Linear(widths[0], len(config.emotions))
        self.au_head = nn.Linear(widths[0], len(config.au_ids))

    @classmethod
    def measure(cls, au_labels: np.ndarray, emotion_labels: np.ndarray, num_emotions: int) -> dict[str, Any]:
        """`class_weights`: the count of the most frequent class over that of each; a class without a row has 1."""
        counts = np.bincount(emotion_labels[emotion_labels >= 0], minlength=num_emotions)
        return {"class_weights": np.where(counts > 0, counts.max() / np.maximum(counts, 1), 1.0).tolist()}

    def forward(self, vision: VisionFeatures) -> Seen:
        face = vision.maps[0].mean((2, 3))
        return Seen(self.au_head(face.detach()), self.emotion_head(face))

    def losses(self, seen: Seen, targets: Targets) -> dict[str, torch.Tensor]:
        """`-log softmax(z)_y · max_c N_c / N_y` (SISY 2021), as a weighted mean."""
        losses = super().losses(seen, targets)
        weights = self.config.options["class_weights"]
        labels, logits = targets.emotion_labels, seen.emotion_logits
        if weights is None or labels is None or logits is None or "emotion" not in losses:
            return losses
        weight = logits.new_tensor(weights, dtype=torch.float32)
        total = F.cross_entropy(logits.float(), labels, weight, ignore_index=EMOTION_UNLABELLED, reduction="sum")
        share = torch.where(labels == EMOTION_UNLABELLED, 0.0, weight[labels.clamp(min=0)])
        losses["emotion"] = mean_over_batch(total, share.sum())
        return losses
