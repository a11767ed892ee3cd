"""The card of a data set: front matter for the Hub, and a text whose figures are counted from the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import DatasetInfo, Features
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from ..labels_mf2 import AFFECT
from ..utils.markdown import markdown_table
from .card_template import render_card
from .privacy import RESTRICTED, is_restricted
from .schema import CAPTION_COLUMNS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST = "1M<n<10M"

GATE_PROMPT = (
    "These annotations derive from a data set whose agreement forbids redistribution. Ask for access only if your "
    "institution has signed that agreement."
)
GATE_FIELDS: dict[str, Any] = {
    "Institution": "text",
    "Signatory of the agreement (a permanent academic)": "text",
    "Purpose": {"type": "select", "options": ["Research", "Education", {"label": "Other", "value": "other"}]},
    "I will not redistribute the data nor identify anyone in them": "checkbox",
}

_AU_LABELS = {"active": 1, "not active": 0, "unlabelled": -1}


@dataclass(frozen=True)
class Config:
    """A configuration of the data set on the Hub: its folder, its columns and the shards of each split."""

    name: str
    folder: str
    features: Features
    splits: Mapping[str, Any]


def front_matter(manifest: Mapping[str, Any], configs: list[Config]) -> str:
    """The YAML block of `README.md`; the first configuration is the default. Restricted data are gated."""
    num_rows = sum(split["num_rows"] for split in configs[0].splits.values())
    names = ("pretty_name", "license", "license_name", "license_link", "annotations_creators", "source_datasets")
    fields: dict[str, Any] = {name: manifest[name] for name in names if name in manifest}
    fields |= {
        "language": ["en"],
        "task_categories": ["image-classification", "image-to-text"],
        "tags": ["facial-action-units", "facial-expression-recognition", "emotion"],
        "size_categories": [next((name for limit, name in SIZES if num_rows < limit), LARGEST)],
        "configs": [_data_files(config, is_default=config is configs[0]) for config in configs],
        "dataset_info": [_dataset_info(config) for config in configs],
    }
    if is_restricted(manifest.get("license")):
        fields |= {"license": RESTRICTED, "extra_gated_prompt": GATE_PROMPT, "extra_gated_fields": GATE_FIELDS}
    return f"---\n{DatasetCardData(**fields).to_yaml()}\n---\n\n"


def _data_files(config: Config, is_default: bool) -> dict[str, Any]:
    files = [{"split": split, "path": f"{config.folder}/{split}-*.parquet"} for split in config.splits]
    return {"config_name": config.name, "data_files": files, **({"default": True} if is_default else {})}


def _dataset_info(config: Config) -> dict[str, Any]:
    splits = SplitDict()
    for name, split in config.splits.items():
        num_bytes = sum(shard["num_bytes"] for shard in split["shards"])
        splits.add(SplitInfo(name, num_bytes=num_bytes, num_examples=split["num_rows"]))
    return {"config_name": config.name, **DatasetInfo(features=config.features, splits=splits)._to_yaml_dict()}


# ------------------------------------------------------------------------------------------------------------ text
def count_rows(table: pa.Table) -> dict[str, Any]:
    """The counts of one split on the card, from its rows without pixels."""
    names = Features.from_arrow_schema(table.schema)["emotion"].names
    value_counts = pc.value_counts(table["emotion"]).to_pylist()
    emotion_counts = {entry["values"]: entry["counts"] for entry in value_counts}
    sources = zip(table["caption_source"].to_pylist(), table["caption_model"].to_pylist(), strict=True)
    return {
        "images": len(table),
        "videos": pc.count_distinct(table["video_id"]).as_py(),
        "groups": pc.count_distinct(table["group_id"]).as_py(),
        "landmarks": len(table) - table["landmarks"].null_count,
        "emotions": {name: emotion_counts.get(index, 0) for index, name in enumerate(names)},
        "unlabelled emotion": emotion_counts.get(None, 0),
        "aus": {
            name: {label: pc.sum(pc.equal(table[name], value)).as_py() for label, value in _AU_LABELS.items()}
            for name in table.column_names
            if name.startswith("AU")
        },
        "affect": {name: _describe_affect(table[name]) for name in AFFECT if name in table.column_names},
        "captions": {name: len(table) - table[name].null_count for name in CAPTION_COLUMNS},
        "caption writers": sorted({" ".join(filter(None, pair)) for pair in sources} - {""}),
    }


def _describe_affect(values: pa.ChunkedArray) -> dict[str, float]:
    known = values.filter(pc.invert(pc.is_nan(values)))
    figures = {"mean": pc.mean(known).as_py() or 0.0, "deviation": pc.stddev(known).as_py() or 0.0}
    return {"labelled": len(known), **figures}


def build_card(
    manifest: Mapping[str, Any],
    counts: Mapping[str, dict[str, Any]],
    num_shared_groups: int,
    example: Mapping[str, Any],
) -> str:
    """The text below the front matter, from the template `model_cards/dataset.md`.

    Args:
        manifest: the manifest of the data set.
        counts: split -> the result of `count_rows`.
        num_shared_groups: number of groups in more than one split.
        example: a row, whose captions are shown.
    """
    return render_card(
        "dataset.md",
        name=manifest.get("pretty_name", "MFA data set"),
        configs=manifest.get("configs", []),
        tables=count_tables(counts),
        affect=any(split.get("affect") for split in counts.values()),
        num_shared_groups=num_shared_groups,
        writers=sorted({writer for split in counts.values() for writer in split["caption writers"]}),
        example={name: " / ".join(example[name].splitlines()) for name in CAPTION_COLUMNS if example[name]},
        restricted=is_restricted(manifest.get("license")),
        license=manifest.get("license"),
        license_name=manifest.get("license_name", "not stated"),
        license_link=manifest.get("license_link"),
        citation=manifest.get("citation"),
    )


def count_tables(counts: Mapping[str, dict[str, Any]]) -> list[str]:
    """The counts of every split as markdown tables: sizes, emotions, AUs."""
    splits = list(counts)
    names = ("images", "videos", "groups", "landmarks")
    sizes = [(name, *(f"{counts[split][name]:,}" for split in splits)) for name in names]
    captions = [(name, *(f"{counts[split]['captions'][name]:,}" for split in splits)) for name in CAPTION_COLUMNS]
    emotions = [
        (name, *(f"{counts[split]['emotions'][name]:,}" for split in splits)) for name in counts[splits[0]]["emotions"]
    ]
    emotions.append(("unlabelled", *(f"{counts[split]['unlabelled emotion']:,}" for split in splits)))
    aus = [
        (name, *(" / ".join(f"{number:,}" for number in counts[split]["aus"][name].values()) for split in splits))
        for name in counts[splits[0]]["aus"]
    ]
    affect = [
        (name, *(_affect_words(counts[split].get("affect", {}).get(name)) for split in splits))
        for name in counts[splits[0]].get("affect", {})
    ]
    tables = [
        markdown_table(("", *splits), sizes + captions),
        markdown_table(("emotion", *splits), emotions),
        markdown_table((" / ".join(_AU_LABELS), *splits), aus),
    ]
    return [*tables, markdown_table(("labelled: mean ± deviation", *splits), affect)] if affect else tables


def _affect_words(figures: Mapping[str, float] | None) -> str:
    if not figures:
        return "-"
    return f"{figures['labelled']:,}: {figures['mean']:.3f} ± {figures['deviation']:.3f}"
