"""ITC, ITM and ITG against loops over single images, texts and pairs, written down from their definitions."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small_configs import small_config

from mf2 import alignment_mf2
from mf2.branch_mf2 import MF2Branch
from mf2.modeling_mf2 import MF2ForPreTraining

BATCH, AUS, TEXT, SMOOTHING = 4, (1, 12, 25), 6, 0.1
CLS, SEP, DEC = 2, 3, 49
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def make_model(**fields) -> MF2ForPreTraining:
    """Small, in evaluation mode, with weights large enough for losses to differ."""
    torch.manual_seed(0)
    config = small_config(
        DEC,
        branch={"intermediate_size": 48, "num_query_tokens": 3},
        au_ids=AUS,
        label_smoothing=SMOOTHING,
        initializer_range=0.2,
        au_region_grid=2,
        **fields,
    )
    return MF2ForPreTraining(config).eval()


def make_texts(captions: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and masks `(…, T)`: one random text of random length for each number in `captions`; -1 is no text."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(*captions.shape, TEXT, dtype=torch.long)
    for caption in captions.unique():
        length = int(torch.randint(3, TEXT + 1, (1,), generator=generator))
        words = torch.randint(4, DEC, (length - 2,), generator=generator)
        if caption >= 0:
            ids[captions == caption] = F.pad(torch.tensor([CLS, *words, SEP]), (0, TEXT - length))
    return ids, (ids != 0).long()


FACE_CAPTIONS = {
    "all different": [0, 1, 2, 3],
    "a pair and a row without text": [0, 1, 0, -1],
    "all the same": [0, 0, 0, 0],
    "one text only": [-1, 5, -1, -1],
}
AU_CAPTIONS = {  # (image, AU)
    "all different": [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    "pairs, gaps and an AU without negatives": [[0, 1, 2], [3, 1, -1], [0, 1, 5], [4, 1, 6]],
    "an AU without any text": [[0, -1, 2], [3, -1, 2], [-1, -1, 2], [4, -1, 6]],
}


@pytest.fixture
def uniform(monkeypatch):
    """The random numbers behind the hard negatives, fixed by their shape."""

    def fixed(*shape, device=None):
        return torch.rand(shape, generator=torch.Generator().manual_seed(11))

    monkeypatch.setattr(alignment_mf2, "_shared_uniform", fixed)
    return fixed


# ------------------------------------------------------------------------------------------------------- the reference
@dataclass
class Item:
    """One visual input and its text: `queries` and `regions` hold an entry for each region that makes up the input."""

    queries: list[torch.Tensor]
    regions: list[torch.Tensor]
    ids: list[int]
    caption: int


def query_pass(branch: MF2Branch, item: Item):
    """Last query states `(Q, D)`, and each layer's keys and values, of the regions one after another."""
    passes = [
        branch.qformer(
            queries[None],
            query_length=len(queries),
            vision_key_values=branch.project_vision(region[None, None]),
            keep_key_values=True,
        )
        for queries, region in zip(item.queries, item.regions, strict=True)
    ]
    num_layers = len(passes[0].key_values)
    key_values = [
        tuple(torch.cat([p.key_values[layer][part] for p in passes], dim=2) for part in (0, 1))
        for layer in range(num_layers)
    ]
    return torch.cat([p.last[0] for p in passes]), key_values


def similarity(branch: MF2Branch, image: Item, text: Item) -> torch.Tensor:
    """The best cosine over the image's queries, divided by the temperature."""
    ids = torch.tensor([text.ids])
    words = branch.text_projection(branch.encode_text(ids, torch.ones_like(ids))[0, 0])
    queries = branch.vision_projection(query_pass(branch, image)[0])
    cosines = [torch.cosine_similarity(query, words, dim=0) for query in queries]
    return torch.stack(cosines).max() / branch.temperature


def match_loss(branch: MF2Branch, image: Item, text: Item, label: int) -> torch.Tensor:
    ids = torch.tensor([text.ids])
    regions = branch.project_vision(torch.stack(image.regions)[None])
    logits = branch.match(torch.cat(image.queries)[None], regions, ids, torch.ones_like(ids))
    return -logits[0].log_softmax(-1)[label]


def soft_cross_entropy(scores: list[torch.Tensor], positive: list[bool]) -> torch.Tensor:
    """Targets: the positives in equal parts, smoothed over all."""
    log_probs = torch.stack(scores).log_softmax(0)
    targets = [(1 - SMOOTHING) * p / sum(positive) + SMOOTHING / len(scores) for p in positive]
    return -sum(target * log_prob for target, log_prob in zip(targets, log_probs, strict=True))


def draw(scores: list[float], uniform: float) -> int:
    """The index at which the running sum of softmax(scores) passes `uniform`."""
    weights = [math.exp(score - max(scores)) for score in scores]
    running = 0.0
    for index, weight in enumerate(weights):
        running += weight / sum(weights)
        if running > uniform:
            return index
    return len(scores) - 1


def hand_losses(branch: MF2Branch, items: list[list[Item | None]], uniform: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three losses.

    Args:
        items: by image and group; None where there is no text.
        uniform: `(I, 2, G)`, for the negative text and the negative image of each item.
    """
    contrast, matching, words = [], [], []
    for group in range(len(items[0])):
        members = {i: row[group] for i, row in enumerate(items) if row[group] is not None}
        score = {(i, j): similarity(branch, members[i], members[j]) for i in members for j in members}
        for i, item in members.items():
            positive = [other.caption == item.caption for other in members.values()]
            to_texts, to_images = [score[i, j] for j in members], [score[j, i] for j in members]
            contrast.append((soft_cross_entropy(to_texts, positive) + soft_cross_entropy(to_images, positive)) / 2)
            negatives = [j for j, other in members.items() if other.caption != item.caption]
            if negatives:
                text = negatives[draw([score[i, j].item() for j in negatives], uniform[i, 0, group])]
                image = negatives[draw([score[j, i].item() for j in negatives], uniform[i, 1, group])]
                matching.append(match_loss(branch, item, item, 1))
                matching.append(match_loss(branch, members[image], item, 0))
                matching.append(match_loss(branch, item, members[text], 0))
            words += word_losses(branch, item)
    return {name: mean(values) for name, values in (("itc", contrast), ("itm", matching), ("itg", words))}


def word_losses(branch: MF2Branch, item: Item) -> list[torch.Tensor]:
    """Each word after the first from `[DEC]` and the words before it, with a smoothed target."""
    _, key_values = query_pass(branch, item)
    losses = []
    for position in range(1, len(item.ids)):
        before = torch.tensor([[DEC, *item.ids[1:position]]])
        log_probs = branch.predict_tokens(branch.decode(before, None, key_values)[0, -1]).log_softmax(-1)
        losses.append(-(1 - SMOOTHING) * log_probs[item.ids[position]] - SMOOTHING * log_probs.mean())
    return losses


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean() if values else torch.tensor(0.0)


def build_items(queries, regions, ids, captions) -> list[list[Item | None]]:
    """Items from `(G, regions, Q, D)` queries, `(I, G, regions, N, W)` images and `(I, G, T)` texts."""
    return [
        [
            Item(list(queries[g]), list(regions[i, g]), [t for t in ids[i, g].tolist() if t], int(captions[i, g]))
            if captions[i, g] >= 0
            else None
            for g in range(len(queries))
        ]
        for i in range(len(regions))
    ]


# ----------------------------------------------------------------------------------------------------------- the tests
def faces() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(BATCH, len(AUS), 2, 2, generator=generator) * 0.86
    boxes = torch.cat([corners, corners + 0.14], dim=-1)
    return {"pixel_values": torch.randn(BATCH, 3, 32, 32, generator=generator), "au_boxes": boxes}


def assert_losses(losses: dict[str, torch.Tensor], branch: str, expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(losses[f"{branch}_{name}"], value, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("captions", FACE_CAPTIONS.values(), ids=FACE_CAPTIONS)
@torch.no_grad()
def test_global_branch(captions, uniform):
    model, images = make_model(use_au_vl=False), faces()
    captions = torch.tensor(captions)
    ids, mask = make_texts(captions, seed=2)
    losses = model(**images, input_ids=ids, attention_mask=mask, caption_ids=captions).losses

    tokens = model.encode_vision(images["pixel_values"]).tokens
    items = build_items(model.emo.query_embeds()[None], tokens[:, None, None], ids[:, None], captions[:, None])
    assert_losses(losses, "emo", hand_losses(model.emo, items, uniform(BATCH, 2, 1)))


@pytest.mark.parametrize("captions", FACE_CAPTIONS.values(), ids=FACE_CAPTIONS)
@torch.no_grad()
def test_local_branch_with_one_caption_an_image(captions, uniform):
    """All regions side by side are the visual input."""
    model, images = make_model(use_emo_vl=False, au_text_mode="caption"), faces()
    captions = torch.tensor(captions)
    ids, mask = make_texts(captions, seed=3)
    losses = model(**images, au_input_ids=ids, au_attention_mask=mask, au_caption_ids=captions).losses

    regions = model.encode_regions(model.encode_vision(images["pixel_values"]), images["au_boxes"])
    items = build_items(model.au.query_embeds()[None], regions[:, None], ids[:, None], captions[:, None])
    assert_losses(losses, "au", hand_losses(model.au, items, uniform(BATCH, 2, 1)))


@pytest.mark.parametrize("captions", AU_CAPTIONS.values(), ids=AU_CAPTIONS)
@torch.no_grad()
def test_local_branch_with_a_sentence_an_au(captions, uniform):
    """An AU is only compared with the same AU of other images."""
    model, images = make_model(use_emo_vl=False, au_text_mode="per_au"), faces()
    captions = torch.tensor(captions)
    ids, mask = make_texts(captions, seed=4)
    losses = model(**images, au_input_ids=ids, au_attention_mask=mask, au_caption_ids=captions).losses

    regions = model.encode_regions(model.encode_vision(images["pixel_values"]), images["au_boxes"])
    items = build_items(model.au.query_embeds()[:, None], regions[:, :, None], ids, captions)
    assert_losses(losses, "au", hand_losses(model.au, items, uniform(BATCH, 2, len(AUS))))


@torch.no_grad()
def test_captions_that_are_equal_are_found_without_their_ids(uniform):
    """Neither ids of captions nor a padding mask need be given."""
    model, images = make_model(au_text_mode="per_au"), faces()
    captions = torch.tensor(FACE_CAPTIONS["a pair and a row without text"])
    au_captions = torch.tensor(AU_CAPTIONS["pairs, gaps and an AU without negatives"])
    (ids, mask), (au_ids, au_mask) = make_texts(captions, seed=2), make_texts(au_captions, seed=4)
    texts = {"input_ids": ids, "au_input_ids": au_ids}
    masks = {"attention_mask": mask, "au_attention_mask": au_mask}
    given = model(**images, **texts, **masks, caption_ids=captions, au_caption_ids=au_captions).losses
    found = model(**images, **texts).losses
    assert given.keys() == found.keys() and len(given) == 6
    for name in given:
        torch.testing.assert_close(found[name], given[name], **EXACT)


@pytest.mark.parametrize("padding", [1, 5])
@torch.no_grad()
def test_more_padding_changes_nothing(padding, uniform):
    model, images = make_model(au_text_mode="per_au"), faces()
    captions, au_captions = torch.tensor([0, 1, 0, -1]), torch.tensor(AU_CAPTIONS["an AU without any text"])
    (ids, _), (au_ids, _) = make_texts(captions, seed=2), make_texts(au_captions, seed=4)
    longer = [F.pad(x, (0, padding)) for x in (ids, au_ids)]
    expected = model(**images, input_ids=ids, au_input_ids=au_ids).losses
    losses = model(**images, input_ids=longer[0], au_input_ids=longer[1]).losses
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name], **EXACT)


@torch.no_grad()
def test_drawn_aus_give_the_losses_of_those_aus(uniform):
    """`au_pairs_per_image` aligns some of the AUs in a step, as if the others had no text."""
    few = make_model(use_emo_vl=False, au_text_mode="per_au", au_pairs_per_image=2)
    every, images = make_model(use_emo_vl=False, au_text_mode="per_au"), faces()
    captions = torch.tensor(AU_CAPTIONS["pairs, gaps and an AU without negatives"])
    ids, mask = make_texts(captions, seed=4)
    drawn = alignment_mf2.draw_groups(mask.any(-1), 2)
    assert len(drawn) == 2
    left = torch.zeros_like(mask)
    left[:, drawn] = mask[:, drawn]
    losses = few(**images, au_input_ids=ids, au_attention_mask=mask, au_caption_ids=captions).losses
    expected = every(**images, au_input_ids=ids, au_attention_mask=left, au_caption_ids=captions).losses
    for name in ("au_itc", "au_itg"):  # ITM's random numbers have another shape
        torch.testing.assert_close(losses[name], expected[name], **EXACT)


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_and_a_weight_of_zero_skips_one(uniform):
    weights = {"itc_weight": 0.5, "itm_weight": 2, "itg_weight": 0.25, "emotion_weight": 3, "au_weight": 0.125}
    images = faces()
    captions = torch.tensor([0, 1, 2, 3])
    ids, _ = make_texts(captions, seed=2)
    batch = {
        **images,
        "input_ids": ids,
        "au_input_ids": ids,
        "emotion_labels": torch.tensor([0, 1, 2, -100]),
        "au_labels": torch.tensor([[1, 0, -1]] * BATCH),
    }
    outputs = make_model(**weights)(**batch)
    expected = sum(weights[f"{name.split('_')[-1]}_weight"] * loss for name, loss in outputs.losses.items())
    torch.testing.assert_close(outputs.loss, expected, **EXACT)
    assert len(outputs.losses) == 8
    losses = make_model(itc_weight=0, itm_weight=0)(**batch).losses
    assert set(losses) == {"emo_itg", "au_itg", "emotion", "au"}
    assert set(make_model(itg_weight=0, itm_weight=0)(**batch).losses) == {"emo_itc", "au_itc", "emotion", "au"}
