"""The promises of the README and of the pages: code runs, commands are understood, figures are those of the files."""

import ast
import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clipmapper.cli import parse_training
from clipmapper.commands import COMMANDS, CONFIGS, MODULES
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import COLOURS, sample_scene
from clipmapper.evaluation.command import parse_evaluation
from clipmapper.evaluation.papers import COMMANDS as BENCHMARKS
from clipmapper.evaluation.papers import parse as parse_paper

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
PAGES = {"README.md": README} | {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}


COMMAND = re.compile(  # what launches it may stand before it
    r"(?:(?:torchrun|srun) .*?)?(?:\.venv/bin/)?((?:python|clipmapper|make|train\.py|evaluate\.py) .+)"
)


def run(page: str) -> dict[str, object]:
    """Runs a page's code; returns its names."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def commands() -> Iterator[tuple[str, str]]:
    """The commands that pages show, in blocks and within sentences, without comments."""
    for page, text in PAGES.items():
        blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
        for line in lines:
            if found := COMMAND.match(line):
                yield page, found[1]


def test_the_readme_s_example_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("README.md")
    answer, words = capsys.readouterr().out.splitlines()
    said = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)[0].splitlines()
    assert answer == said[0]
    assert ast.literal_eval(words) == pytest.approx(ast.literal_eval(said[1]), abs=0.02)
    assert Image.open("why.png").width > 100


def test_the_start_page_s_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("index.md")
    answer, caption, shape = capsys.readouterr().out.splitlines()
    assert f"It prints `{answer}`" in PAGES["index.md"] and f'It writes "{caption}"' in PAGES["index.md"]
    assert f"# {shape}:" in PAGES["index.md"]
    for name in ("why", "consensus", "rollout", "transatt", "words"):
        assert Image.open(f"{name}.png").width > 100


def test_a_trained_mapper_is_used_as_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    render(sample_scene((0, 1, 0))).save("scene.jpg")
    run("how-to/use-a-trained-mapper.md")
    answer, ranked, caption = capsys.readouterr().out.splitlines()
    assert answer in COLOURS
    assert len(re.findall(r"\('\w+', \d\.[\de-]+\)", ranked)) == 3
    assert len(caption.split()) > 2
    assert Image.open("why.png").width > 100 and Image.open("words.png").width > 100
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_the_code_of_small_pages_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("how-to/add-an-explainer.md")
    assert names["METHODS"].pop("even") and (names["named"].map() == names["relevance"].map()).all()  # type: ignore
    run("how-to/add-a-metric.md")
    assert f"# {capsys.readouterr().out.strip()}" in PAGES["how-to/add-a-metric.md"]
    run("tutorials/captions.md")
    assert (tmp_path / "words.html").stat().st_size > 10_000


def test_what_the_readme_names_exists() -> None:
    for path, anchor in re.findall(r"\]\((?!http)([\w./-]+)(?:#([\w-]+))?\)", README):
        assert (REPOSITORY / path).exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)$", (REPOSITORY / path).read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", head.lower()).strip("-") for head in heads}, anchor
    for module in re.findall(r"python -m ((?:clipmapper|benchmarks)[.\w]*\w)", " ".join(PAGES.values())):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_command_of_the_pages_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as they stand; words in capitals stand for files of the reader's, which are made here."""
    monkeypatch.chdir(tmp_path)
    targets = re.findall(r"^([\w-]+)(?: [\w-]+)*:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    parsed, seen, refused = 0, set(), []
    for page, line in commands():
        if line in seen or "..." in line or line.endswith("="):
            continue
        seen.add(line)
        program, *words = shlex.split(line, comments=True)
        if program == "python" and words:
            program, *words = words
        if program == "clipmapper" and words:
            program, *words = words
            assert program in {*COMMANDS, *MODULES, "COMMAND", "NAME"}, f"{page}: {line}"
        for name in re.findall(r"\b[A-Z][A-Z_]*[A-Z]\b", line):
            Path(name).mkdir(exist_ok=True)
        Path("regions.tsv").touch()
        try:
            if program == "make":
                assert {word for word in words if "=" not in word} <= {*targets, "test"}, line
            elif program in ("train.py", "train") and "--help" not in words and words:
                parse_training(words, CONFIGS)
            elif program in ("evaluate.py", "evaluate") and "--help" not in words and words:
                if words[0] in BENCHMARKS:
                    assert len(words) == 1 or parse_paper(words)
                else:
                    parse_evaluation([*words, *(() if "--output" in words else ("--output", "DIR"))], CONFIGS)
            else:
                continue
        except SystemExit:
            refused.append(f"{page}: {line}")
        parsed += 1
    assert not refused and parsed > 30


def test_the_readme_s_figures_are_those_of_the_file() -> None:
    with (DOCS / "figures" / "seed-2027.csv").open(newline="") as file:
        figures = {row["method"]: row for row in csv.DictReader(file) if row["mapper"] == "B"}
    head, _, *rows = re.findall(r"^\| (.*) \|$", README.split("## Which explainer")[1], flags=re.MULTILINE)[:8]
    measures = head.split(" | ")[1:]
    assert len(measures) == 4 and len(rows) == 6
    for row in rows:
        name, *values = row.split(" | ")
        assert values == [figures[re.split(r"\W", name)[0]][measure] for measure in measures], name
