"""Stored features of a frozen tower: they give what the pictures give, and are of that tower and those rows alone."""

import dataclasses

import pytest
import torch
from transformers import set_seed

from mf2.data_loading.collators import EpochSampler, FaceCollator
from mf2.data_loading.splits import Labels, Split
from mf2.dataset_tools.synthetic.synth import SynthConfig, synthesize
from mf2.labels_mf2 import AU_IDS
from mf2.processing_mf2 import Augmentation
from mf2.training.arguments import PretrainArguments
from mf2.training.feature_cache import cache_features, collate_features
from mf2.training.model_setup import build_model, build_processor, build_tokenizer
from mf2.training.pretraining import make_model, make_trainer
from mf2.training.trainer import make_training_arguments

AUGMENTATION = Augmentation()


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    config = SynthConfig(num_train=24, num_eval=8, frames_per_identity=4, image_size=64)
    folder = synthesize(tmp_path_factory.mktemp("data") / "faces", config, show_progress=False)
    return [Split.load(str(folder), name, None, AU_IDS) for name in ("train", "validation")]


def prepare(splits, folder, frozen=True, **model):
    """Arguments, settings, model and processor of a run on stored features."""
    arguments = PretrainArguments(
        output_dir=str(folder), size="tiny", image_size=64, feature_views=2, max_steps=2, warmup_steps=1,
        per_device_train_batch_size=8, dataloader_num_workers=0, model={"freeze_vision": frozen, **model},
    )  # fmt: skip
    set_seed(0)
    tokenizer = build_tokenizer(arguments, splits[0].rows)
    network = build_model(arguments, tokenizer)
    return (
        arguments,
        make_training_arguments(arguments),
        network,
        build_processor(arguments, network.config, tokenizer),
    )


def cached(splits, folder, **model):
    arguments, settings, network, processor = prepare(splits, folder, **model)
    collator = FaceCollator(processor.image_processor, None, AUGMENTATION, arguments.seed)
    return network, processor, cache_features(arguments, settings, network, collator, *splits)


SWITCHED = [{}, {"use_emo_vl": False}, {"use_au_vl": False}, {"mirror_emotions": True}]


@pytest.mark.parametrize("switched_off", SWITCHED)
def test_stored_features_give_what_the_pictures_of_the_view_give(splits, tmp_path, switched_off):
    model, processor, (train, evaluation) = cached(splits, tmp_path, **switched_off)
    model.eval()
    live = FaceCollator(processor.image_processor, None, AUGMENTATION, seed=42, views=2)
    for stored, split, collator, epoch in (
        (train, splits[0], live, 0),
        (train, splits[0], live, 1),
        (train, splits[0], live, 3),
        (evaluation, splits[1], FaceCollator(processor.image_processor), None),
    ):
        keys = [row if epoch is None else (epoch, row) for row in (0, 5, 2)]
        batch = collate_features([stored[key] for key in keys])
        pictures = collator([split.faces[key] for key in keys])
        assert "pixel_values" not in batch and torch.equal(batch["au_labels"], pictures["au_labels"])
        model.config.mirror_emotions = epoch is None and "mirror_emotions" in switched_off  # none is learned from
        with torch.no_grad():
            seen, expected = model(**batch), model(**pictures)
        torch.testing.assert_close(seen.au_logits, expected.au_logits, rtol=0, atol=0.02)  # stored as float16
        torch.testing.assert_close(seen.emotion_logits, expected.emotion_logits, rtol=0, atol=0.02)


def test_features_are_computed_once_and_of_this_tower(splits, tmp_path):
    def files():
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("images-*.safetensors")}

    model, *_ = cached(splits, tmp_path)
    before = files()
    assert len(before) == 3  # two views of the training split and one of the other
    cached(splits, tmp_path)
    assert files() == before
    with torch.no_grad():
        next(model.vision_model.parameters()).add_(1)
    arguments, settings, _, processor = prepare(splits, tmp_path)
    collator = FaceCollator(processor.image_processor, None, AUGMENTATION, arguments.seed)
    cache_features(arguments, settings, model, collator, *splits)
    assert len(files()) == 6


def test_a_run_trains_on_them_with_all_losses(splits, tmp_path):
    arguments, settings, model, processor = prepare(splits, tmp_path)
    trainer = make_trainer(arguments, settings, model, processor, *splits)
    assert isinstance(trainer._get_train_sampler(), EpochSampler)
    model.vision_model.register_forward_hook(lambda *_: pytest.fail("the tower is not needed any more"))
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_au_f1", "eval_emotion_top1"} <= logged
    assert trainer.predict(trainer.eval_dataset).predictions[0].shape == (8, len(AU_IDS))


def test_a_tower_that_is_trained_is_refused(splits, tmp_path):
    with pytest.raises(ValueError, match="feature_views is 2, but the tower is trained"):
        cached(splits, tmp_path, frozen=False)


def test_a_readout_is_fitted_to_them_and_left_out_of_what_is_learned(splits, tmp_path):
    model, processor, (train, evaluation) = cached(splits, tmp_path, readout_grids=[4, 2], mirror_emotions=True)
    model.eval()
    assert model.readout.weight.abs().sum() > 0
    batch = collate_features([evaluation[row] for row in (3, 0)])
    pictures = FaceCollator(processor.image_processor)([splits[1].faces[row] for row in (3, 0)])
    with torch.no_grad():
        seen, expected = model(**batch), model(**pictures)
    torch.testing.assert_close(seen.au_logits, expected.au_logits, rtol=0, atol=0.05)
    torch.testing.assert_close(seen.emotion_logits, expected.emotion_logits, rtol=0, atol=0.05)
    assert not {"readout_logits", "mirrored"} & set(collate_features([train[0, 1]]))
    held_out = collate_features([train[1]])["readout_logits"]
    fitted = model.readout(train.face_features()[1:2])
    assert not torch.allclose(held_out, fitted, atol=1e-3)  # a training row's is of regressions that did not see it
    again, _, (rows, _) = cached(splits, tmp_path, readout_grids=[4, 2], mirror_emotions=True)
    assert torch.equal(again.readout.weight, model.readout.weight)
    assert torch.equal(rows.readout_logits, train.readout_logits)
    assert len(list(tmp_path.rglob("readout-*.safetensors"))) == 1


def test_a_readout_without_kept_features_is_refused(splits, tmp_path):
    arguments, *_ = prepare(splits, tmp_path, readout_grids=[4, 2])
    arguments.feature_views = None
    with pytest.raises(ValueError, match="give --feature_views"):
        make_model(arguments, splits[0], list(AU_IDS))


def test_valence_and_arousal_are_learned_from_stored_features_beside_a_readout(splits, tmp_path):
    """The readout says nothing of them: its columns are those of the AUs and emotions."""
    felt = [dataclasses.replace(split, labels=Labels.from_rows(split.rows, AU_IDS, affect=True)) for split in splits]
    model, _, (train, evaluation) = cached(
        felt, tmp_path, affect=True, readout_grids=[2, 2], local_feature_levels=[-2, -1]
    )
    batch = collate_features([train[(0, row)] for row in (0, 5, 2)])
    torch.testing.assert_close(batch["affect_labels"], torch.from_numpy(felt[0].labels.affect[[0, 5, 2]]))
    losses = model(**{name: values for name, values in batch.items() if "input_ids" not in name}).losses
    assert losses["affect"] > 0 and model.readout.num_outputs == len(AU_IDS) + 8
    unseen = collate_features([evaluation[row] for row in range(4)])
    assert unseen["readout_logits"].shape == (4, len(AU_IDS) + 8)
    with torch.no_grad():
        model.eval()
        outputs = model(**unseen)
    assert outputs.affect.shape == (4, 2) and outputs.losses["affect"] > 0
