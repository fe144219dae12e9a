"""Batches: which rows, in which order, on which process; and what a batch holds, live and from the cache."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipmapper.config import DataConfig
from clipmapper.data.batches import Batches, loader
from clipmapper.data.features import FeatureCache
from clipmapper.data.records import Records, load_records
from clipmapper.data.vqa import ANSWER_TYPES, VQAData
from clipmapper.images import BadImage, load_image
from clipmapper.models.clip import FrozenCLIP

Data = Callable[..., VQAData]
Foreign = Callable[..., Path]
counts, sizes, worlds = st.integers(1, 60), st.integers(1, 9), st.integers(1, 5)


def rows(batches: Batches) -> list[int]:
    return [row for batch in batches for row in batch]


@given(counts, sizes, st.integers(0, 99), st.integers(0, 99))
def test_an_epoch_has_each_row_once(count: int, size: int, seed: int, epoch: int) -> None:
    batches = Batches(count, size, seed)
    batches.set_epoch(epoch)
    listed = list(batches)
    assert sorted(rows(batches)) == list(range(count))
    assert len(listed) == len(batches) and all(len(batch) == size for batch in listed[:-1])


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches = Batches(50, 8, seed)
            batches.set_epoch(epoch)
            torch.manual_seed(seed + 10 * epoch)
            orders[seed, epoch] = rows(batches)
            torch.manual_seed(99)
            assert rows(batches) == orders[seed, epoch]
    assert len(set(map(tuple, orders.values()))) == 4
    assert orders[0, 0] == rows(Batches(50, 8, 0))


@given(counts, sizes, worlds, st.integers(0, 9))
def test_processes_together_take_the_batches_of_one_process(count: int, size: int, world: int, seed: int) -> None:
    alone = list(Batches(count, size * world, seed))
    parts = [list(Batches(count, size, seed, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(alone)} == {len(Batches(count, size, seed, 0, world))}
    for k, whole in enumerate(alone):
        union = [row for part in parts for row in part[k]]
        if k < len(alone) - 1 or count % world == 0:
            assert sorted(union) == sorted(whole)
        else:  # the last is filled up, so that each process has as many rows
            assert set(whole) <= set(union) and len(union) - len(whole) < world
            assert len({len(part[k]) for part in parts}) == 1


@given(counts, sizes, worlds)
def test_in_evaluation_each_row_is_seen_by_one_process(count: int, size: int, world: int) -> None:
    parts = [Batches(count, size, None, rank, world) for rank in range(world)]
    seen = [row for part in parts for row in rows(part)]
    assert sorted(seen) == list(range(count))
    assert all(len(list(part)) == len(part) for part in parts)
    assert rows(Batches(count, size, None)) == list(range(count)), "one process keeps the order"


@given(counts, sizes, st.integers(0, 5), st.integers(0, 70), worlds)
def test_resumed_batches_go_on_where_they_stopped(count: int, size: int, epoch: int, done: int, world: int) -> None:
    def order(epoch: int) -> list[list[int]]:
        batches = Batches(count, size, 3, 0, world)
        batches.set_epoch(epoch)
        return list(batches)

    done = min(done, len(order(epoch)))
    resumed = Batches(count, size, 3, 0, world)
    resumed.resume(epoch, done)
    first = order(epoch)[done:] or order(epoch + 1)
    assert list(resumed) == first
    assert list(resumed) == first, "a loader with workers asks twice"
    resumed.set_epoch(resumed.epoch + 1)
    assert list(resumed) == order(resumed.epoch), "the next epoch is whole"
    assert len(resumed) == len(order(0)), "Lightning counts the batches that were done"


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_serves_the_resumed_batches(workers: int, data: Data) -> None:
    questions = data().train
    batches = Batches(len(questions), 8, 0)
    expected = list(batches)[5:]
    batches.resume(0, 5)
    served = [batch["row"].tolist() for batch in loader(questions, batches, workers)]
    assert served == expected and len(served) == 3


@pytest.fixture
def records(shapes_root: Path) -> Records:
    return load_records(DataConfig(root=shapes_root))


@pytest.fixture
def data(records: Records, small_clip: FrozenCLIP, tmp_path: Path) -> Data:
    def make(cache: bool = False, records: Records = records) -> VQAData:
        folder = tmp_path / "features" if cache else None
        made = VQAData(records, DataConfig(cache=folder, workers=0, batch_size=8), small_clip, seed=0)
        made.prepare_data()
        made.setup("fit")
        return made

    return make


def test_batch_holds_what_the_records_say(data: Data, records: Records, small_clip: FrozenCLIP) -> None:
    questions = data().train
    chosen = [13, 2, 40]
    batch = questions[chosen]
    assert batch["row"].tolist() == chosen and batch["skipped"] == 0
    for i, row in enumerate(chosen):
        record = records.train[row]
        scores = torch.zeros(len(records.vocabulary))
        for label, score in zip(record["labels"], record["scores"], strict=True):
            scores[label] = score
        assert batch["scores"][i].equal(scores) and scores.sum() == 1
        assert ANSWER_TYPES[batch["answer_type"][i]] == record["answer_type"]
        assert records.root is not None
        assert batch["image"][i].equal(small_clip.pixels(load_image(records.root / record["image"])))
        ids, mask = small_clip.tokenize([record["question"]])
        assert batch["ids"][i][batch["mask"][i]].equal(ids[0]) and batch["mask"][i].sum() == mask.sum()


def test_cached_tokens_are_the_live_ones_in_half_precision(data: Data, small_clip: FrozenCLIP) -> None:
    rows = [5, 5, 20, 3]
    live, cached = data().val[rows], data(cache=True).val[rows]
    tokens = small_clip.image_tokens(live["image"])
    assert cached["image"].dtype == torch.float16
    assert torch.allclose(cached["image"].float(), tokens, atol=4e-3, rtol=2e-3)
    assert all(live[name].equal(cached[name]) for name in live if name != "image")


def test_greyscale_image_is_like_any_other(tmp_path: Path, foreign: Foreign, data: Data) -> None:
    root = foreign(tmp_path / "f")
    Image.effect_noise((40, 30), 60).save(root / "train2014" / "1.png")
    batch = data(records=load_records(DataConfig(root=root))).train[[1, 2]]
    assert batch["image"].shape == (2, 3, 64, 64)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)))
    red, green, blue = batch["image"][1] * std + mean
    assert torch.allclose(red, green, atol=1e-2) and torch.allclose(green, blue, atol=1e-2)


def test_answers_outside_the_vocabulary_and_unknown_types(tmp_path: Path, foreign: Foreign, data: Data) -> None:
    root = foreign(tmp_path / "f")
    (tmp_path / "answers.json").write_text('["ash", "fir"]')
    batch = data(records=load_records(DataConfig(root=root, vocabulary=tmp_path / "answers.json"))).train[[0, 2]]
    assert batch["scores"].tolist() == [[0, 0], [1, 0]]
    assert batch["answer_type"].tolist() == [len(ANSWER_TYPES)] * 2


def corrupted(root: Path, foreign: Foreign) -> Records:
    """6 training questions about 3 images: the second is missing, the third corrupt."""
    records = load_records(DataConfig(root=foreign(root)))
    (root / "train2014" / "1.png").unlink()
    (root / "train2014" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return records


def test_missing_and_corrupt_images_with_a_cache(tmp_path: Path, foreign: Foreign, data: Data) -> None:
    questions = data(cache=True, records=corrupted(tmp_path / "f", foreign)).train
    assert len(questions) == 2
    assert questions.skipped() == {"missing image": 2, "unreadable image": 2}
    assert "2.png" in next(iter(questions.unreadable.values()))
    assert questions[[0, 1]]["row"].tolist() == [0, 1]
    assert questions[[0, 1]]["skipped"] == 0


def test_missing_and_corrupt_images_live(tmp_path: Path, foreign: Foreign, data: Data) -> None:
    questions = data(records=corrupted(tmp_path / "f", foreign)).train
    assert len(questions) == 4 and questions.skipped()["missing image"] == 2
    with pytest.warns(UserWarning, match=r"question skipped: .*2\.png"):
        batch = questions[[3, 0]]
    assert batch["row"].tolist() == [0] and batch["skipped"] == 1
    assert len(batch["image"]) == len(batch["ids"]) == len(batch["scores"]) == 1


def test_batch_without_a_readable_image_takes_the_questions_that_follow(
    tmp_path: Path, foreign: Foreign, data: Data
) -> None:
    questions = data(records=corrupted(tmp_path / "f", foreign)).train
    with pytest.warns(UserWarning, match="question skipped"):
        batch = questions[[3]]
    assert batch["row"].tolist() == [0] and batch["skipped"] == 1
    with pytest.warns(UserWarning, match="question skipped"):
        batch = questions[[2]]  # 3 follows and is corrupt too
    assert batch["row"].tolist() == [0, 1] and batch["skipped"] == 2


def test_no_readable_image_at_all_is_an_error(tmp_path: Path, foreign: Foreign, data: Data) -> None:
    records = load_records(DataConfig(root=foreign(tmp_path / "f")))
    for path in (tmp_path / "f" / "train2014").iterdir():
        path.write_bytes(b"nothing")
    questions = data(records=records).train
    with warnings.catch_warnings(), pytest.raises(BadImage, match=r"no image of .* questions can be read: .*png"):
        warnings.simplefilter("ignore")
        questions[[0, 1]]


def test_cache_is_filled_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data(cache=True)
    monkeypatch.setattr(FrozenCLIP, "image_tokens", lambda *_: pytest.fail("encoded twice"))
    again = data(cache=True)
    assert again.train[[0, 1]]["image"].equal(first.train[[0, 1]]["image"])
    assert again.train._cache is not None and isinstance(again.train._cache, FeatureCache)


def test_every_training_row_of_shapes_is_served_once(data: Data) -> None:
    questions = data(cache=True).train
    served = Counter(row for batch in loader(questions, Batches(60, 8, 0), 0) for row in batch["row"].tolist())
    assert served == Counter(range(60))
