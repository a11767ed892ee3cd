"""MF²: a multilevel multimodal face model (Zheng et al., *Multimodal Representation Learning Techniques for
Comprehensive Facial State Analysis*), on Q-Former branches as in BLIP-2 stage 1 (Li et al., arXiv 2301.12597).

The data's way through it:

    pixel_values ─ vision tower ─┬─ all tokens ──────────── emo branch ─ query states ─┬─ emotion, AUs
                                 └─ AU regions (au_boxes) ─ au branch ── query states ─┘
    captions ─────────────────────── the branch's text side ─ ITC · ITM · ITG against the query states

Symbols in shapes: B images, A action units, E emotions, Q queries, T text tokens, N vision tokens, R tokens of a region,
D branch width, W vision width, P projection width, H heads, L layers. Alignment works on *items*, one visual input and
one text each: I images, G groups of items that are only compared among themselves (1, or one per AU), M images of all
processes together.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, Blip2VisionModel, initialization
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
    ImageClassifierOutput,
    ModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple, logging

from .configuration_mf2 import MF2Config, MF2QFormerConfig
from .labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED, LabelSpace

logger = logging.get_logger(__name__)

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one attention, each (rows, H, tokens, D / H)."""

CAPTION_BRANCH = {"emotion": "emo", "key_au": "emo", "au": "au"}
"""Which branch writes which kind of caption."""


# ---------------------------------------------------------------------------------------------------------- outputs
@dataclass
class MF2Output(ModelOutput):
    """What is seen in a face.

    Args:
        au_logits: `(B, A)`, one per AU of the label space; probabilities by sigmoid.
        emotion_logits: `(B, E)`; probabilities by softmax.
        au_embeds: `(B, A, Q, P)` L2-normalised queries of each AU region; None without the local branch.
        emotion_embeds: `(B, Q, P)` L2-normalised queries of the face; None without the global branch.
        au_states: `(B, A, Q, D)` query states of the local branch.
        emotion_states: `(B, Q, D)` query states of the global branch.
    """

    au_logits: torch.FloatTensor | None = None
    emotion_logits: torch.FloatTensor | None = None
    au_embeds: torch.FloatTensor | None = None
    emotion_embeds: torch.FloatTensor | None = None
    au_states: torch.FloatTensor | None = None
    emotion_states: torch.FloatTensor | None = None


@dataclass
class MF2PreTrainingOutput(ModelOutput):
    """The weighted sum of the losses, each loss, and the recognisers' logits.

    Args:
        loss: Scalar; None where neither labels nor text were given.
        losses: Unweighted scalars by name: `emo_itc`, `emo_itm`, `emo_itg`, `au_itc`, `au_itm`, `au_itg`, `emotion`, `au`.
        au_logits: `(B, A)`.
        emotion_logits: `(B, E)`.
    """

    loss: torch.FloatTensor | None = None
    losses: dict[str, torch.FloatTensor] | None = None
    au_logits: torch.FloatTensor | None = None
    emotion_logits: torch.FloatTensor | None = None


# ------------------------------------------------------------------------------------------- batches over processes
def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    """(I, …) -> (M, …): the rows of all processes in rank order, with gradient where the tensor has one."""
    if _world_size() == 1:
        return tensor
    if tensor.requires_grad:
        return torch.cat(dist.nn.functional.all_gather(tensor.contiguous()))
    parts = [torch.empty_like(tensor) for _ in range(_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _local_rows(tensor: torch.Tensor, num_rows: int) -> torch.Tensor:
    """(M, …) -> (I, …): this process's part of what `_gather` made."""
    if _world_size() == 1:
        return tensor
    start = dist.get_rank() * num_rows
    return tensor[start : start + num_rows]


def _pad_to_common_length(tensor: torch.Tensor, value: int) -> torch.Tensor:
    """Pad the last dimension to the longest of all processes, so that rows can be gathered."""
    if _world_size() == 1:
        return tensor
    length = torch.tensor(tensor.shape[-1], device=tensor.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return F.pad(tensor, (0, int(length) - tensor.shape[-1]), value=value)


def _mean_over_batch(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`total / count` of the whole batch, scaled so that the *mean over processes* (what DDP takes) is that ratio."""
    if _world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        total = total * _world_size()
    return total / count.clamp(min=1)


def _shared_uniform(*shape: int, device: torch.device) -> torch.Tensor:
    """Uniform numbers that are the same in every process, drawn from the default generator of the first."""
    seed = torch.randint(2**62, (1,))
    if _world_size() > 1:
        seed = seed.to(device)
        dist.broadcast(seed, src=0)
    generator = torch.Generator().manual_seed(int(seed))
    return torch.rand(shape, generator=generator).to(device)


# ----------------------------------------------------------------------------------------------------------- losses
def image_text_similarity(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every image with every text: the best over an image's queries.

    Args:
        image_embeds: `(I, G, Q, P)`, L2-normalised.
        text_embeds: `(M, G, P)`, L2-normalised.
    Returns:
        `(G, I, M)`.
    Source: BLIP-2, section 3.1.
    """
    return torch.einsum("igqp,mgp->gimq", image_embeds, text_embeds).amax(-1)


def contrastive_loss(
    logits: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Cross-entropy of each row against all of its positives in equal parts, one direction of Eq. 3.

    Args:
        logits: `(…, M)` similarities divided by the temperature.
        positives: `(…, M)` bool, at least one a row; a subset of the candidates. One positive a row is BLIP-2's loss;
            several are captions that say the same, which Eq. 3 would count as negatives.
        candidates: `(…, M)` bool, the columns a row is compared with.
        label_smoothing: Share of the target that is spread over the candidates.
    Returns:
        `(…)` losses.
    """
    log_probs = logits.masked_fill(~candidates, torch.finfo(logits.dtype).min).log_softmax(-1)
    targets = (1 - label_smoothing) * positives / positives.sum(-1, keepdim=True)
    targets = targets + label_smoothing * candidates / candidates.sum(-1, keepdim=True)
    return -(targets * log_probs.masked_fill(~candidates, 0.0)).sum(-1)


def sample_hard_negatives(
    logits: torch.Tensor, allowed: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one column a row with probability softmax(logits) over the allowed columns, by inverting its sum.

    Args:
        logits: `(…, M)`; no gradient flows through them.
        allowed: `(…, M)` bool.
        uniform: `(…)` numbers in [0, 1), one a row.
    Returns:
        `(…)` column indexes, and `(…)` bool: whether the row had an allowed column.
    """
    logits = logits.detach().float().masked_fill(~allowed, -torch.inf)
    found = allowed.any(-1)
    weights = torch.where(found[..., None], logits.softmax(-1), 1.0).cumsum(-1)
    index = torch.searchsorted(weights, (uniform * weights[..., -1])[..., None].contiguous(), right=True).squeeze(-1)
    # Rounding can end one column past the last allowed one; step back onto it.
    last_allowed = logits.shape[-1] - 1 - allowed.flip(-1).int().argmax(-1)
    return torch.minimum(index, last_allowed), found


def recognition_losses(
    au_logits: torch.Tensor | None,
    au_labels: torch.Tensor | None,
    emotion_logits: torch.Tensor | None,
    emotion_labels: torch.Tensor | None,
    au_pos_weight: Sequence[float] | None = None,
) -> dict[str, torch.Tensor]:
    """Binary cross-entropy over the labelled AUs and cross-entropy over the labelled emotions.

    Args:
        au_logits, au_labels: `(B, A)`; -1 is unlabelled.
        emotion_logits, emotion_labels: `(B, E)` and `(B,)`; -100 is unlabelled.
        au_pos_weight: One factor an AU on its active rows.
    """
    losses = {}
    if emotion_logits is not None and emotion_labels is not None:
        total = F.cross_entropy(
            emotion_logits.float(), emotion_labels, ignore_index=EMOTION_UNLABELLED, reduction="sum"
        )
        losses["emotion"] = _mean_over_batch(total, (emotion_labels != EMOTION_UNLABELLED).sum())
    if au_logits is not None and au_labels is not None:
        labelled = au_labels != AU_UNLABELLED
        pos_weight = None if au_pos_weight is None else au_logits.new_tensor(au_pos_weight, dtype=torch.float32)
        total = F.binary_cross_entropy_with_logits(
            au_logits.float(), au_labels.clamp(min=0).float(), pos_weight=pos_weight, reduction="none"
        )
        losses["au"] = _mean_over_batch((total * labelled).sum(), labelled.sum())
    return losses


# ------------------------------------------------------------------------------------------------------- AU regions
def sample_regions(feature_map: torch.Tensor, boxes: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Read a grid of features inside boxes of a feature map, bilinearly (RoIAlign with one sample a cell).

    In fp32: `grid_sample` has no bf16 kernel on the CPU, and positions need more than eight bits.

    Args:
        feature_map: `(B, W, h, w)`.
        boxes: `(B, K, 4)` x1 y1 x2 y2, normalised to [0, 1] over the image that the map covers.
        grid_size: Samples along each side of a box.
    Returns:
        `(B, K, grid_size², W)` in the map's dtype.
    """
    steps = (torch.arange(grid_size, device=boxes.device, dtype=torch.float32) + 0.5) / grid_size
    corner, size = boxes[..., :2].float(), (boxes[..., 2:] - boxes[..., :2]).float()
    xs = corner[..., 0:1] + size[..., 0:1] * steps
    ys = corner[..., 1:2] + size[..., 1:2] * steps
    grid = torch.stack(torch.broadcast_tensors(xs[..., None, :], ys[..., :, None]), dim=-1)  # (B, K, g, g, 2)
    batch_size, num_boxes = boxes.shape[:2]
    with torch.autocast(feature_map.device.type, enabled=False):
        sampled = F.grid_sample(
            feature_map.float(),
            grid.view(batch_size, num_boxes, -1, 2) * 2 - 1,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )  # (B, W, K, g²)
    return sampled.permute(0, 2, 3, 1).to(feature_map.dtype)


# --------------------------------------------------------------------------------------------------------- Q-Former
def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out; (rows, H, tokens, D / H) -> (rows, tokens, H, D / H)."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.dropout(weights.softmax(-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MF2QFormerMultiHeadAttention(nn.Module):
    """Attention whose keys and values may come from elsewhere: the image, an earlier pass, a cache."""

    is_causal = False  # masks say everything

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig, key_value_size: int):
        super().__init__()
        width = qformer_config.hidden_size
        self.config = config  # the model's, which names the attention implementation
        self.head_dim = width // qformer_config.num_attention_heads
        self.dropout_prob = qformer_config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_value_size, width)
        self.value = nn.Linear(key_value_size, width)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def project_key_value(self, states: torch.Tensor) -> KeyValue:
        """(rows, tokens, width) -> keys and values."""
        return self._heads(self.key(states)), self._heads(self.value(states))

    def forward(
        self, hidden_states: torch.Tensor, key_value: KeyValue, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attention(
            self,
            self._heads(self.query(hidden_states)),
            *key_value,
            attention_mask,
            dropout=self.dropout_prob if self.training else 0.0,
            scaling=self.head_dim**-0.5,
        )
        return attended.flatten(-2)


class MF2QFormerResidual(nn.Module):
    """BERT's output block: project, drop out, add, normalise."""

    def __init__(self, config: MF2QFormerConfig, input_size: int):
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class MF2QFormerAttention(nn.Module):
    """Attention with its output block; the parameter names are BERT's and BLIP-2's."""

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig, key_value_size: int):
        super().__init__()
        self.attention = MF2QFormerMultiHeadAttention(config, qformer_config, key_value_size)
        self.output = MF2QFormerResidual(qformer_config, qformer_config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, key_value: KeyValue, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.output(self.attention(hidden_states, key_value, attention_mask), hidden_states)


class MF2QFormerIntermediate(nn.Module):
    """The widening half of a feed-forward block."""

    def __init__(self, config: MF2QFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(states))


class MF2QFormerLayer(GradientCheckpointingLayer):
    """One block: self-attention over [queries; text], cross-attention of the queries, a feed-forward for each."""

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.attention = MF2QFormerAttention(config, qformer_config, qformer_config.hidden_size)
        self.has_cross_attention = layer_idx % qformer_config.cross_attention_frequency == 0
        if self.has_cross_attention:
            self.crossattention = MF2QFormerAttention(config, qformer_config, qformer_config.encoder_hidden_size)
        self.intermediate = MF2QFormerIntermediate(qformer_config)
        self.output = MF2QFormerResidual(qformer_config, qformer_config.intermediate_size)
        self.intermediate_query = MF2QFormerIntermediate(qformer_config)
        self.output_query = MF2QFormerResidual(qformer_config, qformer_config.intermediate_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        query_length: int = 0,
        attention_mask: torch.Tensor | None = None,
        vision_key_value: KeyValue | None = None,
        prefix: KeyValue | None = None,
        past_key_values: Cache | None = None,
        drop_text: bool = False,
    ) -> tuple[torch.Tensor, KeyValue]:
        """One block of Eq. 1 (queries) and Eq. 2 (text).

        Eq. 1 applies self-attention to the vision tokens; as in BLIP-2 it is the queries that self-attend.

        Args:
            hidden_states: `(rows, query_length + T, D)`.
            attention_mask: As the attention implementation wants it.
            vision_key_value: `(rows · regions, H, N, D / H)` each; the queries of a row are split evenly over its
                regions, each part attending to its own.
            prefix: Keys and values of an earlier pass, seen before this pass's own.
            past_key_values: A cache that grows by this pass's own.
            drop_text: Return the query part only (the last layer, where nothing reads the text).
        Returns:
            The new states, and this pass's own self-attention keys and values.
        """
        own = self.attention.attention.project_key_value(hidden_states)
        key_value = own
        if past_key_values is not None:
            key_value = past_key_values.update(*own, self.layer_idx)
        elif prefix is not None:
            key_value = tuple(torch.cat(pair, dim=2) for pair in zip(prefix, own, strict=True))
        if drop_text:
            hidden_states = hidden_states[:, :query_length]
        attended = self.attention(hidden_states, key_value, attention_mask)
        parts = []
        if query_length:
            parts.append(self._query_block(attended[:, :query_length], vision_key_value))
        if attended.shape[1] > query_length:
            text = attended[:, query_length:]
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), own

    def _query_block(self, queries: torch.Tensor, vision_key_value: KeyValue | None) -> torch.Tensor:
        if self.has_cross_attention:
            if vision_key_value is None:
                raise ValueError("Queries were given without vision tokens to attend to.")
            rows = queries.shape[0]
            regions = vision_key_value[0].shape[0] // rows
            folded = queries.reshape(rows * regions, -1, queries.shape[-1])
            queries = self.crossattention(folded, vision_key_value).reshape(queries.shape)
        return self.output_query(self.intermediate_query(queries), queries)


class MF2QFormerEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig):
        super().__init__()
        self.layer = nn.ModuleList(
            MF2QFormerLayer(config, qformer_config, index) for index in range(qformer_config.num_hidden_layers)
        )


@dataclass
class QFormerStates:
    """What a pass leaves: the last states, each layer's own keys and values, and (on request) every layer's states."""

    last: torch.Tensor
    key_values: list[KeyValue]
    all: tuple[torch.Tensor, ...] | None = None


class MF2QFormer(nn.Module):
    """The Q-Former (BLIP-2, section 3.1); the parameters are named as in transformers' `Blip2QFormerModel`.

    It differs in what it can be handed: keys and values of the image projected once for all passes, and the query
    pass's keys and values for the text that is generated after it.
    """

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig):
        super().__init__()
        self.config = config
        self.layernorm = nn.LayerNorm(qformer_config.hidden_size, eps=qformer_config.layer_norm_eps)
        self.dropout = nn.Dropout(qformer_config.hidden_dropout_prob)
        self.encoder = MF2QFormerEncoder(config, qformer_config)

    def project_vision(self, vision_states: torch.Tensor) -> list[KeyValue | None]:
        """(rows, N, W) -> keys and values for each layer's cross-attention; None for the layers without one."""
        return [
            layer.crossattention.attention.project_key_value(vision_states) if layer.has_cross_attention else None
            for layer in self.encoder.layer
        ]

    def forward(
        self,
        embeds: torch.Tensor,
        query_length: int = 0,
        attention_mask: torch.Tensor | None = None,
        vision_key_values: list[KeyValue | None] | None = None,
        prefix: list[KeyValue] | None = None,
        past_key_values: Cache | None = None,
        drop_text: bool = False,
        output_hidden_states: bool = False,
    ) -> QFormerStates:
        """Run all blocks; arguments as in [`MF2QFormerLayer`], one entry a layer.

        Args:
            embeds: `(rows, query_length + T, D)`, before the embedding LayerNorm.
            attention_mask: `(rows, tokens)` padding mask, or a mask that is already prepared (4-D).
        """
        hidden_states = self.dropout(self.layernorm(embeds))
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        key_values, all_states = [], [hidden_states]
        last = len(self.encoder.layer) - 1
        for index, layer in enumerate(self.encoder.layer):
            drop = drop_text and index == last and _is_sliceable(attention_mask)
            hidden_states, key_value = layer(
                hidden_states,
                query_length,
                attention_mask[:, :, :query_length] if drop and attention_mask is not None else attention_mask,
                vision_key_values[index] if vision_key_values is not None else None,
                prefix[index] if prefix is not None else None,
                past_key_values=past_key_values,
                drop_text=drop,
            )
            key_values.append(key_value)
            all_states.append(hidden_states)
        return QFormerStates(hidden_states, key_values, tuple(all_states) if output_hidden_states else None)


def _is_sliceable(attention_mask) -> bool:
    """Whether a mask is absent or a plain (rows, 1, queries, keys) tensor, so that query rows can be cut from it."""
    return attention_mask is None or (isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4)


def _select(key_values: list[KeyValue | None], rows: torch.Tensor) -> list[KeyValue | None]:
    """The given rows of every layer's keys and values."""
    return [kv if kv is None else (kv[0][rows], kv[1][rows]) for kv in key_values]


# ------------------------------------------------------------------------------------------------------------ branch
class MF2TextEmbeddings(nn.Module):
    """Word plus position embeddings."""

    def __init__(self, config: MF2QFormerConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: torch.Tensor, first_position: int = 0) -> torch.Tensor:
        """(rows, T) -> (rows, T, D)."""
        length, limit = first_position + input_ids.shape[1], self.position_embeddings.num_embeddings
        if length > limit:
            raise ValueError(f"A text of {length} tokens was given; the branch has {limit} positions. Truncate it.")
        positions = torch.arange(first_position, length, device=input_ids.device)
        return self.word_embeddings(input_ids) + self.position_embeddings(positions)


class MF2LMHead(nn.Module):
    """BERT's prediction head; its matrix is the word embedding."""

    def __init__(self, config: MF2QFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: torch.Tensor, word_embeddings: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, vocabulary) logits."""
        return F.linear(self.LayerNorm(self.activation(self.dense(states))), word_embeddings, self.bias)


@dataclass
class VisualItems:
    """The visual side of an alignment: I images × G groups, each item with its own queries.

    Args:
        states: `(I, G, Q, D)` last query states.
        query_embeds: `(G, Q, D)` the queries that made them.
        key_values: A layer's own keys and values, `(I · G, H, Q, D / H)`: what ITG's text sees.
        vision_key_values: A layer's projected image, `(I · G, regions, H, N, D / H)`.
        vision_states: `(I, G, regions, N, W)` the image before projection.
    """

    states: torch.Tensor
    query_embeds: torch.Tensor
    key_values: list[KeyValue]
    vision_key_values: list[KeyValue | None]
    vision_states: torch.Tensor


@dataclass
class TextItems:
    """The text side: `input_ids` and `attention_mask` `(I, G, T)`, `caption_ids` and `valid` `(I, G)`.

    Equal caption ids are the same text. An item without text (its mask is empty) is not valid.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    caption_ids: torch.Tensor
    valid: torch.Tensor

    @classmethod
    def from_batch(
        cls, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, caption_ids: torch.Tensor | None, pad_id: int
    ) -> "TextItems":
        """From ids of shape (I, G, T); without a mask, padding is masked, without caption ids, rows are compared."""
        if attention_mask is None:
            attention_mask = (input_ids != pad_id).long()
        input_ids = _pad_to_common_length(input_ids, pad_id)
        attention_mask = _pad_to_common_length(attention_mask, 0)
        if caption_ids is None:
            rows = _gather(input_ids)
            caption_ids = torch.unique(rows.flatten(0, 1), dim=0, return_inverse=True)[1].view(rows.shape[:2])
            caption_ids = _local_rows(caption_ids, input_ids.shape[0])
        return cls(input_ids, attention_mask, caption_ids, attention_mask.any(-1))

    def __getitem__(self, groups: torch.Tensor) -> "TextItems":
        return TextItems(
            *(x[:, groups] for x in (self.input_ids, self.attention_mask, self.caption_ids, self.valid))
        )


class MF2Branch(nn.Module):
    """A Q-Former with its queries, text side and heads: Emo-VL over the face, or AU-VL over the AU regions.

    Both are this one class. The local branch adds an embedding per AU to its shared queries: AUs such as 12 and 15 read
    the same region and are told apart by it.
    """

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig, num_aus: int = 0):
        super().__init__()
        width = qformer_config.hidden_size
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, qformer_config.num_query_tokens, width))
        if num_aus:
            self.au_embeddings = nn.Embedding(num_aus, width)
        self.vision_layernorm = nn.LayerNorm(qformer_config.encoder_hidden_size, eps=1e-5)
        self.embeddings = MF2TextEmbeddings(qformer_config)
        self.qformer = MF2QFormer(config, qformer_config)
        self.vision_projection = nn.Linear(width, config.projection_dim)
        self.text_projection = nn.Linear(width, config.projection_dim)
        self.itm_head = nn.Linear(width, 2)
        self.lm_head = MF2LMHead(qformer_config)
        self.temperature = nn.Parameter(torch.tensor(config.itc_temperature))

    # ------------------------------------------------------------------------------------------------- encoders
    def query_embeds(self) -> torch.Tensor:
        """(G, Q, D): the queries, with each AU's embedding in the local branch (G = A), as they are in the global."""
        if hasattr(self, "au_embeddings"):
            return self.query_tokens + self.au_embeddings.weight[:, None]
        return self.query_tokens

    def encode_image(
        self, vision_states: torch.Tensor, output_hidden_states: bool = False
    ) -> tuple[QFormerStates, list[KeyValue | None]]:
        """The query-only pass, Eq. 1.

        Args:
            vision_states: `(B, N, W)` tokens of the face, or `(B, A, R, W)` tokens of its regions.
        Returns:
            States over B (or B · A) rows, and the projected image, to be used again by ITM.
        """
        vision_key_values = self.qformer.project_vision(self.vision_layernorm(vision_states.flatten(0, -3)))
        queries = self.query_embeds().expand(vision_states.shape[0], -1, -1, -1).flatten(0, 1)
        states = self.qformer(
            queries,
            query_length=queries.shape[1],
            vision_key_values=vision_key_values,
            output_hidden_states=output_hidden_states,
        )
        return states, vision_key_values

    def encode_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, output_hidden_states: bool = False
    ) -> QFormerStates:
        """The text-only pass, Eq. 2: `(rows, T)` ids -> states."""
        return self.qformer(
            self.embeddings(input_ids), attention_mask=attention_mask, output_hidden_states=output_hidden_states
        )

    def embed_image(self, query_states: torch.Tensor) -> torch.Tensor:
        """(…, Q, D) query states -> (…, Q, P) on the unit sphere."""
        return F.normalize(self.vision_projection(query_states), dim=-1)

    def embed_text(self, text_states: torch.Tensor) -> torch.Tensor:
        """(…, T, D) text states -> (…, P) on the unit sphere, from position 0."""
        return F.normalize(self.text_projection(text_states[..., 0, :]), dim=-1)

    def decode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        prefix: list[KeyValue],
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """Text states under a causal mask that lets every token see all queries: `(rows, T)` -> `(rows, T, D)`.

        The queries never see the text, so their keys and values are those of the query-only pass; nothing of theirs is
        computed again. Text positions start at 0.

        Args:
            attention_mask: `(rows, past text + T)`; None where nothing is padded.
            prefix: The queries' keys and values, a layer.
            past_key_values: A cache; an empty one takes the prefix first.
        """
        num_queries = prefix[0][0].shape[2]
        seen = DynamicCache() if past_key_values is None else past_key_values
        if seen.get_seq_length() == 0:
            # Without a cache to keep, one layer is enough to tell the mask how many keys come before the text.
            for index, key_value in enumerate(prefix if past_key_values is not None else prefix[:1]):
                seen.update(*key_value, index)
        num_past = seen.get_seq_length() - num_queries
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape[0], num_past + input_ids.shape[1])
        embeds = self.embeddings(input_ids, first_position=num_past)
        visible = F.pad(attention_mask, (num_queries, 0), value=1)
        mask = create_causal_mask(self.config, embeds, visible, seen, allow_is_causal_skip=False)
        return self.qformer(embeds, attention_mask=mask, prefix=prefix, past_key_values=past_key_values).last

    def match(
        self,
        query_embeds: torch.Tensor,
        vision_key_values: list[KeyValue | None],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        """ITM logits `(rows, 2)`: queries and text see each other, the head reads every query, logits are averaged.

        Args:
            query_embeds: `(rows, Q, D)`.
            vision_key_values: `(rows · regions, H, N, D / H)` a layer.
        """
        embeds = torch.cat([query_embeds, self.embeddings(input_ids)], dim=1)
        num_queries = query_embeds.shape[1]
        states = self.qformer(
            embeds,
            query_length=num_queries,
            attention_mask=F.pad(attention_mask, (num_queries, 0), value=1),
            vision_key_values=vision_key_values,
            drop_text=True,
        ).last
        return self.itm_head(states[:, :num_queries]).mean(1)

    # ---------------------------------------------------------------------------------------------------- losses
    def alignment_losses(self, images: VisualItems, texts: TextItems) -> dict[str, torch.Tensor]:
        """ITC, ITM and ITG (Eq. 3-5) over items; a weight of 0 skips one.

        Captions that are equal are positives of each other in ITC and never each other's negatives in ITM; BLIP-2 has
        only the diagonal, which template-like captions and frames of one video would make wrong.
        """
        losses = {}
        if self.config.itc_weight or self.config.itm_weight:
            image_to_text, text_to_image, positives, candidates = self._compare(images, texts)
            if self.config.itc_weight:
                losses["itc"] = self._contrastive_loss(image_to_text, text_to_image, positives, candidates, texts.valid)
            if self.config.itm_weight:
                losses["itm"] = self._matching_loss(
                    images, texts, image_to_text, text_to_image, candidates & ~positives
                )
        if self.config.itg_weight:
            losses["itg"] = self._generation_loss(images, texts)
        return losses

    def _compare(self, images: VisualItems, texts: TextItems) -> tuple[torch.Tensor, ...]:
        """Similarities over the temperature, which pairs say the same, and which are comparable: each (G, I, M)."""
        image_embeds = self.embed_image(images.states)
        text_embeds = self._embed_unique_texts(texts)
        temperature = self.temperature.clamp(0.001, 0.5)  # ALBEF's bounds
        image_to_text = image_text_similarity(image_embeds, _gather(text_embeds)) / temperature
        text_to_image = image_text_similarity(_gather(image_embeds), text_embeds).transpose(1, 2) / temperature
        all_captions, all_valid = _gather(texts.caption_ids), _gather(texts.valid)
        candidates = texts.valid.T[:, :, None] & all_valid.T[:, None]
        positives = (texts.caption_ids.T[:, :, None] == all_captions.T[:, None]) & candidates
        return image_to_text, text_to_image, positives, candidates

    def _embed_unique_texts(self, texts: TextItems) -> torch.Tensor:
        """(I, G, P), computing each distinct caption once; zeros where an item has no text."""
        rows = texts.valid.flatten().nonzero().squeeze(1)
        captions = texts.caption_ids.flatten()[rows]
        _, inverse = torch.unique(captions, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1 if len(rows) else 0,), len(rows), device=rows.device)
        first = first.scatter_reduce(0, inverse, torch.arange(len(rows), device=rows.device), "amin")
        chosen = rows[first]
        embeds = texts.input_ids.new_zeros(
            (*texts.valid.shape, self.config.projection_dim), dtype=self.text_projection.weight.dtype
        ).flatten(0, 1)
        if len(rows):
            states = self.encode_text(texts.input_ids.flatten(0, 1)[chosen], texts.attention_mask.flatten(0, 1)[chosen])
            unique = self.embed_text(states.last)
            embeds = embeds.to(unique.dtype).index_copy(0, rows, unique[inverse])
        return embeds.view(*texts.valid.shape, -1)

    def _contrastive_loss(
        self,
        image_to_text: torch.Tensor,
        text_to_image: torch.Tensor,
        positives: torch.Tensor,
        candidates: torch.Tensor,
        valid: torch.Tensor,
    ) -> torch.Tensor:
        """Eq. 3, both directions; rows without text do not count."""
        rows = valid.T  # (G, I)
        smoothing = self.config.label_smoothing
        both = contrastive_loss(image_to_text[rows], positives[rows], candidates[rows], smoothing)
        both = both + contrastive_loss(text_to_image[rows], positives[rows], candidates[rows], smoothing)
        return _mean_over_batch(both.sum() / 2, rows.sum())

    def _matching_loss(
        self,
        images: VisualItems,
        texts: TextItems,
        image_to_text: torch.Tensor,
        text_to_image: torch.Tensor,
        allowed: torch.Tensor,
    ) -> torch.Tensor:
        """Eq. 4 over three pairs an item: its own, a hard negative image, a hard negative text.

        Negatives are drawn for the rows of all processes from shared random numbers, so that the draw does not depend
        on how the batch is split. Items whose every comparable text is the same as their own have no negative and are
        left out.
        """
        num_images, num_groups = texts.valid.shape
        num_rows = num_images * _world_size()
        uniform = _shared_uniform(2, num_rows, num_groups, device=allowed.device)
        uniform = _local_rows(uniform.transpose(0, 1), num_images).permute(1, 2, 0)  # (2, G, I)
        negative_text, found = sample_hard_negatives(image_to_text, allowed, uniform[0])
        negative_image, _ = sample_hard_negatives(text_to_image, allowed, uniform[1])
        image_idx, group_idx = found.T.nonzero(as_tuple=True)
        count = torch.tensor(3 * len(image_idx), device=allowed.device)
        if not len(image_idx):
            return _mean_over_batch(self.itm_head(images.states[:0].flatten(0, 2)).sum(), count)
        items = image_idx * num_groups + group_idx
        text_of, image_of = (x[group_idx, image_idx] for x in (negative_text, negative_image))
        ids, masks = texts.input_ids[image_idx, group_idx], texts.attention_mask[image_idx, group_idx]
        negative_ids = _gather(texts.input_ids)[text_of, group_idx]
        negative_masks = _gather(texts.attention_mask)[text_of, group_idx]
        logits = self.match(
            images.query_embeds[group_idx].repeat(3, 1, 1),
            self._vision_of_three(images, items, image_of, group_idx),
            torch.cat([ids, ids, negative_ids]),
            torch.cat([masks, masks, negative_masks]),
        )
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        labels[: len(items)] = 1
        return _mean_over_batch(F.cross_entropy(logits.float(), labels, reduction="sum"), count)

    def _vision_of_three(
        self, images: VisualItems, items: torch.Tensor, negative_image: torch.Tensor, group_idx: torch.Tensor
    ) -> list[KeyValue | None]:
        """Projected images for [own; negative; own]. One process has them all; from another's only states arrive."""
        if _world_size() == 1:
            num_groups = images.vision_states.shape[1]
            rows = torch.cat([items, negative_image * num_groups + group_idx, items])
            return [
                kv if kv is None else tuple(x[rows].flatten(0, 1) for x in kv) for kv in images.vision_key_values
            ]
        states = _gather(images.vision_states)[negative_image, group_idx].flatten(0, 1)
        negatives = self.qformer.project_vision(self.vision_layernorm(states))
        joined: list[KeyValue | None] = []
        for own, negative in zip(images.vision_key_values, negatives, strict=True):
            if own is None:
                joined.append(None)
                continue
            pairs = ((x[items].flatten(0, 1), y) for x, y in zip(own, negative, strict=True))
            joined.append(tuple(torch.cat([x, y, x]) for x, y in pairs))
        return joined

    def _generation_loss(self, images: VisualItems, texts: TextItems) -> torch.Tensor:
        """Eq. 5, which is written as masked prediction, as the left-to-right generation that the task is."""
        rows = texts.valid.flatten().nonzero().squeeze(1)
        ids = texts.input_ids.flatten(0, 1)[rows]
        mask = texts.attention_mask.flatten(0, 1)[rows]
        inputs = ids[:, :-1].clone()
        inputs[:, 0] = self.config.bos_token_id
        wanted = mask[:, 1:].bool()
        if not len(rows):
            return _mean_over_batch(self.lm_head(images.states[:0, 0, 0], self.embeddings.word_embeddings.weight).sum(), wanted.sum())
        states = self.decode(inputs, mask[:, :-1], prefix=_select(images.key_values, rows))
        logits = self.lm_head(states[wanted], self.embeddings.word_embeddings.weight)
        total = F.cross_entropy(
            logits.float(), ids[:, 1:][wanted], label_smoothing=self.config.label_smoothing, reduction="sum"
        )
        return _mean_over_batch(total, wanted.sum())


# ------------------------------------------------------------------------------------------------------------- tower
def build_vision_tower(config: MF2Config) -> PreTrainedModel:
    """The tower of `config.vision_config`, without parts that nothing reads (poolers)."""
    is_eva = config.vision_config.model_type == "blip_2_vision_model"  # AutoModel does not list it
    model_class = Blip2VisionModel if is_eva else AutoModel._model_mapping[type(config.vision_config)]
    accepted = inspect.signature(model_class.__init__).parameters
    kwargs = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    tower = model_class._from_config(config.vision_config, **kwargs)
    if is_eva:
        # It is BLIP-2's `ln_vision`, which belongs to the Q-Former: each branch trains its own copy of it.
        tower.post_layernorm = nn.Identity()
    return tower


def tokens_to_map(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, prefix + h · w, W) tokens of an image of that size in pixels -> (B, W, h, w).

    Prefix tokens (class, registers) are what is over after the largest grid of the image's aspect ratio.
    """
    count = tokens.shape[1]
    rows = int((count * height / width) ** 0.5)
    while rows and rows * round(rows * width / height) > count:
        rows -= 1
    cols = round(rows * width / height)
    if not rows or count - rows * cols > 16:
        raise ValueError(
            f"{count} vision tokens of a {height}×{width} image form no grid; use a square image or another tower."
        )
    return tokens[:, count - rows * cols :].transpose(1, 2).unflatten(2, (rows, cols))


@dataclass
class VisionFeatures:
    """`tokens` (B, N, W) of the whole face, and `maps`, (B, W_l, h_l, w_l) for each of `local_feature_levels`."""

    tokens: torch.Tensor
    maps: list[torch.Tensor]


@dataclass
class BranchView:
    """A branch's query-only pass over a batch: states `(B, Q, D)` or `(B, A, Q, D)`, and what the losses use again."""

    states: torch.Tensor
    vision_states: torch.Tensor
    qformer: QFormerStates
    vision_key_values: list[KeyValue | None]


# ------------------------------------------------------------------------------------------------------------- model
class MF2PreTrainedModel(PreTrainedModel):
    config_class = MF2Config
    base_model_prefix = "mf2"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["MF2QFormerLayer"]

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

    def __init__(self, config: MF2Config):
        super().__init__(config)
        self.vision_model = build_vision_tower(config)
        level_widths = self._complete_widths(config)
        if config.use_emo_vl:
            self.emo = MF2Branch(config, config.emo_config)
        if config.use_au_vl:
            self.au = MF2Branch(config, config.au_config, num_aus=len(config.au_ids))
            width = config.au_config.encoder_hidden_size
            if level_widths != [width]:
                self.level_projections = nn.ModuleList(
                    nn.Sequential(nn.LayerNorm(level_width), nn.Linear(level_width, width))
                    for level_width in level_widths
                )
        branches = [c for c, on in ((config.emo_config, config.use_emo_vl), (config.au_config, config.use_au_vl)) if on]
        head_width = sum(branch.hidden_size for branch in branches)
        if config.emotions:
            self.emotion_head = nn.Linear(head_width, len(config.emotions))
        if config.au_ids:
            # Row a of the matrix reads the feature of AU a only.
            self.au_head = nn.Linear(head_width, len(config.au_ids))
        self.post_init()
        if config.freeze_vision:
            self.vision_model.requires_grad_(False)

    def _complete_widths(self, config: MF2Config) -> list[int]:
        """Widths of the feature levels; the tower is asked, on the meta device, where the configuration is silent."""
        width = config.vision_width
        if width is None or list(config.local_feature_levels) != [-1]:
            size = getattr(config.vision_config, "image_size", None) or 224
            size = (size, size) if isinstance(size, int) else tuple(size)
            with torch.device("meta"), torch.no_grad():
                probe = build_vision_tower(config)
                features = self._read_tower(probe, torch.empty(1, 3, *size, device="meta"))
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
        """What the outputs mean: AUs with their thresholds, and emotions."""
        return self.config.label_space

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
        return next(iter(self.branches.values())).embeddings.word_embeddings

    def train(self, mode: bool = True):
        """As usual, except that a frozen tower stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()
        return self

    # --------------------------------------------------------------------------------------------------- seeing
    def _read_tower(self, tower: PreTrainedModel, pixel_values: torch.Tensor) -> VisionFeatures:
        levels = list(self.config.local_feature_levels)
        outputs = tower(pixel_values, output_hidden_states=levels != [-1], return_dict=True)
        if hasattr(outputs, "feature_maps"):  # a backbone
            last, hidden = outputs.feature_maps[-1], outputs.feature_maps
        else:
            last, hidden = outputs.last_hidden_state, outputs.hidden_states
        size = pixel_values.shape[-2:]
        maps = [last if level == -1 else hidden[level] for level in levels]
        return VisionFeatures(
            tokens=last.flatten(2).transpose(1, 2) if last.ndim == 4 else last,
            maps=[level if level.ndim == 4 else tokens_to_map(level, *size) for level in maps],
        )

    def encode_vision(self, pixel_values: torch.Tensor) -> VisionFeatures:
        """Run the tower once; without autograd when it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision):
            return self._read_tower(self.vision_model, pixel_values.to(self.vision_model.dtype))

    def encode_regions(self, vision: VisionFeatures, au_boxes: torch.Tensor) -> torch.Tensor:
        """Tokens of the AU regions: `(B, A, 2, 4)` boxes -> `(B, A, R, W)`, both centres and all levels side by side.

        The local features V^AU of section III-A: read from the face's feature map, not from further tower passes.
        """
        levels = []
        for index, feature_map in enumerate(vision.maps):
            tokens = sample_regions(feature_map, au_boxes.flatten(1, 2), self.config.au_region_grid)
            tokens = tokens.unflatten(1, au_boxes.shape[1:3]).flatten(2, 3)
            if hasattr(self, "level_projections"):
                tokens = self.level_projections[index](tokens)
            levels.append(tokens)
        return torch.cat(levels, dim=2)

    def _check_boxes(self, pixel_values: torch.Tensor, au_boxes: torch.Tensor | None) -> None:
        wanted = (pixel_values.shape[0], len(self.config.au_ids), 2, 4)
        if au_boxes is None or tuple(au_boxes.shape) != wanted:
            shape = None if au_boxes is None else tuple(au_boxes.shape)
            raise ValueError(
                f"au_boxes has shape {shape}; the local branch needs {wanted}. The processor makes them: "
                f"processor(images=…, landmarks=…)."
            )

    def encode_branches(
        self, pixel_values: torch.Tensor, au_boxes: torch.Tensor | None, output_hidden_states: bool = False
    ) -> dict[str, BranchView]:
        """The query-only pass of every branch, by name."""
        vision = self.encode_vision(pixel_values)
        views = {}
        for name, branch in self.branches.items():
            if name == "au":
                self._check_boxes(pixel_values, au_boxes)
                vision_states = self.encode_regions(vision, au_boxes)  # (B, A, R, W)
            else:
                vision_states = vision.tokens  # (B, N, W)
            states, key_values = branch.encode_image(vision_states, output_hidden_states)
            last = states.last.unflatten(0, vision_states.shape[:-2])
            views[name] = BranchView(last, vision_states, states, key_values)
        return views

    def recognize(self, views: dict[str, BranchView]) -> MF2Output:
        """The two recognisers: emotion from [global ; mean of local], AU i from [local i ; global]."""
        pooled = {name: view.states.mean(-2) for name, view in views.items()}  # (B, D), (B, A, D)
        emotion_features = [x.mean(1) if name == "au" else x for name, x in pooled.items()]
        au_features = [x if name == "au" else x[:, None] for name, x in reversed(pooled.items())]
        num_rows = max(x.shape[1] for x in au_features)
        au_features = torch.cat([x.expand(-1, num_rows, -1) for x in au_features], dim=-1)
        output = MF2Output()
        if self.config.emotions:
            output.emotion_logits = self.emotion_head(torch.cat(emotion_features, dim=-1))
        if self.config.au_ids:
            output.au_logits = (au_features * self.au_head.weight).sum(-1) + self.au_head.bias
        if "emo" in views:
            output.emotion_states = views["emo"].states
            output.emotion_embeds = self.emo.embed_image(output.emotion_states)
        if "au" in views:
            output.au_states = views["au"].states
            output.au_embeds = self.au.embed_image(output.au_states)
        return output

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, au_boxes: torch.Tensor | None = None, **kwargs
    ) -> tuple | MF2Output:
        """See faces.

        Args:
            pixel_values: `(B, 3, H, W)`, aligned and normalised by the processor.
            au_boxes: `(B, A, 2, 4)` x1 y1 x2 y2 of each AU's two regions, normalised to [0, 1].
            kwargs: What else a processor returns (`landmarks_px`, `align_matrix`, …) is not needed.
        """
        return self.recognize(self.encode_branches(pixel_values, au_boxes))

    # ------------------------------------------------------------------------------------------------ retrieval
    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, au_boxes: torch.Tensor | None = None, branch: str = "emo", **kwargs
    ) -> tuple | BaseModelOutputWithPooling:
        """Embeddings of faces in a branch's space: `pooler_output` is `(B, Q, P)`, for `au` `(B, A · Q, P)`."""
        self.get_branch(branch)
        states = self.encode_branches(pixel_values, au_boxes)[branch].states
        embeds = self.get_branch(branch).embed_image(states)
        return BaseModelOutputWithPooling(
            last_hidden_state=states.flatten(1, -2), pooler_output=embeds.flatten(1, -2)
        )

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        branch: str = "emo",
        **kwargs,
    ) -> tuple | BaseModelOutputWithPooling:
        """Embeddings of texts in a branch's space: `(B, T)` ids -> `pooler_output` `(B, P)`."""
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        states = self.get_branch(branch).encode_text(input_ids, attention_mask).last
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.get_branch(branch).embed_text(states)
        )

    @staticmethod
    def get_retrieval_scores(image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Cosine similarities: `(I, Q, P)` image and `(M, P)` text features -> `(I, M)`, the best over the queries."""
        return image_text_similarity(image_features[:, None], text_features[:, None])[0]


class MF2ForPreTraining(MF2Model):
    """MF² with its training losses: ITC + ITM + ITG in each branch, and the two recognisers."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        emotion_labels: torch.Tensor | None = None,
        au_labels: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        au_input_ids: torch.Tensor | None = None,
        au_attention_mask: torch.Tensor | None = None,
        caption_ids: torch.Tensor | None = None,
        au_caption_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | MF2PreTrainingOutput:
        """The losses of whatever was given; images alone give the logits.

        Args:
            pixel_values, au_boxes: As in [`MF2Model`].
            emotion_labels: `(B,)`, -100 unlabelled.
            au_labels: `(B, A)`, -1 unlabelled.
            input_ids, attention_mask: `(B, T)` text of the global branch, `[CLS] … [SEP]`; an empty mask is no text.
            au_input_ids, au_attention_mask: `(B, T)`, or `(B, A, T)` with `au_text_mode="per_au"`.
            caption_ids, au_caption_ids: `(B,)` and `(B,)` or `(B, A)`: equal where the text is the same.
        """
        views = self.encode_branches(pixel_values, au_boxes)
        seen = self.recognize(views)
        losses: dict[str, torch.Tensor] = {}
        if "emo" in views and input_ids is not None:
            texts = self._text_items(input_ids, attention_mask, caption_ids)
            images = self._face_items(self.emo, views["emo"])
            losses |= {f"emo_{k}": v for k, v in self.emo.alignment_losses(images, texts).items()}
        if "au" in views and au_input_ids is not None:
            texts = self._text_items(au_input_ids, au_attention_mask, au_caption_ids)
            if self.config.au_text_mode == "caption":
                images = self._face_items(self.au, views["au"])
            else:
                aus = self._draw_aus(texts.valid)
                images, texts = self._region_items(self.au, views["au"], aus), texts[aus]
            losses |= {f"au_{k}": v for k, v in self.au.alignment_losses(images, texts).items()}
        losses |= recognition_losses(
            seen.au_logits, au_labels, seen.emotion_logits, emotion_labels, self.config.au_pos_weight
        )
        weighted = [getattr(self.config, f"{name.split('_')[-1]}_weight") * loss for name, loss in losses.items()]
        return MF2PreTrainingOutput(
            loss=sum(weighted) if weighted else None,
            losses=losses,
            au_logits=seen.au_logits,
            emotion_logits=seen.emotion_logits,
        )

    def _text_items(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, caption_ids: torch.Tensor | None
    ) -> TextItems:
        """One text an image gets a group dimension of 1."""
        if input_ids.ndim == 2:
            attention_mask = attention_mask if attention_mask is None else attention_mask[:, None]
            caption_ids = caption_ids if caption_ids is None else caption_ids[:, None]
            input_ids = input_ids[:, None]
        return TextItems.from_batch(input_ids, attention_mask, caption_ids, self.config.pad_token_id)

    @staticmethod
    def _face_items(branch: MF2Branch, view: BranchView) -> VisualItems:
        """One item an image: the face's queries, or (`au_text_mode="caption"`) those of all regions side by side."""
        batch_size = view.states.shape[0]

        def side_by_side(x: torch.Tensor) -> torch.Tensor:  # (B · regions, H, Q, d) -> (B, H, regions · Q, d)
            return x.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(2, 3)

        return VisualItems(
            states=view.states.flatten(1, -2)[:, None],
            query_embeds=branch.query_embeds().flatten(0, 1)[None],
            key_values=[tuple(map(side_by_side, kv)) for kv in view.qformer.key_values],
            vision_key_values=[
                kv if kv is None else tuple(x.unflatten(0, (batch_size, -1)) for x in kv)
                for kv in view.vision_key_values
            ],
            vision_states=view.vision_states.reshape(batch_size, 1, -1, *view.vision_states.shape[-2:]),
        )

    @staticmethod
    def _region_items(branch: MF2Branch, view: BranchView, aus: torch.Tensor) -> VisualItems:
        """One item per image and drawn AU (`au_text_mode="per_au"`)."""
        batch_size, num_aus = view.states.shape[:2]
        rows = (torch.arange(batch_size, device=aus.device)[:, None] * num_aus + aus).flatten()
        return VisualItems(
            states=view.states[:, aus],
            query_embeds=branch.query_embeds()[aus],
            key_values=_select(view.qformer.key_values, rows),
            vision_key_values=[
                kv if kv is None else tuple(x[rows][:, None] for x in kv) for kv in view.vision_key_values
            ],
            vision_states=view.vision_states[:, aus, None],
        )

    def _draw_aus(self, valid: torch.Tensor) -> torch.Tensor:
        """Indexes of the AUs that this step aligns: all, or `au_pairs_per_image` drawn from those with text."""
        num_aus, wanted = valid.shape[1], self.config.au_pairs_per_image
        if wanted is None or wanted >= num_aus:
            return torch.arange(num_aus, device=valid.device)
        has_text = _gather(valid).any(0)
        order = (_shared_uniform(num_aus, device=valid.device) - has_text.float()).argsort()
        return order[:wanted].sort().values


class MF2ForImageClassification(MF2Model):
    """The emotion of a face as `logits` with `id2label`: what the stock image-classification pipeline reads."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | ImageClassifierOutput:
        """`labels` `(B,)`: emotions, -100 unlabelled."""
        logits = self.recognize(self.encode_branches(pixel_values, au_boxes)).emotion_logits
        loss = None if labels is None else recognition_losses(None, None, logits, labels)["emotion"]
        return ImageClassifierOutput(loss=loss, logits=logits)


_NOT_GENERATION_INPUTS = (
    "align_matrix",
    "landmarks_px",
    "landmarks_found",
    "image_index",
    "au_crops",
    "input_ids",
    "attention_mask",
    "au_input_ids",
    "au_attention_mask",
    "emotion_labels",
    "au_labels",
    "caption_ids",
    "au_caption_ids",
)


class MF2ForConditionalGeneration(MF2Model, GenerationMixin):
    """MF² that writes: emotion and key-AU captions from the global branch, AU captions from the local one."""

    main_input_name = "input_ids"  # what the generation loop extends

    def _visual_prefix(self, views: dict[str, BranchView], branch: str, rows: torch.Tensor | None) -> torch.Tensor:
        """The queries' keys and values as one tensor `(rows, L, 2, H, Q, D / H)`, so that beams can repeat it."""
        view = views[branch]
        if rows is None:
            key_values = MF2ForPreTraining._face_items(self.get_branch(branch), view).key_values
        else:
            key_values = _select(view.qformer.key_values, rows)
        return torch.stack([torch.stack(kv, dim=1) for kv in key_values], dim=1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        au_boxes: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        visual_prefix: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        caption_kind: str = "emotion",
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple | CausalLMOutputWithPast:
        """Next-token logits `(B, T, vocabulary)` of captions under images.

        Args:
            input_ids, attention_mask: `(B, T)` text so far, beginning with `[DEC]`.
            visual_prefix: What the images left, `(B, L, 2, H, Q, D / H)`; made from `pixel_values` where absent.
            past_key_values: A cache; empty, it is filled with the prefix first.
            caption_kind: `"emotion"`, `"key_au"` or `"au"` (all regions side by side).
            labels: `(B, T)` ids to predict (shifted here), -100 ignored.
        """
        name = CAPTION_BRANCH[caption_kind]
        if visual_prefix is None:
            visual_prefix = self._visual_prefix(self.encode_branches(pixel_values, au_boxes), name, rows=None)
        prefix = [tuple(layer.unbind(1)) for layer in visual_prefix.unbind(1)]
        branch = self.get_branch(name)
        states = branch.decode(input_ids, attention_mask, prefix, past_key_values)
        logits = branch.lm_head(states, branch.embeddings.word_embeddings.weight)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        visual_prefix: torch.Tensor | None = None,
        caption_kind: str = "emotion",
        **kwargs,
    ) -> dict:
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "visual_prefix": visual_prefix,
            "caption_kind": caption_kind,
        }

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor,
        au_boxes: torch.Tensor | None = None,
        caption_kind: str = "emotion",
        **kwargs,
    ) -> torch.Tensor:
        """Write a caption for each image.

        Args:
            pixel_values, au_boxes: As in [`MF2Model`].
            caption_kind: `"emotion"`, `"key_au"` or `"au"`.
            kwargs: Generation settings (`num_beams`, `do_sample`, `max_new_tokens`, …); what else the processor
                returns is ignored.
        Returns:
            `(B, T)` ids. With `au_text_mode="per_au"` AU captions are `(B, A, T)`: a sentence for each AU whose
            probability reaches its threshold, padding for the others. `processor.batch_decode` takes both.
        """
        if caption_kind not in CAPTION_BRANCH:
            raise ValueError(f"caption_kind is {caption_kind!r}; choose one of {', '.join(CAPTION_BRANCH)}.")
        kwargs = {name: value for name, value in kwargs.items() if name not in _NOT_GENERATION_INPUTS}
        branch = CAPTION_BRANCH[caption_kind]
        self.get_branch(branch)
        views = self.encode_branches(pixel_values, au_boxes)
        if caption_kind != "au" or self.config.au_text_mode == "caption":
            return self._write(self._visual_prefix(views, branch, rows=None), caption_kind, **kwargs)
        thresholds = pixel_values.new_tensor(self.label_space.thresholds, dtype=torch.float32)
        active = self.recognize(views).au_logits.float().sigmoid() >= thresholds  # (B, A)
        rows = active.flatten().nonzero().squeeze(1)
        if not len(rows):
            return torch.full((*active.shape, 1), self.config.pad_token_id, device=active.device)
        sentences = self._write(self._visual_prefix(views, branch, rows), caption_kind, **kwargs)
        ids = sentences.new_full((active.numel(), sentences.shape[1]), self.config.pad_token_id)
        ids[rows] = sentences
        return ids.unflatten(0, active.shape)

    def _write(self, visual_prefix: torch.Tensor, caption_kind: str, **kwargs) -> torch.Tensor:
        """Run the generation loop from `[DEC]` and the kind's prompt."""
        prompt = [self.config.bos_token_id, *(self.config.caption_prompt_ids or {}).get(caption_kind, [])]
        input_ids = torch.tensor([prompt], device=visual_prefix.device).expand(visual_prefix.shape[0], -1)
        if "max_new_tokens" not in kwargs and "max_length" not in kwargs:
            kwargs["max_new_tokens"] = self._text_length(caption_kind) - len(prompt)
        if kwargs.get("use_cache", True):
            kwargs["past_key_values"] = DynamicCache()
        return GenerationMixin.generate(
            self,
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            visual_prefix=visual_prefix,
            caption_kind=caption_kind,
            **kwargs,
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
    "MF2PreTrainingOutput",
]
