"""The configuration: what it refuses, and that it survives the disk."""

import copy
import json
import logging

import pytest
from transformers import ViTConfig

from mf2.configuration_mf2 import CODE_VERSION, MF2Config, MF2QFormerConfig
from mf2.labels_mf2 import AU_IDS, EMOTIONS

pytestmark = pytest.mark.dependencies

REFUSED = [
    # misspelt fields: the field, its value, and the field that was meant or all there are
    ({"use_emo_v": False}, ["use_emo_v", "False", "use_emo_vl"]),
    ({"emo_config": {"hiden_size": 3}}, ["MF2QFormerConfig", "hiden_size", "3", "hidden_size"]),
    ({"qqqq": 1}, ["qqqq", "1", "au_text_mode", "projection_dim"]),
    # impossible values: the field, its value, and the bound
    ({"projection_dim": 0}, ["projection_dim", "0", ">= 1"]),
    ({"projection_dim": "wide"}, ["projection_dim", "wide", "int"]),
    ({"label_smoothing": 1.5}, ["label_smoothing", "1.5", ">= 0 and <= 1"]),
    ({"itc_temperature": 0}, ["itc_temperature", "0", "> 0"]),
    ({"itm_weight": -1}, ["itm_weight", "-1", ">= 0"]),
    ({"au_weight": float("nan")}, ["au_weight", "nan", ">= 0"]),
    ({"au_region_size": 1.2}, ["au_region_size", "1.2", "<= 1"]),
    ({"au_text_mode": "per-au"}, ["au_text_mode", "per-au", "caption", "per_au"]),
    ({"emo_text": "both"}, ["emo_text", "both", "emotion", "key_au", "random"]),
    ({"use_emo_vl": False, "use_au_vl": False}, ["use_emo_vl", "use_au_vl", "at least one"]),
    ({"local_feature_levels": []}, ["local_feature_levels", "[-1]"]),
    ({"emo_config": {"num_hidden_layers": 0}}, ["num_hidden_layers", "0", ">= 1"]),
    ({"emo_config": {"text_reads_queries": "left"}}, ["text_reads_queries", "left", "entering", "leaving"]),
    ({"emo_config": {"hidden_dropout_prob": 2}}, ["hidden_dropout_prob", "2", "<= 1"]),
    ({"emo_config": {"hidden_size": 10, "num_attention_heads": 4}}, ["hidden_size", "10", "multiple", "4"]),
    # labels
    ({"au_ids": [3]}, ["AU 3", "known AUs are 1, 2, 4"]),
    ({"au_ids": [1, 1]}, ["au_ids", "duplicates", "[1, 1]"]),
    ({"au_ids": []}, ["au_ids", "use_au_vl"]),
    ({"au_thresholds": [0.5]}, ["1 thresholds", "12 AUs"]),
    ({"au_thresholds": [1.5] * 12}, ["threshold of AU1", "1.5", "between 0 and 1"]),
    ({"au_pos_weight": [1.0]}, ["au_pos_weight", "1 values", "12 AUs"]),
    ({"au_pos_weight": [-2.0] * 12}, ["au_pos_weight", "-2.0", "> 0"]),
    ({"au_pairs_per_image": 13}, ["au_pairs_per_image", "13", "<= 12"]),
    ({"num_labels": 3}, ["num_labels", "3", "8 emotions", "emotions="]),
    # widths and vocabularies that do not fit together
    ({"emo_config": {"encoder_hidden_size": 7}}, ["emo_config.encoder_hidden_size", "7", "vit", "768"]),
    ({"emo_config": {"hidden_size": 384}}, ["emo_config.hidden_size", "384", "au_config.hidden_size", "768"]),
    ({"au_config": {"vocab_size": 100}}, ["au_config.vocab_size", "100", "bos_token_id", "30522"]),
    ({"eos_token_id": 99999}, ["eos_token_id", "99999", "30523"]),
    ({"bos_token_id": -5}, ["bos_token_id", "-5"]),
    ({"emotion_text_length": 600}, ["emotion_text_length", "600", "<= 512"]),
    ({"au_text_mode": "per_au", "au_sentence_length": 0}, ["au_sentence_length", "0", ">= 1"]),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(fields, words):
    with pytest.raises(Exception) as refusal:
        MF2Config(**fields)
    message = str(refusal.value)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(("layers", "way"), [(1, "leaving"), (6, "leaving"), (7, "entering"), (12, "entering")])
def test_shallow_branches_write_from_the_queries_that_leave_a_layer(layers, way, tmp_path):
    """It is stored as it was decided, and no default decides it anew."""
    branch = {"num_hidden_layers": layers}
    config = MF2Config(emo_config=branch, au_config=branch | {"text_reads_queries": "entering"})
    assert (config.emo_config.text_reads_queries, config.au_config.text_reads_queries) == (way, "entering")
    config.save_pretrained(tmp_path)
    again = MF2Config.from_pretrained(tmp_path)
    assert (again.emo_config.text_reads_queries, again.au_config.text_reads_queries) == (way, "entering")


def test_a_checkpoint_from_before_the_choice_reads_as_it_was_trained(tmp_path):
    MF2Config.from_size("tiny").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    for name in ("emo_config", "au_config"):
        assert content[name].pop("text_reads_queries") == "leaving"
    file.write_text(json.dumps(content))
    for config in (MF2Config.from_pretrained(tmp_path), MF2Config.from_dict(content)):
        assert config.emo_config.text_reads_queries == config.au_config.text_reads_queries == "entering"


def test_an_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="'large'; choose one of paper, base, small, tiny"):
        MF2Config.from_size("large")


def test_unused_text_lengths_are_not_held_against_a_branch():
    branch = {"max_position_embeddings": 32}
    config = MF2Config(
        emo_config=branch, au_config=branch, emotion_text_length=32, au_text_mode="per_au", au_text_length=169
    )
    assert config.au_sentence_length == 32


def test_whole_numbers_stand_for_floats():
    """A YAML file says `itc_temperature: 1`."""
    config = MF2Config(itc_temperature=1, au_region_size=1, label_smoothing=0, au_weight=2)
    assert (config.itc_temperature, config.au_region_size) == (1, 1)


def test_branches_take_the_towers_width():
    config = MF2Config(vision_config={"model_type": "resnet", "hidden_sizes": [8, 16, 40], "depths": [1, 1, 1]})
    assert config.emo_config.encoder_hidden_size == config.au_config.encoder_hidden_size == 40
    # timm towers tell their width only when they are built
    assert MF2Config(vision_config={"model_type": "timm_wrapper"}).emo_config.encoder_hidden_size is None


def test_the_two_branches_are_configured_apart():
    config = MF2Config(emo_config={"num_query_tokens": 8}, au_config=MF2QFormerConfig(num_query_tokens=2))
    assert (config.emo_config.num_query_tokens, config.au_config.num_query_tokens) == (8, 2)
    assert config.emo_config.hidden_size == 768


def test_defaults_are_the_papers():
    config = MF2Config()
    assert tuple(config.au_ids) == AU_IDS and tuple(config.emotions) == EMOTIONS
    assert (config.itc_temperature, config.label_smoothing, config.projection_dim) == (0.07, 0.1, 256)
    assert (config.au_text_length, config.emotion_text_length) == (169, 61)
    assert {config.itc_weight, config.itm_weight, config.itg_weight, config.emotion_weight, config.au_weight} == {1.0}
    assert config.freeze_vision and config.emo_config.num_query_tokens == 32


@pytest.mark.parametrize(
    ("size", "tower", "width", "frozen"),
    [("paper", "blip_2_vision_model", 1408, True), ("base", "vit", 768, True), ("tiny", "resnet", 128, False)],
)
def test_sizes(size, tower, width, frozen):
    config = MF2Config.from_size(size)
    assert config.vision_config.model_type == tower
    assert config.emo_config.encoder_hidden_size == config.au_config.encoder_hidden_size == width
    assert config.freeze_vision is frozen


def test_a_size_with_fields_of_ones_own():
    vision = ViTConfig(hidden_size=32, num_attention_heads=2)
    config = MF2Config.from_size("tiny", vision_config=vision, au_ids=[1, 12], au_pairs_per_image=None, itm_weight=0)
    assert config.vision_config.model_type == "vit" and config.au_config.encoder_hidden_size == 32
    assert (list(config.au_ids), config.itm_weight, config.au_text_mode) == ([1, 12], 0, "per_au")
    assert MF2Config.from_size("tiny").itm_weight == 1.0


def test_label_space_and_id2label_follow_the_vocabulary():
    config = MF2Config(au_ids=[1, 12], au_thresholds=[0.25, 0.75], emotions=["calm", "tense"])
    assert config.label_space.au_codes == ("AU1", "AU12")
    assert config.label_space.thresholds == (0.25, 0.75)
    assert (config.id2label, config.label2id) == ({0: "calm", 1: "tense"}, {"calm": 0, "tense": 1})
    assert config.num_labels == 2
    assert MF2Config().label_space.thresholds == (0.5,) * 12


# ---------------------------------------------------------------------------------------------------------- on disk
@pytest.fixture
def saved(tmp_path):
    """A folder with a configuration in which few fields have their default."""
    config = MF2Config.from_size(
        "tiny",
        au_ids=[1, 12, 4, 5],
        au_thresholds=[0.3, 0.4, 0.5, 0.6],
        au_pos_weight=[1, 2.5, 3, 4],
        local_feature_levels=[-1, 1],
        emo_text="random",
        caption_prompt_ids={"emotion": [7, 8], "key_au": [9]},
        training_data=[{"name": "synthetic", "videos": 3}],
    )
    config.save_pretrained(tmp_path)
    return tmp_path, config


def as_json(config: MF2Config) -> dict:
    """What stands on disk, so that tuples compare equal to lists."""
    return json.loads(config.to_json_string(use_diff=False))


def test_a_saved_configuration_comes_back(saved):
    folder, config = saved
    again = MF2Config.from_pretrained(folder)
    assert as_json(again) == as_json(config)
    assert again.label_space == config.label_space
    assert type(again.emo_config) is MF2QFormerConfig
    assert as_json(copy.deepcopy(again)) == as_json(config)


def test_fields_can_be_overridden_while_loading(saved):
    folder, _ = saved
    again = MF2Config.from_pretrained(folder, use_au_vl=False, emotions=["calm", "tense"])
    assert again.use_au_vl is False
    assert again.id2label == {0: "calm", 1: "tense"}


def test_overrides_while_loading_are_checked(saved):
    folder, _ = saved
    with pytest.raises(ValueError, match=r"au_text_mode is 'per-au'; choose one of caption, per_au"):
        MF2Config.from_pretrained(folder, au_text_mode="per-au")


def warnings_on_load(folder, monkeypatch, caplog) -> list[str]:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        MF2Config.from_pretrained(folder)
    return [record.getMessage() for record in caplog.records if "written by" in record.getMessage()]


def test_another_code_version_warns(saved, monkeypatch, caplog):
    folder, _ = saved
    fields = json.loads((folder / "config.json").read_text())
    assert fields["code_version"] == CODE_VERSION
    (folder / "config.json").write_text(json.dumps({**fields, "code_version": "0.0.1"}))
    (warning,) = warnings_on_load(folder, monkeypatch, caplog)
    assert "0.0.1" in warning and CODE_VERSION in warning and "mf2-face==0.0.1" in warning


def test_the_same_code_version_is_silent(saved, monkeypatch, caplog):
    assert warnings_on_load(saved[0], monkeypatch, caplog) == []


def test_a_size_keeps_the_branch_fields_that_are_not_overridden():
    config = MF2Config.from_size("tiny", au_config={"num_query_tokens": 5}, vision_config={"model_type": "vit"})
    default = MF2Config.from_size("tiny")
    assert config.au_config.num_query_tokens == 5
    assert config.au_config.hidden_size == default.au_config.hidden_size
    assert config.emo_config.num_query_tokens == default.emo_config.num_query_tokens
    assert config.vision_config.hidden_size == 768
