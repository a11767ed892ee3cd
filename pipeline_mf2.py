"""The pipeline `facial-state-analysis`: pictures in, the named facial state of every face out.

    pipe = pipeline("facial-state-analysis", model="org/mf2", trust_remote_code=True)
    pipe("people.jpg")[0]["au_probs"]["AU12"]

It comes with a checkpoint and needs no package but its own. Where faces are in a picture is said by a detector, by
given landmarks, or not at all: then every picture is one face crop.
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

RESULT_KEYS = {"au_probs": "aus", "active_aus": "active", "emotion": "emotion", "emotion_probs": "emotions"}
"""Name in a result -> key of `MF2Processor.post_process_facial_states`."""

FaceLandmarks = str | LandmarkDetector | np.ndarray | Sequence[Any] | None


WHERE_POSSIBLE = object()
"""The default of `landmarks`: a detector, and the mean face where there is none."""


# -------------------------------------------------------------------------------------------------------- pipeline
class FacialStatePipeline(ChunkPipeline):
    """Action units, emotion and, on request, sentences of all faces of pictures.

    Options, of the pipeline or of a call:
        landmarks: `"detect"` runs the processor's detector, a detector is run itself; points in pixels of the upright
            picture, `(68, 2)` or `(faces, 68, 2)` for one picture or a list with an entry for each, are used as they
            are (None: that picture is a face crop); `"mean_face"` or None takes every picture as a face crop. Left
            out, it is `"detect"` or, where no detector is ready, `"mean_face"`, with one warning.
        landmark_detector, landmark_model_file: the detector that `"detect"` runs, by name, and the model file that it
            reads; `mf2 detectors` shows what there is, and where a file is found without being named.
        captions: which sentences to write: any of `emotion`, `key_au`, `au`.
        rerank: which of eight candidates is kept: the one that the recognisers support most (`"agreement"`, the
            default) or that the matching head prefers (`"match"`); `"none"` writes one, in an eighth of the time.
        thresholds: probabilities from which an AU is active, instead of the checkpoint's; see
            `MF2Processor.post_process_facial_states`.
        timeout: seconds to wait for a picture from the web.
    `batch_size` counts faces, whichever pictures they come from.
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
            For each picture a list of its faces, the largest first, empty where a detector found none; each has
            - **face** int, its place in the list.
            - **box** `xmin`, `ymin`, `xmax`, `ymax` in pixels of the upright picture; of a face crop, what was seen.
            - **score** the detector's, in [0, 1]; 1 for given landmarks, None for a face crop.
            - **landmarks_found** bool, False where the mean face stands in.
            - **au_probs** code to probability, independent of each other, in the order of the label space.
            - **active_aus** the codes of the AUs whose probability reaches their threshold, which comes with the
              checkpoint (`pipe.model.label_space.thresholds`).
            - **emotion**, **emotion_probs** the likeliest emotion, and all of them; they sum to 1.
            - **captions** kind to sentence, if asked for.
        Raises:
            ValueError: a picture cannot be read, or points are no landmarks; names it.
            ImportError, OSError: the detector's package or weights are missing; says what to do.
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
        """One chunk for each face; a picture without any has one chunk, which `postprocess` leaves out."""
        given = inputs if isinstance(inputs, Mapping) and "image" in inputs else {"image": inputs}
        picture = self._read(given["image"], timeout)
        if "landmarks" in given:
            landmarks = check_landmark_word(given["landmarks"])
            landmarks = MEAN_FACE if landmarks is None else landmarks
        elif landmarks is WHERE_POSSIBLE:
            is_asked_for = landmark_detector is not None or landmark_model_file is not None
            landmarks = DETECT if is_asked_for else self._detector_or_mean_face()
        is_mean_face = isinstance(landmarks, str) and landmarks == MEAN_FACE
        faces = [] if is_mean_face else self._locate(picture, landmarks, landmark_detector, landmark_model_file)
        points = np.stack([face.landmarks_px for face in faces]) if faces else None
        # The label space is the active adapter's; the model takes boxes for just its AUs.
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
        seen = self.model.recognize(self.model.encode_branches(pixels, boxes))
        outputs = {"au_logits": seen.au_logits, "emotion_logits": seen.emotion_logits}
        for kind in captions:
            settings = {} if rerank == "none" else {"rerank": rerank, "tokenizer": self.processor.tokenizer}
            ids = self.model.generate(pixels, boxes, caption_kind=kind, **settings)
            written = self.processor.batch_decode(ids, au_ids=self.model.label_space.au_ids)
            outputs[f"caption_{kind}"] = written if isinstance(model_inputs["is_last"], list) else written[0]
        return outputs | {name: model_inputs[name] for name in ("is_last", "face")}

    def postprocess(self, model_outputs: list[dict[str, Any]], thresholds: Any = None) -> list[dict[str, Any]]:
        """Logits to names and probabilities, see the class."""
        return [self._describe(chunk, thresholds) for chunk in model_outputs if chunk["face"] is not None]

    # ------------------------------------------------------------------------------------------------------- parts
    def _read(self, source: ImageSource, timeout: float | None) -> np.ndarray:
        name = image_name(source, 0)
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            source = load_image(source, timeout=timeout)
        return read_image(source, name, max_pixels=self.processor.image_processor.max_pixels)

    def _detector_or_mean_face(self) -> LandmarkDetector | str:
        """The processor's detector or, where none can be set up, the mean face, which is said once."""
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
        """What is known of a face before the model sees it."""
        matrix, size = batch["align_matrix"][idx].numpy(), tuple(batch["pixel_values"].shape[-2:])
        return {"face": idx, **describe_place(faces[idx] if faces else None, matrix, size, picture.shape[:2])}

    def _describe(self, chunk: dict[str, Any], thresholds: Any) -> dict[str, Any]:
        """The face and its state under the names of `__call__`."""
        logits = SimpleNamespace(au_logits=chunk["au_logits"], emotion_logits=chunk["emotion_logits"])
        (state,) = self.processor.post_process_facial_states(logits, self.model.label_space, thresholds)
        result = chunk["face"] | {name: state[key] for name, key in RESULT_KEYS.items() if key in state}
        captions = {kind: chunk[f"caption_{kind}"] for kind in CAPTION_KINDS if f"caption_{kind}" in chunk}
        return result | ({"captions": captions} if captions else {})


def _join_landmarks(inputs: Any, landmarks: Any) -> Any:
    """Pictures, one or a list, with the points that belong to each."""
    if not isinstance(inputs, (list, tuple)):
        return {"image": inputs, "landmarks": landmarks}
    if len(landmarks) != len(inputs):
        raise ValueError(f"{len(landmarks)} sets of landmarks for {len(inputs)} images; give one (or None) for each.")
    return [{"image": image, "landmarks": points} for image, points in zip(inputs, landmarks, strict=True)]


__all__ = ["FacialStatePipeline"]
