"""Model cards, filled only from the `metrics.json` and the configuration in the folder."""

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
    """A repository on the Hub at a commit; `sha` is None if it is unknown."""

    repo_id: str
    sha: str | None = None


@dataclass(frozen=True)
class Placement:
    """Repositories on the Hub that a card refers to.

    Args:
        repo_id: repository of the checkpoint or adapter itself.
        base: base model; for an adapter, None stands for the base in its configuration.
        base_training_data: training data of the base, as listed in its configuration.
        evaluation: data set that the scores were measured on, if it is on the Hub.
        permission: statement that allows restricted data, or what derives from it, to be public.
        space: Space that shows the model in a browser.
    """

    repo_id: str
    base: PinnedRepo | None = None
    base_training_data: tuple[Mapping[str, Any], ...] = ()
    evaluation: PinnedRepo | None = None
    permission: str | None = None
    space: str | None = None


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
    """Make the Hub card of a checkpoint or an adapter.

    The template is rendered by `render_card` and not by `ModelCard.from_template`, which leaves missing values blank.

    Args:
        folder: folder with the configuration and `metrics.json`.
        placement: where it will be published; None uses the folder's name.
        metrics: used instead of the folder's `metrics.json`.
    Raises:
        ValueError: a value that the card shows was not measured or is not finite.
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
        "space": placement.space,
        "synthetic": all(data.get("synthetic") for data in training_data),
        "training_data": training_data,
        "restricted": restricted_sources(training_data),
        "labels": describe_labels(config),
        "results": _format_results(metrics["evaluation"]),
        "requirements": requirements(is_adapter),
    }
    source = "." if is_local else placement.repo_id  # relative to the folder itself
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
    """Make the metadata. `library_name` is transformers also for adapters, as PEFT's snippet needs a task type.

    Args:
        relation: `base_model_relation` of the Hub; `baseline` for a system other than MF².
    """
    base = facts["base"].repo_id if facts["base"] else ""  # before publication it may be a folder's name
    optional: dict[str, Any] = {}
    if HUB_ID.fullmatch(base):
        optional |= {"base_model": base, "base_model_relation": relation}
    if facts["restricted"]:
        optional["license_name"] = "terms-of-the-training-data"
    datasets = [data["name"] for data in facts["training_data"] if HUB_ID.fullmatch(data["name"])]
    is_ours = relation != "baseline"  # other systems need the package and do not run in the Hub's widget
    kinds = {"adapter": ("peft", "dfn"), "baseline": ("baseline",)}
    return ModelCardData(
        license=RESTRICTED if facts["restricted"] else facts["model"]["license"],
        library_name="transformers" if is_ours else DISTRIBUTION,
        pipeline_tag="image-classification" if is_ours and facts["labels"]["emotions"] else None,  # the widget's
        tags=[*TAGS, *kinds.get(relation, ("image-to-text",))],
        datasets=datasets or None,
        model_name=facts["name"],
        eval_results=_model_index(facts["evaluation"], placement.evaluation),
        **optional,
    )


def requirements(is_adapter: bool) -> list[str]:
    """Packages that the card's code needs, with the version ranges that this package declares."""
    names = ["torch", "transformers", "pillow", *(["peft"] if is_adapter else [])]
    declared: dict[str, str] = {}
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION) or []):
        bounds = sorted(map(str, requirement.specifier), reverse=True)  # the lower bound first
        declared.setdefault(requirement.name, ",".join(bounds))
    return [f"`{name}{declared.get(name, '')}`" for name in names]


def permission_section(permission: str | None) -> str:
    """The last section of the card if restricted data are public."""
    return f"\n## Permission\n\n{permission.strip()}\n" if permission else ""


# --------------------------------------------------------------------------------------------------------------- facts
def list_training_data(
    config: Mapping[str, Any], metrics: Mapping[str, Any], placement: Placement | None = None
) -> list[dict[str, Any]]:
    """List all training data, the base's first, with `name`, `license`, `rows`, `videos` and so on.

    A checkpoint's configuration lists all of them; an adapter's only those of its own training.
    """
    recorded = list(config.get("training_data") or [metrics["training"]["data"]])
    return [dict(data) for data in (*(placement.base_training_data if placement else ()), *recorded)]


def parse_label_space(config: Mapping[str, Any]) -> LabelSpace | None:
    """Parse the label space from a configuration; None if it has none.

    Raises:
        ValueError: labels or thresholds are invalid.
    """
    if config.get("au_ids") is None and config.get("emotions") is None:
        return None
    au_ids, emotions, thresholds = (tuple(config.get(name) or ()) for name in ("au_ids", "emotions", "au_thresholds"))
    return LabelSpace(au_ids, emotions, thresholds, affect=bool(config.get("affect")))


def describe_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The labels for a card: `aus` with `code`, `name` and `threshold`, `emotions`, and `affect`, yes or no."""
    space = parse_label_space(config) or LabelSpace((), ())
    aus = zip(space.au_codes, space.au_names, space.thresholds, strict=True)
    keys = ("code", "name", "threshold")
    listed = [dict(zip(keys, au, strict=True)) for au in aus]
    return {"aus": listed, "emotions": list(space.emotions), "affect": space.affect}


def _format_results(evaluation: Mapping[str, Any]) -> str:
    try:
        return format_scores(evaluation, heading="###").strip()
    except KeyError as error:
        raise ValueError(f"The card's tables name something that was not measured: {error}.") from None


def _refuse_not_finite(value: Any, name: str = METRICS_NAME) -> None:
    """Raise a `ValueError` for the first nested value that is not finite."""
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        _refuse_not_finite(entry, f"{name}: {key}" if name == METRICS_NAME else f"{name}.{key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite.")


# --------------------------------------------------------------------------------------------------------------- lines
def loading_lines(repo_id: str, sha: str | None = None, base: PinnedRepo | None = None) -> str:
    """Python code that loads a model and its processor, pinned to known commits.

    For an adapter, `revision` of `from_pretrained` is that of the base; its own goes into `adapter_kwargs`.
    """
    revision = f', revision="{sha}"' if sha else ""
    model_revision = revision
    if base and base.sha:
        model_revision = f', revision="{base.sha}"'
        model_revision += f', adapter_kwargs={{"revision": "{sha or "main"}"}}'
    return (
        "from transformers import AutoModel, AutoProcessor\n\n"
        f'model = AutoModel.from_pretrained("{repo_id}"{model_revision}, trust_remote_code=True)\n'
        f'processor = AutoProcessor.from_pretrained("{repo_id}"{revision}, trust_remote_code=True)'
    )


# ------------------------------------------------------------------------------------------------------------- results
def list_scores(evaluation: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """The scores for the Hub's metadata: name, metric id, value; without those that do not apply.

    If several landmark sources were evaluated, the names include the source.
    """
    by_source = {f" ({SCORED_WITH[name]})": scores for name, scores in evaluation.get("by_landmarks", {}).items()}
    scores = [
        (f"{name}{suffix}", metric, source_scores.get(task, {}).get(key))
        for suffix, source_scores in (by_source or {"": evaluation}).items()
        for name, metric, task, key in (
            ("mean AU F1", "f1", "aus", "f1"),
            ("emotion top-1 accuracy", "accuracy", "emotion", "top1"),
            ("emotion macro-F1", "f1", "emotion", "macro_f1"),
            ("mean CCC of valence and arousal", "concordance_correlation_coefficient", "affect", "ccc"),
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
    """The scores in the format of `.eval_results/*.yaml`, for an evaluation on a data set of the Hub."""
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
