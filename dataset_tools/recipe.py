"""`mf2 data export --recipe_only`: writes a recipe, with which others who have the source data rebuild a data set.

OUT/manifest.json    source, settings of every stage, models, versions and counts; no row and no file name
OUT/recipe.yaml      the configuration of `mf2 data build`: --config, or derived from the settings of every stage
OUT/prompts/*.txt    the prompts of the captioning model
OUT/profiles.yaml    the server profile, if it is none of the shipped ones; its address has to be filled in
OUT/replaced.json    the replaced frames, whose captions failed, as hashes of their names
OUT/README.md        the card
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData

from ..utils.files import write_json
from .build import STAGES, TOP_UP_NEEDS, read_config
from .captions.prompting import load_prompts, prompt_sha256
from .captions.rules import CAPTION_KINDS
from .card_template import render_card
from .dataset_card import count_tables
from .privacy import shorten_paths
from .replacements import REPLACED_KEY
from .schema import MANIFEST_NAME, check_target, replacing_folder
from .stage_settings import STAGES_KEY

RECIPE_FORMAT = "mfa-recipe"
RECIPE_VERSION = 1
CONFIG_NAME = "recipe.yaml"
REPLACED_NAME, PROFILES_NAME, PROMPTS_FOLDER_NAME = "replaced.json", "profiles.yaml", "prompts"
ROOT, OUTPUT_DIR, SERVER = "folder-of-the-source", "rebuilt", "http://address-of-your-server/v1"
"""Placeholders for the folders and the server, which users of a recipe replace."""
RECIPE_LICENSE = "apache-2.0"
"""Licence of the configuration and the prompts; the source data have their own terms."""

_SOURCE_KEYS = ("pretty_name", "license", "license_name", "license_link", "citation")
_IMPORT_KEYS = ("made_by", "arguments", "threshold", "fold", "crop", "split_rule")
_SYNTH_KEYS = ("config", "generator_version")
_MAKING_KEYS = (*_IMPORT_KEYS, *_SYNTH_KEYS, "versions")
_CAPTION_KEYS = ("backend", "profile", "mode", "parameters", "detail", "prompt_sha256", "seed", "version")


def export_recipe(
    manifest: Mapping[str, Any],
    counts: Mapping[str, dict[str, Any]],
    out_dir: Path,
    *,
    config: Path | None = None,
    prompts: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the folder of a recipe.

    Args:
        manifest: the manifest of the data set.
        counts: split -> the result of `dataset_card.count_rows`.
        out_dir: folder to make.
        config: configuration of the build; its paths are shortened to their last part. By default it is derived from
            the settings of the stages in the manifest.
        prompts: folder of the prompts; the shipped ones by default.
        overwrite: replace an existing recipe or data set.
    Returns:
        `out_dir`.
    Raises:
        FileExistsError: `out_dir` is not empty, and `overwrite` is False or it is neither a recipe nor a data set.
        ValueError: the captions were written with other prompts.
    """
    check_target(out_dir, overwrite)
    recipe = describe_recipe(manifest, counts)
    texts = _load_used_prompts(recipe["captions"], prompts)
    with replacing_folder(out_dir) as folder:
        settings = derive_build_config(manifest) if config is None else read_config(config)
        for name, text in texts.items():
            (folder / PROMPTS_FOLDER_NAME).mkdir(exist_ok=True)
            (folder / PROMPTS_FOLDER_NAME / name).write_text(text + "\n", "utf-8")
        if settings is not None:
            settings = shorten_paths(settings)
            _write_files(manifest, texts, settings["stages"], folder)
            _write_yaml(folder / CONFIG_NAME, settings)
        (folder / "README.md").write_text(_card(recipe, counts, settings), "utf-8")
        (folder / MANIFEST_NAME).write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return out_dir


def _write_files(
    manifest: Mapping[str, Any], prompts: Mapping[str, str], stages: dict[str, dict[str, Any]], folder: Path
) -> None:
    """Write the files that the stages read, and set the options of the stages that name them."""
    if rounds := manifest.get(REPLACED_KEY):
        write_json(folder / REPLACED_NAME, rounds)
        stages["select"] = {**stages.get("select", {}), "replaced": REPLACED_NAME}
    options, captions = stages.get("caption", {}), manifest.get("captions", {})
    if options and prompts and prompts != load_prompts():
        options["prompts"] = PROMPTS_FOLDER_NAME
    if "profiles" in options and "endpoint" in captions:
        profile = {**captions["endpoint"], "base_url": SERVER}
        _write_yaml(folder / PROFILES_NAME, {captions["profile"]: profile})
        options["profiles"] = PROFILES_NAME


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def derive_build_config(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of `mf2 data build` that rebuilds a data set; None if its stages are not recorded."""
    stages = manifest.get(STAGES_KEY)
    made_by, _, reader = manifest.get("made_by", "").rpartition(" ")
    if not stages or made_by != "mf2 data import":
        return None
    can_top_up = set(TOP_UP_NEEDS) <= set(stages)
    ordered = {stage: stages[stage] for stage in STAGES if stage in stages and (stage != "top_up" or can_top_up)}
    return {"reader": reader, "root": ROOT, "output_dir": OUTPUT_DIR, "stages": ordered}


def describe_recipe(manifest: Mapping[str, Any], counts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a recipe: how the data set was made, without information on any single image or person."""
    captions, landmarks = manifest.get("captions", {}), manifest.get("landmarks")
    return {
        "format": RECIPE_FORMAT,
        "format_version": RECIPE_VERSION,
        "source": {name: manifest[name] for name in _SOURCE_KEYS if name in manifest},
        "making": shorten_paths({name: manifest[name] for name in _MAKING_KEYS if manifest.get(name) is not None}),
        "landmarks": shorten_paths(landmarks),
        "captions": shorten_paths({name: captions[name] for name in _CAPTION_KEYS if captions.get(name) is not None}),
        "au_ids": manifest["au_ids"],
        "emotions": manifest["emotions"],
        "counts": counts,
    }


def _load_used_prompts(captions: Mapping[str, Any], folder: Path | None) -> dict[str, str]:
    """File name -> text of the prompts that the captions were written with; empty if no model wrote them.

    Raises:
        ValueError: the captions were written with other prompts than those in `folder`.
    """
    hashes = captions.get("prompt_sha256")
    if not hashes:
        return {}
    texts = load_prompts(folder) if folder else load_prompts()
    if others := [kind for kind in CAPTION_KINDS if hashes.get(kind) not in (None, prompt_sha256(texts, kind))]:
        raise ValueError(
            f"The captions {', '.join(others)} come from other prompts; name their folder with --prompts."
        )
    return texts


def _card(recipe: Mapping[str, Any], counts: Mapping[str, dict[str, Any]], settings: Mapping[str, Any] | None) -> str:
    source, captions = recipe["source"], recipe["captions"]
    name = source.get("pretty_name", "MFA data set")
    data = DatasetCardData(
        license=RECIPE_LICENSE,
        pretty_name=f"{name}: recipe",
        tags=["recipe", "facial-action-units", "facial-expression-recognition"],
    )
    text = render_card(
        "recipe.md",
        name=name,
        license_name=source.get("license_name") or source.get("license", "not stated"),
        license_link=source.get("license_link"),
        made_by=recipe["making"].get("made_by", "mf2 data"),
        writer=captions.get("parameters", {}).get("model", captions.get("backend")),
        landmarks=(recipe["landmarks"] or {}).get("backend"),
        config=None if settings is None else CONFIG_NAME,
        stages={} if settings is None else settings["stages"],
        tables=count_tables(counts),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
