"""A training step composed of passes of transformers' `Blip2QFormerModel`, which MF² is compared with.

Each loss has its own passes, as in BLIP-2's stage 1 with a Q-Former that caches nothing between calls:

    query-only    B rows of Q queries; each AU region is a separate row
    text-only     every text, including duplicates
    ITM           3 pairs per item over [queries; text], with the image projected to keys and values in each of them
    ITG           one masked pass over [queries; text], which recomputes the queries; the LM head at every position

The tower, the heads, the loss functions and all parameters are MF²'s: the modules here share its tensors. Without
dropout, both steps have the same losses and gradients.

Symbols in shapes: I images, G groups (1, or one per AU), R regions of an item, N vision tokens of a region, W their
width, Q queries of an item, T text tokens, D branch width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from mf2.alignment_mf2 import (
    Comparison,
    TextItems,
    compare_embeds,
    draw_groups,
    draw_match_pairs,
    itc_loss,
    match_loss,
)
from mf2.benchmarks.inputs import get_qformer_config
from mf2.branch_mf2 import BranchView, FaceViews, MF2Branch
from mf2.configuration_mf2 import MF2QFormerConfig
from mf2.modeling_mf2 import MF2ForPreTraining

Batch = Mapping[str, torch.Tensor]


@dataclass
class ReferenceItems:
    """I images × G groups: `states` `(I, G, Q, D)`, `queries` `(G, Q, D)`, `vision_states` `(I, G, R, N, W)`."""

    states: torch.Tensor
    queries: torch.Tensor
    vision_states: torch.Tensor


class ReferenceBranch(nn.Module):
    """A branch with transformers' Q-Former and text embeddings, which shares all parameters with the given one."""

    def __init__(self, branch: MF2Branch, qformer_config: MF2QFormerConfig):
        super().__init__()
        config = _blip2_config(qformer_config)
        self.branch = branch
        self.qformer = Blip2QFormerModel._from_config(
            config, attn_implementation=branch.config._attn_implementation
        ).train(branch.training)
        self.embeddings = Blip2TextEmbeddings(config)
        self.qformer.load_state_dict(branch.qformer.state_dict(keep_vars=True), assign=True)
        self.embeddings.load_state_dict(branch.embeddings.state_dict(keep_vars=True), assign=True)

    def encode_image(self, queries: torch.Tensor, vision_states: torch.Tensor) -> torch.Tensor:
        """The query-only pass: `(rows, Q, D)` queries, `(rows, N, W)` normalised vision tokens -> `(rows, Q, D)`."""
        return self.qformer(queries, encoder_hidden_states=vision_states).last_hidden_state

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The text-only pass: `(rows, T)` ids -> `(rows, T, D)`."""
        embeds = self.embeddings(input_ids)
        return self.qformer(embeds, query_length=0, attention_mask=attention_mask).last_hidden_state

    def encode_both(
        self, queries: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, vision_states: torch.Tensor
    ) -> torch.Tensor:
        """The joint pass over [queries; text].

        Args:
            queries: `(rows, Q, D)`, split evenly over the regions.
            attention_mask: `(rows, Q + T)`, or `(rows, 1, Q + T, Q + T)` bool.
            vision_states: `(rows, R, N, W)`, normalised.
        Returns:
            `(rows, Q + T, D)`.
        """
        num_regions = vision_states.shape[1]
        same_region = _same_region(queries.shape[1], vision_states.shape[2] * num_regions, num_regions, queries.device)
        return self.qformer(
            self.embeddings(input_ids, query_embeds=queries),
            query_length=queries.shape[1],
            attention_mask=attention_mask,
            encoder_hidden_states=vision_states.flatten(1, 2),
            encoder_attention_mask=same_region.expand(len(queries), 1, -1, -1) if num_regions > 1 else None,
        ).last_hidden_state

    def match(
        self, queries: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, vision_states: torch.Tensor
    ) -> torch.Tensor:
        """ITM logits `(rows, 2)` of a joint pass without attention mask."""
        num_queries = queries.shape[1]
        visible = F.pad(attention_mask, (num_queries, 0), value=1)
        states = self.encode_both(queries, input_ids, visible, vision_states)
        return self.branch.itm_head(states[:, :num_queries]).mean(1)

    def generate_states(
        self, queries: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor, vision_states: torch.Tensor
    ) -> torch.Tensor:
        """Text states `(rows, T, D)` of a joint pass under ITG's mask; `input_ids` begin with `[DEC]`."""
        num_queries, num_regions = queries.shape[1], vision_states.shape[1]
        mask = generation_mask(attention_mask, num_queries, num_regions)
        return self.encode_both(queries, input_ids, mask, vision_states)[:, num_queries:]


def _blip2_config(config: MF2QFormerConfig) -> Blip2QFormerConfig:
    shared = set(Blip2QFormerConfig.__dataclass_fields__) & set(MF2QFormerConfig.__annotations__)
    fields = {name: getattr(config, name) for name in shared}
    return Blip2QFormerConfig(**fields, use_qformer_text_input=True)


def _same_region(num_queries: int, num_keys: int, num_regions: int, device: torch.device) -> torch.Tensor:
    """(queries, keys) bool: whether they belong to the same region; each region has an equal part of both."""
    regions = torch.eye(num_regions, dtype=torch.bool, device=device)
    queries_of_each = regions.repeat_interleave(num_queries // num_regions, dim=0)
    return queries_of_each.repeat_interleave(num_keys // num_regions, dim=1)


def generation_mask(attention_mask: torch.Tensor, num_queries: int, num_regions: int = 1) -> torch.Tensor:
    """ITG's mask of [queries; text]: queries attend to those of their region, tokens to the queries and the past.

    Args:
        attention_mask: `(rows, T)` padding mask of the text.
    Returns:
        `(rows, 1, Q + T, Q + T)` bool.
    """
    total = num_queries + attention_mask.shape[1]
    visible = attention_mask.new_ones(total, total, dtype=torch.bool).tril()
    visible[:num_queries, :num_queries] = _same_region(num_queries, num_queries, num_regions, visible.device)
    is_token = F.pad(attention_mask.bool(), (num_queries, 0), value=True)
    return visible & is_token[:, None, None]


class ReferenceStep(nn.Module):
    """`MF2ForPreTraining` as passes of `Blip2QFormerModel`, with the parameters of the given model.

    It takes the same batch and returns the same losses. `draw_groups` and the hard negatives use the default random
    generator in the same order, so that equal seeds give equal results.
    """

    def __init__(self, model: MF2ForPreTraining):
        super().__init__()
        self.model = model
        self.references = nn.ModuleDict(
            {
                name: ReferenceBranch(branch, get_qformer_config(model.config, name))
                for name, branch in model.branches.items()
            }
        )

    @property
    def branches(self) -> dict[str, ReferenceBranch]:
        """Branch name -> reference."""
        return {name: part for name, part in self.references.items() if isinstance(part, ReferenceBranch)}

    def forward(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor,
        emotion_labels: torch.Tensor,
        au_labels: torch.Tensor,
        **texts: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses by name, and their weighted sum as `loss`; arguments as in `MF2ForPreTraining`."""
        config = self.model.config
        losses: dict[str, torch.Tensor] = {}
        views = self._encode_branches(pixel_values, au_boxes)
        recognition = self.model.recognize(views)
        for name, prefix in (("emo", ""), ("au", "au_")):
            if name in views:
                to_write = self.model.aus_to_write(au_labels) if name == "au" else None
                items = _text_items(texts, prefix, config.pad_token_id, to_write)
                branch_losses = self._align(self.branches[name], views[name], items)
                losses |= {f"{name}_{kind}": loss for kind, loss in branch_losses.items()}
        losses |= self.model.recognizers.losses(recognition, emotion_labels, au_labels, {}, {})
        total = self.model.recognizers.weigh(losses)
        return losses if total is None else losses | {"loss": total}

    def _encode_branches(self, pixel_values: torch.Tensor, au_boxes: torch.Tensor) -> FaceViews:
        """The query-only passes; `vision_states` are normalised."""
        vision = self.model.encode_vision(pixel_values)
        views = FaceViews({})
        for name, reference in self.branches.items():
            tokens = vision.tokens[:, None] if name == "emo" else self.model.encode_regions(vision, au_boxes)
            tokens = reference.branch.normalize_vision(tokens)  # (B, K, N, W)
            queries = reference.branch.query_embeds()  # (K, Q, D)
            rows = queries.expand(len(tokens), -1, -1, -1).flatten(0, 1)
            last = reference.encode_image(rows, tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
            pooled = last.mean(2, keepdim=True)  # (B, K, 1, D)
            views[name] = BranchView(last, pooled, queries, tokens)
        return views

    def _align(self, reference: ReferenceBranch, view: BranchView, texts: TextItems) -> dict[str, torch.Tensor]:
        """`itc`, `itm` and `itg` of a branch."""
        queries = view.query_embeds
        if view.states.shape[1] == 1 or self.model.config.au_text_mode == "caption":
            # One item per image: all of its regions.
            images = ReferenceItems(
                view.states.flatten(1, 2)[:, None], queries.flatten(0, 1)[None], view.vision_states[:, None]
            )
        else:
            aus = draw_groups(texts.valid, self.model.config.au_pairs_per_image)
            images = ReferenceItems(view.states[:, aus], queries[aus], view.vision_states[:, aus, None])
            texts = texts.select_groups(aus)
        comparison = _compare(reference, images, texts)
        return {
            "itc": itc_loss(comparison, texts.valid, self.model.config.label_smoothing),
            "itm": _itm_loss(reference, images, texts, comparison),
            "itg": _itg_loss(reference, images, texts),
        }


def _text_items(texts: Batch, prefix: str, pad_id: int, to_write: torch.Tensor | None) -> TextItems:
    """The texts of a branch, with a group dimension: `(B, T)` -> `(B, 1, T)`."""
    names = (f"{prefix}{name}" for name in ("input_ids", "attention_mask", "caption_ids"))
    ids, mask, caption_ids = (texts[name] for name in names)
    if ids.ndim == 2:
        ids, mask, caption_ids = ids[:, None], mask[:, None], caption_ids[:, None]
    return TextItems.from_batch(ids, mask, caption_ids, pad_id, to_write)


def _compare(reference: ReferenceBranch, images: ReferenceItems, texts: TextItems) -> Comparison:
    branch = reference.branch
    text_states = reference.encode_text(texts.input_ids.flatten(0, 1), texts.attention_mask.flatten(0, 1))
    text_embeds = branch.embed_text(text_states).unflatten(0, texts.valid.shape)
    return compare_embeds(
        branch.embed_image(images.states), text_embeds, branch.temperature, texts.caption_ids, texts.valid
    )


def _itm_loss(
    reference: ReferenceBranch, images: ReferenceItems, texts: TextItems, comparison: Comparison
) -> torch.Tensor:
    pairs = draw_match_pairs(comparison, reference.branch.config.itm_hardness)
    if not len(pairs.item):
        return images.states.sum() * 0  # `Blip2QFormerModel` takes no empty batch
    image_rows = torch.cat([pairs.item, pairs.negative_image, pairs.item])
    text_rows = torch.cat([pairs.item, pairs.item, pairs.negative_text])
    groups = pairs.group.repeat(3)
    logits = reference.match(
        images.queries[groups],
        texts.input_ids[text_rows, groups],
        texts.attention_mask[text_rows, groups],
        images.vision_states[image_rows, groups],
    )
    is_match = torch.arange(len(logits), device=logits.device) < len(pairs.item)
    return match_loss(logits, is_match)


def _itg_loss(reference: ReferenceBranch, images: ReferenceItems, texts: TextItems) -> torch.Tensor:
    config = reference.branch.config
    rows = texts.written.flatten().nonzero().squeeze(1)
    if not len(rows):
        return images.states.sum() * 0  # `Blip2QFormerModel` takes no empty batch
    ids, mask = texts.input_ids.flatten(0, 1)[rows], texts.attention_mask.flatten(0, 1)[rows]
    inputs = ids.clone()
    inputs[:, 0] = config.bos_token_id
    queries = images.queries.expand(len(images.states), -1, -1, -1).flatten(0, 1)[rows]
    states = reference.generate_states(queries, inputs, mask, images.vision_states.flatten(0, 1)[rows])
    logits = reference.branch.predict_tokens(states)[:, :-1]
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    return F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=config.label_smoothing, ignore_index=-100
    )
