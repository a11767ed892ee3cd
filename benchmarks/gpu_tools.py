"""Helpers of the GPU benchmark's sections: sizes, a training step, and measurement of times, memory and errors."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from mf2.benchmarks.inputs import IMAGE_SIZES, Batch, make_batch, make_config, make_model, text_of_length
from mf2.benchmarks.timing import release_memory, time_once
from mf2.benchmarks.workloads import Settings
from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2ForPreTraining

Row = dict[str, Any]

FLOOR_SECONDS = {
    ("base", "caption"): 44 / 31_320,
    ("base", "per_au"): 89 / 31_320,
    ("paper", "caption"): 58 / 31_320,
}
"""The least time of an image in a training step at 790 TFLOP/s, by arithmetic, by size and `au_text_mode`: the tower
forward, the branches' passes forward and backward, texts at their full length."""


@dataclass(frozen=True)
class Plan:
    """Settings of the benchmark: on a GPU at full size, or (dry run) on the CPU at small sizes."""

    device: str = "cuda"
    dry_run: bool = False
    seed: int = 0

    @property
    def base(self) -> str:
        """The size used as `base`."""
        return "tiny" if self.dry_run else "base"

    @property
    def paper(self) -> str:
        """The size used as `paper`."""
        return "tiny" if self.dry_run else "paper"

    @property
    def config_fields(self) -> Row:
        """In a dry run, a frozen tower of transformer layers, as in the large models."""
        tower = {"model_type": "vit", "image_size": 112, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2}
        tower |= {"num_attention_heads": 2, "intermediate_size": 64}
        return {"vision_config": tower, "freeze_vision": True} if self.dry_run else {}

    @property
    def train_images(self) -> int:
        """Images of a training step."""
        return 4 if self.dry_run else 56

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes of inference."""
        return (1, 2) if self.dry_run else (1, 2, 4, 8, 16, 32, 64, 128, 256)

    @property
    def compiler(self) -> str:
        """Backend of `torch.compile`; a dry run only traces."""
        return "eager" if self.dry_run else "inductor"

    def repeats(self, count: int) -> int:
        """Number of timed repeats; 1 in a dry run."""
        return 1 if self.dry_run else count

    def settings(self, **fields: Any) -> Settings:
        """The corresponding settings of the other benchmarks."""
        common: dict[str, Any] = {"device": self.device, "dtype": "bfloat16", "seed": self.seed}
        common |= {"repeats": self.repeats(9), "batch_size": self.train_images}
        return Settings(**common | fields)


# ------------------------------------------------------------------------------------------------------ measuring
def attempt(plan: Plan, facts: Row, measure: Callable[[], Row]) -> Row:
    """Return the facts with the measurement or, if it fails, with the error; releases memory."""
    try:
        return facts | measure()
    except Exception as error:
        return facts | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        release_memory(plan.device)


def median_seconds(plan: Plan, run: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    """Median seconds of a call, including its work on the GPU."""
    for _ in range(min(warm_up, plan.repeats(warm_up))):
        time_once(run, plan.device)
    return median(time_once(run, plan.device) for _ in range(plan.repeats(repeats)))


def reset_peak(plan: Plan) -> None:
    """Reset the peak of the GPU's memory."""
    if plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_gib(plan: Plan) -> Row:
    """Peak GPU memory since the reset; empty on a CPU."""
    return {"peak, GiB": torch.cuda.max_memory_allocated() / 2**30} if plan.device == "cuda" else {}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, in float64."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return ((found - expected).norm() / expected.norm()).item()


def precision(plan: Plan, name: str) -> AbstractContextManager[object]:
    """Autocast for a dtype's name, or a null context after `set_matmul` for `float32` and `tf32`."""
    set_matmul(name == "tf32")
    if name.endswith(" autocast"):
        return torch.autocast(plan.device, dtype=getattr(torch, name.split()[0]))
    return nullcontext()


def set_matmul(tf32: bool) -> None:
    """Set whether float32 matrix products use TF32."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")


def weights_dtype(name: str) -> torch.dtype:
    """Dtype of the model's weights for a precision."""
    return getattr(torch, name, torch.float32)


# ------------------------------------------------------------------------------------------------------ training
@dataclass
class TrainingStep:
    """A pre-training step under bf16 autocast on float32 weights: forward, backward, AdamW.

    Args:
        fused: whether AdamW uses one kernel for all parameters, the Trainer's default.
    """

    model: MF2ForPreTraining
    batch: Batch
    settings: Settings
    size: str
    fused: bool = True

    @classmethod
    def build(
        cls, plan: Plan, size: str, mode: str = "caption", images: int | None = None, full_texts: bool = False
    ) -> "TrainingStep":
        """Build model and batch; `full_texts` uses texts of full length instead of captions, as the floor assumes."""
        count = images or plan.train_images
        config = make_config(size, plan.seed, au_text_mode=mode, **plan.config_fields)
        model = make_model(config, plan.seed, plan.device)
        batch = make_batch(config, count, IMAGE_SIZES[size], plan.seed, plan.device)
        if full_texts:
            batch = with_full_texts(batch, config, plan)
        step = cls(model, batch, plan.settings(batch_size=count), size)
        step.start()
        return step

    def start(self) -> None:
        """Make a new optimizer with a learning rate of 0, which does all work but keeps the weights."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        fused = True if self.fused and self.settings.device == "cuda" else None  # None leaves the choice to torch
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, fused=fused)

    def loss(self) -> torch.Tensor:
        """The sum of all losses."""
        with self.settings.autocast():
            return self.model(**self.batch).loss

    def run(self) -> None:
        """Run one step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def time(self, plan: Plan, repeats: int = 8, warm_up: int = 3) -> Row:
        """Measure milliseconds, images per second, memory, and the share of the floor."""
        reset_peak(plan)
        seconds = median_seconds(plan, self.run, repeats, warm_up)
        images = len(self.batch["pixel_values"])
        row: Row = {"images": images, "ms": 1e3 * seconds, "images/s": images / seconds} | peak_gib(plan)
        floor = FLOOR_SECONDS.get((self.size, self.model.config.au_text_mode))
        return row | ({"share of the floor": floor * images / seconds} if floor else {})


def with_full_texts(batch: Batch, config: MF2Config, plan: Plan) -> Batch:
    """Replace the texts by random ones of each kind's full length."""
    per_au = config.au_text_mode == "per_au"
    lengths = {"": config.emotion_text_length, "au_": config.au_sentence_length if per_au else config.au_text_length}
    filled = dict(batch)
    for prefix, length in lengths.items():
        shape = batch[f"{prefix}input_ids"].shape[:-1]
        ids, mask = text_of_length(config, shape.numel(), length, plan.seed, plan.device)
        filled[f"{prefix}input_ids"] = ids.view(*shape, length)
        filled[f"{prefix}attention_mask"] = mask.view(*shape, length)
    return filled


def repeated_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The repeated blocks of tower and branches."""
    for module in model.modules():
        if type(module).__name__ in ("MF2QFormerLayer", "ViTLayer", "Blip2EncoderLayer"):
            yield module
