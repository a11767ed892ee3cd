"""The recognisers of MF²: from the branches' states to action units and an emotion.

They read *pooled* states, `{branch: (B, K, J, D)}`: the mean over a branch's queries in K views (1 face, or the A
regions of its AUs) after each of J layers. The recognisers below read the last; an adapter that wraps them (DFN) reads
others as well. Whatever sits in their place has this interface.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .alignment_mf2 import recognition_losses
from .configuration_mf2 import MF2Config
from .labels_mf2 import LabelSpace

BASE = "base"
"""The name of a checkpoint's own recognisers among those of its adapters."""


@dataclass
class Recognition:
    """What recognisers say.

    Args:
        au_logits: `(B, A)`; None where the label space has no AU.
        emotion_logits: `(B, E)`; None where it has no emotion.
        side_states: By branch, `(B, K, D)`: where an adapter's side network ended.
    """

    au_logits: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    side_states: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class PooledTexts:
    """Texts as an adapter reads them: I images × G groups (1, or one per AU).

    Args:
        states: `(I, G, J, D)` of the text-only pass: position 0 after each layer.
        caption_ids: `(I, G)`; equal ids are the same text.
        valid: `(I, G)` bool: whether there is a text.
    """

    states: torch.Tensor
    caption_ids: torch.Tensor
    valid: torch.Tensor


class RecognitionHeads(nn.Module):
    """Two linear heads: emotion from [global ; mean of local], AU i from [local i ; global]; a branch may be off.

    Args:
        config: of a model or an adapter: its `label_space` and `au_pos_weight`.
    """

    def __init__(self, head_width: int, config: Any):
        super().__init__()
        self.config = config
        label_space = config.label_space
        if label_space.emotions:
            self.emotion_head = nn.Linear(head_width, len(label_space.emotions))
        if label_space.au_ids:
            # Row a of the matrix reads the feature of AU a only.
            self.au_head = nn.Linear(head_width, len(label_space.au_ids))

    def read(self, features: Mapping[str, torch.Tensor]) -> Recognition:
        """`{branch: (B, K, D)}`, the global branch before the local one -> logits."""
        views = list(features.values())
        seen = Recognition()
        if hasattr(self, "emotion_head"):
            seen.emotion_logits = self.emotion_head(torch.cat([view.mean(1) for view in views], dim=-1))
        if hasattr(self, "au_head"):
            num_views = max(view.shape[1] for view in views)
            joined = torch.cat([view.expand(-1, num_views, -1) for view in reversed(views)], dim=-1)
            logits = self.au_head(joined)  # (B, K, A): the layer is called, so that what wraps it is seen
            seen.au_logits = logits.squeeze(1) if num_views == 1 else logits.diagonal(dim1=1, dim2=2)
        return seen

    def losses(
        self,
        seen: Recognition,
        emotion_labels: torch.Tensor | None,
        au_labels: torch.Tensor | None,
        texts: Mapping[str, PooledTexts],
        branches: Mapping[str, Any],
    ) -> dict[str, torch.Tensor]:
        """`emotion` and `au`, whichever has labels; texts and branches are an adapter's to read."""
        return recognition_losses(
            seen.au_logits, au_labels, seen.emotion_logits, emotion_labels, self.config.au_pos_weight
        )


class MF2Recognizers(RecognitionHeads):
    """The checkpoint's own recognisers, on the branches' last states."""

    trains_branches = True
    reads_texts = False

    @torch.no_grad()
    def resized(self, old: LabelSpace, config: MF2Config) -> "MF2Recognizers":
        """Recognisers of the configuration's label space, which know what they share with those of the old one."""
        some_head = next(self.children())
        new = MF2Recognizers(some_head.in_features, config).to(some_head.weight)
        for head, before, after in (
            ("emotion_head", old.emotions, config.label_space.emotions),
            ("au_head", old.au_ids, config.label_space.au_ids),
        ):
            for row, name in enumerate(after):
                if name in before:
                    own, known = getattr(new, head), getattr(self, head)
                    own.weight[row] = known.weight[before.index(name)]
                    own.bias[row] = known.bias[before.index(name)]
        return new

    @property
    def label_space(self) -> LabelSpace:
        """What the outputs mean."""
        return self.config.label_space

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        """What the outputs mean, by who gives them."""
        return {BASE: self.config.label_space}

    def forward(self, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """`{branch: (B, K, J, D)}` -> logits."""
        return self.read({name: states[:, :, -1] for name, states in pooled.items()})

    def answer(self, name: str, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """As `forward`, of the recognisers of that name; these are the only ones here."""
        return self(pooled)

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """The sum of any of the model's losses, weighted as the configuration says; None of none."""
        weighted = [getattr(self.config, f"{name.split('_')[-1]}_weight") * loss for name, loss in losses.items()]
        return sum(weighted) if weighted else None
