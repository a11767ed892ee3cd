"""The Q-Former of MF²'s branches: BLIP-2's querying transformer (Li et al., arXiv 2301.12597, section 3.1).

Its parameters are named as in transformers' `Blip2QFormerModel` and `BertModel`, so that published weights load. It
differs in what a pass can be handed instead of computing it again: the image projected to keys and values once for all
passes, and the query pass's keys and values for the text that is generated after it. Those are of the queries as they
enter a layer, which is BLIP-2's way, or with `text_reads_queries="leaving"` as they leave it: the text then reads all
of L cross-attentions, not L − 1. A pass keeps what is asked of it and no more.

Symbols in shapes: Q queries, T text tokens, N vision tokens, D width, H heads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mf2 import MF2Config, MF2QFormerConfig

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one attention, each (…, H, tokens, D / H)."""


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
        return states.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)

    def project_key_value(self, states: torch.Tensor) -> KeyValue:
        """(…, tokens, width) -> keys and values."""
        return self._heads(self.key(states)), self._heads(self.value(states))

    def forward(
        self, hidden_states: torch.Tensor, key_value: KeyValue, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(rows, T, D)` states attend to the keys and values -> `(rows, T, D)`."""
        if not hidden_states.shape[0]:  # `len` would fix the batch size of an export
            # Attention implementations cannot shape an empty batch; the sums keep every weight in the graph.
            return self.query(hidden_states) + key_value[0].sum() + key_value[1].sum()
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
        """`(rows, T, W)` of the block, and the `(rows, T, D)` that it is added to -> `(rows, T, D)`."""
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
        """`(rows, T, D)` -> `(rows, T, D)`."""
        return self.output(self.attention(hidden_states, key_value, attention_mask), hidden_states)


class MF2QFormerIntermediate(nn.Module):
    """The widening half of a feed-forward block."""

    def __init__(self, config: MF2QFormerConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(rows, T, D)` -> `(rows, T, W)`."""
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

    def project_key_value(self, hidden_states: torch.Tensor) -> KeyValue:
        """(rows, tokens, D) -> keys and values of this block's self-attention."""
        return self.attention.attention.project_key_value(hidden_states)

    def forward(
        self,
        hidden_states: torch.Tensor,
        query_length: int = 0,
        attention_mask: torch.Tensor | None = None,
        vision_key_value: KeyValue | None = None,
        prefix: KeyValue | None = None,
        kv_cache: Cache | None = None,
        drop_text: bool = False,
    ) -> tuple[torch.Tensor, KeyValue]:
        """One block of Eq. 1 (queries) and Eq. 2 (text).

        Eq. 1 applies self-attention to the vision tokens; as in BLIP-2 it is the queries that self-attend.

        Args:
            hidden_states: `(rows, query_length + T, D)`.
            attention_mask: As the attention implementation wants it.
            vision_key_value: `(rows, regions, H, N, D / H)` each; the queries of a row are split evenly over its
                regions, each part attending to its own.
            prefix: Keys and values of an earlier pass, seen before this pass's own.
            kv_cache: Grows by this pass's own.
            drop_text: Return the query part only (the last layer, where nothing reads the text).
        Returns:
            The new states, and this pass's own self-attention keys and values.
        """
        new_key_value = self.project_key_value(hidden_states)
        key_value = new_key_value
        if kv_cache is not None:
            key_value = kv_cache.update(*new_key_value, self.layer_idx)
        elif prefix is not None:
            key_value = tuple(torch.cat(pair, dim=2) for pair in zip(prefix, new_key_value, strict=True))
        if drop_text:
            hidden_states = hidden_states[:, :query_length]
        attended = self.attention(hidden_states, key_value, attention_mask)
        parts = []
        if query_length:
            parts.append(self._query_block(attended[:, :query_length], vision_key_value))
        if attended.shape[1] > query_length:
            text = attended[:, query_length:]
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), new_key_value

    def _query_block(self, queries: torch.Tensor, vision_key_value: KeyValue | None) -> torch.Tensor:
        if self.has_cross_attention:
            if vision_key_value is None:
                raise ValueError("Queries were given without vision tokens to attend to.")
            num_regions = vision_key_value[0].shape[1]
            per_region = queries.unflatten(1, (num_regions, -1)).flatten(0, 1)
            key_value = tuple(x.flatten(0, 1) for x in vision_key_value)
            queries = self.crossattention(per_region, key_value).unflatten(0, (-1, num_regions)).flatten(1, 2)
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
    """What a pass leaves.

    Args:
        last: `(rows, tokens, D)` after the last layer.
        pooled: `(rows, J, D)`, what was pooled of the embeddings and of the states after each layer; None if nothing.
        key_values: What later text reads of each layer: keys and values of the states that enter it, or that leave it
            with `text_reads_queries="leaving"`; empty unless they were kept.
    """

    last: torch.Tensor
    pooled: torch.Tensor | None
    key_values: list[KeyValue]


class MF2QFormer(nn.Module):
    """The Q-Former (BLIP-2, section 3.1); the parameters are named as in transformers' `Blip2QFormerModel`.

    It differs in what it can be handed: keys and values of the image projected once for all passes, and the query
    pass's keys and values for the text that is generated after it.
    """

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig):
        super().__init__()
        self.config = config
        self.text_reads_leaving = qformer_config.text_reads_queries == "leaving"
        self.layernorm = nn.LayerNorm(qformer_config.hidden_size, eps=qformer_config.layer_norm_eps)
        self.dropout = nn.Dropout(qformer_config.hidden_dropout_prob)
        self.encoder = MF2QFormerEncoder(config, qformer_config)

    def project_vision(self, vision_states: torch.Tensor) -> Iterator[KeyValue | None]:
        """(rows, regions, N, W) -> keys and values for each layer's cross-attention; None for layers without one.

        Each layer's are computed when they are asked for; a list of them serves several passes.
        """
        for layer in self.encoder.layer:
            has_one = layer.has_cross_attention
            yield layer.crossattention.attention.project_key_value(vision_states) if has_one else None

    def forward(
        self,
        embeds: torch.Tensor,
        query_length: int = 0,
        attention_mask: torch.Tensor | None = None,
        vision_key_values: Iterable[KeyValue | None] = (),
        prefix: Sequence[KeyValue | None] | None = None,
        kv_cache: Cache | None = None,
        drop_text: bool = False,
        pool: Callable[[torch.Tensor], torch.Tensor] | None = None,
        keep_key_values: bool = False,
    ) -> QFormerStates:
        """Run all blocks; arguments as in [`MF2QFormerLayer`], one entry a layer.

        Args:
            embeds: `(rows, query_length + T, D)`, before the embedding LayerNorm.
            attention_mask: `(rows, tokens)` padding mask, or a mask that is already prepared (4-D).
            pool: `(rows, tokens, D)` states of a layer -> `(rows, D)`.
            keep_key_values: Leave each layer's keys and values, for text that is written after this pass.
        """
        hidden_states = self.dropout(self.layernorm(embeds))
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            attention_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        vision_key_values = iter(vision_key_values)
        key_values, pooled = [], [pool(hidden_states)] if pool else []
        last = len(self.encoder.layer) - 1
        for index, layer in enumerate(self.encoder.layer):
            drop = drop_text and index == last and _is_sliceable(attention_mask)
            hidden_states, key_value = layer(
                hidden_states,
                query_length,
                attention_mask[:, :, :query_length] if drop and attention_mask is not None else attention_mask,
                next(vision_key_values, None),
                prefix[index] if prefix is not None else None,
                kv_cache=kv_cache,
                drop_text=drop,
            )
            if keep_key_values:
                leaving = self.text_reads_leaving
                key_values.append(layer.project_key_value(hidden_states) if leaving else key_value)
            if pool:
                pooled.append(pool(hidden_states))
        return QFormerStates(hidden_states, torch.stack(pooled, dim=1) if pool else None, key_values)


def _is_sliceable(attention_mask) -> bool:
    """Whether a mask is absent or a plain (rows, 1, queries, keys) tensor, so that query rows can be cut from it."""
    return attention_mask is None or (isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 4)


def map_key_values(function: Callable[..., torch.Tensor], *passes: Iterable[KeyValue | None]) -> list[KeyValue | None]:
    """Apply a function to the keys, and to the values, of each layer of one or more passes."""
    return [
        None if pairs[0] is None else tuple(function(*tensors) for tensors in zip(*pairs, strict=True))
        for pairs in zip(*passes, strict=True)
    ]


def select_rows(key_values: list[KeyValue | None], rows: torch.Tensor) -> list[KeyValue | None]:
    """The given rows of every layer's keys and values."""
    return map_key_values(lambda x: x[rows], key_values)


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
