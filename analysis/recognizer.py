"""Inference with a checkpoint and any number of adapters: from pictures and landmarks to named results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import AutoModelForImageTextToText, AutoProcessor

from .. import __version__
from ..auto_mf2 import register_auto_classes
from ..baselines.modeling import BaselineModel, register_baselines
from ..labels_mf2 import AFFECT, LabelSpace
from ..onnx_runtime.description import INPUT_NAMES
from ..processing_mf2 import MF2Processor
from ..recognition_mf2 import BASE
from ..utils.devices import TF32, cuda_products
from ..utils.threads import fit_threads


def choose_device(name: str | None) -> torch.device:
    """Return the named device after testing it; by default an available GPU, else the CPU.

    Raises:
        ValueError: the device does not exist or does not work.
    """
    if name is None:
        is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, available in is_available.items() if available))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}); leave it out or name another.") from error
    return device


def compile_image_passes(model: Any, backend: str | Callable = "inductor") -> None:
    """Compile the tower and the branches for images, for any batch size.

    Only the batch size is a symbol: with symbolic picture sizes, EfficientNet's padding, which depends on the size,
    becomes expressions that take many minutes to simplify.
    """
    compiled = torch.compile(model.encode_branches, backend=backend)

    def encode_branches(pixel_values: torch.Tensor, au_boxes: torch.Tensor | None, *args: Any, **kwargs: Any) -> Any:
        for inputs in (pixel_values, au_boxes):
            if inputs is not None:
                torch._dynamo.maybe_mark_dynamic(inputs, 0)
        return compiled(pixel_values, au_boxes, *args, **kwargs)

    model.encode_branches = encode_branches


class Recognizer:
    """Recognises batches of faces with the checkpoint and all adapters in one pass.

    The primary label space, that of the checkpoint or of the adapter that was loaded as the model, is made the active
    one and generates the captions.

    Args:
        model: in evaluation mode, on its device, with the adapters loaded.
        processor: the checkpoint's.
        adapters: names of the model's adapters to run besides the primary one.
        precision: how a GPU multiplies float32, see `PRECISIONS`; a CPU always does so in float32.
    Attributes:
        label_spaces: column prefix (`""`, then `"<adapter>."`) -> label space of those columns.
        image_processor: computes the boxes of the AUs of all label spaces.
    """

    def __init__(self, model: Any, processor: MF2Processor, adapters: Sequence[str] = (), precision: str = TF32):
        self.model, self.processor, self.precision = model, processor, precision
        primary = [name for name in model.label_spaces if name not in adapters][-1]
        self._prefixes = {primary: "", **{name: f"{name}." for name in adapters}}
        if adapters:
            self._set_active(primary)
        spaces = [model.label_spaces[name] for name in self._prefixes]
        self.label_spaces: dict[str, LabelSpace] = dict(zip(self._prefixes.values(), spaces, strict=True))
        self.image_processor = processor.for_label_spaces(*spaces).image_processor
        self._primary_boxes = [self.image_processor.au_ids.index(au_id) for au_id in spaces[0].region_au_ids]

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        adapters: Sequence[str] = (),
        device: str | None = None,
        compile: bool = False,
        precision: str = TF32,
    ) -> "Recognizer":
        """Load a checkpoint, or an adapter with its base, and further adapters, each named after its folder.

        Args:
            model: folder or Hub id of a checkpoint or adapter.
            adapters: folders or Hub ids of DFN adapters.
            device: see `choose_device`.
            compile: compile the tower and the branches for images, for any batch size.
            precision: how a GPU multiplies float32, see `PRECISIONS`.
        Raises:
            ValueError: two adapters have the same name, one is not a DFN adapter, or the device does not work.
        """
        register_auto_classes()
        register_baselines()
        names = [_adapter_name(adapter) for adapter in adapters]
        if len({BASE, *names}) <= len(names):
            raise ValueError(f"Adapters are called {', '.join(names)}; the names must differ, and none is {BASE!r}.")
        target_device = choose_device(device)
        fit_threads(target_device)  # measures the free cores before the first batch
        loaded: Any = AutoModelForImageTextToText.from_pretrained(model)
        loaded = loaded.to(target_device)
        processor = AutoProcessor.from_pretrained(model)
        if isinstance(loaded, BaselineModel) and (names or compile):
            raise ValueError(f"{model} is a {loaded.config.baseline}: it takes no adapters and is not compiled.")
        for name, adapter in zip(names, adapters, strict=True):
            loaded.load_adapter(adapter, adapter_name=name)
            if name not in loaded.label_spaces:
                raise ValueError(f"{adapter} is no DFN adapter and cannot share a pass; give it as --model alone.")
        if compile:
            compile_image_passes(loaded)
        return cls(loaded.eval().to(target_device), processor, names, precision)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def landmark_detector(self) -> str:
        """The detector that the checkpoint prefers."""
        return self.image_processor.landmark_detector

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version of what computes the results."""
        return {"mf2": __version__, "torch": torch.__version__}

    def prepare(self, pictures: Sequence[np.ndarray], landmarks: Sequence[ArrayLike | None]) -> dict[str, Any]:
        """Preprocess the faces of pictures; see `FaceRecognizer.prepare`."""
        batch = self.image_processor(pictures, landmarks=landmarks, face="all", device=self.device)
        inputs = {name: batch[name] for name in INPUT_NAMES}
        return inputs | {"align_matrix": batch["align_matrix"].cpu().numpy()}

    @torch.inference_mode()
    def recognize(self, inputs: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
        """Recognise a batch of faces.

        Args:
            inputs: `pixel_values` `(B, 3, H, W)` and `au_boxes` `(B, A, 2, 4)` of the image processor.
        Returns:
            For each face the columns `AU1`, …, `emotion`, `emotion_Neutral`, …, `valence`, `arousal`, with the prefix
            of each label space.
        """
        fit_threads(self.device)
        inputs = {name: inputs[name].to(self.device, non_blocking=True) for name in INPUT_NAMES}
        with cuda_products(self.precision):
            outputs = self.model.forward_adapters(list(self._prefixes), **inputs, au_ids=self.image_processor.au_ids)
        rows: list[dict[str, Any]] = [{} for _ in inputs["pixel_values"]]
        for name, prefix in self._prefixes.items():
            states = self.processor.post_process_facial_states(outputs[name], self.label_spaces[prefix])
            for row, state in zip(rows, states, strict=True):
                row.update(_state_columns(state, prefix))
        return rows

    def primary_inputs(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """`pixel_values` and the `au_boxes` of the primary label space alone, on the model's device."""
        pixels, boxes = (inputs[name].to(self.device) for name in INPUT_NAMES)
        return pixels, boxes[:, self._primary_boxes]

    @contextmanager
    def activate(self, prefix: str) -> Iterator[list[int]]:
        """Within the block the model itself answers for the label space of that column prefix.

        Args:
            prefix: `""`, or `"<adapter>."`.
        Yields:
            Where the boxes of its AUs are among `au_boxes`.
        """
        names = {of_name: name for name, of_name in self._prefixes.items()}
        self._set_active(names[prefix])
        try:
            yield [self.image_processor.au_ids.index(au_id) for au_id in self.label_spaces[prefix].region_au_ids]
        finally:
            self._set_active(names[""])

    def _set_active(self, name: str) -> None:
        if name == BASE and len(self._prefixes) > 1:
            self.model.disable_adapters()
        elif name != BASE:
            self.model.set_adapter(name)
            self.model.enable_adapters()

    def write_captions(
        self, inputs: Mapping[str, torch.Tensor], kinds: Sequence[str], rerank: str | None = "agreement"
    ) -> list[dict[str, str]]:
        """Generate captions of a batch of faces.

        Args:
            inputs: as for `recognize`.
            kinds: kinds of caption.
            rerank: how one of several candidates is chosen, see `MF2ForConditionalGeneration.generate`; None
                generates only one.
        Returns:
            For each face the columns `caption_emotion`, ….
        """
        pixels, boxes = self.primary_inputs(inputs)
        au_ids = self.model.label_space.au_ids
        settings = {"rerank": rerank, "tokenizer": self.processor.tokenizer} if rerank else {"num_beams": 1}
        written = {}
        for kind in kinds:
            fit_threads(self.device)
            with cuda_products(self.precision):
                ids = self.model.generate(pixels, boxes, caption_kind=kind, **settings)
            written[f"caption_{kind}"] = self.processor.batch_decode(ids, au_ids=au_ids)
        return [{name: texts[face] for name, texts in written.items()} for face in range(len(pixels))]


def _adapter_name(path: str) -> str:
    """The last part of a folder or repository name, usable in a column name."""
    return Path(path).name.replace(".", "_")


def _state_columns(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    columns = {prefix + code: prob for code, prob in state.get("aus", {}).items()}
    if "emotion" in state:
        columns[f"{prefix}emotion"] = state["emotion"]
        columns |= {f"{prefix}emotion_{name}": prob for name, prob in state["emotions"].items()}
    return columns | {prefix + name: state[name] for name in AFFECT if name in state}
