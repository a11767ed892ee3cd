"""Exp-BLIP: BLIP-2's first stage on captions of expressions, which is MF²'s global branch only."""

from collections.abc import Mapping, Sequence
from typing import cast

import datasets
import torch
from torch import nn

from ...alignment_mf2 import TextItems, VisualItems, alignment_losses
from ...branch_mf2 import BranchView, MF2Branch
from ...configuration_mf2 import MF2QFormerConfig
from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, SystemOutput, Targets

KINDS = ("au", "emotion")


class System(BaselineSystem):
    """MF²'s global branch (186,705,470 parameters at size `paper`, as BLIP-2's first stage), and a linear layer per
    task on the mean of its D-wide query states: `(D + 1) (A + E)`.

    As the publication has separate models for AUs and emotions, the option `captions` selects one. The head of that
    task is trained with the branch; the other one is a linear probe on detached features.
    """

    about = About(
        title="Exp-BLIP",
        citation="Y. Yuan, J. Zeng, S. Shan, Describe Your Facial Expressions by Linking Image Encoders and Large "
        "Language Models, BMVC 2023; the losses are those of BLIP-2, Li et al., arXiv 2301.12597, section 3.1.",
        deviations=(
            "The first stage alone: no language model is attached to the queries, and labels are read by linear "
            "layers that are trained beside it, not from generated text.",
            "Captions are the data set's; published ones are synthesised from labels and fused by a language model.",
            "Equal captions are no negatives of each other, and in branches of up to six layers text reads the "
            "queries as they leave a layer; both as in MF².",
        ),
        tables=("II", "III"),
    )
    defaults = {"captions": "emotion"}
    fields = {"use_emo_vl": True, "use_au_vl": False, "emo_text": "emotion"}
    variants = {"II": {"captions": "au"}, "III": {"captions": "emotion"}}
    reads = ("emo",)
    loss_names = ("emo_itc", "emo_itm", "emo_itg", "emotion", "au")

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        self.kind = config.options["captions"]
        if self.kind not in KINDS:
            raise ValueError(f"exp_blip's option captions is {self.kind!r}; choose one of {', '.join(KINDS)}.")
        if self.kind == "au":
            config.emotion_text_length = config.au_text_length
        branch = cast(MF2QFormerConfig, config.emo_config)
        branch.encoder_hidden_size = widths[0]
        self.emo = MF2Branch(config, branch, is_local=False)
        width = branch.hidden_size
        self.au_head = nn.Linear(width, len(config.au_ids))
        self.emotion_head = nn.Linear(width, len(config.emotions))

    @property
    def branches(self) -> Mapping[str, MF2Branch]:
        """The branch that `--init_qformer` and `--init_text` initialise."""
        return {"emo": self.emo}

    def choose_texts(self, rows: datasets.Dataset) -> datasets.Dataset:
        """Use AU captions instead of emotion captions in the model for AUs."""
        if self.kind == "emotion":
            return rows
        return rows.remove_columns("caption_emotion").rename_column("caption_au", "caption_emotion")

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        view = self.emo.encode_image(vision.tokens[:, None], keep_key_values=self.training)
        face = view.states[:, 0].mean(1)
        au_features, emotion_features = (face if self.kind == kind else face.detach() for kind in KINDS)
        return SystemOutput(self.au_head(au_features), self.emotion_head(emotion_features), {"view": view})

    def losses(self, outputs: SystemOutput, targets: Targets) -> dict[str, torch.Tensor]:
        """ITC, ITM and ITG of the captions, and the recognisers' losses."""
        losses = {}
        if "emo" in targets.texts and self.training:
            ids, mask, caption_ids = targets.texts["emo"]
            mask = (ids != self.config.pad_token_id).long() if mask is None else mask
            caption_ids = caption_ids if caption_ids is None else caption_ids[:, None]
            texts = TextItems.from_batch(ids[:, None], mask[:, None], caption_ids, self.config.pad_token_id)
            found = alignment_losses(self.emo, self._items(outputs.extras["view"]), texts)
            losses = {f"emo_{name}": loss for name, loss in found.items()}
        return losses | super().losses(outputs, targets)

    @staticmethod
    def _items(view: BranchView) -> VisualItems:
        """One item per image: the queries of the face."""
        return VisualItems(
            states=view.states,
            query_embeds=view.query_embeds,
            key_values=view.key_values,
            vision_key_values=view.vision_key_values,
            vision_states=view.vision_states[:, None],
        )
