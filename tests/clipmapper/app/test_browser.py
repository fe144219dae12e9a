"""The page in a real browser, served by a process of its own."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from clipmapper.app.scenes import examples

REPOSITORY = Path(__file__).resolve().parents[3]
HOSTILE = "<img src=x onerror='window.hacked = 1'>"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "app.log"
    command = [sys.executable, "-m", "clipmapper.app", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=stream, stderr=stream)
    try:
        while "the page is at http" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        process.wait(60)
    assert not list(tmp_path.glob("clipmapper-*")), "uploads are still there"


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page; in the end nothing may have failed, nothing been asked of another machine, and no text become a script."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route(
        lambda url: not url.startswith((address, "data:", "blob:")),
        lambda route: (elsewhere.append(route.request.url), route.abort()),
    )
    page.goto(address)
    yield page
    assert page.evaluate("window.hacked") is None
    assert complaints == [] and elsewhere == []
    page.close()


def test_a_question_is_asked_explained_and_its_patches_taken_away(page: Page, tmp_path: Path) -> None:
    expect.set_options(timeout=30_000)
    answer, removal = page.locator("#answer"), page.locator("#removal")
    expect(answer.locator(".said")).to_have_text("3")  # the first example
    for question in (HOSTILE, "What color is the large cross?"):
        page.locator("#question textarea").fill(question)
        page.locator("#go").click()
        expect(answer.locator(".asked")).to_have_text(question)
    expect(answer.locator(".said")).to_have_text("red")
    expect(answer.locator(".first-answer .percent")).to_have_text(re.compile(r"^\d+\.\d %$"))

    page.get_by_text("Methods of explaining").click()
    page.locator("#methods input").click()
    page.get_by_role("option", name="wra", exact=True).click()
    expect(answer.locator(".card canvas")).to_have_count(2)
    assert answer.locator(".card figcaption").all_inner_texts()[0] == "picture"
    assert [card.get_attribute("data-method") for card in answer.locator("[data-method]").all()] == ["consensus", "wra"]
    assert len({canvas.evaluate("c => c.toDataURL()") for canvas in answer.locator("canvas").all()[-2:]}) == 2
    answer.locator("input[type=range]").fill("0")
    assert answer.locator(".card canvas").first.evaluate("c => getComputedStyle(c).opacity") == "0"

    page.locator("#remove").click()
    expect(removal.locator("[role=status]")).to_have_text("All patches are removed.")
    expect(removal.locator(".charts .curve")).to_have_count(4)  # of two methods in two directions
    expect(removal.locator(".frame img")).to_have_count(12)
    assert removal.locator(".frame b").first.inner_text() == "red"
    assert removal.locator(".curve .line").first.get_attribute("d").count("L") == 12

    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    page.get_by_label("Remove Image").or_(page.locator("#picture button[title=Clear]")).first.click()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "bad.png")
    page.wait_for_function("document.querySelector('#picture img')")
    page.locator("#go").click()
    expect(answer.locator("[role=alert]")).to_contain_text("bad.png: not a readable image")
    expect(removal.locator(".view")).to_be_hidden()

    page.locator("#scenes button").nth(5).click()
    page.locator("#model input").click()
    page.get_by_role("option", name="shapes-a-caption", exact=True).click()
    expect(page.locator("#go")).to_have_text("Describe the picture")
    words = answer.locator(".said .pointable")
    expect(words.first).to_be_visible()
    before = answer.locator("canvas").last.evaluate("c => c.toDataURL()")
    words.nth(1).hover()
    expect(answer.locator(".card .pointed")).to_have_text(words.nth(1).inner_text())
    page.wait_for_function(
        "before => [...document.querySelectorAll('#answer canvas')].at(-1).toDataURL() !== before", arg=before
    )


def test_the_first_example_is_the_one_that_is_looked_for() -> None:
    assert examples(1)[0].questions[0] == "How many crosses are in the picture?"
