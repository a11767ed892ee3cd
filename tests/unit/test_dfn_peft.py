"""DFN under PEFT's tools, transformers' own and plain loops: what is saved, loaded, switched, trained and left alone.

Equality is exact throughout: nothing here may change a number.
"""

import copy
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file
from small_adapters import (
    BP4D,
    DISFA,
    RAF_DB,
    adapted,
    make_batch,
    make_images,
    side_of,
    small_config,
    small_model,
)
from tiny_mf2 import make_tiny, write_pictures
from transformers import Trainer, TrainerCallback, TrainingArguments

from mf2.modeling_mf2 import MF2Model, MF2Output
from mf2.peft_dfn import DFNConfig
from mf2.recognition_mf2 import MF2Recognizers

pytestmark = pytest.mark.dependencies

SPACES = {
    "disfa": {"au_ids": DISFA, "emotions": []},
    "bp4d": {"au_ids": BP4D, "emotions": [], "au_thresholds": [0.3] * 12, "r": 3},
    "rafdb": {"au_ids": [], "emotions": RAF_DB, "num_kept_states": 2, "use_gates": False},
}


def assert_same(ours: MF2Output, theirs: MF2Output) -> None:
    """The same entries, bit by bit."""
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        if isinstance(values, torch.Tensor):
            assert torch.equal(ours[name], values), name


def images_for(model) -> dict[str, torch.Tensor]:
    """Images with as many regions as the active label space looks at."""
    return make_images(len(model.label_space.region_au_ids))


@torch.no_grad()
def see(model) -> MF2Output:
    return model(**images_for(model))


@pytest.fixture
def saved(tmp_path) -> tuple[PeftModel, Path]:
    """An adapter in another label space than the base's, and its folder."""
    model = adapted(**SPACES["disfa"])
    model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


@pytest.fixture
def three() -> PeftModel:
    """Three adapters of different label spaces on one model."""
    model = None
    for seed, (name, fields) in enumerate(SPACES.items()):
        model = adapted(model, name, seed, **fields)
    return model


def alone(name: str) -> PeftModel:
    """One of `three`, on a model of its own."""
    return adapted(None, name, list(SPACES).index(name), **SPACES[name])


# ------------------------------------------------------------------------------------------------------- save and load
def test_the_file_holds_what_was_trained_and_nothing_else(saved):
    model, folder = saved
    trained = {
        name.replace(".dfn_sides.default.", ".dfn_sides."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    tensors = load_file(folder / "adapter_model.safetensors")
    fitted = {f"base_model.model.recognizers.dfn_sides.readout.{name}" for name in ("weight", "bias")}
    assert set(tensors) == set(trained) | fitted
    assert len(trained) == 4 + 2 * (5 + 4) * 4 + 2  # gates of 4 towers, 4 tensors of each of 18 cells, one head
    assert all(".dfn_sides." in name for name in tensors)
    assert all(torch.equal(tensors[name], parameter) for name, parameter in trained.items())


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("name", ["default", "other", "towers"])
def test_a_loaded_adapter_answers_the_same(saved, name, low_cpu_mem_usage):
    """Under any name: keys nest the adapter's name in their middle, where PEFT's own renaming does not look."""
    model, folder = saved
    loaded = PeftModel.from_pretrained(
        small_model(), folder, adapter_name=name, low_cpu_mem_usage=low_cpu_mem_usage
    ).eval()
    assert loaded.label_space == model.label_space
    assert_same(see(loaded), see(model))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_configuration_comes_back(saved):
    model, folder = saved
    config = DFNConfig.from_pretrained(folder)
    expected = model.peft_config["default"]
    fields = set(vars(expected)) - {"inference_mode", "auto_mapping"}  # what saving sets
    assert {name: getattr(config, name) for name in fields} == {name: getattr(expected, name) for name in fields}
    assert config.au_ids == DISFA and config.emotions == [] and config.base_region_au_ids == [1, 12, 15]


def test_it_can_be_trained_on(saved):
    _, folder = saved
    loaded = PeftModel.from_pretrained(small_model(), folder, is_trainable=True)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, _ in loaded.named_parameters() if "dfn_sides" in name
    }


def test_an_older_peft_is_refused(monkeypatch):
    """Before 0.21 there is no such hook: adapters are then saved and loaded without their towers, silently."""
    monkeypatch.delattr(BaseTuner, "_remove_adapter_name_from_key")
    monkeypatch.setattr("peft.__version__", "0.20.0")
    with pytest.raises(ImportError, match=r"DFN needs peft>=0.21, but 0.20.0 is installed.*pip install -U peft"):
        adapted()


def test_saving_a_loaded_adapter_leaves_the_same_file(saved, tmp_path):
    _, folder = saved
    PeftModel.from_pretrained(small_model(), folder, adapter_name="other").save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "again" / "other", folder))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_one_of_several_is_saved_without_the_others(three, tmp_path):
    three.save_pretrained(tmp_path, selected_adapters=["bp4d"])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["bp4d"]
    loaded = PeftModel.from_pretrained(small_model(), tmp_path / "bp4d").eval()
    assert_same(see(loaded), see(alone("bp4d")))
    assert loaded.label_space.thresholds == (0.3,) * 12


# --------------------------------------------------------------------------------------------------- several adapters
def test_switching_gives_each_its_own_label_space(three):
    for name in (*SPACES, *reversed(SPACES)):
        three.set_adapter(name)
        assert list(three.label_space.au_ids) == SPACES[name]["au_ids"]
        assert list(three.label_space.emotions) == SPACES[name]["emotions"]
        assert_same(see(three), see(alone(name)))
    assert list(three.label_spaces) == ["base", *SPACES]


def test_a_second_adapter_is_loaded_beside_the_first(saved):
    model, folder = saved
    other = alone("rafdb")
    other.load_adapter(folder, adapter_name="second")
    other.set_adapter("second")
    assert_same(see(other.eval()), see(model))
    other.set_adapter("rafdb")
    assert_same(see(other), see(alone("rafdb")))


def test_only_the_active_adapter_is_trained(three):
    three.set_adapter("bp4d")
    trained = {name for name, p in three.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in three.named_parameters() if ".dfn_sides.bp4d." in name}


def test_disabled_adapters_leave_the_base(three):
    base = small_model()
    with three.disable_adapter():
        assert three.label_space == base.label_space
        assert_same(see(three), see(base))
        with torch.no_grad():
            assert_same(three(**make_batch()), base(**make_batch()))
    assert list(three.label_space.emotions) == RAF_DB


def test_a_deleted_adapter_is_gone_and_the_others_stay(three):
    three.delete_adapter("rafdb")
    assert list(three.label_spaces) == ["base", "disfa", "bp4d"]
    assert not [name for name in three.state_dict() if "rafdb" in name]
    three.set_adapter("disfa")
    assert_same(see(three), see(alone("disfa")))


def test_a_deleted_active_adapter_leaves_another_active_or_the_base(three):
    base = three.get_base_model()
    for name, left in (("rafdb", "bp4d"), ("bp4d", "disfa")):
        three.delete_adapter(name)
        assert_same(see(base), see(alone(left)))
    three.delete_adapter("disfa")
    assert_same(see(base), see(small_model()))


def test_unloading_gives_the_base_back(three):
    base = three.unload()
    assert type(base) is MF2Model and type(base.recognizers) is MF2Recognizers
    assert set(base.state_dict()) == set(small_model().state_dict())
    assert_same(see(base), see(small_model()))


def test_one_pass_answers_for_all_as_each_alone(three, tmp_path):
    """Pictures through the processor: the union of the regions once, against each label space's own."""
    _, processor = make_tiny()
    pictures = [str(path) for path in write_pictures(tmp_path, 2)]
    names = ["rafdb", "base", "bp4d", "disfa"]
    union = processor.for_label_spaces(*(three.label_spaces[name] for name in names))
    assert len(union.au_ids) == len({*three.label_spaces["rafdb"].region_au_ids, 1, 12, 15, *BP4D, *DISFA})
    with torch.no_grad():
        together = three.forward_adapters(names, **union(images=pictures))
    assert list(together) == names
    for name in names:
        single = small_model() if name == "base" else alone(name)
        inputs = processor.for_label_spaces(single.label_space)(images=pictures)
        with torch.no_grad():
            expected = single(**inputs)
        assert set(together[name]) == set(expected) - {"losses"}
        for key, values in together[name].items():
            torch.testing.assert_close(values, expected[key], rtol=1e-6, atol=1e-6)


def test_one_pass_is_one_pass(three):
    """However many adapters answer, the tower and the branches run once."""
    base, runs = three.get_base_model(), []
    for part in (base.vision_model, base.emo.qformer, base.au.qformer):
        part.register_forward_hook(lambda module, *_: runs.append(type(module).__name__))
    au_ids = list(dict.fromkeys([*BP4D, 1, 12, 15]))
    three.forward_adapters(["bp4d", "base"], **make_images(len(au_ids)), au_ids=au_ids)
    assert len(runs) == 3


# ----------------------------------------------------------------------------------------------- transformers' own way
@pytest.fixture(params=["0.1", "99.0"])
def demanding_transformers(request, monkeypatch):
    """A transformers that asks for an old PEFT, or for one that does not exist yet."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", request.param)


@pytest.mark.usefixtures("demanding_transformers")
def test_transformers_loads_switches_disables_and_deletes(saved, tmp_path):
    model, folder = saved
    alone("rafdb").save_pretrained(tmp_path / "second")
    base = small_model()
    base.load_adapter(folder)
    assert_same(see(base), see(model))
    base.load_adapter(tmp_path / "second" / "rafdb", adapter_name="second")
    base.set_adapter("second")
    assert base.active_adapters() == ["second"]
    assert_same(see(base), see(alone("rafdb")))
    base.disable_adapters()
    assert_same(see(base), see(small_model()))
    base.enable_adapters()
    assert_same(see(base), see(alone("rafdb")))
    base.delete_adapter("second")
    base.set_adapter("default")
    assert_same(see(base), see(model))
    assert not [name for name in base.state_dict() if ".second." in name]
    base.delete_adapter(["default"])
    assert_same(see(base), see(small_model()))
    with pytest.raises(ValueError, match="No adapter is loaded; call load_adapter first"):
        base.active_adapters()


def test_adapters_that_are_not_there_or_there_already_are_named(saved):
    base = small_model()
    with pytest.raises(ValueError, match="No adapter is loaded"):
        base.disable_adapters()
    base.load_adapter(saved[1])
    for call in (base.set_adapter, base.delete_adapter, base.get_adapter_state_dict):
        with pytest.raises(ValueError, match="No adapter is called 'second'; loaded are 'default'"):
            call("second")
    with pytest.raises(ValueError, match="an adapter called 'default' already"):
        base.add_adapter(DFNConfig(r=4))


@pytest.mark.usefixtures("demanding_transformers")
def test_what_lora_saves_beside_itself_is_switched_with_it():
    """A trained copy of a head, `modules_to_save`, answers with its adapter and not without."""
    torch.manual_seed(0)
    base = small_model()
    seen = see(base)
    base.add_adapter(LoraConfig(target_modules=["query"], modules_to_save=["emotion_head"]))
    with torch.no_grad():
        next(p for name, p in base.named_parameters() if "modules_to_save" in name).add_(1)
    adapted = see(base.eval())
    base.disable_adapters()
    assert_same(see(base), seen)
    base.enable_adapters()
    assert_same(see(base), adapted)
    assert not torch.equal(adapted.emotion_logits, seen.emotion_logits)


@pytest.mark.usefixtures("demanding_transformers")
def test_transformers_saves_the_adapter_alone(tmp_path):
    base = small_model()
    base.add_adapter(DFNConfig(r=4, **SPACES["disfa"]))
    assert {name for name, p in base.named_parameters() if p.requires_grad} == {
        name for name, _ in base.named_parameters() if "dfn_sides" in name
    }
    base.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names
    assert all(".dfn_sides." in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(small_model(), tmp_path).eval()
    assert_same(see(loaded), see(base.eval()))


# ------------------------------------------------------------------------------------------------------------ training
def frozen_part(model) -> dict[str, torch.Tensor]:
    """A copy of everything that must not change: weights and batch statistics."""
    return {name: value.clone() for name, value in model.state_dict().items() if "dfn_sides" not in name}


def assert_unchanged(model, before: dict[str, torch.Tensor]) -> None:
    after = frozen_part(model)
    assert set(after) == set(before)
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert any("running_mean" in name for name in before), "this tower has no batch statistics"


def train_by_accelerate(model: PeftModel, steps: int = 25) -> list[float]:
    """A plain loop; the loss at each step."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    prepared.train()
    losses, batch = [], make_batch()
    for _ in range(steps):
        loss = prepared(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("freeze_vision", [True, False])
def test_an_accelerate_loop_trains_the_side_alone(freeze_vision):
    """A tower that the checkpoint trained is frozen under the adapter, too, with its batch statistics."""
    model = get_peft_model(small_model(freeze_vision=freeze_vision), DFNConfig(r=4))
    before = frozen_part(model)
    losses = train_by_accelerate(model)
    assert losses[-1] < 0.7 * losses[0]
    assert_unchanged(model, before)


def test_frozen_parts_stay_in_evaluation_mode():
    """Dropout would make the frozen branches' states differ from those in a cache."""
    model = adapted(small_model(freeze_vision=False)).train()
    base = model.get_base_model()
    assert base.emo.qformer.training is base.vision_model.training is False
    assert side_of(model).training
    assert small_config().emo_config.hidden_dropout_prob > 0
    assert_same(see(model), see(adapted(small_model(freeze_vision=False))))


class Losses(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.values += [logs["loss"]] if "loss" in logs else []


def train_by_trainer(model, folder: Path, resume: bool | str = False, **settings) -> list[float]:
    """transformers' Trainer on single images; the logged losses."""
    batch = make_batch(batch_size=8)
    rows = [{name: values[row] for name, values in batch.items()} for row in range(8)]
    arguments = {"max_steps": 12, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 6, "seed": 1} | settings
    losses = Losses()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            remove_unused_columns=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=rows,
        callbacks=[losses],
    )
    trainer.train(resume_from_checkpoint=resume)
    return losses.values


def test_the_trainer_trains_saves_and_goes_on(tmp_path):
    model = get_peft_model(small_model(), DFNConfig(r=4))
    start, before = copy.deepcopy(model.state_dict()), frozen_part(model)
    losses = train_by_trainer(model, tmp_path / "whole")
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert_unchanged(model, before)
    kept = tmp_path / "whole" / "checkpoint-6"
    assert {path.name for path in kept.glob("*.safetensors")} == {"adapter_model.safetensors"}

    resumed = get_peft_model(small_model(), DFNConfig(r=4))
    resumed.load_state_dict(start)
    assert train_by_trainer(resumed, tmp_path / "resumed", str(kept)) == losses[6:]
    ends = (x.state_dict() for x in (model, resumed))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*(end.values() for end in ends), strict=True))


def test_the_trainer_checkpoints_gradients(tmp_path):
    plain, checkpointed = (adapted() for _ in range(2))
    losses = train_by_trainer(plain, tmp_path / "plain", max_steps=3)
    assert train_by_trainer(checkpointed, tmp_path / "on", max_steps=3, activation_checkpointing=True) == losses


def test_a_base_that_already_checkpoints_takes_an_adapter():
    """PEFT then hooks the input embeddings so that gradients flow; nothing upstream of DFN may take one."""
    base = small_model()
    base.activation_checkpointing_enable()
    model = adapted(base).train()
    model(**make_batch()).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if "dfn_sides" in name
    }


# ------------------------------------------------------------------------------------------------------------ bfloat16
def test_a_bf16_base_takes_an_fp32_adapter(tmp_path):
    model = get_peft_model(small_model().to(torch.bfloat16), DFNConfig(r=4))
    assert {p.dtype for name, p in model.named_parameters() if "dfn_sides" in name} == {torch.float32}
    before = frozen_part(model)
    losses = train_by_accelerate(model)
    assert losses[-1] < 0.8 * losses[0]
    assert_unchanged(model, before)
    outputs = see(model.eval())
    assert outputs.au_logits.dtype == torch.float32 and outputs.emotion_states.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    for low_cpu_mem_usage in (False, True):
        base = small_model().to(torch.bfloat16)
        loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
        assert_same(see(loaded), outputs)


def test_bf16_autocast_trains():
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # its cache would keep the first step's weights
        losses = train_by_accelerate(get_peft_model(small_model(), DFNConfig(r=4)))
    assert losses[-1] < 0.8 * losses[0]
