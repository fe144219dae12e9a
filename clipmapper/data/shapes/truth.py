"""Reads what decides the answers of Shapes: where the deciding objects are, and which words decide."""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from clipmapper.data.files import BadData, require
from clipmapper.data.shapes.scene import SIDE
from xai.files import read_json, repeated
from xai.metrics.coco import annotations, is_polygon, read_described, whole

REMEDY = "write Shapes anew: python -m clipmapper.data.shapes --root DIR"

Corners = np.ndarray  # [n, 2]: x, y of an outline's corners in shares of the picture's side
Span = tuple[int, int]  # first character and the one after the last


class Truth:
    """The truth of all questions of a split; `folder` is that of its images. Raises MissingData if `root` is not Shapes."""

    def __init__(self, root: Path, folder: str = "val2014") -> None:
        paths = [root / "annotations" / f"{name}_{folder}.json" for name in ("shapes_truth", "instances")]
        require(paths, "Shapes truth")
        self.path = paths[0]
        self._deciding, described = read_json(paths[0], REMEDY), read_described(paths[1])
        if not isinstance(self._deciding, dict):
            raise BadData(f"{self.path}: holds no questions; {REMEDY}")
        outlines = [_outline(*named) for named in annotations(paths[1], described)]
        if (twice := repeated([key for key, _ in outlines])) is not None:
            raise BadData(f"{paths[1]}: several objects have the id {twice}; {REMEDY}")
        self._outlines = dict(outlines)

    def outlines(self, question: int) -> list[Corners]:
        """Returns the outline of each deciding object."""
        return [self._outlines[key] for key in self.instances(question)]

    def instances(self, question: int) -> list[int]:
        """Returns the ids of the deciding objects' annotations."""
        deciding = self._of(question)["instances"]
        if not isinstance(deciding, list) or not all(type(key) is int and key in self._outlines for key in deciding):
            raise BadData(
                f"{self.path}: the deciding objects of question {question} are {str(deciding)[:80]}; {REMEDY}"
            )
        return deciding

    def region(self, question: int, size: tuple[int, int]) -> np.ndarray:
        """Returns which of `size` (height, width) pixels a deciding object covers, as bool."""
        polygons = [(corners * size[::-1]).ravel().tolist() for corners in self.outlines(question)]
        if not polygons:
            return np.zeros(size, dtype=bool)
        return coco_mask.decode(coco_mask.frPyObjects(polygons, *size)).any(axis=2)

    def words(self, question: int, text: str | None = None) -> list[Span]:
        """Characters of each deciding word; raises BadData if they are no whole words of `text`, the question's."""
        deciding = self._of(question)["words"]
        if not isinstance(deciding, list) or not all(map(_is_span, deciding)):
            raise BadData(f"{self.path}: the deciding words of question {question} are {str(deciding)[:80]}; {REMEDY}")
        spans = [(start, stop) for start, stop in deciding]
        if text is not None and not all(_is_words(text, *span) for span in spans):
            raise self.edited(question, text)
        return spans

    def edited(self, question: int, text: str) -> BadData:
        """The error for a question whose text is not that of the truth."""
        return BadData(
            f"{self.path}: its words of question {question} are not in {text!r}: was the question edited? Edit the characters of "
            "its deciding words too, or write Shapes anew into another folder: python -m clipmapper.data.shapes --root DIR"
        )

    def _of(self, question: int) -> dict[str, Any]:
        if (found := self._deciding.get(str(question))) is None:
            raise BadData(
                f"{self.path} has no question {question}: take all files from the same Shapes, or write it anew"
            )
        if not isinstance(found, dict) or not {"instances", "words"} <= found.keys():
            raise BadData(f"{self.path}: question {question} has no 'instances' and 'words'; {REMEDY}")
        return found


def _outline(entry: dict[str, Any], what: str) -> tuple[int, Corners]:
    polygons = entry.get("segmentation")
    if not isinstance(polygons, list) or not polygons or not is_polygon(polygons[0]) or len(polygons[0]) < 6:
        raise BadData(f"{what}: has no outline; {REMEDY}")
    return whole(entry, "id", what), np.reshape(polygons[0], (-1, 2)) / SIDE


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(place) is int and place >= 0 for place in value)


def _is_words(text: str, start: int, stop: int) -> bool:
    """Tells whether characters of a text begin and end where words do."""
    inside, around = text[start:stop], text[max(start - 1, 0) : start] + text[stop : stop + 1]
    whole = bool(inside) and inside[0].isalnum() and inside[-1].isalnum()
    return whole and stop <= len(text) and not any(letter.isalnum() for letter in around)
