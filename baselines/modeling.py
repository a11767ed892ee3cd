"""A vision tower with another system, with the inputs, outputs and attribute names of `MF2Model`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.utils import can_return_tuple

from ..alignment_mf2 import split_floors
from ..branch_mf2 import MF2Branch
from ..labels_mf2 import LabelSpace
from ..modeling_mf2 import MF2Output, MF2PreTrainedModel
from ..processing_mf2 import MF2Processor
from ..recognition_mf2 import BASE
from ..tower_mf2 import VisionFeatures, as_map, build_vision_tower, map_to_tokens, probe_tower, read_levels
from ..transformers_mf2 import refuse_unknown
from .configuration import BaselineConfig
from .interface import BaselineSystem, Targets
from .registry import load_system


class BaselineModel(MF2PreTrainedModel):
    """A system of `baselines/systems/` on a vision tower, trained by the same Trainer as MF².

    `AutoModel` loads it after `register_baselines`, which `mf2 evaluate` and `mf2 analyze` call.
    """

    config_class = BaselineConfig
    base_model_prefix = "baseline"
    _auto_class = None
    _no_split_modules = None
    config: BaselineConfig

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.system: BaselineSystem = load_system(config.baseline)(config, self._level_widths())
        self.post_init()
        if config.freeze_vision:
            self.vision_model.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BaselineSystem):
            module.initialize()

    @property
    def levels(self) -> list[int]:
        """Levels of the tower that the system gets: the face level, then the others in the configuration."""
        return list(dict.fromkeys((self.config.global_feature_level, *self.config.local_feature_levels)))

    def _level_widths(self) -> list[int]:
        """Channels of the levels, determined by running the tower on the meta device."""
        return [level.shape[1] for level in probe_tower(self.config, self._encode_vision).maps]

    def _encode_vision(self, tower: PreTrainedModel, pixel_values: torch.Tensor) -> VisionFeatures:
        levels = read_levels(tower, pixel_values, self.levels)
        maps = [as_map(self.config, level, pixel_values) for level in levels]
        return VisionFeatures(map_to_tokens(levels[0]) if levels[0].ndim == 4 else levels[0], maps)

    # ---------------------------------------------------------------------------------------------- as MF2Model has it
    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        """Name -> label space; there is only the base model's."""
        return {BASE: self.config.label_space}

    @property
    def branches(self) -> dict[str, MF2Branch]:
        """Q-Former branches of the system by name, which published weights can initialise."""
        return dict(getattr(self.system, "branches", {}))

    def get_input_embeddings(self) -> Any:
        """The word embeddings of the first branch; None for a system without text."""
        branches = iter(self.branches.values())
        return next((branch.embeddings.word_embeddings for branch in branches), None)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The losses that training logs."""
        return self.system.loss_names

    def set_progress(self, progress: float) -> None:
        """See `BaselineSystem.set_progress`."""
        self.system.set_progress(progress)

    def train(self, mode: bool = True) -> "BaselineModel":
        """Set the mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        emotion_labels: torch.Tensor | None = None,
        au_labels: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        au_input_ids: torch.Tensor | None = None,
        au_attention_mask: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        au_caption_ids: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> tuple | MF2Output:
        """Recognise faces; the arguments are those of `MF2Model.forward`.

        `au_boxes`, `au_ids` and other outputs of the processor are ignored: the published systems use the whole face.

        Raises:
            TypeError: an argument is unknown.
        """
        refuse_unknown(self.forward, kwargs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            pixel_values = pixel_values.to(self.vision_model.dtype, memory_format=torch.channels_last)
            vision = self._encode_vision(self.vision_model, pixel_values)
        outputs = self.system(vision)
        losses: dict[str, torch.Tensor] = {}
        if au_labels is not None or emotion_labels is not None:
            given = {
                "emo": (input_ids, attention_mask, caption_ids),
                "au": (au_input_ids, au_attention_mask, au_caption_ids),
            }
            texts = {
                name: (ids, mask, numbers)
                for name, (ids, mask, numbers) in given.items()
                if name in self.system.reads and ids is not None
            }
            losses = self.system.losses(outputs, Targets(au_labels, emotion_labels, texts))
        losses, floors = split_floors(losses)
        return MF2Output(
            loss=self._weigh(losses),
            losses=losses or None,
            loss_floors=floors or None,
            au_logits=outputs.au_logits,
            emotion_logits=outputs.emotion_logits,
        )

    def _weigh(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        weighted = [self.system.loss_weight(name) * loss for name, loss in losses.items()]
        return torch.stack(weighted).sum() if weighted else None

    def forward_adapters(
        self,
        names: Sequence[str],
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> dict[str, MF2Output]:
        """As in `MF2Model`; there are no adapters."""
        refuse_unknown(self.forward_adapters, kwargs)
        if unknown := [name for name in names if name != BASE]:
            raise ValueError(f"{self.config.baseline} takes no adapters, so none is called {unknown[0]!r}.")
        return {BASE: self(pixel_values)}

    def check_caption_kind(self, caption_kind: str) -> None:
        """Raise, as only MF² generates captions.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.config.baseline} writes no captions, so there is no {caption_kind!r} caption.")


def register_baselines() -> None:
    """Register baselines with the Auto classes, so that all commands can load them."""
    AutoConfig.register(BaselineConfig.model_type, BaselineConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        auto_class.register(BaselineConfig, BaselineModel, exist_ok=True)
    AutoProcessor.register(BaselineConfig, MF2Processor, exist_ok=True)
