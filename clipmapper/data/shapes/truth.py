"""Reads what decides the answers of Shapes: where the deciding objects are, and which words decide."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from clipmapper.data.files import BadData, require
from clipmapper.data.shapes.scene import SIDE

Corners = np.ndarray  # [n, 2]: x, y of an outline's corners in shares of the picture's side
Span = tuple[int, int]  # first character and the one after the last


class Truth:
    """The truth of all questions of a split; `folder` is that of its images. Raises MissingData if `root` is not Shapes."""

    def __init__(self, root: Path, folder: str = "val2014") -> None:
        paths = [root / "annotations" / f"{name}_{folder}.json" for name in ("shapes_truth", "instances")]
        require(paths, "Shapes truth")
        self.path = paths[0]
        self._deciding, coco = (json.loads(path.read_text()) for path in paths)
        self._outlines = {
            entry["id"]: np.reshape(entry["segmentation"][0], (-1, 2)) / SIDE for entry in coco["annotations"]
        }

    def outlines(self, question: int) -> list[Corners]:
        """Returns the outline of each deciding object."""
        return [self._outlines[key] for key in self._of(question)["instances"]]

    def region(self, question: int, size: tuple[int, int]) -> np.ndarray:
        """Returns which of `size` (height, width) pixels a deciding object covers, as bool."""
        polygons = [(corners * size[::-1]).ravel().tolist() for corners in self.outlines(question)]
        if not polygons:
            return np.zeros(size, dtype=bool)
        return coco_mask.decode(coco_mask.frPyObjects(polygons, *size)).any(axis=2)

    def words(self, question: int, text: str | None = None) -> list[Span]:
        """Characters of each deciding word; raises BadData if they are no whole words of `text`, the question's."""
        spans = [(start, stop) for start, stop in self._of(question)["words"]]
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
        return found


def _is_words(text: str, start: int, stop: int) -> bool:
    """Tells whether characters of a text begin and end where words do."""
    inside, around = text[start:stop], text[max(start - 1, 0) : start] + text[stop : stop + 1]
    whole = bool(inside) and inside[0].isalnum() and inside[-1].isalnum()
    return whole and stop <= len(text) and not any(letter.isalnum() for letter in around)
