"""VL-FAU: one branch per action unit, which also has to generate a description.

Symbols in shapes: B images, N action units, C width of the stem, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from ...alignment_mf2 import mean_over_batch
from ...configuration_mf2 import MF2QFormerConfig
from ...tower_mf2 import VisionFeatures
from ..configuration import BaselineConfig
from ..interface import About, BaselineSystem, SystemOutput, Targets

KERNEL = 7
Text = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class Stem(nn.Module):
    """Fuses the levels of the tower into one map of the face level's size: `(B, W_l, h_l, w_l)` -> `(B, C, h, w)`."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(level_width, width, 1) for level_width in widths)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        height, width = maps[0].shape[-2:]
        levels = zip(self.projections, maps, strict=True)
        pooled = [F.adaptive_avg_pool2d(project(level), (height, width)) for project, level in levels]
        return reduce(torch.add, pooled)


class Refinement(nn.Module):
    """DAIR: channel attention, then spatial attention for one AU; `(B, C, h, w)` -> `(B, C)`.

    Both attentions use means and maxima; the attended features are added to the stem.
    """

    def __init__(self, width: int, reduction: int):
        super().__init__()
        self.squeeze = nn.Linear(width, width // reduction)
        self.excite = nn.Linear(width // reduction, width)
        self.place = nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2)

    def forward(self, stem: torch.Tensor) -> torch.Tensor:
        pooled = torch.stack([stem.mean((2, 3)), stem.amax((2, 3))])
        channels = self.excite(self.squeeze(pooled).relu()).sum(0).sigmoid()
        attended = stem * channels[:, :, None, None]
        positions = self.place(torch.stack([attended.mean(1), attended.amax(1)], dim=1)).sigmoid()
        return (stem + attended * positions).mean((2, 3))


class TextDecoder(nn.Module):
    """A recurrent decoder: features `(B, C)` and word embeddings `(B, T, D)` -> states `(B, T, D)`."""

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.start = nn.Linear(width, text_width)
        self.lstm = nn.LSTM(text_width, text_width, batch_first=True)

    def forward(self, features: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        start = self.start(features).tanh()[None]
        return self.lstm(words, (start, torch.zeros_like(start)))[0]


class System(BaselineSystem):
    """With C = `width` (0: the face level's), D = `text_width` (0: C), N AUs and r = `reduction` it has:

        Σ_l (W_l + 1) C  +  N [2 C (C / r) + C / r + C + 2 · 7² + 1 + C + 1]
        (N + 1) [(C + 1) D + 4 (2 D² + 2 D)]  +  2 V D + V  +  (C + 1) E

    parameters: stem, branches, text decoders, words, and the emotion probe.
    """

    about = About(
        title="VL-FAU",
        citation="X. Ge, J. Fu, F. Chen, S. An, N. Sebe, J. M. Jose, Towards End-to-End Explainable Facial Action "
        "Unit Recognition via Vision-Language Joint Learning, ACM MM 2024, arXiv 2408.00644.",
        deviations=(
            "No code of the authors was found: multi-scale stem, refinement by channels and places, a branch and a "
            "writer for each AU and a global writer follow the paper's description, their inner sizes are ours.",
            "All writers share their words (embeddings and output layer); both language losses weigh 1 beside the "
            "AU loss of the configuration.",
            "Descriptions are the data set's: its sentence of an active AU, a fixed one of an inactive AU, and the "
            "key-AU caption as the description of the face.",
            "Emotions are read by a linear probe on the mean of the branches, which trains nothing but itself.",
        ),
        tables=("II",),
    )
    defaults = {"width": 0, "text_width": 0, "reduction": 4, "local_text_weight": 1.0, "global_text_weight": 1.0}
    fields = {"use_emo_vl": True, "use_au_vl": True, "emo_text": "key_au", "au_text_mode": "per_au"}
    reads = ("emo", "au")
    loss_names = ("emotion", "au", "local_text", "global_text")
    skips_parameters = True

    def __init__(self, config: BaselineConfig, widths: Sequence[int]):
        super().__init__(config, widths)
        options, num_aus = config.options, len(config.au_ids)
        width = options["width"] or widths[0]
        text_width = options["text_width"] or width
        self.stem = Stem(widths, width)
        self.refine = nn.ModuleList(Refinement(width, options["reduction"]) for _ in range(num_aus))
        self.au_heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(num_aus))
        self.writers = nn.ModuleList(TextDecoder(width, text_width) for _ in range(num_aus))
        self.global_writer = TextDecoder(width, text_width)
        vocab_size = cast(MF2QFormerConfig, config.emo_config).vocab_size
        self.words = nn.Embedding(vocab_size, text_width)
        self.next_word = nn.Linear(text_width, vocab_size)
        self.emotion_head = nn.Linear(width, len(config.emotions))

    def forward(self, vision: VisionFeatures) -> SystemOutput:
        stem = self.stem(vision.maps)
        au_features = torch.stack([refine(stem) for refine in self.refine], dim=1)  # (B, N, C)
        logits = [head(au_features[:, index]) for index, head in enumerate(self.au_heads)]
        emotion_logits = self.emotion_head(au_features.detach().mean(1))
        return SystemOutput(
            torch.cat(logits, dim=1), emotion_logits, {"au_features": au_features, "face": stem.mean((2, 3))}
        )

    def losses(self, outputs: SystemOutput, targets: Targets) -> dict[str, torch.Tensor]:
        """The recognition losses, and the cross-entropy of both kinds of description."""
        losses = super().losses(outputs, targets)
        if "au" in targets.texts:
            decoders = cast(Sequence[TextDecoder], self.writers)
            per_au = list(zip(decoders, outputs.extras["au_features"].unbind(1), strict=True))
            losses["local_text"] = self._text_loss(targets.texts["au"], per_au)
        if "emo" in targets.texts:
            ids, mask, _ = targets.texts["emo"]
            text = (ids[:, None], None if mask is None else mask[:, None], None)
            losses["global_text"] = self._text_loss(text, [(self.global_writer, outputs.extras["face"])])
        return losses

    def _text_loss(self, text: Text, decoders: Sequence[tuple[TextDecoder, torch.Tensor]]) -> torch.Tensor:
        """Mean cross-entropy of next words in `(B, N, T)` texts, each predicted by its own decoder."""
        ids, mask, _ = text
        mask = (ids != self.config.pad_token_id).long() if mask is None else mask
        words = self.words(ids[..., :-1])
        states = [decode(features, words[:, index]) for index, (decode, features) in enumerate(decoders)]
        is_target = mask[..., 1:].bool()
        logits = self.next_word(torch.stack(states, dim=1)[is_target]).float()
        return mean_over_batch(F.cross_entropy(logits, ids[..., 1:][is_target], reduction="sum"), is_target.sum())
