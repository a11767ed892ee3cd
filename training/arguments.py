"""Arguments of the training scripts: dataclasses, overridden by a YAML file, overridden by the command line.

Every field is a key of the YAML file and a flag of the same name. Mappings (`model`, `synth`, `trainer`) are set with
dotted flags: `--model.use_au_vl false`. This module does not import torch, so that `--help` is fast.
"""

# ruff: noqa: RUF009 (`_arg` returns a dataclass field)

import argparse
import dataclasses
import difflib
import logging
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mf2.baselines.registry import add_system, baseline_names
from mf2.hub.file_names import RESOLVED_NAME
from mf2.utils.files import write_text
from mf2.utils.yaml_files import load_yaml, parse_yaml

logger = logging.getLogger(__name__)


def _arg(default: Any, help: str, *, choices: Sequence[str] = (), low: float | None = None, fixed: bool = True) -> Any:
    """A dataclass field with its help text, choices and minimum.

    `fixed` fields affect the result; a run resumes only if they are unchanged.
    """
    metadata = {"help": help, "choices": tuple(choices), "low": low, "fixed": fixed}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# ------------------------------------------------------------------------------------------------------------- fields
@dataclass
class DataArguments:
    """Data."""

    train_data: str = _arg(
        "synth", "MFA data set to train on: a folder, a Hub id, or `synth` to generate one into OUTPUT_DIR/data"
    )
    synth: dict = _arg({}, "options of the generated sample, as in `mf2 data synth`: num_train, num_eval, seed, …")
    captions: str = _arg(
        "own",
        "own: each image's captions; shuffled: another image's, a control that shows what captions add",
        choices=("own", "shuffled"),
    )
    caption_share: float = _arg(
        1.0,
        "share of a batch's images whose captions are used, above 0; text is most of a small model's computation",
        low=0,
    )
    feature_views: int | None = _arg(
        None,
        "views per row whose features of a frozen tower are computed once and cached in OUTPUT_DIR/features; epochs "
        "cycle through them, the first view is not augmented [default: no cache]",
        low=1,
    )
    probes: bool = _arg(
        False,
        "also score linear probes on the frozen tower; the card lists the scores in which they are not beaten",
        fixed=False,
    )
    image_size: int | None = _arg(
        None, "side of the aligned face, in pixels [default: the starting checkpoint's, else 224]", low=16
    )
    image_mean: list | None = _arg(None, "channel means, in [0, 1] [default: the checkpoint's, else 0.5 each]")
    image_std: list | None = _arg(None, "channel standard deviations [default: the checkpoint's, else 0.5 each]")


@dataclass
class SplitArguments:
    """Splits."""

    eval_data: str | None = _arg(None, "data set to evaluate on [default: the training data set]")
    train_split: str = _arg("train", "split to train on")
    eval_split: str = _arg("validation", "split to evaluate on")
    max_train_rows: int | None = _arg(None, "maximum number of training rows, evenly spaced [default: all]", low=1)
    max_eval_rows: int | None = _arg(None, "maximum number of evaluation rows, evenly spaced [default: all]", low=1)
    augment: bool = _arg(True, "random crop, flip and colour; landmarks are transformed with the image")
    augmentation: dict = _arg({}, "ranges of the augmentation, fields of mf2.processing_mf2.Augmentation")
    dataloader_num_workers: int = _arg(1, "processes that load images, per training process", low=0, fixed=False)
    weight_aus: bool = _arg(
        True, "weight active AU labels by the ratio of inactive to active labels in the training split"
    )
    balance_emotions: float = _arg(0.0, "strength of logit adjustment for rare emotions: 0 none, 1 full", low=0)
    tuning_rows: int = _arg(2000, "rows of the training split on which AU thresholds are tuned", low=1)


@dataclass
class ModelArguments:
    """Model."""

    size: str = _arg("base", "size of a new model", choices=("tiny", "small", "base", "paper"))
    model: dict = _arg({}, "fields of MF2Config that differ from the size's")
    baseline: str | None = _arg(
        None,
        f"train another system on the same tower instead of MF²: {', '.join(baseline_names())}, or your own file "
        "[default: MF²]",
    )
    baseline_options: dict = _arg({}, "options of the baseline, see docs/baselines.md")
    model_name_or_path: str | None = _arg(None, "MF² checkpoint to start from instead of a new model")
    init_text: str | None = _arg(None, "BERT checkpoint for the text side of a new model")
    init_qformer: str | None = _arg(None, "BLIP-2 stage 1 checkpoint for both Q-Formers of a new model")
    init_vision: str | None = _arg(None, "vision checkpoint for the tower of a new model")
    tokenizer: str | None = _arg(
        None, "BERT tokenizer, name or folder [default: a WordPiece vocabulary trained on the captions]"
    )
    vocab_size: int = _arg(2000, "maximum size of a vocabulary trained on the captions", low=100)


@dataclass
class TaskArguments:
    """Task and method."""

    model: str = _arg("", "MF² checkpoint to adapt: a folder or a Hub id")
    data: str = _arg(
        "",
        "MFA data sets or CSV files to adapt to, separated by commas; labels that one of them lacks are masked",
    )
    method: str = _arg(
        "dfn",
        "dfn trains an adapter on the frozen model; full trains everything but a frozen tower, lora low-rank updates "
        "of the Q-Formers and the recognisers, head only the recognisers; these three produce checkpoints",
        choices=("dfn", "full", "lora", "head"),
    )
    losses: str = _arg(
        "task", "task: recognition losses; all: also ITC, ITM and ITG (full only)", choices=("task", "all")
    )
    freeze_vision: bool = _arg(False, "full: freeze the vision tower")
    au_ids: list | None = _arg(
        None, "AUs of the task, as [1, 2, 12] [default: those with labels in the training split]"
    )
    emotions: list | None = _arg(None, "emotions of the task [default: those of the training split]")
    affect: bool = _arg(False, "also learn valence and arousal, which the training split labels")
    dfn: dict = _arg({}, "fields of DFNConfig: r, num_kept_states, alignment_weight, text_cells, decoupled, …")
    lora_r: int = _arg(8, "rank of LoRA", low=1)
    no_cache: bool = _arg(False, "dfn: train without cached states")
    views: int = _arg(
        4, "dfn: cached views per row; epochs cycle through them; the first view is not augmented", low=1
    )
    cache_dir: str | None = _arg(None, "dfn: where states are cached [default: OUTPUT_DIR/states]", fixed=False)
    cache_dtype: str = _arg("float16", "dfn: type of cached states", choices=("float16", "float32"))


@dataclass
class OptimizerArguments:
    """Optimisation."""

    num_train_epochs: float = _arg(30.0, "passes over the training split", low=0)
    max_steps: int = _arg(-1, "optimizer steps; overrides --num_train_epochs when positive")
    per_device_train_batch_size: int = _arg(56, "images per step on each device", low=1)
    per_device_eval_batch_size: int = _arg(64, "images per evaluation step on each device", low=1, fixed=False)
    gradient_accumulation_steps: int = _arg(1, "steps whose gradients are accumulated", low=1)
    learning_rate: float = _arg(1e-4, "peak learning rate", low=0)
    min_learning_rate: float = _arg(1e-5, "learning rate at the end of the cosine", low=0)
    warmup_steps: float = _arg(0.05, "steps of linear warm-up; below 1, a share of the run's", low=0)
    weight_decay: float = _arg(0.05, "AdamW's weight decay, not for biases and one-dimensional parameters", low=0)
    adam_beta1: float = _arg(0.9, "AdamW's first decay rate", low=0)
    adam_beta2: float = _arg(0.999, "AdamW's second decay rate", low=0)
    max_grad_norm: float = _arg(1.0, "maximum gradient norm for clipping; 0 for no clipping", low=0)
    bf16: bool = _arg(False, "bfloat16 autocast; parameters stay float32")
    seed: int = _arg(42, "random seed of initialisation, data order, augmentation and dropout", low=0)


@dataclass
class StoppingArguments:
    """Early stopping."""

    holdout_share: float = _arg(
        0.0,
        "share of the training split, in whole groups (persons, videos), that is held out for model selection: the "
        "checkpoint with the best mean of AU F1, emotion top-1 and CCC on it is kept; each evaluation writes one. 0: "
        "no model selection, the last step is kept",
        low=0,
    )
    patience: int | None = _arg(
        None,
        "number of evaluations without improvement after which training stops; needs --holdout_share "
        "[default: no early stopping]",
        low=1,
    )


@dataclass
class RunArguments:
    """Run."""

    output_dir: str = _arg("outputs/mf2", "folder for all outputs, which becomes the folder for the Hub", fixed=False)
    resume_from_checkpoint: str = _arg(
        "auto",
        "`auto`: the newest complete checkpoint in OUTPUT_DIR if there is one; `none`: start from scratch; "
        "or a checkpoint folder",
        fixed=False,
    )
    cpu_threads: int | None = _arg(
        None,
        "maximum number of CPU threads per process; fewer are used if other processes need the cores; with more than "
        "one, repeated runs differ by rounding [default: the launcher's, 1 for accelerate]",
        low=1,
        fixed=False,
    )
    logging_steps: int = _arg(50, "steps between logged losses", low=1, fixed=False)
    eval_steps: int | None = _arg(None, "steps between evaluations [default: one per epoch]", low=1, fixed=False)
    save_steps: int | None = _arg(None, "steps between checkpoints [default: one per epoch]", low=1, fixed=False)
    save_total_limit: int | None = _arg(2, "checkpoints to keep; older ones are deleted", low=1, fixed=False)
    overlay_faces: int = _arg(
        4, "evaluation faces in overlay.png, 0 for none (check their licence before publishing)", low=0, fixed=False
    )
    license: str | None = _arg(
        None, "licence id of the checkpoint for its card [default: apache-2.0 if all data is generated, else other]"
    )
    trainer: dict = _arg({}, "further fields of transformers.TrainingArguments", fixed=False)


@dataclass
class PretrainArguments(RunArguments, OptimizerArguments, SplitArguments, ModelArguments, DataArguments):
    """Arguments of `training/pretrain.py`."""

    def __post_init__(self) -> None:
        check_values(self)
        _check_learning_rates(self)
        if not 0 < self.caption_share <= 1:
            raise ValueError(f"caption_share is {self.caption_share}; it must be above 0 and at most 1.")
        starts = [name for name in ("init_text", "init_qformer", "init_vision") if getattr(self, name)]
        if self.model_name_or_path and (starts or self.model):
            given = ", ".join(starts or ["model"])
            raise ValueError(f"{given} would change a new model, but model_name_or_path is {self.model_name_or_path}.")
        self._check_baseline()

    def _check_baseline(self) -> None:
        if not self.baseline:
            if self.baseline_options:
                raise ValueError(
                    f"baseline_options sets {', '.join(self.baseline_options)}, but there is no baseline."
                )
            return
        self.baseline = add_system(self.baseline)
        mf2_only = ("model_name_or_path", "feature_views", "probes")
        if given := [name for name in mf2_only if getattr(self, name)]:
            raise ValueError(f"{', '.join(given)} is of MF² alone; leave it out beside --baseline {self.baseline}.")
        if self.model.get("affect"):
            logger.warning(
                f"{self.baseline} recognises AUs and emotions only, as baselines do: model.affect is ignored."
            )
            self.model = self.model | {"affect": False}
        self.overlay_faces = 0  # an overlay shows captions, which only MF² generates


@dataclass
class FinetuneArguments(RunArguments, StoppingArguments, OptimizerArguments, SplitArguments, TaskArguments):
    """Arguments of `training/finetune.py`."""

    def __post_init__(self) -> None:
        check_values(self)
        _check_learning_rates(self)
        for name in ("model", "data"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; {self.__dataclass_fields__[name].metadata['help']}.")
        if self.losses == "all" and self.method != "full":
            raise ValueError(f"losses is 'all', which only full fine-tuning has; method is {self.method!r}.")
        if self.freeze_vision and self.method != "full":
            raise ValueError(f"freeze_vision is of full fine-tuning; {self.method} leaves the tower as it is anyway.")
        if self.dfn and self.method != "dfn":
            raise ValueError(f"dfn sets {', '.join(self.dfn)}, but method is {self.method!r}.")
        if self.holdout_share >= 1:
            raise ValueError(f"holdout_share is {self.holdout_share:g}; it must be below 1, or nothing is trained on.")
        if self.patience and not self.holdout_share:
            raise ValueError(
                f"patience is {self.patience}, but holdout_share is 0, so that nothing says what is better; "
                f"give a share, such as --holdout_share 0.2."
            )


Arguments = TypeVar("Arguments", bound=RunArguments)
ScriptArguments = PretrainArguments | FinetuneArguments
"""Arguments of either script."""


def _check_learning_rates(arguments: OptimizerArguments) -> None:
    if arguments.min_learning_rate > arguments.learning_rate:
        raise ValueError(
            f"min_learning_rate is {arguments.min_learning_rate}; it must be <= learning_rate = "
            f"{arguments.learning_rate}."
        )


# ------------------------------------------------------------------------------------------------------------ checking
def check_values(arguments: Any) -> None:
    """Convert each field to its type, and check its choices and minimum."""
    for item in dataclasses.fields(arguments):
        value = _convert(item.name, item.type, getattr(arguments, item.name))
        setattr(arguments, item.name, value)
        choices, low = item.metadata["choices"], item.metadata["low"]
        if choices and value is not None and value not in choices:
            raise ValueError(f"{item.name} is {value!r}; choose one of {', '.join(choices)}.")
        if low is not None and value is not None and value < low:
            raise ValueError(f"{item.name} is {value}; it must be >= {low}.")


def _convert(name: str, annotation: Any, value: Any) -> Any:
    """Check the type of a value; ints are converted to float where needed, nothing else is."""
    allowed = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if type(value) in allowed or (value is None and type(None) in allowed):
        return value
    if type(value) is int and float in allowed:
        return float(value)
    expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
    raise ValueError(f"{name} is {value!r}, of type {type(value).__name__}; it must be {expected}.")


def reject_unknown(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise a `ValueError` with a suggestion for the first unknown name."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}."
            raise ValueError(f"{where} knows no {name!r}; {hint}")


# ------------------------------------------------------------------------------------------------------------- parsing


def parse_arguments(cls: type[Arguments], argv: Sequence[str] | None = None, description: str = "") -> Arguments:
    """Parse arguments: defaults, then the YAML file of `--config`, then the command line.

    Raises:
        ValueError: a key or flag is unknown, or a value has a wrong type or range.
        FileNotFoundError: the YAML file does not exist.
    """
    parser = _build_parser(cls, description)
    parsed, dotted = parser.parse_known_args(argv)
    values = load_yaml(parsed.config) if parsed.config else {}
    names = [item.name for item in dataclasses.fields(cls)]
    reject_unknown(list(values), names, str(parsed.config))
    for item in dataclasses.fields(cls):
        if hasattr(parsed, item.name):
            values[item.name] = _parse_value(item.type, getattr(parsed, item.name))
    for path, text in _parse_dotted_flags(dotted, names):
        _assign(values, path, parse_yaml(text))
    return cls(**values)


def _build_parser(cls: type, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        usage="accelerate launch %(prog)s --config FILE [--NAME VALUE …]",
        epilog="Mappings are set with dotted flags: --model.au_text_mode caption --trainer.torch_compile true",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file with values of the arguments below; flags override it"
    )
    for base in reversed(cls.__mro__[1:-1]):
        group = parser.add_argument_group((base.__doc__ or "").strip().rstrip(".").lower())
        for item in dataclasses.fields(base):
            _add_flag(group, item)
    return parser


def _add_flag(group: argparse._ArgumentGroup, item: dataclasses.Field) -> None:
    text = item.metadata["help"]
    if item.default not in (None, dataclasses.MISSING) and "[default" not in text:
        text += f" [{str(item.default).lower() if isinstance(item.default, bool) else item.default}]"
    choices = item.metadata["choices"]
    metavar = f"{{{','.join(choices)}}}" if choices else _type_name(item.type).upper()
    extra: dict[str, Any] = {"nargs": "?", "const": "true"} if item.type is bool else {}
    group.add_argument(
        f"--{item.name}", metavar=metavar, default=argparse.SUPPRESS, help=text.replace("%", "%%"), **extra
    )


def _type_name(annotation: Any) -> str:
    kinds = typing.get_args(annotation) or (annotation,)
    return {"str": "text", "int": "n", "float": "x", "dict": "{…}", "list": "[…]"}.get(
        kinds[0].__name__, kinds[0].__name__
    )


def _parse_value(annotation: Any, text: str) -> Any:
    """Parse a flag's value as YAML, unless the field is a string."""
    kinds = typing.get_args(annotation) or (annotation,)
    if type(None) in kinds and text.lower() in ("null", "none"):
        return None
    return text if str in kinds else parse_yaml(text)


def _parse_dotted_flags(arguments: list[str], names: Sequence[str]) -> list[tuple[list[str], str]]:
    """Parse `--model.emo_config.num_query_tokens 8` to (["model", "emo_config", "num_query_tokens"], "8")."""
    found = []
    flags = iter(arguments)
    for flag in flags:
        name, has_value, value = flag.removeprefix("--").partition("=")
        if not flag.startswith("--"):
            raise ValueError(f"{flag!r} follows no flag; values come as --NAME VALUE.")
        reject_unknown([name.split(".")[0]], names, "The command line")
        if not has_value:
            value = next(flags, "")
        if not value or value.startswith("--"):
            raise ValueError(f"--{name} has no value.")
        found.append((name.split("."), value))
    return found


def _assign(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ValueError(f"{'.'.join(path)} cannot be set: {key} is not a mapping.")
    values[path[-1]] = value


# ------------------------------------------------------------------------------------------------------- what was run
def save_resolved(arguments: Any, output_dir: str | Path) -> None:
    """Write all fields to the output folder; `--config OUTPUT_DIR/training_config.yaml` repeats the run."""
    text = yaml.safe_dump(dataclasses.asdict(arguments), sort_keys=False, allow_unicode=True)
    write_text(Path(output_dir, RESOLVED_NAME), text)


def _default_value(item: dataclasses.Field) -> Any:
    """Default of a field, the value in runs from before the field existed."""
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def check_same_run(arguments: Any, output_dir: str | Path) -> None:
    """Raise if the folder has a run with other values of the fields that affect the result."""
    file = Path(output_dir, RESOLVED_NAME)
    if not file.is_file():
        return
    earlier = load_yaml(file)
    fixed = [item.name for item in dataclasses.fields(arguments) if item.metadata["fixed"]]
    defaults = type(arguments).__dataclass_fields__
    original = {name: earlier.get(name, _default_value(defaults[name])) for name in fixed}
    changed = [
        f"{name} {original[name]!r} -> {getattr(arguments, name)!r}"
        for name in fixed
        if original[name] != getattr(arguments, name)
    ]
    if changed:
        raise ValueError(
            f"{output_dir} holds a run with another configuration ({'; '.join(changed)}); "
            f"choose another --output_dir or remove it."
        )


# ------------------------------------------------------------------------------------------------------------- script
