"""Batches of captions, references of an image, and the images that validation captions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl

from clipmapper.config import DataConfig, ShapesConfig
from clipmapper.data.captions import CaptionData, seen_tokens
from clipmapper.data.records import CaptionRecords, load_captions
from clipmapper.images import load_image
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP, clip_tokenizer

Data = Callable[..., CaptionData]


@pytest.fixture
def records(tmp_path: Path) -> CaptionRecords:
    """20 training captions of 4 images, 15 held-out ones of 3."""
    return load_captions(DataConfig(root=tmp_path / "s", shapes=ShapesConfig(train=4, val=3, test=0, questions=1)))


@pytest.fixture
def data(records: CaptionRecords, small_clip: FrozenCLIP, tmp_path: Path) -> Data:
    def make(cache: bool = False, captioned: int = 2) -> CaptionData:
        folder = tmp_path / "features" if cache else None
        config = DataConfig(cache=folder, workers=0, batch_size=8)
        made = CaptionData(records, config, small_clip, seed=0, captioned=captioned)
        made.trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        made.prepare_data()
        made.setup("fit")
        return made

    return make


def test_batch_holds_what_the_records_say(data: Data, records: CaptionRecords, small_clip: FrozenCLIP) -> None:
    batch = data().train[[13, 2]]
    assert batch["row"].tolist() == [13, 2] and batch["skipped"] == 0
    for i, row in enumerate((13, 2)):
        record = records.train[row]
        ids, _ = small_clip.tokenize([record["caption"]])
        assert batch["ids"][i][batch["mask"][i]].equal(ids[0])
        assert records.root is not None
        assert batch["image"][i].equal(small_clip.pixels(load_image(records.root / record["image"])))


def test_references_are_all_captions_of_the_image(data: Data, records: CaptionRecords) -> None:
    captions = data().val
    for row in (0, 7, 14):
        own = records.val[row]["image_id"]
        assert captions.references(row) == [r["caption"] for r in records.val if r["image_id"] == own]
        assert len(captions.references(row)) == 5


def test_one_row_of_each_image(data: Data, records: CaptionRecords) -> None:
    captions = data().val
    assert [records.val[row]["image_id"] for row in captions.one_each()] == sorted(set(records.val["image_id"]))
    assert len(captions.one_each(2)) == 2 and captions.one_each(99) == captions.one_each()


@pytest.mark.parametrize("cache", [False, True])
def test_validation_has_all_captions_and_the_images_to_caption(data: Data, cache: bool) -> None:
    made = data(cache)
    every, images = made.val_dataloader()
    assert sorted(row for batch in every for row in batch["row"].tolist()) == list(range(15))
    chosen = [row for batch in images for row in batch["row"].tolist()]
    assert chosen == made.val.one_each(2) and len({made.val.images.of_row[row] for row in chosen}) == 2


def test_corrupt_images_are_counted_and_neither_read_nor_captioned(data: Data, records: CaptionRecords) -> None:
    assert records.root is not None
    broken = records.root / records.val[0]["image"]
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    captions = data(cache=True).val
    assert captions.skipped() == {"missing image": 0, "unreadable image": 5}
    assert len(captions) == 10 and len(captions.one_each()) == 2
    assert broken.name in next(iter(captions.unreadable.values()))
    live = data().val
    with pytest.warns(UserWarning, match=rf"caption skipped: .*{broken.name}"):
        batch = live[[0, 5]]
    assert batch["row"].tolist() == [5] and batch["skipped"] == 1


def test_seen_tokens(records: CaptionRecords) -> None:
    tokenizer = clip_tokenizer(SHAPES_CLIP)
    seen = seen_tokens(records.train, tokenizer)
    written = {i for text in records.train["caption"] for i in tokenizer([text])[0].tolist() if i}
    assert set(seen) == written and seen == sorted(seen) and len(seen) < 100
