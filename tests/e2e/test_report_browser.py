"""The report in a browser: it draws, sorts and switches without an error and without a request."""

import json

import numpy as np
import pandas as pd
import pytest
from headless_chromium import needs_chromium, open_browser

from mf2.analysis.report.command import write_report
from mf2.labels_mf2 import ACTION_UNITS

pytestmark = needs_chromium
NUM_FRAMES = 40


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two faces of a video and a few pictures; AU4 rises over time in the first face."""
    rows = []
    for frame in range(NUM_FRAMES):
        for face in range(2):
            au4 = frame / NUM_FRAMES if face == 0 else 0.1
            rows.append({"source": "film.mp4", "frame": frame, "time_s": frame / 10, "face": face, "AU4": au4})
    rows += [{"source": f"{n}.jpg", "frame": 0, "time_s": 0.0, "face": 0, "AU4": n / 10} for n in (3, 9, 1)]
    table = pd.DataFrame(rows).assign(status="ok", error=None, AU12=0.7, emotion="Happiness")
    table["emotion_Happiness"], table["emotion_Anger"] = 0.75, 0.25
    folder = tmp_path_factory.mktemp("run")
    table.to_parquet(folder / "faces.parquet")
    (folder / "manifest.json").write_text(json.dumps({"model": None, "thresholds": {"AU4": 0.5, "AU12": 0.5}}))
    return write_report(folder)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, report):
    """The report, opened; what goes wrong in it fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url[:5] not in ("file:", "data:") else 0)
    page.goto(report.as_uri())
    yield page
    context.close()
    assert wrong == []


def column(page, table: int, place: int) -> list[float]:
    cells = page.locator("table.sortable:visible").nth(table).locator(f"tbody td:nth-child({place})")
    return [float(value) for value in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")]


def test_the_timeline_is_drawn_where_the_values_are(page):
    lanes = page.locator("#view-0 .lane.au")
    assert lanes.locator(".label b").all_text_contents() == ["AU4", "AU12"]
    active = page.locator("#view-0 .lane.au .active").first
    box = active.evaluate("path => { const b = path.getBBox(); return [b.x, b.width, b.height]; }")
    np.testing.assert_allclose(box, [NUM_FRAMES / 2, NUM_FRAMES / 2, (NUM_FRAMES - 1) / NUM_FRAMES], atol=1e-3)
    heights = page.locator("#view-0 .emotions path").evaluate_all("paths => paths.map((p) => p.getBBox().height)")
    np.testing.assert_allclose(heights, [0.75, 0.25], atol=1e-3)


def test_the_cursor_reads_the_values_at_its_place(page):
    box = page.locator("#view-0 .lane.au .plot").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2501, box["y"] + 5)
    assert page.locator("#view-0 .lane.au output").first.text_content() == "25 %"
    assert page.locator("#view-0 .cursor").get_attribute("data-time") == "1.0 s"
    page.locator("#view-0 .timeline").press("ArrowRight")
    assert page.locator("#view-0 .lane.au output").first.text_content() == "28 %"
    assert page.locator("#view-0 .emotions output").text_content() == "Happiness 75 %"


def test_tables_sort_by_a_click_both_ways(page):
    page.locator(".views button", has_text="pictures").click()
    head = page.locator("table.heat thead th", has_text="AU4")
    head.get_by_role("button").click()
    assert column(page, 2, 3) == [0.9, 0.3, 0.1]
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert column(page, 2, 3) == [0.1, 0.3, 0.9]


def test_faces_are_chosen_by_their_button(page):
    assert page.locator(".view:visible h2").all_text_contents() == ["film.mp4 · face 0"]
    page.locator(".views button", has_text="face 1").click()
    assert page.locator(".view:visible h2").all_text_contents() == ["film.mp4 · face 1"]
    assert page.locator("#view-1 .lane.au .active").first.get_attribute("d") == ""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_both_colour_schemes(browser, report, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in paper[4:-1].split(","))
    assert (brightness > 600) if scheme == "light" else (brightness < 150)
    context.close()


@pytest.mark.parametrize("width", [1100, 1280])
def test_every_action_unit_has_a_column_that_is_seen(browser, tmp_path, width):
    """All that there are, beside names and emotions as long as they come, without moving the table."""
    rows = [{"source": f"holiday/IMG_20240101_{n}.jpg", "frame": 0, "time_s": 0.0, "face": 0} for n in range(3)]
    codes = [unit.code for unit in ACTION_UNITS.values()]
    table = pd.DataFrame(rows).assign(status="ok", error=None, emotion="Happiness", **dict.fromkeys(codes, 0.99))
    table["emotion_Happiness"] = 1.0
    table.to_parquet(tmp_path / "faces.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps({"model": None, "thresholds": dict.fromkeys(codes, 0.5)}))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(write_report(tmp_path).as_uri())
    heads = page.locator("table.heat thead th.number")
    assert heads.all_text_contents() == codes
    frame = page.locator(".scroll", has=page.locator("table.heat")).bounding_box()
    last = heads.last.bounding_box()
    assert last["x"] + last["width"] <= frame["x"] + frame["width"]
    page.close()
