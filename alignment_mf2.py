"""The losses of MF²: image-text contrast, matching and generation (Eq. 3-5), and the losses of the recognisers.

Every loss is computed over the *global* batch, independent of its distribution to processes: embeddings are gathered
from all processes with gradients, means are taken over the counts of all processes, and negatives are drawn from
shared random numbers. The loss of a process is scaled so that the mean over processes, which DDP computes for
gradients, is the loss of the global batch.

Alignment works on *items*, one visual input and one text each. Symbols in shapes: I images of this process, M of all,
G groups of items that are only compared among themselves (1, or one per AU), Q queries, T text tokens, P projection
width, H heads, D branch width, W vision width, N vision tokens of a region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .labels_mf2 import AU_UNLABELLED, EMOTION_UNLABELLED
from .qformer_mf2 import KeyValue, WordEmbeddings, map_key_values, select_rows

MF2Branch = Any
"""The branch of the model; its class is not imported, because its module imports this one."""

MIN_TEXT_LENGTH = 2
"""Minimal number of tokens: the start token and one to predict. Batches without any text are padded to it."""


# ------------------------------------------------------------------------------------------- batches over processes
def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """Gathers the rows of all processes; the gradient of a row is the sum of its gradients in all processes.

    `torch.distributed.nn.functional.all_gather` permutes gradients that are not contiguous (gloo), as einsum's are.
    """

    @staticmethod
    def forward(ctx, rows: torch.Tensor) -> torch.Tensor:
        ctx.num_rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return _local_rows(gradient, ctx.num_rows)


def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """(I, …) -> (M, …): the rows of all processes in rank order, with gradient if the tensor has one."""
    return tensor if world_size() == 1 else _GatherRows.apply(tensor.contiguous())


def _local_rows(tensor: torch.Tensor, num_rows: int) -> torch.Tensor:
    """(M, …) -> (I, …): the rows of this process in the result of `gather_rows`."""
    if world_size() == 1:
        return tensor
    start = dist.get_rank() * num_rows
    return tensor[start : start + num_rows]


def _pad_to_common_length(tensor: torch.Tensor, value: int) -> torch.Tensor:
    """Pad the last dimension to the maximal length over all processes, so that rows can be gathered."""
    if world_size() == 1:
        return tensor
    length = torch.tensor(tensor.shape[-1], device=tensor.device)
    dist.all_reduce(length, op=dist.ReduceOp.MAX)
    return F.pad(tensor, (0, int(length) - tensor.shape[-1]), value=value)


def mean_over_batch(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """`total / count` of the global batch, scaled so that the mean over processes is that ratio."""
    if world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
        total = total * world_size()
    return total / count.clamp(min=1)


def _shared_uniform(*shape: int, device: torch.device) -> torch.Tensor:
    """Uniform random numbers, equal in all processes, seeded by the default generator of the first process."""
    seed = torch.randint(2**62, (1,))
    if world_size() > 1:
        seed = seed.to(device)
        dist.broadcast(seed, src=0)
    generator = torch.Generator().manual_seed(int(seed))
    return torch.rand(shape, generator=generator).to(device)


# ------------------------------------------------------------------------------------------------------------- items
@dataclass
class VisualItems:
    """The visual side of an alignment: I images × G groups of items.

    Args:
        states: `(I, G, Q, D)` last query states.
        query_embeds: `(G, Q, D)` the input queries.
        key_values: For each layer the queries' keys and values, `(I · G, H, Q, D / H)`, which the text of ITG reads.
        vision_key_values: For each layer the keys and values of the image, `(I · G, regions, H, N, D / H)`.
        vision_states: `(I, G, regions, N, W)` the image tokens before projection.
    """

    states: torch.Tensor
    query_embeds: torch.Tensor
    key_values: list[KeyValue]
    vision_key_values: list[KeyValue | None]
    vision_states: torch.Tensor


@dataclass
class TextItems:
    """The text side: `input_ids` and `attention_mask` `(I, G, T)`, `caption_ids`, `valid` and `to_write` `(I, G)`.

    Items with equal caption ids have the same text. An item without text (its mask is empty) is not valid. ITG is
    trained on the items of `to_write`; None means all valid items.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    caption_ids: torch.Tensor
    valid: torch.Tensor
    to_write: torch.Tensor | None = None

    @classmethod
    def from_batch(
        cls,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        caption_ids: torch.Tensor | None,
        pad_id: int,
        to_write: torch.Tensor | None = None,
    ) -> "TextItems":
        """Make items from ids (I, G, T); by default the mask excludes padding, and caption ids compare rows."""
        if attention_mask is None:
            attention_mask = (input_ids != pad_id).long()
        missing = max(MIN_TEXT_LENGTH - input_ids.shape[-1], 0)
        input_ids, attention_mask = F.pad(input_ids, (0, missing), value=pad_id), F.pad(attention_mask, (0, missing))
        input_ids = _pad_to_common_length(input_ids, pad_id)
        attention_mask = _pad_to_common_length(attention_mask, 0)
        if caption_ids is None:
            rows = gather_rows(input_ids)
            caption_ids = torch.unique(rows.flatten(0, 1), dim=0, return_inverse=True)[1].view(rows.shape[:2])
            caption_ids = _local_rows(caption_ids, input_ids.shape[0])
        return cls(input_ids, attention_mask, caption_ids, attention_mask.any(-1), to_write)

    @property
    def written(self) -> torch.Tensor:
        """`(I, G)` bool: the items that ITG is trained on."""
        return self.valid if self.to_write is None else self.valid & self.to_write

    def select_groups(self, groups: torch.Tensor) -> "TextItems":
        """Select the items of the given groups."""
        return TextItems(*(None if x is None else x[:, groups] for x in vars(self).values()))


def draw_groups(valid: torch.Tensor, num_groups: int | None) -> torch.Tensor:
    """Indexes of the groups that a step aligns: all, or `num_groups` from those with text; equal everywhere.

    Args:
        valid: `(I, G)` bool.
    """
    total = valid.shape[1]
    if num_groups is None or num_groups >= total:
        return torch.arange(total, device=valid.device)
    has_text = gather_rows(valid).any(0)
    order = (_shared_uniform(total, device=valid.device) - has_text.float()).argsort()
    return order[:num_groups].sort().values


class StepWords:
    """The word embeddings of all texts of a step, looked up once.

    The gradient of a lookup is a table of the vocabulary's size; that of a lookup here is of the size of the texts.

    Args:
        embed: The branch's word embeddings.
        ids: The token ids that occur.
    """

    def __init__(self, embed: WordEmbeddings, ids: torch.Tensor):
        self._distinct = ids.unique()
        self._embeds = embed(self._distinct)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """(…) ids -> (…, D)."""
        return F.embedding(torch.searchsorted(self._distinct, ids), self._embeds)


def embed_words(branch: MF2Branch, texts: TextItems) -> StepWords:
    """The words of the texts of all processes, and the start of a generated text."""
    ids = gather_rows(texts.input_ids).flatten()
    return StepWords(branch.embeddings.word_embeddings, torch.cat([ids, ids.new_tensor([branch.config.bos_token_id])]))


# --------------------------------------------------------------------------------------------------- loss functions
def image_text_similarity(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every image with every text: the maximum over the queries of an image.

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
    """Cross-entropy of each row against all of its positives with equal weights, one direction of Eq. 3.

    Args:
        logits: `(…, M)` similarities divided by the temperature.
        positives: `(…, M)` bool, at least one per row, a subset of the candidates. With one per row this is BLIP-2's
            loss; several are equal captions, which Eq. 3 would count as negatives.
        candidates: `(…, M)` bool, the columns that a row is compared with.
        label_smoothing: Share of the target that is spread over the candidates.
    Returns:
        `(…)` losses.
    """
    log_probs = logits.masked_fill(~candidates, torch.finfo(logits.dtype).min).log_softmax(-1)
    targets = contrastive_targets(positives, candidates, label_smoothing)
    return -(targets * log_probs.masked_fill(~candidates, 0.0)).sum(-1)


def contrastive_targets(positives: torch.Tensor, candidates: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """The target distribution of each row, `(…, M)`. Arguments as in [`contrastive_loss`]."""
    targets = (1 - label_smoothing) * positives / positives.sum(-1, keepdim=True)
    return targets + label_smoothing * candidates / candidates.sum(-1, keepdim=True)


def sample_hard_negatives(
    logits: torch.Tensor, allowed: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one column per row with probability softmax(logits) over the allowed columns, by inverse sampling.

    Args:
        logits: `(…, M)`; no gradient flows through them.
        allowed: `(…, M)` bool.
        uniform: `(…)` numbers in [0, 1), one per row.
    Returns:
        `(…)` column indexes, and `(…)` bool: whether the row has an allowed column.
    """
    logits = logits.detach().float().masked_fill(~allowed, -torch.inf)
    has_negative = allowed.any(-1)
    mass = torch.where(has_negative[..., None], logits.softmax(-1), 1.0).cumsum(-1)
    index = torch.searchsorted(mass, (uniform * mass[..., -1])[..., None].contiguous(), right=True).squeeze(-1)
    # Rounding can end one column past the last allowed one; step back onto it.
    last_allowed = logits.shape[-1] - 1 - allowed.flip(-1).int().argmax(-1)
    return torch.minimum(index, last_allowed), has_negative


def _check_labels(name: str, labels: torch.Tensor, num_classes: int, unlabelled: int) -> None:
    """Raise a `ValueError` for an invalid label; only on the CPU, where the check needs no synchronisation."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    is_class = (labels >= 0) & (labels < num_classes) & (labels == labels.floor())
    if len(invalid := labels[~(is_class | (labels == unlabelled))]):
        value = invalid[0].item()
        raise ValueError(
            f"{name} has {value!r}: labels are 0 … {num_classes - 1}, and {unlabelled} where there is none."
        )


def recognition_losses(
    au_logits: torch.Tensor | None,
    au_labels: torch.Tensor | None,
    emotion_logits: torch.Tensor | None,
    emotion_labels: torch.Tensor | None,
    au_pos_weight: Sequence[float] | None = None,
    emotion_logit_shift: Sequence[float] | None = None,
) -> dict[str, torch.Tensor]:
    """Binary cross-entropy over the labelled AUs and cross-entropy over the labelled emotions.

    Args:
        au_logits, au_labels: `(B, A)`; -1 is unlabelled.
        emotion_logits, emotion_labels: `(B, E)` and `(B,)`; -100 is unlabelled.
        au_pos_weight: A factor for the active rows of each AU.
        emotion_logit_shift: Added to the emotion logits.
    Returns:
        `au` and `emotion`, whichever has logits and labels.

    Raises:
        ValueError: labels on the CPU that are no class.
    """
    losses = {}
    if emotion_logits is not None and emotion_labels is not None:
        _check_labels("emotion_labels", emotion_labels, emotion_logits.shape[-1], EMOTION_UNLABELLED)
        emotion_logits = emotion_logits.float()
        if emotion_logit_shift is not None:
            emotion_logits = emotion_logits + emotion_logits.new_tensor(emotion_logit_shift)
        total = F.cross_entropy(emotion_logits, emotion_labels, ignore_index=EMOTION_UNLABELLED, reduction="sum")
        losses["emotion"] = mean_over_batch(total, (emotion_labels != EMOTION_UNLABELLED).sum())
    if au_logits is not None and au_labels is not None:
        _check_labels("au_labels", au_labels, 2, AU_UNLABELLED)
        labelled = au_labels != AU_UNLABELLED
        pos_weight = None if au_pos_weight is None else au_logits.new_tensor(au_pos_weight, dtype=torch.float32)
        total = F.binary_cross_entropy_with_logits(
            au_logits.float(), au_labels.clamp(min=0).float(), pos_weight=pos_weight, reduction="none"
        )
        losses["au"] = mean_over_batch((total * labelled).sum(), labelled.sum())
    return losses


def affect_loss(affect: torch.Tensor, labels: torch.Tensor, mse_weight: float) -> torch.Tensor:
    """1 - CCC plus `mse_weight` times the mean squared error of valence and of arousal, the mean of both.

    The concordance correlation coefficient (Lin, Biometrics 45, 1989), which the ABAW competitions score, compares
    whole columns, so that it is one of the whole batch: rows are gathered from all processes.

        CCC = 2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))²)

    A dimension that fewer than two rows of the batch label has no concordance, only a squared error.

    Args:
        affect, labels: `(B, 2)` from -1 to 1; NaN is unlabelled.
    Raises:
        ValueError: a label on the CPU is out of range.
    """
    is_seen = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_seen and len(wrong := labels[labels.abs() > 1]):
        raise ValueError(f"affect_labels has {wrong[0].item():g}: labels are -1 … 1, and NaN where there is none.")
    affect, labels = gather_rows(affect.float()), gather_rows(labels.to(affect.device, torch.float32))
    labelled = (~labels.isnan()).float()
    count = labelled.sum(0)
    means_over = labelled / count.clamp(min=1)
    labels = torch.nan_to_num(labels)
    means, targets = (affect * means_over).sum(0), (labels * means_over).sum(0)
    deviations, spread = affect - means, labels - targets
    covariance = (deviations * spread * means_over).sum(0)
    scale = ((deviations.square() + spread.square()) * means_over).sum(0) + (means - targets).square()
    discordance = 1 - 2 * covariance / scale.clamp(min=1e-6)
    errors = ((affect - labels).square() * means_over).sum(0)
    of_dimensions = torch.where(count > 1, discordance, 0.0) + mse_weight * errors
    return of_dimensions.sum() / (count > 0).sum().clamp(min=1)


# --------------------------------------------------------------------------------------------------------- alignment
@dataclass
class Comparison:
    """The comparison of all images and texts: similarities divided by the temperature, and masks; all `(G, I, M)`."""

    image_to_text: torch.Tensor
    text_to_image: torch.Tensor
    positives: torch.Tensor
    candidates: torch.Tensor


@dataclass
class MatchPairs:
    """The pairs of ITM: `(P,)` indexes, one entry for each item that has negatives.

    `item` and `group` index the items of this process; `negative_image` and `negative_text` those of all processes.
    """

    item: torch.Tensor
    group: torch.Tensor
    negative_image: torch.Tensor
    negative_text: torch.Tensor


def alignment_losses(branch: MF2Branch, images: VisualItems, texts: TextItems) -> dict[str, torch.Tensor]:
    """`itc`, `itm` and `itg` of a branch (Eq. 3-5); a weight of 0 in its configuration skips one.

    With `itc` comes `itc_floor`, see [`itc_floor`] and [`split_floors`].

    Equal captions are positives of each other in ITC, and never negatives of each other in ITM. BLIP-2 only uses the
    diagonal, which would be wrong for template-like captions and for frames of one video.
    """
    config, losses = branch.config, {}
    words = embed_words(branch, texts)
    if config.itc_weight or config.itm_weight:
        comparison = compare(branch, images, texts, words)
        if config.itc_weight:
            losses["itc"] = itc_loss(comparison, texts.valid, config.label_smoothing)
            losses["itc_floor"] = itc_floor(comparison, texts.valid, config.label_smoothing)
        if config.itm_weight:
            losses["itm"] = itm_loss(branch, images, texts, comparison, words)
    if config.itg_weight:
        losses["itg"] = itg_loss(branch, images, texts, words)
    return losses


def compare(branch: MF2Branch, images: VisualItems, texts: TextItems, words: WordEmbeddings) -> Comparison:
    """Compare the images and texts of this process with those of all processes, within their groups."""
    image_embeds = branch.embed_image(images.states)
    text_embeds = read_distinct_texts(texts, lambda *text: branch.embed_text(branch.summarize_text(*text, words)))
    return compare_embeds(image_embeds, text_embeds, branch.temperature, texts.caption_ids, texts.valid)


def compare_embeds(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    temperature: torch.Tensor,
    caption_ids: torch.Tensor,
    valid: torch.Tensor,
) -> Comparison:
    """As [`compare`], of embeddings `(I, G, Q, P)` and `(I, G, P)` of texts `(I, G)`."""
    temperature = temperature.clamp(0.001, 0.5)  # ALBEF's bounds
    all_caption_ids, all_valid = gather_rows(caption_ids).T, gather_rows(valid).T  # (G, M)
    candidates = valid.T[:, :, None] & all_valid[:, None]
    return Comparison(
        image_to_text=image_text_similarity(image_embeds, gather_rows(text_embeds)) / temperature,
        text_to_image=image_text_similarity(gather_rows(image_embeds), text_embeds).transpose(1, 2) / temperature,
        positives=(caption_ids.T[:, :, None] == all_caption_ids[:, None]) & candidates,
        candidates=candidates,
    )


def read_distinct_texts(texts: TextItems, read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Apply a text-only pass to the texts, once for each distinct caption.

    Args:
        texts: the texts.
        read: `(rows, T)` ids and mask -> `(rows, …)`.
    Returns:
        `(I, G, …)`; zeros for items without text.
    """
    rows = texts.valid.flatten().nonzero().squeeze(1)
    first, inverse = find_distinct(texts.caption_ids.flatten()[rows])
    values = read(*(x.flatten(0, 1)[rows[first]] for x in (texts.input_ids, texts.attention_mask)))
    scattered = values.new_zeros(texts.valid.numel(), *values.shape[1:]).index_copy(0, rows, values[inverse])
    return scattered.unflatten(0, texts.valid.shape)


def find_distinct(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The index of the first entry of each distinct key, and `(n,)` the number of each entry's key.

    Args:
        keys: `(n,)` numbers, or `(n, k)` of which all k must be equal.
    """
    distinct, inverse = torch.unique(keys, dim=0, return_inverse=True)
    order = torch.arange(len(keys), device=keys.device)
    return order.new_full((len(distinct),), len(keys)).scatter_reduce(0, inverse, order, "amin"), inverse


def itc_loss(comparison: Comparison, valid: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Eq. 3, the mean of both directions over the items with text.

    The numerator of the second direction in Eq. 3 mixes i and j; it is read as the similarity of the matching pair.

    Args:
        valid: `(I, G)` bool.
    """
    rows = valid.T
    positives, candidates = comparison.positives[rows], comparison.candidates[rows]
    both = contrastive_loss(comparison.image_to_text[rows], positives, candidates, label_smoothing)
    both = both + contrastive_loss(comparison.text_to_image[rows], positives, candidates, label_smoothing)
    return mean_over_batch(both.sum() / 2, rows.sum())


def itc_floor(comparison: Comparison, valid: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """The lower bound of [`itc_loss`]: the entropy of its targets, due to equal captions and label smoothing."""
    rows = valid.T
    targets = contrastive_targets(comparison.positives[rows], comparison.candidates[rows], label_smoothing)
    return mean_over_batch(torch.special.entr(targets).sum(), rows.sum())


def split_floors(losses: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Separate losses from their floors; returns both by the name of the loss."""
    floors = {name.removesuffix("_floor"): value for name, value in losses.items() if name.endswith("_floor")}
    return {name: value for name, value in losses.items() if not name.endswith("_floor")}, floors


def draw_match_pairs(comparison: Comparison, hardness: float) -> MatchPairs:
    """Draw a negative text and a negative image for each item, with probability softmax(hardness · logits).

    Items whose candidates all have the same text have no negative and are left out.
    """
    num_groups, num_images = comparison.candidates.shape[:2]
    device = comparison.candidates.device
    uniform = _shared_uniform(num_images * world_size(), 2, num_groups, device=device)
    uniform = _local_rows(uniform, num_images).permute(1, 2, 0)  # (2, G, I)
    allowed = comparison.candidates & ~comparison.positives
    negative_text, has_negative = sample_hard_negatives(hardness * comparison.image_to_text, allowed, uniform[0])
    negative_image, _ = sample_hard_negatives(hardness * comparison.text_to_image, allowed, uniform[1])
    item, group = has_negative.T.nonzero(as_tuple=True)
    return MatchPairs(item, group, negative_image[group, item], negative_text[group, item])


def itm_loss(
    branch: MF2Branch, images: VisualItems, texts: TextItems, comparison: Comparison, words: WordEmbeddings
) -> torch.Tensor:
    """Eq. 4 over three pairs per item: the matching one, one with a negative image, one with a negative text."""
    pairs = draw_match_pairs(comparison, branch.config.itm_hardness)
    positive, negative = (pairs.item, pairs.group), (pairs.negative_text, pairs.group)
    ids, masks, caption_ids = (
        torch.cat([x[positive], gather_rows(x)[negative]])
        for x in (texts.input_ids, texts.attention_mask, texts.caption_ids)
    )
    groups = pairs.group.repeat(2)
    distinct, text_of_item = find_distinct(torch.stack([caption_ids, groups], dim=1))
    of_positive, of_negative = text_of_item.tensor_split(2)
    key_values, image_rows = _images_of_pairs(branch, images, pairs)
    logits = branch.match(
        images.query_embeds[groups[distinct]],
        select_rows(key_values, image_rows),
        ids[distinct],
        masks[distinct],
        torch.cat([of_positive, of_positive, of_negative]),
        words,
    )
    return match_loss(logits, torch.arange(len(logits), device=logits.device) < len(pairs.item))


def match_loss(logits: torch.Tensor, is_match: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of `(pairs, 2)` ITM logits against `(pairs,)` bool."""
    total = F.cross_entropy(logits.float(), is_match.long(), reduction="sum")
    return mean_over_batch(total, torch.tensor(len(logits), device=logits.device))


def _images_of_pairs(
    branch: MF2Branch, images: VisualItems, pairs: MatchPairs
) -> tuple[list[KeyValue | None], torch.Tensor]:
    """Projected images, and the `(3P,)` rows among them for the three kinds of ITM pairs.

    A single process has projected all images for the query-only pass. With several processes, the unprojected images
    are gathered, and the negatives among them are projected here.
    """
    num_images, num_groups = images.vision_states.shape[:2]
    positive, negative = (image * num_groups + pairs.group for image in (pairs.item, pairs.negative_image))
    if world_size() == 1:
        return images.vision_key_values, torch.cat([positive, negative, positive])
    negatives = branch.project_vision(gather_rows(images.vision_states).flatten(0, 1)[negative])
    key_values = map_key_values(lambda *both: torch.cat(both), images.vision_key_values, negatives)
    negative = num_images * num_groups + torch.arange(len(negative), device=negative.device)
    return key_values, torch.cat([positive, negative, positive])


def itg_loss(branch: MF2Branch, images: VisualItems, texts: TextItems, words: WordEmbeddings) -> torch.Tensor:
    """Eq. 5 as left-to-right generation, which is the task, although the equation is written as masked prediction.

    The text reads the queries through the keys and values of the query-only pass, with gradient. Texts begin with
    `[CLS]`, in place of which the branch reads its start token.
    """
    has_target = texts.attention_mask[..., 1:].any(-1)
    rows = (texts.written & has_target).flatten().nonzero().squeeze(1)
    ids, masks = texts.input_ids.flatten(0, 1)[rows], texts.attention_mask.flatten(0, 1)[rows]
    inputs, is_target = ids[:, :-1].clone(), masks[:, 1:].bool()
    inputs[:, 0] = branch.config.bos_token_id
    states = branch.write(inputs, is_target, select_rows(images.key_values, rows), words)
    total = F.cross_entropy(
        branch.predict_tokens(states).float(),
        ids[:, 1:][is_target],
        label_smoothing=branch.config.label_smoothing,
        reduction="sum",
    )
    return mean_over_batch(total, is_target.sum())
