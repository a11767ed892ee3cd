"""The contents of a publication: the kind of a folder, its files, and their text as published."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

from mf2.dataset_tools.privacy import restricted_sources, shorten_paths
from mf2.dataset_tools.recipe import RECIPE_FORMAT
from mf2.dataset_tools.schema import MANIFEST_NAME, read_manifest
from mf2.hub.cards import (
    PinnedRepo,
    Placement,
    eval_results_yaml,
    list_training_data,
    make_card,
    parse_label_space,
    permission_section,
)
from mf2.hub.file_names import ADAPTER_CONFIG_NAME, CARD_NAME, CONFIG_NAME, METRICS_NAME, OVERLAY_NAME, RESOLVED_NAME
from mf2.utils.files import read_json
from mf2.utils.yaml_files import load_yaml

CHECKPOINT, ADAPTER, DATASET, RECIPE, SPACE = "checkpoint", "adapter", "dataset", "recipe", "space"

_MODEL_FILES = (
    CARD_NAME,
    METRICS_NAME,
    RESOLVED_NAME,
    "training_videos.json",
    "calibration.json",
    "*.py",
    "*.png",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.txt",
    ".eval_results/*.yaml",
)
FILES: dict[str, tuple[str, ...]] = {
    CHECKPOINT: (
        *_MODEL_FILES,
        CONFIG_NAME,
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
    ),
    ADAPTER: (*_MODEL_FILES, ADAPTER_CONFIG_NAME, "adapter_model.safetensors"),
    DATASET: (CARD_NAME, MANIFEST_NAME, "annotations/*.parquet", "data/*.parquet"),
    RECIPE: (CARD_NAME, MANIFEST_NAME, "*.yaml", "*.json", "*.txt", "prompts/*.txt"),
    SPACE: (CARD_NAME, "app.py", "requirements.txt", "*.task", "mf2/*", "mf2/*/*", "mf2/*/*/*", "mf2/*/*/*/*"),
}
"""Kind -> patterns of its files. Other files in the folder are not published; other files in the repository that match
the patterns are deleted there."""

WEIGHTS = ".safetensors"
MAX_HEADER_BYTES = 100_000_000  # that of the safetensors library
BINARY_STARTS = {".png": b"\x89PNG\r\n\x1a\n", ".parquet": b"PAR1", ".task": b"\0\0PK"}
"""Extension -> first bytes of the other binary files that may be published."""

PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True)
class Contents:
    """The contents of a publication.

    Args:
        kind: `checkpoint`, `adapter`, `dataset` or `recipe`.
        source: the folder.
        files: path in the repository -> local file, or text that differs from the local file.
        left_out: names in the folder that are not published.
        sources: `name` and `license` of the data that it is derived from or consists of.
    """

    kind: str
    source: Path
    files: Mapping[str, Path | str]
    left_out: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]

    @property
    def repo_type(self) -> str:
        """Repository type of the Hub."""
        if self.kind == SPACE:
            return "space"
        return "model" if self.kind in (CHECKPOINT, ADAPTER) else "dataset"

    @property
    def restricted(self) -> list[str]:
        """Names of the source data sets that may not be redistributed."""
        return restricted_sources(self.sources)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of a checkpoint or an adapter."""
        return self.read_json(ADAPTER_CONFIG_NAME if self.kind == ADAPTER else CONFIG_NAME)

    def read_bytes(self, path: str, limit: int = -1) -> bytes:
        """Read a file, or its first `limit` bytes."""
        content = self.files[path]
        if isinstance(content, str):
            return content.encode()[: limit if limit >= 0 else None]
        with content.open("rb") as file:
            return file.read(limit)

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        content = self.files[path]
        return len(content.encode()) if isinstance(content, str) else content.stat().st_size

    def read_text(self, path: str) -> str | None:
        """Read the text of a file, or the header of weights; None for other binary files.

        Raises:
            UnicodeDecodeError: the file is not text.
        """
        suffix = Path(path).suffix
        if suffix in BINARY_STARTS:
            return None
        content = self.read_bytes(path) if suffix != WEIGHTS else _read_header(self.source / path)
        return content.decode()

    def read_json(self, path: str) -> Any:
        """Read a JSON file."""
        return json.loads(self.read_bytes(path))

    def write_to(self, folder: Path) -> None:
        """Write the files to a folder as in the repository; unchanged files are linked."""
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                file.write_text(content, "utf-8")
            else:
                file.symlink_to(content.resolve())

    def owns(self, path: str) -> bool:
        """Whether a path in the repository matches the patterns of this kind."""
        return any(path.count("/") == rule.count("/") and fnmatchcase(path, rule) for rule in FILES[self.kind])


def _read_header(weights: Path) -> bytes:
    """The JSON at the start of a safetensors file."""
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return file.read(min(size, MAX_HEADER_BYTES))


def open_folder(path: str | Path) -> Contents:
    """Open the folder of a checkpoint, an adapter, an exported data set or a recipe.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it is of no known kind, or a file is damaged.
    """
    source = Path(path)
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    kind = _find_kind(source)
    found = [file for rule in FILES[kind] for file in source.glob(rule) if file.is_file()]
    files = {file.relative_to(source).as_posix(): file for file in sorted(found)}
    top_names = {name.partition("/")[0] for name in files}
    left_out = tuple(sorted(entry.name for entry in source.iterdir() if entry.name not in top_names))
    return Contents(kind, source, files, left_out, _find_sources(kind, source))


def _find_kind(source: Path) -> str:
    if (source / ADAPTER_CONFIG_NAME).is_file():
        return ADAPTER
    if (source / CONFIG_NAME).is_file():
        model_type = read_json(source / CONFIG_NAME).get("model_type")
        if model_type != "mf2":
            raise ValueError(f"{source} holds a model of type {model_type!r}; only MF² checkpoints are published.")
        return CHECKPOINT
    if (source / MANIFEST_NAME).is_file():
        return RECIPE if read_json(source / MANIFEST_NAME).get("format") == RECIPE_FORMAT else DATASET
    raise ValueError(
        f"{source} is no checkpoint ({CONFIG_NAME}), adapter ({ADAPTER_CONFIG_NAME}) or data set ({MANIFEST_NAME})."
    )


def _find_sources(kind: str, source: Path) -> tuple[Mapping[str, Any], ...]:
    if kind == RECIPE:
        return ()
    if kind == DATASET:
        manifest = read_manifest(source)
        return ({"name": manifest.get("pretty_name", source.name), "license": manifest.get("license")},)
    if not (source / METRICS_NAME).is_file():
        raise ValueError(f"{source} has no {METRICS_NAME}; its card could state nothing that was measured.")
    config = read_json(source / (ADAPTER_CONFIG_NAME if kind == ADAPTER else CONFIG_NAME))
    return tuple(list_training_data(config, read_json(source / METRICS_NAME)))


def use_evaluation(contents: Contents, folder: str | Path) -> Contents:
    """Replace the scores and plots of the training by those of `mf2 evaluate`.

    Raises:
        FileNotFoundError: the folder has no metrics.
        ValueError: they are of another label space or other thresholds, or of training videos.
    """
    if not Path(folder, METRICS_NAME).is_file():
        raise FileNotFoundError(f"{folder} has no {METRICS_NAME}; mf2 evaluate leaves one.")
    found, config = read_json(Path(folder, METRICS_NAME)), contents.config
    space = parse_label_space(config)
    if space and found["model"]["label_space"] != space.to_dict():
        raise ValueError(f"{folder} measured other labels or thresholds than those of {contents.source}.")
    if seen := found["evaluation"]["overlap"]["seen_videos"]:
        raise ValueError(f"{folder} was measured on {seen} videos of the training; evaluate on others.")
    metrics = contents.read_json(METRICS_NAME) | {"evaluation": found["evaluation"]}
    plots = {file.name: file for file in Path(folder).glob("*.png")}
    return replace(contents, files={**contents.files, **plots, METRICS_NAME: _to_json(metrics)})


# -------------------------------------------------------------------------------------------------------- as published
def prepare(contents: Contents, placement: Placement) -> Contents:
    """Prepare the published texts; the folder itself is not modified.

    The card is rendered again, an adapter's configuration gets the repository and commit of its base, and paths in the
    training configuration are shortened to their last part. Pictures of restricted faces are removed.
    """
    files = dict(contents.files)
    contents = replace(contents, sources=(*placement.base_training_data, *contents.sources))
    if contents.repo_type == "dataset":
        files[CARD_NAME] = _dataset_card(contents, placement)
        return replace(contents, files=files)
    files[CARD_NAME] = str(make_card(contents.source, placement, contents.read_json(METRICS_NAME)))
    if RESOLVED_NAME in files:
        settings = shorten_paths(load_yaml(contents.source / RESOLVED_NAME))
        files[RESOLVED_NAME] = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    if placement.base:
        files[ADAPTER_CONFIG_NAME] = _adapter_config(contents.source, placement.base)
    if placement.evaluation:
        evaluation = contents.read_json(METRICS_NAME)["evaluation"]
        name = placement.evaluation.repo_id.split("/")[-1]
        files[f".eval_results/{name}.yaml"] = eval_results_yaml(evaluation, placement.evaluation)
    left_out = contents.left_out
    if contents.restricted and OVERLAY_NAME in files:
        del files[OVERLAY_NAME]
        left_out = (*left_out, OVERLAY_NAME)
    return replace(contents, files=files, left_out=left_out)


def _adapter_config(source: Path, base: PinnedRepo) -> str:
    config = read_json(source / ADAPTER_CONFIG_NAME)
    config |= {"base_model_name_or_path": base.repo_id, "revision": base.sha}
    return _to_json(config)


def _to_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _dataset_card(contents: Contents, placement: Placement) -> str:
    card = DatasetCard((contents.source / CARD_NAME).read_text("utf-8"))
    card.text += permission_section(placement.permission)
    return str(card)
