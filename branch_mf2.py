"""A branch of MF²: a Q-Former with its text side, heads and projections (symbols in shapes as in `modeling_mf2`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask

from .configuration_mf2 import MF2Config, MF2QFormerConfig
from .qformer_mf2 import (
    KeyValue,
    MF2LMHead,
    MF2QFormer,
    MF2TextEmbeddings,
    PackedRows,
    Vision,
    WordEmbeddings,
    select_rows,
)
from .recognition_mf2 import FACE, MIRRORED, PLACES, READOUT
from .regions_mf2 import nearest_au_indexes

QUERIES_AT_ONCE = 1536
"""Maximal number of queries in a pass on the CPU without gradients; more need memory and are not faster."""


@dataclass
class BranchView:
    """The query-only pass of a branch over a batch, with K views per image: 1 (the face) or A (its regions).

    Args:
        states: `(B, K, Q, D)` last query states.
        pooled: `(B, K, J, D)` means over the queries, of the embeddings and of the states after each layer; with
            `direct_states` the first is the mean of the values that the first cross-attention reads.
        query_embeds: `(K, Q, D)` the input queries.
        vision_states: `(B, K, N, W)` the image tokens that the queries attend to.
        key_values: For each layer the queries' keys and values, `(B · K, H, Q, D / H)`; empty unless kept.
        vision_key_values: For each layer those of the image, `(B · K, 1, H, N, D / H)`; empty unless kept. See
            [`MF2Branch.vision_key_values`].
    """

    states: torch.Tensor
    pooled: torch.Tensor
    query_embeds: torch.Tensor
    vision_states: torch.Tensor
    key_values: list[KeyValue] = field(default_factory=list)
    vision_key_values: list[KeyValue | None] = field(default_factory=list)

    def rows_of(self, views: torch.Tensor) -> torch.Tensor:
        """`(K',)` indexes of views -> `(B · K',)` their rows in the keys and values."""
        num_images, num_views = self.states.shape[:2]
        return (torch.arange(num_images, device=views.device)[:, None] * num_views + views).flatten()


class FaceViews(dict[str, BranchView]):
    """The encoded faces of a batch: the views of each branch, the logits of the linear readout, and region positions.

    Args:
        views: branch -> view, the global branch first.
        readout: `(B, A + E)` logits; None without a readout.
        places: `(B, A, 4)` as in [`SampledFeatures`]; None if unknown.
        face: `(B, F)` likewise.

    `of_mirror`, if set, returns the checkpoint's logits of the mirror image, `(B, E)` or `(B, A + E)`; it is called
    when the recognisers' inputs are collected.
    """

    of_mirror: Callable[[], torch.Tensor] | None = None

    def __init__(
        self,
        views: Mapping[str, BranchView],
        readout: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
        face: torch.Tensor | None = None,
    ):
        super().__init__(views)
        self.readout, self.places, self.face = readout, places, face

    def split(self, num_images: int) -> tuple["FaceViews", "FaceViews"]:
        """The views of the first images and of the others, from a pass that kept no keys and values."""

        def parts(of: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
            return (None, None) if of is None else (of[:num_images], of[num_images:])

        views: tuple[dict, dict] = ({}, {})
        for name, view in self.items():
            split = zip(*map(parts, (view.states, view.pooled, view.vision_states)), strict=True)
            for of_part, (states, pooled, vision_states) in zip(views, split, strict=True):
                of_part[name] = BranchView(states, pooled, view.query_embeds, vision_states)
        first, others = zip(*map(parts, (self.readout, self.places, self.face)), strict=True)
        return FaceViews(views[0], *first), FaceViews(views[1], *others)

    @property
    def pooled(self) -> dict[str, torch.Tensor]:
        """The inputs of recognisers, see `recognition_mf2.py`."""
        pooled = {name: view.pooled for name, view in self.items()}
        if self.readout is not None:
            pooled[READOUT] = self.readout[:, None, None]
        if self.face is not None:
            pooled[FACE] = self.face[:, None, None]
        if self.places is not None:
            pooled[PLACES] = self.places[:, :, None]
        if self.of_mirror is not None:
            pooled[MIRRORED] = self.of_mirror()[:, None, None]
        return pooled


class SharedSpace(nn.Module):
    """The shared embedding space of images and texts: two projections onto the unit sphere, and a temperature."""

    PARTS = ("vision_projection", "text_projection", "temperature")

    vision_projection: nn.Linear
    text_projection: nn.Linear
    temperature: nn.Parameter

    def embed_image(self, query_states: torch.Tensor) -> torch.Tensor:
        """(…, Q, D) query states -> (…, Q, P) on the unit sphere."""
        return F.normalize(self.vision_projection(query_states), dim=-1)

    def embed_text(self, text_states: torch.Tensor) -> torch.Tensor:
        """(…, T, D) text states -> (…, P) on the unit sphere, from position 0."""
        return F.normalize(self.text_projection(text_states[..., 0, :]), dim=-1)


def _read_directly(
    key_values: Iterator[Vision | None], direct: list[torch.Tensor], project: nn.Module
) -> Iterator[Vision | None]:
    """Pass keys and values on, and append the mean of the first values, (rows, D), to `direct`.

    Args:
        project: Makes values of states that are not projected.
    """
    first = next(key_values)
    direct.append((project(first.mean(-2)) if isinstance(first, torch.Tensor) else first[1].mean(-2)).flatten(1))
    yield first
    del first  # frees them while those of the next layers are computed
    yield from key_values


class MF2Branch(SharedSpace):
    """A Q-Former with its queries, text side and heads: Emo-VL over the face, or AU-VL over the AU regions.

    Both branches are instances of this class. The local branch adds an embedding per AU to its shared queries, which
    distinguishes AUs with the same region, such as 12 and 15. It also adds an embedding per position in a region to
    the vision tokens, which otherwise carry no information on their centre and cell.
    """

    def __init__(self, config: MF2Config, qformer_config: MF2QFormerConfig, is_local: bool):
        super().__init__()
        width = qformer_config.hidden_size
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, qformer_config.num_query_tokens, width))
        if is_local:
            self.au_embeddings = nn.Embedding(len(config.au_ids), width)
            self.region_embeddings = nn.Embedding(config.num_region_tokens, qformer_config.encoder_hidden_size)
        self.vision_layernorm = nn.LayerNorm(qformer_config.encoder_hidden_size, eps=1e-5)
        self.embeddings = MF2TextEmbeddings(qformer_config)
        self.qformer = MF2QFormer(config, qformer_config)
        self.vision_projection = nn.Linear(width, config.projection_dim)
        self.text_projection = nn.Linear(width, config.projection_dim)
        self.itm_head = nn.Linear(width, 2)
        self.lm_head = MF2LMHead(qformer_config)
        self.temperature = nn.Parameter(torch.tensor([float(config.itc_temperature)]))  # FSDP takes no scalars

    def query_embeds(self, au_ids: Sequence[int] | None = None) -> torch.Tensor:
        """(G, Q, D) queries: in the local branch with the embedding of each AU (G = A), in the global one G = 1.

        Args:
            au_ids: Other AUs than those of the training; an unknown AU gets the embedding of the trained AU whose
                regions are nearest.
        """
        return self(au_ids)

    def forward(self, au_ids: Sequence[int] | None = None) -> torch.Tensor:
        """See `query_embeds`.

        The queries are a weight of the branch itself, and with offloading such weights are only available in a call of
        the module.
        """
        if not hasattr(self, "au_embeddings"):
            return self.query_tokens
        known, device = tuple(self.config.au_ids), self.query_tokens.device
        if au_ids is None or tuple(au_ids) == known:
            rows = torch.arange(len(known), device=device)
        else:
            rows = torch.tensor(nearest_au_indexes(tuple(au_ids), known), device=device)
        return self.query_tokens + self.au_embeddings(rows)[:, None]

    def normalize_vision(self, vision_states: torch.Tensor) -> torch.Tensor:
        """(…, N, W) tokens of the tower -> normalised tokens of the same shape, which the queries attend to."""
        states = self.vision_layernorm(vision_states)
        if not hasattr(self, "region_embeddings"):
            return states
        return states + self.region_embeddings(torch.arange(states.shape[-2], device=states.device))

    def project_vision(self, vision_states: torch.Tensor) -> Iterator[KeyValue | None]:
        """(rows, regions, N, W) vision tokens -> as [`MF2QFormer.project_vision`], from the normalised ones."""
        return self.qformer.project_vision(self.normalize_vision(vision_states))

    def encode_image(
        self, vision_states: torch.Tensor, au_ids: Sequence[int] | None = None, keep_key_values: bool = False
    ) -> "BranchView":
        """The query-only pass, Eq. 1; each face, and each region, is a row of its own.

        Args:
            vision_states: `(B, 1, N, W)` tokens of the face, or `(B, A, R, W)` tokens of its regions.
            au_ids: The AUs of the regions, as in `query_embeds`.
            keep_key_values: Keep the keys and values of queries and image, for passes with text.
        """
        query_embeds = self.query_embeds(au_ids)
        if keep_key_values or not self._is_split(vision_states):
            return self._encode_images(query_embeds, vision_states, keep_key_values)
        images_at_once = max(QUERIES_AT_ONCE // query_embeds[..., 0].numel(), 1)
        parts = [self._encode_images(query_embeds, images) for images in vision_states.split(images_at_once)]
        states, pooled = (torch.cat([getattr(part, name) for part in parts]) for name in ("states", "pooled"))
        return BranchView(states, pooled, query_embeds, vision_states)

    def _is_split(self, vision_states: torch.Tensor) -> bool:
        """Whether images are encoded in parts to save memory.

        Not on a GPU, which is most efficient with large batches, not in a compiled graph, and not with gradients, for
        which autograd keeps all activations.
        """
        if vision_states.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        if not torch.is_grad_enabled():
            return True
        return not (vision_states.requires_grad or any(parameter.requires_grad for parameter in self.parameters()))

    @property
    def _is_training(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _leaves_unprojected(self, vision_states: torch.Tensor, keep_key_values: bool) -> bool:
        """Whether queries read the image without its keys and values, which few of the regions then need for ITM.

        Only in training: inference is exported and compared to the last digit.
        """
        config, num_views = self.config, vision_states.shape[1]
        if not self._is_training:
            return False
        num_aligned = (config.au_pairs_per_image or num_views) if config.au_text_mode == "per_au" else num_views
        if keep_key_values and (num_views == 1 or num_aligned > num_views // 2):
            return False
        return self.qformer.saves_projection(self.query_tokens.shape[1], vision_states.shape[2])

    def vision_key_values(self, view: "BranchView", views: torch.Tensor | None = None) -> list[KeyValue | None]:
        """Those of a pass that kept keys and values, `(B · K, 1, H, N, D / H)` a layer, of all K views or of these.

        Args:
            views: `(K',)` their indexes.
        """
        if not view.vision_key_values:
            states = view.vision_states if views is None else view.vision_states[:, views]
            return list(self.project_vision(states.flatten(0, 1)[:, None]))
        if views is None:
            return view.vision_key_values
        return select_rows(view.vision_key_values, view.rows_of(views))

    def _encode_images(
        self, query_embeds: torch.Tensor, vision_states: torch.Tensor, keep_key_values: bool = False
    ) -> "BranchView":
        per_region, keeps_vision = vision_states.flatten(0, 1)[:, None], keep_key_values
        vision_key_values: Iterator[Vision | None]
        if self._leaves_unprojected(vision_states, keep_key_values):
            keeps_vision = False
            vision_key_values = self.qformer.pass_vision(self.normalize_vision(per_region))
        else:
            vision_key_values = self.project_vision(per_region)
        direct: list[torch.Tensor] = []
        if self.config.direct_states:
            project = self.qformer.encoder.layer[0].crossattention.attention.value
            vision_key_values = _read_directly(vision_key_values, direct, project)
        kept = list(vision_key_values) if keeps_vision else []
        num_images, repeats = vision_states.shape[0], None  # `len` would fix the batch size of an export
        if self._is_training and not self.qformer.has_dropout:  # with it, each image has noise of its own
            queries, repeats = query_embeds, torch.arange(len(query_embeds), device=query_embeds.device)
            repeats = repeats.repeat(num_images)
        else:
            queries = query_embeds.expand(num_images, -1, -1, -1).flatten(0, 1)
        states = self.qformer(
            queries,
            query_length=queries.shape[1],
            vision_key_values=kept or vision_key_values,
            repeats=repeats,
            pool=lambda states: states.mean(1),
            keep_key_values=keep_key_values,
        )
        pooled = states.pooled
        if direct:
            pooled = torch.cat([direct[0][:, None], pooled[:, 1:]], dim=1)
        last, pooled = (x.unflatten(0, vision_states.shape[:2]) for x in (states.last, pooled))
        return BranchView(last, pooled, query_embeds, vision_states, states.key_values, kept)

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The text-only pass, Eq. 2: `(rows, T)` ids -> `(rows, T, D)` states."""
        return self.qformer(self.embeddings(input_ids), attention_mask=attention_mask).last

    def pool_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The same pass -> `(rows, J, D)`: position 0 of the embeddings and of the states after each layer."""
        ids, packed = self._pack(input_ids, attention_mask)
        return self.qformer.read_packed(self.embeddings.pack(ids, packed.visible, None), packed, pool=True)

    def summarize_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, words: WordEmbeddings | None = None
    ) -> torch.Tensor:
        """Position 0 of `encode_text`, `(rows, 1, D)`, which ITC reads.

        Args:
            words: As in [`MF2TextEmbeddings.pack`].
        """
        ids, packed = self._pack(input_ids, attention_mask)
        embeds = self.embeddings.pack(ids, packed.visible, words)
        return self.qformer.read_packed(embeds, packed, first_only=True)

    @staticmethod
    def _pack(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, num_queries: int = 0
    ) -> tuple[torch.Tensor, PackedRows]:
        """Texts cut to the length of the longest, `(rows, T)`, as packed rows."""
        text_mask = attention_mask.bool()
        places = torch.arange(1, text_mask.shape[1] + 1, device=text_mask.device)
        length = max(int((text_mask.any(0) * places).amax()), 1)
        return input_ids[:, :length], PackedRows.of_texts(text_mask[:, :length], num_queries)

    def decode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        prefix: Sequence[KeyValue | None],
        kv_cache: Cache | None = None,
    ) -> torch.Tensor:
        """Text states with a causal mask in which every token sees all queries: `(rows, T)` -> `(rows, T, D)`.

        The queries do not see the text, so that their keys and values are those of the query-only pass and need not be
        computed again. Text positions start at 0.

        Args:
            input_ids: `(rows, T)` token ids.
            attention_mask: `(rows, past text + T)`; None without padding.
            prefix: For each layer the queries' keys and values.
            kv_cache: Is extended by the keys and values of the text; an empty cache gets the prefix first.
        """
        num_queries = prefix[0][0].shape[2]
        cache = DynamicCache() if kv_cache is None else kv_cache
        num_past = max(cache.get_seq_length() - num_queries, 0)
        if cache.get_seq_length() == 0:
            # Without a cache to keep, one layer suffices for the mask to know the number of keys before the text.
            for index, key_value in enumerate(prefix if kv_cache is not None else prefix[:1]):
                cache.update(*key_value, index)
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape[0], num_past + input_ids.shape[1])
        embeds = self.embeddings(input_ids, first_position=num_past)
        visible = F.pad(attention_mask, (num_queries, 0), value=1)
        mask = create_causal_mask(self.config, embeds, visible, cache, allow_is_causal_skip=False)
        return self.qformer(embeds, attention_mask=mask, prefix=prefix, kv_cache=kv_cache).last

    def write(
        self,
        input_ids: torch.Tensor,
        is_read: torch.Tensor,
        prefix: Sequence[KeyValue | None],
        words: WordEmbeddings | None = None,
    ) -> torch.Tensor:
        """`decode` without a cache and without padding: `(n, D)` states of the tokens in the mask, row after row.

        Args:
            input_ids, is_read: `(rows, T)` ids and bool.
            prefix: For each layer the queries' keys and values.
            words: As in [`MF2TextEmbeddings.pack`].
        """
        ids, packed = self._pack(input_ids, is_read)
        embeds = self.embeddings.pack(ids, packed.visible, words)
        queries = DynamicCache()
        queries.update(*prefix[0], 0)
        like = embeds.new_empty(1, 1, 1).expand(*ids.shape, embeds.shape[-1])
        visible = F.pad(packed.visible, (queries.get_seq_length(), 0), value=True)
        packed.mask = create_causal_mask(self.config, like, visible, queries, allow_is_causal_skip=False)
        return self.qformer.read_packed(embeds, packed, prefix=prefix)

    def predict_tokens(self, text_states: torch.Tensor) -> torch.Tensor:
        """(…, D) text states -> (…, vocabulary) logits of the next token."""
        words = self.embeddings.word_embeddings
        if words.weight.is_meta:  # offloaded: the weight is only available in a call
            all_ids = torch.arange(self.lm_head.bias.shape[0], device=text_states.device)
            return self.lm_head(text_states, words(all_ids))
        return self.lm_head(text_states, words.weight)

    def match(
        self,
        query_embeds: torch.Tensor,
        vision_key_values: Iterable[KeyValue | None],
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_of_pair: torch.Tensor | None = None,
        words: WordEmbeddings | None = None,
    ) -> torch.Tensor:
        """ITM logits `(pairs, 2)`: queries and text attend to each other; logits are averaged over queries.

        Args:
            query_embeds: `(rows, Q, D)`, of each text.
            vision_key_values: `(pairs, regions, H, N, D / H)` a layer.
            input_ids, attention_mask: `(rows, T)`.
            text_of_pair: `(pairs,)` the row of each pair; None for one pair a text, in the same order.
            words: As in [`MF2TextEmbeddings.pack`].
        """
        num_queries = query_embeds.shape[1]
        ids, packed = self._pack(input_ids, attention_mask, num_queries)
        text = self.embeddings.pack(ids, packed.visible[:, num_queries:], words)
        states = self.qformer.read_packed(
            torch.cat([query_embeds.flatten(0, 1), text]),
            packed,
            vision_key_values=vision_key_values,
            repeats=text_of_pair,
            first_only=True,
        )
        return self.itm_head(states).mean(1)
