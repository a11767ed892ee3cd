"""The page of `mf2 app` in a browser: what is given is seen, in light and dark, on a desk and on a phone."""

import numpy as np
import pytest
from headless_chromium import needs_chromium, open_browser
from peft import get_peft_model
from tiny_mf2 import save_tiny, write_pictures

import mf2
from mf2.analysis.face_arguments import FaceSearch
from mf2.app.settings import AppSettings, Limits
from mf2.peft_dfn import DFNConfig

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = needs_chromium
FAKE_WEBCAM = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from app_page import served_page

    folder = tmp_path_factory.mktemp("app")
    model = save_tiny(folder / "tiny")
    adapter = save_adapter(model, folder / "smile")
    limits = Limits(upload_mb=1, video_s=2)
    settings = AppSettings(str(model), (str(adapter),), faces=FaceSearch("mean_face"), limits=limits)
    with served_page(settings, folder / "page") as address:
        yield address


def save_adapter(model, folder):
    config = DFNConfig(au_ids=[1, 9], emotions=[], au_thresholds=[0.5, 0.5], r=4, num_kept_states=1)
    get_peft_model(mf2.MF2Model.from_pretrained(model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with open_browser(*FAKE_WEBCAM) as browser:
        yield browser


@pytest.fixture
def visit(browser, address):
    """Opens the page; an error in its console or a request to elsewhere fails the test."""
    contexts, wrong = [], []

    def open_page(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if is_local(request.url, address) else wrong.append(request.url))
        page.goto(address)
        page.locator(".mf2.top h1").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def is_local(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


@pytest.fixture
def picture(tmp_path):
    (file,) = write_pictures(tmp_path, 1)
    return file


def upload(page, file, into: str = "picture"):
    page.locator(f"#{into} input[type=file]").set_input_files(file)


def open_tab(page, name: str):
    page.get_by_role("tab", name=name).click()


def test_an_uploaded_picture_is_seen_and_a_bar_shows_where_from(visit, picture):
    page = visit()
    assert "Nothing is stored" in page.locator(".mf2.top").inner_text()
    assert "No face detector" in page.locator(".mf2.top").inner_text()
    assert "prohibited in the EU" in page.locator(".mf2.bottom").inner_text()
    upload(page, picture)
    page.locator(".mf2.result .sentence").nth(1).wait_for()
    assert page.locator(".au .bar").count() == 12 + 2
    assert page.locator(".shot polygon").count() == 24
    assert "ms" in page.locator(".latency").inner_text()
    page.locator('.bar[data-code="AU12"]').click()
    page.locator(".map").wait_for()
    assert "AU12" in page.locator(".map figcaption").inner_text()
    with page.expect_download() as download:
        page.locator("a.download").click()
    assert download.value.suggested_filename == "faces.csv"


def test_an_example_is_seen(visit):
    page = visit()
    page.locator("button.gallery-item").first.click()
    page.locator(".mf2.result .au").first.wait_for()


def test_a_broken_picture_is_one_message(visit, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    page = visit()
    upload(page, broken)
    message = page.locator(".message.error")
    message.wait_for()
    assert message.count() == 1 and "cannot be read" in message.inner_text()
    assert str(tmp_path) not in page.content()


def test_the_answers_of_adapters_are_chosen(visit, picture):
    page = visit()
    upload(page, picture)
    page.locator(".card.reading").nth(1).wait_for()
    assert page.locator(".card.reading .by").all_text_contents() == ["checkpoint", "smile"]
    page.get_by_label("checkpoint", exact=True).first.uncheck()
    page.locator('.bar[data-code="AU12"]').wait_for(state="detached")
    assert page.locator(".card.reading .bar").count() == 2
    page.locator('.bar[data-code="AU9"]').click()
    page.locator(".map").wait_for()
    assert "smile" in page.locator(".map figcaption").inner_text()


def test_a_webcam_is_followed(visit):
    page = visit()
    open_tab(page, "Live")
    page.locator("#webcam button:visible").first.click()
    page.locator("#webcam button:visible", has_text="Record").click()
    page.locator(".result .au").first.wait_for()
    first = page.locator(".result .shot img").get_attribute("src")
    page.wait_for_function("first => document.querySelector('.result .shot img').src !== first", arg=first)
    page.locator("#webcam button:visible", has_text="Stop").click()


def test_a_snapshot_of_the_webcam_is_seen(visit):
    page = visit()
    page.get_by_label("Capture from camera").first.click()
    page.locator("#picture button", has_text="Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
    page.get_by_label("capture photo").click()
    page.locator(".mf2.result .au").first.wait_for()


def test_a_video_gets_its_report_and_a_broken_one_a_message(visit, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    video, broken = tmp_path / "clip.mp4", tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(8):
            image = np.full((64, 64, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    page = visit()
    open_tab(page, "Video")
    upload(page, video, "video")
    report = page.frame_locator("iframe.report")
    report.locator(".timeline").first.wait_for()
    assert report.locator("h1").inner_text() == "clip.mp4"
    assert page.locator("video.overlay").evaluate("node => node.src.startsWith('data:video/mp4')")
    page.locator("#video").get_by_label("Clear").click()
    upload(page, broken, "video")
    page.locator(".message.error:visible").wait_for()
    assert "broken.mp4" in page.locator(".message.error:visible").inner_text()


def test_two_faces_are_compared(visit, tmp_path):
    page = visit()
    open_tab(page, "Compare")
    for file, into in zip(write_pictures(tmp_path, 2), ("first", "second"), strict=True):
        upload(page, file, into)
    page.locator(".pair .mirror").wait_for()
    assert page.locator(".pair .mirror li").count() == 12


def test_the_examples_are_searched_by_words(visit):
    page = visit()
    open_tab(page, "Search")
    page.locator("#description textarea, #description input").fill("raised brows")
    page.get_by_role("button", name="Search").click()
    page.locator(".found .grid li").nth(2).wait_for()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_both_colour_schemes(visit, picture, width, scheme):
    page = visit(viewport={"width": width, "height": 844}, color_scheme=scheme)
    upload(page, picture)
    page.locator(".mf2.result .au").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("body", ".mf2 .card"):
        paper = page.locator(selector).first.evaluate("node => getComputedStyle(node).backgroundColor")
        brightness = sum(int(part) for part in paper[4:-1].split(",")[:3])
        assert (brightness > 600) if scheme == "light" else (brightness < 150)
