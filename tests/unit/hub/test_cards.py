"""Cards: what the Hub reads of them, and that no figure comes from anywhere but the measurement."""

import copy
import json
import re

import pytest
import yaml
from finished_runs import FREE, RESTRICTED, measured_metrics
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries

from mf2.dataset_tools.card_template import render_card
from mf2.dataset_tools.dataset_card import build_card
from mf2.dataset_tools.privacy import restricted_sources
from mf2.evaluation.landmark_sources import brief_scores
from mf2.hub.cards import PinnedRepo, Placement, eval_results_yaml, loading_lines, make_card, write_card
from mf2.labels_mf2 import EMOTIONS

SHA, BASE_SHA = "a" * 40, "b" * 40
THRESHOLDS = [0.41, 0.62]


def measured():
    return measured_metrics([1, 12], THRESHOLDS)


def folder_of(tmp_path, config, metrics=None, name="config.json"):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics or measured()))
    labels = {"au_ids": [1, 12], "emotions": list(EMOTIONS), "au_thresholds": THRESHOLDS, "training_data": [FREE]}
    (tmp_path / name).write_text(json.dumps(labels | config))
    return tmp_path


def adapter_of(tmp_path, **config):
    config = {"peft_type": "DFN", "base_model_name_or_path": "org/base", "revision": BASE_SHA} | config
    return folder_of(tmp_path, config, name="adapter_config.json")


# ------------------------------------------------------------------------------------------------------ the Hub's side
def test_the_hub_reads_a_checkpoints_card(tmp_path):
    metrics = measured()
    write_card(folder_of(tmp_path, {}, metrics), Placement("org/mf2-small"))
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert data.model_name == "mf2-small" and "facial-action-units" in data.tags
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    scores = metrics["evaluation"]
    assert found == {
        "mean AU F1": round(scores["aus"]["f1"], 4),
        "emotion top-1 accuracy": round(scores["emotion"]["top1"], 4),
        "emotion macro-F1": round(scores["emotion"]["macro_f1"], 4),
    }
    assert {(r.task_type, r.dataset_name, r.dataset_split) for r in data.eval_results} == {
        ("image-classification", "Faces", "validation")
    }
    assert data.get("base_model") is None
    for text in ("| AU12 | Lip Corner Puller | 0.620 |", "Art. 5(1)(f)", "Annex III", "Art. 50(3)", "GDPR", "BIPA"):
        assert text in card.text
    assert "seed\n7)" in card.text and "torch 2.15.0" in card.text and "**generated** faces only" in card.text


def test_published_scores_name_their_landmark_source_the_hardest_first(tmp_path):
    """Users' own pictures come without landmarks, so they should expect the first scores, not the last."""
    metrics = measured()
    scores = metrics["evaluation"]
    worse = copy.deepcopy(scores)
    worse["aus"]["f1"], worse["emotion"]["top1"] = 0.1234, 0.0567
    compared = {"mean_face": brief_scores(worse, 50, 0), "given": brief_scores(scores, 50, 50)}
    metrics["evaluation"] |= {"landmarks": "given", "by_landmarks": compared}
    write_card(folder_of(tmp_path, {}, metrics), Placement("org/mf2-small"))
    card = ModelCard.load(tmp_path / "README.md")
    names = [result.metric_name for result in card.data.eval_results]
    assert names[0] == "mean AU F1 (no landmarks)" and card.data.eval_results[0].metric_value == 0.1234
    assert names[3] == "mean AU F1 (given landmarks)" and len(names) == 6
    first, full = card.text.index("| without landmarks"), card.text.index("| mean AU F1 at 0.5")
    assert first < card.text.index("| with the data set's landmarks") < full
    assert "from the image alone" not in card.text and "expect the\nfirst row" in card.text
    entries = parse_eval_result_entries(
        yaml.safe_load(eval_results_yaml(metrics["evaluation"], PinnedRepo("o/d", SHA)))
    )
    assert entries[0].task_id == "mean_au_f1_no_landmarks" and "landmarks" in entries[0].notes


def test_a_card_says_what_it_needs_and_loads_from_where_it_is(tmp_path):
    card = write_card(folder_of(tmp_path, {})).read_text()
    assert 'from_pretrained(".", trust_remote_code=True)' in card and "`transformers>=" in card and "`peft" not in card
    metrics = measured()
    metrics["model"] |= {"base": "org/base", "base_revision": BASE_SHA}
    tuned = ModelCard(str(make_card(folder_of(tmp_path, {}, metrics))))
    assert (tuned.data.base_model, tuned.data.base_model_relation) == ("org/base", "finetune")
    assert f"commit `{BASE_SHA}`" in tuned.text
    metrics["model"]["base"] = "demo"
    assert ModelCard(str(make_card(folder_of(tmp_path, {}, metrics)))).data.get("base_model") is None


def test_an_adapters_card_names_peft_and_no_widget_where_it_has_no_emotions(tmp_path):
    card = ModelCard(str(make_card(adapter_of(tmp_path), Placement("org/adapter"))))
    assert "peft" in card.data.tags and card.data.pipeline_tag == "image-classification" and "`peft" in card.text
    card = ModelCard(str(make_card(adapter_of(tmp_path, emotions=[]), Placement("org/adapter"))))
    assert card.data.get("pipeline_tag") is None


def test_a_class_without_labels_has_no_score(tmp_path):
    metrics = measured()
    metrics["evaluation"]["emotion"]["per_class"]["Fear"] |= {"support": 0, "f1": 0.0, "recall": None}
    card = write_card(folder_of(tmp_path, {}, metrics)).read_text()
    (line,) = (line for line in card.splitlines() if line.startswith("| Fear "))
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["Fear", "-", "-", "-", "0"]


def test_a_fine_tuned_checkpoint_names_its_base(tmp_path):
    card = make_card(folder_of(tmp_path, {}), Placement("org/tuned", PinnedRepo("org/base", BASE_SHA)))
    data = ModelCard(str(card)).data
    assert (data.base_model, data.base_model_relation) == ("org/base", "finetune")
    assert f"commit `{BASE_SHA}`" in card.text and "adapter_kwargs" not in card.text


def test_the_hub_reads_an_adapters_card(tmp_path):
    placement = Placement("org/dfn", PinnedRepo("org/base", BASE_SHA), (RESTRICTED,))
    card = make_card(adapter_of(tmp_path), placement)
    data = ModelCard(str(card)).data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("org/base", "adapter", "transformers")
    assert data.license == "other" and data.license_name, "what the base learned from is inherited"
    assert "Not free to pass on: Aff-Wild2." in card.text and "generated** faces only" not in card.text
    assert f'revision="{BASE_SHA}", adapter_kwargs={{"revision": "main"}}' in card.text


def test_a_base_that_is_a_folder_is_named_without_a_link(tmp_path):
    card = make_card(adapter_of(tmp_path, base_model_name_or_path="/home/me/outputs/demo", revision=None))
    assert card.data.base_model is None and "/home/me" not in str(card)
    assert "face model\ndemo:\n" in card.text and "huggingface.co" not in card.text


def test_results_files_are_read_back_as_entries():
    entries = parse_eval_result_entries(
        yaml.safe_load(eval_results_yaml(measured()["evaluation"], PinnedRepo("org/faces", SHA)))
    )
    assert [(entry.dataset_id, entry.dataset_revision) for entry in entries] == [("org/faces", SHA)] * 3
    assert [entry.task_id for entry in entries] == ["mean_au_f1", "emotion_top_1_accuracy", "emotion_macro_f1"]
    assert all(0 <= entry.value <= 1 for entry in entries)


def test_a_data_sets_text_and_its_terms():
    counts = {
        "train": {
            **dict.fromkeys(("images", "videos", "groups", "landmarks", "unlabelled emotion"), 3),
            "emotions": {"Calm": 2},
            "aus": {"AU1": {"active": 1, "not active": 2, "unlabelled": 0}},
            "captions": dict.fromkeys(("caption_emotion", "caption_au", "caption_key_au"), 3),
            "caption writers": ["template"],
        }
    }
    example = {"caption_emotion": "Calm.", "caption_au": None, "caption_key_au": None}
    text = build_card({"pretty_name": "Made"}, counts, 0, example)
    assert "terms of the images and labels are not stated" in text, "what nobody licensed is not free"
    assert "| Calm" in text and "- `caption_emotion`: Calm." in text and "caption_au`:" not in text
    assert "License: mit." in build_card({"license": "mit"}, counts, 0, example)
    assert DatasetCard(f"---\nlicense: mit\n---\n{text}").data.license == "mit"


def test_restriction_is_told_by_licence():
    sources = [FREE, RESTRICTED, RESTRICTED, {"name": "org/unknown", "license": None}]
    assert restricted_sources(sources) == ["Aff-Wild2", "org/unknown"]


# ------------------------------------------------------------------------------------------------------------- figures
def test_every_decimal_on_the_card_was_measured(tmp_path):
    """Figures of the text are those of the metrics and the thresholds, rounded as the card rounds them."""
    metrics = measured()
    card = make_card(folder_of(tmp_path, {}, metrics))
    known = {f"{value:.3f}" for value in _numbers(metrics)} | {f"{value:.3f}" for value in THRESHOLDS}
    known |= {"0.5", "2.0"}  # of the tables' headers, and the epochs
    text = re.sub(r"Needs .*", "", card.text.replace("torch 2.15.0", ""))  # versions
    assert set(re.findall(r"(?<![\w.])\d+\.\d+", text)) <= known


def _numbers(value):
    if isinstance(value, dict | list):
        return [number for each in (value.values() if isinstance(value, dict) else value) for number in _numbers(each)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("planted", ["mean F1 0.93", "31,320 images", "97 % right", "{{ 0.93 | score }}"])
def test_a_figure_of_the_template_is_refused(tmp_path, planted):
    (tmp_path / "card.md").write_text(f"# {{{{ name }}}}\n\nArt. 50(3), `x`, {planted}.\n")
    with pytest.raises(ValueError, match=r"states .*has to be measured"):
        render_card("card.md", templates=tmp_path, name="mine")


def test_a_figure_of_an_included_template_is_refused(tmp_path):
    (tmp_path / "part.md").write_text("F1 is 0.93.\n")
    (tmp_path / "card.md").write_text('{% include "part.md" %}\n')
    with pytest.raises(ValueError, match=r"part.md states 0.93"):
        render_card("card.md", templates=tmp_path)


def test_a_figure_that_was_not_measured_is_refused(tmp_path):
    for path in (("evaluation", "aus", "f1_all_positive"), ("training", "steps"), ("evaluation", "data", "rows")):
        metrics = part = measured()
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        with pytest.raises(ValueError, match=rf"not measured.*{path[-1]}"):
            make_card(folder_of(tmp_path, {}, metrics))
    metrics = measured()
    metrics["evaluation"]["emotion"]["uar"] = float("nan")
    with pytest.raises(ValueError, match=r"evaluation\.emotion\.uar is nan; it must be finite"):
        make_card(folder_of(tmp_path, {}, metrics))


def test_a_task_without_labels_has_no_scores(tmp_path):
    metrics = measured()
    metrics["evaluation"] |= {"emotion": {"num_labelled": 0}, "calibration": {"aus": None, "emotion": None}}
    card = make_card(folder_of(tmp_path, {"emotions": []}, metrics))
    assert [result.metric_name for result in card.data.eval_results] == ["mean AU F1"]
    assert "majority" not in card.text and "Emotions:" not in card.text


# --------------------------------------------------------------------------------------------------------------- lines
def test_pinned_lines_are_python_and_pin_both_commits():
    plain, pinned = loading_lines("org/m"), loading_lines("org/m", SHA)
    adapter = loading_lines("org/a", SHA, PinnedRepo("org/base", BASE_SHA))
    for lines in (plain, pinned, adapter):
        compile(lines, "lines", "exec")
    assert "revision" not in plain and pinned.count(f'revision="{SHA}"') == 2
    model_line = next(line for line in adapter.splitlines() if line.startswith("model"))
    assert f'"org/a", revision="{BASE_SHA}", adapter_kwargs={{"revision": "{SHA}"}}' in model_line


@pytest.mark.parametrize("not_above", [[], ["mean AP"]])
def test_a_card_says_whether_the_model_beats_the_probes_on_its_tower(tmp_path, not_above):
    row = {"name": "a probe", "au_f1": 0.8123, "au_ap": 0.9012, "emotion_top1": 0.7, "emotion_macro_f1": 0.6}
    text = make_card(folder_of(tmp_path, {}, measured() | {"probes": {"rows": [row], "not_above": not_above}})).text
    assert "a probe" in text and "0.812" in text
    assert ("does not beat the better probe in: mean AP." in text) == bool(not_above)
    assert ("beats both in every one" in text) != bool(not_above)
