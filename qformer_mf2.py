"""The Q-Former of MF²'s branches: BLIP-2's querying transformer (Li et al., arXiv 2301.12597, section 3.1).

Its parameters are named as in transformers' `Blip2QFormerModel` and `BertModel`, so that published weights load. It
differs in what a pass can be handed instead of computing it again: the image projected to keys and values once for all
passes, and the query pass's keys and values for the text that is generated after it. Those are of the queries as they
enter a layer, which is BLIP-2's way, or with `text_reads_queries="leaving"` as they leave it: the text then reads all
of L cross-attentions, not L − 1. A pass keeps what is asked of it and no more.

Symbols in shapes: Q queries, T text tokens, N vision tokens, D width, H heads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
Vision = KeyValue | torch.Tensor
"""What queries cross-attend to: keys and values, or states `(rows, regions, N, W)` that are not projected."""
WordEmbeddings = Callable[[torch.Tensor], torch.Tensor]
"""(…) token ids -> (…, D)."""


@dataclass
class PackedRows:
    """Rows of queries and text without the padding of the texts, which only attention needs.

    The states of a pass are `(n, D)`: the queries of all rows, then the words of all texts, row after row. Rows may
    share their words with others: then they are those of `sources`.

    Args:
        num_queries: Q, of each row.
        slots: `(n,)` where each state of these rows belongs in `(rows · (Q + T), D)`.
        pad_index: `(rows · (Q + T),)` the state for each place; any for padding, which is not attended to.
        first: `(rows · F,)` the states of the first F tokens of each row: its queries or, without any, its first word.
        visible: `(rows, Q + T)` bool, False for padding.
        sources: `(n,)` the state of the pass that each of these rows' is; None if it is at the same index.
        mask: The mask of self-attention as the attention implementation wants it.
    """

    num_queries: int
    slots: torch.Tensor
    pad_index: torch.Tensor
    first: torch.Tensor
    visible: torch.Tensor
    sources: torch.Tensor | None = None
    mask: Any = None

    @classmethod
    def of_texts(
        cls, text_mask: torch.Tensor, num_queries: int = 0, word_sources: torch.Tensor | None = None
    ) -> "PackedRows":
        """From the `(rows, T)` bool mask of texts, and `(words,)` the index of each word among those of the pass."""
        num_rows, length = text_mask.shape
        device, all_queries = text_mask.device, num_rows * num_queries
        places = torch.arange(num_rows * (num_queries + length), device=device).view(num_rows, num_queries + length)
        slots = torch.cat([places[:, :num_queries].flatten(), places[:, num_queries:][text_mask]])
        indexes, sources = torch.arange(len(slots), device=device), None
        if word_sources is not None:
            indexes = sources = torch.cat([indexes[:all_queries], all_queries + word_sources])
        pad_index = torch.zeros_like(places.flatten()).scatter_(0, slots, indexes)
        first = pad_index.view_as(places)[:, : num_queries or 1].flatten()
        return cls(num_queries, slots, pad_index, first, F.pad(text_mask, (num_queries, 0), value=True), sources)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.visible)

    @property
    def num_first(self) -> int:
        """The number of tokens of a row in `first`."""
        return self.num_queries or 1

    @property
    def first_mask(self) -> torch.Tensor | None:
        """The rows of a mask that is `sliceable` for the first tokens."""
        return None if self.mask is None else self.mask[:, :, : self.num_first]

    @property
    def is_sliceable(self) -> bool:
        """Whether the mask is absent or a plain (rows, 1, queries, keys) tensor, so that rows can be cut from it."""
        return self.mask is None or (isinstance(self.mask, torch.Tensor) and self.mask.ndim == 4)

    def pad(self, states: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (rows, Q + T, D)."""
        return states.index_select(0, self.pad_index).unflatten(0, self.visible.shape)

    def unpad(self, states: torch.Tensor) -> torch.Tensor:
        """(rows, Q + T, D) -> (n, D)."""
        return states.flatten(0, 1).index_select(0, self.slots)

    def own(self, states: torch.Tensor) -> torch.Tensor:
        """The states of these rows among those of the pass."""
        return states if self.sources is None else states.index_select(0, self.sources)

    def repeated(self, repeats: torch.Tensor) -> "PackedRows":
        """The rows of these indexes, with the words of these rows."""
        text_mask = self.visible[:, self.num_queries :]
        words = torch.zeros_like(text_mask, dtype=torch.long)
        words[text_mask] = torch.arange(len(self.slots) - self.num_rows * self.num_queries, device=words.device)
        repeated = text_mask[repeats]
        return PackedRows.of_texts(repeated, self.num_queries, words[repeats][repeated])

    def with_own_words(self) -> "PackedRows":
        """The same rows after a block, which gave them words of their own."""
        return replace(PackedRows.of_texts(self.visible[:, self.num_queries :], self.num_queries), mask=self.mask)


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
        return self.attend(self.query(hidden_states), key_value, attention_mask)

    def attend(
        self, queries: torch.Tensor, key_value: KeyValue, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(rows, T, D)` projected queries attend to the keys and values -> `(rows, T, D)`."""
        if not queries.shape[0]:  # `len` would fix the batch size of an export
            # Attention implementations cannot shape an empty batch; the sums keep every weight in the graph.
            return queries + key_value[0].sum() + key_value[1].sum()
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attention(
            self,
            self._heads(queries),
            *key_value,
            attention_mask,
            dropout=self.dropout_prob if self.training else 0.0,
            scaling=self.head_dim**-0.5,
        )
        return attended.flatten(-2)

    def attend_unprojected(self, hidden_states: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """As `forward` with the keys and values of `(rows, N, W)` states, which are not projected -> `(rows, T, D)`.

        The projections are moved to the other side, by `(q)ᵀ(K x) = (Kᵀ q)ᵀ x` and `Σ p (V x) = V (Σ p x)`: less work
        for few queries and many states.
        """
        num_rows, length = hidden_states.shape[:2]
        by_head = (-1, self.head_dim)

        def swap(x: torch.Tensor, outer: int, inner: int) -> torch.Tensor:  # (a, b · c, …) -> (b, a · c, …)
            return x.unflatten(1, (outer, inner)).transpose(0, 1).flatten(1, 2)

        queries = self.query(hidden_states).flatten(0, 1).unflatten(-1, by_head).transpose(0, 1)  # (H, rows · T, d)
        num_heads = queries.shape[0]
        of_states = swap(queries @ self.key.weight.unflatten(0, by_head), num_rows, length)  # (rows, H · T, W)
        biases = swap(queries @ self.key.bias.unflatten(0, by_head)[..., None], num_rows, length)
        scores = torch.baddbmm(biases, of_states, states.transpose(1, 2))
        weights = (scores * self.head_dim**-0.5).softmax(-1)
        weights = F.dropout(weights, p=self.dropout_prob, training=self.training)
        read = swap(weights @ states, num_heads, length) @ self.value.weight.unflatten(0, by_head).transpose(1, 2)
        shares = swap(weights.sum(-1, keepdim=True), num_heads, length)  # of the bias; 1 without dropout
        read = read + shares * self.value.bias.unflatten(0, by_head)[:, None]
        return read.transpose(0, 1).flatten(1).unflatten(0, (num_rows, length))

    @property
    def can_skip_projection(self) -> bool:
        """Whether keys and values come from plain linear layers, whose weights can be used outside of them."""
        return all(
            type(layer) is nn.Linear
            and not layer.weight.is_meta
            and "forward" not in vars(layer)
            and not (layer._forward_hooks or layer._forward_pre_hooks)
            for layer in (self.key, self.value)
        )


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
        vision_key_value: Vision | None = None,
        prefix: KeyValue | None = None,
        kv_cache: Cache | None = None,
        packed: PackedRows | None = None,
        first_only: bool = False,
        repeats: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeyValue]:
        """One block of Eq. 1 (queries) and Eq. 2 (text).

        Eq. 1 applies self-attention to the vision tokens; as in BLIP-2 it is the queries that self-attend.

        Args:
            hidden_states: `(rows, query_length + T, D)`, or `(n, D)` of packed rows.
            attention_mask: As the attention implementation wants it.
            vision_key_value: `(rows, regions, H, N, D / H)` each, or states; the queries of a row are split evenly
                over its regions, each part attending to its own.
            prefix: Keys and values of an earlier pass, seen before this pass's own.
            kv_cache: Grows by this pass's own.
            packed: Where packed states belong; these know the number of queries and the mask.
            first_only: Return the first tokens of packed rows only (the last layer, where nothing reads the others).
            repeats: For each row of `vision_key_value` the row whose queries attend to it.
        Returns:
            The new states, and this pass's own self-attention keys and values.
        """
        if packed is not None:
            return self._forward_packed(hidden_states, packed, vision_key_value, prefix, first_only, repeats)
        new_key_value = self.project_key_value(hidden_states)
        key_value = new_key_value
        if kv_cache is not None:
            key_value = kv_cache.update(*new_key_value, self.layer_idx)
        elif prefix is not None:
            key_value = tuple(torch.cat(pair, dim=2) for pair in zip(prefix, new_key_value, strict=True))
        attended = self.attention(hidden_states, key_value, attention_mask)
        if repeats is not None:
            attended = attended.index_select(0, repeats)
            new_key_value = tuple(x.index_select(0, repeats) for x in new_key_value)
        parts = []
        if query_length:
            parts.append(self._query_block(attended[:, :query_length], vision_key_value))
        if attended.shape[1] > query_length:
            text = attended[:, query_length:]
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), new_key_value

    def _forward_packed(
        self,
        states: torch.Tensor,
        packed: PackedRows,
        vision_key_value: KeyValue | None,
        prefix: KeyValue | None,
        first_only: bool,
        repeats: torch.Tensor | None,
    ) -> tuple[torch.Tensor, KeyValue]:
        attention = self.attention.attention
        keys, values = (packed.pad(project(states)) for project in (attention.key, attention.value))
        key_value = new_key_value = attention._heads(keys), attention._heads(values)
        if prefix is not None:
            key_value = tuple(torch.cat(pair, dim=2) for pair in zip(prefix, new_key_value, strict=True))
        if first_only:
            residual = states.index_select(0, packed.first)
            queries = attention.query(residual).unflatten(0, (packed.num_rows, packed.num_first))
            attended = attention.attend(queries, key_value, packed.first_mask).flatten(0, 1)
        else:
            residual = packed.own(states)
            attended = packed.unpad(attention.attend(packed.pad(attention.query(states)), key_value, packed.mask))
        attended = self.attention.output(attended, residual)
        num_queries, parts = packed.num_rows * packed.num_queries, []
        if packed.num_queries:
            queries = attended[:num_queries].unflatten(0, (packed.num_rows, packed.num_queries))
            queries = queries if repeats is None else queries.index_select(0, repeats)
            parts.append(self._query_block(queries, vision_key_value).flatten(0, 1))
        if not (first_only and packed.num_queries):
            text = attended[num_queries:]
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts), new_key_value

    def _query_block(self, queries: torch.Tensor, vision_key_value: Vision | None) -> torch.Tensor:
        if self.has_cross_attention:
            if vision_key_value is None:
                raise ValueError("Queries were given without vision tokens to attend to.")
            is_projected = not isinstance(vision_key_value, torch.Tensor)
            num_regions = (vision_key_value[0] if is_projected else vision_key_value).shape[1]
            per_region = queries.unflatten(1, (num_regions, -1)).flatten(0, 1)
            if is_projected:
                attended = self.crossattention(per_region, tuple(x.flatten(0, 1) for x in vision_key_value))
            else:
                attended = self.crossattention.attention.attend_unprojected(per_region, vision_key_value.flatten(0, 1))
                attended = self.crossattention.output(attended, per_region)
            queries = attended.unflatten(0, (-1, num_regions)).flatten(1, 2)
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
        self.has_dropout = bool(qformer_config.hidden_dropout_prob or qformer_config.attention_probs_dropout_prob)

    def project_vision(self, vision_states: torch.Tensor) -> Iterator[KeyValue | None]:
        """(rows, regions, N, W) -> keys and values for each layer's cross-attention; None for layers without one.

        Each layer's are computed when they are asked for; a list of them serves several passes.
        """
        for layer in self.encoder.layer:
            has_one = layer.has_cross_attention
            yield layer.crossattention.attention.project_key_value(vision_states) if has_one else None

    def pass_vision(self, vision_states: torch.Tensor) -> Iterator[torch.Tensor | None]:
        """The states themselves for each layer with cross-attention, which then does not project them."""
        for layer in self.encoder.layer:
            yield vision_states if layer.has_cross_attention else None

    def saves_projection(self, num_queries: int, num_states: int) -> bool:
        """Whether queries of a row attend with less work to states that are not projected."""
        layers = [layer.crossattention.attention for layer in self.encoder.layer if layer.has_cross_attention]
        width = layers[0].query.out_features
        num_heads = width // layers[0].head_dim
        is_less = num_queries * (width + num_heads * num_states) < num_states * width
        return is_less and all(layer.can_skip_projection for layer in layers)

    def forward(
        self,
        embeds: torch.Tensor,
        query_length: int = 0,
        attention_mask: torch.Tensor | None = None,
        vision_key_values: Iterable[Vision | None] = (),
        prefix: Sequence[KeyValue | None] | None = None,
        kv_cache: Cache | None = None,
        repeats: torch.Tensor | None = None,
        pool: Callable[[torch.Tensor], torch.Tensor] | None = None,
        keep_key_values: bool = False,
    ) -> QFormerStates:
        """Run all blocks; arguments as in [`MF2QFormerLayer`], one entry a layer.

        Args:
            embeds: `(rows, query_length + T, D)`, before the embedding LayerNorm.
            attention_mask: `(rows, tokens)` padding mask, or a mask that is already prepared (4-D).
            repeats: `(images,)` the row of each row of `vision_key_values`; the first self-attention is computed once
                a row, as it depends on no image.
            pool: `(rows, tokens, D)` states of a layer -> `(rows, D)`.
            keep_key_values: Leave each layer's keys and values, for text that is written after this pass.
        """
        hidden_states = self.dropout(self.layernorm(embeds))
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            attention_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        vision_key_values = iter(vision_key_values)
        key_values, pooled = [], [pool(hidden_states)] if pool else []
        if pool and repeats is not None:
            pooled = [pooled[0].index_select(0, repeats)]
        for index, layer in enumerate(self.encoder.layer):
            hidden_states, key_value = layer(
                hidden_states,
                query_length,
                attention_mask,
                next(vision_key_values, None),
                prefix[index] if prefix is not None else None,
                kv_cache=kv_cache,
                repeats=repeats if index == 0 else None,
            )
            if keep_key_values:
                leaving = self.text_reads_leaving
                key_values.append(layer.project_key_value(hidden_states) if leaving else key_value)
            if pool:
                pooled.append(pool(hidden_states))
        return QFormerStates(hidden_states, torch.stack(pooled, dim=1) if pool else None, key_values)

    def read_packed(
        self,
        embeds: torch.Tensor,
        packed: PackedRows,
        vision_key_values: Iterable[KeyValue | None] = (),
        prefix: Sequence[KeyValue | None] | None = None,
        repeats: torch.Tensor | None = None,
        first_only: bool = False,
        pool: bool = False,
    ) -> torch.Tensor:
        """Run all blocks on rows without padding, as training does; equal to `forward` with padding.

        Args:
            embeds: `(n, D)`, before the embedding LayerNorm.
            packed: The rows; without a mask they get that of bidirectional attention.
            vision_key_values, prefix: As in `forward`.
            repeats: `(pairs,)` the row of each row of `vision_key_values`. Nothing before the first cross-attention
                depends on the image, so that the first self-attention, the first block of the text and what the next
                one projects of it are computed once a row (with dropout, its pairs share the noise there).
            first_only: Return the first tokens of each row only, `(rows, F, D)` as in [`PackedRows`].
            pool: Return the first word's state `(rows, J, D)`, of the embeddings and after each layer.
        Returns:
            `(n, D)`, unless one of the last two is set.
        """
        states, stage = self.dropout(self.layernorm(embeds)), self._with_mask(packed, embeds)
        vision_key_values = iter(vision_key_values)
        pooled, last = [states.index_select(0, packed.first)] if pool else [], len(self.encoder.layer) - 1
        for index, layer in enumerate(self.encoder.layer):
            if repeats is not None and index == 1:
                stage = self._with_mask(packed.repeated(repeats), embeds)
            elif repeats is not None and index == 2:
                stage = stage.with_own_words()
            cut = (first_only or pool) and index == last and stage.is_sliceable
            states, _ = layer(
                states,
                0,
                None,
                next(vision_key_values, None),
                prefix[index] if prefix is not None else None,
                packed=stage,
                first_only=cut,
                repeats=repeats if index == 0 else None,
            )
            if pool:
                pooled.append(states if cut else states.index_select(0, stage.first))
        if pool:
            return torch.stack(pooled, dim=1)
        if not first_only:
            return states
        num_rows = packed.num_rows if repeats is None else len(repeats)
        if not cut:
            states = states[: num_rows * packed.num_queries] if packed.num_queries else states[packed.first]
        return states.unflatten(0, (num_rows, packed.num_first))

    def _with_mask(self, packed: PackedRows, embeds: torch.Tensor) -> PackedRows:
        """The rows with a mask, that of bidirectional attention where there is none."""
        if packed.mask is not None:
            return packed
        like = embeds.new_empty(1, 1, 1).expand(*packed.visible.shape, embeds.shape[-1])
        return replace(packed, mask=create_bidirectional_mask(self.config, like, packed.visible))


def map_key_values(function: Callable[..., torch.Tensor], *passes: Iterable[KeyValue | None]) -> list[KeyValue | None]:
    """Apply a function to the keys, and to the values, of each layer of one or more passes."""
    return [
        None if pairs[0] is None else tuple(function(*tensors) for tensors in zip(*pairs, strict=True))
        for pairs in zip(*passes, strict=True)
    ]


def select_rows(key_values: list[KeyValue | None], rows: torch.Tensor) -> list[KeyValue | None]:
    """The given rows of every layer's keys and values."""
    return map_key_values(lambda x: x.index_select(0, rows), key_values)


class MF2TextEmbeddings(nn.Module):
    """Word plus position embeddings."""

    def __init__(self, config: MF2QFormerConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: torch.Tensor, first_position: int = 0) -> torch.Tensor:
        """(rows, T) -> (rows, T, D)."""
        length = first_position + input_ids.shape[1]
        self._check_length(length)
        positions = torch.arange(first_position, length, device=input_ids.device)
        return self.word_embeddings(input_ids) + self.position_embeddings(positions)

    def pack(self, input_ids: torch.Tensor, text_mask: torch.Tensor, words: WordEmbeddings | None) -> torch.Tensor:
        """(rows, T) ids and bool mask -> (n, D) of the tokens in the mask, row after row.

        Args:
            words: Embeds ids in place of the module.
        """
        self._check_length(text_mask.shape[1])
        positions = text_mask.nonzero()[:, 1]
        return (words or self.word_embeddings)(input_ids[text_mask]) + self.position_embeddings(positions)

    def _check_length(self, length: int) -> None:
        limit = self.position_embeddings.num_embeddings
        if length > limit:
            raise ValueError(f"A text of {length} tokens was given; the branch has {limit} positions. Truncate it.")


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
