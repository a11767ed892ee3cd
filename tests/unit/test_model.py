"""The model as a whole: what it takes, what it gives, and that every switch leaves it working."""

import weakref

import pytest
import torch

from mf2 import branch_mf2
from mf2.configuration_mf2 import MF2Config
from mf2.labels_mf2 import EMOTIONS
from mf2.modeling_mf2 import MF2ForConditionalGeneration, MF2ForImageClassification, MF2ForPreTraining, MF2Model

CLASSES = [MF2Model, MF2ForPreTraining, MF2ForConditionalGeneration, MF2ForImageClassification]
AUS = (1, 12, 15)
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}


def make_model(model_class=MF2ForPreTraining, **fields) -> MF2Model:
    torch.manual_seed(0)
    fields = {"au_ids": AUS, "au_pairs_per_image": None} | fields
    return model_class(MF2Config.from_size("tiny", **fields)).eval()


def make_images(batch_size: int = 3, num_aus: int = len(AUS)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(batch_size, num_aus, 2, 2, generator=generator) * 0.86
    boxes = torch.cat([corners, corners + 0.14], dim=-1)
    return {"pixel_values": torch.randn(batch_size, 3, 64, 64, generator=generator), "au_boxes": boxes}


def make_labels(batch_size: int = 3, num_aus: int = len(AUS)) -> dict[str, torch.Tensor]:
    return {
        "emotion_labels": torch.arange(batch_size) % len(EMOTIONS),
        "au_labels": torch.arange(batch_size * num_aus).view(batch_size, num_aus) % 3 - 1,
    }


def make_texts(model: MF2Model, batch_size: int = 3) -> dict[str, torch.Tensor]:
    """Texts of both branches, of different lengths, in the shape that the model's mode wants."""
    generator = torch.Generator().manual_seed(2)
    per_au = model.config.au_text_mode == "per_au"
    au_shape = (batch_size, len(model.config.au_ids)) if per_au else (batch_size,)
    texts = {}
    for prefix, shape in (("", (batch_size,)), ("au_", au_shape)):
        ids = torch.randint(5, 1999, (*shape, 8), generator=generator)
        ids[..., 0] = 2
        ids[0, ..., 5:] = 0
        texts |= {f"{prefix}input_ids": ids, f"{prefix}attention_mask": (ids != 0).long()}
    return texts


def make_batch(model: MF2Model, batch_size: int = 3) -> dict[str, torch.Tensor]:
    num_aus = len(model.config.au_ids)
    return make_images(batch_size, num_aus) | make_labels(batch_size, num_aus) | make_texts(model, batch_size)


def without_gradient(model: MF2Model) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


# ------------------------------------------------------------------------------------------------------------- outputs
def test_shapes_of_what_is_seen():
    model = make_model(MF2Model)
    outputs, config = model(**make_images()), model.config
    emo_queries, au_queries = config.emo_config.num_query_tokens, config.au_config.num_query_tokens
    assert outputs.au_logits.shape == (3, 3)
    assert outputs.emotion_logits.shape == (3, 8)
    assert outputs.emotion_embeds.shape == (3, emo_queries, config.projection_dim)
    assert outputs.au_embeds.shape == (3, 3, au_queries, config.projection_dim)
    assert outputs.emotion_states.shape == (3, emo_queries, config.emo_config.hidden_size)
    assert outputs.au_states.shape == (3, 3, au_queries, config.au_config.hidden_size)
    for embeds in (outputs.emotion_embeds, outputs.au_embeds):
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(embeds.shape[:-1]))


def test_what_else_a_processor_returns_is_not_needed():
    model, images = make_model(MF2Model), make_images()
    extra = {
        "landmarks_px": torch.zeros(3, 68, 2),
        "align_matrix": torch.zeros(3, 3, 3),
        "input_ids": torch.zeros(3, 4),
    }
    torch.testing.assert_close(model(**images, **extra).au_logits, model(**images).au_logits, rtol=0, atol=0)


def test_recognisers_read_global_and_local_features():
    """Emotion from [global ; mean of local], AU i from [local i ; global], as in the paper."""
    model = make_model(MF2Model, joint_width=0)
    outputs = model(**make_images())
    face, aus = outputs.emotion_states.mean(1), outputs.au_states.mean(2)
    expected = model.recognizers.emotion_head(torch.cat([face, aus.mean(1)], dim=-1))
    torch.testing.assert_close(outputs.emotion_logits, expected, rtol=1e-5, atol=1e-5)
    for au in range(len(AUS)):
        features = torch.cat([aus[:, au], face], dim=-1)
        expected = features @ model.recognizers.au_head.weight[au] + model.recognizers.au_head.bias[au]
        torch.testing.assert_close(outputs.au_logits[:, au], expected, rtol=1e-5, atol=1e-5)


def test_rows_do_not_see_each_other():
    model, images = make_model(MF2Model), make_images()
    together = model(**images)
    for row in range(3):
        alone = model(**{name: tensor[row : row + 1] for name, tensor in images.items()})
        torch.testing.assert_close(alone.au_logits[0], together.au_logits[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.emotion_embeds[0], together.emotion_embeds[row], rtol=1e-5, atol=1e-5)


def test_a_region_reaches_its_own_au_only():
    model, images = make_model(MF2Model), make_images()
    before = model(**images).au_states
    images["au_boxes"][:, 1] = torch.tensor([[0.0, 0.0, 0.14, 0.14], [0.5, 0.5, 0.64, 0.64]])
    changed = (model(**images).au_states - before).abs().amax((0, 2, 3)) > 1e-6
    assert changed.tolist() == [False, True, False]


def test_aus_that_share_a_region_are_told_apart():
    """AU12 and AU15 read the same places; their embeddings differ."""
    model, images = make_model(MF2Model), make_images()
    images["au_boxes"][:, 2] = images["au_boxes"][:, 1]
    states = model(**images).au_states
    assert (states[:, 1] - states[:, 2]).abs().max() > 1e-3
    with torch.no_grad():
        model.au.au_embeddings.weight[2] = model.au.au_embeddings.weight[1]
    states = model(**images).au_states
    torch.testing.assert_close(states[:, 1], states[:, 2])


def test_the_places_in_a_region_are_told_apart():
    """Its two centres are not a bag of tokens: one may lie on the left, one on the right."""
    model, images = make_model(MF2Model, initializer_range=0.2), make_images()
    swapped = images | {"au_boxes": images["au_boxes"].flip(2)}
    assert (model(**images).au_states - model(**swapped).au_states).abs().max() > 0.01
    with torch.no_grad():
        model.au.region_embeddings.weight.zero_()
    torch.testing.assert_close(model(**images).au_states, model(**swapped).au_states, rtol=1e-5, atol=1e-5)


def test_the_label_space_is_the_checkpoints():
    model = make_model(MF2Model, au_thresholds=[0.2, 0.4, 0.6])
    assert model.label_space.au_codes == ("AU1", "AU12", "AU15")
    assert model.label_space.thresholds == (0.2, 0.4, 0.6)
    assert model.label_space.emotions == EMOTIONS


def test_a_branch_that_is_not_there_is_named():
    model = make_model(MF2Model, use_au_vl=False)
    with pytest.raises(ValueError, match="no 'au' branch; it has 'emo'"):
        model.get_text_features(torch.ones(1, 3, dtype=torch.long), branch="au")


def test_a_text_longer_than_the_positions_is_refused_with_both_numbers():
    model = make_model(MF2Model)
    with pytest.raises(ValueError, match="300 tokens was given; the branch has 256 positions"):
        model.get_text_features(torch.ones(1, 300, dtype=torch.long))


# ------------------------------------------------------------------------------------------------------------ switches
SWITCHES = {
    "both branches": {},
    "one caption an image": {"au_text_mode": "caption"},
    "global branch only": {"use_au_vl": False},
    "local branch only": {"use_emo_vl": False},
    "local branch only, one caption": {"use_emo_vl": False, "au_text_mode": "caption"},
    "one AU": {"au_ids": [12]},
    "one AU, one caption": {"au_ids": [12], "au_text_mode": "caption"},
    "two levels": {"local_feature_levels": [-1, 1]},
    "frozen ViT": {"vision_config": VIT, "freeze_vision": True},
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("fields", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_trains_every_parameter(fields, batch_size):
    """Batch 1 has no hard negatives; its matching head still belongs to the graph, as DDP needs it."""
    model = make_model(**fields)
    outputs = model(**make_batch(model, batch_size))
    names = {"emo": model.config.use_emo_vl, "au": model.config.use_au_vl}
    alignment = {f"{branch}_{loss}" for branch, on in names.items() if on for loss in ("itc", "itm", "itg")}
    assert outputs.losses.keys() == alignment | {"emotion", "au"}
    assert all(loss.isfinite() for loss in outputs.losses.values())
    assert outputs.au_logits.shape == (batch_size, len(model.config.au_ids))
    outputs.loss.backward()
    assert without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("fields", [{}, {"au_text_mode": "caption"}], ids=["per_au", "caption"])
def test_rows_without_labels_and_texts_train_every_parameter(fields):
    """They give losses of zero."""
    model = make_model(**fields)
    batch = make_batch(model)
    batch["emotion_labels"].fill_(-100)
    batch["au_labels"].fill_(-1)
    batch["attention_mask"].zero_()
    batch["au_attention_mask"].zero_()
    outputs = model(**batch)
    assert [loss.item() for loss in outputs.losses.values()] == [0.0] * 8
    outputs.loss.backward()
    assert without_gradient(model) == []
    assert not any(p.grad.any() for p in model.parameters())


def test_images_alone_have_no_loss():
    outputs = make_model()(**make_images())
    assert outputs.loss is None and outputs.losses is None
    assert outputs.au_logits.isfinite().all()


def test_labels_without_texts():
    model = make_model()
    outputs = model(**make_images(), **make_labels())
    assert outputs.losses.keys() == {"emotion", "au"}
    outputs.loss.backward()
    assert model.emo.query_tokens.grad is not None and model.emo.lm_head.bias.grad is None


def test_texts_of_one_branch_only():
    model = make_model()
    texts = make_texts(model)
    outputs = model(**make_images(), input_ids=texts["input_ids"])
    assert outputs.losses.keys() == {"emo_itc", "emo_itm", "emo_itg"}


def test_without_aus_or_emotions():
    model = make_model(au_ids=[], use_au_vl=False)
    outputs = model(pixel_values=make_images()["pixel_values"], emotion_labels=torch.tensor([1, 2, 3]))
    assert outputs.au_logits is None and outputs.losses.keys() == {"emotion"}
    model = make_model(emotions=[])
    outputs = model(**make_images(), au_labels=make_labels()["au_labels"])
    assert outputs.emotion_logits is None and outputs.losses.keys() == {"au"}


def test_boxes_are_not_needed_without_the_local_branch():
    model = make_model(MF2Model, use_au_vl=False)
    outputs = model(pixel_values=make_images()["pixel_values"])
    assert outputs.au_logits.shape == (3, 3) and outputs.au_embeds is None


# -------------------------------------------------------------------------------------------------------- text weights
def is_text_weight(name: str) -> bool:
    """Whether only texts pass through a parameter."""
    part, *rest = name.split(".")[1:] if name.startswith(("emo.", "au.")) else ("",)
    text_ffn = part == "qformer" and rest[:2] == ["encoder", "layer"] and rest[3] in ("intermediate", "output")
    return text_ffn or part in ("embeddings", "text_projection", "lm_head", "itm_head", "temperature")


def test_images_never_touch_the_text_weights():
    model, images = make_model(MF2Model), make_images()
    before = model(**images)
    poisoned = [name for name, _ in model.named_parameters() if is_text_weight(name)]
    assert len(poisoned) == 2 * (2 + 2 + 5 + 2 + 1 + 2 * 6)  # embeddings, projection, LM and ITM head, two layers' FFN
    with torch.no_grad():
        for name in poisoned:
            model.get_parameter(name).fill_(float("nan"))
    after = model(**images)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------- ways of running
def gradients_of_a_step(checkpointing: bool) -> dict[str, torch.Tensor]:
    """In training mode: dropout is repeated in what is computed again."""
    model = make_model(vision_config=VIT).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    assert model.au.qformer.encoder.layer[0].gradient_checkpointing is checkpointing
    torch.manual_seed(3)
    model(**make_batch(model)).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient():
    expected, gradients = gradients_of_a_step(checkpointing=False), gradients_of_a_step(checkpointing=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_images_in_parts_are_seen_as_all_at_once(batch_size, monkeypatch):
    model, images = make_model(MF2Model), make_images(batch_size)
    whole = model.encode_branches(**images)
    assert whole["au"].states.shape[:2] == (batch_size, len(AUS))
    passes = count_passes(model)
    for queries_at_once, parts in ((1, batch_size), (12, -(-batch_size // 2))):
        monkeypatch.setattr(branch_mf2, "QUERIES_AT_ONCE", queries_at_once)
        passes.clear()
        views = model.encode_branches(**images)
        assert passes.count("au") == parts
        for name, view in whole.items():
            torch.testing.assert_close(views[name].states, view.states, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(views[name].pooled, view.pooled, rtol=1e-6, atol=1e-6)


def count_passes(model: MF2Model) -> list[str]:
    """A list that grows by a branch's name with each pass of its Q-Former."""
    passes = []
    for name, branch in model.branches.items():
        branch.qformer.register_forward_pre_hook(lambda *_, name=name: passes.append(name))
    return passes


@pytest.mark.parametrize("trained", ["vision_model", "au.query_tokens", "au.region_embeddings", "au.qformer.encoder"])
def test_images_stay_together_where_something_is_trained(trained, monkeypatch):
    monkeypatch.setattr(branch_mf2, "QUERIES_AT_ONCE", 1)
    model = make_model(MF2Model, freeze_vision=False).requires_grad_(False)
    passes = count_passes(model)
    model(**make_images())
    assert passes == ["emo"] * 3 + ["au"] * 3
    passes.clear()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    model(**make_images())
    assert passes.count("au") == 1


@pytest.mark.parametrize("model_class", CLASSES)
@torch.no_grad()
def test_an_image_pass_holds_no_layer_but_the_last(model_class):
    """Neither its states nor the image's keys and values, by the time that the next runs."""
    model = make_model(model_class, au_config={"num_hidden_layers": 4, "cross_attention_frequency": 1})
    alive, layers = [], []

    def remember(_, inputs: tuple) -> None:
        alive.append([layer for layer, tensor in layers if tensor() is not None])
        layers.extend((len(alive), weakref.ref(tensor)) for tensor in (inputs[0], *inputs[3]))

    for layer in model.au.qformer.encoder.layer:
        layer.register_forward_pre_hook(remember)
    model.forward_adapters(["base"], **make_images())
    assert alive == [[], [], [], []]


@torch.no_grad()
def test_keys_and_values_are_kept_for_texts_alone(monkeypatch):
    kept, encode_image = [], branch_mf2.MF2Branch.encode_image

    def watch(branch, vision_states, au_ids=None, keep_key_values=False):
        view = encode_image(branch, vision_states, au_ids, keep_key_values)
        kept.append((bool(view.key_values), bool(view.vision_key_values)))
        return view

    monkeypatch.setattr(branch_mf2.MF2Branch, "encode_image", watch)
    model = make_model(MF2ForPreTraining)
    model(**make_images(), **make_labels())
    assert kept == [(False, False)] * 2
    model(**make_batch(model))
    assert kept[2:] == [(True, True)] * 2


@pytest.mark.parametrize("au_text_mode", ["per_au", "caption"])
def test_bf16_autocast_stays_near(au_text_mode):
    model = make_model(au_text_mode=au_text_mode)
    batch = make_batch(model)
    torch.manual_seed(3)
    expected = model(**batch)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**batch)
    torch.testing.assert_close(outputs.au_logits.float(), expected.au_logits, rtol=0.05, atol=0.05)
    for name, loss in expected.losses.items():
        assert outputs.losses[name].dtype == torch.float32
        assert outputs.losses[name].item() == pytest.approx(loss.item(), rel=0.05, abs=0.02), name
    outputs.loss.backward()
    assert without_gradient(model) == []
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_in_bf16_sees():
    model, images = make_model(MF2Model), make_images()
    expected = model(**images).au_logits
    logits = model.to(torch.bfloat16)(**images).au_logits  # pixels may stay in fp32
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("mirrors", [False, True])
def test_the_image_path_compiles_in_one_graph(mirrors):
    model, images = make_model(MF2Model, vision_config=VIT, mirror_emotions=mirrors).eval(), make_images(2)
    with torch.no_grad():
        expected = model(**images)
        outputs = torch.compile(model, backend="eager", fullgraph=True)(**images)
    torch.testing.assert_close(outputs.au_logits, expected.au_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.emotion_embeds, expected.emotion_embeds, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- retrieval
def test_features_and_scores():
    model, images = make_model(MF2Model), make_images()
    ids = make_texts(model)["input_ids"]
    text = model.get_text_features(ids).pooler_output
    face = model.get_image_features(**images).pooler_output
    config = model.config
    assert text.shape == (3, config.projection_dim)
    assert face.shape == (3, config.emo_config.num_query_tokens, config.projection_dim)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(face, model(**images).emotion_embeds, rtol=0, atol=0)
    scores = model.get_retrieval_scores(face[:2], text)
    assert scores.shape == (2, 3)
    for i in range(2):
        for m in range(3):
            assert scores[i, m].item() == pytest.approx((face[i] @ text[m]).max().item(), abs=1e-6)


def test_features_of_the_local_branch():
    """All regions' queries side by side; the texts go through the local branch's own weights."""
    model, images = make_model(MF2Model), make_images()
    ids = make_texts(model)["input_ids"]
    aus = model.get_image_features(**images, branch="au").pooler_output
    torch.testing.assert_close(aus, model(**images).au_embeds.flatten(1, 2), rtol=0, atol=0)
    local, of_face = (model.get_text_features(ids, branch=branch).pooler_output for branch in ("au", "emo"))
    assert local.shape == of_face.shape and not torch.allclose(local, of_face)


def test_padding_of_a_text_does_not_count():
    model = make_model(MF2Model)
    ids = torch.tensor([[2, 7, 8, 3]])
    padded = torch.nn.functional.pad(ids, (0, 5))
    short, found, masked = (
        model.get_text_features(ids).pooler_output,
        model.get_text_features(padded).pooler_output,
        model.get_text_features(padded, (padded != 0).long()).pooler_output,
    )
    torch.testing.assert_close(found, short, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked, short, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ one checkpoint
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_saved_model_comes_back(model_class, tmp_path):
    model, images = make_model(model_class), make_images()
    model.save_pretrained(tmp_path)
    again = model_class.from_pretrained(tmp_path)
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    expected, outputs = (MF2Model.forward(m.eval(), **images) for m in (model, again))
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor, rtol=1e-5, atol=1e-5)


def test_all_classes_read_one_checkpoint(tmp_path):
    """Whichever class wrote it; no key is missing, unexpected or newly made."""
    make_model(MF2ForPreTraining, au_text_mode="caption").save_pretrained(tmp_path)
    images = make_images()
    logits = []
    for model_class in CLASSES:
        model, loading = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        logits.append(MF2Model.forward(model.eval(), **images).emotion_logits)
    assert all(torch.equal(other, logits[0]) for other in logits[1:])
    classifier = MF2ForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(classifier(**images).logits, logits[0], rtol=0, atol=0)


def test_shards(tmp_path):
    model, images = make_model(MF2Model), make_images()
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    again = MF2Model.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**images).au_logits, model(**images).au_logits, rtol=1e-5, atol=1e-5)


def test_loading_in_bf16_and_back(tmp_path):
    make_model(MF2Model).to(torch.bfloat16).save_pretrained(tmp_path)
    assert MF2Model.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert MF2Model.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_classification_has_names_and_a_loss():
    model = make_model(MF2ForImageClassification)
    labels = torch.tensor([4, -100, 0])
    outputs = model(**make_images(), labels=labels)
    expected = torch.nn.functional.cross_entropy(outputs.logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(outputs.loss, expected, rtol=1e-5, atol=1e-5)
    assert model.config.id2label[4] == "Happiness"
    assert model(**make_images()).loss is None


@pytest.mark.parametrize("keep_key_values", [False, True])
def test_direct_states_are_what_the_first_cross_attention_reads(keep_key_values):
    model = make_model(MF2Model, direct_states=True)
    images = make_images()
    sampled = model.sample_vision(**images)
    views = model.encode_branches(**images, keep_key_values=keep_key_values)
    for name, tokens in (("emo", sampled.tokens[:, None]), ("au", model.project_regions(sampled.regions))):
        branch = model.get_branch(name)
        attention = branch.qformer.encoder.layer[0].crossattention.attention
        expected = attention.value(branch.normalize_vision(tokens)).mean(2)
        torch.testing.assert_close(views[name].pooled[:, :, 0], expected, rtol=1e-5, atol=1e-5)
    plain = make_model(MF2Model)
    assert plain.encode_branches(**images)["au"].pooled[:, :, 0].std(0).max() < 1e-6  # of all images the same


def test_recognisers_read_the_direct_states_beside_the_last():
    model, images = make_model(MF2Model, direct_states=True), make_images()
    pooled = {name: view.pooled.clone() for name, view in model.encode_branches(**images).items()}
    before = model.recognizers(pooled)
    pooled["au"][:, 1, 0, 0] += 1
    after = model.recognizers(pooled)
    assert (after.au_logits != before.au_logits).any() and (after.emotion_logits != before.emotion_logits).any()
