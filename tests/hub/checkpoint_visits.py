"""What is done with checkpoints in fresh processes; each function returns a report that travels as JSON.

Nothing here imports `mf2` at the top: most of these processes cannot.
"""

import filecmp
import importlib
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module

AUTO_MODELS = (
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForImageTextToText",
    "AutoModelForImageClassification",
)
CAPTION_KINDS = ("emotion", "key_au", "au")
TEXTS = ["The inner brows are raised: sadness.", "Lip corners are pulled up."]


# ----------------------------------------------------------------------------------------------------- using them all
def picture() -> Image.Image:
    """40 × 50 pixels, smooth and the same in every process."""
    y, x = np.mgrid[0:50, 0:40]
    channels = [128 + 100 * np.sin(x / 7 + k) * np.cos(y / (5 + k)) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def load_model(auto_class: str, source: str, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A model in evaluation mode, and what of it the checkpoint lacked or had too much."""
    loader = getattr(transformers, auto_class)
    model, info = loader.from_pretrained(source, output_loading_info=True, **{"trust_remote_code": True, **kwargs})
    return model.eval(), {key: sorted(map(str, found)) for key, found in info.items() if found}


@torch.no_grad()
def use_models(source: str, processor: Any, inputs: Any, **kwargs: Any) -> dict[str, Any]:
    """Every Auto class on one batch: `classes`, `loading` (mismatches), `outputs`, `captions`."""
    models, loading = {}, {}
    for name in AUTO_MODELS:
        models[name], loading[name] = load_model(name, source, **kwargs)
    seen = models["AutoModel"](**inputs).items()
    outputs = {f"AutoModel.{key}": value.tolist() for key, value in seen if isinstance(value, torch.Tensor)}

    texts = processor(text=TEXTS, au_text=[TEXTS[:1] * 12, TEXTS[1:] * 12])
    torch.manual_seed(0)  # draws the negatives
    pretraining = models["AutoModelForPreTraining"](**inputs, **texts)
    outputs |= {f"losses.{name}": loss.item() for name, loss in pretraining.losses.items()}

    writer = models["AutoModelForImageTextToText"]
    captions = {kind: processor.batch_decode(writer.generate(**inputs, caption_kind=kind)) for kind in CAPTION_KINDS}
    outputs["logits"] = models["AutoModelForImageClassification"](**inputs).logits.tolist()
    classes = {name: [type(model).__module__, type(model).__name__] for name, model in models.items()}
    return {"classes": classes, "loading": loading, "outputs": outputs, "captions": captions}


def use_checkpoint(source: str, landmarks: list, backend: str | None = None, **kwargs: Any) -> dict[str, Any]:
    """A checkpoint by all of its Auto classes and two pipelines; equal reports mean equal behaviour.

    Args:
        source: folder or repository.
        landmarks: `(68, 2)` points in pixels of `picture()`.
        backend: of the image processor; None leaves the choice to transformers.
        kwargs: of every `from_pretrained`.
    """
    torch.set_num_threads(1)
    kwargs["trust_remote_code"] = True
    config = AutoConfig.from_pretrained(source, **kwargs)
    processor = AutoProcessor.from_pretrained(source, **kwargs)
    image_processor = AutoImageProcessor.from_pretrained(source, backend=backend, **kwargs)
    if backend:
        processor.image_processor = image_processor
    pipeline = transformers.pipeline(
        "image-classification", model=source, image_processor=image_processor if backend else None, **kwargs
    )
    inputs = processor(images=[picture(), picture()], landmarks=[np.array(landmarks), None])
    report = use_models(source, processor, inputs, **kwargs)
    report["outputs"] |= {name: inputs[name].tolist() for name in ("pixel_values", "au_boxes", "align_matrix")}
    report["pipeline"] = pipeline(picture(), top_k=3)
    analyze = transformers.pipeline("facial-state-analysis", model=source, processor=processor, **kwargs)
    report["states"] = analyze(picture(), landmarks=np.array(landmarks), captions="emotion")
    for auto_class, found in (
        ("AutoConfig", config),
        ("AutoProcessor", processor),
        ("AutoImageProcessor", image_processor),
        ("AutoProcessor.image_processor", processor.image_processor),
        ("AutoProcessor.tokenizer", processor.tokenizer),
        ("pipeline", pipeline.model),
        ("analyze", analyze.model),
    ):
        report["classes"][auto_class] = [type(found).__module__, type(found).__name__]
    return report


def resave(source: str, target: str) -> None:
    """Load with the Auto classes and save again."""
    AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True).save_pretrained(target)
    AutoProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(target)


# ------------------------------------------------------------------------------------------------ without the package
_PROGRAMS = ("subprocess.", "os.system", "os.exec", "os.fork", "os.spawn", "os.posix_spawn")
_CONNECTIONS = ("socket.", "urllib.", "http.")
_CHANGES = ("shutil.", "tempfile.", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")


def _is_effect(event: str, args: tuple) -> bool:
    """Whether an audit event is a connection, a program started, or something written."""
    if event == "open":
        return bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event.startswith(_PROGRAMS + _CONNECTIONS + _CHANGES)


def import_audited(folder: str) -> dict[str, list[str]]:
    """Import every code file of a checkpoint where it lies: the `modules`, the `effects` that this had, and
    a `control`, those of writing a file."""
    effects: list[str] = []
    is_on = False
    sys.dont_write_bytecode = True
    package = ModuleType("checkpoint_code")
    package.__path__ = [folder]
    sys.modules["checkpoint_code"] = package
    modules = sorted(path.stem for path in Path(folder).glob("*.py"))

    def note(event: str, args: tuple) -> None:
        if is_on and _is_effect(event, args):
            effects.append(f"{event} {args}")

    sys.addaudithook(note)
    is_on = True
    for module in modules:
        importlib.import_module(f"checkpoint_code.{module}")
    seen = list(effects)
    Path(os.devnull).write_text("")  # that the hook works
    is_on = False
    return {"modules": modules, "effects": seen, "control": effects[len(seen) :]}


def warnings_of(source: str) -> list[str]:
    """What is logged as a warning when a configuration is loaded, by loggers that are not transformers' own."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    AutoConfig.from_pretrained(source, trust_remote_code=True)
    logging.getLogger().removeHandler(handler)
    return records


def visit_without_package(folder: str, landmarks: list, sharded: str, other_version: str, copy: str) -> dict[str, Any]:
    """Everything that a machine with nothing but transformers and torch does with a checkpoint."""
    report = {
        "imported": import_audited(folder),
        "used": use_checkpoint(folder, landmarks),
        "warnings": {"same": warnings_of(folder), "other": warnings_of(other_version)},
    }
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=[picture(), picture()], landmarks=[np.array(landmarks), None])
    report["sharded"] = use_models(sharded, processor, inputs)
    resave(folder, copy)
    return report


# --------------------------------------------------------------------------------------------------------- both copies
@torch.no_grad()
def visit_with_both(folder: str, target: str) -> dict[str, Any]:
    """The checkpoint's copy of the code first, then the package, then both together.

    Returns `providers`, the module of the class at each step; `logits` of each model; `shipped`, the code files that
    the package's model saved, and `differ`, those that are not the package's own.
    """
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(images=picture())
    models = {"copy": load_model("AutoModel", folder)[0]}

    mf2 = importlib.import_module("mf2")
    models["package"] = mf2.MF2Model.from_pretrained(folder).eval()
    models["auto"] = load_model("AutoModel", folder)[0]
    copy_class = get_class_from_dynamic_module("modeling_mf2.MF2Model", folder)
    models["copy again"] = copy_class.from_pretrained(folder).eval()
    providers = {name: type(model).__module__ for name, model in models.items()}
    providers["processor"] = type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)).__module__

    for name in ("copy", "package"):
        models[name].save_pretrained(f"{target}-{name}")
        models[f"saved by {name}"] = load_model("AutoModel", f"{target}-{name}")[0]
    package = Path(mf2.__file__).parent
    shipped = sorted(path.name for path in Path(f"{target}-package").glob("*.py"))
    _, differ, missing = filecmp.cmpfiles(package, f"{target}-package", shipped, shallow=False)
    logits = {name: model(**inputs).au_logits.tolist() for name, model in models.items()}
    return {"providers": providers, "logits": logits, "shipped": shipped, "differ": differ + missing}


# -------------------------------------------------------------------------------------------------------- over the Hub
@torch.no_grad()
def push(folder: str, repo_id: str, private_id: str) -> dict[str, Any]:
    """Push a model with other thresholds and weights, then the checkpoint's, then a private one: `first`, its sha."""
    mf2 = importlib.import_module("mf2")
    processor = mf2.MF2Processor.from_pretrained(folder)
    model = mf2.MF2ForConditionalGeneration.from_pretrained(folder)
    bias = model.recognizers.au_head.bias.clone()
    model.recognizers.au_head.bias += 1
    first = model.push_to_hub(repo_id).oid
    model.recognizers.au_head.bias.copy_(bias)
    for name, is_private in ((repo_id, False), (private_id, True)):
        model.push_to_hub(name, private=is_private)
        processor.push_to_hub(name)
    return {"first": first}


@torch.no_grad()
def visit_hub(repo_id: str, private_id: str, first: str, token: str, landmarks: list) -> dict[str, Any]:
    """Load by repository, by sha, and what is private without (first, so that no cache serves it) and with a token."""
    refusals = {each.__name__: refusal(each, private_id) for each in (AutoConfig, AutoModel, AutoProcessor)}
    report = {"refusals": refusals, "used": use_checkpoint(repo_id, landmarks)}
    inputs = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)(images=picture())
    logits = {}
    for name, kwargs in {"main": {}, "first": {"revision": first}}.items():
        logits[name] = load_model("AutoModel", repo_id, **kwargs)[0](**inputs).au_logits.tolist()
    logits["private"] = load_model("AutoModel", private_id, token=token)[0](**inputs).au_logits.tolist()
    report["logits"] = logits
    return report


def refusal(auto_class: Any, repo_id: str) -> list[str]:
    """Name and text of the error when a repository is loaded without a token."""
    try:
        auto_class.from_pretrained(repo_id, trust_remote_code=True, token=False)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []
