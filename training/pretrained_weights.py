"""Initialises MF² from published weights: BERT (text), BLIP-2 stage 1 (whole branches) and vision towers."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from transformers import AutoModel, BertForMaskedLM, Blip2ForImageTextRetrieval

from mf2.baselines.modeling import BaselineModel
from mf2.modeling_mf2 import MF2Model

StateDict = Mapping[str, torch.Tensor]


def load_pretrained_parts(
    model: MF2Model | BaselineModel,
    text: str | None = None,
    qformer: str | None = None,
    vision: str | None = None,
) -> dict[str, list[str]]:
    """Load parts of a model from checkpoints on the Hub or on disk; both branches get the same weights.

    The parts are applied in the order BLIP-2, BERT, vision; later ones overwrite earlier ones. With both `qformer` and
    `text`, BERT only fills the LM head, which BLIP-2's ITM checkpoints lack.

    Args:
        model: a new model of matching widths.
        text: BERT checkpoint (`bert-base-uncased`) for the text side, and for the query FFNs as copies of the text
            FFNs (as BLIP-2 initialises them). Token-type embedding 0 is added to the position embeddings.
        qformer: BLIP-2 stage 1 checkpoint (`Salesforce/blip2-itm-vit-g`) for everything in a branch but the LM head
            and the AU embeddings; also for the vision tower if it is the same.
        vision: checkpoint of a tower with the architecture of `vision_config`.
    Returns:
        For each branch and for `vision`, the names of the parameters that were not loaded.
    Raises:
        ValueError: a shape differs; the message shows the parameter and both shapes.
    """
    filled: dict[str, set[str]] = {name: set() for name in (*model.branches, "vision")}
    if qformer is not None:
        source = Blip2ForImageTextRetrieval.from_pretrained(qformer).state_dict()
        for name, branch in model.branches.items():
            filled[name] |= _fill(branch, source, _from_blip2, qformer)
        if getattr(model.config.vision_config, "model_type", None) == "blip_2_vision_model":
            filled["vision"] |= _fill(model.vision_model, source, _strip_prefix("vision_model."), qformer)
    if text is not None:
        source = _fold_token_types(BertForMaskedLM.from_pretrained(text).state_dict())
        for name, branch in model.branches.items():
            rename = _lm_head_from_bert if qformer is not None else _from_bert
            filled[name] |= _fill(branch, source, rename, text)
    if vision is not None:
        source = AutoModel.from_pretrained(vision).state_dict()
        filled["vision"] |= _fill(model.vision_model, source, lambda key: [key], vision)
    parts: dict[str, nn.Module] = {**model.branches, "vision": model.vision_model}
    return {
        name: [key for key, _ in part.named_parameters() if key not in filled[name]] for name, part in parts.items()
    }


def _fill(module: nn.Module, source: StateDict, rename: Callable[[str], list[str]], origin: str) -> set[str]:
    """Copy the tensors that `rename` maps to the module; returns the names of the filled parameters."""
    state = module.state_dict()
    filled = set()
    with torch.no_grad():
        for key, tensor in source.items():
            for target in rename(key):
                if target not in state:
                    continue
                _copy(state[target], tensor, target, origin)
                filled.add(target)
    if not filled:
        raise ValueError(f"{origin} holds nothing that fits {type(module).__name__}; check which checkpoint it is.")
    return filled


def _copy(target: torch.Tensor, tensor: torch.Tensor, name: str, origin: str) -> None:
    """Copy a tensor; the vocabulary may be larger than the source's: `[DEC]`, the last token, stays random."""
    grows = name.endswith(("word_embeddings.weight", "lm_head.bias")) and target.shape[1:] == tensor.shape[1:]
    if grows and len(target) >= len(tensor):
        target = target[: len(tensor)]
    if target.shape != tensor.shape:
        raise ValueError(
            f"{name} has shape {tuple(target.shape)} in the model and {tuple(tensor.shape)} in {origin}; the "
            f"configuration must match the checkpoint."
        )
    target.copy_(tensor)


def _strip_prefix(prefix: str) -> Callable[[str], list[str]]:
    return lambda key: [key.removeprefix(prefix)] if key.startswith(prefix) else []


def _from_blip2(key: str) -> list[str]:
    """Map a parameter of `Blip2ForImageTextRetrieval` to names in a branch.

    The tower's last LayerNorm is BLIP-2's `ln_vision`, which is part of a branch here.
    """
    if key.startswith("vision_model."):
        head, _, parameter = key.rpartition(".")
        return [f"vision_layernorm.{parameter}"] if head == "vision_model.post_layernorm" else []
    return [key]


def _from_bert(key: str) -> list[str]:
    """Map a parameter of `BertForMaskedLM` to names in a branch."""
    key = key.removeprefix("bert.")
    if key.startswith("embeddings.LayerNorm."):
        return [key.replace("embeddings.LayerNorm", "qformer.layernorm")]
    if key.startswith("embeddings."):
        return [key]
    if not key.startswith("encoder."):
        return _lm_head_from_bert(key)
    key = "qformer." + key.replace("attention.self.", "attention.attention.")
    if ".attention." in key:
        return [key]
    for block in (".intermediate.", ".output."):
        if block in key:  # query FFNs are initialised as copies of the text FFNs
            return [key, key.replace(block, f"{block[:-1]}_query.")]
    return []


def _lm_head_from_bert(key: str) -> list[str]:
    if key == "cls.predictions.bias":
        return ["lm_head.bias"]
    prefix = "cls.predictions.transform."
    return [key.replace(prefix, "lm_head.")] if key.startswith(prefix) else []


def _fold_token_types(source: StateDict) -> dict[str, torch.Tensor]:
    """Add token-type embedding 0 to the position embeddings, as BERT does for single texts; branches have no types."""
    folded = dict(source)
    token_types = folded.pop("bert.embeddings.token_type_embeddings.weight")
    positions = "bert.embeddings.position_embeddings.weight"
    folded[positions] = folded[positions] + token_types[0]
    return folded
