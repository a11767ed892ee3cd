"""Evaluates a checkpoint, its adapters, or the predictions of another system.

    mf2 evaluate --model outputs/demo --data data/faces --output_dir outputs/demo/evaluation
    mf2 evaluate --predictions other.csv --data data/faces --output_dir outputs/other

Writes `metrics.json`, `metrics.md` (the printed tables), `predictions.parquet`, `confusion.png`, `aus.png` and
`reliability.png` into OUTPUT_DIR; one sub-folder per adapter if there are several; with `--references` also
`references.json`. Every score has a confidence interval over videos and the score of a trivial predictor. Videos that
the model was trained or tuned on are refused.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModel, AutoProcessor

from mf2.auto_mf2 import register_auto_classes
from mf2.baselines.modeling import register_baselines
from mf2.data_loading.csv_files import data_folder
from mf2.data_loading.splits import Split
from mf2.dataset_tools.captions.rules import CaptionKind
from mf2.evaluation.caption_scores import caption_kinds, score_captions
from mf2.evaluation.external_predictions import ExternalPredictions
from mf2.evaluation.landmark_sources import (
    LandmarkSource,
    compare_landmarks,
    headline_source,
    landmark_sources,
)
from mf2.evaluation.plots import draw_all
from mf2.evaluation.predictions import (
    Predictions,
    collect_logits,
    image_batches,
    predict,
    predictions_from_logits,
)
from mf2.evaluation.protocols import load_protocol, subsample
from mf2.evaluation.reference_predictors import format_table, measure_references
from mf2.evaluation.retrieval import retrieval_scores
from mf2.evaluation.scores import evaluate_by_group, evaluate_predictions
from mf2.hub.evaluation_markdown import format_report
from mf2.hub.file_names import METRICS_NAME
from mf2.hub.provenance import Overlap, find_overlap, refuse_overlap
from mf2.hub.sources import check_model_source
from mf2.labels_mf2 import LabelSpace
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2Model, MF2Output, MF2PreTrainedModel
from mf2.processing_mf2 import MF2Processor
from mf2.utils.devices import check_device, choose_device
from mf2.utils.environment import describe_environment
from mf2.utils.files import write_json, write_text

logger = logging.getLogger(__name__)

SYSTEM_LANDMARKS = "its own"
"""Key of the predictions of another system, which finds faces by itself."""
PREDICTIONS_NAME = "predictions.parquet"
REPORT_NAME = "metrics.md"
REFERENCES_NAME = "references.json"


@dataclass(frozen=True)
class Measurement:
    """Predictions to score, with the rows they are for.

    Args:
        name: of the model, adapter or system.
        predictions: by landmark source; only `SYSTEM_LANDMARKS` for another system.
        split: the evaluated rows.
        groups: group of each row, if scores are reported by group.
        overlap: training videos among the rows.
        sources: landmark sources with their counts; empty for another system.
    """

    name: str
    label_space: LabelSpace
    predictions: dict[str, Predictions]
    split: Split
    groups: list[Any] | None
    overlap: Overlap
    sources: dict[str, LandmarkSource]

    @property
    def landmarks(self) -> str:
        """The source whose scores are reported in full."""
        return headline_source(self.predictions)


# ------------------------------------------------------------------------------------------------------------- models
def load_model(name_or_path: str, adapters: Sequence[str]) -> tuple[MF2PreTrainedModel, MF2Processor, dict[str, str]]:
    """Load a checkpoint (or an adapter with its base model), further adapters, and the processor.

    Returns:
        The model, the processor, and adapter name -> folder.
    Raises:
        OSError, ValueError: it cannot be loaded, or two adapters have the same name.
    """
    for name in (name_or_path, *adapters):
        check_model_source(name)
    register_auto_classes()
    register_baselines()
    model = AutoModel.from_pretrained(name_or_path)
    folders: dict[str, str] = {}
    for folder in adapters:
        name = Path(folder).resolve().name.replace(".", "_")  # a module's name has no dots
        if name in folders:
            raise ValueError(f"Two adapters are called {name}: {folders[name]} and {folder}; rename one.")
        model.load_adapter(folder, adapter_name=name)
        folders[name] = folder
    return model, AutoProcessor.from_pretrained(name_or_path), folders


def measure_model(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """Predict with the checkpoint, or with each of its adapters."""
    model, processor, adapters = load_model(arguments.model, arguments.adapter)
    for adapter in adapters or (None,):
        trained = [arguments.model]
        if adapter is not None:
            model.set_adapter(adapter)
            trained.append(adapters[adapter])
        label_space = model.label_space
        split, groups = load_rows(arguments, label_space)
        overlap = check_overlap(split, trained, arguments.allow_seen)
        image_processor = processor.for_label_spaces(label_space).image_processor
        sources = landmark_sources(arguments.landmarks, image_processor.landmark_detector, arguments.device)
        predictions = {
            name: predict(model, image_processor, split, arguments.batch_size, arguments.device, source)
            for name, source in sources.items()
        }
        name = adapter or Path(arguments.model).resolve().name
        yield Measurement(name, label_space, predictions, split, groups, overlap, sources)


def measure_system(arguments: argparse.Namespace) -> Iterator[Measurement]:
    """Read the predictions of another system; its training videos are unknown."""
    table = ExternalPredictions.read(arguments.predictions)
    split, groups = load_rows(arguments, table.label_space)
    overlap = find_overlap(split.rows, [])
    yield Measurement(
        table.name, table.label_space, {SYSTEM_LANDMARKS: table.match(split)}, split, groups, overlap, {}
    )


def load_rows(arguments: argparse.Namespace, label_space: LabelSpace) -> tuple[Split, list[Any] | None]:
    """Load the rows that the protocol scores, and their groups."""
    split = load_protocol(
        arguments.data,
        arguments.split,
        arguments.protocol,
        label_space.au_ids,
        arguments.max_rows,
        affect=label_space.affect,
    )
    return split, column_values(split.rows, arguments.group_by) if arguments.group_by else None


def column_values(rows: datasets.Dataset, column: str) -> list[Any]:
    """The values of a column to group rows by; class labels as their names.

    Raises:
        ValueError: there is no such column.
    """
    if column not in rows.features:
        raise ValueError(f"The data set has no column {column!r} to group by; it has {', '.join(rows.features)}.")
    names, values = getattr(rows.features[column], "names", None), rows[column]
    return [names[value] if names and value is not None else value for value in values]


def check_overlap(split: Split, sources: Sequence[str], allow_seen: bool) -> Overlap:
    """Refuse training videos unless they are allowed; warn if the training videos are unknown."""
    overlap = find_overlap(split.rows, sources)
    if not allow_seen:
        refuse_overlap(overlap, sources)
    if overlap.seen is None:
        logger.warning(f"{' and '.join(sources)} do not record their training videos; overlap cannot be checked.")
    elif overlap.seen:
        logger.warning(f"{len(overlap.seen)} of {overlap.num_videos} videos were seen in training; marked in metrics.")
    return overlap


# ------------------------------------------------------------------------------------------------------------- scores
def compute_metrics(measured: Measurement, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute the content of `metrics.json`."""
    predictions, label_space = measured.predictions[measured.landmarks], measured.label_space
    resampling = {"num_bootstrap": arguments.num_bootstrap, "seed": arguments.seed}
    evaluation = {
        "data": measured.split.description,
        "protocol": arguments.protocol,
        "landmarks": measured.landmarks,
        "overlap": measured.overlap.to_dict(),
        **evaluate_predictions(predictions, label_space, **resampling),
    }
    if measured.sources:
        evaluation["by_landmarks"] = compare_landmarks(
            measured.predictions, measured.sources, label_space, **resampling
        )
    if measured.groups is not None:
        by_group = evaluate_by_group(predictions, label_space, measured.groups, **resampling)
        evaluation["by_group"] = {"column": arguments.group_by, **by_group}
    if arguments.captions:
        evaluation |= score_generation(measured, arguments)
    return {
        "model": {"name": measured.name, "label_space": label_space.to_dict()},
        "evaluation": evaluation,
        "environment": describe_environment(1) | {"device": arguments.device},
    }


@torch.no_grad()
def score_generation(measured: Measurement, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compute `retrieval` (between faces and captions) and `captions` (those that the checkpoint generates)."""
    model = MF2ForConditionalGeneration.from_pretrained(arguments.model).eval().to(arguments.device)
    processor = AutoProcessor.from_pretrained(arguments.model)
    split = subsample(measured.split, arguments.caption_rows)
    settings = {"num_beams": 1}
    if arguments.rerank != "none":
        settings = {"rerank": arguments.rerank, "tokenizer": processor.tokenizer}
    outputs: list[MF2Output] = []
    captions: dict[CaptionKind, list[str]] = {kind: [] for kind in caption_kinds(model.config, model.label_space)}
    batches = image_batches(
        split,
        processor.image_processor,
        arguments.batch_size,
        arguments.device,
        measured.sources[measured.landmarks],
    )
    for batch in batches:
        outputs.append(select_outputs(MF2Model.forward(model, **batch)))
        for kind, written in captions.items():
            written += processor.batch_decode(model.generate(**batch, caption_kind=kind, **settings))
    predictions = predictions_from_logits(split, measured.label_space, *collect_logits(outputs))

    def count_tokens(text: str) -> int:
        return len(processor.tokenizer(text)["input_ids"])

    return {
        "retrieval": retrieval_scores(model, processor.tokenizer, split, outputs),
        "captions": score_captions(captions, predictions, measured.label_space, count_tokens),
        "rerank": arguments.rerank,
    }


def select_outputs(output: MF2Output) -> MF2Output:
    """Logits and embeddings on the CPU, without the hidden states, which are larger."""
    names = ("au_logits", "emotion_logits", "affect", "au_embeds", "emotion_embeds")
    tensors = {name: getattr(output, name) for name in names}
    return MF2Output(**{name: tensor.float().cpu() for name, tensor in tensors.items() if tensor is not None})


def write_report(measured: Measurement, metrics: dict[str, Any], folder: Path) -> None:
    """Write the tables, metrics and plots into the folder, and print the tables."""
    text = format_report(metrics)
    write_text(folder / REPORT_NAME, text)
    write_json(folder / METRICS_NAME, metrics)
    print(text)
    draw_all(metrics["evaluation"], measured.label_space.emotions, folder)


# ------------------------------------------------------------------------------------------------------- command line
def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise a `ValueError` for invalid or conflicting arguments."""
    if bool(arguments.model) == bool(arguments.predictions):
        raise ValueError("Give either --model or --predictions.")
    if arguments.predictions and (arguments.adapter or arguments.captions):
        raise ValueError("--predictions are scored as they are; --adapter and --captions need a --model.")
    if arguments.captions and arguments.adapter:
        raise ValueError("--captions reads what the checkpoint itself learned; leave out --adapter.")
    if arguments.references and (arguments.predictions or arguments.adapter):
        raise ValueError("--references stand beside a checkpoint: they need --model, without --adapter.")
    for name, low in {"caption_rows": 1, "max_rows": 1, "num_bootstrap": 0, "seed": 0, "batch_size": 1}.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise ValueError(f"--{name} is {value}; it must be >= {low}.")
    if arguments.device:
        check_device(arguments.device)
    mf2_only = [name for name in ("adapter", "captions", "references") if getattr(arguments, name)]
    if arguments.model and mf2_only:
        check_model_source(arguments.model, f"--{mf2_only[0]}")


def run(arguments: argparse.Namespace) -> None:
    """Run the evaluation: predict, score, print and write everything.

    Raises:
        ValueError: a value is out of range, or arguments conflict.
    """
    check_arguments(arguments)
    arguments.device = arguments.device or choose_device()
    arguments.data = data_folder(arguments.data, arguments.output_dir)
    measure = measure_system if arguments.predictions else measure_model
    for measured in measure(arguments):
        folder = Path(arguments.output_dir, measured.name if len(arguments.adapter) > 1 else "")
        folder.mkdir(parents=True, exist_ok=True)
        predictions = measured.predictions[measured.landmarks]
        predictions.save(folder / PREDICTIONS_NAME, measured.label_space)  # before scoring, which can take long
        write_report(measured, compute_metrics(measured, arguments), folder)
    if arguments.references:
        references = measure_references(arguments.model, arguments.data, arguments.seed, arguments.device)
        write_json(Path(arguments.output_dir, REFERENCES_NAME), references)
        print(f"## Reference predictors\n\n{format_table(references['scores'])}", end="")
