"""Reads what decides the answers of Shapes: where the deciding objects are, and which words decide."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from clipmapper.data.files import require
from clipmapper.data.shapes.scene import SIDE

Corners = np.ndarray  # [n, 2]: x, y of an outline's corners in shares of the picture's side
Span = tuple[int, int]  # first character and the one after the last


class Truth:
    """The truth of all questions of a split; `folder` is that of its images. Raises MissingData if `root` is not Shapes."""

    def __init__(self, root: Path, folder: str = "val2014") -> None:
        paths = [root / "annotations" / f"{name}_{folder}.json" for name in ("shapes_truth", "instances")]
        require(paths, "Shapes truth")
        self._deciding, coco = (json.loads(path.read_text()) for path in paths)
        self._outlines = {
            entry["id"]: np.reshape(entry["segmentation"][0], (-1, 2)) / SIDE for entry in coco["annotations"]
        }

    def outlines(self, question: int) -> list[Corners]:
        """Of each deciding object."""
        return [self._outlines[key] for key in self._deciding[str(question)]["instances"]]

    def region(self, question: int, size: tuple[int, int]) -> np.ndarray:
        """Which of `size` (height, width) pixels a deciding object covers, as bool."""
        polygons = [(corners * size[::-1]).ravel().tolist() for corners in self.outlines(question)]
        if not polygons:
            return np.zeros(size, dtype=bool)
        return coco_mask.decode(coco_mask.frPyObjects(polygons, *size)).any(axis=2)

    def words(self, question: int) -> list[Span]:
        """Characters of each deciding word."""
        return [(start, stop) for start, stop in self._deciding[str(question)]["words"]]
