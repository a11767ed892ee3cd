"""Model cards: filled from the `metrics.json` and the configuration that lie in the folder, and from nothing else."""

import importlib.metadata
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from packaging.requirements import Requirement

from mf2.baselines.registry import MODEL_TYPE, load_system
from mf2.dataset_tools.card_template import render_card
from mf2.dataset_tools.privacy import RESTRICTED, restricted_sources
from mf2.hub.evaluation_markdown import format_scores
from mf2.hub.file_names import ADAPTER_CONFIG_NAME, CARD_NAME, CONFIG_NAME, METRICS_NAME, OVERLAY_NAME
from mf2.labels_mf2 import LabelSpace
from mf2.utils.files import read_json, replacing

TAGS = ("mf2", "facial-action-units", "facial-expression-recognition", "emotion")
SCORED_WITH = {"detect": "detected landmarks", "mean_face": "no landmarks", "given": "given landmarks"}
DISTRIBUTION = "mf2-face"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class PinnedRepo:
    """A repository on the Hub at a commit; `sha` is None where it is not known."""

    repo_id: str
    sha: str | None = None


@dataclass(frozen=True)
class Placement:
    """What a card tells of places on the Hub.

    Args:
        repo_id: of what the card describes.
        base: what it was fine-tuned from; None for an adapter takes what its configuration records.
        base_training_data: provenance of the base's training data, as its configuration lists it.
        evaluation: the data set that the scores were measured on, where it is on the Hub.
        permission: what allows restricted data, or what derives from it, to be public.
    """

    repo_id: str
    base: PinnedRepo | None = None
    base_training_data: tuple[Mapping[str, Any], ...] = ()
    evaluation: PinnedRepo | None = None
    permission: str | None = None


# ---------------------------------------------------------------------------------------------------------------- card
def write_card(folder: str | Path, placement: Placement | None = None, metrics: dict[str, Any] | None = None) -> Path:
    """Write the `README.md` of a checkpoint or an adapter; see `make_card`."""
    file = Path(folder, CARD_NAME)
    with replacing(file) as partial:
        partial.write_text(str(make_card(folder, placement, metrics)), "utf-8")
    return file


def make_card(
    folder: str | Path, placement: Placement | None = None, metrics: dict[str, Any] | None = None
) -> ModelCard:
    """The card of a checkpoint or an adapter, as the Hub reads it.

    The template is rendered by `render_card` and not by `ModelCard.from_template`, which leaves a blank where a figure
    is missing.

    Args:
        folder: with the configuration and `metrics.json`.
        placement: where it will be published; before that the folder's name stands in.
        metrics: instead of the folder's.
    Raises:
        ValueError: a figure that the card shows was not measured, or is not finite.
    """
    folder = Path(folder)
    metrics = metrics or read_json(folder / METRICS_NAME)
    _refuse_not_finite(metrics)
    is_local, placement = placement is None, placement or Placement(metrics["model"]["name"])
    is_adapter = (folder / ADAPTER_CONFIG_NAME).is_file()
    config = read_json(folder / (ADAPTER_CONFIG_NAME if is_adapter else CONFIG_NAME))
    training_data = list_training_data(config, metrics, placement)
    facts = metrics | {
        "name": placement.repo_id.split("/")[-1],
        "repo_id": placement.repo_id,
        "synthetic": all(data.get("synthetic") for data in training_data),
        "training_data": training_data,
        "restricted": restricted_sources(training_data),
        "labels": describe_labels(config),
        "results": _format_results(metrics["evaluation"]),
        "requirements": requirements(is_adapter),
    }
    source = "." if is_local else placement.repo_id  # a folder is loaded from within
    facts["overlay"] = (folder / OVERLAY_NAME).is_file() and not facts["restricted"]
    if is_adapter:
        named = Path(config["base_model_name_or_path"]).name
        base: PinnedRepo | None = placement.base or PinnedRepo(named, config.get("revision"))
        facts |= {"base": base, "method": config["peft_type"], "loading": loading_lines(source, base=base)}
        template, relation = "adapter.md", "adapter"
    elif config.get("model_type") == MODEL_TYPE:
        facts |= {"base": None, "about": load_system(config["baseline"]).about, "source": source}
        template, relation = "baseline.md", "baseline"
    else:
        named = metrics["model"].get("base")
        base = placement.base or (PinnedRepo(named, metrics["model"].get("base_revision")) if named else None)
        facts |= {"base": base, "loading": loading_lines(source)}
        template, relation = "checkpoint.md", "finetune"
    card = ModelCard(render_card(template, card_data=_card_data(facts, placement, relation).to_yaml(), **facts))
    card.text += permission_section(placement.permission)
    return card


def _card_data(facts: Mapping[str, Any], placement: Placement, relation: str) -> ModelCardData:
    """The front matter. `library_name` is transformers for adapters too: PEFT's own snippet needs a task type.

    Args:
        relation: to the base, in the Hub's words; `baseline` for another system than MF².
    """
    base = facts["base"].repo_id if facts["base"] else ""  # before publication it may be a folder's name
    further: dict[str, Any] = {}
    if HUB_ID.fullmatch(base):
        further |= {"base_model": base, "base_model_relation": relation}
    if facts["restricted"]:
        further["license_name"] = "terms-of-the-training-data"
    datasets = [data["name"] for data in facts["training_data"] if HUB_ID.fullmatch(data["name"])]
    is_ours = relation != "baseline"  # other systems need the package, and are nothing that the Hub's widget runs
    kinds = {"adapter": ("peft", "dfn"), "baseline": ("baseline",)}
    return ModelCardData(
        license=RESTRICTED if facts["restricted"] else facts["model"]["license"],
        library_name="transformers" if is_ours else DISTRIBUTION,
        pipeline_tag="image-classification" if is_ours and facts["labels"]["emotions"] else None,  # the widget's
        tags=[*TAGS, *kinds.get(relation, ("image-to-text",))],
        datasets=datasets or None,
        model_name=facts["name"],
        eval_results=_model_index(facts["evaluation"], placement.evaluation),
        **further,
    )


def requirements(is_adapter: bool) -> list[str]:
    """What the card's lines need, in the ranges that this package declares."""
    names = ["torch", "transformers", "pillow", *(["peft"] if is_adapter else [])]
    declared: dict[str, str] = {}
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION) or []):
        bounds = sorted(map(str, requirement.specifier), reverse=True)  # the lower bound first
        declared.setdefault(requirement.name, ",".join(bounds))
    return [f"`{name}{declared.get(name, '')}`" for name in names]


def permission_section(permission: str | None) -> str:
    """What a card ends with when restricted data are public."""
    return f"\n## Permission\n\n{permission.strip()}\n" if permission else ""


# --------------------------------------------------------------------------------------------------------------- facts
def list_training_data(
    config: Mapping[str, Any], metrics: Mapping[str, Any], placement: Placement | None = None
) -> list[dict[str, Any]]:
    """Provenance of everything that was trained on, the base's first: `name`, `license`, `rows`, `videos` and so on.

    A checkpoint's configuration lists it all; an adapter adds what its own training saw.
    """
    recorded = list(config.get("training_data") or [metrics["training"]["data"]])
    return [dict(data) for data in (*(placement.base_training_data if placement else ()), *recorded)]


def label_space_of(config: Mapping[str, Any]) -> LabelSpace | None:
    """What the outputs of a checkpoint or an adapter mean, by its configuration; None where it does not say.

    Raises:
        ValueError: labels or thresholds that are impossible.
    """
    if config.get("au_ids") is None and config.get("emotions") is None:
        return None
    fields = (config.get(name) or () for name in ("au_ids", "emotions", "au_thresholds"))
    return LabelSpace(*map(tuple, fields))


def describe_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The labels as a card lists them: `aus` with `code`, `name` and `threshold`, and `emotions`."""
    space = label_space_of(config) or LabelSpace((), ())
    aus = zip(space.au_codes, space.au_names, space.thresholds, strict=True)
    keys = ("code", "name", "threshold")
    return {"aus": [dict(zip(keys, au, strict=True)) for au in aus], "emotions": list(space.emotions)}


def _format_results(evaluation: Mapping[str, Any]) -> str:
    try:
        return format_scores(evaluation, heading="###").strip()
    except KeyError as error:
        raise ValueError(f"The card's tables name something that was not measured: {error}.") from None


def _refuse_not_finite(value: Any, name: str = METRICS_NAME) -> None:
    """Raise a `ValueError` for the first figure, at any depth, that is no number."""
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        _refuse_not_finite(each, f"{name}: {key}" if name == METRICS_NAME else f"{name}.{key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite.")


# --------------------------------------------------------------------------------------------------------------- lines
def loading_lines(repo_id: str, sha: str | None = None, base: PinnedRepo | None = None) -> str:
    """Python that loads a model and its processor, pinned where commits are known.

    `revision` on an adapter's `from_pretrained` means the base; the adapter's own goes into `adapter_kwargs`.
    """
    revision = f', revision="{sha}"' if sha else ""
    of_model = revision
    if base and base.sha:
        of_model = f', revision="{base.sha}"'
        of_model += f', adapter_kwargs={{"revision": "{sha or "main"}"}}'
    return (
        "from transformers import AutoModel, AutoProcessor\n\n"
        f'model = AutoModel.from_pretrained("{repo_id}"{of_model}, trust_remote_code=True)\n'
        f'processor = AutoProcessor.from_pretrained("{repo_id}"{revision}, trust_remote_code=True)'
    )


# ------------------------------------------------------------------------------------------------------------- results
def list_scores(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """The scores that search pages show: name, metric id, value; those that do not apply are left out.

    Where several sources of landmarks were measured, each name says which; what anyone can have comes first.
    """
    by_source = {f" ({SCORED_WITH[name]})": scores for name, scores in evaluation.get("by_landmarks", {}).items()}
    scores = [
        (f"{name}{said}", metric, of_source[task].get(key))
        for said, of_source in (by_source or {"": evaluation}).items()
        for name, metric, task, key in (
            ("mean AU F1", "f1", "aus", "f1"),
            ("emotion top-1 accuracy", "accuracy", "emotion", "top1"),
            ("emotion macro-F1", "f1", "emotion", "macro_f1"),
        )
    ]
    return [(name, metric, round(value, 4)) for name, metric, value in scores if value is not None]


def _model_index(evaluation: Mapping[str, Any], repo: PinnedRepo | None) -> list[EvalResult] | None:
    data = evaluation["data"]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=repo.repo_id if repo else data["name"],
            dataset_name=data["name"],
            dataset_split=data["split"],
            dataset_revision=repo.sha if repo else data.get("revision"),
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )
        for name, metric, value in list_scores(evaluation)
    ] or None


def eval_results_yaml(evaluation: Mapping[str, Any], repo: PinnedRepo) -> str:
    """The scores in the form of `.eval_results/*.yaml`, for an evaluation on a data set of the Hub."""
    entries = [
        EvalResultEntry(
            dataset_id=repo.repo_id,
            task_id=re.sub(r"\W+", "_", name).strip("_").lower(),
            value=value,
            dataset_revision=repo.sha,
            notes=f"{evaluation['data']['split']} split, no text; the name says which landmarks",
        )
        for name, _, value in list_scores(evaluation)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
