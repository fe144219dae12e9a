"""What tells one benchmark of the papers from another: not where its files lie."""

import shutil
from pathlib import Path

from clipmapper.benchmark.tasks.rationales import RationalesSettings
from clipmapper.benchmark.tasks.segmentation import SegmentationSettings


def test_a_key_stays_when_all_is_moved(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("model", "images"):
        (here / name).mkdir(parents=True)
    (here / "panoptic.json").write_text("{}")

    def key(root: Path, model: str) -> dict[str, object]:
        settings = SegmentationSettings(
            model=model, output=root / "out", images=root / "images", panoptic=root / "panoptic.json"
        )
        return settings.key()

    before = key(here, str(here / "model"))
    assert before["panoptic"] == "panoptic.json, 2 bytes" and not [
        v for v in before.values() if str(tmp_path) in str(v)
    ]
    shutil.move(here, there)
    assert key(there, str(there / "model")) == before
    (there / "panoptic.json").write_text("[[]]")
    assert key(there, str(there / "model")) != before, "another file of the same name"
    assert key(there, "owner/model")["model"] == "owner/model"


def test_other_options_are_in_the_key() -> None:
    one, other = (
        RationalesSettings(model="m", output=Path("o"), data=Path("d"), split=split).key() for split in ("test", "val")
    )
    assert one != other and "output" not in one and "device" not in one
