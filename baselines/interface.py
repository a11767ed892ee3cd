"""What a system of another paper is here, so that it is trained, saved, measured and used as MF² is.

A system reads what a tower makes of a face, which is the one that MF² would have, and gives logits of action units and
emotions with its own losses. Everything around it is shared: data, augmentation, optimiser, course, checkpoints,
thresholds, metrics, cards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from torch import nn

from ..alignment_mf2 import recognition_losses
from ..tower_mf2 import VisionFeatures
from .configuration import BaselineConfig


@dataclass(frozen=True)
class About:
    """What a card and the tables say of a system.

    Args:
        title: as tables name it, and as the paper's rows do where it has one there.
        citation: authors, title, where and when it appeared.
        deviations: a sentence for each way in which this is not what was published.
        tables: of the paper's tables, those that it stands in.
    """

    title: str
    citation: str
    deviations: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


@dataclass
class Seen:
    """What a system says of a batch.

    Args:
        au_logits: `(B, A)`, probabilities by sigmoid; None for a system without AUs.
        emotion_logits: `(B, E)`, probabilities by softmax; None for one without emotions.
        extras: what its losses read besides.
    """

    au_logits: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass
class Targets:
    """What a batch holds besides the images.

    Args:
        au_labels: `(B, A)`, 1, 0 or -1 (unlabelled).
        emotion_labels: `(B,)`, -100 unlabelled.
        texts: by kind (`emo`, `au`), ids and mask `(B, T)` or `(B, A, T)`, caption ids `(B,)` or `(B, A)`.
    """

    au_labels: torch.Tensor | None = None
    emotion_labels: torch.Tensor | None = None
    texts: dict[str, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = field(default_factory=dict)


class BaselineSystem(nn.Module):
    """The base of all systems; a file of `systems/` holds one, under the name `System`.

    Args:
        config: labels, loss weights and the system's own options, `config.options`.
        widths: channels of the maps that `forward` is given: of the face level (`global_feature_level`) first, then
            of the other levels that the configuration names.
    """

    about: ClassVar[About]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Its options with their defaults; the types are those of the defaults."""
    fields: ClassVar[Mapping[str, Any]] = {}
    """Fields of the configuration that it must have: a tower of its own, say, or which texts there are."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options by table of the paper, for a system that is another one there."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Kinds of text: `emo`, one an image; `au`, one an image or, with `au_text_mode="per_au"`, one an AU."""
    loss_names: ClassVar[tuple[str, ...]] = ("emotion", "au")
    skips_parameters: ClassVar[bool] = False
    """Whether a step may leave parameters without a gradient."""

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__()
        self.config = config
        self.progress = 1.0

    def initialize(self) -> None:
        """Set starts that differ from the usual ones, with the functions of `transformers.initialization`."""

    def set_progress(self, progress: float) -> None:
        """Told before each training step: the share of the steps that are done."""
        self.progress = progress

    def choose_texts(self, rows: datasets.Dataset) -> datasets.Dataset:
        """The rows of the training split with the captions that this system is to read under MF²'s names."""
        return rows

    @classmethod
    def measure(cls, au_labels: np.ndarray, emotion_labels: np.ndarray, num_emotions: int) -> dict[str, Any]:
        """Options that the labels of the training split decide, `(N, A)` and `(N,)`: class weights, say."""
        return {}

    def forward(self, vision: VisionFeatures) -> Seen:
        """`tokens` `(B, N, W)` as MF²'s global branch reads them, and `maps` `(B, W_l, h_l, w_l)` -> what is seen."""
        raise NotImplementedError

    def losses(self, seen: Seen, targets: Targets) -> dict[str, torch.Tensor]:
        """Unweighted losses by name; those of MF²'s recognisers unless a system has others.

        Each is one of the whole batch over all processes, see `alignment_mf2`.
        """
        return recognition_losses(
            seen.au_logits,
            targets.au_labels,
            seen.emotion_logits,
            targets.emotion_labels,
            self.config.au_pos_weight,
            self.config.emotion_logit_shift,
        )

    def weight_of(self, name: str) -> float:
        """The weight of a loss: the option `<name>_weight`, else the configuration's, as of `emo_itc` `itc_weight`."""
        own = self.config.options.get(f"{name}_weight")
        return getattr(self.config, f"{name.split('_')[-1]}_weight") if own is None else own
