"""`mf2 data caption` from a folder to a captioned folder, offline and against the loopback server."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from openai_server import OpenAIServer, completion
from PIL import Image

from mf2.cli.data import main
from mf2.dataset_tools.captions import template_captions, validate_caption
from mf2.dataset_tools.schema import load_mfa, read_manifest, write_mfa
from mf2.labels_mf2 import AU_IDS, EMOTIONS

PROFILES = """
left: &base
  model: left-model
  base_url: {url}
  token_limit_name: max_tokens
  max_output_tokens: 100
right: {{<<: *base, model: right-model}}
hosted: {{<<: *base, base_url: "https://captions.example.org/v1"}}
"""
PRICES = "{left-model: {input: 1, output: 10, batch_factor: 0.5}, right-model: {input: 2, output: 20}}"


def rows(split: str, count: int):
    for n in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (n * 9 % 256, len(split), 0)).save(buffer, "JPEG")
        active = [(), (6, 12), (1, 2, 25, 26), (4, 15)][n % 4]
        yield {
            "image": buffer.getvalue(), "file_name": f"{split}/{n:05d}.jpg", "dataset": "test", "video_id": split,
            "group_id": split, "frame": n, "emotion": None if n == 5 else [0, 4, 6, 5][n % 4],
            **{f"AU{au_id}": int(au_id in active) for au_id in AU_IDS}, "landmarks": [[1.0, 2.0]] * 68,
        }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    splits = {"train": rows("train", 8), "validation": rows("validation", 4)}
    return write_mfa(tmp_path / "data", splits, manifest={"license": "other", "made_from": "a test"})


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def options(server, tmp_path) -> list[str]:
    (tmp_path / "profiles.yaml").write_text(PROFILES.format(url=server.base_url))
    (tmp_path / "prices.yaml").write_text(PRICES)
    return ["--profiles", str(tmp_path / "profiles.yaml"), "--prices", str(tmp_path / "prices.yaml")]


def caption(*args) -> int:
    return main(["caption", *map(str, args)])


def captioned(folder: Path) -> list[dict]:
    wanted = ["file_name", "emotion", *(f"AU{n}" for n in AU_IDS), "caption_au", "caption_emotion", "caption_key_au",
              "caption_source", "caption_model", "prompt_sha256"]  # fmt: skip
    return [row for split in ("train", "validation") for row in load_mfa(folder, split).select_columns(wanted)]


def check_rows(found: list[dict]) -> None:
    assert len(found) == 12
    for row in found:
        active = [au_id for au_id in AU_IDS if row[f"AU{au_id}"] == 1]
        emotion = None if row["emotion"] is None else EMOTIONS[row["emotion"]]
        assert validate_caption("au", row["caption_au"], active, emotion) == []
        for kind in ("emotion", "key_au"):
            if emotion is None:
                assert row[f"caption_{kind}"] is None
            else:
                assert validate_caption(kind, row[f"caption_{kind}"], active, emotion) == []


def test_the_template_needs_nothing_and_captions_in_place(folder):
    assert caption(folder) == 0
    found = captioned(folder)
    check_rows(found)
    assert {row["caption_source"] for row in found} == {"template"} and found[0]["caption_model"] is None
    assert found[1]["caption_au"] == template_captions("test/train/00001.jpg", [6, 12], "Happiness").au
    manifest = read_manifest(folder)
    assert manifest["made_from"] == "a test" and manifest["captions"] == {"backend": "template", "seed": 0}


def test_a_model_captions_into_a_new_folder_with_provenance(folder, server, options, tmp_path, capsys):
    out = tmp_path / "out"
    assert caption(folder, "--out", out, "--profile", "left", "--yes", *options) == 0
    found = captioned(out)
    check_rows(found)
    asked = [row for row in found if row["caption_model"]]
    assert {row["caption_model"] for row in asked} == {"left-model-0001"} and len(asked) == 12
    assert {row["caption_source"] for row in found} == {"left"}
    assert len({row["prompt_sha256"] for row in asked}) == 1
    described = read_manifest(out)["captions"]
    assert described["profile"] == "left" and described["parameters"]["model"] == "left-model"
    assert described["tally"]["outcomes"] == {"valid": sum(server.billed.values())}
    provenance = [json.loads(line) for line in (tmp_path / "out.captions" / "provenance.jsonl").open()]
    assert len(provenance) == 12
    assert set(provenance[1]["captions"]) == {"au", "emotion", "key_au"}
    assert all(row["caption_au"] is None for row in captioned(folder)), "the input is left alone"
    assert "$" in capsys.readouterr().out


def test_the_pilot_gives_the_estimate_and_its_answers_stay(folder, server, options, capsys):
    assert caption(folder, "--profile", "left", "--pilot", 6, "--max-usd", 1, *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "90 tokens per answer" in lines[0] and "a pilot of" in lines[1] and "100% valid" in lines[1]
    assert server.paid_twice() == 0


def test_money_is_not_spent_without_a_yes_or_a_bound(folder, server, options, capsys):
    assert caption(folder, "--profile", "left", *options) == 1
    assert "--max_usd USD or --yes" in capsys.readouterr().err and not server.billed


def test_a_dry_run_asks_nothing_and_writes_nothing(folder, server, options, capsys):
    for backend in (["--profile", "left"], ["--profile", "hosted"], ["--backend", "template"]):
        assert caption(folder, *backend, "--dry-run", *options) == 0
    out = capsys.readouterr().out
    assert "28 requests to send" in out and "about $0.0" in out and not server.hits
    assert all(row["caption_au"] is None for row in captioned(folder))
    assert not folder.with_name("data.captions").exists()


def test_no_image_is_uploaded_without_a_permission_which_is_recorded(folder, options, capsys, monkeypatch):
    assert caption(folder, "--profile", "hosted", *options) == 1
    assert "--i_may_upload AGREEMENT --signatory NAME" in capsys.readouterr().err
    assert caption(folder, "--profile", "hosted", "--i-may-upload", "EULA 3.2", *options) == 1
    assert "signatory" in capsys.readouterr().err
    granted = ["--i-may-upload", "EULA 3.2", "--signatory", "Prof. N. N."]
    assert caption(folder, "--profile", "left", "--yes", *granted, *options) == 0
    permission = read_manifest(folder)["captions"]["upload_permission"]
    assert permission == {"agreement": "EULA 3.2", "signatory": "Prof. N. N."}


def test_a_stopped_run_writes_no_data_set_and_goes_on_later(folder, server, options, capsys):
    server.faults = ["ok", "ok", "insufficient_quota"]
    arguments = [folder, "--profile", "left", "--yes", "--pilot", 0, "--concurrency", 1, *options]
    assert caption(*arguments) == 3
    assert "stopped: HTTP 429" in capsys.readouterr().out
    assert all(row["caption_au"] is None for row in captioned(folder))
    assert caption(*arguments) == 0
    check_rows(captioned(folder))
    assert server.paid_twice() == 0


def test_dead_letters_are_listed_and_the_template_may_stand_in(folder, server, options, tmp_path, capsys):
    arguments = [folder, "--profile", "left", "--yes", "--pilot", 0, "--concurrency", 1, *options]
    server.faults = ["refusal"]  # the first request: the emotion caption of an image without AUs
    assert caption(*arguments, "--out", tmp_path / "null", "--store", tmp_path / "store") == 0
    assert captioned(tmp_path / "null")[0]["caption_emotion"] is None
    out = capsys.readouterr().out
    assert "1 dead" in out and "refusal 1" in out and "Neutral" in out
    (letter,) = map(json.loads, (tmp_path / "store" / "dead_letters.jsonl").open())
    assert (letter["image_id"], letter["kind"], letter["reason"]) == ("test/train/00000.jpg", "emotion", "refusal")
    assert "cannot help" in letter["violations"][0] and "refusal" in letter["answer"]
    filled = tmp_path / "filled"
    assert caption(*arguments, "--out", filled, "--store", tmp_path / "store", "--fallback", "template") == 0
    check_rows(captioned(filled))
    assert captioned(filled)[0]["caption_source"] == "template"
    assert captioned(filled)[1]["caption_source"] == "left"


def test_batch_mode_and_collecting_later(folder, server, options):
    arguments = [folder, "--profile", "left", "--yes", "--pilot", 0, "--mode", "batch", "--poll", 0, *options]
    assert caption(*arguments, "--no-wait") == 3
    assert caption(*arguments) == 0
    check_rows(captioned(folder))
    assert server.calls["create"] == 1 and server.paid_twice() == 0


def test_shards_for_another_program(folder, options, tmp_path, capsys):
    arguments = [folder, "--profile", "hosted", "--store", tmp_path / "store", *options]
    assert caption(*arguments, "--mode", "write-shards", "--batch-requests", 20) == 3
    shards = sorted((tmp_path / "store" / "batches").glob("*.jsonl"))
    assert [len(shard.read_text().splitlines()) for shard in shards] == [20, 8]
    for shard in shards:
        with (tmp_path / f"answers-{shard.name}").open("w") as file:
            for line in map(json.loads, shard.open()):
                response = {"status_code": 200, "request_id": "", "body": completion(line["body"])}
                file.write(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}) + "\n")
    assert caption(*arguments, "--answers", *sorted(tmp_path.glob("answers-*"))) == 0
    check_rows(captioned(folder))


def test_two_profiles_compared(folder, server, options, capsys, tmp_path):
    server.faults = ["ok", "banned_word"]
    arguments = ["--compare", "left", "right", "-n", 8, "--yes", "--pilot", 0, "--concurrency", 1, *options]
    assert caption(folder, *arguments, "--store", tmp_path / "store") == 0
    report = json.loads((tmp_path / "store" / "comparison.json").read_text())
    left, right = report["profiles"]
    assert (left["valid"], right["valid"], right["valid_at_once"]) == (1.0, 1.0, 1.0) and left["valid_at_once"] < 1
    assert right["usd_per_caption"] == pytest.approx(2 * (400 + 60 * 10) / 1e6)
    assert report["key_au_jaccard"] == 1.0 and report["num_images"] == 8
    out = capsys.readouterr().out
    assert "left-model" in out and "right-model" in out and "Jaccard 1.000" in out


def test_a_profile_about_to_be_shut_down_is_refused(folder, options, tmp_path, capsys):
    with (tmp_path / "profiles.yaml").open("a") as file:
        file.write("old: {<<: *base, retires: 2020-01-01, successor: left}\n")
    assert caption(folder, "--profile", "old", *options) == 1
    assert "shut down on 2020-01-01" in (error := capsys.readouterr().err) and "--profile left" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "nobody"], "Unknown profile 'nobody'"),
        (
            [
                "--profile",
                "hosted",
                "--max-usd",
                "1",
                "--model",
                "unpriced",
                "--i-may-upload",
                "A",
                "--signatory",
                "B",
            ],
            "--max_usd needs the price of unpriced",
        ),
        (["-n", "0"], "at least 1"),
        (["--profile", "left", "--prompts", "/nowhere"], "prompt files"),
        (["--profile", "left", "--concurrency", "0", "--yes"], "concurrency is 0"),
    ],
)
def test_wrong_options_are_one_clear_line(folder, options, capsys, arguments, says):
    assert caption(folder, *options, *arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error and "Traceback" not in error


def test_without_the_client_the_extra_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    for name in ("session", "endpoint", "batch", "online", "failures"):
        monkeypatch.delitem(sys.modules, f"mf2.dataset_tools.captions.{name}", raising=False)
    assert main(["caption", str(folder), "--backend", "model"]) == 1
    assert "pip install 'mf2-face[captions]'" in capsys.readouterr().err


def test_a_folder_that_is_none(tmp_path, capsys):
    assert caption(tmp_path / "nothing") == 1
    assert "manifest.json" in capsys.readouterr().err


def test_a_run_in_which_nothing_worked_writes_nothing_and_says_why(folder, server, options, tmp_path, capsys):
    server.faults = ["refusal"] * 1000
    arguments = [folder, "--profile", "left", "--yes", "--out", tmp_path / "out", *options]
    assert caption(*arguments, "--pilot", 6) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"The pilot stopped: 0% of \d captions are valid, --min_valid 0.9", error)
    assert "): The model refused: I cannot help with that" in error and "--retry_dead" in error
    assert sum(server.billed.values()) <= 6 and not (tmp_path / "out").exists()
    letters = (tmp_path / "out.captions" / "dead_letters.jsonl").read_text().splitlines()
    assert len(letters) == sum(server.billed.values())
    assert caption(*arguments, "--pilot", 0) == 1
    assert "No data set is written: 0% of 28 captions" in capsys.readouterr().err
    assert caption(*arguments, "--min-valid", 0) == 0, "unless it is wanted as it is"
    server.faults = []
    assert caption(*arguments, "--retry-dead") == 0
    check_rows(captioned(tmp_path / "out"))


@pytest.mark.parametrize(("takes", "form"), [({"json_object", "none"}, "json_object"), ({"none"}, "none")])
def test_the_form_that_a_server_takes_is_found_once_and_remembered(folder, server, options, capsys, takes, form):
    server.schemas = takes
    arguments = [folder, "--profile", "left", "--yes", *options]
    assert caption(*arguments) == 0
    assert "body.response_format: no json_schema" in capsys.readouterr().out
    check_rows(captioned(folder))
    hits = sum(server.hits.values())
    assert hits == 28 + (1 if form == "json_object" else 2)
    assert caption(*arguments) == 0
    assert sum(server.hits.values()) == hits
    assert read_manifest(folder)["captions"]["schema"] == form


def test_a_server_that_breaks_on_a_form_is_asked_without_it(folder, server, options, capsys):
    """HTTP 500 whenever a schema comes, as the server of llama-cpp-python has it."""
    server.schemas, server.schema_status = {"json_object", "none"}, 500
    assert caption(folder, "--profile", "left", "--yes", *options) == 0
    assert re.search(r"HTTP 500: .*no json_schema; trying it without json_schema", capsys.readouterr().out)
    check_rows(captioned(folder))
    assert read_manifest(folder)["captions"]["schema"] == "json_object" and sum(server.hits.values()) == 28 + 3


def test_a_server_that_breaks_on_every_request_ends_the_run_at_the_pilot(folder, server, options, capsys):
    """HTTP 500 for an unknown model, as `transformers serve` has it."""
    server.refusal = 500, b"Internal Server Error"
    assert caption(folder, "--profile", "left", "--yes", *options) == 1
    assert "the server fails on every request: HTTP 500: Internal Server Error" in capsys.readouterr().err
    assert sum(server.hits.values()) == 9
    server.refusal = None
    assert caption(folder, "--profile", "left", "--yes", *options) == 0
    check_rows(captioned(folder))


def test_a_form_that_is_asked_for_is_the_only_one_tried(folder, server, options, capsys):
    server.schemas = {"none"}
    assert caption(folder, "--profile", "left", "--schema", "json_object", "--yes", *options) == 3
    assert "no json_object" in (out := capsys.readouterr().out) and "28 not asked" not in out
    assert caption(folder, "--profile", "left", "--schema", "none", "--yes", *options) == 0


def test_what_was_never_asked_is_counted_apart(folder, server, options, capsys):
    server.faults = ["ok", "ok", "insufficient_quota"]
    assert caption(folder, "--profile", "left", "--yes", "--pilot", 0, "--concurrency", 1, *options) == 3
    assert "2 valid (0 from earlier runs), 0 dead, 0 in doubt, 1 unfinished, 25 not asked" in capsys.readouterr().out


def test_requests_that_wait_in_a_batch_file_are_part_of_the_estimate(folder, server, options, capsys):
    server.create_faults = ["insufficient_quota"]
    arguments = [folder, "--profile", "left", "--yes", "--pilot", 0, "--mode", "batch", "--poll", 0, *options]
    assert caption(*arguments) == 3
    capsys.readouterr()
    assert caption(*arguments) == 0
    assert "left: 28 requests to send" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--base-url", "http://127.0.0.1:9/v1"], ["--model", "m"], ["--mode", "batch"]])
def test_options_of_a_model_without_a_model_are_refused_and_the_folder_is_left_alone(folder, capsys, given):
    for backend in ([], ["--backend", "template"]):
        assert caption(folder, *given, *backend) == 1
        assert "--profile NAME or --backend model" in capsys.readouterr().err
    assert all(row["caption_au"] is None for row in captioned(folder))


@pytest.mark.parametrize("model", ["gpt-4o", "openai/gpt-6-luna", "claude-5", "o3-mini"])
def test_a_hosted_model_behind_a_gateway_on_this_machine_needs_the_permission(folder, server, options, capsys, model):
    arguments = [folder, "--profile", "left", "--model", model, "--yes", *options]
    assert caption(*arguments) == 1
    assert f"from where {model} is reached" in capsys.readouterr().err and not server.hits
    assert caption(*arguments, "--i-may-upload", "EULA 3.2", "--signatory", "Prof. N. N.") == 0
