import errno
import json
import os
import pickle
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from clipmapper.data.features import FeatureCache
from clipmapper.data.files import BadData
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.training.run import run as train

from ...commands import FORKS

IDENTITY = {"model": "toy", "weights": "abc", "size": 8}
SOURCES = {f"image {i}": i for i in range(10)}


class Unreadable(ValueError):
    pass


def load(source: int) -> Tensor:
    if source < 0:
        raise Unreadable(f"source {source} is broken")
    return torch.tensor([float(source)])


def encode(inputs: Tensor) -> Tensor:
    """[B, 1] -> [B, 2, 3]: every element of the answer is another function of the input."""
    return inputs[:, :, None] * 10 + torch.arange(6.0).view(1, 2, 3)


def truth(*sources: int) -> Tensor:
    return encode(torch.tensor(sources)[:, None].float()).half()


class Counting:
    """`encode` that remembers what it was given, and may do something at its n-th call."""

    def __init__(self, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self.seen: list[int] = []
        self.calls, self.at, self.act = 0, at, act

    def __call__(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            self.act()
        self.seen += inputs[:, 0].int().tolist()
        return encode(inputs)


def build(
    cache: FeatureCache, sources: dict[str, int], encoder: Callable = encode, **options: object
) -> dict[str, str]:
    return cache.build(sources, load, encoder, **{"batch_size": 2, "shard_size": 4, "num_workers": 0, **options})


def fail() -> None:
    raise RuntimeError("out of memory")


def test_reads_in_the_order_asked_with_repeats(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    assert cache.missing(SOURCES) == list(SOURCES)
    assert build(cache, SOURCES, num_workers=2) == {}
    assert cache.missing([*SOURCES, "new"]) == ["new"]
    read = cache.read(["image 9", "image 0", "image 4", "image 9"])
    assert read.dtype == torch.float16
    assert torch.equal(read, truth(9, 0, 4, 9))
    assert cache.read([]).shape == (0, 2, 3)
    assert len(list(cache.folder.glob("*.arrow"))) == 3


def test_encodes_only_what_is_missing_also_after_reopening(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    build(FeatureCache(tmp_path, IDENTITY), {"image 3": 3, "image 5": 5}, first)
    cache = FeatureCache(tmp_path, IDENTITY)
    build(cache, SOURCES, second)
    assert first.seen == [3, 5]
    assert second.seen == [0, 1, 2, 4, 6, 7, 8, 9]
    assert torch.equal(cache.read(list(SOURCES)), truth(*range(10)))


def test_another_identity_is_another_folder(tmp_path: Path) -> None:
    cache, other = FeatureCache(tmp_path, IDENTITY), FeatureCache(tmp_path, {**IDENTITY, "size": 9})
    build(cache, SOURCES)
    assert other.missing(SOURCES) == list(SOURCES)
    assert FeatureCache(tmp_path, dict(reversed(IDENTITY.items()))).missing(SOURCES) == []
    assert json.loads((other.folder / "identity.json").read_text()) == {**IDENTITY, "size": 9}


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_sources_are_skipped_and_reported(tmp_path: Path, workers: int) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    sources = {"a": -1, "b": -2, "c": 3, "d": -4, "e": 5}  # the first batch has no good one
    failed = build(cache, sources, bad=(Unreadable,), num_workers=workers)
    assert failed == {key: f"source {sources[key]} is broken" for key in "abd"}
    assert torch.equal(cache.read(["e", "c"]), truth(5, 3))
    assert cache.missing(sources) == ["a", "b", "d"]
    with pytest.raises(Unreadable):
        build(cache, sources)


def test_a_failing_encoder_loses_at_most_one_shard(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(FeatureCache(tmp_path, IDENTITY), SOURCES, Counting(at=4, act=fail))
    assert FeatureCache(tmp_path, IDENTITY).missing(SOURCES) == [f"image {i}" for i in range(4, 10)]


def killed_at_its_second_shard(cache: FeatureCache) -> None:
    shards, fsync = iter(range(2)), os.fsync
    os.fsync = lambda file: os._exit(9) if next(shards) else fsync(file)
    build(cache, SOURCES)


def test_a_process_killed_while_writing_leaves_nothing_half_written(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    process = FORKS.Process(target=killed_at_its_second_shard, args=(cache,))
    process.start()
    process.join()
    assert process.exitcode == 9
    (left,) = cache.folder.glob(".*.tmp")
    reopened = FeatureCache(tmp_path, IDENTITY)
    assert reopened.missing(SOURCES) == [f"image {i}" for i in range(4, 10)]
    assert left.exists(), "it could belong to a living process"
    os.utime(left, (time.time() - 90_000,) * 2)
    FeatureCache(tmp_path, IDENTITY)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_read_and_refused_before_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, encoder = FeatureCache(tmp_path, IDENTITY), Counting()
    build(cache, {"image 3": 3})

    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    build(cache, {"image 3": 3})
    with pytest.raises(OSError, match=f"{cache.folder}: no file can be written"):
        build(cache, SOURCES, encoder)
    assert encoder.seen == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    shards = iter(range(9))

    def fsync(_: int) -> None:
        if next(shards) == 1:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=f"{cache.folder} needs about {6 * 6 * 2} bytes more") as caught:
        build(cache, SOURCES)
    assert caught.value.errno == code
    assert list(cache.folder.glob(".*.tmp")) == []
    assert torch.equal(FeatureCache(tmp_path, IDENTITY).read(["image 3"]), truth(3))


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_shard_is_set_aside_and_built_again(tmp_path: Path, keep: int) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    build(cache, SOURCES, shard_size=10)
    (shard,) = cache.folder.glob("*.arrow")
    content = shard.read_bytes()
    del cache
    shard.write_bytes(content[:keep])
    with pytest.warns(UserWarning, match=shard.name):
        cache = FeatureCache(tmp_path, IDENTITY)
    assert shard.with_name(f"{shard.name}.corrupt").exists()
    assert cache.missing(SOURCES) == list(SOURCES)
    build(cache, SOURCES)
    assert torch.equal(cache.read(list(SOURCES)), truth(*range(10)))


def test_a_flipped_bit_in_the_tokens_is_found_when_they_are_read(tmp_path: Path) -> None:
    build(FeatureCache(tmp_path, IDENTITY), SOURCES, shard_size=10)
    (shard,) = FeatureCache(tmp_path, IDENTITY).folder.glob("*.arrow")
    content = bytearray(shard.read_bytes())
    content[content.index(truth(7).numpy().tobytes()) + 2] ^= 1
    shard.write_bytes(content)
    cache = FeatureCache(tmp_path, IDENTITY)
    assert cache.missing(SOURCES) == []
    assert torch.equal(cache.read(["image 3", "image 3"]), truth(3, 3))
    with pytest.raises(
        BadData, match=rf"{shard}: the features of 'image 7' are damaged; renamed to .* next start builds"
    ):
        cache.read(["image 3", "image 7"])
    cache = FeatureCache(tmp_path, IDENTITY)
    assert not shard.exists() and cache.missing(SOURCES) == list(SOURCES)


def test_no_flipped_bit_gives_other_features(tmp_path: Path) -> None:
    """Whatever byte: the file is set aside when it is opened, or its features are refused when read."""
    build(FeatureCache(tmp_path, IDENTITY), {"image 3": 3}, shard_size=10)
    (shard,) = FeatureCache(tmp_path, IDENTITY).folder.glob("*.arrow")
    content = shard.read_bytes()
    refused = 0
    for place in range(len(content)):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        shard.write_bytes(spoilt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache = FeatureCache(tmp_path, IDENTITY)
        if not cache.missing(["image 3"]):
            refused += 1
            with pytest.raises(BadData, match="damaged"):
                cache.read(["image 3"])
    assert refused == truth(3).numpy().nbytes


def test_shards_of_former_versions_are_read(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    columns = [pa.array(["image 3"]), pa.FixedSizeListArray.from_arrays(pa.array(truth(3).numpy().ravel()), 6)]
    batch = pa.record_batch(columns, names=["key", "tokens"]).replace_schema_metadata({"N": "2", "D": "3"})
    with pa.OSFile(str(cache.folder / "old.arrow"), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    assert cache.missing(["image 3"]) == [] and torch.equal(cache.read(["image 3"]), truth(3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_ends_a_run_in_one_line(settings: Callable, tmp_path: Path, workers: int) -> None:
    chosen = settings(
        "run", "--trainer.max_epochs=1", f"--data.workers={workers}", f"--data.cache={tmp_path / 'cache'}"
    )
    train(chosen)
    (shard, *_) = sorted((tmp_path / "cache").rglob("*.arrow"))
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 4, len(content) // 2, 64):
        content[place] ^= 1
    shard.write_bytes(content)
    again = settings(
        "again", "--trainer.max_epochs=1", f"--data.workers={workers}", f"--data.cache={tmp_path / 'cache'}"
    )
    with pytest.raises(SystemExit, match=rf"^error: {shard}: the features of '[^\n]*' are damaged; renamed to [^\n]*$"):
        train(again)


def test_two_builders_at_once(tmp_path: Path) -> None:
    one, two = FeatureCache(tmp_path, IDENTITY), FeatureCache(tmp_path, IDENTITY)
    build(one, SOURCES, Counting(at=2, act=lambda: build(two, SOURCES)))
    for cache in (one, two, FeatureCache(tmp_path, IDENTITY)):
        assert cache.missing(SOURCES) == []
        assert torch.equal(cache.read(list(SOURCES)), truth(*range(10)))


def test_pickles_as_a_path_and_reopens(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    build(cache, {str(i): i for i in range(100)})
    content = pickle.dumps(cache)
    assert len(content) < 500 + len(str(tmp_path))
    assert torch.equal(pickle.loads(content).read(["42", "7"]), truth(42, 7))
    assert pickle.loads(content).missing(["42", "x"]) == ["x"]


def test_opening_and_reading_leave_the_tokens_on_disk(tmp_path: Path) -> None:
    build(FeatureCache(tmp_path, IDENTITY), {str(i): i for i in range(64)}, lambda x: x[:, :, None].expand(-1, 50, 64))
    before = pa.total_allocated_bytes()
    cache = FeatureCache(tmp_path, IDENTITY)
    cache.read(["3", "60"])
    assert pa.total_allocated_bytes() - before < 50 * 64 * 2


def test_unknown_key_names_itself_and_the_remedy(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    build(cache, SOURCES)
    with pytest.raises(KeyError, match=r"image 77.*build"):
        cache.read(["image 1", "image 77"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: encode(x) * 6e3, "'image 1' are not finite in float16"),
        (lambda x: encode(x)[0], r"expected \[2, N, D\] tokens, got \[2, 3\]"),
        (lambda x: encode(x)[:1], r"expected \[2, N, D\] tokens, got \[1, 2, 3\]"),
    ],
)
def test_tokens_that_cannot_be_kept_are_refused(tmp_path: Path, wrong: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(FeatureCache(tmp_path, IDENTITY), {"image 0": 0, "image 1": 1}, wrong)


def test_another_shape_under_the_same_identity_is_refused(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, IDENTITY)
    build(cache, SOURCES)
    with pytest.raises(ValueError, match="into the identity"):
        build(cache, {"new": 1}, lambda x: encode(x)[:, :1])
    assert FeatureCache(tmp_path, IDENTITY).missing(["new"]) == ["new"]


def test_waits_for_what_others_write_and_says_if_it_never_comes(tmp_path: Path) -> None:
    cache, other = FeatureCache(tmp_path, IDENTITY), FeatureCache(tmp_path, IDENTITY)
    later = threading.Timer(0.3, build, (other, SOURCES))
    later.start()
    cache.wait_for(SOURCES, seconds=20)
    assert torch.equal(cache.read(list(SOURCES)), truth(*range(10)))
    with pytest.raises(OSError, match=r"1 of 2 features .* not in .*: put data\.cache on a file system that all"):
        cache.wait_for(["image 3", "elsewhere"], seconds=0.1)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)  # its counter is a buffer without dimensions
        self.register_buffer("mask", torch.tensor([True, False]), persistent=False)


def test_fingerprint_is_of_the_content() -> None:
    toy = Toy()
    same = deepcopy(toy)
    same.linear.weight.data = toy.linear.weight.data.T.contiguous().T  # equal values, other strides
    assert weights_fingerprint(toy) == weights_fingerprint(toy.eval()) == weights_fingerprint(same)
    assert len(weights_fingerprint(toy)) == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda toy: toy.linear.weight.data[1, 2].mul_(1.001),
        lambda toy: toy.norm.running_mean.add_(1),
        lambda toy: toy.norm.num_batches_tracked.add_(1),
        lambda toy: toy.mask.logical_not_(),
        lambda toy: toy.bfloat16(),
        lambda toy: setattr(toy.linear, "weight", nn.Parameter(toy.linear.weight.data.view(3, 2))),
        lambda toy: setattr(toy, "extra", nn.Parameter(torch.zeros(0))),
    ],
)
def test_fingerprint_sees_every_change(change: Callable[[Toy], object]) -> None:
    toy = Toy()
    before = weights_fingerprint(toy)
    change(toy)
    assert weights_fingerprint(toy) != before
