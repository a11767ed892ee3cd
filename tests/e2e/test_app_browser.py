"""The page of `mf2 app` in a browser: what is given is seen, in light and dark, on a desk and on a phone."""

import shutil

import pytest
from tiny_mf2 import save_tiny, write_pictures

from mf2.analysis.face_arguments import FaceSearch
from mf2.app.settings import AppSettings, Limits

pytest.importorskip("gradio", reason="gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from app_page import served_page

    folder = tmp_path_factory.mktemp("app")
    model = save_tiny(folder / "tiny")
    settings = AppSettings(str(model), faces=FaceSearch("mean_face"), limits=Limits(upload_mb=1))
    with served_page(settings, folder / "page") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


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


def upload(page, file, place: int = 0):
    page.locator("input[type=file]").nth(place).set_input_files(file)


def test_an_uploaded_picture_is_seen_and_a_bar_shows_where_from(visit, picture):
    page = visit()
    assert "Nothing is stored" in page.locator(".mf2.top").inner_text()
    assert "No face detector" in page.locator(".mf2.top").inner_text()
    assert "prohibited in the EU" in page.locator(".mf2.bottom").inner_text()
    upload(page, picture)
    page.locator(".mf2.result .sentence").nth(1).wait_for()
    assert page.locator(".au .bar").count() == 12
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
