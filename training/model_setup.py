"""Builds a model with its tokenizer and processor from the arguments and the training split."""

import logging
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mf2.baselines.configuration import BaselineConfig
from mf2.baselines.modeling import BaselineModel
from mf2.baselines.registry import load_system
from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.captions import CAPTION_PROMPTS, caption_prompt_ids, training_texts
from mf2.modeling_mf2 import MF2ForPreTraining
from mf2.processing_mf2 import MF2ImageProcessor, MF2Processor, load_tokenizer
from mf2.training.arguments import PretrainArguments
from mf2.training.pretrained_weights import load_pretrained_parts
from mf2.training.tokenizer import train_tokenizer, vocabulary_fields

logger = logging.getLogger(__name__)


def build_tokenizer(arguments: PretrainArguments, rows: datasets.Dataset) -> PreTrainedTokenizerBase:
    """Load the named tokenizer or the starting checkpoint's; otherwise train one on the captions of `rows`.

    Raises:
        ValueError: there are no captions to train on, or the named tokenizer is not BERT's.
    """
    if arguments.tokenizer:
        tokenizer = load_tokenizer(arguments.tokenizer)
        if None in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
            raise ValueError(f"tokenizer is {arguments.tokenizer}, which lacks [PAD], [CLS] or [SEP]; give BERT's.")
        return tokenizer
    if arguments.model_name_or_path:
        return AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    texts = training_texts(rows)
    if not texts and arguments.baseline and not load_system(arguments.baseline).reads:
        texts = list(CAPTION_PROMPTS.values())  # a processor always has a tokenizer
    if not texts:
        raise ValueError(
            f"{arguments.train_data} has no captions to train a vocabulary on; write them with `mf2 data caption`, or "
            f"name a tokenizer."
        )
    return train_tokenizer([*texts, *CAPTION_PROMPTS.values()], arguments.vocab_size)


def build_config(
    arguments: PretrainArguments,
    tokenizer: PreTrainedTokenizerBase,
    au_ids: Sequence[int] | None = None,
    affect: bool | None = None,
) -> MF2Config:
    """Build the configuration of a size, with the fields of `arguments.model` and of the tokenizer.

    Args:
        au_ids: AUs of the model, if they differ from the requested ones.
        affect: whether it recognises valence and arousal, if that differs from what is requested.
    """
    fields = vocabulary_fields(tokenizer) | arguments.model
    if au_ids is not None:
        fields["au_ids"] = list(au_ids)
    if affect is not None:
        fields["affect"] = affect
    for name in ("emo_config", "au_config"):
        vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        fields[name] = vocabulary | arguments.model.get(name, {})
    if arguments.baseline:
        fields |= load_system(arguments.baseline).required_fields(arguments.baseline_options)
        fields |= {"baseline": arguments.baseline, "baseline_options": dict(arguments.baseline_options)}
    config = (BaselineConfig if arguments.baseline else MF2Config).from_size(arguments.size, **fields)
    config.caption_prompt_ids = caption_prompt_ids(tokenizer, config.emo_text)
    return config


def build_model(
    arguments: PretrainArguments,
    tokenizer: PreTrainedTokenizerBase,
    au_ids: Sequence[int] | None = None,
    affect: bool | None = None,
) -> MF2ForPreTraining | BaselineModel:
    """Build a new model, with pretrained parts if any are named, or load a checkpoint."""
    if arguments.model_name_or_path:
        return MF2ForPreTraining.from_pretrained(arguments.model_name_or_path)
    config = build_config(arguments, tokenizer, au_ids, affect)
    model = BaselineModel(config) if isinstance(config, BaselineConfig) else MF2ForPreTraining(config)
    pretrained = {
        "text": arguments.init_text,
        "qformer": arguments.init_qformer,
        "vision": arguments.init_vision,
    }
    if any(pretrained.values()):
        load_pretrained_parts(model, **pretrained)
    elif model.config.freeze_vision:
        logger.warning("The vision tower is frozen and starts from random weights; name an init_vision or train it.")
    return model


def build_processor(
    arguments: PretrainArguments, config: MF2Config, tokenizer: PreTrainedTokenizerBase
) -> MF2Processor:
    """Load the starting checkpoint's processor, or build one from the configuration.

    Image size, mean and standard deviation are those of the arguments, if given.
    """
    given: dict[str, Any] = {"image_mean": arguments.image_mean, "image_std": arguments.image_std}
    if arguments.image_size:
        given["size"] = {"height": arguments.image_size, "width": arguments.image_size}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.model_name_or_path:
        image_processor = MF2ImageProcessor.from_pretrained(arguments.model_name_or_path, **given)
    else:
        given["au_ids"] = list(config.au_ids)
        given["au_region_size"] = config.au_region_size
        given["eye_centers"] = [list(center) for center in config.eye_centers]
        image_processor = MF2ImageProcessor(**given)
    lengths = {"max_length": config.emotion_text_length, "au_max_length": config.au_text_length}
    return MF2Processor(image_processor, tokenizer, **lengths)
