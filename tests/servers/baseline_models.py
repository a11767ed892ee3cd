"""Systems of the tables, small enough to be checked number by number, and batches of theirs."""

from typing import Any

import torch
from tiny_mf2 import RESNET

from mf2.baselines.configuration import BaselineConfig
from mf2.baselines.modeling import BaselineModel
from mf2.baselines.registry import load_system

AU_IDS = (1, 4, 12, 25)
EMOTIONS = ("Neutral", "Happiness", "Sadness")
VOCABULARY, DEC, SIDE = 40, 39, 32
BRANCH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_query_tokens": 3,
    "cross_attention_frequency": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def small_baseline_config(name: str, vision: dict[str, Any] = RESNET, **fields: Any) -> BaselineConfig:
    """A system on a convolutional tower of two levels, 8 and 16 channels wide."""
    lengths = {f"{kind}_text_length": 12 for kind in ("emotion", "key_au", "au")} | {"au_sentence_length": 8}
    return BaselineConfig(
        baseline=name,
        **{
            "vision_config": vision,
            "emo_config": BRANCH,
            "au_config": BRANCH,
            "au_ids": AU_IDS,
            "emotions": EMOTIONS,
            "projection_dim": 8,
            "freeze_vision": False,
            "au_text_mode": "per_au",
            "local_feature_levels": [-2, -1],
            "bos_token_id": DEC,
            "eos_token_id": 3,
            **lengths,
            **{key: value for key, value in load_system(name).fields.items() if key != "vision_config"},
            **fields,
        },
    )


def small_baseline(name: str, seed: int = 0, **fields: Any) -> BaselineModel:
    """The model of it, with random weights, in training mode."""
    torch.manual_seed(seed)
    return BaselineModel(small_baseline_config(name, **fields)).train()


def small_batch(size: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Noise with labels and texts; of each kind of label one is missing."""
    generator = torch.Generator().manual_seed(seed)

    def text(*shape: int) -> torch.Tensor:
        ids = torch.randint(4, DEC, (*shape, 6), generator=generator)
        ids[..., 0], ids[..., -1] = 2, 3
        return ids

    batch = {
        "pixel_values": torch.randn(size, 3, SIDE, SIDE, generator=generator),
        "au_labels": torch.randint(0, 2, (size, len(AU_IDS)), generator=generator),
        "emotion_labels": torch.randint(0, len(EMOTIONS), (size,), generator=generator),
        "input_ids": text(size),
        "au_input_ids": text(size, len(AU_IDS)),
        "caption_ids": torch.arange(size),
        "au_caption_ids": torch.arange(size * len(AU_IDS)).view(size, -1),
    }
    batch["au_labels"][0, 0], batch["emotion_labels"][-1] = -1, -100
    for name in ("input_ids", "au_input_ids"):
        batch[name.replace("input_ids", "attention_mask")] = torch.ones_like(batch[name])
    return batch


def fill_by_formula(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight and running figure by a formula, so that no release's random numbers matter."""
    with torch.no_grad():
        for place, (name, tensor) in enumerate(sorted(model.state_dict().items())):
            if tensor.is_floating_point():
                values = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + place)
                values = values * 0.5 + 1 if name.endswith("running_var") else values * tensor[0].numel() ** -0.5
                tensor.copy_(values.view(tensor.shape))
    return model
