from pathlib import Path

import pytest
from PIL import Image

from clipmapper.benchmark.tasks.folders import class_indices, labelled_images, unique_classes
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


def test_a_name_of_several_classes_is_none(tmp_path: Path) -> None:
    names = unique_classes({0: "crane", 1: "dog", 2: "crane"})
    assert names == {"dog": 1}
    with pytest.raises(
        ValueError, match=r"unknown class 'crane'.*names of several of the 3 classes are left out.*--labels"
    ):
        class_indices(["crane"], names, 3, None)


def test_what_systems_leave_is_no_image(tmp_path: Path) -> None:
    for name in ("a/1.JPG", "a/._1.JPG", "a/Thumbs.db", ".cache/2.jpg", "b/3.TIFF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path, _ in labelled_images(tmp_path)] == ["1.JPG", "3.TIFF"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".DS_Store").touch()
    with pytest.raises(MissingData, match="is empty"):
        labelled_images(tmp_path / "c")


def test_labels_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt: not UTF-8"):
        class_indices(["a"], {}, 1, tmp_path / "classes.txt")
