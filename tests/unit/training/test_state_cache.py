"""Cached states: what makes them other states, what an interruption costs, and that they are what a live run sees."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import mfa_row
from tiny_mf2 import save_tiny

from mf2.alignment_mf2 import split_floors
from mf2.auto_mf2 import register_auto_classes
from mf2.configuration_mf2 import MF2Config
from mf2.data_loading.collators import FaceCollator
from mf2.dataset_tools.schema import write_mfa
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.modeling_mf2 import MF2Model
from mf2.training import state_cache
from mf2.training.arguments import FinetuneArguments
from mf2.training.finetuning_methods import cache_states, make_adapter_config, prepare_dfn
from mf2.training.finetuning_task import load_task, make_caption_table
from mf2.training.state_cache import StateRows, StatesStore, collate_states
from mf2.training.trainer import make_training_arguments

NUM_TRAIN, NUM_EVAL = 12, 6


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "mf2-tiny", au_text_mode="per_au")


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    config = SynthConfig(num_train=NUM_TRAIN, num_eval=NUM_EVAL, frames_per_identity=6, image_size=64)
    return synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)


@pytest.fixture
def small_chunks(monkeypatch):
    """Four rows a chunk: three of a view of the training split, two of the evaluation split."""
    monkeypatch.setattr(state_cache, "ROWS_PER_CHUNK", 4)


@pytest.fixture
def computed(monkeypatch) -> list[tuple[str, int, int]]:
    """The chunks that are computed while the test runs: split, view, number."""
    seen = []
    compute = StatesStore._chunk_states

    def note(store, model, view, chunk, *args):
        seen.append((store.split.description["split"], view, chunk))
        return compute(store, model, view, chunk, *args)

    monkeypatch.setattr(StatesStore, "_chunk_states", note)
    return seen


def arguments_for(base: Path, faces: Path | str, cache: Path, **changes) -> FinetuneArguments:
    values = {"views": 2, "cache_dtype": "float32", "dataloader_num_workers": 0, "per_device_eval_batch_size": 4}
    return FinetuneArguments(
        model=str(base), data=str(faces), output_dir=str(cache / "run"), cache_dir=str(cache), **values | changes
    )


def fill(base: Path, faces: Path | str, cache: Path, **changes) -> tuple:
    """Cache the states of a run; what `prepare_dfn` would train from."""
    register_auto_classes()
    arguments = arguments_for(base, faces, cache, **changes)
    settings = make_training_arguments(arguments)
    task = load_task(arguments, settings)
    captured = {}

    def keep(*args):
        captured["states"], captured["collator"] = cache_states(*args), args[-1]
        return captured["states"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mf2.training.finetuning_methods.cache_states", keep)
        method = prepare_dfn(arguments, settings, task)
    return task, captured["collator"], *captured["states"], method


def folders(cache: Path) -> set[str]:
    return {path.parent.name for path in cache.glob("*/key.json")}


# ------------------------------------------------------------------------------------------------------- never stale
def copy_with(folder: Path, target: Path, change) -> Path:
    """A copy of a folder in which something is changed."""
    shutil.copytree(folder, target)
    change(target)
    return target


def change_weight(folder: Path) -> None:
    model = MF2Model.from_pretrained(folder)
    with torch.no_grad():
        model.emo.query_tokens[0, 0, 0] += 1e-3
    model.save_pretrained(folder)


def change_config(folder: Path) -> None:
    config = MF2Config.from_pretrained(folder)
    config.au_region_size = 0.2
    config.save_pretrained(folder)


def change_processor(folder: Path) -> None:
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_mean"] = [0.4, 0.5, 0.5]
    file.write_text(json.dumps(settings))


def change_landmark(folder: Path) -> None:
    rows = [mfa_row(index, landmarks=None) for index in range(18)]
    splits = {"train": rows[:NUM_TRAIN], "validation": rows[NUM_TRAIN:]}
    write_mfa(folder, splits, manifest={"license": "other", "pretty_name": "Made"}, overwrite=True)


OTHER_STATES = {
    "weights": lambda base, faces, tmp: {"base": copy_with(base, tmp / "other", change_weight)},
    "settings of the model": lambda base, faces, tmp: {"base": copy_with(base, tmp / "other", change_config)},
    "settings of the images": lambda base, faces, tmp: {"base": copy_with(base, tmp / "other", change_processor)},
    "data": lambda base, faces, tmp: {"faces": copy_with(faces, tmp / "changed", change_landmark)},
    "number of rows": lambda base, faces, tmp: {"max_train_rows": 8, "max_eval_rows": 4},
    "AUs": lambda base, faces, tmp: {"au_ids": [1, 2, 9]},
    "order of AUs": lambda base, faces, tmp: {"au_ids": [4, 2, 1], "dfn": {"start": "nothing"}},
    "kept states": lambda base, faces, tmp: {"dfn": {"num_kept_states": 1}},
    "precision": lambda base, faces, tmp: {"cache_dtype": "float16"},
}
OTHER_VIEWS = {
    "seed": {"seed": 7},
    "augmentation": {"augmentation": {"flip": 0.0}},
    "no augmentation": {"augment": False},
}
SAME_STATES = {
    "AUs of the base": {"au_ids": [4, 2, 1], "dfn": {"alignment_weight": 0}},
    "emotions": {"emotions": ["Happiness", "Sadness"]},
    "side network": {"dfn": {"r": 8, "use_gates": False, "alignment_weight": 0}},
    "optimisation": {"learning_rate": 1e-3, "num_train_epochs": 2.0, "per_device_train_batch_size": 3},
    "batches": {"per_device_eval_batch_size": 5},
    "fewer views": {"views": 1},
}


@pytest.fixture(scope="module")
def cache(base, faces, tmp_path_factory) -> Path:
    """The states of a run; tests work on copies."""
    folder = tmp_path_factory.mktemp("cache") / "states"
    fill(base, faces, folder)
    return folder


@pytest.mark.parametrize("change", OTHER_STATES.values(), ids=OTHER_STATES)
def test_states_of_something_else_lie_elsewhere(base, faces, cache, tmp_path, change, computed):
    before = folders(cache)
    copy = shutil.copytree(cache, tmp_path / "states")
    fill(**{"base": base, "faces": faces, "cache": copy} | change(base, faces, tmp_path))
    assert len(before) == 2 and len(folders(copy)) == 4
    assert {split for split, _, _ in computed} == {"train", "validation"}


@pytest.mark.parametrize("change", OTHER_VIEWS.values(), ids=OTHER_VIEWS)
def test_other_views_of_the_training_rows_lie_elsewhere(base, faces, cache, tmp_path, change, computed):
    """Those of the evaluation split are not drawn, so they stay."""
    copy = shutil.copytree(cache, tmp_path / "states")
    fill(base, faces, copy, **change)
    assert len(folders(copy)) == 3
    assert {split for split, _, _ in computed} == {"train"}


@pytest.mark.parametrize("change", SAME_STATES.values(), ids=SAME_STATES)
def test_what_does_not_change_the_states_finds_them(base, faces, cache, tmp_path, change, computed, monkeypatch):
    """Nothing is computed, and the model is not even loaded."""
    copy = shutil.copytree(cache, tmp_path / "states")
    monkeypatch.setattr(MF2Model, "from_pretrained", None)
    fill(base, faces, copy, **change)
    assert folders(copy) == folders(cache)
    assert computed == []


def test_the_order_of_joined_data_sets_counts(base, tmp_path, computed):
    """The same rows in another order are other states at each place."""
    for name, first in (("one", 0), ("two", 40)):
        rows = [mfa_row(first + index, landmarks=None) for index in range(8)]
        splits = {"train": rows[:4], "validation": rows[4:]}
        write_mfa(tmp_path / name, splits, manifest={"license": "other", "pretty_name": name})
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    orders = {}
    for order in (f"{one},{two}", f"{two},{one}"):
        _, _, train, _, _ = fill(base, order, tmp_path / "states", views=1, emotions=["Neutral"])
        orders[order] = train.images(0, np.arange(8))["emo_states"]
    first, second = orders.values()
    assert torch.equal(first, torch.cat([second[4:], second[:4]])) and not torch.equal(first, second)
    assert len(folders(tmp_path / "states")) == 4


def test_texts_are_known_by_their_tokens(base, faces, cache, tmp_path, computed):
    """Another vocabulary changes the texts' states and nothing of the images'."""
    copy = shutil.copytree(cache, tmp_path / "states")

    def swap_two_words(folder: Path) -> None:
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, two = [token for token in vocabulary if token.isalpha()][:2]
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
        file.write_text(json.dumps(tokenizer))

    fill(copy_with(base, tmp_path / "other", swap_two_words), faces, copy)
    assert computed == []
    assert len(list(copy.glob("*/texts-*.safetensors"))) == 2


# -------------------------------------------------------------------------------------------------- interrupted, grown
def test_an_interrupted_cache_goes_on(base, faces, cache, tmp_path, small_chunks, computed, monkeypatch):
    """What was finished is not computed again, and the whole equals one that was never interrupted."""
    fill(base, faces, tmp_path / "whole")
    whole = list(computed)
    assert len(whole) == 2 * 3 + 2
    computed.clear()
    compute = StatesStore._chunk_states

    def break_off(store, model, view, chunk, *args):
        if (view, chunk) == (1, 0):
            raise KeyboardInterrupt
        return compute(store, model, view, chunk, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StatesStore, "_chunk_states", break_off)
        with pytest.raises(KeyboardInterrupt):
            fill(base, faces, tmp_path / "broken")
    assert computed == whole[:3]
    computed.clear()
    fill(base, faces, tmp_path / "broken")
    assert computed == whole[3:]
    for file in (tmp_path / "whole").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "broken" / file.relative_to(tmp_path / "whole")).read_bytes(), file


KILLED = """
import os, signal, sys
from mf2.training import finetune, state_cache
state_cache.ROWS_PER_CHUNK = 4
save, left = state_cache._save, [6]  # the shared spaces, the recognisers, the texts, and three chunks
def kill_in_the_middle(tensors, file):
    left[0] -= 1
    if left[0] < 0:
        with state_cache.replacing(file) as partial:
            partial.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
    save(tensors, file)
state_cache._save = kill_in_the_middle
finetune.main(sys.argv[1:])
"""


def test_a_killed_process_leaves_whole_chunks(base, faces, tmp_path, small_chunks, computed):
    """SIGKILL in the middle of a write: what is half written is no chunk, and the next run goes on."""
    arguments = arguments_for(base, faces, tmp_path / "states")
    names = ("model", "data", "output_dir", "cache_dir", "views", "cache_dtype", "dataloader_num_workers")
    flags = [part for name in names for part in (f"--{name}", str(getattr(arguments, name)))]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf")}
    killed = subprocess.run([sys.executable, "-c", KILLED, *flags], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "states").rglob("images-*"))) == 3
    assert len(list((tmp_path / "states").rglob(".images-*"))) == 1
    _, _, train, _, _ = fill(base, faces, tmp_path / "states")
    assert not list((tmp_path / "states").rglob(".images-*"))
    assert computed == [("train", 1, 0), ("train", 1, 1), ("train", 1, 2), ("validation", 0, 0), ("validation", 0, 1)]
    assert train.images(1, np.arange(NUM_TRAIN))["au_states"].isfinite().all()


def test_more_views_cost_only_themselves(base, faces, cache, tmp_path, computed):
    copy = shutil.copytree(cache, tmp_path / "states")
    fill(base, faces, copy, views=4)
    assert computed == [("train", 2, 0), ("train", 3, 0)]
    assert folders(copy) == folders(cache)


# ------------------------------------------------------------------------------------------------ what a live run sees
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@torch.no_grad()
def test_a_batch_is_what_the_live_model_sees(base, faces, tmp_path, dtype, small_chunks):
    """Rows of several chunks, in two epochs, with their texts: losses and logits of both ways."""
    task, collator, train, _, method = fill(base, faces, tmp_path / "states", cache_dtype=dtype)
    live = MF2Model.from_pretrained(base).eval()
    side = method.model.get_base_model().recognizers.dfn_sides["default"].eval()
    rows = [10, 0, 5, 11]
    cached_rows = StateRows(train, task.train, make_caption_table(task), seed=42)
    for epoch in (0, 1, 3):
        batch = collator([task.train.faces[(epoch, row)] for row in rows])
        views = live.encode_branches(batch["pixel_values"], batch["au_boxes"])
        seen = side(views.pooled, live.recognizers)
        parts = ("input_ids", "attention_mask", "caption_ids")
        texts = {
            name: live.pool_texts(name, *(batch[f"{prefix}{part}"] for part in parts))
            for name, prefix in (("emo", ""), ("au", "au_"))
        }
        losses = side.losses(seen, batch["emotion_labels"], batch["au_labels"], texts, live.branches)
        expected, floors = split_floors(losses)
        outputs = method.trainer.model(**collate_states([cached_rows[(epoch, row)] for row in rows]))
        assert set(outputs.losses) == {"emotion", "au", "emo_itc", "au_itc"}
        bounds = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        for name, loss in expected.items():
            torch.testing.assert_close(outputs.losses[name], loss, **bounds)
        assert outputs.loss_floors == floors and set(floors) == {"emo_itc", "au_itc"}
        torch.testing.assert_close(outputs.au_logits, seen.au_logits, **bounds)
        torch.testing.assert_close(outputs.emotion_logits, seen.emotion_logits, **bounds)


def test_views_are_different_and_the_first_is_the_face_as_it_is(base, faces, cache):
    task, collator, train, _, _ = fill(base, faces, cache)
    rows = np.arange(NUM_TRAIN)
    assert not torch.allclose(train.images(0, rows)["emo_states"], train.images(1, rows)["emo_states"])
    plain = FaceCollator(task.processor.image_processor)
    shown, as_it_is = (c([task.train.faces[(2, row)] for row in range(3)])["pixel_values"] for c in (collator, plain))
    assert torch.equal(shown, as_it_is)


def test_an_evaluation_batch_has_no_texts(base, faces, cache):
    task, _, train, evaluation, _ = fill(base, faces, cache)
    in_training = collate_states([StateRows(train, task.train, make_caption_table(task), 42)[(0, 1)]])
    in_evaluation = collate_states([StateRows(evaluation, task.evaluation, None, 42)[1]])
    states_and_labels = {"emo_states", "au_states", "places_states", "emotion_labels", "au_labels"}
    assert set(in_evaluation) == states_and_labels
    texts = {f"{branch}_{part}" for branch in ("emo", "au") for part in ("text_states", "caption_ids", "text_valid")}
    assert set(in_training) == states_and_labels | texts


def test_kept_states_are_those_that_the_side_reads(base, faces, cache):
    """The tiny model has two states a branch, fewer than are to be kept: each is stored once."""
    _, _, train, _, _ = fill(base, faces, cache)
    assert train.images(0, np.arange(2))["emo_states"].shape == (2, 1, 2, 32)
    assert train.images(0, np.arange(2))["au_states"].shape == (2, 12, 2, 32)


def test_the_side_network_starts_the_same_whether_the_states_were_there(base, faces, tmp_path):
    """Or whether there are none: computing them draws from the generator, too."""
    sides = []
    for fields in ({}, {}, {"no_cache": True}):
        arguments = arguments_for(base, faces, tmp_path, **fields)
        settings = make_training_arguments(arguments)
        method = prepare_dfn(arguments, settings, load_task(arguments, settings))
        sides.append(method.model.get_base_model().recognizers.dfn_sides.state_dict())
    for name, parameter in sides[0].items():
        assert all(torch.equal(side[name], parameter) for side in sides), name


def test_states_are_mapped_not_read(base, faces, cache):
    """A cache may be larger than memory."""
    _, _, train, _, _ = fill(base, faces, cache)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what is mapped")
    assert train.num_rows == NUM_TRAIN
    assert "images-000-00000.safetensors" in maps.read_text()


def test_a_checkpoint_without_weights_is_refused(base, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors; it is no MF² checkpoint"):
        state_cache.hash_weights(tmp_path)


def test_the_key_is_written_in_clear(cache):
    keys = [json.loads(file.read_text()) for file in cache.glob("*/key.json")]
    assert {key["split"] for key in keys} == {"train", "validation"}
    for key in keys:
        assert len(key["weights"]) == 64 and key["au_ids"] and key["code"]
        assert not any(isinstance(value, str) and value.startswith("/") for value in key.values())


def test_the_adapters_configuration_is_the_tasks(base, faces, tmp_path):
    arguments = arguments_for(base, faces, tmp_path, dfn={"r": 8})
    task = load_task(arguments, make_training_arguments(arguments))
    config = make_adapter_config(arguments, task)
    assert config.r == 8 and config.label_space == task.label_space
    assert config.training_data[0]["rows"] == NUM_TRAIN
