"""Batches on disk: the same values back, and what is damaged or of another run."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from clipmapper.benchmark.measure import BatchResult
from clipmapper.benchmark.store import Store, arrays, explanation, long_table
from xai.report.data import Explanation, Step

ROWS = ("wra", "random")
SHARES = (0.0, 0.5, 1.0)


def result(*ids: int) -> BatchResult:
    rng = np.random.default_rng(ids[0])
    values = {
        "image/accuracy/positive": rng.random((2, len(ids), 3)),
        "image/mass": rng.random((2, len(ids))),
    }
    values["image/mass"][0, 0] = np.nan
    shown = {ids[0]: {"wra": Explanation(((0.5, 1.0),), (("a", 0.25),), None, (Step(((1.0, 0.0),), (0.0,)),))}}
    columns = {"question": [f"{i}?" for i in ids], "row": list(ids)}
    return BatchResult(list(ids), columns, values, {"wra": "ValueError: so"} if 7 in ids else {}, shown)


def filled(folder: Path) -> Store:
    store = Store(folder, {"methods": ["wra"]})
    for i, ids in enumerate(((3, 5), (7,))):
        store.add(i, result(*ids), ROWS, {"image": SHARES})
    return store


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.complete(0) and store.complete(1) and not store.complete(2)
    together = store.results(2, ROWS)
    assert together.samples["question"] == ["3?", "5?", "7?"] and together.errors == {"wra": "ValueError: so"}
    for key in ("image/accuracy/positive", "image/mass"):
        expected = np.concatenate([result(3, 5).values[key], result(7).values[key]], axis=1)
        np.testing.assert_allclose(together.values[key], expected, rtol=1e-6)
    assert store.gallery(2)[3] == result(3).gallery[3]


def test_the_long_table_has_a_row_for_each_value() -> None:
    table = long_table(result(3, 5), ROWS, {"image": SHARES})
    assert table.column_names == ["sample", "method", "metric", "step", "value"]
    assert table.num_rows == 2 * 2 * 3 + 2 * 2
    frame = table.to_pandas()
    one = frame[(frame["sample"] == 5) & (frame["method"] == "random") & (frame["step"] == 0.5)]
    assert one["value"].item() == pytest.approx(result(3, 5).values["image/accuracy/positive"][1, 1, 1])
    assert frame[frame["metric"] == "image/mass"]["step"].isna().all()


def test_values_that_a_batch_lacks_are_undefined() -> None:
    table = long_table(result(3, 5), ROWS, {"image": SHARES})
    assert np.isnan(arrays(table, ROWS, [3, 5, 9])["image/mass"][:, 2]).all()


@pytest.mark.parametrize("kind", ["values", "samples", "gallery"])
def test_a_damaged_file_counts_as_not_measured(tmp_path: Path, kind: str) -> None:
    store = filled(tmp_path)
    path = store.path(0, kind)
    content = bytearray(path.read_bytes())
    content[content.index(b"wra") if kind == "gallery" else 60] ^= 1  # in a page of data
    path.write_bytes(content)
    assert not store.complete(0) and store.complete(1)
    path.unlink()
    assert not store.complete(0)


def test_another_benchmark_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    Store(tmp_path, {"methods": ["wra"]})
    with pytest.raises(ValueError, match="holds a benchmark with other methods: remove it, or choose another --output"):
        Store(tmp_path, {"methods": ["genatt"]})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Store(tmp_path, {"methods": ["wra"]})


def test_a_batch_without_samples_is_whole_and_empty(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.leave_out(2)
    assert store.complete(2) and store.results(3, ROWS).samples == store.results(2, ROWS).samples
    empty = Store(tmp_path / "empty", {})
    empty.leave_out(0)
    with pytest.raises(ValueError, match="no sample can be read"):
        empty.results(1, ROWS)


def test_an_explanation_survives_json() -> None:
    shown = result(3).gallery[3]["wra"]
    assert explanation(json.loads(json.dumps(asdict(shown)))) == shown


@pytest.mark.parametrize(
    "name", ["values-00000.parquet", "samples-00000.parquet", "gallery-00000.parquet", "checksums-00000.json"]
)
def test_a_bit_that_flips_anywhere_is_found(tmp_path: Path, name: str) -> None:
    """Parquet's own checksums leave out its footer: names, types and what failed."""
    store = filled(tmp_path)
    content = (tmp_path / name).read_bytes()
    for place in range(0, len(content), 7):
        (tmp_path / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not store.complete(0), place
    (tmp_path / name).write_bytes(content)
    assert store.complete(0)
    for other in (b"", b"null", b"[]", b"{}", b"[" * 100_000):
        (tmp_path / name).write_bytes(other)
        assert not store.complete(0)


def test_a_batch_measured_again_leaves_nothing_of_the_former_attempt(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.leave_out(0)
    assert store.complete(0) and store.results(2, ROWS).samples["question"] == ["7?"] and list(store.gallery(2)) == [7]
