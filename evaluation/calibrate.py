"""`mf2 calibrate --model M --data D`: fits AU thresholds and temperatures, and saves those that help held-out faces.

They are fitted on some of the videos and scored on the held-out ones; a part that does not improve there is not saved.
Temperatures need no field in the checkpoint: logits are linear in a head's weights, which are divided instead. The
videos then count as training videos, and an evaluation on them is refused (see `provenance`).

Writes `calibration.json` next to the weights: scores before and after, and what was saved.
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit, softmax
from transformers import AutoModel, AutoProcessor
from transformers.utils import CONFIG_NAME

from mf2.auto_mf2 import register_auto_classes
from mf2.baselines.modeling import register_baselines
from mf2.data_loading.csv_files import data_folder
from mf2.data_loading.splits import Split
from mf2.evaluation.calibration import (
    au_calibration,
    au_nll,
    emotion_calibration,
    emotion_nll,
    fit_au_temperatures,
    fit_emotion_temperature,
)
from mf2.evaluation.metrics import au_metrics, tune_thresholds
from mf2.evaluation.predictions import collect_logits, image_batches, predictions_from_logits
from mf2.evaluation.protocols import load_protocol
from mf2.hub.file_names import METRICS_NAME
from mf2.hub.provenance import find_overlap, record_training_videos
from mf2.labels_mf2 import LabelSpace
from mf2.modeling_mf2 import MF2PreTrainedModel
from mf2.utils.devices import choose_device
from mf2.utils.files import read_json, replacing, write_json
from mf2.utils.markdown import markdown_table

CALIBRATION_NAME = "calibration.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"
SMALLEST_THRESHOLD = 1e-6
LOWER_IS_BETTER = {"au_f1": False, "au_nll": True, "au_ece": True, "emotion_nll": True, "emotion_ece": True}


# ------------------------------------------------------------------------------------------------------- calibrations
@dataclass(frozen=True)
class Calibration:
    """Parameters that turn logits into decisions: threshold and temperature per AU, temperature of the emotions."""

    thresholds: tuple[float, ...]
    au_temperatures: tuple[float, ...]
    emotion_temperature: float = 1.0

    @classmethod
    def from_label_space(cls, label_space: LabelSpace) -> "Calibration":
        """The current calibration of a checkpoint."""
        return cls(label_space.thresholds, (1.0,) * len(label_space.au_ids))

    def with_au_temperatures(self, temperatures: list[float]) -> "Calibration":
        """Change the temperatures and keep the decisions: thresholds are transformed like the probabilities."""
        transformed = expit(logit(np.array(self.thresholds)) * self.au_temperatures / np.array(temperatures))
        bounded = np.clip(transformed, SMALLEST_THRESHOLD, 1 - SMALLEST_THRESHOLD)
        return replace(self, thresholds=tuple(bounded.tolist()), au_temperatures=tuple(temperatures))


@dataclass(frozen=True)
class Sample:
    """Logits `(N, A)` and `(N, E)` of faces, with their labels; a missing head has zero columns."""

    au_logits: np.ndarray
    emotion_logits: np.ndarray
    au_labels: np.ndarray
    emotion_labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Sample":
        """The selected rows."""
        return Sample(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def au_probs(self, calibration: Calibration) -> np.ndarray:
        """`(N, A)` probabilities."""
        return expit(self.au_logits / np.array(calibration.au_temperatures))

    def emotion_probs(self, calibration: Calibration) -> np.ndarray:
        """`(N, E)` probabilities."""
        has_emotions = self.emotion_logits.shape[1]
        return (
            softmax(self.emotion_logits / calibration.emotion_temperature, axis=1)
            if has_emotions
            else self.emotion_logits
        )

    def measure(self, calibration: Calibration, label_space: LabelSpace) -> dict[str, float | None]:
        """`au_f1`, `au_nll`, `au_ece`, `emotion_nll` and `emotion_ece`; None where nothing is labelled."""
        probs, codes = self.au_probs(calibration), label_space.au_codes
        scores: dict[str, float | None] = dict.fromkeys(LOWER_IS_BETTER)
        scores["au_f1"] = au_metrics(probs, self.au_labels, codes, calibration.thresholds)["f1"]
        if aus := au_calibration(probs, self.au_labels, codes):
            columns = zip(self.au_logits.T, self.au_labels.T, calibration.au_temperatures, strict=True)
            scores["au_nll"], scores["au_ece"] = float(np.nanmean([au_nll(*column) for column in columns])), aus["ece"]
        if emotion := emotion_calibration(self.emotion_probs(calibration), self.emotion_labels):
            temperature = calibration.emotion_temperature
            scores["emotion_nll"] = emotion_nll(self.emotion_logits, self.emotion_labels, temperature)
            scores["emotion_ece"] = emotion["ece"]
        return scores


def fit_thresholds(sample: Sample, calibration: Calibration) -> Calibration:
    """Tune the thresholds at fixed temperatures; AUs without both positive and negative labels are unchanged."""
    tuned = tune_thresholds(sample.au_probs(calibration), sample.au_labels)
    is_known = [(labels == 1).any() and (labels == 0).any() for labels in sample.au_labels.T]
    chosen = [new if known else old for new, old, known in zip(tuned, calibration.thresholds, is_known, strict=True)]
    return replace(calibration, thresholds=tuple(chosen))


def fit_au_part(sample: Sample, calibration: Calibration) -> Calibration:
    """Fit the AU temperatures by maximum likelihood, without changing decisions."""
    return calibration.with_au_temperatures(fit_au_temperatures(sample.au_logits, sample.au_labels))


def fit_emotion_part(sample: Sample, calibration: Calibration) -> Calibration:
    """Fit the emotions' temperature by maximum likelihood."""
    temperature = fit_emotion_temperature(sample.emotion_logits, sample.emotion_labels)
    return replace(calibration, emotion_temperature=temperature)


PARTS = {
    "au_temperatures": (fit_au_part, "au_nll"),
    "thresholds": (fit_thresholds, "au_f1"),
    "emotion_temperature": (fit_emotion_part, "emotion_nll"),
}
"""Part of a calibration -> its fit function and the score that decides whether it is kept, in order of fitting."""


def select_calibration(
    fit: Sample, held_out: Sample, label_space: LabelSpace, force: bool
) -> tuple[Calibration, list[str]]:
    """Fit each part on one sample, and keep it if its score improves on the other or if `force` is set.

    Returns:
        The calibration, and the names of the parts that were kept.
    """
    chosen, saved_parts = Calibration.from_label_space(label_space), []
    for part, (fit_part, score) in PARTS.items():
        candidate = fit_part(fit, chosen)
        before, after = (held_out.measure(calibration, label_space)[score] for calibration in (chosen, candidate))
        gains = before is not None and after is not None and compute_gain(score, before, after) > 0
        if candidate != chosen and (force or gains):
            chosen = candidate
            saved_parts.append(part)
    return chosen, saved_parts


def compute_gain(score: str, before: float, after: float) -> float:
    """Difference between two values of a score, positive for an improvement."""
    return before - after if LOWER_IS_BETTER[score] else after - before


def hold_out(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """`(N,)` bool: the rows of a random share of the videos.

    Raises:
        ValueError: there are fewer than two videos.
    """
    videos = np.unique(groups)
    if len(videos) < 2:
        raise ValueError(f"There is only {len(videos)} video to calibrate on; at least 2 are needed to hold one out.")
    count = min(max(1, round(share * len(videos))), len(videos) - 1)
    return np.isin(groups, np.random.default_rng(seed).permutation(videos)[:count])


# ------------------------------------------------------------------------------------------------------------- saving
def find_config_file(folder: Path) -> Path:
    """Return the configuration file with the thresholds, of a checkpoint or an adapter.

    Raises:
        FileNotFoundError: the folder has neither.
        ValueError: the adapter's method has no thresholds.
    """
    adapter = folder / ADAPTER_CONFIG_NAME
    if adapter.is_file():
        if "au_thresholds" not in read_json(adapter):
            raise ValueError(
                f"{adapter} has no au_thresholds: this kind of adapter answers in its base's label space."
            )
        return adapter
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint or adapter folder: it has no {CONFIG_NAME}.")
    return folder / CONFIG_NAME


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write thresholds into the configuration and temperatures into the heads; both files change together."""
    config_file = find_config_file(folder)
    config = read_json(config_file) | {"au_thresholds": list(calibration.thresholds)}
    with ExitStack() as stack:
        for file in head_files(folder):
            scale_heads(file, stack.enter_context(replacing(file)), calibration)
        write_json(stack.enter_context(replacing(config_file)), config)


def head_files(folder: Path) -> list[Path]:
    """The safetensors files in a folder that contain a recognition head."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            if any(head_temperature(name, Calibration((), ())) is not None for name in tensors.keys()):  # noqa: SIM118
                found.append(file)
    return found


def head_temperature(name: str, calibration: Calibration) -> torch.Tensor | None:
    """Temperature `(A,)` or `()` that divides the named parameter; None if it does not belong to a head."""
    module = name.split(".")[-2:-1]
    if module == ["au_head"]:
        return torch.tensor(calibration.au_temperatures, dtype=torch.float64)
    return torch.tensor(calibration.emotion_temperature, dtype=torch.float64) if module == ["emotion_head"] else None


def scale_heads(source: Path, target: Path, calibration: Calibration) -> None:
    """Copy a safetensors file with the weights and biases of the heads divided by their temperatures."""
    with safe_open(source, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(source)
    for name, tensor in tensors.items():
        temperature = head_temperature(name, calibration)
        if temperature is not None:
            divisor = temperature[:, None] if temperature.ndim < tensor.ndim and temperature.ndim else temperature
            tensors[name] = (tensor.double() / divisor).to(tensor.dtype).contiguous()
    save_file(tensors, target, metadata=metadata)


# ------------------------------------------------------------------------------------------------------------ command
def run(args: argparse.Namespace) -> None:
    """Fit, score on the held-out videos, save what improved, and print the table.

    Raises:
        ValueError, OSError: a value is out of range, the folder does not exist, or there are no labels.
    """
    if not 0 < args.holdout < 1:
        raise ValueError(f"--holdout is {args.holdout}; it must lie between 0 and 1.")
    for name in ("max_rows", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be >= 1.")
    args.device = args.device or choose_device()
    find_config_file(args.model)
    register_auto_classes()
    register_baselines()
    model = AutoModel.from_pretrained(args.model).eval().to(args.device)
    label_space = model.label_space
    data = data_folder(args.data, args.model)
    split = load_protocol(data, args.split, "mfa", label_space.au_ids, args.max_rows)
    sample, groups = read_sample(model, split, args)
    held_out = hold_out(groups, args.holdout, args.seed)
    chosen, saved_parts = select_calibration(sample.take(~held_out), sample.take(held_out), label_space, args.force)
    before, after = (
        sample.take(held_out).measure(calibration, label_space)
        for calibration in (Calibration.from_label_space(label_space), chosen)
    )
    overlap = find_overlap(split.rows, [args.model])
    print(format_gains(before, after))
    num_videos = len(np.unique(groups[held_out]))
    print(
        f"Measured on {held_out.sum():,} faces of {num_videos:,} held-out videos; "
        f"fitted on {(~held_out).sum():,} others."
    )
    if overlap.seen:
        print(
            f"The model has seen {len(overlap.seen):,} of the {overlap.num_videos:,} videos, which flatters all of it."
        )
    if not saved_parts:
        print(f"Nothing gained on the held-out videos, so {args.model} is as it was; --force saves it all the same.")
        return
    record = {"data": split.description, "seed": args.seed, "held_out_videos": num_videos, **overlap.to_dict()}
    record |= {"saved": saved_parts, "before": before, "after": after, "calibration": asdict(chosen)}
    record_training_videos(args.model, split.rows)
    save_calibration(args.model, chosen)
    write_json(args.model / CALIBRATION_NAME, record)
    print(f"Saved into {args.model}: {', '.join(saved_parts)}.")
    if (args.model / METRICS_NAME).is_file():
        print(f"Its {METRICS_NAME} was measured before; `mf2 evaluate` measures it anew.")


@torch.no_grad()
def read_sample(model: MF2PreTrainedModel, split: Split, args: argparse.Namespace) -> tuple[Sample, np.ndarray]:
    """Compute the logits of a split; return them with its labels, and the `(N,)` group of each row."""
    processor = AutoProcessor.from_pretrained(args.model).for_label_spaces(model.label_space)
    batches = image_batches(split, processor.image_processor, args.batch_size, args.device)
    au_logits, emotion_logits, _ = collect_logits(model(**batch) for batch in batches)
    found = predictions_from_logits(split, model.label_space, au_logits, emotion_logits)
    no_columns = np.zeros((len(found), 0))
    sample = Sample(
        no_columns if au_logits is None else au_logits,
        no_columns if emotion_logits is None else emotion_logits,
        found.au_labels,
        found.emotion_labels,
    )
    return sample, found.group_ids


def format_gains(before: dict[str, float | None], after: dict[str, float | None]) -> str:
    """One row per score: before, after, and the gain, positive for an improvement."""
    rows = []
    for score in LOWER_IS_BETTER:
        old, new = before[score], after[score]
        if old is not None and new is not None:
            gain = round(compute_gain(score, old, new), 4) + 0.0  # no -0.0000
            rows.append((score.replace("_", " "), f"{old:.4f}", f"{new:.4f}", f"{gain:+.4f}"))
    return markdown_table(("held-out", "before", "after", "gain"), rows)
