"""DFN, the decoupled fine-tuning network of MF² (paper, section III-B), as a PEFT method.

    model = get_peft_model(model, DFNConfig(au_ids=[1, 2, 4, 6, 9, 12, 25, 26], emotions=[]))

A side network runs beside each frozen branch and each modality. It reads the pooled states that the branch leaves
after some of its layers and ends in a state of its own, which heads of its own read:

    image ─ branch, frozen ─ x₀ … x₆ (mean over the queries) ─ side tower ─ z_image ─ heads ─ AUs, emotion
    text  ─ branch, frozen ─ x₀ … x₆ (position 0) ──────────── side tower ─ z_text ┄┄┄ ITC with z_image, in training

Nothing upstream is changed or differentiated. So the states can be stored once (`training/state_cache.py`), any number
of adapters answer from one pass (`MF2Model.forward_adapters`), and an adapter cannot be merged.

The paper describes it in words and Figure 2 (c) alone; its equations end before, at Eq. 5. It leaves open what the
side network reads: Table VI gives the "CLS tokens" of the *last* layer of ViT and BERT, beside 7 adapter layers for
each modality, and the text counts 4N cells. A single state needs no row of cells, so 7 states of each branch and
modality are kept here, the last among them, and a tower has a cell for each.

Ancestors: IISAN (arXiv 2404.02059) for decoupled side towers over kept states, Ladder Side-Tuning (arXiv 2206.06522)
for the gate. Symbols in shapes: B images, K views (1, or one per AU region), J layers, D width, A AUs, E emotions,
G texts an image.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .alignment_mf2 import compare_embeds, itc_floor, itc_loss
from .configuration_mf2 import CODE_VERSION, MF2Config
from .labels_mf2 import LabelSpace
from .recognition_mf2 import BASE, FACE, PLACES, MF2Recognizers, PooledTexts, Recognition, RecognitionHeads
from .regions_mf2 import nearest_au_indexes

try:
    import peft
    from peft import PeftConfig, PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils import register_peft_method
except ImportError as error:
    raise ImportError("DFN is a PEFT method; install peft: pip install 'peft>=0.21'.") from error

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}  # Table VI names both
STARTS = ("base", "nothing")
MODALITIES = ("image", "text")
PEFT_BASE = "__base__"
"""The name of the model without an adapter in PEFT's `adapter_names`."""


def _extend_peft_types() -> None:
    """Give PEFT's enumeration a member `DFN`, once: `register_peft_method` takes members only."""
    if "DFN" in PeftType.__members__:
        return
    member = str.__new__(PeftType, "DFN")
    member._name_, member._value_ = "DFN", "DFN"
    PeftType._member_names_.append("DFN")
    PeftType._member_map_["DFN"] = member
    PeftType._value2member_map_["DFN"] = member
    type.__setattr__(PeftType, "DFN", member)


_extend_peft_types()


# ----------------------------------------------------------------------------------------------------- configuration
@dataclass
class DFNConfig(PeftConfig):
    """The side networks, and the label space that they answer in.

    Args:
        r: Width of a cell's bottleneck.
        num_kept_states: States a tower reads, evenly spaced over a branch's layers, the embeddings among them; all,
            where there are fewer.
        activation: `"relu"` or `"sigmoid"`.
        gate_temperature: Divides a gate's parameter before the sigmoid.
        use_gates: False fixes every gate at its start, one half.
        text_cells: False leaves the text towers out; nothing then aligns the image towers.
        decoupled: False lets image and text of a branch share one tower.
        start: What an adapter says before it is trained. `"base"`: what its base says, bit for bit, of the labels that
            they share, and of a new AU what it says of the AU whose regions are nearest; the adapter's heads start
            at 0 and add to the base's logits. `"nothing"`: what heads without training say; so did adapters whose file
            has no such field.
        alignment_weight: λ of ITC between the towers' ends.
        label_smoothing: Of that ITC.
        au_ids, emotions: The label space; None is the base's. Empty is a task without.
        au_thresholds: Decision thresholds of the AUs, in (0, 1); 0.5 by default.
        affect: Valence and arousal are recognised, too, which the base need not do; None is the base's.
        emotion_weight, au_weight, affect_weight: Of the task losses.
        affect_mse_weight: As in [`MF2Config`].
        au_pos_weight: Weight of active against not active per AU.
        emotion_logit_shift: Added to the emotion logits in their loss, one an emotion.
        joint_width, recognition_dropout: As in [`MF2Config`], of the adapter's recognisers; None is as in the base.
        base_region_au_ids: The AUs whose regions the base looks at, which an adapter that starts there looks at, too;
            filled when it is attached.
        readout: A linear readout of the branches' last states in all views, and of where the AU regions lie, adds to
            the logits. If the base has a linear readout, the adapter's reads the same features of the tower instead,
            and is averaged with what the base says. It is 0 until it is fitted, by a penalised regression, which
            `training/finetune.py` does before the towers learn; no optimiser changes it. None is a readout in an
            adapter that starts at its base.
        base_readout_width: Number of features of the base's linear readout, 0 if the adapter's does not read them;
            filled when it is attached.
        base_direct_states: Whether the base's first states are direct ones, which the readout reads, too; filled when
            it is attached.
        training_data: Provenance, one entry a data set.
        code_version: Version of the code that wrote the adapter.
    """

    target_modules: list[str] | str | None = field(default=None, metadata={"help": "always the recognisers"})
    r: int = field(default=64, metadata={"help": "width of a cell's bottleneck"})
    num_kept_states: int = field(default=7, metadata={"help": "states of a branch that a tower reads"})
    activation: str = field(default="relu", metadata={"help": "relu or sigmoid"})
    gate_temperature: float = field(default=0.1, metadata={"help": "divides a gate's parameter"})
    use_gates: bool = field(default=True, metadata={"help": "learn the gates; else they stay at one half"})
    text_cells: bool = field(default=True, metadata={"help": "towers for the texts, too"})
    decoupled: bool = field(default=True, metadata={"help": "a tower for each modality, not one for both"})
    start: str | None = field(default=None, metadata={"help": "base or nothing: what an untrained adapter says"})
    alignment_weight: float = field(default=0.1, metadata={"help": "weight of ITC between the towers' ends"})
    label_smoothing: float = field(default=0.1, metadata={"help": "of that ITC, in [0, 1]"})
    au_ids: list[int] | None = field(default=None, metadata={"help": "FACS numbers; null is the base's"})
    emotions: list[str] | None = field(default=None, metadata={"help": "names in order; null is the base's"})
    au_thresholds: list[float] | None = field(default=None, metadata={"help": "one an AU, in (0, 1)"})
    affect: bool | None = field(default=None, metadata={"help": "valence and arousal, too; null is the base's"})
    emotion_weight: float = field(default=1.0, metadata={"help": "weight of the emotion loss"})
    au_weight: float = field(default=1.0, metadata={"help": "weight of the AU loss"})
    affect_weight: float = field(default=1.0, metadata={"help": "weight of the loss of valence and arousal"})
    affect_mse_weight: float = field(default=0.1, metadata={"help": "of the squared error in that loss"})
    au_pos_weight: list[float] | None = field(default=None, metadata={"help": "weight of active rows, one an AU"})
    emotion_logit_shift: list[float] | None = field(default=None, metadata={"help": "added in the emotion loss"})
    joint_width: int | None = field(
        default=None, metadata={"help": "width of a view in the recognisers' joint view; 0 is none, null the base's"}
    )
    recognition_dropout: float | None = field(
        default=None, metadata={"help": "of what the recognisers read; null is the base's"}
    )
    base_region_au_ids: list[int] | None = field(default=None, metadata={"help": "filled: the base's regions"})
    readout: bool | None = field(default=None, metadata={"help": "a linear readout of all views and their places"})
    base_readout_width: int | None = field(default=None, metadata={"help": "filled: features of the base's readout"})
    base_direct_states: bool = field(default=False, metadata={"help": "filled: what the base's first states are"})
    training_data: list[dict] | None = field(default=None, metadata={"help": "provenance, an entry a data set"})
    code_version: str | None = field(default=None, metadata={"help": "version of the code that wrote it"})

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.DFN
        if self.start is None:  # a version comes from a file alone, of an adapter from before this field
            self.start = "nothing" if self.code_version else "base"
        if self.readout is None:  # likewise
            self.readout = self.start == "base" and not self.code_version
        if self.affect is None and self.code_version:  # likewise
            self.affect = False
        if self.base_readout_width is None and self.code_version:  # likewise
            self.base_readout_width = 0
        self.code_version = self.code_version or CODE_VERSION
        if self.start == "nothing":
            self.joint_width, self.recognition_dropout = self.joint_width or 0, self.recognition_dropout or 0.0
        for name in ("r", "num_kept_states"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        task_weights = ("emotion_weight", "au_weight", "affect_weight", "affect_mse_weight")
        for name in ("alignment_weight", *task_weights, "label_smoothing"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        if self.label_smoothing > 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be at most 1.")
        if self.gate_temperature <= 0:
            raise ValueError(f"gate_temperature is {self.gate_temperature}; it must be above 0.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; choose one of {', '.join(STARTS)}.")
        if self.alignment_weight and not self.text_cells:
            raise ValueError(
                f"alignment_weight is {self.alignment_weight} and text_cells is False, so nothing can be aligned; "
                f"set alignment_weight to 0."
            )
        self._check_label_space()

    def _check_label_space(self) -> None:
        """Check the label space, as far as it is known, for consistency."""
        self.label_space  # noqa: B018 - building it checks ids, names and thresholds
        if self.au_ids is not None and self.au_pos_weight and len(self.au_pos_weight) != len(self.au_ids):
            raise ValueError(
                f"au_pos_weight has {len(self.au_pos_weight)} values for {len(self.au_ids)} AUs; give one each."
            )
        is_known = self.au_ids is not None and self.emotions is not None
        if is_known and not (self.au_ids or self.emotions or self.affect):
            raise ValueError(
                "au_ids and emotions are both empty and affect is False, so nothing is to be learned; give one of "
                "them."
            )

    @property
    def label_space(self) -> LabelSpace:
        """What the outputs mean; of a field that was left open nothing, until the base is known."""
        thresholds = () if self.au_ids is None else tuple(self.au_thresholds or ())
        labels = tuple(self.au_ids or ()), tuple(self.emotions or ())
        space = LabelSpace(*labels, thresholds, affect=bool(self.affect))
        return space.looking_at(self.base_region_au_ids) if self.base_region_au_ids else space

    def reads_face(self, base: MF2Config) -> bool:
        """Whether a new adapter's readout reads what the base's own does."""
        return bool(self.readout and self.start == "base" and base.readout_grids)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The towers of a branch."""
        if not self.text_cells:
            return MODALITIES[:1]
        return MODALITIES if self.decoupled else ("shared",)

    def take_base(self, base: MF2Config) -> None:
        """Fill what was left open from the base's configuration.

        Raises:
            ValueError: it does not fit the base.
        """
        space = base.label_space
        if self.emotions is None:
            self.emotions = list(space.emotions)
        if self.affect is None:
            self.affect = space.affect
        if self.au_ids is None:
            self.au_ids = list(space.au_ids)
            self.au_thresholds = self.au_thresholds or list(space.thresholds)
        if self.start == "base":
            self._start_at(space, base)
        self.base_direct_states = bool(base.direct_states)
        self._check_label_space()

    def _start_at(self, space: LabelSpace, base: MF2Config) -> None:
        self.base_region_au_ids = list(space.region_au_ids)
        if self.au_thresholds is None and space.au_ids:
            nearest = nearest_au_indexes(tuple(self.au_ids), space.au_ids)
            self.au_thresholds = [space.thresholds[index] for index in nearest]
        for name in ("joint_width", "recognition_dropout"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(base, name))

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """As usual, naming a class that PEFT's Auto classes can find: they refuse remote code's library.

        A base that is a folder is recorded by its absolute path: elsewhere a relative one would name a Hub repository.
        """
        if self.base_model_name_or_path and Path(self.base_model_name_or_path).is_dir():
            self.base_model_name_or_path = str(Path(self.base_model_name_or_path).resolve())
        kwargs["auto_mapping_dict"] = {"base_model_class": "AutoModel", "parent_library": "transformers"}
        super().save_pretrained(save_directory, **kwargs)


# ------------------------------------------------------------------------------------------------------ side network
class SideCell(nn.Module):
    """A bottleneck with a residual: u + W_up · act(W_down · u).

    The paper names the down- and the up-projection and the activation between them; the residual is IISAN's.
    """

    def __init__(self, width: int, r: int, activation: str):
        super().__init__()
        self.down = nn.Linear(width, r)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(r, width)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def change(self, states: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, D): what it adds."""
        return self.up(self.activation(self.down(states)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, D)."""
        return states + self.change(states)


class SideTower(nn.Module):
    """A sequence of cells, one per kept state of a branch; each mixes its state into the output of the one before.

        u_j = g_j · x_j + (1 − g_j) · h_j,   g_j = σ(α_j / T)
        h_{j+1} = u_j + W_up · act(W_down · u_j),   h_0 = 0

    Of the gate the paper gives T alone (Table VI). Here, as in IISAN, it weighs the branch's state x against what came
    before.

    In an adapter that starts at its base a tower reads normalised states, and its last cell adds to the branch's last
    state as it is, with W_up = 0 at first, so that it ends there: h_{J+1} = x_J + W_up · act(W_down · u_J).
    """

    def __init__(self, width: int, num_states: int, config: DFNConfig):
        super().__init__()
        self.gate_temperature = config.gate_temperature
        self.starts_at_base = config.start == "base"
        if config.use_gates:
            self.gates = nn.Parameter(torch.zeros(num_states))
        self.cells = nn.ModuleList(SideCell(width, config.r, config.activation) for _ in range(num_states))
        if self.starts_at_base:
            nn.init.zeros_(self.cells[-1].up.weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(…, J, D) of any number of layers -> (…, D)."""
        kept = kept_layers(states.shape[-2], len(self.cells))
        last = states[..., -1, :]
        if self.starts_at_base:
            states = F.layer_norm(states, states.shape[-1:])
        weights = torch.sigmoid(self.gates / self.gate_temperature) if hasattr(self, "gates") else [0.5] * len(kept)
        hidden = torch.zeros_like(last)
        for index, (cell, layer, weight) in enumerate(zip(self.cells, kept, weights, strict=True)):
            mixed = weight * states[..., layer, :] + (1 - weight) * hidden
            is_end = self.starts_at_base and index == len(kept) - 1
            hidden = last + cell.change(mixed) if is_end else cell(mixed)
        return hidden


def kept_layers(num_layers: int, num_kept: int) -> list[int]:
    """Indexes evenly spaced over `num_layers`, the last and (of several) the first among them: 0, 2, … 12 for 7 of 13.

    Where there are fewer layers than are to be kept, all.
    """
    count = min(num_kept, num_layers)
    step = (num_layers - 1) / max(count - 1, 1)
    return [round(num_layers - 1 - step * index) for index in reversed(range(count))]


def side_sizes(config: MF2Config) -> dict[str, dict[str, int]]:
    """`widths` and `num_layers` of a model's branches that are on, as [`DFNSide`] takes them."""
    switched = {"emo": (config.use_emo_vl, config.emo_config), "au": (config.use_au_vl, config.au_config)}
    branches = {name: branch for name, (is_on, branch) in switched.items() if is_on}
    return {
        "widths": {name: branch.hidden_size for name, branch in branches.items()},
        "num_layers": {name: branch.num_hidden_layers + 1 for name, branch in branches.items()},
    }


class FittedLinear(nn.Module):
    """A linear layer of zeros that is fitted in one go: its weights are buffers, which no optimiser changes."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, num_features: int, num_outputs: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_outputs, num_features))
        self.register_buffer("bias", torch.zeros(num_outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(…, F) -> (…, O)."""
        return F.linear(features, self.weight, self.bias)


class DFNSide(RecognitionHeads):
    """One adapter: a tower for each branch and modality, and heads in the adapter's label space.

    Args:
        widths: Width of each branch that is on, the global one first.
        num_layers: Layers of each branch, embeddings included.
        base: The base's label space; needed where the adapter starts at the base.
    """

    readout: "FittedLinear"
    base_shares: torch.Tensor
    """`(A + E,)` shares of the base's logits in the average with a readout of the tower; 1 before it is fitted."""

    detaches_states = True
    """Nothing upstream is differentiated; False lets gradients through to the pixels, for a look at what matters."""

    def __init__(
        self,
        config: DFNConfig,
        widths: Mapping[str, int],
        num_layers: Mapping[str, int],
        base: LabelSpace | None = None,
    ):
        super().__init__(widths, config, len(config.base_region_au_ids or ()) or None)
        self.towers = nn.ModuleDict(
            {
                f"{branch}_{modality}": SideTower(width, min(config.num_kept_states, num_layers[branch]), config)
                for branch, width in widths.items()
                for modality in config.modalities
            }
        )

        if config.readout:
            self.readout = self._make_readout()
        if config.start == "base":
            self._start_at(base)

    def _make_readout(self) -> "FittedLinear":
        """Of the AUs' logits before the emotions'."""
        space = self.config.label_space
        num_outputs = len(space.au_ids) + len(space.emotions)
        if self.config.base_readout_width:
            self.register_buffer("base_shares", torch.ones(num_outputs))
            return FittedLinear(self.config.base_readout_width, num_outputs)
        num_views = {"emo": 1, "au": len(space.region_au_ids)}
        states_read = 2 if self.config.base_direct_states else 1
        num_features = sum(states_read * num_views[name] * width for name, width in self.widths.items())
        num_features += 4 * num_views["au"] * ("au" in self.widths)
        return FittedLinear(num_features, num_outputs)

    def readout_features(self, pooled: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """What the readout reads: `(B, F)` of normalised states and, with the local branch, `(B, 4A)` of the places.

        If it reads what the base's own readout does, only `(B, F)` of that.

        Args:
            pooled: As in `forward`.
        Raises:
            ValueError: the places of the AU regions, or the features of the tower, are missing.
        """
        if self.config.base_readout_width:
            if FACE not in pooled:
                raise ValueError(
                    "The adapter reads features of the tower, which are missing; let it see pictures, or make it with "
                    "DFNConfig(readout=False)."
                )
            return [pooled[FACE].flatten(1).to(self.readout.weight.dtype)]
        if "au" in self.widths and PLACES not in pooled:
            raise ValueError(
                "The adapter reads where the AU regions are, which is not given; let it see pictures with boxes, or "
                "make it with DFNConfig(readout=False)."
            )
        read = [0, -1] if self.config.base_direct_states else [-1]
        dtype = self.readout.weight.dtype
        states = [pooled[name][:, :, read].to(dtype) for name in self.widths]
        features = [torch.cat([F.layer_norm(of, of.shape[-1:]).flatten(1) for of in states], dim=1)]
        if "au" in self.widths:
            features.append(pooled[PLACES].to(dtype).flatten(1))
        return [of.detach() for of in features] if self.detaches_states else features

    def _start_at(self, base: LabelSpace) -> None:
        """Heads of zeros, which add nothing to the base's logits, and which of those they add to."""
        space = self.config.label_space
        for name in ("au_head", "emotion_head", "va_head"):
            for parameter in getattr(self, name, nn.Identity()).parameters():
                nn.init.zeros_(parameter)
        self._base_aus = nearest_au_indexes(space.au_ids, base.au_ids) if space.au_ids and base.au_ids else None
        self._base_emotions = [base.emotions.index(name) if name in base.emotions else -1 for name in space.emotions]

    def end_of(self, branch: str, modality: str, states: torch.Tensor) -> torch.Tensor:
        """(…, J, D) states of a branch -> (…, D): where that tower ends."""
        tower = self.towers[f"{branch}_{modality if self.config.decoupled else 'shared'}"]
        states = states.detach() if self.detaches_states else states
        return tower(states.to(next(tower.parameters()).dtype))

    def forward(self, pooled: Mapping[str, torch.Tensor], base: MF2Recognizers) -> Recognition:
        """`{branch: (B, K, J, D)}` of the images -> logits and the image towers' ends.

        Args:
            base: The checkpoint's own recognisers.
        """
        ends = {branch: self.end_of(branch, "image", pooled[branch]) for branch in self.widths}
        output = self.read(ends)
        output.side_states = ends
        if self.config.readout:
            self._read_out(output, pooled)
        if self.config.start == "base":
            self._add_to(output, self._ask(base, pooled))
        return output

    def _ask(self, base: MF2Recognizers, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """The output of the base for its own regions, without dropout."""
        was_training = base.training
        base.eval()
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detaches_states):
                return base({name: states[:, : self.num_regions] for name, states in pooled.items()})
        finally:
            base.train(was_training)

    def _read_out(self, output: Recognition, pooled: Mapping[str, torch.Tensor]) -> None:
        """Add the logits of the readout."""
        logits = self.readout(torch.cat(self.readout_features(pooled), dim=1))
        num_aus = len(self.config.label_space.au_ids)
        if output.au_logits is not None:
            output.au_logits = output.au_logits + logits[:, :num_aus]
        if output.emotion_logits is not None:
            output.emotion_logits = output.emotion_logits + logits[:, num_aus:]

    def _add_to(self, output: Recognition, of_base: Recognition) -> None:
        """Make what the heads and the readout say a change of the base's logits, or of their share in the average with
        the readout; what is new, an emotion or valence and arousal, has 0 there."""
        num_aus = len(self.config.label_space.au_ids)
        au_shares, emotion_shares = (
            (self.base_shares[:num_aus], self.base_shares[num_aus:]) if hasattr(self, "base_shares") else (1, 1)
        )
        if output.au_logits is not None and of_base.au_logits is not None:
            known = of_base.au_logits[:, self._base_aus].to(output.au_logits.dtype)
            output.au_logits = known * au_shares + output.au_logits
        if output.emotion_logits is not None and of_base.emotion_logits is not None:
            known = F.pad(of_base.emotion_logits, (0, 1))[:, self._base_emotions].to(output.emotion_logits.dtype)
            output.emotion_logits = known * emotion_shares + output.emotion_logits
        if output.affect_logits is not None and of_base.affect_logits is not None:
            output.affect_logits = of_base.affect_logits.to(output.affect_logits.dtype) + output.affect_logits

    def losses(
        self,
        output: Recognition,
        emotion_labels: torch.Tensor | None,
        au_labels: torch.Tensor | None,
        texts: Mapping[str, PooledTexts],
        branches: Mapping[str, Any],
        affect_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The task's `emotion`, `au` and `affect`, and of branches with texts `emo_itc` or `au_itc` with its floor.

        Args:
            branches: By name, what projects into a branch's shared space: `embed_image`, `embed_text`, `temperature`.
        """
        losses = super().losses(output, emotion_labels, au_labels, texts, branches, affect_labels)
        for branch, text in texts.items():
            aligned = self._align(branch, output.side_states[branch], text, branches[branch])
            losses |= {f"{branch}_{name}": value for name, value in aligned.items()}
        return losses

    def _align(self, branch: str, image_ends: torch.Tensor, texts: PooledTexts, space: Any) -> dict[str, torch.Tensor]:
        """ITC (Eq. 3) of the towers' ends through the branch's frozen projections, as before: per AU, or of the best
        region with the whole caption."""
        text_ends = self.end_of(branch, "text", texts.states)  # (B, G, D)
        if image_ends.shape[1] > 1 and text_ends.shape[1] == len(self.own_regions):
            image_ends = image_ends[:, self.own_regions]
        is_per_view = text_ends.shape[1] == image_ends.shape[1]
        image_ends = image_ends[:, :, None] if is_per_view else image_ends[:, None]  # (B, G, queries, D)
        dtype = space.temperature.dtype
        comparison = compare_embeds(
            space.embed_image(image_ends.to(dtype)),
            space.embed_text(text_ends[..., None, :].to(dtype)),
            space.temperature,
            texts.caption_ids,
            texts.valid,
        )
        return {
            name: measure(comparison, texts.valid, self.config.label_smoothing)
            for name, measure in (("itc", itc_loss), ("itc_floor", itc_floor))
        }

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """The task's losses plus λ times the alignment's; None of none."""
        weight_of = {name: getattr(self.config, f"{name}_weight") for name in ("emotion", "au", "affect")}
        weighted = [weight_of.get(name, self.config.alignment_weight) * loss for name, loss in losses.items()]
        return sum(weighted) if weighted else None


# ----------------------------------------------------------------------------------------------------------- adapter
class DFNLayer(nn.Module, BaseTunerLayer):
    """Replaces the recognisers of a model, with the same interface, and holds all loaded adapters."""

    adapter_layer_names = ("dfn_sides",)

    def __init__(self, base_layer: MF2Recognizers):
        super().__init__()
        self.base_layer = base_layer
        self.dfn_sides = nn.ModuleDict()
        self._active_adapter: str | list[str] = []
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._row_names: list[str] | None = None

    def update_layer(
        self, adapter_name: str, config: DFNConfig, widths: Mapping[str, int], num_layers: Mapping[str, int]
    ) -> None:
        """Add an adapter."""
        if adapter_name == BASE:
            raise ValueError(
                f"An adapter cannot be called {BASE!r}, the name of the checkpoint itself; choose another."
            )
        self.dfn_sides[adapter_name] = DFNSide(config, widths, num_layers, self.base_layer.label_space)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    # PEFT changes what answers through these three alone; stock code reads the names of the outputs off the
    # model's configuration, which therefore follows.
    def set_adapter(self, *args: Any, **kwargs: Any) -> None:
        super().set_adapter(*args, **kwargs)
        self._name_outputs()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self._name_outputs()

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._name_outputs()

    def _name_outputs(self) -> None:
        """Write the active adapter's emotions, or else the checkpoint's, into `id2label`; not for several adapters."""
        names = self._active_names
        space = (self.dfn_sides[names[0]] if len(names) == 1 else self.base_layer).config.label_space
        self.base_layer.config.name_labels(space.emotions)

    @property
    def _active_names(self) -> list[str]:
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.dfn_sides]

    @property
    def active_side(self) -> DFNSide | None:
        """The adapter that answers; None while they are disabled or none is active."""
        names = self._active_names
        if len(names) > 1:
            raise ValueError(
                f"Adapters {', '.join(map(repr, names))} are active, but one answers a forward pass; call "
                f"model.forward_adapters([{', '.join(map(repr, names))}], …) for the answers of all."
            )
        return self.dfn_sides[names[0]] if names else None

    @property
    def _answering(self) -> "DFNSide | MF2Recognizers":
        return self.active_side or self.base_layer

    @contextmanager
    def answering_rows(self, names: Sequence[str]) -> Iterator[None]:
        """While it lasts, row i of a batch is answered by the adapter `names[i]`; `"__base__"` is the checkpoint.

        Raises:
            ValueError: an adapter is not loaded, the model trains, or their outputs differ and are no one tensor.
        """
        names = [BASE if name == PEFT_BASE else name for name in names]
        if unknown := sorted(set(names) - set(self.label_spaces)):
            raise ValueError(
                f"No adapter is called {unknown[0]!r}; loaded are {', '.join(map(repr, self.dfn_sides))}."
            )
        if self.training:
            raise ValueError("adapter_names has one adapter a row and is for inference; call model.eval() before.")
        spaces = [self.label_spaces[name] for name in names]
        outputs = {(space.au_ids, space.emotions, space.affect) for space in spaces}
        if len(outputs) > 1:
            used = ", ".join(map(repr, dict.fromkeys(names)))
            raise ValueError(
                f"adapter_names mixes {used}, whose outputs differ, so that their rows are no one tensor; call "
                f"model.forward_adapters([{used}], …) for the answers of each."
            )
        self._row_names = names
        try:
            yield
        finally:
            self._row_names = None

    def _answer_rows(self, pooled: Mapping[str, torch.Tensor], names: Sequence[str]) -> Recognition:
        """`{branch: (B, K, J, D)}`, row i by the adapter `names[i]`."""
        num_rows = len(next(iter(pooled.values())))
        if len(names) != num_rows:
            raise ValueError(f"There are {len(names)} adapter_names for {num_rows} rows; give one for each.")
        parts, order = [], []
        for name in dict.fromkeys(names):
            rows = [row for row, own in enumerate(names) if own == name]
            parts.append(self.answer(name, {branch: states[rows] for branch, states in pooled.items()}))
            order += rows
        places = torch.tensor(order).argsort().tolist()

        def joined(key: str) -> torch.Tensor | None:
            logits = [getattr(part, key) for part in parts]
            return None if logits[0] is None else torch.cat(logits)[places]

        return Recognition(joined("au_logits"), joined("emotion_logits"), joined("affect_logits"))

    @property
    def trains_branches(self) -> bool:
        return self.active_side is None

    @property
    def reads_texts(self) -> bool:
        return self.active_side is not None and self.active_side.config.alignment_weight > 0

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the outputs: that of the active adapter, else the checkpoint's."""
        if self._row_names:
            return self.label_spaces[self._row_names[0]]
        return self._answering.config.label_space

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        """The label spaces of all adapters and of the checkpoint, by name."""
        return self.base_layer.label_spaces | {name: s.config.label_space for name, s in self.dfn_sides.items()}

    def forward(self, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """The output of the active adapter, or of the adapter of each row, for `{branch: (B, K, J, D)}`."""
        if self._row_names is not None:
            return self._answer_rows(pooled, self._row_names)
        side = self.active_side
        return self.base_layer(pooled) if side is None else side(pooled, self.base_layer)

    def answer(self, name: str, pooled: Mapping[str, torch.Tensor]) -> Recognition:
        """The output of the adapter of that name, active or not."""
        return self.base_layer(pooled) if name == BASE else self.dfn_sides[name](pooled, self.base_layer)

    def losses(self, *args: Any) -> dict[str, torch.Tensor]:
        """See [`DFNSide.losses`]."""
        if self._row_names is not None and any(labels is not None for labels in (*args[1:3], *args[5:])):
            raise ValueError("adapter_names is for inference; leave out the labels.")
        return self._answering.losses(*args)

    def weigh(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """See [`DFNSide.weigh`]."""
        return self._answering.weigh(losses)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(CANNOT_MERGE)

    def unmerge(self) -> None:
        raise NotImplementedError(CANNOT_MERGE)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, None]:
        """The recognisers' device; no dtype: side networks stay in fp32 beside a bf16 base."""
        return next((parameter.device for parameter in base_layer.parameters()), None), None


CANNOT_MERGE = (
    "DFN cannot be merged: its towers compute beside the branches, from their states, and are no change of a weight. "
    "Keep the adapter beside the base, or unload() it."
)


class DFNModel(BaseTuner):
    """Injects [`DFNLayer`] in the place of a model's recognisers."""

    prefix = "dfn_"
    tuner_layer_cls = DFNLayer
    target_module_mapping = {"mf2": ["recognizers"]}
    dfn_version = CODE_VERSION
    """Marks the registered classes as this method's, for copies of this file that are loaded later."""

    def _prepare_adapter_config(self, peft_config: DFNConfig, model_config: dict) -> DFNConfig:
        if not hasattr(BaseTuner, "_remove_adapter_name_from_key"):
            raise ImportError(
                f"DFN needs peft>=0.21, but {peft.__version__} is installed, which would lose an adapter's weights in "
                f"its file; pip install -U peft."
            )
        if model_config.get("model_type") not in self.target_module_mapping:
            raise ValueError(f"DFN adapts MF² models; this one is of the type {model_config.get('model_type')!r}.")
        peft_config.take_base(self.model.config)
        if peft_config.base_readout_width is None:
            reads_face = peft_config.reads_face(self.model.config)
            peft_config.base_readout_width = self.model.readout.weight.shape[1] if reads_face else 0
        peft_config.target_modules = list(self.target_module_mapping["mf2"])
        return peft_config

    def _create_and_replace(
        self,
        peft_config: DFNConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if not isinstance(target, DFNLayer):
            layer = DFNLayer(target)
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)
            target = layer
        target.update_layer(adapter_name, peft_config, **side_sizes(self.model.config))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """PEFT's method rebinds a weight and a bias, which recognisers lack."""
        setattr(parent, child_name, new_module)
        if isinstance(new_module, MF2Recognizers):
            new_module.config.name_labels()

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        """PEFT's argument `adapter_names`: an adapter for each row."""
        if adapter_names is None:
            yield
            return
        (layer,) = (module for module in self.model.modules() if isinstance(module, DFNLayer))
        with layer.answering_rows(adapter_names):
            yield

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """`….dfn_sides.NAME.towers…` -> `….dfn_sides.towers…`; PEFT's own looks for the name at the end only."""
        return key.replace(f".dfn_sides.{adapter_name}.", ".dfn_sides.", 1)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(CANNOT_MERGE)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """PEFT's mean of adapters, which side networks do not have."""
        raise NotImplementedError(
            "DFN adapters cannot be averaged: their towers are not linear in their weights. Ask all in one pass, "
            "model.forward_adapters(names, **inputs), and average what they say."
        )


# ------------------------------------------------------------------------------------------------------ registration
def _register() -> type[BaseTuner]:
    """Register the method, or use the classes of the first loaded copy of this file (package or checkpoint)."""
    registered = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType.DFN)
    if registered is None:
        register_peft_method(name="dfn", config_cls=DFNConfig, model_cls=DFNModel, prefix=DFNModel.prefix)
        return DFNModel
    version = getattr(registered, "dfn_version", None)
    if version is None:
        raise ImportError(f"PEFT already has a method called DFN, {registered!r}, which is not MF²'s.")
    if version != CODE_VERSION:
        warnings.warn(f"DFN {version} is in use, loaded before this copy, which is {CODE_VERSION}.", stacklevel=2)
    return registered


_registered = _register()
if _registered is not DFNModel:
    import sys

    _first = sys.modules[_registered.__module__]
    DFNConfig, DFNModel, DFNLayer = _first.DFNConfig, _first.DFNModel, _first.DFNLayer

__all__ = ["DFNConfig", "DFNLayer", "DFNModel"]
