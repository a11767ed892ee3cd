"""Captions: every way of generating against a loop that decodes from the start for each word."""

import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from small_configs import small_config
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin

from mf2 import modeling_mf2
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2ForPreTraining
from mf2.transformers_mf2 import CACHE_NAME, CACHE_NAMES, cache_name

pytestmark = pytest.mark.dependencies

AUS, WORDS, DEC, NO_EOS = (1, 12, 25), 6, 29, -1
BRANCH = {"num_query_tokens": 3, "max_position_embeddings": 16}


def make_model(model_class=MF2ForConditionalGeneration, **fields) -> MF2ForConditionalGeneration:
    """Weights large enough for different images to get different words."""
    torch.manual_seed(0)
    lengths = {"emotion_text_length": 9, "key_au_text_length": 11, "au_text_length": 13, "au_sentence_length": 7}
    config = small_config(DEC, branch=BRANCH, au_ids=AUS, initializer_range=0.3, **lengths | fields)
    return model_class(config).eval()


def make_images(batch_size: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(batch_size, len(AUS), 2, 2, generator=generator) * 0.86
    boxes = torch.cat([corners, corners + 0.14], dim=-1)
    return {"pixel_values": torch.randn(batch_size, 3, 32, 32, generator=generator) * 3, "au_boxes": boxes}


def row_of(images: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in images.items()}


# ------------------------------------------------------------------------------------------------------- the reference
@torch.no_grad()
def write_by_hand(branch, key_values, prompt: list[int], eos: int, num_words: int) -> list[int]:
    """The likeliest word, again and again, each time from the start of the text."""
    text = [DEC, *prompt]
    for _ in range(num_words):
        states = branch.decode(torch.tensor([text]), None, key_values)
        text.append(int(branch.predict_tokens(states[0, -1]).argmax()))
        if text[-1] == eos:
            break
    return text


@torch.no_grad()
def visual_keys(model, images, branch: str) -> list[list]:
    """For each visual input (a face, or image times AU) the keys and values of its own query pass."""
    vision = model.encode_vision(images["pixel_values"])
    if branch == "emo":
        return [model.emo.encode_image(tokens[None, None], None, True).key_values for tokens in vision.tokens]
    rows = model.au.encode_image(model.encode_regions(vision, images["au_boxes"]), None, True).key_values
    count = rows[0][0].shape[0]
    return [[(keys[i : i + 1], values[i : i + 1]) for keys, values in rows] for i in range(count)]


def padded(texts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, texts))
    return [text + [0] * (longest - len(text)) for text in texts]


def common_word(model, images, kind: str) -> int:
    """A word that some texts hold and others do not, in the middle: an end of text that comes at different places."""
    ids = model.generate(**images, caption_kind=kind, eos_token_id=NO_EOS, max_new_tokens=WORDS).flatten(0, -2)
    for word in ids[:, 2:-1].unique().tolist():
        if 0 < (ids == word).any(1).sum() < len(ids):
            return word
    raise AssertionError("all texts are alike; the test needs other weights")


# -------------------------------------------------------------------------------------------------------------- greedy
@pytest.mark.parametrize("use_cache", [True, False])
def test_faces(use_cache):
    """With texts that end at different lengths; the rest is padding."""
    model, images = make_model(), make_images()
    end = common_word(model, images, "emotion")
    ids = model.generate(**images, eos_token_id=end, max_new_tokens=WORDS, use_cache=use_cache)
    expected = [write_by_hand(model.emo, keys, [], end, WORDS) for keys in visual_keys(model, images, "emo")]
    assert len({len(text) for text in expected}) > 1
    assert ids.tolist() == padded(expected)


@pytest.mark.parametrize("use_cache", [True, False])
def test_aus_with_a_sentence_each(use_cache):
    """`(B, A, T)`; an AU whose probability is below its threshold gets padding only."""
    model, images = make_model(au_text_mode="per_au"), make_images()
    with torch.no_grad():
        model.recognizers.au_head.bias.copy_(torch.tensor([5.0, -100.0, -5.0]))
    probabilities = model.recognize(model.encode_branches(**images)).au_logits.sigmoid()
    model.config.au_thresholds = [probabilities[:, 0].median().item(), 0.5, 1e-9]  # half, none, all
    end = common_word(model, images, "au")
    ids = model.generate(**images, caption_kind="au", eos_token_id=end, max_new_tokens=WORDS, use_cache=use_cache)
    active = probabilities >= torch.tensor(model.config.au_thresholds)
    assert active.sum(0).tolist()[1:] == [0, 4] and 0 < active[:, 0].sum() < 4
    texts = [
        write_by_hand(model.au, keys, [], end, WORDS) if seen else []
        for keys, seen in zip(visual_keys(model, images, "au"), active.flatten(), strict=True)
    ]
    expected = torch.tensor(padded(texts)).unflatten(0, (4, 3))
    assert torch.equal(ids, expected)


def test_no_active_au_is_padding():
    model, images = make_model(au_text_mode="per_au"), make_images()
    with torch.no_grad():
        model.recognizers.au_head.bias.fill_(-100.0)
    ids = model.generate(**images, caption_kind="au")
    assert ids.shape == (4, 3, 1) and not ids.any()


@pytest.mark.parametrize("use_cache", [True, False])
def test_aus_in_one_caption(use_cache):
    """The text sees the queries of all regions side by side."""
    model, images = make_model(au_text_mode="caption"), make_images()
    end = common_word(model, images, "au")
    ids = model.generate(**images, caption_kind="au", eos_token_id=end, max_new_tokens=WORDS, use_cache=use_cache)
    rows = visual_keys(model, images, "au")
    expected = []
    for image in range(4):
        regions = rows[3 * image : 3 * image + 3]
        layers = zip(*regions, strict=True)
        joined = [tuple(torch.cat(parts, dim=2) for parts in zip(*layer, strict=True)) for layer in layers]
        expected.append(write_by_hand(model.au, joined, [], end, WORDS))
    assert ids.tolist() == padded(expected)


def test_prompts_tell_the_kinds_apart():
    prompts = {"emotion": [7, 8], "key_au": [9]}
    model, images = make_model(emo_text="random", caption_prompt_ids=prompts), make_images()
    for kind, prompt in prompts.items():
        ids = model.generate(**images, caption_kind=kind, eos_token_id=NO_EOS, max_new_tokens=WORDS)
        keys = visual_keys(model, images, "emo")
        texts = [write_by_hand(model.emo, row, prompt, NO_EOS, WORDS) for row in keys]
        assert all(text[: 1 + len(prompt)] == [DEC, *prompt] for text in texts)
        assert ids.tolist() == [[DEC, *text[1 + len(prompt) :]] for text in texts]


def test_without_prompts_the_kinds_of_the_global_branch_are_one():
    model, images = make_model(), make_images()
    emotion, key_au = (model.generate(**images, caption_kind=k, max_new_tokens=WORDS) for k in ("emotion", "key_au"))
    assert torch.equal(emotion, key_au)


@pytest.mark.parametrize(
    ("kind", "fields", "length"),
    [
        ("emotion", {}, 9),
        ("key_au", {}, 11),
        ("au", {}, 13),
        ("au", {"au_text_mode": "per_au"}, 7),
        ("emotion", {"emo_text": "random", "caption_prompt_ids": {"emotion": [7, 8]}}, 9 - 2),
    ],
)
def test_texts_are_as_long_as_the_configuration_says(kind, fields, length):
    """`[DEC]` and the prompt count; the prompt is not returned."""
    model, images = make_model(**fields), make_images(2)
    with torch.no_grad():
        model.recognizers.au_head.bias.fill_(100.0)
    ids = model.generate(**images, caption_kind=kind, eos_token_id=NO_EOS)
    assert ids.shape[-1] == length


def test_the_configurations_special_tokens_are_generations():
    model = make_model()
    tokens = model.generation_config
    assert (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id) == (DEC, 3, 0)


# -------------------------------------------------------------------------------------------------- beams and sampling
def test_as_many_beams_as_words_find_the_best_text():
    """Two words: the best of all pairs, by brute force."""
    model, images = make_model(), make_images(2)
    ids = model.generate(**images, num_beams=DEC + 1, max_new_tokens=2, eos_token_id=NO_EOS, length_penalty=0.0)
    for row, keys in enumerate(visual_keys(model, images, "emo")):
        texts = torch.tensor([[DEC, *pair] for pair in itertools.product(range(DEC + 1), repeat=2)])
        with torch.no_grad():
            many = [tuple(x.expand(len(texts), -1, -1, -1) for x in layer) for layer in keys]
            log_probs = model.emo.predict_tokens(model.emo.decode(texts, None, many)).log_softmax(-1)
        scores = log_probs[:, :-1].gather(2, texts[:, 1:, None]).squeeze(2).sum(1)
        assert ids[row].tolist() == texts[scores.argmax()].tolist()


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "long beams": {"num_beams": 3, "length_penalty": 2.0},
    "sampling": {"do_sample": True, "top_k": 10},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}


@pytest.mark.parametrize("kind", ["emotion", "au"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_cache_changes_nothing(way, kind):
    model, images = make_model(au_text_mode="per_au"), make_images()
    end = common_word(model, images, kind)
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        texts.append(
            model.generate(**images, caption_kind=kind, eos_token_id=end, max_new_tokens=5, use_cache=use_cache, **way)
        )
    assert torch.equal(*texts)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize(("kind", "au_text_mode"), [("emotion", "caption"), ("au", "caption"), ("au", "per_au")])
def test_rows_do_not_depend_on_their_batch(way, kind, au_text_mode):
    model, images = make_model(au_text_mode=au_text_mode), make_images()
    end = common_word(model, images, kind)
    settings = {"caption_kind": kind, "max_new_tokens": 5, "eos_token_id": end, **way}
    fill = {0, end} if way else {0}  # transformers' beam search takes a padding id of 0 for none and repeats the end
    together = model.generate(**images, **settings)
    assert len(together.flatten(1).unique(dim=0)) > 1
    for row in range(4):
        alone = model.generate(**row_of(images, row), **settings)
        length = alone.shape[-1]
        assert torch.equal(together[row, ..., :length], alone[0])
        assert set(together[row, ..., length:].flatten().tolist()) <= fill


def test_samples_vary_with_the_seed_and_the_likeliest_word_is_greedy():
    model, images = make_model(), make_images()
    settings = {"max_new_tokens": WORDS, "eos_token_id": NO_EOS}
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(model.generate(**images, do_sample=True, temperature=2.0, top_k=0, **settings))
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    likeliest = model.generate(**images, do_sample=True, top_k=1, **settings)
    assert torch.equal(likeliest, model.generate(**images, **settings))


def test_several_texts_for_a_face():
    model, images = make_model(), make_images(2)
    ids = model.generate(**images, num_beams=4, num_return_sequences=3, max_new_tokens=4)
    assert ids.shape[0] == 6
    assert len(ids[:3].unique(dim=0)) == 3


# ------------------------------------------------------------------------------------- what generation calls its cache
def generation_that_calls_it(name: str) -> type:
    """A greedy `GenerationMixin` that knows its cache under this one name."""

    class Generation:
        def prepare_inputs_for_generation(self, input_ids, **kwargs): ...

        def generate(self, input_ids, attention_mask, max_new_tokens, eos_token_id, **kwargs):
            new, cache = input_ids, kwargs.pop(name)
            assert isinstance(cache, Cache) and kwargs.keys() == {"visual_prefix", "caption_kind"}
            for _ in range(max_new_tokens):
                outputs = self(input_ids=new, attention_mask=attention_mask, **kwargs, **{name: cache})
                assert vars(outputs).keys() == {"loss", "logits", name} and vars(outputs)[name] is cache
                new = outputs.logits[:, -1:].argmax(-1)
                input_ids = torch.cat([input_ids, new], 1)
                attention_mask = torch.ones_like(input_ids)
            return input_ids

    signature = inspect.signature(Generation.prepare_inputs_for_generation)
    parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    *before, kwargs = signature.parameters.values()
    Generation.prepare_inputs_for_generation.__signature__ = signature.replace(parameters=[*before, parameter, kwargs])
    return Generation


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_captions_are_written_whatever_generation_calls_its_cache(name, monkeypatch):
    model, images = make_model(), make_images()
    expected = model.generate(**images, eos_token_id=NO_EOS, max_new_tokens=WORDS)
    generation = generation_that_calls_it(name)
    monkeypatch.setattr(modeling_mf2, "CACHE_NAME", cache_name(generation))
    monkeypatch.setattr(modeling_mf2, "CausalLMOutputWithPast", SimpleNamespace)
    monkeypatch.setattr(GenerationMixin, "generate", generation.generate)
    assert torch.equal(model.generate(**images, eos_token_id=NO_EOS, max_new_tokens=WORDS), expected)


def test_generation_that_calls_its_cache_otherwise_is_refused_by_name():
    with pytest.raises(ImportError, match="none of cache, past_key_values, but self, input_ids, memory, kwargs"):
        cache_name(generation_that_calls_it("memory"))


def test_generations_output_holds_the_cache():
    model, images = make_model(), make_images(2)
    written = model.generate(**images, max_new_tokens=2, eos_token_id=NO_EOS, return_dict_in_generate=True)
    assert written[CACHE_NAME].get_seq_length() == model.config.emo_config.num_query_tokens + 2


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_pass_takes_a_cache_under_either_name(name):
    model, images = make_model(), make_images(2)
    ids, cache = torch.tensor([[DEC, 7, 8]] * 2), DynamicCache()
    with torch.no_grad():
        whole = model(**images, input_ids=ids).logits
        parts = [model(**images, input_ids=ids[:, i : i + 1], **{name: cache}).logits for i in range(3)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- the classes
def test_what_else_a_processor_returns_is_ignored():
    model, images = make_model(), make_images()
    extra = {"landmarks_px": torch.zeros(4, 68, 2), "au_labels": torch.zeros(4, 3), "attention_mask": torch.ones(4, 5)}
    assert torch.equal(model.generate(**images, **extra), model.generate(**images))


def test_unknown_kinds_and_missing_branches_are_named():
    model, images = make_model(use_au_vl=False), make_images()
    with pytest.raises(ValueError, match="'aus'; choose one of emotion, key_au, au"):
        model.generate(**images, caption_kind="aus")
    with pytest.raises(ValueError, match="no 'au' branch; it has 'emo'"):
        model.generate(**images, caption_kind="au")


def test_what_is_trained_is_what_writes():
    """The loss of generation in pre-training is that of the writing class's logits."""
    model, images = make_model(MF2ForPreTraining, label_smoothing=0), make_images()
    writer = make_model()
    writer.load_state_dict(model.state_dict())
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0], [2, 6, 7, 3, 0], [2, 4, 4, 4, 3]])
    started = ids.clone()
    started[:, 0] = DEC
    loss = writer(**images, input_ids=started, labels=ids.masked_fill(ids == 0, -100)).loss
    torch.testing.assert_close(model(**images, input_ids=ids).losses["emo_itg"], loss, rtol=1e-5, atol=1e-5)


def test_a_saved_model_writes_the_same(tmp_path):
    model, images = make_model(caption_prompt_ids={"emotion": [7]}), make_images()
    model.save_pretrained(tmp_path)
    again = MF2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    for kind in ("emotion", "au"):
        assert torch.equal(again.generate(**images, caption_kind=kind), model.generate(**images, caption_kind=kind))


# ----------------------------------------------------------------------------------------------- what is to be written
def test_only_sentences_of_active_aus_are_learned_to_be_written():
    """Otherwise the one sentence of all inactive AUs, the most frequent text, would be written for active ones too."""
    model, images = make_model(MF2ForPreTraining, au_text_mode="per_au"), make_images()
    labels = torch.tensor([[1, 0, -1]] * 4)
    texts = torch.randint(5, DEC, (4, len(AUS), 7), generator=torch.Generator().manual_seed(2))

    def written_loss(changed: int | None) -> float:
        ids = texts.clone()
        if changed is not None:
            ids[:, changed, 3] = 4
        with torch.no_grad():
            return model(**images, au_labels=labels, au_input_ids=ids).losses["au_itg"].item()

    assert written_loss(changed=1) == pytest.approx(written_loss(changed=None), abs=1e-6)
    assert abs(written_loss(changed=0) - written_loss(changed=None)) > 1e-3
