"""Compares the time and memory of fine-tuning methods: full, LoRA, head only, DFN live and DFN with cached states.

All methods use the same batch in one run; weights are random, which does not affect timings. Prints Markdown tables
and writes JSON.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mf2.benchmarks.branch import Sections, run_sections
from mf2.benchmarks.inputs import IMAGE_SIZES, Batch, make_batch, make_config, make_model
from mf2.benchmarks.timing import Phases, in_fresh_process, memory_in_use, peak_memory_during, time_side_by_side
from mf2.benchmarks.workloads import Settings
from mf2.modeling_mf2 import MF2ForPreTraining, MF2Model
from mf2.peft_dfn import DFNConfig, DFNSide, side_sizes
from mf2.recognition_mf2 import MF2Recognizers
from mf2.training.finetuning_methods import LORA_TARGETS
from mf2.training.state_cache import FrozenSpace, StatesModel, pool_states, shared_spaces

MFA_IMAGES = 31_320
"""Images in an epoch of MFA, for extrapolation from a step."""
NUM_ADAPTERS = 8
TARGETS = {
    "DFN live": "≥ 5 of all losses, ≥ 2 of the task's",
    "DFN cached": "≥ 100",
}


# ------------------------------------------------------------------------------------------------------------ methods
@dataclass
class Trained:
    """A method ready for training: its module (a model or PEFT model) and its batch."""

    module: Any
    batch: Batch

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def phases(self, settings: Settings) -> Phases:
        """Forward, backward and update; with a learning rate of 0, AdamW does all work but keeps the weights."""
        optimizer = torch.optim.AdamW(self.parameters, lr=0.0)
        state: dict[str, torch.Tensor] = {}
        self.module.train()

        def forward() -> None:
            with settings.autocast():
                state["loss"] = self.module(**self.batch).loss

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return {"forward": forward, "backward": lambda: state.pop("loss").backward(), "AdamW": update}


def build_full(size: str, settings: Settings, all_losses: bool) -> Trained:
    """Full fine-tuning: everything but a frozen tower."""
    config = make_config(size, settings.seed, settings.dropout)
    model = make_model(config, settings.seed, settings.device)
    batch = make_batch(config, settings.get_batch_size(size), IMAGE_SIZES[size], settings.seed, settings.device)
    if all_losses:
        return Trained(model, batch)
    return Trained(as_plain_model(model), without_texts(batch))


def as_plain_model(model: MF2ForPreTraining) -> MF2Model:
    """A model with the same modules and only the task's losses."""
    with torch.device("meta"):
        plain = MF2Model(model.config)
    for name, module in model.named_children():
        setattr(plain, name, module)
    return plain


def without_texts(batch: Batch) -> Batch:
    """The batch without texts."""
    return {name: batch[name] for name in ("pixel_values", "au_boxes", "emotion_labels", "au_labels")}


def build_lora(size: str, settings: Settings) -> Trained:
    """LoRA with rank 8 on the Q-Formers, and the recognisers."""
    full = build_full(size, settings, all_losses=False)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=LORA_TARGETS, modules_to_save=["recognizers"])
    return Trained(get_peft_model(full.module, lora), full.batch)


def build_head(size: str, settings: Settings) -> Trained:
    """Only the recognisers."""
    full = build_full(size, settings, all_losses=False)
    full.module.requires_grad_(False).recognizers.requires_grad_(True)
    return full


def build_dfn_live(size: str, settings: Settings) -> Trained:
    """An adapter on the live model, with texts and their alignment."""
    full = build_full(size, settings, all_losses=True)
    return Trained(get_peft_model(as_plain_model(full.module), DFNConfig()), full.batch)


def build_dfn_cached(size: str, settings: Settings) -> Trained:
    """The same adapter on random states of the right shapes; only the shapes of the model's projections are needed."""
    config = make_config(size, settings.seed, settings.dropout)
    adapter = DFNConfig()
    adapter.take_base(config)
    batch = make_batch(config, settings.get_batch_size(size), IMAGE_SIZES[size], settings.seed, settings.device)
    states: Batch = {}
    for (branch, width), prefix in zip(side_sizes(config)["widths"].items(), ("", "au_"), strict=True):
        num_states = min(adapter.num_kept_states, side_sizes(config)["num_layers"][branch])
        captions = batch[f"{prefix}caption_ids"]
        captions = captions if captions.ndim == 2 else captions[:, None]
        num_views = 1 if branch == "emo" else len(config.au_ids)
        random = partial(torch.randn, device=settings.device)
        states |= {
            f"{branch}_states": random(len(captions), num_views, num_states, width),
            f"{branch}_text_states": random(*captions.shape, num_states, width),
            f"{branch}_caption_ids": captions,
            f"{branch}_text_valid": torch.ones_like(captions, dtype=torch.bool),
        }
    states["places_states"] = torch.rand(len(captions), len(config.au_ids), 1, 4, device=settings.device)
    with torch.device("meta"):
        meta = MF2Model(config)
    labels = {name: batch[name] for name in ("emotion_labels", "au_labels")}
    spaces: dict[str, dict[str, torch.Tensor]] = {name: {} for name in meta.branches}
    for key, tensor in shared_spaces(meta).items():
        branch, name = key.split(".", 1)
        spaces[branch][name] = torch.full_like(tensor, 0.07, device=settings.device)
    frozen = {name: FrozenSpace(tensors) for name, tensors in spaces.items()}
    side = DFNSide(adapter, **side_sizes(config), base=config.label_space).to(settings.device)
    base = MF2Recognizers(side_sizes(config)["widths"], config).to(settings.device)
    return Trained(StatesModel(side, frozen, config, base), states | labels)


METHODS: dict[str, Callable[[str, Settings], Trained]] = {
    "full, all losses": lambda size, settings: build_full(size, settings, all_losses=True),
    "full, task loss": lambda size, settings: build_full(size, settings, all_losses=False),
    "LoRA, r = 8": build_lora,
    "head only": build_head,
    "DFN live": build_dfn_live,
    "DFN cached": build_dfn_cached,
}


def measure_steps(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the seconds per step of each method, and extrapolate to an epoch of MFA."""
    built = {name: build(size, settings) for name, build in METHODS.items()}
    runs = {name: method.phases(settings) for name, method in built.items()}
    timings = time_side_by_side(runs, settings.step_repeats, 1, settings.device, f"{size}, training step")
    all_losses, task = timings["full, all losses"].seconds, timings["full, task loss"].seconds
    rows = []
    for name, timing in timings.items():
        batch_size = settings.get_batch_size(size)
        rows.append(
            {"size": size, "method": name, "images": batch_size}
            | {"trained parameters": sum(parameter.numel() for parameter in built[name].parameters)}
            | {"ms a step": 1e3 * timing.seconds}
            | {"s an epoch of MFA": timing.seconds * MFA_IMAGES / batch_size}
            | {"faster than full, all losses": all_losses / timing.seconds}
            | {"faster than full, task loss": task / timing.seconds, "target": TARGETS.get(name)}
        )
    return rows


# ------------------------------------------------------------------------------------------------------------- memory
def step_memory(size: str, method: str, settings: Settings) -> int:
    """Peak memory in bytes of the second training step, relative to the process without a model."""
    settings.configure_torch()
    METHODS["DFN cached"]("tiny", settings).phases(settings)["forward"]()  # allocates torch's buffers
    idle = memory_in_use(settings.device)
    phases = METHODS[method](size, settings).phases(settings)

    def step() -> None:
        for phase in phases.values():
            phase()

    step()
    return peak_memory_during(step, settings.device) - idle


def measure_memory(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the peak memory of each method with the task's loss, in separate processes."""
    measured = [name for name in METHODS if name != "full, all losses"]
    peaks = {name: in_fresh_process(step_memory, size, name, settings) for name in measured}
    task = peaks["full, task loss"]
    return [
        {"size": size, "method": name, "images": settings.get_batch_size(size), "peak, MiB": peak / 2**20}
        | {"share of full, task loss": peak / task, "target": {"DFN live": "≤ 1/5", "DFN cached": "≤ 1/15"}.get(name)}
        for name, peak in peaks.items()
    ]


# ---------------------------------------------------------------------------------------------------- inference, cache
def measure_inference(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure image-only passes: without adapter, with one, and with several in one pass."""
    full = build_full(size, settings, all_losses=False)
    model, images = full.module.eval(), {name: full.batch[name] for name in ("pixel_values", "au_boxes")}
    adapted = get_peft_model(model, DFNConfig(), adapter_name="adapter-0")
    for index in range(1, NUM_ADAPTERS):
        adapted.add_adapter(f"adapter-{index}", DFNConfig())
    names = [f"adapter-{index}" for index in range(NUM_ADAPTERS)]
    layer = model.recognizers

    def without_adapter() -> None:
        layer.enable_adapters(False)
        model(**images)
        layer.enable_adapters(True)

    runs = {
        "no adapter": without_adapter,
        "one adapter": lambda: model(**images),
        "one adapter of forward_adapters": lambda: model.forward_adapters(names[:1], **images),
        f"{NUM_ADAPTERS} adapters of forward_adapters": lambda: model.forward_adapters(names, **images),
    }
    timings = time_side_by_side(
        {name: {"all": without_gradient(run, settings)} for name, run in runs.items()},
        settings.repeats,
        1,
        settings.device,
        f"{size}, inference",
    )
    alone, one = timings["no adapter"].seconds, timings["one adapter of forward_adapters"].seconds
    return [
        {"size": size, "forward": name, "images": settings.get_batch_size(size), "ms": 1e3 * timing.seconds}
        | {"/ no adapter": timing.seconds / alone, "/ one of forward_adapters": timing.seconds / one}
        for name, timing in timings.items()
    ]


def without_gradient(run: Callable[[], object], settings: Settings) -> Callable[[], None]:
    """Wrap a function with `no_grad` and the settings' autocast."""

    def inference() -> None:
        with torch.no_grad(), settings.autocast():
            run()

    return inference


def measure_cache(size: str, settings: Settings) -> list[dict[str, Any]]:
    """Measure the cost of caching a view of an image, and what a step saves with it."""
    live, cached = build_dfn_live(size, settings), build_dfn_cached(size, settings)
    full = build_full(size, settings, all_losses=False)
    base, kept = live.module.get_base_model(), DFNConfig().num_kept_states
    runs: Mapping[str, Phases] = {
        "storing": {"all": without_gradient(lambda: pool_states(base.eval(), live.batch, kept), settings)},
        "DFN live": live.phases(settings),
        "DFN cached": cached.phases(settings),
        "full, task loss": full.phases(settings),
    }
    timings = time_side_by_side(runs, settings.step_repeats, 1, settings.device, f"{size}, cache")
    seconds = {name: timing.seconds for name, timing in timings.items()}
    values = sum(tensor[0].numel() for name, tensor in cached.batch.items() if name in ("emo_states", "au_states"))
    row = {"size": size, "KiB a view of an image, fp16": values * 2 / 1024}
    row |= {f"{name}, ms an image": 1e3 * s / settings.get_batch_size(size) for name, s in seconds.items()}
    for name in ("DFN live", "full, task loss"):
        saved = seconds[name] - seconds["DFN cached"]
        row[f"epochs until a view pays against {name}"] = seconds["storing"] / saved
    return [row]


# ------------------------------------------------------------------------------------------------------------- script
SECTIONS: Sections = {
    "steps": (
        "Training step by method",
        measure_steps,
        (
            f"An epoch is extrapolated from the median step to MFA's {MFA_IMAGES:,} images; reading images "
            f"is not part of it. DFN trains with λ = 0.1: live, both branches' texts pass too.",
        ),
    ),
    "memory": (
        "Peak memory of a training step by method",
        measure_memory,
        ("Above the idle process with torch loaded; weights are part of it. Each in a process of its own.",),
    ),
    "inference": ("Inference with adapters", measure_inference, ()),
    "cache": (
        "Cached states",
        measure_cache,
        ("Storing is one pass of the frozen model over image and texts; a distinct text is stored once.",),
    ),
}


def run(args: argparse.Namespace) -> None:
    """Run the benchmark and print its tables."""
    run_sections(args, "Fine-tuning benchmark", SECTIONS)
