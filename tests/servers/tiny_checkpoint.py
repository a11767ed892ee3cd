"""A tiny checkpoint as training leaves it: random weights, a vocabulary of its own, thresholds, processor and code."""

from pathlib import Path
from typing import Any

import torch

import mf2
from mf2.training.tokenizer import train_tokenizer, vocabulary_fields

BRANCH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "num_query_tokens": 2,
    "cross_attention_frequency": 1,
}
TOWER = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
TEXT_LENGTHS = {
    "emotion_text_length": 16,
    "key_au_text_length": 16,
    "au_text_length": 24,
    "au_sentence_length": 12,
}


def save_tiny_checkpoint(folder: Path, max_shard_size: str = "50GB", **settings: Any) -> None:
    """Random weights with a vocabulary of their own, thresholds that are not the default, and the processor."""
    tokenizer = train_tokenizer(["The inner brows are raised: sadness.", "Lip corners are pulled up."], 60)
    branch = BRANCH | {"vocab_size": len(tokenizer)}
    config = mf2.MF2Config(
        vision_config=TOWER,
        emo_config=branch,
        au_config=branch,
        projection_dim=16,
        freeze_vision=False,
        au_text_mode="per_au",
        au_thresholds=[0.45 + 0.01 * idx for idx in range(12)],
        **TEXT_LENGTHS,
        **vocabulary_fields(tokenizer),
        **settings,
    )
    torch.manual_seed(0)
    model = mf2.MF2ForConditionalGeneration(config)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    image_processor = mf2.MF2ImageProcessor(size={"height": 32, "width": 32})
    mf2.MF2Processor(image_processor, tokenizer, max_length=16, au_max_length=24).save_pretrained(folder)
