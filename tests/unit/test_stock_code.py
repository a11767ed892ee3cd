"""What code that knows transformers and PEFT, but not MF², reads off a model: it must be what the model answers."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from small_adapters import DISFA, EMOTIONS, RAF_DB, adapted, make_images, make_labels, small_model
from tiny_mf2 import make_tiny, save_tiny
from transformers import GenerationConfig, ImageClassificationPipeline, Trainer, TrainingArguments, pipeline
from transformers.utils import logging as transformers_logging

import mf2
from mf2.peft_dfn import DFNConfig

OWN = list(EMOTIONS)


def named(model) -> list[str]:
    """The emotions that stock code sees."""
    config = model.config
    assert config.label2id == {name: index for index, name in config.id2label.items()}
    assert config.num_labels == len(config.id2label)
    return list(config.id2label.values())


@pytest.fixture
def saved_adapters(tmp_path):
    """Folders of an adapter with other emotions, and of one without any."""
    for name, fields in {"raf": {"emotions": RAF_DB}, "disfa": {"au_ids": DISFA, "emotions": []}}.items():
        adapted(**fields).save_pretrained(tmp_path / name)
    return tmp_path


# ------------------------------------------------------------------------------------------------------ label spaces
def test_id2label_follows_what_answers_under_peft():
    model = adapted(name="raf", emotions=RAF_DB)
    base = model.get_base_model()
    assert named(base) == RAF_DB
    model.add_adapter("disfa", DFNConfig(au_ids=DISFA, emotions=[]))
    assert named(base) == RAF_DB
    model.set_adapter("disfa")
    assert named(base) == []
    with model.disable_adapter():
        assert named(base) == OWN
    assert named(base) == []
    model.delete_adapter("disfa")
    assert named(base) == RAF_DB == list(base.label_space.emotions)
    assert named(model.unload()) == OWN


def test_id2label_follows_what_answers_under_transformers(saved_adapters):
    model = small_model()
    model.load_adapter(str(saved_adapters / "raf"), adapter_name="raf")
    assert named(model) == RAF_DB
    model.load_adapter(str(saved_adapters / "disfa"), adapter_name="disfa")
    model.set_adapter("raf")
    assert named(model) == RAF_DB
    model.disable_adapters()
    assert named(model) == OWN
    model.enable_adapters()
    assert named(model) == RAF_DB
    model.delete_adapter("raf")
    assert named(model) == list(model.label_space.emotions)
    model.delete_adapter("disfa")
    assert named(model) == OWN


def test_an_adapters_names_are_not_saved_as_the_checkpoints(tmp_path):
    model = adapted(emotions=RAF_DB).get_base_model()
    model.config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert list(content["id2label"].values()) == content["emotions"] == OWN
    assert named(model) == RAF_DB
    assert mf2.MF2Config.from_pretrained(tmp_path).id2label == dict(enumerate(OWN))


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def classifier(model) -> ImageClassificationPipeline:
    processor = make_tiny()[1].image_processor
    return ImageClassificationPipeline(model=model, image_processor=processor)


def test_the_stock_pipeline_names_the_adapters_emotions(picture):
    model = small_model(mf2.MF2ForImageClassification)
    model.add_adapter(DFNConfig(emotions=RAF_DB), adapter_name="raf")
    with torch.no_grad():
        model.recognizers.dfn_sides["raf"].emotion_head.bias[RAF_DB.index("Happiness")] = 9.0
    answers = classifier(model.eval())(picture, top_k=len(RAF_DB))
    assert answers[0]["label"] == "Happiness" and answers[0]["score"] > 0.9
    assert {answer["label"] for answer in answers} == set(RAF_DB)
    model.disable_adapters()
    assert {answer["label"] for answer in classifier(model)(picture)} == set(EMOTIONS)


def test_the_stock_pipeline_refuses_an_adapter_without_emotions(picture):
    model = small_model(mf2.MF2ForImageClassification)
    model.add_adapter(DFNConfig(au_ids=[1, 12], emotions=[]), adapter_name="aus")
    with pytest.raises(ValueError, match=r"no emotion to classify.*facial-state-analysis") as caught:
        classifier(model.eval())(picture)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- boxes
def boxes_of(au_ids) -> dict[str, torch.Tensor]:
    """Boxes that depend on the AU alone, in that order, and whose they are."""
    images = make_images(num_aus=16)
    every = {au_id: images["au_boxes"][:, place] for place, au_id in enumerate(sorted(mf2.ACTION_UNITS)[:16])}
    owners = torch.tensor(list(au_ids)).expand(3, -1)
    return images | {"au_boxes": torch.stack([every[au_id] for au_id in au_ids], dim=1), "au_ids": owners}


OWN_AUS = (1, 12, 15)


@torch.no_grad()
@pytest.mark.parametrize("order", [(15, 12, 1), (4, 1, 15, 2, 12)])
def test_boxes_in_another_order_are_put_right(order):
    model = small_model(mf2.MF2ForConditionalGeneration)
    wanted, given = boxes_of(OWN_AUS), boxes_of(order)
    expected = mf2.MF2Model.forward(model, **wanted)
    assert torch.equal(mf2.MF2Model.forward(model, **given).au_logits, expected.au_logits)
    features = [model.get_image_features(**batch, branch="au").pooler_output for batch in (wanted, given)]
    assert torch.equal(*features)
    captions = [model.generate(**batch, caption_kind="au", max_new_tokens=4) for batch in (wanted, given)]
    assert torch.equal(*captions)
    classes = small_model(mf2.MF2ForImageClassification)
    assert torch.equal(classes(**given).logits, classes(**wanted).logits)


@torch.no_grad()
def test_boxes_of_several_adapters_in_any_order():
    model = adapted(au_ids=[12, 4, 1], emotions=[]).get_base_model()
    union = boxes_of((1, 12, 15, 4))
    expected = model.forward_adapters(["base", "default"], **union)
    for order in ((4, 15, 1, 12), (12, 4, 1, 15), (2, 4, 15, 1, 6, 12)):
        outputs = model.forward_adapters(["base", "default"], **boxes_of(order))
        for name, output in outputs.items():
            assert torch.equal(output.au_logits, expected[name].au_logits)
            assert torch.equal(output.au_states, expected[name].au_states)


def test_boxes_of_other_aus_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match=r"AUs 1, 12, 25, but .* also needs 15"):
        model(**boxes_of((1, 12, 25)))
    two = boxes_of((1, 12, 15))
    with pytest.raises(ValueError, match="boxes of different AUs"):
        model(**two | {"au_ids": torch.tensor([(1, 12, 15), (1, 15, 12), (1, 12, 15)])})
    with pytest.raises(ValueError, match="au_ids has shape"):
        model(**two | {"au_ids": torch.tensor([1, 12])})
    adapters = adapted(au_ids=[12, 4, 1], emotions=[]).get_base_model()
    union = boxes_of((1, 12, 15, 4))
    del union["au_ids"]
    with pytest.raises(ValueError, match="au_ids must say whose"):
        adapters.forward_adapters(["base", "default"], **union)


def test_the_processor_says_whose_boxes_they_are(picture):
    _, processor = make_tiny()
    batch = processor([picture, picture])
    assert batch["au_ids"].tolist() == [processor.au_ids] * 2
    space = mf2.LabelSpace(au_ids=(9, 5))
    assert processor.for_label_spaces(space)(picture)["au_ids"].tolist() == [[9, 5]]


# --------------------------------------------------------------------------------------------------------- arguments
def test_a_misspelt_argument_is_refused():
    """Labels under a misspelt name would be no labels."""
    model, images = small_model(), make_images()
    with pytest.raises(TypeError, match="'au_lables'; did you mean 'au_labels'"):
        model(**images, au_lables=make_labels()["au_labels"])
    with pytest.raises(TypeError, match="PEFT"):
        model(**images, adapter_names=["default"] * 3)


def test_outputs_come_in_their_documented_order():
    model, images = small_model().eval(), make_images()
    output = model(**images, **make_labels())
    names = list(type(output).__dataclass_fields__)
    assert names[2] == "loss_floors" and output.loss_floors is None  # of alignment alone
    assert output.affect is None  # of a label space without it
    seen = [name for name in names[3:] if name != "affect"]
    assert list(output.keys()) == ["loss", "losses", *seen]
    assert output[0] is output.loss
    without = model(**images)
    assert list(without.keys()) == seen and without.losses is None
    predictions = {"loss", "au_logits", "emotion_logits", "affect"}
    assert set(model.config.keys_to_ignore_at_inference) == set(names) - predictions


def test_id2label_at_load_names_the_emotions(tmp_path):
    small_model(mf2.MF2ForImageClassification).save_pretrained(tmp_path)
    names = ["calm", "cross", "glad", "sad"]
    renamed = mf2.MF2ForImageClassification.from_pretrained(
        tmp_path, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}, num_labels=4
    )
    assert named(renamed) == names == list(renamed.label_space.emotions)
    fewer = mf2.MF2ForImageClassification.from_pretrained(
        tmp_path, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, ignore_mismatched_sizes=True
    )
    assert fewer(**make_images()).logits.shape == (3, 2)
    for wrong in (
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
        {"num_labels": 3},
        {"id2label": {1: "a"}},
    ):
        with pytest.raises(ValueError, match=r"id2label|num_labels"):
            mf2.MF2ForImageClassification.from_pretrained(tmp_path, **wrong)
    with pytest.raises(ValueError, match="give one of them"):
        mf2.MF2ForImageClassification.from_pretrained(tmp_path, id2label={0: "a"}, emotions=["b"])


def test_a_generation_config_of_the_caller_wins():
    model, processor = make_tiny()
    batch = processor(Image.new("RGB", (40, 40)))
    settings = GenerationConfig(max_new_tokens=3, min_new_tokens=3, eos_token_id=model.config.eos_token_id)
    assert model.generate(**batch, generation_config=settings).shape[1] == 4
    assert model.generate(**batch, generation_config=GenerationConfig(max_length=3)).shape[1] <= 3


def test_what_generation_cannot_do_is_refused_or_said(caplog):
    model, processor = make_tiny()
    batch = processor(Image.new("RGB", (40, 40)))
    for settings in (
        {"prompt_lookup_num_tokens": 3},
        {"generation_config": GenerationConfig(prompt_lookup_num_tokens=3)},
    ):
        with pytest.raises(ValueError, match="prompt_lookup_num_tokens is not supported"):
            model.generate(**batch, **settings)


def test_the_stock_text_pipeline_says_that_prompts_are_not_read(tmp_path, caplog):
    """It has no other way to ask, so that its answer is that of no prompt, and it says so."""
    folder = save_tiny(tmp_path / "tiny")
    write = pipeline("image-text-to-text", model=str(folder), trust_remote_code=True, max_new_tokens=3)
    answers = []
    for prompt in ("What is seen?", "Anything else?"):
        transformers_logging.warning_once.cache_clear()
        caplog.clear()
        (answer,) = write(images=Image.new("RGB", (40, 40)), text=prompt)
        said = [record.getMessage() for record in caplog.records if "Prompts are not read" in record.getMessage()]
        assert len(said) == 1 and "caption_kind='emotion' | 'key_au' | 'au'" in said[0]
        answers.append(answer["generated_text"].removeprefix(prompt))
    assert answers[0] == answers[1]


def test_adapters_are_not_averaged():
    with pytest.raises(NotImplementedError, match="forward_adapters"):
        two_adapters().add_weighted_adapter(["a", "b"], [0.5, 0.5], "c")


def test_results_are_named_from_a_dictionary_too():
    model, processor = make_tiny()
    outputs = mf2.MF2Model.forward(model, **processor(Image.new("RGB", (40, 40))))
    expected = processor.post_process_facial_states(outputs, model.label_space)
    logits = {"au_logits": outputs.au_logits, "emotion_logits": outputs.emotion_logits}
    assert processor.post_process_facial_states(logits, model.label_space) == expected
    assert set(processor.post_process_facial_states({"au_logits": outputs.au_logits})[0]) == {"aus", "active"}


def test_retrieval_scores_take_what_the_features_come_in():
    model, processor = make_tiny()
    images = model.get_image_features(**processor(Image.new("RGB", (40, 40))))
    texts = model.get_text_features(**processor(text=["a smile", "brows"]))
    expected = model.get_retrieval_scores(images.pooler_output, texts.pooler_output)
    assert torch.equal(model.get_retrieval_scores(images, texts), expected) and expected.shape == (1, 2)


# ---------------------------------------------------------------------------------------------------- adapter a row
def two_adapters() -> PeftModel:
    model = adapted(name="a", emotions=RAF_DB, seed=3)
    return adapted(model, name="b", emotions=RAF_DB, seed=4)


@torch.no_grad()
def test_rows_are_answered_by_the_adapters_that_are_named():
    model, images = two_adapters(), make_images()
    expected = {}
    for name in "ab":
        model.set_adapter(name)
        expected[name] = model(**images)
    assert not torch.allclose(expected["a"].au_logits, expected["b"].au_logits)
    rows = ["b", "a", "b"]
    mixed = model(**images, adapter_names=rows)
    for row, name in enumerate(rows):
        torch.testing.assert_close(mixed.au_logits[row], expected[name].au_logits[row])
        torch.testing.assert_close(mixed.emotion_logits[row], expected[name].emotion_logits[row])
    assert torch.equal(model(**images).au_logits, expected["b"].au_logits)  # the active one's again
    with model.disable_adapter():
        base = model(**images)
    own = adapted(name="a", au_ids=list(OWN_AUS), emotions=OWN)
    mixed = own(**images, adapter_names=["__base__", "a", "__base__"])
    torch.testing.assert_close(mixed.au_logits[::2], base.au_logits[::2])


def test_rows_that_are_no_tensor_are_refused():
    model, images = two_adapters(), make_images()
    with pytest.raises(ValueError, match=r"outputs differ.*forward_adapters"):
        model(**images, adapter_names=["a", "__base__", "a"])
    with pytest.raises(ValueError, match="No adapter is called 'c'"):
        model(**images, adapter_names=["a", "c", "a"])
    with pytest.raises(ValueError, match="2 adapter_names for 3 rows"):
        model(**images, adapter_names=["a", "b"])
    with pytest.raises(ValueError, match="leave out the labels"):
        model(**images, adapter_names=["a", "b", "a"], **make_labels())
    with pytest.raises(ValueError, match="inference"):
        model.train()(**images, adapter_names=["a", "b", "a"])


# ------------------------------------------------------------------------------------------------------------ Trainer
def update_of(make, batch, batch_size, accumulation, folder) -> torch.Tensor:
    """How one step of the stock Trainer, of plain gradient descent, changes the weights."""
    model = make()
    part = model.get_base_model() if isinstance(model, PeftModel) else model
    part.vision_model.requires_grad_(False).eval()  # whose batch statistics differ between batch sizes
    for module in model.modules():  # what is dropped would differ, too
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    settings = TrainingArguments(
        str(folder),
        max_steps=1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    rows = [{name: values[row] for name, values in batch.items()} for row in range(batch_size * accumulation)]
    Trainer(model, settings, train_dataset=rows).train()
    after = dict(model.named_parameters())
    return torch.cat([(after[name] - weight).flatten() for name, weight in before.items()])


LABELS = {"emotion_labels": torch.arange(4) % 4, "au_labels": torch.arange(12).view(4, 3) % 2}
CLASSES = {
    "MF2Model": (small_model, LABELS),
    "MF2ForPreTraining": (lambda: small_model(mf2.MF2ForPreTraining), LABELS),
    "MF2ForImageClassification": (
        lambda: small_model(mf2.MF2ForImageClassification),
        {"labels": LABELS["emotion_labels"]},
    ),
    "MF2ForConditionalGeneration": (
        lambda: small_model(mf2.MF2ForConditionalGeneration),
        {"input_ids": torch.arange(5, 29).view(4, 6), "labels": torch.arange(5, 29).view(4, 6)},
    ),
    "PeftModel": (lambda: get_peft_model(small_model(), DFNConfig(alignment_weight=0.0)), LABELS),
}


@pytest.mark.parametrize("name", CLASSES)
def test_accumulated_gradients_are_those_of_one_batch(name, tmp_path):
    make, labels = CLASSES[name]
    batch = make_images(batch_size=4) | labels
    at_once = update_of(make, batch, 4, 1, tmp_path)
    in_parts = update_of(make, batch, 2, 2, tmp_path)
    assert at_once.norm() > 0
    torch.testing.assert_close(in_parts, at_once, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["output_attentions", "output_hidden_states"])
def test_what_is_not_returned_is_refused(name):
    images = make_images(batch_size=1)
    for model in (small_model(), small_model(mf2.MF2ForImageClassification)):
        with pytest.raises(ValueError, match=f"{name}=True.*leave {name} out"):
            model(**images, **{name: True})
        model(**images, **{name: False})
    writer = small_model(mf2.MF2ForConditionalGeneration)
    with pytest.raises(ValueError, match=f"{name}=True"):
        writer.generate(**images, **{name: True})
    with pytest.raises(ValueError, match=f"{name}=True"):
        writer(**images, input_ids=torch.tensor([[5, 6]]), **{name: True})


@pytest.mark.parametrize(
    ("name", "value", "bound"), [("au_labels", 2, "0 … 1"), ("au_labels", 0.5, "0 … 1"), ("emotion_labels", 99, "0 …")]
)
@pytest.mark.parametrize("make", [small_model, CLASSES["PeftModel"][0]])
def test_labels_that_are_no_class_are_named(make, name, value, bound):
    labels = dict(LABELS)
    labels[name] = labels[name].float() if isinstance(value, float) else labels[name].clone()
    labels[name].view(-1)[1] = value
    with pytest.raises(ValueError, match=f"{name} has {value}: labels are {bound}"):
        make()(**make_images(batch_size=4), **labels)
