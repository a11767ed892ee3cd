"""Workloads of the branch benchmark: pairs of passes, whole training steps, and the model without AU regions.

Both sides of a comparison use the same parameters and inputs, and give the same values without dropout.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mf2.benchmarks.blip2_step import ReferenceBranch, ReferenceStep
from mf2.benchmarks.inputs import (
    IMAGE_SIZES,
    Batch,
    get_qformer_config,
    make_batch,
    make_config,
    make_model,
    pad_to_limits,
    text_of_length,
)
from mf2.benchmarks.timing import Phases, Timing, count_flops, time_side_by_side
from mf2.branch_mf2 import MF2Branch
from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2ForPreTraining, MF2Model
from mf2.qformer_mf2 import map_key_values


@dataclass
class Settings:
    """Settings of a benchmark; `batch_size` None for the default of device and size."""

    device: str = "cpu"
    dtype: str = "float32"
    repeats: int = 10
    batch_size: int | None = None
    threads: int | None = None
    seed: int = 0
    dropout: float | None = None

    @property
    def step_repeats(self) -> int:
        """Repeats of whole steps, fewer as they take long and vary little."""
        return -(-self.repeats // 3)

    def get_batch_size(self, size: str) -> int:
        """Batch size: 56 images on a GPU, fewer on a CPU."""
        if self.batch_size is not None:
            return self.batch_size
        return 56 if self.device == "cuda" else {"tiny": 32}.get(size, 2)

    def autocast(self) -> torch.autocast:
        """bf16 autocast with fp32 parameters, or no autocast."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")

    def configure_torch(self) -> None:
        """Set the number of threads."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)


# ------------------------------------------------------------------------------------------------------------- passes
@dataclass
class Pair:
    """Two functions that compute the same states."""

    ours: Callable[[], torch.Tensor]
    theirs: Callable[[], torch.Tensor]


def pass_pairs(
    branch: MF2Branch, reference: ReferenceBranch, vision_states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> dict[str, Pair]:
    """The passes of a step over `(B, N, W)` vision tokens and `(B, T)` text, from inputs to states or logits."""
    regions = vision_states[:, None]
    visible = F.pad(mask, (branch.query_tokens.shape[1], 0), value=1)

    def queries() -> torch.Tensor:
        return branch.query_embeds().expand(len(ids), -1, -1)

    def our_joint() -> torch.Tensor:
        embeds = torch.cat([queries(), branch.embeddings(ids)], dim=1)
        num_queries = branch.query_tokens.shape[1]
        return branch.qformer(embeds, num_queries, visible, branch.project_vision(regions)).last

    def theirs(method: Callable[..., torch.Tensor], attention_mask: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: method(queries(), ids, attention_mask, reference.branch.normalize_vision(regions))

    return {
        "query-only": Pair(
            lambda: branch.encode_image(regions).states[:, 0],
            lambda: reference.encode_image(queries(), reference.branch.normalize_vision(vision_states)),
        ),
        "text-only": Pair(lambda: branch.encode_text(ids, mask), lambda: reference.encode_text(ids, mask)),
        "joint": Pair(our_joint, theirs(reference.encode_both, visible)),
        "joint, to ITM logits": Pair(
            lambda: branch.match(queries(), branch.project_vision(regions), ids, mask), theirs(reference.match, mask)
        ),
    }


def itg_pair(
    branch: MF2Branch, reference: ReferenceBranch, vision_states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor
) -> Pair:
    """Text states of ITG: with cached keys and values of a query-only pass, and in one masked pass.

    Ours is differentiated up to the keys and values, from where the query-only pass continues.
    """
    with torch.no_grad():
        cached = branch.encode_image(vision_states[:, None], keep_key_values=True).key_values

    def ours() -> torch.Tensor:
        return branch.decode(ids, mask, map_key_values(lambda x: x.detach().requires_grad_(), cached))

    def theirs() -> torch.Tensor:
        queries = branch.query_embeds().expand(len(ids), -1, -1)
        return reference.generate_states(queries, ids, mask, reference.branch.normalize_vision(vision_states[:, None]))

    return Pair(ours, theirs)


@dataclass
class PassBench:
    """A global branch without dropout and its reference, on the vision tokens of random images."""

    config: MF2Config
    branch: MF2Branch
    reference: ReferenceBranch
    vision_states: torch.Tensor
    settings: Settings

    @classmethod
    def build(cls, size: str, settings: Settings) -> "PassBench":
        """Build branch, reference and tokens for a size."""
        config = make_config(size, settings.seed, dropout=0.0, use_au_vl=False)
        model = make_model(config, settings.seed, settings.device)
        batch = make_batch(config, settings.get_batch_size(size), IMAGE_SIZES[size], settings.seed, settings.device)
        with torch.no_grad(), settings.autocast():
            tokens = model.encode_vision(batch["pixel_values"]).tokens
        return cls(config, model.emo, ReferenceBranch(model.emo, get_qformer_config(config)), tokens, settings)

    def text(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random ids and their mask, `(B, length)`."""
        rows = len(self.vision_states)
        return text_of_length(self.config, rows, length, self.settings.seed, self.settings.device)

    def time(self, pair: Pair, title: str) -> Iterator[tuple[str, Timing, Timing]]:
        """Time forward in evaluation mode, then forward and backward in training mode."""
        for mode in ("forward", "forward + backward"):
            is_training = mode != "forward"
            self.branch.train(is_training)
            self.reference.train(is_training)
            runs = {
                name: {"all": self._run(function, is_training)}
                for name, function in (("ours", pair.ours), ("theirs", pair.theirs))
            }
            timings = time_side_by_side(runs, self.settings.repeats, 2, self.settings.device, f"{title}, {mode}")
            yield mode, timings["ours"], timings["theirs"]

    def _run(self, function: Callable[[], torch.Tensor], is_training: bool) -> Callable[[], None]:
        def run() -> None:
            with torch.set_grad_enabled(is_training), self.settings.autocast():
                states = function()
            if is_training:
                states.backward(torch.ones_like(states))
                self.branch.zero_grad()

        return run


# --------------------------------------------------------------------------------------------------------------- step
class OurStep(nn.Module):
    """`MF2ForPreTraining` as a step: losses by name, and their weighted sum as `loss`."""

    def __init__(self, model: MF2ForPreTraining):
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of a batch by name, and their weighted sum as `loss`."""
        output = self.model(**batch)
        return output.losses | {"loss": output.loss}


@dataclass
class StepBench:
    """A model and the training steps to compare, each a module and its batch."""

    model: MF2ForPreTraining
    steps: dict[str, tuple[nn.Module, Batch]]
    settings: Settings

    @classmethod
    def build(cls, size: str, au_text_mode: str, settings: Settings) -> "StepBench":
        """Build the compared steps for a size."""
        config = make_config(size, settings.seed, settings.dropout, au_text_mode=au_text_mode)
        model = make_model(config, settings.seed, settings.device)
        batch = make_batch(config, settings.get_batch_size(size), IMAGE_SIZES[size], settings.seed, settings.device)
        reference = ReferenceStep(model)
        steps = {
            "MF²": (OurStep(model), batch),
            "composed, limit": (reference, pad_to_limits(batch, config)),
            "composed, longest": (reference, batch),
        }
        return cls(model, steps, settings)

    def losses(self, name: str) -> dict[str, torch.Tensor]:
        """Run forward, with the same negatives in every step."""
        step, batch = self.steps[name]
        torch.manual_seed(self.settings.seed)
        with self.settings.autocast():
            return step(**batch)

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW with a learning rate of 0, which does all work but keeps the weights."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=0.0)

    def phases(self, name: str, optimizer: torch.optim.Optimizer) -> Phases:
        """Forward, backward and update of a step."""
        state: dict[str, torch.Tensor] = {}

        def forward() -> None:
            state["loss"] = self.losses(name)["loss"]

        def update() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return {"forward": forward, "backward": lambda: state.pop("loss").backward(), "AdamW": update}

    def count_flops(self, name: str) -> int:
        """Floating-point operations of forward and backward."""
        flops = count_flops(lambda: self.losses(name)["loss"].backward())
        self.model.zero_grad()
        return flops


# ------------------------------------------------------------------------------------------------------------ regions
def without_regions(model: MF2Model) -> MF2Model:
    """The model without its local branch, sharing tower and global branch."""
    config = MF2Config.from_dict(model.config.to_dict() | {"use_au_vl": False})
    with torch.device(model.device):
        other = MF2Model(config)
    other.vision_model, other.emo = model.vision_model, model.emo
    return other.train(model.training)
