"""Entries of official files: nested deeply, after a byte order mark, in parts of any length."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipmapper.data.files import DEEPEST, BadData, entries


def read(path: Path, content: str) -> list[Any]:
    path.write_text(content, encoding="utf-8")
    return list(entries(path, "questions"))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"b": [1], "c":', "[1, "])
def test_files_nested_deeply_are_refused(tmp_path: Path, opening: str) -> None:
    """The parser's memory grows with the depth squared: 100,000 brackets took all there is."""
    for content in (opening * 100_000, f'{{"questions": [{opening * 100_000}'):
        with pytest.raises(BadData, match=rf"a\.json: more than {DEEPEST} lists or objects in one another; fetch"):
            read(tmp_path / "a.json", content)


def test_brackets_and_quotes_in_texts_are_no_nesting(tmp_path: Path) -> None:
    texts = ["[{" * 500, '\\"[' * 500, "\\" * 3 + "[" * 500, ""] + [f'{"x" * k}\\"[[' for k in range(1000)]
    found = [{"question": text, "more": [[{}]]} for text in texts * 20]
    content = json.dumps({"info": {"[": "["}, "questions": found})
    assert len(content) > 2**20 and read(tmp_path / "a.json", content) == found
    assert read(tmp_path / "a.json", "\ufeff" + content) == found
