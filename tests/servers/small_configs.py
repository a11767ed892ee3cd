"""Configurations of models that are small enough for loops in Python to check them."""

from collections.abc import Mapping
from typing import Any

from mf2.configuration_mf2 import MF2Config

VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
BRANCH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
}
EOS = 3


def small_config(
    dec: int, *, vision: Mapping[str, Any] | None = None, branch: Mapping[str, Any] | None = None, **fields: Any
) -> MF2Config:
    """Two branches on a ViT of 16 patches; the vocabulary ends with `[DEC]`.

    Args:
        dec: the id of `[DEC]`.
        vision, branch: what differs from `VIT` and `BRANCH`.
        fields: of `MF2Config`.
    """
    branch = {**BRANCH, "vocab_size": dec + 1, **(branch or {})}
    return MF2Config(
        vision_config={**VIT, **(vision or {})},
        emo_config=branch,
        au_config=branch,
        bos_token_id=dec,
        eos_token_id=EOS,
        projection_dim=8,
        **fields,
    )
