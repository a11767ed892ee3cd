"""The page of `mf2 app` under many visitors and bad requests, by HTTP as its script asks: nothing breaks or leaks."""

import json
import secrets
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_mf2 import save_tiny, write_pictures

from mf2.analysis.face_arguments import FaceSearch
from mf2.app.settings import AppSettings, Limits

pytest.importorskip("gradio", reason="gradio is not installed")
NUM_VISITORS = 20
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    from app_page import served_page

    settings = AppSettings(str(model), faces=FaceSearch("mean_face"), limits=Limits(upload_mb=1))
    with served_page(settings, tmp_path_factory.mktemp("page")) as address:
        yield address.rstrip("/")


def get(address: str) -> bytes:
    with OPENER.open(address, timeout=60) as answer:
        return answer.read()


def post(address: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with OPENER.open(request, timeout=60) as answer:
        return json.load(answer)


def upload(address: str, name: str, content: bytes) -> str:
    """The path that the server gives a file."""
    head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--cut--\r\n"
    return post(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=cut")[0]


def see(address: str, path: str, name: str) -> list[dict[str, Any]]:
    """What a visitor's browser is told after a picture was chosen, until the end."""
    config = json.loads(get(f"{address}/config"))
    picture = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == "picture")
    wanted = next(each for each in config["dependencies"] if [picture, "change"] in each["targets"])
    session = secrets.token_hex(6)
    file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    call = {"data": [file, [""]], "fn_index": wanted["id"], "session_hash": session, "trigger_id": picture}
    post(f"{address}/gradio_api/queue/join", json.dumps(call).encode(), "application/json")
    messages = []
    with OPENER.open(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=120) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                messages.append(json.loads(line[6:]))
                if messages[-1]["msg"] in ("process_completed", "unexpected_error", "close_stream"):
                    return messages
    return messages


def page_of(messages: list[dict[str, Any]]) -> str:
    """The last result as HTML; updates after the first come as differences."""
    assert messages[-1]["msg"] == "process_completed" and messages[-1]["success"], messages[-1]
    return messages[-1]["output"]["data"][0]


def test_twenty_visitors_at_once_are_all_served(address, tmp_path):
    pictures = write_pictures(tmp_path, NUM_VISITORS)

    def visit(picture: Path) -> str:
        path = upload(address, picture.name, picture.read_bytes())
        return page_of(see(address, path, picture.name))

    with ThreadPoolExecutor(NUM_VISITORS) as visitors:
        pages = list(visitors.map(visit, pictures))
    for picture, page in zip(pictures, pages, strict=True):
        assert page.count('class="bar"') == 12 and page.count('class="sentence"') >= 1, picture
        assert 'role="alert"' not in page
    assert len(set(pages)) == NUM_VISITORS, "each sees a picture of its own"


def test_an_upload_that_is_too_large_is_refused(address):
    with pytest.raises(urllib.error.HTTPError) as refusal:
        upload(address, "large.png", b"\0" * (2 * 10**6))
    assert refusal.value.code == 413


@pytest.mark.parametrize("place", ["/etc/passwd", "{model}/config.json", "{code}/pyproject.toml", "../../etc/passwd"])
def test_files_that_are_no_uploads_cannot_be_fetched(address, model, place):
    file = place.format(model=model, code=Path(__file__).parents[2])
    with pytest.raises(urllib.error.HTTPError) as refusal:
        get(f"{address}/gradio_api/file={file}")
    assert refusal.value.code in (403, 404)


def test_files_that_are_no_uploads_cannot_be_looked_at(address, tmp_path):
    (picture,) = write_pictures(tmp_path, 1)
    messages = see(address, str(picture), picture.name)
    assert not messages[-1].get("success"), "a picture of the server's own"


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.png", b""), ("text.jpg", b"no picture"), ("page.svg", b"<svg><script>1</script></svg>")],
)
def test_a_broken_upload_is_one_message(address, name, content):
    page = page_of(see(address, upload(address, name, content), name))
    assert page.count('role="alert"') == 1 and "<script>" not in page and "/uploads/" not in page
