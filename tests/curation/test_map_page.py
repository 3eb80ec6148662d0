"""`finetune data map` makes a page that works in a browser: hover, filters, search, colours; and runs nothing of a row.

Chromium is driven by playwright; the tests are skipped where either is absent (scripts/browser brings Chromium).
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune.cli.main import app

pytest.importorskip("sentence_transformers", reason="encoders come with finetune[curation]")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
ROWS, LOSSES = 2000, 1500
TOPICS = {
    "garden": "rose tulip soil compost seed hedge pruning lawn shade rain",
    "kitchen": "oven butter flour knife simmer recipe onion garlic sauce bread",
    "harbour": "anchor tide vessel rope sailor lighthouse cargo pier mast storm",
    "courtroom": "judge verdict witness appeal jury statute lawyer oath claim trial",
}
ATTACK = "</script><img src=x onerror=\"document.title='attacked'\"><b>bold</b>"
MARGIN = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A map of ROWS rows, four topics, a few defects, losses of the first LOSSES, and what the command printed."""
    folder = tmp_path_factory.mktemp("map")
    generator = random.Random(0)
    rows = []
    for number in range(ROWS):
        topic, words = generator.choice(list(TOPICS.items()))
        said = " ".join(generator.sample(words.split(), 4))
        rows.append({"instruction": f"In the {topic}: {said}?", "output": f"{said} {number}."})
    rows[7] = {"instruction": "In the garden: what grows?", "output": ATTACK}
    rows[11]["output"] = "N/A"
    rows[13]["output"] = "<p>Butter.</p>&nbsp;"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = [{"row": row, "loss": row / 1000} for row in range(LOSSES)]
    (folder / "losses.jsonl").write_text("".join(json.dumps(loss) + "\n" for loss in losses))
    out = folder / "map.html"
    command = ["data", "map", str(folder / "rows.jsonl"), "--losses", str(folder / "losses.jsonl"), "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if not CHROMIUM:
        pytest.skip("Chromium is not installed: scripts/browser brings it")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []  # root's Chromium has none
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield started
        started.close()


@pytest.fixture
def page(browser: sync_api.Browser, made: tuple[Path, dict]) -> Iterator[sync_api.Page]:
    """The page, opened; at the end no error was logged, and nothing but the file asked for."""
    opened = browser.new_page(viewport={"width": 1200, "height": 800})
    errors, asked = [], []
    opened.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(made[0].as_uri())
    yield opened
    assert errors == []
    assert asked == [made[0].as_uri()]
    opened.close()


def held(path: Path) -> dict:
    """The data in the page."""
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])


def hover(page: sync_api.Page, data: dict, index: int) -> str:
    """Moves the pointer to a point; what the page then says of it."""
    box = page.locator("#map").bounding_box()
    side = min(box["width"], box["height"]) - 2 * MARGIN
    x = box["x"] + (box["width"] - side) / 2 + data["x"][index] * side
    y = box["y"] + (box["height"] - side) / 2 + (1 - data["y"][index]) * side
    page.mouse.move(x, y)
    return page.locator("#about").inner_text()


def count(page: sync_api.Page) -> int:
    words = page.locator("#count").inner_text()
    assert words.endswith(f"of {ROWS:,} rows shown")
    return int(words.split()[0].replace(",", ""))


def entry(page: sync_api.Page, label: str) -> sync_api.Locator:
    """The legend's entry of that name."""
    return page.locator("#legend button", has_text=label).first


def test_hovering_a_point_shows_its_row(page, made) -> None:
    data = held(made[0])
    assert page.locator("#about").is_hidden() and count(page) == ROWS
    page.locator("#search").fill(f" {1234}.")  # alone on the map, no other point is under the pointer
    assert count(page) == 1
    index = data["rows"].index(1234)
    said = hover(page, data, index)
    assert said.startswith("row 1,234\n")
    assert data["texts"][index] in said
    assert "loss: 1.234" in said and "defect: none" in said
    cluster = data["colourings"][0]
    assert f"cluster: {cluster['labels'][cluster['of'][index][0]]}" in said
    page.mouse.move(1, 1)
    assert page.locator("#about").is_hidden()


def test_the_legend_and_the_search_filter(page, made) -> None:
    _, printed = made
    first = printed["clusters"][0]
    entry(page, ", ".join(first["words"])).click()
    assert count(page) == ROWS - first["rows"]
    page.locator("#none").click()
    assert count(page) == 0
    entry(page, ", ".join(first["words"])).click()
    assert count(page) == first["rows"]
    page.locator("#all").click()
    page.locator("#search").fill("IN THE HARBOUR")
    harbour = sum("In the harbour" in text for text in held(made[0])["texts"])
    assert count(page) == harbour and 400 < harbour < 600
    page.locator("#search").fill("no row has this")
    assert count(page) == 0


def test_colours_switch(page, made) -> None:
    data = held(made[0])
    before = page.locator("#map").screenshot()
    page.locator("#colouring").select_option("defect")
    entries = page.locator("#legend button").all_inner_texts()
    assert entries[0].startswith("none") and any("placeholder_output" in text for text in entries[1:])
    assert page.locator("#map").screenshot() != before
    entry(page, "none").click()
    assert count(page) == sum(of != [0] for of in data["colourings"][1]["of"]) < ROWS / 10
    page.locator("#colouring").select_option("loss")
    sizes = [int(text.split("\n")[-1]) for text in page.locator("#legend button").all_inner_texts()]
    assert sizes == [ROWS - LOSSES] + [LOSSES // 5] * 5
    entry(page, "no loss").click()
    assert count(page) == LOSSES


def test_a_row_that_holds_a_script_does_nothing(page, made) -> None:
    data = held(made[0])
    index = data["rows"].index(7)
    assert ATTACK not in made[0].read_text(encoding="utf-8")
    page.locator("#search").fill("</SCRIPT>")
    assert count(page) == 1
    assert ATTACK in hover(page, data, index), "the row's text is shown as it is"
    assert page.title() == "Map of rows.jsonl"
    assert page.locator("img").count() == 0 and page.locator("#about b").count() == 1


def test_keys_go_from_row_to_row_and_the_wheel_zooms(page, made) -> None:
    page.locator("#search").fill("lighthouse")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#about").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#about").inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#about").inner_text() == first
    still = page.locator("#map").screenshot()
    page.mouse.move(400, 400)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    assert page.locator("#map").screenshot() != still


def test_it_is_dark_where_the_reader_is(page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(253, 253, 252)", "rgb(20, 23, 27)"]


def test_ten_thousand_points_are_drawn_in_a_moment(browser, tmp_path) -> None:
    from finetune.curation.map_page import Colouring, Points
    from finetune.curation.map_page import page as page_of

    generator, many = random.Random(0), 10_000
    x, y = ([generator.random() for _ in range(many)] for _ in range(2))
    colouring = Colouring("cluster", [str(n) for n in range(12)], [[n % 12] for n in range(many)])
    points = Points(list(range(many)), x, y, ["a row of some words " * 15] * many, [None] * many, [colouring])
    path = tmp_path / "many.html"
    path.write_text(page_of("Many", [], points, "cluster"), encoding="utf-8")
    opened = browser.new_page()
    opened.goto(path.as_uri())
    assert opened.locator("#count").inner_text() == "10,000 of 10,000 rows shown"
    milliseconds = opened.evaluate(
        """async () => {
            const search = document.getElementById("search"), times = [];
            for (const words of ["a", "ro", "row", "", "som"]) {
                search.value = words;
                const start = performance.now();
                search.dispatchEvent(new Event("input"));
                await new Promise(requestAnimationFrame);
                times.push(performance.now() - start);
            }
            return times.sort((a, b) => a - b)[2];
        }"""
    )
    opened.close()
    assert milliseconds < 500, "a filter and a frame: about 30 ms where nothing else runs"
