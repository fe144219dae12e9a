"""The site of the documentation: it builds without a warning, opens from a file, and shows what the code and the figures say."""

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page

import clipmapper
import xai
from xai.explainers.registry import METHODS
from xai.explainers.table import OWN

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"


def build(folder: Path, *options: str, repository: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), *options],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site; takes 20 seconds."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that has no network; in the end nothing may have failed, and nothing been asked but files."""
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})
    page, complaints, requests = context.new_page(), [], []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "about:"))] == []


def test_the_start_page_leads_everywhere(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    assert page.locator("h1").inner_text().startswith("Start here")
    tabs = page.locator("nav.md-tabs a").all_inner_texts()
    assert [tab.strip() for tab in tabs] == [
        next(iter(entry)) for entry in yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    ]
    widths = page.locator("article img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) >= 3 and all(widths)
    page.locator("article a", has_text="Choose a method").click()
    assert page.locator("h1").inner_text().startswith("Choose a method")


def test_the_search_finds_a_word_from_a_file(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("input.md-search__input").click()
    page.locator("input.md-search__input").press_sequentially("rollout")
    found = page.locator(".md-search-result__item h1", has_text=re.compile("^Glossary|rollout"))
    found.first.wait_for()


@pytest.mark.parametrize("method", ["wra", "consensus_game"])
def test_a_card_shows_what_the_registry_and_the_figures_say(site: Path, page: Page, method: str) -> None:
    page.goto((site / "methods" / f"{method}.html").as_uri())
    assert page.locator("h1 code").inner_text() == method
    tables = page.locator("article table")
    facts = dict(row.locator("td").all_inner_texts() for row in tables.first.locator("tbody tr").all())
    known = METHODS[method]
    assert facts["signed: tokens can speak against the target"] == ("yes" if known.signed else "no")
    assert facts["rules for relevance"] == {"wra": "none", "consensus_game": "CP-LRP"}[method]
    assert facts["cost"].startswith("1 recorded pass") and ("128" in facts["cost"]) == (method == "consensus_game")
    shown = [
        [text.replace("\N{NO-BREAK SPACE}", " ") for text in row.locator("td").all_inner_texts()]
        for row in tables.nth(1).locator("tbody tr").all()
    ]
    with (DOCS / "figures" / "seed-2027.csv").open(newline="") as file:
        of_b, of_a = [row for row in csv.DictReader(file) if row["method"] == method]
    assert len(shown) == 6
    for measure, b, place, a, _ in shown:
        for text, row in ((b, of_b), (a, of_a)):
            assert text == f"{row[measure]} [{row[f'{measure} low']}, {row[f'{measure} high']}]"
        assert place.endswith("of 15")
    assert (shown[0][2] == "1 of 15") == (method == "consensus_game")


def test_the_reference_has_every_public_name(site: Path, page: Page) -> None:
    page.goto((site / "reference" / "xai.html").as_uri())
    names = page.locator("article [id^='xai.']").evaluate_all("parts => parts.map(part => part.id)")
    assert {f"xai.{name}" for name in xai.__all__} <= {*names}
    explain = page.locator(".doc-object", has=page.locator("> [id='xai.explain']")).inner_text()
    for part in (
        "explain(",
        "Parameters:",
        "method (",
        "a name of xai.METHODS",
        "Returns:",
        "Raises:",
        "PropagationError",
    ):
        assert part in explain, part
    code = page.locator(".doc-object", has=page.locator("> [id='xai.explain']")).locator(
        "code", has_text=">>> import torch"
    )
    assert "torch.Size([1, 4, 4])" in code.first.inner_text()
    page.goto((site / "reference" / "clipmapper.html").as_uri())
    for name in (f"clipmapper.{clipmapper.__all__[0]}", "clipmapper.explain.explain_answer"):
        assert page.locator(f"[id='{name}']").count() == 1, name
    page.goto((site / "methods" / "legrad.html").as_uri())
    assert "Float[Tensor, 'B T']" in page.locator("article").inner_text()


def test_tables_of_figures_are_those_of_the_files(site: Path) -> None:
    text = (site / "which-explainer-is-right.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "<!-- figures" not in text
    for name in ("seed-2027", "seed-77", "location-77", "budget"):
        assert (site / "figures" / f"{name}.csv").read_bytes() == (DOCS / "figures" / f"{name}.csv").read_bytes()
        with (DOCS / "figures" / f"{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                cells = [f"{row[k]} [{row[f'{k} low']}, {row[f'{k} high']}]" for k in row if row.get(f"{k} low")]
                assert all(f"<td>{cell}</td>" in text for cell in cells), row["method"]


def test_no_page_is_left_out_and_no_file_asks_a_network(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    sources = [*DOCS.rglob("*.md"), *(DOCS / "notebooks").glob("*.ipynb")]
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in sources} <= pages
    assert {f"methods/{method.name}" for method in OWN} <= pages  # and not those that other tests registered
    assert not list(site.rglob("*.py"))
    for path in site.rglob("*.html"):
        asked = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="?(https?:[^">\s]+)', path.read_text())
        assert not asked, path


def test_notebooks_are_shown_and_their_links_lead_to_pages(site: Path, page: Page) -> None:
    for path in sorted((site / "notebooks").glob("*.html")):
        page.goto(path.as_uri())
        widths = page.locator("article img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert widths and all(widths), path
        links = page.locator("article .jp-Notebook a:not([href^='#'])").evaluate_all(
            "links => links.map(link => link.href)"
        )
        assert links, path
        for link in links:
            assert link.endswith(".html") and Path(link.removeprefix("file://")).is_file(), link
    page.goto((site / "notebooks" / "explain_your_own_model.html").as_uri())
    assert "A pink star and a red circle." in page.frame_locator("article iframe").locator("body").inner_text()
