"""Prompts, schemas, bodies and keys: what is asked, and when two questions are the same."""

import base64
import dataclasses
import json
import shutil

import pytest
from caption_rig import local_profile, make_jobs

from mf2.dataset_tools.captions.profiles import load_profiles
from mf2.dataset_tools.captions.prompting import (
    PROMPTS_FOLDER,
    CaptionJob,
    Feedback,
    RequestBuilder,
    answer_schema,
    load_prompts,
    requested_kinds,
)
from mf2.labels_mf2 import AU_IDS, EMOTIONS

URL = "http://127.0.0.1:9/v1"


def requests_of(job: CaptionJob, **changes):
    builder = RequestBuilder(local_profile(URL, **changes))
    return builder, {request.kind: request for request in builder.requests([job])}


def text_of(body) -> str:
    return "\n".join(
        m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in body["messages"]
    )


def test_each_kind_has_three_stages_and_the_image():
    assert len(load_prompts()) == 10
    builder, requests = requests_of(make_jobs(1)[0])
    assert list(requests) == ["au", "emotion", "key_au"]
    for kind, request in requests.items():
        body = builder.body(request)
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        assert "Example question" in system["content"] and "Example answer" in system["content"]
        assert "$" not in text_of(body), "a placeholder was not filled"
        (image,) = (part["image_url"] for part in user["content"] if part["type"] == "image_url")
        assert base64.b64decode(image["url"].removeprefix("data:image/jpeg;base64,")) == request.image
        assert body["response_format"]["json_schema"] == answer_schema(kind)


def test_the_signal_gives_the_labels_but_no_hint_of_the_key_aus():
    job = make_jobs(1, active_aus=(25, 6, 12, 4))[0]
    builder, requests = requests_of(job)
    au, emotion, key = (text_of(builder.body(request)) for request in requests.values())
    listed = "Active action units: AU4 (Brow Lowerer), AU6 (Cheek Raiser), AU12 (Lip Corner Puller), AU25 (Lips Part)"
    assert listed in au and listed in key and "AU4" not in emotion
    assert "Emotion: Happiness" in emotion and "Emotion: Happiness" in key and "Happiness" not in au


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_other_is_asked_for_without_naming_an_emotion(emotion):
    builder, requests = requests_of(make_jobs(1, emotion=emotion)[0])
    signal = builder.body(requests["emotion"])["messages"][1]["content"][0]["text"]
    assert ("none of the basic ones" in signal) == (emotion == "Other")
    assert f"as {emotion.lower()}" in signal or emotion == "Other"


def test_many_aus_ask_for_short_sentences():
    words = []
    for count in range(1, 13):
        builder, requests = requests_of(make_jobs(1, active_aus=AU_IDS[:count])[0])
        text = builder.body(requests["au"])["messages"][1]["content"][0]["text"]
        words.append(int(text.split("at most ")[1].split()[0]))
    assert words == sorted(words, reverse=True) and words[0] == 20
    assert all(count <= 13 for count in words[6:]), "18 words a line, of which the head takes five"


def test_schemas_are_strict():
    def check(schema):
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False
            assert schema["required"] == list(schema["properties"])
            for value in schema["properties"].values():
                check(value)
        elif schema["type"] == "array":
            check(schema["items"])

    for kind in ("au", "emotion", "key_au"):
        assert answer_schema(kind)["strict"] is True
        check(answer_schema(kind)["schema"])


def test_the_key_names_the_question_and_holds_for_equal_ones_only():
    job = make_jobs(1)[0]
    keys = {request.key for request in requests_of(job)[1].values()}
    assert len(keys) == 3
    same = dataclasses.replace(job, image_id="another name", active_aus=(25, 12, 6))
    assert {request.key for request in requests_of(same)[1].values()} == keys
    for other in (
        requests_of(make_jobs(2)[1]),  # another image
        requests_of(dataclasses.replace(job, active_aus=(6, 12), emotion="Fear")),
        requests_of(job, parameters={"temperature": 0.1}),
        requests_of(job, model="another-model"),
        requests_of(job, detail="low"),
    ):
        assert not keys & {request.key for request in other[1].values()}


def test_the_key_does_not_hold_the_image_itself():
    builder, requests = requests_of(make_jobs(1)[0])
    assert len(requests["au"].key) == 64 and requests["au"].key == requests_of(make_jobs(1)[0])[1]["au"].key
    assert builder.prompt_sha256("au") != builder.prompt_sha256("emotion")


def test_prompts_of_ones_own_change_hash_and_key(tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(PROMPTS_FOLDER, folder)
    (folder / "au_setup.txt").write_text("Describe the face.")
    own = RequestBuilder(local_profile(URL), folder)
    shipped = RequestBuilder(local_profile(URL))
    changed = {kind: own.prompt_sha256(kind) != shipped.prompt_sha256(kind) for kind in own.kinds}
    assert changed == {"au": True, "emotion": False, "key_au": False}
    (folder / "au_signal.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"au_signal\.txt"):
        RequestBuilder(local_profile(URL), folder)


def test_a_re_ask_shows_the_answer_and_what_was_wrong_with_it():
    builder, requests = requests_of(make_jobs(1)[0])
    messages = builder.body(requests["au"], Feedback("{}", ("AU6 is missing.",)))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "{}" and "- AU6 is missing." in messages[3]["content"]


@pytest.mark.parametrize(
    ("schema", "wanted"), [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)]
)
def test_servers_differ_in_their_fields(schema, wanted):
    builder, requests = requests_of(make_jobs(1)[0], schema=schema)
    body = builder.body(requests["au"])
    assert body.get("response_format", {}).get("type") == wanted
    assert body["max_tokens"] == 300 and "max_completion_tokens" not in body
    paper = RequestBuilder(load_profiles()["paper"])
    body = paper.body(requests["au"])
    assert body["max_completion_tokens"] == 300 and "max_tokens" not in body
    assert body["messages"][1]["content"][1]["image_url"]["detail"] == "low"
    assert json.loads(json.dumps(body)) == body


def test_images_are_recognised_by_their_bytes():
    builder, requests = requests_of(make_jobs(1)[0])
    for magic, mime in ((b"\x89PNG\r\n", "png"), (b"GIF89a", "gif"), (b"RIFF1234WEBPVP8", "webp")):
        body = builder.body(dataclasses.replace(requests["au"], image=magic))
        assert body["messages"][1]["content"][1]["image_url"]["url"].startswith(f"data:image/{mime};base64,")
    with pytest.raises(ValueError, match="image0 is not a JPEG"):
        builder.body(dataclasses.replace(requests["au"], image=b"BM1234"))


def test_no_call_is_planned_where_the_caption_is_fixed():
    assert requested_kinds((), "Neutral") == ["emotion"]
    assert requested_kinds((6,), None) == ["au"]
    assert requested_kinds((), None) == []
