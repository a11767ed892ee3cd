"""The smallest models that see, compare and write, with their processors, for tests of what is done with one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import mf2
from mf2.training.tokenizer import train_tokenizer, vocabulary_fields

TEXTS = ["The inner brows are raised.", "The lip corners are pulled up, lips pressed, brows lowered: a happy look."]
SIDE = 32
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIDE,
    "patch_size": 8,
}


def make_tiny(seed: int = 0, vision: dict[str, Any] = RESNET, **fields: Any) -> tuple[Any, Any]:
    """A captioner with random weights, large enough for different faces to differ, and its processor."""
    tokenizer = train_tokenizer(TEXTS, 120)
    branch = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_query_tokens": 2,
        "cross_attention_frequency": 1,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
    }
    torch.manual_seed(seed)
    config = mf2.MF2Config(
        vision_config=vision,
        emo_config=branch,
        au_config=branch,
        projection_dim=16,
        initializer_range=0.3,
        **{
            "emotion_text_length": 16,
            "au_text_length": 24,
            "key_au_text_length": 16,
            "au_sentence_length": 8,
        }
        | {"freeze_vision": False}
        | fields,
        **vocabulary_fields(tokenizer),
    )
    model = mf2.MF2ForConditionalGeneration(config).eval()
    image_processor = mf2.MF2ImageProcessor(size={"height": SIDE, "width": SIDE}, au_ids=list(config.au_ids))
    return model, mf2.MF2Processor(image_processor, tokenizer, max_length=32, au_max_length=32)


def save_tiny(folder: Path, **fields: Any) -> Path:
    """The same as a checkpoint folder."""
    for part in make_tiny(**fields):
        part.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Pictures of coloured blocks, each unlike the others."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        blocks = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        paths.append(folder / f"face-{number}.png")
        blocks.resize((48, 48), Image.Resampling.BICUBIC).save(paths[-1])
    return paths
