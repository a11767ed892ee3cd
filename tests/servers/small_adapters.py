"""A small model whose branches differ in depth, what it is shown, and adapters for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel, get_peft_model

from mf2.branch_mf2 import MF2Branch
from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2Model
from mf2.peft_dfn import DFNConfig, DFNSide

AUS = (1, 12, 15)
EMOTIONS = ("Neutral", "Anger", "Happiness", "Sadness")
DISFA = [1, 2, 4, 6, 9, 12, 25, 26]
BP4D = [1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24]
RAF_DB = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"]
BRANCH = {
    "hidden_size": 16,
    "vocab_size": 100,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "cross_attention_frequency": 1,
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
TEXT_LENGTHS = dict.fromkeys(("emotion_text_length", "key_au_text_length", "au_text_length"), 16)


def small_config(**fields: Any) -> MF2Config:
    """Five states in the global branch, four in the local one; a tower with batch statistics."""
    return MF2Config(
        **{
            "vision_config": RESNET,
            "emo_config": BRANCH | {"num_hidden_layers": 4, "num_query_tokens": 3},
            "au_config": BRANCH | {"num_hidden_layers": 3, "num_query_tokens": 2},
            "au_ids": AUS,
            "emotions": EMOTIONS,
            "au_text_mode": "per_au",
            "projection_dim": 8,
            "initializer_range": 0.3,
            "bos_token_id": 99,
            "eos_token_id": 3,
            "au_sentence_length": 8,
            **TEXT_LENGTHS,
            **fields,
        }
    )


def small_model(model_class: type[MF2Model] = MF2Model, seed: int = 0, **fields: Any) -> MF2Model:
    """Random weights in evaluation mode."""
    torch.manual_seed(seed)
    model = model_class(small_config(**fields)).eval()
    for buffer in getattr(model, "readout", torch.nn.Identity()).buffers():
        buffer.normal_()
    return model


@contextmanager
def watch_states(branch: MF2Branch) -> Iterator[list[torch.Tensor]]:
    """The states `(rows, tokens, D)` that the branch's next pass leaves: of the embeddings and after each layer."""
    layers, states = branch.qformer.encoder.layer, []
    hooks = [layers[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))]
    hooks += [layer.register_forward_hook(lambda *call: states.append(call[-1][0])) for layer in layers]
    yield states
    for hook in hooks:
        hook.remove()


def make_images(num_aus: int = len(AUS), batch_size: int = 3) -> dict[str, torch.Tensor]:
    """Noise with random regions; the first regions are the same for any number of AUs."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch_size, 3, 32, 32, generator=generator)
    corners = torch.rand(16, batch_size, 2, 2, generator=generator).transpose(0, 1)[:, :num_aus] * 0.86
    return {"pixel_values": pixels, "au_boxes": torch.cat([corners, corners + 0.14], dim=-1)}


def make_labels(num_aus: int = len(AUS), num_emotions: int = 4, batch_size: int = 3) -> dict[str, torch.Tensor]:
    """Labels of which some are missing; none of what there is none of."""
    labels = {}
    if num_aus:
        labels["au_labels"] = torch.arange(batch_size * num_aus).view(batch_size, num_aus) % 3 - 1
    if num_emotions:
        labels["emotion_labels"] = torch.where(torch.arange(batch_size) == 1, -100, torch.arange(batch_size) % 4)
    return labels


def make_texts(num_aus: int = len(AUS), batch_size: int = 3) -> dict[str, torch.Tensor]:
    """A text an image and a sentence an AU; the second image's last sentence is missing."""
    generator = torch.Generator().manual_seed(2)
    texts = {}
    for prefix, shape in (("", (batch_size,)), ("au_", (batch_size, num_aus))):
        ids = torch.randint(5, 99, (*shape, 8), generator=generator)
        ids[..., 0] = 2
        ids[0, ..., 5:] = 0
        if prefix:
            ids[1, -1:] = 0
        texts |= {f"{prefix}input_ids": ids, f"{prefix}attention_mask": (ids != 0).long()}
    return texts


def make_batch(num_aus: int = len(AUS), num_emotions: int = 4, batch_size: int = 3) -> dict[str, torch.Tensor]:
    """Everything that an adapter trains from."""
    return {
        **make_images(num_aus, batch_size),
        **make_labels(num_aus, num_emotions, batch_size),
        **make_texts(num_aus, batch_size),
    }


@torch.no_grad()
def randomize(side: DFNSide, seed: int = 3) -> None:
    """Weights at which every part of the side network shows in what it says."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in side.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def adapted(model: MF2Model | None = None, name: str = "default", seed: int = 3, **fields: Any) -> PeftModel:
    """A model, with adapters or without, with another one of random weights, which is active; in evaluation mode."""
    model = small_model() if model is None else model
    config = DFNConfig(**{"r": 4} | fields)
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
        model.set_adapter(name)
    else:
        model = get_peft_model(model, config, adapter_name=name)
    randomize(side_of(model, name), seed)
    return model.eval()


def side_of(model: PeftModel, name: str = "default") -> DFNSide:
    """The side network of an adapter."""
    return model.get_base_model().recognizers.dfn_sides[name]
