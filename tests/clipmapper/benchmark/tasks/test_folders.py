from pathlib import Path

import pytest
from PIL import Image

from clipmapper.benchmark.tasks.folders import class_indices, labelled_images
from clipmapper.data.files import BadData, MissingData


def test_folders_are_names_or_wordnet_ids_or_listed(tmp_path: Path) -> None:
    assert class_indices(["b"], {"a": 0, "b": 1}, 2, None) == {"b": 1}
    ids = ["n01440764", "n01484850", "n15075141"]  # tench, great white shark, toilet paper
    assert list(class_indices(ids, {"LABEL_0": 0}, 1000, None).values()) == [0, 2, 999]
    (tmp_path / "classes.txt").write_text("dog\nbig cat\n")
    assert class_indices(["big cat", "dog"], {"a": 0, "b": 1}, 2, tmp_path / "classes.txt") == {"big cat": 1, "dog": 0}


def test_unknown_folders_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown class 'rad'; did you mean 'red'.*--labels FILE"):
        class_indices(["rad"], {"red": 0, "blue": 1}, 2, None)
    with pytest.raises(ValueError, match="unknown class 'n01440764'"):
        class_indices(["n01440764"], {"red": 0}, 1, None)
    (tmp_path / "classes.txt").write_text("dog\ndog\n")
    with pytest.raises(BadData, match=r"classes.txt has 1 names for 2 classes"):
        class_indices(["dog"], {}, 2, tmp_path / "classes.txt")


def test_images_come_in_the_order_of_names(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="is empty"):
        labelled_images(tmp_path)
    with pytest.raises(MissingData, match="is no folder"):
        labelled_images(tmp_path / "missing")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").touch()
    with pytest.raises(MissingData, match="a folder of images for each class"):
        labelled_images(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("b/2.png", "b/1.JPEG", "a/3.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    found = [(path.name, folder) for path, folder in labelled_images(tmp_path)]
    assert found == [("3.jpg", "a"), ("1.JPEG", "b"), ("2.png", "b")]
