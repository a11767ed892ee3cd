"""The sections of the GPU benchmark, each a function that yields rows; `python -m` runs one of them (see `gpu.py`).

A variant that fails is a row with an `error`, and the next one is tried.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile

import mf2
from mf2.analysis.recognizer import compile_image_passes
from mf2.auto_mf2 import register_auto_classes
from mf2.benchmarks import analyze as analysis_benchmark
from mf2.benchmarks.finetune import METHODS, build_dfn_cached, measure_cache
from mf2.benchmarks.gpu_tools import (
    Plan,
    Row,
    TrainingStep,
    attempt,
    median_seconds,
    peak_gib,
    precision,
    relative_error,
    repeated_layers,
    reset_peak,
    set_matmul,
    weights_dtype,
)
from mf2.benchmarks.inputs import IMAGE_SIZES, make_batch, make_config
from mf2.benchmarks.timing import count_flops, release_memory, synchronize, time_once
from mf2.benchmarks.workloads import Settings
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2ForPreTraining, MF2Model
from mf2.processing_mf2 import MF2Processor
from mf2.utils.devices import PRECISIONS as PRODUCTS

Rows = Iterator[Row]
Model = TypeVar("Model", bound=MF2Model)
ROOT = Path(mf2.__file__).resolve().parent
GOLDEN = ROOT / "tests" / "golden"
PRECISIONS = (
    "float32",
    "tf32",
    "bfloat16 autocast",
    "bfloat16",
    "float16 autocast",
    "float16",
)
"""Precisions of inference: float32 weights (multiplied as float32, TF32 or under autocast), or weights of a dtype."""


# ------------------------------------------------------------------------------------------------------- ceilings
def measure_machine(plan: Plan) -> Rows:
    """Measure the card: copy bandwidth (bytes read and written), and products of random square matrices."""
    if plan.device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        yield {"what": facts.name, "GiB": facts.total_memory / 2**30, "multiprocessors": facts.multi_processor_count}
    side = 128 if plan.dry_run else 8192
    yield {"what": "copy", "TB/s": copy_rate(plan, 8 * side * side)}
    for name in ("bfloat16", "float16", "tf32", "float32"):
        yield {"what": f"product, {name}", "TFLOP/s": product_rate(plan, side, name)}


def copy_rate(plan: Plan, count: int) -> float:
    """TB/s of copying `count` float32 numbers."""
    source = torch.randn(count, device=plan.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(plan, lambda: target.copy_(source), 20) / 1e12


def product_rate(plan: Plan, side: int, name: str) -> float:
    """TFLOP/s of a product of two square matrices."""
    set_matmul(name == "tf32")
    left, right = (torch.randn(side, side, device=plan.device, dtype=weights_dtype(name)) for _ in range(2))
    return 2 * side**3 / median_seconds(plan, lambda: left @ right, 10) / 1e12


# --------------------------------------------------------------------------------------------------------- parity
def measure_parity(plan: Plan) -> Rows:
    """Compare outputs, losses and gradients with the CPU in float32, and with the golden checkpoint's outputs."""
    if GOLDEN.exists():
        yield from golden_parity(plan)
    yield from training_parity(plan)
    yield from model_parity(plan)


@torch.no_grad()
def golden_parity(plan: Plan) -> Rows:
    """Compare a trained small model on 20 generated faces with its stored outputs."""
    register_auto_classes()
    expected = load_file(GOLDEN / "outputs.safetensors")
    processor = MF2Processor.from_pretrained(GOLDEN / "checkpoint")
    faces = pq.read_table(next((GOLDEN / "faces" / "data").iterdir())).to_pylist()
    images = [Image.open(BytesIO(face["image"]["bytes"])) for face in faces]
    inputs = processor(images=images, landmarks=[face["landmarks"] for face in faces], return_tensors="pt")

    def compare(name: str) -> Row:
        model = MF2Model.from_pretrained(GOLDEN / "checkpoint", dtype=weights_dtype(name)).eval().to(plan.device)
        with precision(plan, name):
            found = model(**{key: inputs[key].to(plan.device) for key in ("pixel_values", "au_boxes")})
        return compute_errors({key: found[key].float().cpu() for key in expected}, expected)

    for name in PRECISIONS:
        yield attempt(plan, {"model": "golden", "precision": name}, partial(compare, name))


def compute_errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> Row:
    """Maximum differences of probabilities, relative errors of all outputs, and changed decisions."""
    aus, emotions = ("au_logits", "emotion_logits")
    probs = {aus: torch.sigmoid, emotions: lambda x: x.softmax(-1)}
    row: Row = {
        f"{name}, Δ probability": (to_probs(found[name]) - to_probs(expected[name])).abs().max().item()
        for name, to_probs in probs.items()
    }
    row |= {f"{name}, relative": relative_error(found[name], values) for name, values in expected.items()}
    changed = ((found[aus] >= 0) != (expected[aus] >= 0)).sum() + (
        found[emotions].argmax(-1) != expected[emotions].argmax(-1)
    ).sum()
    return row | {"decisions that differ": int(changed), "of": expected[aus].numel() + len(expected[emotions])}


@torch.no_grad()
def model_parity(plan: Plan) -> Rows:
    """Compare `base` with random weights."""
    config = make_config(plan.base, plan.seed, **plan.config_fields)
    torch.manual_seed(plan.seed)
    model = MF2Model(config).eval()
    batch = make_batch(config, 4, IMAGE_SIZES[plan.base], plan.seed, "cpu")
    inputs = {name: batch[name] for name in ("pixel_values", "au_boxes")}
    names = ("au_logits", "emotion_logits", "au_embeds", "emotion_embeds")
    expected = {name: value for name, value in model(**inputs).items() if name in names}
    weights = model.state_dict()

    def compare(name: str) -> Row:
        with torch.device(plan.device):
            other = MF2Model(config).eval()
        other.load_state_dict(weights)
        other = other.to(weights_dtype(name))
        with precision(plan, name):
            found = other(**{key: value.to(plan.device) for key, value in inputs.items()})
        return compute_errors({key: found[key].float().cpu() for key in names}, expected)

    for name in PRECISIONS:
        yield attempt(plan, {"model": "base", "precision": name}, partial(compare, name))


def training_parity(plan: Plan) -> Rows:
    """Compare a training step without dropout, and without ITM, whose hard negatives depend on rounding."""
    config = make_config(
        plan.base, plan.seed, dropout=0.0, itm_weight=0.0, recognition_dropout=0.0, **plan.config_fields
    )
    batch = make_batch(config, 4, IMAGE_SIZES[plan.base], plan.seed, "cpu")
    torch.manual_seed(plan.seed)
    model = MF2ForPreTraining(config).train()

    def step(device: str, name: str) -> dict[str, torch.Tensor]:
        model.to(device).zero_grad()
        torch.manual_seed(plan.seed)
        with precision(plan, name):
            output = model(**{key: value.to(device) for key, value in batch.items()})
        output.loss.backward()
        grads = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        return {"loss": output.loss.detach().float().cpu(), "gradient": grads}

    expected = step("cpu", "float32")

    def compare(name: str) -> Row:
        found = step(plan.device, name)
        return {f"{key}, relative": relative_error(value, expected[key]) for key, value in found.items()}

    for name in ("float32", "tf32", "bfloat16 autocast"):
        yield attempt(plan, {"model": "base, training step", "precision": name}, partial(compare, name))


# ------------------------------------------------------------------------------------------------------- training
def measure_training(plan: Plan) -> Rows:
    """Time the `base` step with captions, and with texts of full length, as the floor assumes."""
    for mode, full_texts in (("caption", False), ("caption", True), ("per_au", False)):
        facts = {"au_text_mode": mode, "texts": "full length" if full_texts else "captions"}

        def measure(mode: str = mode, full_texts: bool = full_texts) -> Row:
            step = TrainingStep.build(plan, plan.base, mode, full_texts=full_texts)
            row = step.time(plan)
            flops = count_flops(lambda: step.loss().backward())
            return row | {"TFLOP": flops / 1e12, "TFLOP/s": flops / 1e9 / row["ms"]} | measure_phases(plan, step)

        yield attempt(plan, facts, measure)


def measure_phases(plan: Plan, step: TrainingStep) -> Row:
    """Milliseconds of forward, backward and update, and of queueing the whole step."""
    losses: list[torch.Tensor] = []
    forward = median_seconds(plan, lambda: losses.append(step.loss()), 1, 0)
    backward = median_seconds(plan, lambda: losses.pop().backward(), 1, 0)
    update = median_seconds(plan, lambda: (step.optimizer.step(), step.optimizer.zero_grad()), 1, 0)
    synchronize(plan.device)
    started = perf_counter()
    step.run()
    queued = perf_counter() - started
    synchronize(plan.device)
    names = ("forward, ms", "backward, ms", "AdamW, ms", "queued, ms")
    return {name: 1e3 * seconds for name, seconds in zip(names, (forward, backward, update, queued), strict=True)}


def measure_options(plan: Plan) -> Rows:
    """Time the `base` step with other attention, another AdamW, a bf16 tower, and large batches."""
    yield from measure_step_options(plan)
    release_memory(plan.device)
    for images in (8,) if plan.dry_run else (112, 168):

        def measure(images: int = images) -> Row:
            return TrainingStep.build(plan, plan.base, images=images).time(plan, 4, 2)

        yield attempt(plan, {"option": f"{images} images"}, measure)


def measure_step_options(plan: Plan) -> Rows:
    """Time the options that use the same batch."""
    step = TrainingStep.build(plan, plan.base)

    def with_attention(name: str) -> Row:
        step.model.set_attn_implementation(name)
        return step.time(plan, 5, 2)

    def with_adamw(fused: bool) -> Row:
        step.fused = fused
        step.start()
        return step.time(plan, 5, 2)

    def with_bf16_tower() -> Row:
        nn.Module.to(step.model.vision_model, torch.bfloat16)
        return step.time(plan, 5, 2)

    for name in ("eager", "sdpa"):
        yield attempt(plan, {"option": f"attention {name}"}, partial(with_attention, name))
    for fused in (False, True):
        yield attempt(plan, {"option": "AdamW, fused" if fused else "AdamW, for each"}, partial(with_adamw, fused))
    yield attempt(plan, {"option": "frozen tower in bfloat16"}, with_bf16_tower)


def measure_profile(plan: Plan) -> Rows:
    """Profile a `base` step: the GPU's share of the time, and the slowest kernels."""
    step = TrainingStep.build(plan, plan.base)
    yield (
        {"step": "before the profile"}
        | step.time(plan, 3, 2)
        | measure_phases(plan, step)
        | count_allocations(plan, step)
    )
    activities = [ProfilerActivity.CUDA if plan.device == "cuda" else ProfilerActivity.CPU]
    synchronize(plan.device)
    with profile(activities=activities, acc_events=True) as profiler:
        started = perf_counter()
        step.run()
        synchronize(plan.device)
        seconds = perf_counter() - started
    clock = "self_device_time_total" if plan.device == "cuda" else "self_cpu_time_total"
    kernels = [event for event in profiler.key_averages() if event.device_type.name == plan.device.upper()]
    kernels.sort(key=lambda event: getattr(event, clock), reverse=True)
    busy = sum(getattr(event, clock) for event in kernels) / 1e6
    calls = sum(event.count for event in kernels)
    yield {"kernel": "all", "ms": 1e3 * busy, "calls": calls, "share of the profiled step": busy / seconds}
    for event in kernels[:25]:
        taken = getattr(event, clock) / 1e6
        row = {"kernel": event.key[:110], "ms": 1e3 * taken, "calls": event.count}
        yield row | {"share of the profiled step": taken / seconds}
    yield from runtime_calls(profiler)


def runtime_calls(profiler: profile) -> Rows:
    """The host's calls of CUDA: launches, copies, and synchronisation."""
    calls = [event for event in profiler.key_averages() if event.key.startswith("cuda")]
    for event in sorted(calls, key=lambda event: event.self_cpu_time_total, reverse=True)[:8]:
        yield {"call": event.key, "ms of the host": event.self_cpu_time_total / 1e3, "calls": event.count}


def count_allocations(plan: Plan, step: TrainingStep) -> Row:
    """Number of memory allocations from the driver in a step, and of retries after emptying the cache."""
    if plan.device != "cuda":
        return {}
    names = {"num_device_alloc": "allocations of the driver", "num_alloc_retries": "cache emptied"}
    before = torch.cuda.memory_stats()
    step.run()
    after = torch.cuda.memory_stats()
    return {label: after[name] - before[name] for name, label in names.items()}


def measure_paper(plan: Plan) -> Rows:
    """Time the `paper` step with the largest batch that fits, its frozen tower in float32 and in bfloat16."""
    for tower in ("float32", "bfloat16"):
        for images in (4,) if plan.dry_run else (56, 48, 40, 32, 24, 16, 8):

            def measure(tower: str = tower, images: int = images) -> Row:
                step = TrainingStep.build(plan, plan.paper, images=images)
                step.model.vision_model.to(getattr(torch, tower))
                return step.time(plan, 4, 2)

            row = attempt(plan, {"tower": tower, "tried": images}, measure)
            yield row
            if "error" not in row:
                break


# -------------------------------------------------------------------------------------------------------- compile
def measure_compiled_layers(plan: Plan) -> Rows:
    """Time the `base` step with each block of tower and branches compiled; equal blocks share a graph."""
    torch._dynamo.config.recompile_limit = 64
    step = TrainingStep.build(plan, plan.base)
    for layer in repeated_layers(step.model):
        layer.compile(backend=plan.compiler, dynamic=True)
    yield attempt(plan, {"compiled": "blocks"}, lambda: time_compiled(plan, step))


def measure_compiled_model(plan: Plan) -> Rows:
    """Time the `base` step with the whole model compiled, as with the Trainer's `--torch_compile`."""
    torch._dynamo.config.recompile_limit = 64
    step = TrainingStep.build(plan, plan.base)
    model, batch = torch.compile(step.model, backend=plan.compiler), step.batch

    def loss() -> torch.Tensor:
        with step.settings.autocast():
            return model(**batch).loss

    step.loss = loss  # type: ignore[method-assign]
    yield attempt(plan, {"compiled": "model"}, lambda: time_compiled(plan, step))


def measure_flex(plan: Plan) -> Rows:
    """Time the `base` step with flex attention, which compiles its kernels."""
    step = TrainingStep.build(plan, plan.base)
    step.model.set_attn_implementation("flex_attention")
    yield attempt(plan, {"option": "attention flex_attention"}, lambda: time_compiled(plan, step))


def time_compiled(plan: Plan, step: TrainingStep) -> Row:
    """Seconds of the first step, which compiles, and times of the following steps."""
    return {"first step, s": time_once(step.run, plan.device)} | step.time(plan, 5, 3)


# ------------------------------------------------------------------------------------------------------------ dfn
def measure_finetuning(plan: Plan) -> Rows:
    """Time the steps of all fine-tuning methods at `base`, and the caching of states."""
    settings = plan.settings()
    for name, build in METHODS.items():

        def measure(build: Callable = build) -> Row:
            reset_peak(plan)
            method = build(plan.base, settings)
            phases = method.phases(settings)
            seconds = median_seconds(plan, lambda: [phase() for phase in phases.values()], 8, 3)
            images = settings.get_batch_size(plan.base)
            return {"images": images, "ms": 1e3 * seconds, "images/s": images / seconds} | peak_gib(plan)

        yield attempt(plan, {"method": name}, measure)
    for images in (8,) if plan.dry_run else (512, 4096):
        large_batch = plan.settings(batch_size=images)

        def cached(settings: Settings = large_batch, images: int = images) -> Row:
            phases = build_dfn_cached(plan.base, settings).phases(settings)
            seconds = median_seconds(plan, lambda: [phase() for phase in phases.values()], 8, 3)
            return {"images": images, "ms": 1e3 * seconds, "images/s": images / seconds} | peak_gib(plan)

        yield attempt(plan, {"method": "DFN cached"}, cached)
    yield attempt(plan, {"method": "cache"}, lambda: measure_cache(plan.base, settings)[0])


# ----------------------------------------------------------------------------------------------------------- fsdp
def measure_fsdp(plan: Plan) -> Rows:
    """Time the `base` step sharded over one device by FSDP2, and without sharding."""
    yield attempt(plan, {"step": "alone"}, lambda: whole_step(plan))
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if plan.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield attempt(plan, {"step": "FSDP2"}, lambda: sharded_step(plan))
        finally:
            dist.destroy_process_group()


def whole_step(plan: Plan) -> Row:
    """Time the step without sharding."""
    step = TrainingStep.build(plan, plan.base)
    torch.manual_seed(plan.seed)
    return {"loss": step.loss().item()} | step.time(plan, 5, 2)


def sharded_step(plan: Plan) -> Row:
    """Time the step sharded as in the shipped accelerate configuration: the tower's layers, and the rest."""
    step = TrainingStep.build(plan, plan.base)
    mesh = dist.device_mesh.init_device_mesh(plan.device, (1,))
    units = [layer for layer in repeated_layers(step.model) if not type(layer).__name__.startswith("MF2")]
    for unit in [*units, step.model]:
        fully_shard(unit, mesh=mesh)
    step.start()
    torch.manual_seed(plan.seed)
    return {"units": len(units) + 1, "loss": step.loss().item()} | step.time(plan, 5, 2)


# ----------------------------------------------------------------------------------------------------- throughput
def measure_inference(plan: Plan) -> Rows:
    """Time inference of `base`, from pixels on the GPU to probabilities on the CPU."""
    for name in PRECISIONS:
        is_secondary = name not in ("bfloat16", "bfloat16 autocast")
        yield from infer_at(plan, name, plan.batch_sizes[:: 4 if is_secondary else 1])
        release_memory(plan.device)


def infer_at(plan: Plan, name: str, batch_sizes: Sequence[int]) -> Rows:
    """Time inference in one precision."""
    model = base_model(plan, MF2Model, weights_dtype(name))
    for images in batch_sizes:
        facts = {"precision": name, "images": images}
        yield attempt(plan, facts, partial(time_inference, plan, model, name, images))


def base_model(plan: Plan, kind: type[Model], dtype: torch.dtype) -> Model:
    """Make `base` with random weights on the device, in evaluation mode."""
    torch.manual_seed(plan.seed)
    with torch.device(plan.device):
        return kind(make_config(plan.base, plan.seed, **plan.config_fields)).eval().to(dtype)


def measure_compiled_inference(plan: Plan) -> Rows:
    """Time inference in bfloat16 with the image passes compiled for any batch size, as in `mf2 analyze --compile`."""
    model: Any = base_model(plan, MF2Model, torch.bfloat16)
    compile_image_passes(model, plan.compiler)
    started = perf_counter()
    for images in (2, 1, *plan.batch_sizes[3::2]):
        row = attempt(plan, {"images": images}, partial(time_inference, plan, model, "bfloat16", images))
        yield row | {"since the start, s": perf_counter() - started}


def time_inference(plan: Plan, model: MF2Model, name: str, images: int) -> Row:
    """Median time of passes over one random batch."""
    batch = make_batch(model.config, images, IMAGE_SIZES[plan.base], plan.seed, plan.device)
    inputs = {key: batch[key] for key in ("pixel_values", "au_boxes")}

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with precision(plan, name):
            return model(**inputs).au_logits.sigmoid().float().cpu()

    reset_peak(plan)
    seconds = median_seconds(plan, run, 12, 3)
    return {"ms": 1e3 * seconds, "images/s": images / seconds} | peak_gib(plan)


def measure_generation(plan: Plan) -> Rows:
    """Time greedy generation of captions with 32 words by `base`."""
    model = base_model(plan, MF2ForConditionalGeneration, torch.bfloat16)
    words = 4 if plan.dry_run else 32
    for kind, images in itertools.product(("emotion", "au"), plan.batch_sizes[:: 1 if plan.dry_run else 2]):
        batch = make_batch(model.config, images, IMAGE_SIZES[plan.base], plan.seed, plan.device)
        inputs = {key: batch[key] for key in ("pixel_values", "au_boxes")}
        settings = {"caption_kind": kind, "num_beams": 1, "max_new_tokens": words, "min_new_tokens": words}

        def measure(inputs: dict = inputs, settings: dict = settings, images: int = images) -> Row:
            reset_peak(plan)
            seconds = median_seconds(plan, lambda: model.generate(**inputs, **settings), 3, 1)
            return {"ms": 1e3 * seconds, "captions/s": images / seconds, "words/s": images * words / seconds}

        yield attempt(plan, {"kind": kind, "images": images}, measure) | peak_gib(plan)


def measure_analysis(plan: Plan) -> Rows:
    """Time `mf2 analyze` on JPEG files and the plain loop on prepared batches, with float32 weights."""
    pictures = 8 if plan.dry_run else 512
    args = Namespace(
        seed=plan.seed,
        device=plan.device,
        pictures=pictures,
        batch_sizes=[4] if plan.dry_run else [64],
        kinds=list(analysis_benchmark.PICTURE_SIZES),
        landmarks=["given"],
        repeats=plan.repeats(2),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        analysis_benchmark.save_pictures(folder, pictures)
        for args.precision in PRODUCTS:
            for row in analysis_benchmark.measure_speed(plan.base, args, folder):
                yield {"precision": args.precision} | row


# ------------------------------------------------------------------------------------------------------- commands
def measure_commands(plan: Plan) -> Rows:
    """Test the commands on this machine, each in its own process on a few generated faces."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"HF_DATASETS_CACHE": f"{folder}/cache"}
        for name, words in list_commands(plan, Path(folder)).items():
            started = perf_counter()
            done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
            row: Row = {"command": name, "exit status": done.returncode, "seconds": perf_counter() - started}
            errors = [line[:300] for line in done.stderr.splitlines() if "rror" in line]
            yield row | ({"error": " | ".join([*errors[:3], *errors[-2:]])} if done.returncode else {})


def list_commands(plan: Plan, folder: Path) -> dict[str, list[str]]:
    """Command lines of pre-training without and with FSDP2, fine-tuning, evaluation and the demo."""
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", *(["--cpu"] if plan.dry_run else [])]
    fsdp = ["--config_file", "training/configs/accelerate_fsdp.yaml", "--num_processes", "1"]
    precision_flags = [] if plan.dry_run else ["--bf16", "true"]
    short = {
        "max_train_rows": 64,
        "max_eval_rows": 16,
        "tuning_rows": 16,
        "overlay_faces": 0,
        "per_device_train_batch_size": 16,
        "warmup_steps": 2,
        "logging_steps": 2,
        "max_steps": 4,
        "save_steps": 4,
        "eval_steps": 4,
    }
    flags = [part for name, value in short.items() for part in (f"--{name}", str(value))]
    synth = ["--synth.num_train", "64", "--synth.num_eval", "16", "--synth.frames_per_identity", "8"]
    pretrain = ["training/pretrain.py", "--config", "training/configs/demo.yaml", *flags, *precision_flags]
    base, data = str(folder / "base"), str(folder / "base" / "data")
    tower = ["--fsdp_transformer_layer_cls_to_wrap", "ResNetStage"]  # the demo's tower has other layers than `paper`
    adapt = ["training/finetune.py", "--config", "training/configs/dfn.yaml", "--model", base, "--data", data]
    adapt += ["--output_dir", str(folder / "dfn"), "--max_steps", "4", *precision_flags]
    use = ["--device", plan.device]
    commands = {
        "pretrain": [*launch, *pretrain, *synth, "--output_dir", base],
        "pretrain, FSDP2": [*launch, *fsdp, *tower, *pretrain, "--train_data", data, "--output_dir", f"{folder}/fsdp"],
        "finetune, DFN cached": [*launch, *adapt],
        "evaluate": [
            "-m",
            "mf2.cli",
            "evaluate",
            "--model",
            base,
            "--data",
            data,
            "--output_dir",
            f"{folder}/e",
            *use,
        ],
        "demo": ["-m", "mf2.cli", "demo", "--model", base, "--output_dir", f"{folder}/demo", *use],
    }
    return {name: words for name, words in commands.items() if not (plan.dry_run and "FSDP2" in name)}


# --------------------------------------------------------------------------------------------------------- script
@dataclass(frozen=True)
class GpuSection:
    """A section of results; `seconds` is its time limit."""

    title: str
    seconds: float
    measure: Callable[[Plan], Rows]


SECTIONS: dict[str, GpuSection] = {
    "machine": GpuSection("Bandwidth and matrix products", 40, measure_machine),
    "training": GpuSection("Training step, base", 60, measure_training),
    "parity": GpuSection("Parity with the CPU", 60, measure_parity),
    "profile": GpuSection("Kernels of a training step, base", 45, measure_profile),
    "inference": GpuSection("Inference, base", 35, measure_inference),
    "paper": GpuSection("Training step, paper size", 50, measure_paper),
    "generation": GpuSection("Caption generation, base, bfloat16", 35, measure_generation),
    "finetuning": GpuSection("Fine-tuning methods, base", 45, measure_finetuning),
    "options": GpuSection("Options of the training step, base", 40, measure_options),
    "fsdp": GpuSection("FSDP2 on one device, base", 30, measure_fsdp),
    "compiled_layers": GpuSection("Training step, blocks compiled", 80, measure_compiled_layers),
    "analysis": GpuSection("mf2 analyze, base", 40, measure_analysis),
    "flex": GpuSection("Training step, flex attention", 45, measure_flex),
    "commands": GpuSection("Commands", 90, measure_commands),
    "compiled_inference": GpuSection("Inference with compiled image passes, base", 60, measure_compiled_inference),
    "compiled_model": GpuSection("Training step, whole model compiled", 120, measure_compiled_model),
}
"""Sections in order of importance, as those after the time limit are skipped."""


def main(section: str, plan: str, file: str) -> None:
    """Wait for a line on standard input, then measure and write one row per line."""
    chosen = Plan(**json.loads(plan))
    if not sys.stdin.readline():
        return  # the parent process has ended
    with open(file, "a", encoding="utf-8") as rows:
        for row in SECTIONS[section].measure(chosen):
            rows.write(json.dumps({"section": section, "row": row}) + "\n")
            rows.flush()
            print(f"  {section}: {show(row)}", flush=True)


def show(row: Row) -> str:
    """Format a row as one line with short numbers."""
    cells = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    return ", ".join(cells)


if __name__ == "__main__":
    main(*sys.argv[1:])
