"""The interface of baselines: systems of other papers that are trained, saved, evaluated and used like MF².

A system takes the features of a vision tower, the same as MF²'s, and returns logits of action units and emotions, with
its own losses. Everything else is shared: data, augmentation, optimiser, schedule, checkpoints, thresholds,
metrics, model cards.
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
    """Description of a system for model cards and tables.

    Args:
        title: its name in tables, as in the paper's tables if it is there.
        citation: authors, title, venue and year.
        deviations: one sentence per difference from the publication.
        tables: the paper's tables in which it appears.
    """

    title: str
    citation: str
    deviations: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


@dataclass
class SystemOutput:
    """The outputs of a system for a batch.

    Args:
        au_logits: `(B, A)`, probabilities by sigmoid; None for a system without AUs.
        emotion_logits: `(B, E)`, probabilities by softmax; None for one without emotions.
        extras: further inputs of its losses.
    """

    au_logits: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass
class Targets:
    """Labels and texts of a batch.

    Args:
        au_labels: `(B, A)`, 1, 0 or -1 (unlabelled).
        emotion_labels: `(B,)`, -100 unlabelled.
        texts: kind (`emo`, `au`) -> ids and mask `(B, T)` or `(B, A, T)`, caption ids `(B,)` or `(B, A)`.
    """

    au_labels: torch.Tensor | None = None
    emotion_labels: torch.Tensor | None = None
    texts: dict[str, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = field(default_factory=dict)


class BaselineSystem(nn.Module):
    """Base class of all systems; each file in `systems/` defines one, as `System`.

    Args:
        config: labels, loss weights and the system's options, `config.options`.
        widths: channels of the feature maps in `forward`: of the face level (`global_feature_level`) first, then
            of the other levels in the configuration.
    """

    about: ClassVar[About]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Option -> default, which also determines its type."""
    fields: ClassVar[Mapping[str, Any]] = {}
    """Fields of the configuration that the system requires, such as its own tower or kinds of text."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Table of the paper -> options, for systems with different variants in different tables."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Kinds of text that it uses: `emo`, one per image; `au`, one per image or (`au_text_mode="per_au"`) per AU."""
    loss_names: ClassVar[tuple[str, ...]] = ("emotion", "au")
    skips_parameters: ClassVar[bool] = False
    """Whether a step may leave parameters without a gradient."""

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__()
        self.config = config
        self.progress = 1.0

    @classmethod
    def required_fields(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields`, which a system may require under some of its options only."""
        return dict(cls.fields)

    def initialize(self) -> None:
        """Custom initialisation, with the functions of `transformers.initialization`."""

    def set_progress(self, progress: float) -> None:
        """Set the share of training steps done; called before each step."""
        self.progress = progress

    def choose_texts(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Return the training rows with the captions that the system uses, under MF²'s column names."""
        return rows

    @classmethod
    def measure(cls, au_labels: np.ndarray, emotion_labels: np.ndarray, num_emotions: int) -> dict[str, Any]:
        """Compute options from the training labels `(N, A)` and `(N,)`, such as class weights."""
        return {}

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        """Compute the outputs from `tokens` `(B, N, W)` (as in the global branch) and `maps` `(B, W_l, h_l, w_l)`."""
        raise NotImplementedError

    def losses(self, outputs: SystemOutput, targets: Targets) -> dict[str, torch.Tensor]:
        """Unweighted losses by name; by default those of MF²'s recognisers.

        Each loss is over the whole batch of all processes, see `alignment_mf2`.
        """
        return recognition_losses(
            outputs.au_logits,
            targets.au_labels,
            outputs.emotion_logits,
            targets.emotion_labels,
            self.config.au_pos_weight,
            self.config.emotion_logit_shift,
        )

    def loss_weight(self, name: str) -> float:
        """Weight of a loss: the option `<name>_weight`, else the configuration's (`itc_weight` for `emo_itc`)."""
        weight = self.config.options.get(f"{name}_weight")
        return getattr(self.config, f"{name.split('_')[-1]}_weight") if weight is None else weight
