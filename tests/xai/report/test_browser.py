"""The report in a real browser, opened from a file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from xai.figures.geometry import Geometry
from xai.figures.render import overlay
from xai.report.build import write_report
from xai.results.modality import ModalityRelevance
from xai.results.relevance import Relevance

from .values import GAINS, HOSTILE, PATCHES, SAMPLES, captioned_report, picture, small_report


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(small_report(), path)
    return path


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The report; in the end nothing may have failed, nothing been asked of a network, and no text become a script."""
    yield from opened(browser, file)


def opened(browser: Browser, file: Path) -> Iterator[Page]:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800})
    page, complaints, requests = context.new_page(), [], []
    page.set_default_timeout(5000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("window.hacked") is None
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]


def methods(page: Page, part: str = "explainer") -> list[str]:
    return page.locator(f"#figures tbody.{part} .name").all_inner_texts()


def head(page: Page, label: str) -> Locator:
    return page.locator("#figures thead th[scope=col]").filter(has_text=label)


def questions(page: Page) -> list[str]:
    return page.locator("[role=option] > span:nth-child(2)").all_text_contents()


def cards(page: Page) -> list[str | None]:
    return [card.get_attribute("data-method") for card in page.locator(".card[data-method]").all()]


def tick(page: Page, group: str, label: str) -> None:
    page.get_by_role("group", name=group).get_by_label(label, exact=True).click()


def test_the_table_opens_with_the_best_first_and_baselines_apart(page: Page) -> None:
    assert [name.split("\n")[0] for name in methods(page)] == ["wra", "genatt", "rollout", "broken"]
    assert methods(page, "baseline") == ["random", "inverted"]
    assert head(page, "SRG").get_attribute("aria-sort") == "descending"
    assert page.locator("#figures td.best").all_text_contents() == ["0.300[0.250, 0.350]", "0.350"]  # no baseline
    assert page.locator("tr", has=page.locator(".tag")).locator(".name").all_text_contents() == [
        "rolloutclass-agnostic"
    ]
    assert page.locator("tbody .note").text_content() == f"failed {HOSTILE}"


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_around(page: Page) -> None:
    head(page, "positive").locator("button").click()
    assert head(page, "positive").get_attribute("aria-sort") == "ascending"  # lower is better
    assert head(page, "SRG").get_attribute("aria-sort") is None
    assert methods(page)[0] == "wra"
    page.keyboard.press("Enter")  # the head still has the focus
    assert head(page, "positive").get_attribute("aria-sort") == "descending"
    assert [name.split("\n")[0] for name in methods(page)] == [
        "rollout",
        "genatt",
        "wra",
        "broken",
    ]  # unknown stays last
    assert methods(page, "baseline") == ["inverted", "random"]
    head(page, "method").locator("button").click()
    assert [name.split("\n")[0] for name in methods(page)] == ["broken", "genatt", "rollout", "wra"]


def test_a_further_table_stands_by_itself_and_sorts_by_itself(page: Page) -> None:
    further = page.locator("#further")
    assert further.locator("h2").text_content() == f"Paper {HOSTILE}"
    assert further.locator("p").text_content() == f"note {HOSTILE}"
    assert further.locator("td").all_text_contents() == ["", "1", "2"]  # the corner, then the lower rank first
    further.locator("th[scope=col]").filter(has_text="rank").locator("button").click()
    assert further.locator("tbody .name").all_text_contents() == [f"last {HOSTILE}", f"first {HOSTILE}"]
    assert head(page, "SRG").get_attribute("aria-sort") == "descending"


def test_a_stratum_shows_its_own_figures(page: Page) -> None:
    page.get_by_role("radiogroup", name="samples").get_by_text("wrong").click()
    assert page.locator("#figures caption").text_content() == "10 samples"
    assert methods(page)[0].startswith("rollout")
    assert page.locator("#figures td.best .value").first.text_content() == "0.100"


def test_bars_are_drawn_to_scale(page: Page) -> None:
    widths = [float(bar.get_attribute("width") or 0) for bar in page.locator("tbody.explainer .bar rect").all()]
    assert np.allclose(np.array(widths) / widths[0], [1, 2 / 3, 1 / 3])
    starts = [float(bar.get_attribute("x") or 0) for bar in page.locator("tbody.explainer .bar rect").all()]
    assert np.allclose([starts[1], starts[2] + widths[2]], starts[0])  # from zero, to the left what is negative


def test_intervals_are_written_out_on_demand(page: Page) -> None:
    interval = page.locator("td .interval").first
    assert not interval.is_visible()
    page.get_by_label("intervals as numbers").click()
    assert interval.is_visible()


def test_text_from_data_stays_text_everywhere(page: Page) -> None:
    assert page.title() == f"Report {HOSTILE}"
    assert page.locator("h1").text_content() == f"Report {HOSTILE}"
    assert page.locator("h3").text_content() == f"is this {HOSTILE}?"
    assert page.locator(".answers b").all_text_contents()[:2] == [f"prediction {HOSTILE}", f"answer {HOSTILE}"]
    assert page.locator("footer dt").first.text_content() == f"seed {HOSTILE}"
    assert page.locator("footer dd").first.text_content() == HOSTILE
    assert page.locator(".words span").nth(1).get_attribute("title") == f"{HOSTILE}: −1"
    assert f"help {HOSTILE}" in str(head(page, "SRG").locator("button").get_attribute("title"))
    assert HOSTILE in str(page.locator(".charts svg").first.get_attribute("aria-label"))
    assert page.locator("script").count() == 2
    assert page.locator("img:not([src^='data:image/webp;base64,'])").count() == 0


def test_filters_by_verdict_type_and_text(page: Page) -> None:
    verdict = page.get_by_role("radiogroup", name="answers")
    assert len(questions(page)) == len(SAMPLES)
    verdict.get_by_text("wrong").click()
    assert questions(page) == ["how many cats?"]
    assert page.locator("h3").text_content() == "how many cats?"  # the sample that was shown is filtered out
    verdict.get_by_text("right").click()
    page.get_by_label("answer type").select_option("number")
    assert questions(page) == ["how many dogs?"]
    verdict.get_by_text("all").click()
    page.get_by_label("search questions").fill("CATS")
    assert questions(page) == ["how many cats?"]
    page.get_by_label("search questions").fill("nowhere")
    assert questions(page) == []
    assert page.locator("article").text_content() == "No sample matches."
    assert page.locator(".count").text_content() == f"0 of {len(SAMPLES)}"


def test_explainers_are_chosen_side_by_side(page: Page) -> None:
    assert cards(page) == ["wra", "genatt"]  # the best first, of those that explained samples; no baselines
    tick(page, "explainers", "random")
    assert cards(page) == ["wra", "genatt", "random"]
    tick(page, "explainers", "wra")
    assert cards(page) == ["genatt", "random"]
    assert page.locator(".card[data-method=random] canvas").count() == 0  # it has no patches


def test_arrow_keys_go_through_the_samples(page: Page) -> None:
    page.get_by_role("listbox", name="samples").focus()
    for key, expected in (
        ("ArrowDown", 1),
        ("ArrowRight", 2),
        ("ArrowUp", 1),
        ("End", 3),
        ("ArrowDown", 3),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert page.locator("h3").text_content() == SAMPLES[expected][0]
        assert page.locator("[aria-selected=true]").get_attribute("id") == f"sample-{expected}"


def test_the_slider_fades_the_heat_map(page: Page) -> None:
    slider = page.get_by_label("heat map over image")
    opacity = "canvas => getComputedStyle(canvas).opacity"
    assert page.locator(".card canvas").first.evaluate(opacity) == "0.85"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".card canvas").first.evaluate(opacity) == "0.8"
    page.keyboard.press("Home")
    assert page.locator(".card canvas").first.evaluate(opacity) == "0"
    assert page.locator(".opacity output").text_content() == "0 %"
    assert page.locator("[aria-selected=true]").get_attribute("id") == "sample-0"  # its arrows are its own


def test_the_heat_map_is_the_one_that_render_draws(page: Page) -> None:
    canvas = page.locator(".card[data-method=wra] canvas")
    page.wait_for_function("document.querySelector('.card[data-method=wra] canvas').width === 40")
    values = canvas.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    drawn = np.array(values).reshape(24, 40, 4)[..., :3]
    scores = torch.tensor(PATCHES).flatten()[None]
    mask = torch.ones(1, 12, dtype=torch.bool)
    relevance = Relevance({"image": ModalityRelevance(scores, mask, ~mask, (3, 4))}, "wra", {}, None)
    middle = Geometry((24, 40), (24, 40), (0, 8), (24, 24))
    figure = overlay(relevance, [Image.fromarray(picture(0))], lambda size: middle)
    shown = next(image.get_array() for image in figure.axes[0].images[1:] if image.get_array().shape[:2] == (24, 40))
    assert np.abs(drawn - 255 * np.asarray(shown)).max() < 2


def test_words_of_questions_are_not_to_be_pointed_at(page: Page) -> None:
    assert page.locator(".pointable, .hint").count() == 0
    before = heat(page)
    page.locator(".card[data-method=wra] .words span").first.hover()
    assert heat(page) == before


def test_words_are_coloured_by_sign(page: Page) -> None:
    colour = "span => getComputedStyle(span).backgroundColor"
    positive, negative = (page.locator(".words span").nth(i).evaluate(colour) for i in (0, 1))
    red, _, blue = (int(value) for value in positive.removeprefix("rgba(").split(",")[:3])
    assert red > blue
    red, _, blue = (int(value) for value in negative.removeprefix("rgba(").split(",")[:3])
    assert blue > red
    assert [page.locator(".words span").nth(i).get_attribute("class") for i in (0, 1)] == [None, "strong"]


def test_curves_answer_the_pointer_and_the_legend(page: Page) -> None:
    chart = page.locator(".charts figure").first
    assert chart.locator(".curve").count() == len(GAINS)
    assert chart.locator(".curve[data-method=broken] .line").get_attribute("d") == ""
    line = chart.locator(".curve[data-method=wra] .line")
    corners = [tuple(map(float, pair.split())) for pair in str(line.get_attribute("d"))[1:].split("L")]
    x, y = corners[1]
    chart.locator("svg").hover(position={"x": x + 3, "y": y + 1})
    assert chart.locator(".tip").inner_text().split("\n") == ["wra", "50 % removed", "0.500 [0.450, 0.550]"]
    assert page.locator(".curve.faded").count() == len(GAINS) - 1
    tick(page, "methods shown", "wra")
    assert chart.locator(".curve[data-method=wra]").count() == 0
    page.get_by_role("button", name="none").click()
    assert chart.locator(".curve").count() == 0
    page.get_by_role("button", name="all").click()
    assert chart.locator(".curve").count() == len(GAINS)


def test_tables_alone_are_shown_alone(browser: Browser, tmp_path: Path) -> None:
    write_report(replace(small_report(), charts=(), gallery=(), further=()), tmp_path / "report.html")
    for page in opened(browser, tmp_path / "report.html"):
        assert page.locator("h2").all_text_contents() == ["Figures", "Protocol and provenance"]


@pytest.fixture
def captions(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    write_report(captioned_report(), tmp_path / "report.html")
    yield from opened(browser, tmp_path / "report.html")


def heat(page: Page, method: str = "wra") -> list[int]:
    """The pixels of a heat map, when all that was asked of it is drawn."""
    canvas = page.locator(f".card[data-method={method}] canvas")
    page.wait_for_function(f"document.querySelector('.card[data-method={method}] canvas').width === 40")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return canvas.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")


def backgrounds(page: Page, method: str = "wra") -> list[str]:
    spans = page.locator(f".card[data-method={method}] .words span")
    return spans.evaluate_all("all => all.map((span) => getComputedStyle(span).backgroundColor)")


def hottest(page: Page, before: list[int]) -> tuple[float, float]:
    """Where, as row and column of patches, the heat map is redder than `before`."""
    now, old = (np.array(values, dtype=float).reshape(24, 40, 4) for values in (heat(page), before))
    redder = (now[..., 0] - now[..., 2]) - (old[..., 0] - old[..., 2])
    row, column = np.unravel_index(redder[:, 8:32].argmax(), (24, 24))
    return int(row) // 8, int(column) // 6


def test_a_word_that_is_pointed_at_shows_its_map_and_leaving_the_whole(captions: Page) -> None:
    page, words = captions, captions.locator("h3 span")
    assert page.locator(".hint").is_visible()
    assert words.all_text_contents() == ["a", HOSTILE, "cat"]
    whole, coloured = heat(page), backgrounds(page)
    words.nth(2).hover()
    third = heat(page)
    assert third != whole and heat(page, "genatt") == third, "every card follows; a map's scale is its own"
    assert hottest(page, whole) == (0, 2)
    assert [span.get_attribute("class") for span in words.all()] == ["pointable", "pointable", "pointable pointed"]
    shown = backgrounds(page)
    covers = [float(colour.removesuffix(")").split(",")[3]) for colour in shown[:2]]
    assert shown != coloured and covers[0] > covers[1] > 0 and shown[2].endswith(", 0)"), "cat goes back on a"
    page.mouse.move(0, 0)
    assert heat(page) == whole and backgrounds(page) == coloured
    assert page.locator(".pointed").count() == 0


def test_words_in_a_card_can_be_pointed_at_too(captions: Page) -> None:
    whole = heat(captions)
    captions.locator(".card[data-method=genatt] .words span").nth(0).hover()
    assert heat(captions) != whole and captions.locator("h3 .pointed").text_content() == "a"


def test_words_are_pointed_at_by_keyboard(captions: Page) -> None:
    page, words = captions, captions.locator("h3 span")
    whole = heat(page)
    words.nth(0).focus()
    first = heat(page)
    page.keyboard.press("ArrowRight")
    assert page.locator("h3 .pointed").text_content() == HOSTILE
    assert heat(page) not in (whole, first)
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator("h3 .pointed").text_content() == "cat", "the last word stays, and so does the sample"
    assert page.locator("[aria-selected=true]").get_attribute("id") == "sample-0"
    words.nth(2).blur()
    assert heat(page) == whole


def test_a_tap_stays_until_the_next(browser: Browser, tmp_path: Path) -> None:
    write_report(captioned_report(), tmp_path / "report.html")
    context = browser.new_context(has_touch=True, viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    whole = heat(page)
    page.locator("h3 span").nth(2).tap()
    assert heat(page) != whole and page.locator("h3 .pointed").text_content() == "cat"
    page.locator("h1").tap()
    assert heat(page) == whole
    context.close()


def test_captions_have_no_verdicts_and_their_text_stays_text(captions: Page) -> None:
    page = captions
    assert page.get_by_role("radiogroup", name="captions").count() == page.locator(".verdict").count() == 0
    assert page.locator(".answers").text_content() == f"given given {HOSTILE}id 0"
    page.get_by_label("search captions").fill("dog")
    assert questions(page) == [f"a {HOSTILE} dog"]
    assert page.locator("script").count() == 2 and page.evaluate("window.hacked") is None
    assert page.locator(".card .words span").nth(1).get_attribute("title") == f"{HOSTILE}: 0.1"
