"""The page "explain your own model" does what it says."""

import re
from pathlib import Path
from typing import Any

import torch

import xai

PAGE = Path(xai.__file__).parents[1] / "docs" / "how-to-explain-your-own-model.md"


def test_the_example_runs() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    scores = names["relevance"].scores["text"]
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    assert not scores[1, 2:].any() and scores[0].all()
    for other in (names["results"]["wra"], names["by_table"]):
        assert torch.equal(other.scores["text"], scores)
    assert set(names["results"]) == set(xai.EXPLAINERS)
