"""What is done with adapters in fresh processes; each function returns a report that travels as JSON.

Nothing here imports `mf2` at the top: most of these processes cannot.
"""

import importlib
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


def picture() -> Image.Image:
    """40 × 50 pixels, smooth and the same in every process."""
    y, x = np.mgrid[0:50, 0:40]
    channels = [128 + 100 * np.sin(x / 7 + k) * np.cos(y / (5 + k)) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def load(source: str, **kwargs: Any) -> Any:
    """A model in evaluation mode."""
    return AutoModel.from_pretrained(source, trust_remote_code=True, **kwargs).eval()


def load_processor(base: str) -> Any:
    return AutoProcessor.from_pretrained(base, trust_remote_code=True)


@torch.no_grad()
def name_states(model: Any, processor: Any) -> dict[str, Any]:
    """Named results of the active label space."""
    inputs = processor.for_label_spaces(model.label_space)(images=picture())
    return processor.post_process_facial_states(model(**inputs), model.label_space)[0]


# ------------------------------------------------------------------------------------------------ without the package
@torch.no_grad()
def visit(base: str, adapters: dict[str, str]) -> dict[str, Any]:
    """Each adapter by itself, as PEFT loads it, and all of them on one picture in one pass."""
    processor = load_processor(base)
    report: dict[str, Any] = {"alone": {}, "peft": {}, "dtypes": {}}
    for name, folder in adapters.items():
        model = load(folder)
        report["alone"][name] = name_states(model, processor)
        report["module"] = type(model.recognizers).__module__

    from peft import PeftModel

    for name, folder in adapters.items():
        adapted = PeftModel.from_pretrained(load(base), folder).eval()
        report["peft"][name] = name_states(adapted, processor)
        half = load(folder, dtype=torch.bfloat16)
        report["dtypes"][name] = sorted({str(p.dtype) for n, p in half.named_parameters() if "dfn_sides" in n})

    model = load(base)
    report["base alone"] = name_states(model, processor)
    for name, folder in adapters.items():
        model.load_adapter(folder, adapter_name=name)
    names = [*adapters, "base"]
    inputs = processor.for_label_spaces(*(model.label_spaces[name] for name in names))(images=picture())
    outputs = model.forward_adapters(names, **inputs)
    report["together"] = {
        name: processor.post_process_facial_states(outputs[name], model.label_spaces[name])[0] for name in names
    }
    return report


# --------------------------------------------------------------------------------------------------------- both copies
def visit_with_both(base: str, adapter: str, first: str) -> dict[str, Any]:
    """The checkpoint's copy of the code and the package, in either order: whose classes there are; that both work."""

    def use_copy() -> Any:
        return get_class_from_dynamic_module("modeling_mf2.MF2Model", base)

    def use_package() -> Any:
        importlib.import_module("mf2").MF2Model  # noqa: B018 - registers the family
        return importlib.import_module("mf2.modeling_mf2").MF2Model

    order = (use_copy, use_package) if first == "copy" else (use_package, use_copy)
    classes = {step.__name__: step() for step in order}
    peft_dfn = importlib.import_module("mf2.peft_dfn")
    peft = importlib.import_module("peft")
    registered = importlib.import_module("peft.mapping").PEFT_TYPE_TO_TUNER_MAPPING[peft.PeftType.DFN]
    report = {
        "registered": registered.__module__.partition(".")[0],
        "re-exported": peft_dfn.DFNModel is registered,
        "members": [member.name for member in peft.PeftType].count("DFN"),
        "isinstance": {},
        "states": {},
    }
    processor = load_processor(base)
    for name, model_class in classes.items():
        adapted = peft.PeftModel.from_pretrained(model_class.from_pretrained(base).eval(), adapter).eval()
        layer, config = adapted.get_base_model().recognizers, adapted.peft_config["default"]
        report["isinstance"][name] = isinstance(layer, peft_dfn.DFNLayer) and isinstance(config, peft_dfn.DFNConfig)
        report["states"][name] = name_states(adapted, processor)
    return report


# -------------------------------------------------------------------------------------------------------- over the Hub
def push(base: str, adapter: str, base_id: str, adapter_id: str, other: str) -> dict[str, str]:
    """Push a base and an adapter, then other files over either: the shas of the first."""
    api = HfApi()
    shas = {}
    for kind, folder, repo_id in (("base", base, base_id), ("adapter", adapter, adapter_id)):
        api.create_repo(repo_id)
        shas[kind] = api.upload_folder(repo_id=repo_id, folder_path=folder).oid
    api.upload_folder(repo_id=adapter_id, folder_path=other)
    return shas


def visit_hub(base_id: str, adapter_id: str, base: str, adapter: str) -> dict[str, Any]:
    """The adapter as it is now, and both pinned by sha."""
    pinned = {"revision": base, "adapter_kwargs": {"revision": adapter}}
    processor = load_processor(base_id)
    return {
        "now": name_states(load(adapter_id), processor),
        "pinned": name_states(load(adapter_id, **pinned), processor),
    }
