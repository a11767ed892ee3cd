"""MF²: a multilevel multimodal face model (Zheng et al., *Multimodal Representation Learning Techniques for
Comprehensive Facial State Analysis*), on Q-Former branches as in BLIP-2 stage 1 (Li et al., arXiv 2301.12597).

The data's way through it:

    pixel_values ─ vision tower ─┬─ all tokens ──────────── emo branch ─ query states ─┬─ emotion, AUs
                                 └─ AU regions (au_boxes) ─ au branch ── query states ─┘
    captions ─────────────────────── the branch's text side ─ ITC · ITM · ITG against the query states

Symbols in shapes: B images, A action units, E emotions, Q queries, T text tokens, N vision tokens, R tokens of a
region, D branch width, W vision width, P projection width, H heads, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ImageClassifierOutput,
    ModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple, is_peft_available, logging

from .alignment_mf2 import (
    TextItems,
    VisualItems,
    alignment_losses,
    draw_groups,
    image_text_similarity,
    read_distinct_texts,
    recognition_losses,
    split_floors,
)
from .branch_mf2 import BranchView, FaceViews, MF2Branch
from .caption_ranking_mf2 import (
    NUM_CANDIDATES,
    CaptionInputs,
    CaptionRanking,
    image_seeds,
    recognised_states,
    refuse_settings,
)
from .configuration_mf2 import MF2Config
from .labels_mf2 import LabelSpace
from .qformer_mf2 import MF2LMHead, map_key_values, select_rows
from .readout_mf2 import FaceReadout
from .recognition_mf2 import BASE, PLACES, MF2Recognizers, PooledTexts, Recognition
from .regions_mf2 import nearest_au_indexes
from .tower_mf2 import (
    SampledFeatures,
    VisionFeatures,
    box_centers,
    build_vision_tower,
    check_boxes,
    mirror_faces,
    probe_tower,
    read_tower,
    sample_regions,
    select_boxes,
)
from .transformers_mf2 import (
    CACHE_NAME,
    NOT_GENERATION_INPUTS,
    AdapterCalls,
    cache_of,
    refuse_lookahead,
    refuse_not_returned,
    refuse_unknown,
)

if is_peft_available():
    # Registers DFN, so that a loaded checkpoint can load its adapters; the file travels with the model's code.
    from .peft_dfn import DFNLayer  # noqa: F401

logger = logging.get_logger(__name__)

CAPTION_BRANCH = {"emotion": "emo", "key_au": "emo", "au": "au"}
"""Which branch writes which kind of caption."""


# ---------------------------------------------------------------------------------------------------------- outputs
@dataclass
class MF2Output(ModelOutput):
    """What is seen in a face.

    Args:
        loss: Weighted sum of `losses`; None without labels.
        losses: Unweighted scalars: `emotion`, `au` and `affect`; in pre-training `emo_itc`, `emo_itm`, `emo_itg`,
            `au_itc`, `au_itm` and `au_itg`, too, and with an adapter that is aligned `emo_itc` and `au_itc`; None for
            none.
        au_logits: `(B, A)`, one per AU of the label space; probabilities by sigmoid.
        emotion_logits: `(B, E)`; probabilities by softmax.
        au_embeds: `(B, A, Q, P)` L2-normalised queries of each AU region; None without the local branch.
        emotion_embeds: `(B, Q, P)` L2-normalised queries of the face; None without the global branch.
        au_states: `(B, A, Q, D)` query states of the local branch.
        emotion_states: `(B, Q, D)` query states of the global branch.
        affect: `(B, 2)` valence and arousal, from -1 to 1; None where the label space has neither.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    loss_floors: dict[str, torch.Tensor] | None = None
    au_logits: torch.Tensor | None = None
    emotion_logits: torch.Tensor | None = None
    au_embeds: torch.Tensor | None = None
    emotion_embeds: torch.Tensor | None = None
    au_states: torch.Tensor | None = None
    emotion_states: torch.Tensor | None = None
    affect: torch.Tensor | None = None


# ------------------------------------------------------------------------------------------------------------- model
class MF2PreTrainedModel(AdapterCalls, PreTrainedModel):
    """The base class of the models: configuration, weight initialisation and transformers' flags."""

    config: MF2Config
    config_class = MF2Config
    base_model_prefix = "mf2"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules: list[str] | None = ["MF2Branch"]  # its passes share projections across layers
    accepts_loss_kwargs = False  # the losses are means: a Trainer divides them by its accumulation steps

    if TYPE_CHECKING:  # transformers wraps it in a way that hides its arguments

        def to(self, *args: Any, **kwargs: Any) -> Self:
            """See `torch.nn.Module.to`."""

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the outputs."""
        return self.config.label_space

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MF2Branch):
            initialization.normal_(module.query_tokens, mean=0.0, std=std)
            initialization.constant_(module.temperature, self.config.itc_temperature)
        elif isinstance(module, MF2LMHead):
            initialization.zeros_(module.bias)


class MF2Model(MF2PreTrainedModel):
    """Everything that sees: the tower, the two branches and the two recognisers. Text is not needed."""

    _aligns = False  # whether texts are aligned with the queries and see their keys and values

    def __init__(self, config: MF2Config):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        self.level_widths = level_widths = self._complete_widths(config)
        if config.use_emo_vl:
            self.emo = MF2Branch(config, config.emo_config, is_local=False)
        if config.use_au_vl:
            self.au = MF2Branch(config, config.au_config, is_local=True)
            width = config.au_config.encoder_hidden_size
            if level_widths != [width]:
                self.level_projections = nn.ModuleList(
                    nn.Sequential(nn.LayerNorm(level_width), nn.Linear(level_width, width))
                    for level_width in level_widths
                )
        states_read = 2 if config.direct_states else 1
        widths = {name: states_read * branch.query_tokens.shape[-1] for name, branch in self.branches.items()}
        self.recognizers = MF2Recognizers(widths, config)
        if config.readout_grids:
            self.readout = FaceReadout(config, level_widths, has_regions="au" in self.branches)
        self.post_init()
        if config.freeze_vision:
            self.vision_model.requires_grad_(False)

    def _complete_widths(self, config: MF2Config) -> list[int]:
        """Widths of the feature levels; the tower is asked, on the meta device, where the configuration is silent."""
        width = config.vision_width
        if width is None or list(config.local_feature_levels) != [-1]:
            features = probe_tower(config, lambda tower, pixel_values: read_tower(tower, config, pixel_values))
            width = features.tokens.shape[-1]
            level_widths = [level.shape[1] for level in features.maps]
        else:
            level_widths = [width]
        for name in ("emo_config", "au_config"):
            branch = getattr(config, name)
            if branch.encoder_hidden_size is None:
                branch.encoder_hidden_size = width
            elif branch.encoder_hidden_size != width:
                raise ValueError(
                    f"{name}.encoder_hidden_size is {branch.encoder_hidden_size}, but the vision tower gives {width}."
                )
        return level_widths

    @property
    def label_space(self) -> LabelSpace:
        """The label space of the active adapter or the checkpoint: AUs with their thresholds, and emotions."""
        return self.recognizers.label_space

    @property
    def label_spaces(self) -> dict[str, LabelSpace]:
        """The label space of each loaded adapter by name; `"base"` is that of the checkpoint."""
        return self.recognizers.label_spaces

    @property
    def branches(self) -> dict[str, MF2Branch]:
        """The branches that are switched on, by name."""
        return {name: getattr(self, name) for name in ("emo", "au") if hasattr(self, name)}

    def get_branch(self, name: str) -> MF2Branch:
        """The branch of that name, or a `ValueError` that says which there are."""
        if name not in self.branches:
            raise ValueError(f"This model has no {name!r} branch; it has {', '.join(map(repr, self.branches))}.")
        return self.branches[name]

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding of the tower, or its equivalent."""
        return next(iter(self.branches.values())).embeddings.word_embeddings

    def train(self, mode: bool = True):
        """As usual, except that a frozen tower or branch stays in evaluation mode."""
        super().train(mode)
        for part in (self.vision_model, *self.branches.values()):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    @torch.no_grad()
    def resize_label_space(self, label_space: LabelSpace) -> None:
        """Give the model other outputs; a task without AUs leaves it its own.

        What the model knows of them stays. A new AU has the embedding of the known AU whose regions are nearest, and a
        head that knows nothing.
        """
        if list(self.label_spaces) != [BASE]:
            raise ValueError("An adapter has a label space of its own; unload it before the model's is changed.")
        old, config = self.config.label_space, self.config
        new = LabelSpace(label_space.au_ids or old.au_ids, label_space.emotions, affect=label_space.affect)
        config.au_ids, config.emotions, config.affect = list(new.au_ids), list(new.emotions), new.affect
        config.au_thresholds, config.au_pos_weight, config.emotion_logit_shift = None, None, None
        config.au_pairs_per_image = min(config.au_pairs_per_image or len(new.au_ids), len(new.au_ids)) or None
        config.check()
        if "au" in self.branches:
            rows = nearest_au_indexes(new.au_ids, old.au_ids)
            self.au.au_embeddings = nn.Embedding.from_pretrained(self.au.au_embeddings.weight[rows], freeze=False)
        self.recognizers = self.recognizers.resized(old, config)
        if hasattr(self, "readout"):
            self.readout = self.readout.resized(old, config, self.level_widths)

    # --------------------------------------------------------------------------------------------------- seeing
    def encode_vision(self, pixel_values: torch.Tensor) -> VisionFeatures:
        """Run the tower once; without autograd when it is frozen. Convolutions are fastest with channels last."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            pixel_values = pixel_values.to(self.vision_model.dtype, memory_format=torch.channels_last)
            return read_tower(self.vision_model, self.config, pixel_values)

    def sample_vision(
        self, pixel_values: torch.Tensor, au_boxes: torch.Tensor | None, au_ids: Sequence[int] | None = None
    ) -> SampledFeatures:
        """What the branches read of the tower: the local features V^AU of section III-A come from the face's feature
        maps, not from further tower passes.

        Args:
            au_ids: Whose regions `au_boxes` are; those of the label space by default.
        """
        vision, regions, places = self.encode_vision(pixel_values), None, None
        au_ids = self.label_space.region_au_ids if au_ids is None else au_ids
        if "au" in self.branches:
            check_boxes(pixel_values, au_boxes, au_ids)
            regions, places = self._sample_maps(vision, au_boxes), box_centers(au_boxes)
        described = self.readout.describe(vision, regions, places, au_ids) if hasattr(self, "readout") else None
        return SampledFeatures(vision.tokens, regions, described, places=places)

    def _sample_maps(self, vision: VisionFeatures, au_boxes: torch.Tensor) -> torch.Tensor:
        levels = [sample_regions(of, au_boxes.flatten(1, 2), self.config.au_region_grid) for of in vision.maps]
        return torch.cat([level.unflatten(1, au_boxes.shape[1:3]).flatten(2, 3) for level in levels], dim=-1)

    def encode_regions(self, vision: VisionFeatures, au_boxes: torch.Tensor) -> torch.Tensor:
        """Tokens of the AU regions: `(B, A, 2, 4)` boxes -> `(B, A, R · levels, W)`, both centres side by side."""
        return self.project_regions(self._sample_maps(vision, au_boxes))

    def project_regions(self, regions: torch.Tensor) -> torch.Tensor:
        """`(B, A, R, ΣW_l)` of all levels -> `(B, A, R · levels, W)` tokens, the levels one after the other."""
        levels = regions.split(self.level_widths, dim=-1)
        if hasattr(self, "level_projections"):
            levels = [project(level) for project, level in zip(self.level_projections, levels, strict=True)]
        return torch.cat(levels, dim=2)

    def _own_boxes(
        self, au_boxes: torch.Tensor | None, au_ids: torch.Tensor | Sequence[int] | None
    ) -> torch.Tensor | None:
        """The boxes of the label space that answers."""
        return select_boxes(au_boxes, au_ids, self.label_space.region_au_ids)

    def encode_branches(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None,
        au_ids: Sequence[int] | None = None,
        keep_key_values: bool = False,
        mirror: bool = True,
    ) -> FaceViews:
        """The query-only pass of every branch, by name, and what the linear readout says.

        Args:
            au_ids: Whose regions `au_boxes` are; those of the label space by default.
            keep_key_values: As in [`MF2Branch.encode_image`].
            mirror: With `mirror_emotions`, see the mirror image, too; in the same pass if no keys and values are kept.
        """
        given = tuple(au_ids or self.label_space.region_au_ids)

        def encode(pixels: torch.Tensor, boxes: torch.Tensor | None, *keep: bool) -> FaceViews:
            return self.encode_sampled(self.sample_vision(pixels, boxes, given), given, *keep)

        has_mirror = mirror and self.config.mirror_emotions and self.config.emotions and not self.training
        if not (has_mirror and set(self.config.label_space.region_au_ids) <= set(given)):
            return encode(pixel_values, au_boxes, keep_key_values)
        mirrored = partial(mirror_faces, pixel_values, au_boxes, given)
        if keep_key_values:
            views = encode(pixel_values, au_boxes, keep_key_values)
            views.of_mirror = lambda: self._mirrored(encode(*mirrored()), given)
            return views
        pairs = zip((pixel_values, au_boxes), mirrored(), strict=True)
        both = (None if of_face is None else torch.cat([of_face, of_mirror]) for of_face, of_mirror in pairs)
        views, of_mirrors = encode(*both).split(pixel_values.shape[0])
        views.of_mirror = partial(self._mirrored, of_mirrors, given)
        return views

    def _mirrored(self, views: FaceViews, au_ids: Sequence[int]) -> torch.Tensor:
        """What the checkpoint's own recognisers say of mirror images: `(B, E)`, with `mirror_aus` `(B, A + E)`."""
        output = self.recognizers.answer(BASE, self._pooled_of(self.config.label_space, views.pooled, au_ids))
        aus = [output.au_logits] if self.config.mirror_aus else []
        return torch.cat([*aus, output.emotion_logits], dim=1)

    def _pooled_of(self, space: LabelSpace, pooled: dict[str, torch.Tensor], au_ids: Sequence[int]) -> dict:
        """Of what views of the AUs `au_ids` give the recognisers, that of a label space's regions, in its order."""
        if "au" not in self.branches or tuple(au_ids) == space.region_au_ids:
            return pooled
        rows = [au_ids.index(au_id) for au_id in space.region_au_ids]
        return pooled | {key: pooled[key][:, rows] for key in ("au", PLACES)}

    def encode_sampled(
        self, sampled: SampledFeatures, au_ids: Sequence[int] | None = None, keep_key_values: bool = False
    ) -> FaceViews:
        """As `encode_branches`, of what the tower left."""
        au_ids = self.label_space.region_au_ids if au_ids is None else au_ids
        views = {}
        for name, branch in self.branches.items():
            is_local = name == "au"
            vision_states = self.project_regions(sampled.regions) if is_local else sampled.tokens[:, None]
            views[name] = branch.encode_image(vision_states, au_ids, keep_key_values)  # (B, A, R, W), (B, 1, N, W)
        readout = sampled.readout if sampled.face is None else self.readout(sampled.face)
        return FaceViews(views, readout, sampled.places, sampled.face)

    def recognize(self, views: FaceViews) -> Recognition:
        """The output of the recognisers of the active adapter or the checkpoint."""
        return self.recognizers(views.pooled)

    def _describe(self, views: FaceViews) -> dict[str, torch.Tensor]:
        """The states and the embeddings of every branch, by their names in [`MF2Output`]."""
        alignment = {}
        if "emo" in views:
            alignment["emotion_states"] = views["emo"].states[:, 0]
            alignment["emotion_embeds"] = self.emo.embed_image(alignment["emotion_states"])
        if "au" in views:
            alignment["au_states"] = views["au"].states
            alignment["au_embeds"] = self.au.embed_image(alignment["au_states"])
        return alignment

    def _of_own_aus(self, described: dict[str, torch.Tensor], space: LabelSpace, au_ids: Sequence[int]) -> dict:
        """Of `(B, K, …)` states and embeddings of the AUs `au_ids` those of a label space's AUs, in its order; of all
        its regions where it has emotions only."""
        wanted = space.au_ids or space.region_au_ids
        if tuple(au_ids) == wanted:
            return described
        rows = [au_ids.index(au_id) for au_id in wanted]
        return described | {name: described[name][:, rows] for name in ("au_states", "au_embeds") if name in described}

    def _text_items(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        to_write: torch.Tensor | None = None,
    ) -> TextItems:
        """One text an image gets a group dimension of 1."""
        if input_ids.ndim == 2:
            attention_mask = attention_mask if attention_mask is None else attention_mask[:, None]
            caption_ids = caption_ids if caption_ids is None else caption_ids[:, None]
            input_ids = input_ids[:, None]
        return TextItems.from_batch(input_ids, attention_mask, caption_ids, self.config.pad_token_id, to_write)

    def pool_texts(self, branch: str, *text: torch.Tensor | None) -> PooledTexts:
        """The encoded texts of a branch for an adapter; ids, mask and caption ids as in [`MF2ForPreTraining`]."""
        items = self._text_items(*text)
        states = read_distinct_texts(items, self.get_branch(branch).pool_text)
        return PooledTexts(states, items.caption_ids, items.valid)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        au_boxes: torch.Tensor | None = None,
        emotion_labels: torch.Tensor | None = None,
        au_labels: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        au_input_ids: torch.Tensor | None = None,
        au_attention_mask: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        au_caption_ids: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        vision_tokens: torch.Tensor | None = None,
        region_features: torch.Tensor | None = None,
        readout_logits: torch.Tensor | None = None,
        region_places: torch.Tensor | None = None,
        mirrored: Mapping[str, torch.Tensor] | None = None,
        affect_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | MF2Output:
        """See faces.

        Args:
            pixel_values: `(B, 3, H, W)`, aligned and normalised by the processor.
            au_boxes: `(B, A, 2, 4)` x1 y1 x2 y2 of each AU's two regions, normalised to [0, 1].
            emotion_labels, au_labels: `(B,)`, -100 unlabelled, and `(B, A)`, -1 unlabelled; with them come the
                recognisers' losses.
            input_ids, attention_mask: `(B, T)` text of the global branch, `[CLS] … [SEP]`; an empty mask is no text.
                Texts are read in training alone, by [`MF2ForPreTraining`] and by adapters that are aligned with them.
            au_input_ids, au_attention_mask: `(B, T)`, or `(B, A, T)` with `au_text_mode="per_au"`.
            caption_ids, au_caption_ids: `(B,)` and `(B,)` or `(B, A)`: equal where the text is the same.
            au_ids: `(B, K)` or `(K,)`: whose the K boxes of each face are, in any order; those of the label space
                are taken. Without them the boxes are those of the label space, in its order.
            vision_tokens, region_features, region_places: `(B, N, W)`, `(B, A, R, ΣW_l)` and `(B, A, 4)`: what a
                frozen tower left of the pictures, see [`SampledFeatures`]; then `pixel_values` and `au_boxes` are not
                read.
            readout_logits: `(B, A + E)`, with them: what the linear readout says, where the model has one. Without
                them the recognisers answer alone, as they do where they learn from the faces that it was fitted to.
            mirrored: the same four of the mirror image, for a model with `mirror_emotions`.
            affect_labels: `(B, 2)` valence and arousal from -1 to 1, NaN unlabelled; not read where the label space
                has neither.
            kwargs: What else a processor returns (`landmarks_px`, `align_matrix`, …) is not needed.
        """
        refuse_unknown(self.forward, kwargs)
        texts = {
            "emo": (input_ids, attention_mask, caption_ids),
            "au": (au_input_ids, au_attention_mask, au_caption_ids),
        }
        texts = {name: text for name, text in texts.items() if name in self.branches and text[0] is not None}
        keep_key_values = self._aligns and bool(texts)
        if vision_tokens is None:
            views = self.encode_branches(pixel_values, self._own_boxes(au_boxes, au_ids), None, keep_key_values)
        else:
            sampled = SampledFeatures(vision_tokens, region_features, readout=readout_logits, places=region_places)
            views = self.encode_sampled(sampled, keep_key_values=keep_key_values)
            if mirrored is not None:
                own = self.config.label_space.region_au_ids
                of_mirror = SampledFeatures.of_inputs(mirrored)
                views.of_mirror = lambda: self._mirrored(self.encode_sampled(of_mirror, own), own)
        output = self.recognize(views)
        losses, floors = split_floors(self._losses(views, output, emotion_labels, au_labels, texts, affect_labels))
        return MF2Output(
            loss=self.recognizers.weigh(losses),
            losses=losses or None,
            au_logits=output.au_logits,
            emotion_logits=output.emotion_logits,
            affect=output.affect,
            loss_floors=floors or None,
            **self._of_own_aus(self._describe(views), self.label_space, self.label_space.region_au_ids),
        )

    def _losses(
        self,
        views: FaceViews,
        output: Recognition,
        emotion_labels: torch.Tensor | None,
        au_labels: torch.Tensor | None,
        texts: dict[str, tuple[torch.Tensor | None, ...]],
        affect_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The recognisers' losses, or those of the adapter in their place, with their floors.

        Args:
            texts: By branch, its ids, mask and caption ids.
        """
        is_read = self.recognizers.reads_texts
        pooled = {name: self.pool_texts(name, *text) for name, text in texts.items()} if is_read else {}
        return self.recognizers.losses(output, emotion_labels, au_labels, pooled, self.branches, affect_labels)

    def forward_adapters(
        self,
        names: Sequence[str],
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs,
    ) -> dict[str, MF2Output]:
        """The outputs of several adapters from a single pass of the tower and the branches, which they share.

        Args:
            names: Of loaded adapters; `"base"` is the checkpoint itself.
            pixel_values: `(B, 3, H, W)`.
            au_boxes: `(B, K, 2, 4)`, among them those of all their AUs, as
                `processor.for_label_spaces(*(model.label_spaces[name] for name in names))` makes them.
            au_ids: `(B, K)` or `(K,)`: whose they are; needed where the label spaces have different AUs.
        Returns:
            The outputs by name, equal to those of each adapter alone.
        """
        spaces = self.label_spaces
        if unknown := [name for name in names if name not in spaces]:
            raise ValueError(f"No adapter is called {unknown[0]!r}; loaded are {', '.join(map(repr, spaces))}.")
        refuse_unknown(self.forward_adapters, kwargs)
        wanted = list(dict.fromkeys(au_id for name in names for au_id in spaces[name].region_au_ids))
        if au_ids is None and "au" in self.branches and len({spaces[name].region_au_ids for name in names}) > 1:
            raise ValueError(
                f"{', '.join(map(repr, names))} have different AUs, so that au_ids must say whose au_boxes are; the "
                "processor returns both: model.forward_adapters(names, **inputs)."
            )
        views = self.encode_branches(pixel_values, select_boxes(au_boxes, au_ids, wanted), wanted)
        described = self._describe(views)
        pooled, outputs = views.pooled, {}
        for name in names:
            own_states = self._of_own_aus(described, spaces[name], wanted)
            output = self.recognizers.answer(name, self._pooled_of(spaces[name], pooled, wanted))
            outputs[name] = MF2Output(
                au_logits=output.au_logits, emotion_logits=output.emotion_logits, affect=output.affect, **own_states
            )
        return outputs

    # ------------------------------------------------------------------------------------------------ retrieval
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        branch: str = "emo",
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs,
    ) -> tuple | BaseModelOutputWithPooling:
        """Embeddings of faces in a branch's space: `pooler_output` is `(B, Q, P)`, for `au` `(B, A · Q, P)`."""
        refuse_unknown(self.get_image_features, kwargs)
        self.get_branch(branch)
        views = self.encode_branches(pixel_values, self._own_boxes(au_boxes, au_ids), mirror=False)
        states = views[branch].states.flatten(1, 2)
        embeds = self.get_branch(branch).embed_image(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=embeds)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        branch: str = "emo",
        **kwargs,
    ) -> tuple | BaseModelOutputWithPooling:
        """Embeddings of texts in a branch's space: `(B, T)` ids -> `pooler_output` `(B, P)`."""
        refuse_unknown(self.get_text_features, kwargs)
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        states = self.get_branch(branch).encode_text(input_ids, attention_mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.get_branch(branch).embed_text(states)
        )

    @staticmethod
    def get_retrieval_scores(
        image_features: torch.Tensor | BaseModelOutputWithPooling,
        text_features: torch.Tensor | BaseModelOutputWithPooling,
    ) -> torch.Tensor:
        """Cosine similarities: `(I, Q, P)` image and `(M, P)` text features -> `(I, M)`, the best over the queries.

        Takes what `get_image_features` and `get_text_features` return, or its `pooler_output`.
        """
        image_features, text_features = (
            features if isinstance(features, torch.Tensor) else features.pooler_output
            for features in (image_features, text_features)
        )
        return image_text_similarity(image_features[:, None], text_features[:, None])[0]


class MF2ForPreTraining(MF2Model):
    """MF² with its training losses: ITC + ITM + ITG in each branch that has texts, and the two recognisers."""

    @property
    def _aligns(self) -> bool:
        return self.recognizers.trains_branches

    def _losses(
        self,
        views: FaceViews,
        output: Recognition,
        emotion_labels: torch.Tensor | None,
        au_labels: torch.Tensor | None,
        texts: dict[str, tuple[torch.Tensor | None, ...]],
        affect_labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        if self._aligns:
            for name, text in texts.items():
                items = self._text_items(*text, to_write=self.aus_to_write(au_labels) if name == "au" else None)
                aligned = alignment_losses(self.branches[name], *self._pair(self.branches[name], views[name], items))
                losses |= {f"{name}_{kind}": loss for kind, loss in aligned.items()}
        return losses | super()._losses(views, output, emotion_labels, au_labels, texts, affect_labels)

    def _pair(self, branch: MF2Branch, view: BranchView, texts: TextItems) -> tuple[VisualItems, TextItems]:
        """The items to align: a face or all of its regions with one text, or each region with a sentence."""
        if texts.valid.shape[1] == 1:
            return self._face_items(branch, view), texts
        aus = draw_groups(texts.valid, self.config.au_pairs_per_image)
        return self._region_items(branch, view, aus), texts.select_groups(aus)

    def aus_to_write(self, au_labels: torch.Tensor | None) -> torch.Tensor | None:
        """`(B, A)` bool with `au_text_mode="per_au"`, else None, which is every text.

        A caption names active AUs only: the fixed sentence of an inactive one is compared but never to be written.
        """
        return au_labels == 1 if self.config.au_text_mode == "per_au" and au_labels is not None else None

    @staticmethod
    def _face_items(branch: MF2Branch, view: BranchView) -> VisualItems:
        """One item an image: the face's queries, or (`au_text_mode="caption"`) those of all regions side by side."""
        batch_size = view.states.shape[0]

        def side_by_side(x: torch.Tensor) -> torch.Tensor:  # (B · K, H, Q, d) -> (B, H, K · Q, d)
            return x.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(2, 3)

        def as_regions(x: torch.Tensor) -> torch.Tensor:  # (B · K, 1, H, N, d) -> (B, K, H, N, d)
            return x.squeeze(1).unflatten(0, (batch_size, -1))

        return VisualItems(
            states=view.states.flatten(1, 2)[:, None],
            query_embeds=view.query_embeds.flatten(0, 1)[None],
            key_values=map_key_values(side_by_side, view.key_values),
            vision_key_values=map_key_values(as_regions, branch.vision_key_values(view)),
            vision_states=view.vision_states[:, None],
        )

    @staticmethod
    def _region_items(branch: MF2Branch, view: BranchView, aus: torch.Tensor) -> VisualItems:
        """One item per image and drawn AU (`au_text_mode="per_au"`)."""
        return VisualItems(
            states=view.states[:, aus],
            query_embeds=view.query_embeds[aus],
            key_values=select_rows(view.key_values, view.rows_of(aus)),
            vision_key_values=branch.vision_key_values(view, aus),
            vision_states=view.vision_states[:, aus, None],
        )


class MF2ForImageClassification(MF2Model):
    """The emotion of a face as `logits` with `id2label`, for transformers' image-classification pipeline."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs,
    ) -> tuple | ImageClassifierOutput:
        """`labels` `(B,)`: emotions, -100 unlabelled; the rest as in [`MF2Model`].

        Raises:
            ValueError: what answers knows no emotions.
        """
        refuse_unknown(self.forward, kwargs)
        if not self.label_space.emotions:
            raise ValueError(
                f"What answers knows AUs only ({', '.join(self.label_space.au_codes)}), and there is no emotion to "
                'classify; use AutoModel, or pipeline("facial-state-analysis").'
            )
        views = self.encode_branches(pixel_values, self._own_boxes(au_boxes, au_ids))
        logits = self.recognize(views).emotion_logits
        loss = None if labels is None else recognition_losses(None, None, logits, labels)["emotion"]
        return ImageClassifierOutput(loss=loss, logits=logits)


class MF2ForConditionalGeneration(MF2Model, GenerationMixin):
    """MF² that writes: emotion and key-AU captions from the global branch, AU captions from the local one."""

    main_input_name = "input_ids"  # what the generation loop extends

    def _visual_prefix(self, views: FaceViews, branch: str, rows: torch.Tensor | None) -> torch.Tensor:
        """The queries' keys and values as one tensor `(rows, L, 2, H, Q, D / H)`, so that beams can repeat it."""
        view = views[branch]
        if rows is None:
            key_values = MF2ForPreTraining._face_items(self.get_branch(branch), view).key_values
        else:
            key_values = select_rows(view.key_values, rows)
        return torch.stack([torch.stack(kv, dim=1) for kv in key_values], dim=1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        au_boxes: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        visual_prefix: torch.Tensor | None = None,
        caption_kind: str = "emotion",
        labels: torch.Tensor | None = None,
        au_ids: torch.Tensor | Sequence[int] | None = None,
        **kwargs,
    ) -> tuple | CausalLMOutputWithPast:
        """Next-token logits `(B, T, vocabulary)` of captions under images.

        Args:
            input_ids, attention_mask: `(B, T)` text so far, beginning with `[DEC]`.
            visual_prefix: What the images left, `(B, L, 2, H, Q, D / H)`; made from `pixel_values` where absent.
            caption_kind: `"emotion"`, `"key_au"` or `"au"` (all regions side by side).
            labels: `(B, T)` ids to predict (shifted here), -100 ignored.
            kwargs: A cache, under any of generation's names for it; empty, it is filled with the prefix first.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing: the text so far, beginning with [DEC]. `generate` needs none.")
        refuse_not_returned(kwargs)
        name = CAPTION_BRANCH[caption_kind]
        if visual_prefix is None:
            views = self.encode_branches(pixel_values, self._own_boxes(au_boxes, au_ids), keep_key_values=True)
            visual_prefix = self._visual_prefix(views, name, rows=None)
        prefix = [tuple(layer.unbind(1)) for layer in visual_prefix.unbind(1)]
        branch = self.get_branch(name)
        kv_cache = cache_of(kwargs)
        states = branch.decode(input_ids, attention_mask, prefix, kv_cache)
        logits = branch.predict_tokens(states)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_NAME: kv_cache})

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        caption_kind: str = "emotion",
        au_ids: torch.Tensor | Sequence[int] | None = None,
        rerank: str | None = None,
        num_candidates: int = NUM_CANDIDATES,
        **kwargs,
    ) -> torch.Tensor:
        """Write a caption for each image.

        Args:
            pixel_values, au_boxes, au_ids: As in [`MF2Model`].
            caption_kind: `"emotion"`, `"key_au"` or `"au"`.
            rerank: Write `num_candidates` of each image, the greedy one and others that are drawn, and keep the best:
                `"match"` by the matching head, `"agreement"` by what the recognisers support and among equals by the
                matching head. Both need `tokenizer=processor.tokenizer`. Equal images get equal captions.
            kwargs: Generation settings (`num_beams`, `do_sample`, `max_new_tokens`, …); what else the processor
                returns is ignored.
        Returns:
            `(B, T)` ids after the kind's prompt (with `return_dict_in_generate`, generation's own output). With
            `au_text_mode="per_au"` AU captions are `(B, A, T)`: a sentence for each AU whose probability reaches its
            threshold, padding for the others. `processor.batch_decode` takes both.
        """
        branch = self.check_caption_kind(caption_kind)
        if kwargs.get("input_ids") is not None:
            logger.warning_once(
                "Prompts are not read: a caption is of a kind, generate(**inputs, caption_kind="
                f"{' | '.join(map(repr, CAPTION_BRANCH))})."
            )
        refuse_lookahead(kwargs)
        refuse_not_returned(kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in NOT_GENERATION_INPUTS}
        views = self.encode_branches(pixel_values, self._own_boxes(au_boxes, au_ids), keep_key_values=True)
        write = partial(self._write, caption_kind=caption_kind, **kwargs)
        if rerank is not None:
            ranking = self._make_ranking(caption_kind, rerank, num_candidates, **kwargs)
            write = partial(self._write_best, ranking, views, image_seeds(pixel_values))
        if caption_kind != "au" or self.config.au_text_mode == "caption":
            return write(self._visual_prefix(views, branch, rows=None))
        if kwargs.get("num_return_sequences", 1) != 1 or kwargs.get("return_dict_in_generate"):
            raise ValueError(
                "AU captions of this model are a sentence an AU; they come as one (B, A, T) tensor, without "
                "num_return_sequences and return_dict_in_generate."
            )
        thresholds = pixel_values.new_tensor(self.label_space.thresholds, dtype=torch.float32)
        active = self.recognize(views).au_logits.float().sigmoid() >= thresholds  # (B, A)
        rows = active.flatten().nonzero().squeeze(1)
        if not len(rows):
            return torch.full((*active.shape, 1), self.config.pad_token_id, device=active.device)
        sentences = write(self._visual_prefix(views, branch, rows), rows=rows)
        ids = sentences.new_full((active.numel(), sentences.shape[1]), self.config.pad_token_id)
        ids[rows] = sentences
        return ids.unflatten(0, active.shape)

    def check_caption_kind(self, caption_kind: str) -> str:
        """The branch that writes captions of a kind.

        Raises:
            ValueError: there is no such kind, its branch is off, or it is a sentence for each active AU and the label
                space (the active adapter's) has none.
        """
        if caption_kind not in CAPTION_BRANCH:
            raise ValueError(f"caption_kind is {caption_kind!r}; choose one of {', '.join(CAPTION_BRANCH)}.")
        branch = CAPTION_BRANCH[caption_kind]
        self.get_branch(branch)
        if caption_kind == "au" and self.config.au_text_mode == "per_au" and not self.label_space.au_ids:
            raise ValueError(
                "AU captions of this model are a sentence for each active AU, and what answers (the active adapter) "
                "recognises emotions only; ask for captions of another kind, or of the checkpoint without the adapter."
            )
        return branch

    def _make_ranking(
        self,
        caption_kind: str,
        rerank: str,
        num_candidates: int,
        tokenizer: Any = None,
        max_new_tokens: int | None = None,
        **settings,
    ) -> CaptionRanking:
        refuse_settings(settings)
        branch, max_length = self.get_branch(CAPTION_BRANCH[caption_kind]), self._text_length(caption_kind)
        if max_new_tokens is not None:
            max_length = 1 + len((self.config.caption_prompt_ids or {}).get(caption_kind, [])) + max_new_tokens
        return CaptionRanking(branch, caption_kind, max_length, rerank, num_candidates, tokenizer)

    def _write_best(
        self,
        ranking: CaptionRanking,
        views: FaceViews,
        seeds: Sequence[int],
        visual_prefix: torch.Tensor,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The best of several captions of each image, or of each of the `rows` of images × AUs, `(R, T)`."""
        view = views[CAPTION_BRANCH[ranking.caption_kind]]
        states = recognised_states(self.recognize(views), self.label_space, len(seeds))
        if rows is None:
            items = MF2ForPreTraining._face_items(ranking.branch, view)
            queries = items.query_embeds.expand(len(seeds), -1, -1)
            keys = [(seed,) for seed in seeds]
            return ranking.write_best(CaptionInputs(visual_prefix, queries, items.vision_key_values, states, keys))
        image_idx, au_idx = ((rows // view.states.shape[1]).tolist(), (rows % view.states.shape[1]).tolist())
        own_aus = [self.label_space.au_ids[au] for au in au_idx]
        return ranking.write_best(
            CaptionInputs(
                visual_prefix,
                view.query_embeds[au_idx],
                select_rows(view.vision_key_values, rows),
                [states[image] for image in image_idx],
                [(seeds[image], au_id) for image, au_id in zip(image_idx, own_aus, strict=True)],
                own_aus,
            )
        )

    def _write(
        self, visual_prefix: torch.Tensor, caption_kind: str, rows: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """Run the generation loop from `[DEC]` and the kind's prompt; the prompt is left out of what it returns."""
        prompt = [self.config.bos_token_id, *(self.config.caption_prompt_ids or {}).get(caption_kind, [])]
        input_ids = torch.tensor([prompt], device=visual_prefix.device).expand(visual_prefix.shape[0], -1)
        settings = kwargs.get("generation_config")
        if not any(
            kwargs.get(name) or getattr(settings, name, None) for name in ("max_new_tokens", "max_length", "max_time")
        ):
            kwargs["max_new_tokens"] = self._text_length(caption_kind) - len(prompt)
        if kwargs.get("use_cache", True):
            kwargs[CACHE_NAME] = DynamicCache()
        written = GenerationMixin.generate(
            self,
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            visual_prefix=visual_prefix,
            caption_kind=caption_kind,
            **kwargs,
        )
        return (
            written if isinstance(written, ModelOutput) else torch.cat([written[:, :1], written[:, len(prompt) :]], 1)
        )

    def _text_length(self, caption_kind: str) -> int:
        if caption_kind == "au" and self.config.au_text_mode == "per_au":
            return self.config.au_sentence_length
        return getattr(self.config, f"{caption_kind}_text_length")


__all__ = [
    "MF2ForConditionalGeneration",
    "MF2ForImageClassification",
    "MF2ForPreTraining",
    "MF2Model",
    "MF2Output",
    "MF2PreTrainedModel",
]
