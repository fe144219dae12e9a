"""The pages that show code do what they say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import xai

DOCS = Path(xai.__file__).parents[1] / "docs"


def run(page: str) -> dict[str, Any]:
    """Runs the code of a page; returns its names."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(block, names)
    return names


def test_the_example_of_a_model_of_ones_own_runs() -> None:
    names = run("how-to-explain-your-own-model.md")
    scores = names["relevance"].scores["text"]
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    assert not scores[1, 2:].any() and scores[0].all()
    for other in (names["results"]["wra"], names["by_table"]):
        assert torch.equal(other.scores["text"], scores)
    assert set(names["results"]) == set(xai.EXPLAINERS)


def test_the_example_of_what_a_model_writes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("word-by-word.md")
    relevance, contrast = names["relevance"], names["contrast"]
    assert relevance.words == [["is", "red", "."]] and contrast.words == [["red rather than blue"]]
    assert (tmp_path / "words.html").stat().st_size > 10_000 and (tmp_path / "words.png").exists()
    torch.testing.assert_close(sum(relevance.shares()[0].values()), torch.ones(3))
