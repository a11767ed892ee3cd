"""The processor of MF²: pictures and captions to a batch, and a model's outputs back to words.

The picture side is `image_processing_mf2`, its reader `images_mf2`, its geometry `regions_mf2`, the detectors
`landmarks_mf2`. What users and scripts need of them can be imported from here. What this file imports is saved with a
processor, so that the pipeline travels with it.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .caption_meaning_mf2 import restore_case
from .image_processing_mf2 import (
    Augmentation,
    Landmarks,
    MF2ImageProcessor,
    MF2ImageProcessorPil,
)
from .images_mf2 import ImageSource, read_image
from .labels_mf2 import AFFECT, LabelSpace, get_action_unit, render_au_caption
from .pipeline_mf2 import FacialStatePipeline
from .regions_mf2 import alignment_matrix, apply_matrix, au_boxes_from_landmarks

DECODER_TOKEN = "[DEC]"


# -------------------------------------------------------------------------------------------------------- tokenizer
def add_decoder_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a BERT tokenizer `[DEC]`, with which generated captions begin, as its `bos_token`; once."""
    if tokenizer.bos_token != DECODER_TOKEN:
        tokenizer.add_special_tokens({"bos_token": DECODER_TOKEN})
    return tokenizer


def load_tokenizer(name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The BERT WordPiece tokenizer of that name or folder, with `[DEC]`."""
    return add_decoder_token(AutoTokenizer.from_pretrained(name_or_path, **kwargs))


# -------------------------------------------------------------------------------------------------------- processor
class MF2Processor(ProcessorMixin):
    """Images, landmarks and captions to a batch; ids and logits back to text and named results.

    Args:
        image_processor: `MF2ImageProcessor` or `MF2ImageProcessorPil`.
        tokenizer: a BERT WordPiece tokenizer; gets `[DEC]` as `bos_token` if it lacks it.
        max_length: tokens of an emotion-branch caption, longer ones are cut.
        au_max_length: the same for the AU branch.
    """

    text_kwargs = {"padding": True, "truncation": True, "return_token_type_ids": False}

    def __init__(self, image_processor: Any, tokenizer: Any, max_length: int = 61, au_max_length: int = 169):
        super().__init__(image_processor, add_decoder_token(tokenizer))
        self.max_length = max_length
        self.au_max_length = au_max_length

    @property
    def au_ids(self) -> list[int]:
        """The AUs that boxes are made for, in output order; can be set."""
        return self.image_processor.au_ids

    @au_ids.setter
    def au_ids(self, au_ids: Iterable[int]) -> None:
        self.image_processor.au_ids = [get_action_unit(int(au_id)).id for au_id in au_ids]

    def for_label_spaces(self, *label_spaces: Any) -> "MF2Processor":
        """A copy that makes boxes for all these label spaces: the union of their AUs, in order of appearance."""
        processor = copy.copy(self)
        processor.image_processor = copy.copy(self.image_processor)
        processor.au_ids = dict.fromkeys(au_id for space in label_spaces for au_id in space.region_au_ids)
        return processor

    @property
    def model_input_names(self) -> list[str]:
        """The names of the models' inputs."""
        texts = [prefix + name for prefix in ("", "au_") for name in ("input_ids", "attention_mask")]
        return [*self.image_processor.model_input_names, *texts]

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        au_text: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        landmarks: Landmarks = None,
        face: str = "largest",
        augment: Augmentation | None = None,
        augment_seeds: Sequence[int] | None = None,
        return_au_crops: bool = False,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """A batch of what is given.

        Args:
            images, landmarks, face, augment, augment_seeds, return_au_crops: see `MF2ImageProcessor.preprocess`.
            text: captions of the emotion branch, one for each row.
            au_text: captions of the AU branch, one for each row, or for each row one sentence for each AU.
            return_tensors: `"pt"` or `"np"`.
            **kwargs: settings of the image processor or the tokenizer for this call, flat or in `images_kwargs` and
                `text_kwargs`.
        Returns:
            What `MF2ImageProcessor.preprocess` returns for images; `input_ids`, `attention_mask` `(B, T)` for text;
            `au_input_ids`, `au_attention_mask` `(B, T)`, or `(B, A, T)` for sentences.
        Raises:
            ValueError: no input was given, or one cannot be used; the message names it.
            TypeError: a keyword that neither the image processor nor the tokenizer knows.
        """
        if images is None and text is None and au_text is None:
            raise ValueError("Give images, text or au_text; all three are None.")
        self._refuse_unknown(kwargs)
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        batch: dict[str, Any] = {}
        if images is not None:
            face_options = {"augment": augment, "augment_seeds": augment_seeds, "return_au_crops": return_au_crops}
            options = merged["images_kwargs"] | face_options | {"return_tensors": return_tensors}
            batch.update(self.image_processor(images, landmarks=landmarks, face=face, **options))
        if text is not None:
            batch.update(self._tokenize(text, self.max_length, merged["text_kwargs"]))
        if au_text is not None:
            au_batch = self._tokenize(au_text, self.au_max_length, merged["text_kwargs"])
            batch.update({f"au_{name}": values for name, values in au_batch.items()})
        return BatchFeature(batch, tensor_type=return_tensors)

    def _refuse_unknown(self, kwargs: Mapping[str, Any]) -> None:
        kinds = self.valid_processor_kwargs.__annotations__
        known = {*kinds, *self.image_processor.valid_kwargs.__annotations__, *kinds["text_kwargs"].__annotations__}
        if unknown := sorted(set(kwargs) - known):
            raise TypeError(f"{', '.join(unknown)}: no such argument of the image processor or the tokenizer.")

    def _tokenize(self, texts: Any, max_length: int, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, `(B, T)` for B texts, `(B, A, T)` for B lists of A sentences."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("No texts were given: the list is empty.")
        shape: tuple[int, ...] = (len(texts),)
        if not isinstance(texts[0], str):
            counts = {len(sentences) for sentences in texts}
            if len(counts) > 1:
                raise ValueError(
                    f"Rows have different numbers of AU sentences ({sorted(counts)}); give one for each AU."
                )
            shape = (len(texts), counts.pop())
            texts = [sentence for sentences in texts for sentence in sentences]
        encoded = self.tokenizer(texts, **{"max_length": max_length} | dict(options) | {"return_tensors": "np"})
        return {name: encoded[name].reshape(*shape, -1) for name in ("input_ids", "attention_mask")}

    # ----------------------------------------------------------------------------------------------- back to words
    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """One caption, `(T,)` ids, as text with its capitals."""
        return restore_case(self.tokenizer.decode(token_ids, **{"skip_special_tokens": True} | kwargs))

    def batch_decode(self, token_ids: Any, au_ids: Sequence[int] | None = None, **kwargs: Any) -> list[str]:
        """Generated ids as captions.

        Args:
            token_ids: `(B, T)`; or `(B, A, T)`, a sentence for each AU, where nothing but special tokens says that the
                AU is not active.
            au_ids: the A AUs; those of the processor by default.
        Returns:
            B captions; of sentences one numbered AU caption for each row.
        """
        if np.ndim(token_ids) < 3:
            return [self.decode(row, **kwargs) for row in token_ids]
        au_ids = self.au_ids if au_ids is None else list(au_ids)
        if len(token_ids[0]) != len(au_ids):
            raise ValueError(f"There are ids of {len(token_ids[0])} AUs, but {len(au_ids)} au_ids: {au_ids}.")
        captions = []
        for rows in token_ids:
            sentences = zip(au_ids, (self.decode(row, **kwargs) for row in rows), strict=True)
            captions.append(render_au_caption({au_id: sentence for au_id, sentence in sentences if sentence}))
        return captions

    def post_process_facial_states(
        self,
        outputs: Any,
        label_space: Any = None,
        thresholds: float | Sequence[float] | Mapping[str, float] | None = None,
    ) -> list[dict[str, Any]]:
        """Named, ordered results of the recognisers.

        Args:
            outputs: has `au_logits` `(B, A)` and `emotion_logits` `(B, E)`, as attributes or keys, perhaps `affect`
                `(B, 2)`; any may be None.
            label_space: `au_codes`, `thresholds` and `emotions` of the outputs, such as `model.label_space`; the
                processor's AUs and the eight emotions by default.
            thresholds: probabilities from which an AU is active, instead of the label space's: one for all, one for
                each AU, or by code (`{"AU12": 0.4}`; the others keep theirs).
        Returns:
            For each row `aus` (code to probability), `active` (codes) and `emotion` (the likeliest), `emotions` (name
            to probability), `valence` and `arousal`; without the keys of a recogniser that is None.
        """
        label_space = LabelSpace(au_ids=tuple(self.au_ids)) if label_space is None else label_space
        results: list[dict[str, Any]] = []
        au_logits, emotion_logits, affect = (
            outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
            for name in ("au_logits", "emotion_logits", "affect")
        )
        if au_logits is not None:
            limits = _thresholds_by_code(label_space, thresholds)
            results = [{"aus": aus} for aus in _named_rows(au_logits.float().sigmoid(), label_space.au_codes, "AUs")]
            for result in results:
                result["active"] = [code for code, prob in result["aus"].items() if prob >= limits[code]]
        if emotion_logits is not None:
            probs = _named_rows(emotion_logits.float().softmax(dim=-1), label_space.emotions, "emotions")
            results = results or [{} for _ in probs]
            for result, emotions in zip(results, probs, strict=True):
                result["emotion"] = max(emotions, key=emotions.__getitem__)
                result["emotions"] = emotions
        if affect is not None:
            rows = _named_rows(affect.float(), AFFECT, "dimensions")
            results = results or [{} for _ in rows]
            for result, values in zip(results, rows, strict=True):
                result |= values
        return results


def _named_rows(probs: torch.Tensor, names: Sequence[str], what: str) -> list[dict[str, float]]:
    """`(B, len(names))` probabilities as one dictionary for each row."""
    if probs.shape[-1] != len(names):
        raise ValueError(
            f"The outputs have {probs.shape[-1]} {what}, but the label space {len(names)}: {list(names)}."
        )
    return [dict(zip(names, row, strict=True)) for row in probs.tolist()]


def _thresholds_by_code(
    label_space: Any, thresholds: float | Sequence[float] | Mapping[str, float] | None
) -> dict[str, float]:
    codes = label_space.au_codes
    by_code = dict(zip(codes, label_space.thresholds, strict=True))
    if isinstance(thresholds, Mapping):
        if unknown := sorted(set(thresholds) - set(codes)):
            raise ValueError(f"There are thresholds of {', '.join(unknown)}, but the AUs are {', '.join(codes)}.")
        return by_code | dict(thresholds)
    if thresholds is None:
        return by_code
    values = np.atleast_1d(thresholds).tolist()
    values = values * len(codes) if len(values) == 1 else values
    if len(values) != len(codes):
        raise ValueError(
            f"{len(values)} thresholds for {len(codes)} AUs; give one, one for each, or a mapping by code."
        )
    return dict(zip(codes, values, strict=True))


__all__ = [
    "Augmentation",
    "FacialStatePipeline",
    "MF2ImageProcessor",
    "MF2ImageProcessorPil",
    "MF2Processor",
    "add_decoder_token",
    "alignment_matrix",
    "apply_matrix",
    "au_boxes_from_landmarks",
    "load_tokenizer",
    "read_image",
]
