"""Our Q-Former against transformers' BERT and BLIP-2, and its fast paths against the plain ones."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
)
from transformers.cache_utils import DynamicCache
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from mf2.branch_mf2 import MF2Branch
from mf2.configuration_mf2 import MF2Config
from mf2.modeling_mf2 import MF2Model
from mf2.qformer_mf2 import MF2QFormer
from mf2.training.pretrained_weights import load_pretrained_parts

QUERIES, TEXT, VISION_TOKENS, ROWS = 5, 7, 9, 4
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT_SIDE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
DEC = 60
LOCAL_ONLY = {"au_embeddings", "region_embeddings"}
EXACT = {"rtol": 1e-5, "atol": 1e-5}


def our_model(attention: str = "sdpa", text_reads_queries: str = "entering", **fields) -> MF2Model:
    branch = TEXT_SIDE | {"vocab_size": DEC + 1, "num_query_tokens": QUERIES, "text_reads_queries": text_reads_queries}
    config = MF2Config(
        vision_config={"model_type": "blip_2_vision_model", **VISION},
        emo_config=branch,
        au_config=branch,
        au_ids=[1, 12],
        bos_token_id=DEC,
        eos_token_id=3,
        projection_dim=16,
        emotion_text_length=40,
        au_text_length=40,
        **fields,
    )
    return MF2Model._from_config(config, attn_implementation=attention).eval()


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its start: biases of 0 and scales of 1 would hide a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        start = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        parameter.copy_(start + 0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


class Pair(NamedTuple):
    """Our branch, and transformers' modules with the same weights."""

    branch: MF2Branch
    qformer: Blip2QFormerModel
    embeddings: Blip2TextEmbeddings

    def reference(self, ids: torch.Tensor | None, mask: torch.Tensor | None, image: torch.Tensor | None):
        """One pass of transformers' Q-Former over [queries; text], whichever of them is given.

        Args:
            mask: `(rows, tokens)`, or 4-D: what is added to the attention scores.
        """
        rows = len(ids if ids is not None else image)
        queries = None if image is None else self.branch.query_tokens.expand(rows, -1, -1)
        if image is not None:
            image = self.branch.vision_layernorm(image)
        return self.qformer(
            query_embeds=self.embeddings(input_ids=ids, query_embeds=queries),
            query_length=0 if queries is None else QUERIES,
            attention_mask=mask,
            encoder_hidden_states=image,
        ).last_hidden_state


def make_pair(attention: str, text_reads_queries: str = "entering") -> Pair:
    config = Blip2QFormerConfig(
        **TEXT_SIDE | {"vocab_size": DEC + 1},
        encoder_hidden_size=VISION["hidden_size"],
        cross_attention_frequency=2,
        use_qformer_text_input=True,
    )
    qformer = randomise(Blip2QFormerModel._from_config(config, attn_implementation=attention), seed=1)
    embeddings = randomise(Blip2TextEmbeddings(config), seed=2)
    branch = randomise(our_model(attention, text_reads_queries), seed=3).emo
    branch.qformer.load_state_dict(qformer.state_dict())  # strict: the names are the same
    branch.embeddings.load_state_dict(embeddings.state_dict())
    return Pair(branch, qformer, embeddings)


@pytest.fixture(params=["sdpa", "eager"])
def pair(request) -> Pair:
    return make_pair(request.param)


@pytest.fixture(scope="module")
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """`(rows, T)` ids that begin with [CLS] = 2 and their padding masks, of all lengths from 1 to T."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(4, DEC, (ROWS, TEXT), generator=generator)
    ids[:, 0] = 2
    lengths = torch.tensor([TEXT, 4, 1, 6])
    mask = (torch.arange(TEXT) < lengths[:, None]).long()
    return ids * mask, mask


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(ROWS, VISION_TOKENS, VISION["hidden_size"], generator=torch.Generator().manual_seed(5))


def assert_close_where(mask: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """States of padding are nobody's."""
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], **EXACT)


def padding_mask_with_queries(mask: torch.Tensor) -> torch.Tensor:
    return torch.cat([mask.new_ones(len(mask), QUERIES), mask], dim=1)


# ------------------------------------------------------------------------------------------------------ against BLIP-2
def test_query_only_pass(pair, image):
    states = pair.branch.encode_image(image[:, None]).states[:, 0]
    torch.testing.assert_close(states, pair.reference(None, None, image), **EXACT)


def test_text_only_pass(pair, texts):
    ids, mask = texts
    assert_close_where(mask, pair.branch.encode_text(ids, mask), pair.reference(ids, mask, None))


def joint_pass(branch: MF2Branch, ids, mask, image) -> torch.Tensor:
    queries = branch.query_embeds().expand(len(ids), -1, -1)
    return branch.qformer(
        torch.cat([queries, branch.embeddings(ids)], dim=1),
        query_length=QUERIES,
        attention_mask=padding_mask_with_queries(mask),
        vision_key_values=branch.project_vision(image[:, None]),
    ).last


def test_joint_pass(pair, texts, image):
    ids, mask = texts
    mask_with_queries = padding_mask_with_queries(mask)
    ours = joint_pass(pair.branch, ids, mask, image)
    assert_close_where(mask_with_queries, ours, pair.reference(ids, mask_with_queries, image))


def test_gradients_of_a_joint_pass(pair, texts, image):
    ids, mask = texts
    mask_with_queries = padding_mask_with_queries(mask)
    for states in (
        joint_pass(pair.branch, ids, mask, image),
        pair.reference(ids, mask_with_queries, image),
    ):
        (states[mask_with_queries.bool()] ** 2).mean().backward()
    theirs = dict(pair.qformer.named_parameters())
    for name, parameter in pair.branch.qformer.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, **EXACT)


def generation_mask(mask: torch.Tensor) -> torch.Tensor:
    """What one pass over [queries; text] must hide for generation, written out: `(rows, 1, tokens, tokens)`.

    Queries see queries. A token sees every query, itself and what comes before it, save padding.
    """
    rows, tokens = mask.shape[0], QUERIES + TEXT
    hidden = torch.full((rows, 1, tokens, tokens), torch.finfo(torch.float32).min)
    for row in range(rows):
        for seer in range(tokens):
            for seen in range(tokens):
                is_query = seen < QUERIES
                is_earlier_text = seer >= QUERIES and QUERIES <= seen <= seer and mask[row, seen - QUERIES]
                if is_query or is_earlier_text:
                    hidden[row, 0, seer, seen] = 0.0
    return hidden


def test_two_stage_generation_equals_one_masked_pass(pair, texts, image):
    """The text runs on the keys and values of the query-only pass; with gradient into the queries."""
    ids, mask = texts
    visual = pair.branch.encode_image(image[:, None], keep_key_values=True)
    ours = pair.branch.decode(ids, mask, visual.key_values)
    theirs = pair.reference(ids, generation_mask(mask), image)
    torch.testing.assert_close(visual.states[:, 0], theirs[:, :QUERIES], **EXACT)
    assert_close_where(mask, ours, theirs[:, QUERIES:])

    queries = pair.branch.query_tokens
    (of_ours,) = torch.autograd.grad((ours[mask.bool()] ** 2).mean(), queries)
    (of_theirs,) = torch.autograd.grad((theirs[:, QUERIES:][mask.bool()] ** 2).mean(), queries)
    torch.testing.assert_close(of_ours, of_theirs, **EXACT)
    assert of_ours.abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_text_reads_the_queries_as_they_leave_a_layer(attention, texts, image):
    """Each of transformers' layers, given the queries that left it beside the text; with gradient into the queries."""
    pair = make_pair(attention, "leaving")
    ids, mask = texts
    visual = pair.branch.encode_image(image[:, None], keep_key_values=True)
    ours = pair.branch.decode(ids, mask, visual.key_values)

    vision, hidden = pair.branch.vision_layernorm(image), generation_mask(mask)
    queries = pair.embeddings(query_embeds=pair.branch.query_tokens.expand(ROWS, -1, -1))
    queries, text = (pair.qformer.layernorm(states) for states in (queries, pair.embeddings(input_ids=ids)))
    for layer in pair.qformer.encoder.layer:
        queries = layer(queries, encoder_hidden_states=vision, query_length=QUERIES)
        both = layer(torch.cat([queries, text], 1), hidden, encoder_hidden_states=vision, query_length=QUERIES)
        text = both[:, QUERIES:]
    torch.testing.assert_close(visual.states[:, 0], queries, **EXACT)
    assert_close_where(mask, ours, text)

    of_ours, of_theirs = (
        torch.autograd.grad((states[mask.bool()] ** 2).mean(), pair.branch.query_tokens, retain_graph=True)[0]
        for states in (ours, text)
    )
    torch.testing.assert_close(of_ours, of_theirs, **EXACT)


def test_where_text_reads_the_queries_changes_nothing_else(texts, image):
    """Neither what is seen nor what is matched."""
    ids, mask = texts
    entering, leaving = (make_pair("sdpa", way).branch for way in ("entering", "leaving"))
    views = [branch.encode_image(image[:, None], keep_key_values=True) for branch in (entering, leaving)]
    assert torch.equal(views[0].states, views[1].states) and torch.equal(views[0].pooled, views[1].pooled)
    queries = entering.query_embeds().expand(ROWS, -1, -1)
    matched = [
        branch.match(queries, view.vision_key_values, ids, mask)
        for branch, view in zip((entering, leaving), views, strict=True)
    ]
    assert torch.equal(*matched)
    written = [
        branch.decode(ids, mask, view.key_values) for branch, view in zip((entering, leaving), views, strict=True)
    ]
    assert not torch.allclose(*written, atol=0.1)


@pytest.mark.parametrize("text_reads_queries", ["entering", "leaving"])
def test_generation_token_by_token_equals_all_at_once(text_reads_queries, texts, image):
    pair = make_pair("sdpa", text_reads_queries)
    ids, _ = texts
    visual = pair.branch.encode_image(image[:, None], keep_key_values=True)
    at_once = pair.branch.decode(ids, None, visual.key_values)
    cache = DynamicCache()
    steps = [pair.branch.decode(ids[:, t : t + 1], None, visual.key_values, cache) for t in range(TEXT)]
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once, **EXACT)


def test_regions_side_by_side_equal_each_region_alone(pair, texts, image):
    """Queries of several regions in one row: each part cross-attends to its own region (`au_text_mode="caption"`)."""
    branch = pair.branch
    queries = branch.query_embeds().expand(2, -1, -1).reshape(1, 2 * QUERIES, -1)
    vision = next(branch.project_vision(image[None, :2]))
    layer = branch.qformer.encoder.layer[0]
    together = layer._query_block(queries, vision)
    alone = [
        layer._query_block(queries[:, :QUERIES], next(branch.project_vision(image[None, i : i + 1]))) for i in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), **EXACT)


# ------------------------------------------------------------------------------------------------- published starts
@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> tuple[str, BertForMaskedLM]:
    """A saved BERT, with the key names of `bert-base-uncased`."""
    model = randomise(BertForMaskedLM(BertConfig(**TEXT_SIDE)))
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return str(folder), model


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> tuple[str, Blip2ForImageTextRetrieval]:
    """A saved BLIP-2, with the key names of `Salesforce/blip2-itm-vit-g`."""
    qformer = TEXT_SIDE | {"vocab_size": DEC + 1, "encoder_hidden_size": VISION["hidden_size"]}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config={**qformer, "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
    )
    model = randomise(Blip2ForImageTextRetrieval(config))
    folder = tmp_path_factory.mktemp("blip2")
    model.save_pretrained(folder)
    return str(folder), model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_text_path_started_from_bert_equals_bert(bert, texts, attention):
    path, theirs = bert
    ids, mask = texts
    model = randomise(our_model(attention), seed=6)
    not_filled = load_pretrained_parts(model, text=path)
    for name, branch in model.branches.items():
        states = branch.encode_text(ids, mask)
        assert_close_where(mask, states, theirs.bert(ids, mask).last_hidden_state)
        assert_close_where(mask, branch.predict_tokens(states)[..., :DEC], theirs(ids, mask).logits)
        queries_side = {"query_tokens", "vision_layernorm", "vision_projection", "itm_head"}
        rest = {key.split(".")[0] for key in not_filled[name] if ".crossattention." not in key} - LOCAL_ONLY
        assert rest == queries_side | {"text_projection", "temperature"}


def test_query_ffns_start_as_copies_of_berts(bert):
    model = our_model()
    load_pretrained_parts(model, text=bert[0])
    for layer in model.emo.qformer.encoder.layer:
        for text, query in ((layer.intermediate, layer.intermediate_query), (layer.output, layer.output_query)):
            copies = query.state_dict()
            assert all(torch.equal(tensor, copies[name]) for name, tensor in text.state_dict().items())


def test_a_model_started_from_blip2_matches_and_retrieves_as_blip2(blip2, texts):
    """Tower, queries, text side, projections and ITM head together, from pixels to scores."""
    path, theirs = blip2
    ids, mask = texts
    model = randomise(our_model(), seed=6)
    not_filled = load_pretrained_parts(model, qformer=path)
    assert not_filled["vision"] == []
    assert {name.split(".")[0] for name in not_filled["emo"]} == {"lm_head", "temperature"}
    pixels = torch.randn(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    tokens = model.encode_vision(pixels).tokens

    view = model.emo.encode_image(tokens[:, None], keep_key_values=True)
    queries = model.emo.query_embeds().expand(ROWS, -1, -1)
    matched = model.emo.match(queries, view.vision_key_values, ids, mask)
    expected = theirs(pixels, ids, mask, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(matched, expected, **EXACT)

    texts_embeds = model.get_text_features(ids, mask).pooler_output
    scores = model.get_retrieval_scores(model.emo.embed_image(view.states[:, 0]), texts_embeds)
    torch.testing.assert_close(scores, theirs(pixels, ids, mask).logits_per_image, **EXACT)


def test_a_published_start_of_another_width_names_both_shapes(bert):
    branch = TEXT_SIDE | {"hidden_size": 16, "vocab_size": DEC + 1}
    config = MF2Config(
        vision_config={"model_type": "blip_2_vision_model", **VISION},
        emo_config=branch,
        au_config=branch,
        bos_token_id=DEC,
        eos_token_id=3,
        emotion_text_length=40,
        au_text_length=40,
    )
    with pytest.raises(ValueError, match=r"has shape \(\d+, 16\) in the model and \(\d+, 32\) in"):
        load_pretrained_parts(MF2Model(config), text=bert[0])


# -------------------------------------------------------------------------------------------------------- fast paths
def padded_match(branch: MF2Branch, ids, mask, image, pairs: torch.Tensor) -> torch.Tensor:
    """ITM logits of `(pairs, 2)` texts and images, each pair a padded row of its own."""
    text, picture = pairs.T
    return branch.itm_head(joint_pass(branch, ids[text], mask[text], image[picture])[:, :QUERIES]).mean(1)


def packed_match(branch: MF2Branch, ids, mask, image, pairs: torch.Tensor) -> torch.Tensor:
    text, picture = pairs.T
    queries = branch.query_embeds().expand(len(ids), -1, -1)
    return branch.match(queries, branch.project_vision(image[picture][:, None]), ids, mask, text)


def padded_pool(branch: MF2Branch, ids, mask, image, pairs) -> torch.Tensor:
    return branch.qformer(branch.embeddings(ids), attention_mask=mask, pool=lambda states: states[:, 0]).pooled


def padded_words(branch: MF2Branch, ids, mask, image, pairs) -> torch.Tensor:
    prefix = branch.encode_image(image[:, None], keep_key_values=True).key_values
    return branch.decode(ids, mask, prefix)[mask.bool()]


def packed_words(branch: MF2Branch, ids, mask, image, pairs) -> torch.Tensor:
    prefix = branch.encode_image(image[:, None], keep_key_values=True).key_values
    return branch.write(ids, mask.bool(), prefix)


PACKED_AND_PADDED = {
    "match": (packed_match, padded_match),
    "start of a text": (
        lambda branch, ids, mask, *_: branch.summarize_text(ids, mask),
        lambda branch, ids, mask, *_: branch.encode_text(ids, mask)[:, :1],
    ),
    "pooled texts": (lambda branch, ids, mask, *_: branch.pool_text(ids, mask), padded_pool),
    "generation": (packed_words, padded_words),
}


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", PACKED_AND_PADDED)
def test_packed_rows_equal_padded_ones(case, attention, num_layers, texts, image):
    """Values and gradients; texts of a pair are read once for all of its images until these are seen."""
    branch = make_pair(attention).branch.double()
    del branch.qformer.encoder.layer[num_layers:]
    ids, mask = (F.pad(x, (0, 3)) for x in texts)  # more padding than the longest text needs
    pairs = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3], [0, 2], [1, 0], [2, 0], [3, 3], [1, 3]])
    found = []
    for read in PACKED_AND_PADDED[case]:
        states = read(branch, ids, mask, image.double(), pairs)
        branch.zero_grad()
        (states**2).mean().backward()
        gradients = {name: p.grad.clone() for name, p in branch.named_parameters() if p.grad is not None}
        found.append((states, gradients))
    (packed, ours), (padded, theirs) = found
    torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-9)
    assert len(ours) > 10 * num_layers and ours.keys() <= theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours.get(name, torch.zeros_like(gradient)), gradient, rtol=1e-9, atol=1e-9)


def without_dropout(branch: MF2Branch) -> None:
    for module in branch.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    branch.qformer.has_dropout = False


@pytest.mark.parametrize("text_reads_queries", ["entering", "leaving"])
@pytest.mark.parametrize("name", ["emo", "au"])
def test_queries_that_are_read_once_give_the_same(name, text_reads_queries):
    """The first self-attention of the queries, computed once for all images: states, keys and values, gradients."""
    branch = getattr(randomise(our_model(text_reads_queries=text_reads_queries), seed=3).double(), name).train()
    without_dropout(branch)
    num_views = 2 if name == "au" else 1
    states = torch.randn(ROWS, num_views, branch.config.num_region_tokens, VISION["hidden_size"]).double()
    found = []
    for branch.qformer.has_dropout in (False, True):
        view = branch.encode_image(states, keep_key_values=True)
        tensors = [view.states, view.pooled, *(x for pair in view.key_values for x in pair)]
        branch.zero_grad()
        sum((x**2).mean() for x in tensors).backward()
        found.append((tensors, {name: p.grad.clone() for name, p in branch.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("direct_states", [False, True])
def test_regions_that_are_not_projected_give_the_same(monkeypatch, direct_states):
    """States, pooled states, the keys and values of drawn regions, and all gradients."""
    model = our_model(direct_states=direct_states, au_text_mode="per_au", au_pairs_per_image=1)
    branch = randomise(model, seed=3).double().au.train()
    without_dropout(branch)
    generator = torch.Generator().manual_seed(6)
    regions = torch.randn(
        ROWS, 2, branch.config.num_region_tokens, VISION["hidden_size"], generator=generator
    ).double()
    drawn, found = torch.tensor([1]), []
    for skips in (True, False):
        monkeypatch.setattr(MF2QFormer, "saves_projection", lambda *_, skips=skips: skips)
        view = branch.encode_image(regions, keep_key_values=True)
        assert bool(view.vision_key_values) is not skips
        tensors = [view.states, view.pooled, *(x for pair in view.key_values for x in pair)]
        tensors += [x for pair in branch.vision_key_values(view, drawn) if pair for x in pair]
        branch.zero_grad()
        sum((x**2).mean() for x in tensors).backward()
        found.append((tensors, {name: p.grad.clone() for name, p in branch.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    assert len(found[0][1]) > 80


@pytest.mark.parametrize(
    "num_queries, num_states, saves", [(2, 24, True), (2, 8, True), (32, 49, False), (8, 8, False)]
)
def test_projections_are_skipped_where_that_is_less_work(num_queries, num_states, saves):
    assert our_model().au.qformer.saves_projection(num_queries, num_states) is saves


def test_layers_that_are_more_than_linear_are_called():
    """An adapter of a projection, or a hook on it, is not passed by."""
    qformer = our_model().au.qformer
    handle = qformer.encoder.layer[0].crossattention.attention.key.register_forward_hook(lambda *_: None)
    assert not qformer.saves_projection(2, 24)
    handle.remove()
    assert qformer.saves_projection(2, 24)
    layer = qformer.encoder.layer[2].crossattention.attention
    layer.value = nn.Sequential(layer.value)
    assert not qformer.saves_projection(2, 24)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_empty_batch_runs_and_reaches_every_weight(attention):
    """A process whose rows have no text still takes part in the collectives of the others."""
    branch = make_pair(attention).branch
    ids = torch.zeros(0, TEXT, dtype=torch.long)
    image = torch.zeros(0, VISION_TOKENS, VISION["hidden_size"])
    view = branch.encode_image(image[:, None], keep_key_values=True)
    queries = branch.query_embeds().expand(0, -1, -1)
    logits = branch.match(queries, view.vision_key_values, ids, ids)
    words = branch.predict_tokens(branch.write(ids, ids.bool(), view.key_values))
    embeds = branch.embed_text(branch.summarize_text(ids, ids))
    assert (logits.shape, words.shape, embeds.shape) == ((0, 2), (0, DEC + 1), (0, 16))
    (logits.sum() + words.sum() + embeds.sum() + branch.embed_image(view.states).sum()).backward()
    missing = [name for name, p in branch.named_parameters() if p.grad is None or p.grad.any()]
    assert missing == ["temperature"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_flex_attention_equals_sdpa(texts, image):
    """Its masks are objects, not tensors. Without compilation, which on a CPU would take most of a minute."""
    ids, mask = texts

    def all_passes(branch: MF2Branch) -> list[torch.Tensor]:
        view = branch.encode_image(image[:, None], keep_key_values=True)
        text = branch.encode_text(ids, mask)[mask.bool()]
        words = branch.decode(ids, mask, view.key_values)[mask.bool()]
        queries = branch.query_embeds().expand(ROWS, -1, -1)
        packed = [branch.write(ids, mask.bool(), view.key_values), branch.pool_text(ids, mask)]
        match = branch.match(queries, view.vision_key_values, ids, mask, torch.arange(ROWS))
        return [view.states, text, words, match, *packed]

    with torch.compiler.set_stance("force_eager"):
        flex = all_passes(make_pair("flex_attention").branch)
    for ours, expected in zip(flex, all_passes(make_pair("sdpa").branch), strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)
