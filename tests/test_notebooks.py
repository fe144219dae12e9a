"""The notebooks of docs/notebooks: each runs, with few steps, and what it has stored is fit to be shown."""

import ast
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from clipmapper import CLIPMapper
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FEW = {"STEPS": "24", "SAMPLES": "8"}  # for what a reader's run takes minutes for
LARGEST = 400 * 1024  # bytes of a stored notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    """Returns what cells show of a kind, such as "text/plain", or print."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if kind == "stdout":
        return [output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout"]
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", {})]


def first_columns(notebook: Any) -> list[list[str]]:
    """Returns the index of each table that is shown."""
    return [re.findall(r"<tr>\s*<th>([^<]+)</th>\s*<td>", table) for table in outputs(notebook, "text/html")]


def answered(notebook: Any) -> None:
    """The answer is the model's, its curve falls, and the consensus is on the circle."""
    model, picture = CLIPMapper.from_pretrained("shapes-b-vqa"), render(sample_scene((5,)))
    answers = dict(ast.literal_eval(next(text for text in outputs(notebook, "text/plain") if text.startswith("[("))))
    assert answers == pytest.approx(dict(model.answer(picture, "What color is the circle?", top=3)), abs=1e-3)
    table = outputs(notebook, "text/html")[-1]
    shares = dict(re.findall(r"<th>([\w ]+)</th>\s*<td>([\d.]+)</td>", table))
    assert float(shares["consensus"]) > 0.5 > float(shares["rollout"])


def explained(notebook: Any) -> None:
    """What is written is of the scene, every word is coloured, and a page is there."""
    texts = [ast.literal_eval(text) for text in outputs(notebook, "text/plain") if text.startswith("'")]
    assert texts == ["A pink star and a red circle.", "red"]
    on_image, back, page, question = outputs(notebook, "text/html")
    for shown, words in (
        (on_image, texts[0]),
        (back, texts[0]),
        (question, "USER: What color is the circle? ASSISTANT:"),
    ):
        assert " ".join(re.findall(r">&nbsp;([^<>]+)&nbsp;</span>", shown)).replace(" .", ".") == words
    darkness = [float(value) for value in re.findall(r"30, ([\d.]+)\)", on_image)]
    assert max(darkness) == darkness[5]  # "red" rests on the picture more than any other word
    assert "srcdoc=" in page and "circle" in page


def trained(notebook: Any) -> None:
    """Steps go up to the last, and the trained mapper answers."""
    (steps,) = (list(map(int, index)) for index in first_columns(notebook))
    assert len(steps) == 4 and steps == sorted(steps)
    (said,) = outputs(notebook, "stdout")
    assert re.fullmatch(r"(.+\? \w[\w ]*\n){3}", said)


def compared(notebook: Any) -> None:
    """SRG and mass are told of all methods and of random maps, differences of all but the best."""
    methods = ["attn_lrp", "consensus", "genatt", "random", "rollout", "transatt", "wra"]
    srg, image, text, mass = (sorted(index) for index in first_columns(notebook) if "random" in index)
    assert srg == mass == methods
    assert len(image) == len(text) == len(methods) - 1 and {*image, *text} <= {*methods}


CHECKS = {
    "answer_explain_compare": answered,
    "explain_your_own_model": explained,
    "train_a_mapper": trained,
    "which_explainer_is_right": compared,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_is_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, by a kernel in a process of its own; a cell that fails raises. 8 to 40 s of a core each."""
    for variable, value in {**FEW, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    CHECKS[name](notebook)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_fit_to_be_shown(name: str) -> None:
    """Outputs of all cells that have some, with few bytes, and no path, warning or progress of where they were made."""
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < LARGEST
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell.outputs]
    assert len(shown) >= 5 and {output.output_type for output in shown} <= {"execute_result", "display_data", "stream"}
    assert all(output.name == "stdout" for output in shown if output.output_type == "stream")
    words = json.dumps([output.get("text") or plain(output) for output in shown])
    assert not re.search(r"/(home|root|tmp|work|usr|Users)/|Warning|it/s", words)
    pictures = [data for output in shown for kind, data in output.get("data", {}).items() if kind.startswith("image/")]
    assert pictures and all(min(Image.open(io.BytesIO(base64.b64decode(data))).size) > 100 for data in pictures)


def plain(output: Any) -> dict[str, Any]:
    """Returns an output's texts, without its pictures."""
    return {kind: text for kind, text in output.get("data", {}).items() if kind.startswith("text/")}


def test_each_notebook_is_checked_and_named() -> None:
    assert sorted(CHECKS) == NAMES
    page = (REPOSITORY / "docs" / "tutorials" / "index.md").read_text()
    assert all(f"](../notebooks/{name}.ipynb)" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links and all((FOLDER / link).is_file() for link in links), links
