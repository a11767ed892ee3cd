"""The pipeline `facial-state-analysis`: the named facial states of all faces in pictures.

    pipe = pipeline("facial-state-analysis", model="org/mf2", trust_remote_code=True)
    pipe("people.jpg")[0]["au_probs"]["AU12"]

It is part of a checkpoint's code and does not need the package. Faces are located by a detector or by given landmarks;
otherwise every picture is treated as one face crop.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers.image_utils import load_image
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .caption_meaning_mf2 import RERANKINGS
from .images_mf2 import ImageSource, image_name, read_image
from .landmarks_mf2 import (
    DETECT,
    MEAN_FACE,
    DetectedFace,
    LandmarkDetector,
    check_landmark_word,
    describe_place,
    detect_in_pictures,
    faces_from_landmarks,
    find_detector,
    largest_first,
)

logger = logging.get_logger(__name__)

CAPTION_KINDS = ("emotion", "key_au", "au")

ANSWERS = ("au_logits", "emotion_logits", "affect")
"""What the recognisers return."""

RESULT_KEYS = {
    "au_probs": "aus",
    "active_aus": "active",
    "emotion": "emotion",
    "emotion_probs": "emotions",
    "valence": "valence",
    "arousal": "arousal",
}
"""Name in a result -> key of `MF2Processor.post_process_facial_states`."""

FaceLandmarks = str | LandmarkDetector | np.ndarray | Sequence[Any] | None


WHERE_POSSIBLE = object()
"""The default of `landmarks`: a detector if one is ready, and the mean face otherwise."""


# -------------------------------------------------------------------------------------------------------- pipeline
class FacialStatePipeline(ChunkPipeline):
    """Action units, emotion and, on request, captions of all faces in pictures.

    Options, of the pipeline or of a call:
        landmarks: `"detect"` runs the processor's detector; a detector object is run itself; points in pixels of the
            upright picture, `(68, 2)` or `(faces, 68, 2)` for one picture or a list with an entry for each, are used
            directly (None: that picture is a face crop); `"mean_face"` or None treats every picture as a face crop.
            The default is `"detect"` or, if no detector is ready, `"mean_face"` with one warning.
        landmark_detector, landmark_model_file: name and model file of the detector that `"detect"` runs;
            `mf2 detectors` lists the detectors and the default places of their files.
        captions: the captions to generate: any of `emotion`, `key_au`, `au`.
        rerank: how to choose among eight candidates: by the support of the recognisers (`"agreement"`, the default) or
            by the matching head (`"match"`); `"none"` generates a single candidate, in an eighth of the time.
        thresholds: probabilities from which on an AU is active, instead of the checkpoint's; see
            `MF2Processor.post_process_facial_states`.
        timeout: seconds to wait for a picture from the web.
    `batch_size` counts faces, of any pictures.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _default_landmarks: LandmarkDetector | str | None = None

    def __call__(self, inputs: Any, landmarks: FaceLandmarks = WHERE_POSSIBLE, **kwargs: Any) -> Any:
        """Analyse pictures.

        Args:
            inputs: a path, an address (http, https), a data URI, bytes, an open file, a PIL image, an array or a
                tensor; a list, generator or data set of them; or of `{"image": …, "landmarks": …}`.
            landmarks, **kwargs: see the class; `batch_size` and `num_workers` as for every pipeline.
        Returns:
            For each picture a list of its faces, the largest first, empty if no face was detected; each has
            - **face** int, its index in the list.
            - **box** `xmin`, `ymin`, `xmax`, `ymax` in pixels of the upright picture; of a face crop, what is seen.
            - **score** of the detector, in [0, 1]; 1 for given landmarks, None for a face crop.
            - **landmarks_found** bool, False if the mean face was used.
            - **au_probs** AU code -> probability (independent of each other), in the order of the label space.
            - **active_aus** the codes of the AUs whose probability reaches their threshold, by default that of the
              checkpoint (`pipe.model.label_space.thresholds`).
            - **emotion**, **emotion_probs** the most likely emotion, and the probabilities of all, which sum to 1.
            - **valence**, **arousal** from -1 to 1, if the model recognises them.
            - **captions** caption kind -> text, if requested.
        Raises:
            ValueError: a picture cannot be read, or landmarks are invalid; the picture is named.
            ImportError, OSError: the detector's package or weights are missing; the message has a remedy.
        """
        is_one_for_all = landmarks is None or isinstance(landmarks, (str, LandmarkDetector))
        if landmarks is not WHERE_POSSIBLE and not is_one_for_all:
            inputs = _join_landmarks(inputs, landmarks)
        elif is_one_for_all:
            kwargs["landmarks"] = landmarks
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        landmarks: str | LandmarkDetector | None = WHERE_POSSIBLE,
        landmark_detector: str | None = None,
        landmark_model_file: str | None = None,
        captions: str | Sequence[str] | None = None,
        rerank: str | None = None,
        thresholds: float | Sequence[float] | Mapping[str, float] | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        captions = [captions] if isinstance(captions, str) else captions
        if unknown := sorted(set(captions or ()) - set(CAPTION_KINDS)):
            raise ValueError(f"captions has {', '.join(unknown)}; known are {', '.join(CAPTION_KINDS)}.")
        if rerank not in (None, "none", *RERANKINGS):
            raise ValueError(f"rerank is {rerank!r}; choose one of {', '.join(RERANKINGS)}, or 'none'.")
        before = {
            "landmarks": None if landmarks is WHERE_POSSIBLE else check_landmark_word(landmarks) or MEAN_FACE,
            "landmark_detector": landmark_detector,
            "landmark_model_file": landmark_model_file,
            "timeout": timeout,
        }
        params = before, {"captions": captions, "rerank": rerank}, {"thresholds": thresholds}
        return tuple({name: value for name, value in of.items() if value is not None} for of in params)

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """As usual, with the whole processor."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    # ------------------------------------------------------------------------------------------------------- steps
    def preprocess(
        self,
        inputs: Any,
        landmarks: Any = WHERE_POSSIBLE,
        landmark_detector: str | None = None,
        landmark_model_file: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield one chunk per face; a picture without faces has one chunk, which `postprocess` drops."""
        entry = inputs if isinstance(inputs, Mapping) and "image" in inputs else {"image": inputs}
        picture = self._read(entry["image"], timeout)
        if "landmarks" in entry:
            landmarks = check_landmark_word(entry["landmarks"])
            landmarks = MEAN_FACE if landmarks is None else landmarks
        elif landmarks is WHERE_POSSIBLE:
            names_detector = landmark_detector is not None or landmark_model_file is not None
            landmarks = DETECT if names_detector else self._detector_or_mean_face()
        is_mean_face = isinstance(landmarks, str) and landmarks == MEAN_FACE
        faces = [] if is_mean_face else self._locate(picture, landmarks, landmark_detector, landmark_model_file)
        points = np.stack([face.landmarks_px for face in faces]) if faces else None
        # The label space is that of the active adapter; the model requires boxes of exactly its AUs.
        image_processor = self.processor.for_label_spaces(self.model.label_space).image_processor
        batch = image_processor([picture], landmarks=[points], face="all")
        num_rows = len(batch["pixel_values"])
        for idx in range(num_rows):
            face = self._describe_face(batch, idx, picture, faces)
            yield {
                "is_last": idx == num_rows - 1,
                "face": face if faces or is_mean_face else None,
                **{name: batch[name][idx : idx + 1] for name in ("pixel_values", "au_boxes")},
            }

    def _forward(
        self, model_inputs: dict[str, Any], captions: Sequence[str] = (), rerank: str = "agreement"
    ) -> dict[str, Any]:
        pixels, boxes = model_inputs["pixel_values"], model_inputs["au_boxes"]
        recognition = self.model.recognize(self.model.encode_branches(pixels, boxes))
        outputs = {name: getattr(recognition, name) for name in ANSWERS}
        for kind in captions:
            settings = {} if rerank == "none" else {"rerank": rerank, "tokenizer": self.processor.tokenizer}
            ids = self.model.generate(pixels, boxes, caption_kind=kind, **settings)
            texts = self.processor.batch_decode(ids, au_ids=self.model.label_space.au_ids)
            outputs[f"caption_{kind}"] = texts if isinstance(model_inputs["is_last"], list) else texts[0]
        return outputs | {name: model_inputs[name] for name in ("is_last", "face")}

    def postprocess(self, model_outputs: list[dict[str, Any]], thresholds: Any = None) -> list[dict[str, Any]]:
        """Convert logits to names and probabilities, see `__call__`."""
        return [self._describe(chunk, thresholds) for chunk in model_outputs if chunk["face"] is not None]

    # ------------------------------------------------------------------------------------------------------- parts
    def _read(self, source: ImageSource, timeout: float | None) -> np.ndarray:
        name = image_name(source, 0)
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            source = load_image(source, timeout=timeout)
        return read_image(source, name, max_pixels=self.processor.image_processor.max_pixels)

    def _detector_or_mean_face(self) -> LandmarkDetector | str:
        """The processor's detector or, if none can be loaded, the mean face, with one warning."""
        if self._default_landmarks is None:
            try:
                self._default_landmarks = find_detector(self.processor.image_processor.landmark_detector, self.device)
            except (ImportError, OSError, ValueError) as error:
                self._default_landmarks = MEAN_FACE
                logger.warning(
                    f"{error} Until then every picture is taken as one face crop, with the regions of the mean face: "
                    "faces are not found, and scores are lower (the model's card has both)."
                )
        return self._default_landmarks

    def _locate(
        self, picture: np.ndarray, landmarks: FaceLandmarks, detector: str | None, model_file: str | None
    ) -> list[DetectedFace]:
        if isinstance(landmarks, str):
            preferred = self.processor.image_processor.landmark_detector
            landmarks = find_detector(preferred, self.device, detector, model_file)
        if isinstance(landmarks, LandmarkDetector):
            return largest_first(detect_in_pictures(landmarks, [picture])[0])
        return largest_first(faces_from_landmarks(landmarks))

    def _describe_face(
        self, batch: Mapping[str, Any], idx: int, picture: np.ndarray, faces: Sequence[DetectedFace]
    ) -> dict[str, Any]:
        """The entries of a face's result that do not depend on the model."""
        matrix, size = batch["align_matrix"][idx].numpy(), tuple(batch["pixel_values"].shape[-2:])
        return {"face": idx, **describe_place(faces[idx] if faces else None, matrix, size, picture.shape[:2])}

    def _describe(self, chunk: dict[str, Any], thresholds: Any) -> dict[str, Any]:
        """The result of a face with the names in `__call__`."""
        answers = SimpleNamespace(**{name: chunk[name] for name in ANSWERS})
        (state,) = self.processor.post_process_facial_states(answers, self.model.label_space, thresholds)
        result = chunk["face"] | {name: state[key] for name, key in RESULT_KEYS.items() if key in state}
        captions = {kind: chunk[f"caption_{kind}"] for kind in CAPTION_KINDS if f"caption_{kind}" in chunk}
        return result | ({"captions": captions} if captions else {})


def _join_landmarks(inputs: Any, landmarks: Any) -> Any:
    """Combine one picture or a list of pictures with the landmarks of each."""
    if not isinstance(inputs, (list, tuple)):
        return {"image": inputs, "landmarks": landmarks}
    if len(landmarks) != len(inputs):
        raise ValueError(f"{len(landmarks)} sets of landmarks for {len(inputs)} images; give one (or None) for each.")
    return [{"image": image, "landmarks": points} for image, points in zip(inputs, landmarks, strict=True)]


__all__ = ["FacialStatePipeline"]
