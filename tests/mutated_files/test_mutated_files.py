"""Any mutation of a valid file gives what is right, or one error of ours that names the file.

The ordinary tests try few mutations, the same ones each time. The long run tries `MUTATIONS` of each file, new ones each time:

    MUTATIONS=2000 python -m pytest -m fuzz -s tests/mutated_files
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipmapper.errors import is_told

from .mutations import of_bytes, of_checkpoint, of_fields, of_json, of_json_lines, of_npz, of_picture, of_yaml
from .readers import METRICS, READERS, Reader, Refused, plain

KINDS: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    "json": of_json,
    "json lines": of_json_lines,
    "fields": of_fields,
    "yaml": of_yaml,
    "npz": of_npz,
    "checkpoint": of_checkpoint,
    "picture": of_picture,
}
FILES = [(name, file) for name, reader in READERS.items() for file in reader.files]
FEW = 10  # mutations of a file in the ordinary tests
LONG = int(os.environ.get("MUTATIONS", "1000"))


@pytest.fixture(autouse=True, scope="session")
def quiet_data_sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    """A reader's valid folder, and what it reads from it."""
    made: dict[str, tuple[Path, str]] = {}

    def make(name: str) -> tuple[Path, str]:
        if name not in made:
            folder = tmp_path_factory.mktemp("valid") / "files"
            folder.mkdir()
            READERS[name].write(folder)
            made[name] = folder, value(READERS[name], folder, {})
        return made[name]

    return make


def value(reader: Reader, valid: Path, changes: dict[str, bytes]) -> str:
    """What is read from a copy of a folder with other content in some files."""
    with tempfile.TemporaryDirectory(dir=valid.parent) as folder:
        copy = Path(folder) / "files"
        shutil.copytree(valid, copy)
        for name, content in changes.items():
            (copy / name).write_bytes(content)
        return repr(plain(reader.read(copy)))


def outcome(reader: Reader, valid: Path, whole: str, file: str, content: bytes, sealed: bool = False) -> str:
    """Refused, alike or other; fails for an error that is not ours or does not name the file."""
    try:
        found = value(reader, valid, {file: content})
    except Exception as error:
        if not isinstance(error, Refused) and not is_told(error):
            raise
        named = [*reader.files, *(Path(name).name for name in reader.files)] + ["/files"] * reader.folder
        assert any(name in str(error) for name in named), f"names no file: {error}"
        return "refused"
    assert found == whole or not sealed, "another value of a file of checksums"
    return "alike" if found == whole else "other"


def run(name: str, file: str, valid: Callable[[str], tuple[Path, str]], how: settings) -> None:
    reader, (folder, whole) = READERS[name], valid(name)
    content, kind = (folder / file).read_bytes(), reader.files[file]
    counts: Counter[str] = Counter()
    mutations = st.tuples(st.just(file in reader.sealed), of_bytes(content))
    if kind in KINDS:
        mutations |= st.tuples(st.just(False), KINDS[kind](content))

    @how
    @given(mutations)
    def tried(mutation: tuple[bool, bytes]) -> None:
        sealed, changed = mutation
        counts[outcome(reader, folder, whole, file, changed, sealed)] += 1

    try:
        tried()
    finally:
        print(f"{name}, {file}: {sum(counts.values())} mutations: {dict(counts)}", flush=True)


QUIET: Any = {"database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_few_mutations(name: str, file: str, valid: Callable[[str], tuple[Path, str]]) -> None:
    run(name, file, valid, settings(**QUIET, max_examples=FEW, derandomize=True))


@pytest.mark.fuzz
@pytest.mark.parametrize(("name", "file"), FILES)
def test_many_mutations(name: str, file: str, valid: Callable[[str], tuple[Path, str]]) -> None:
    run(name, file, valid, settings(**QUIET, max_examples=LONG, print_blob=True))


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("name", "file"), [(n, f) for n, f in FILES if READERS[n].files[f] == "json"])
def test_blanks_and_the_order_of_keys_do_not_matter(
    name: str, file: str, valid: Callable[[str], tuple[Path, str]]
) -> None:
    folder, whole = valid(name)
    said = json.loads((folder / file).read_bytes())
    for text in (
        json.dumps(said, indent=2) + "\r\n",
        json.dumps(said, ensure_ascii=False),
        json.dumps(reordered(said)),
    ):
        assert outcome(READERS[name], folder, whole, file, text.encode()) == "alike"
    assert outcome(READERS[name], folder, whole, file, "\ufeff".encode() + json.dumps(said).encode()) != "other"


def doubled(content: bytes, kind: str) -> Iterator[bytes]:
    """The file with one entry of it twice, for each entry."""
    if kind != "json":
        lines = content.splitlines(keepends=True)
        yield from (b"".join([*lines[: i + 1], *lines[i:]]) for i in range(len(lines)))
        return
    said = json.loads(content)
    for name, some in said.items() if isinstance(said, dict) else [(None, said)]:
        for i in range(len(some) if isinstance(some, list) else 0):
            more = [*some[: i + 1], *some[i:]]
            yield json.dumps(more if name is None else {**said, name: more}).encode()


UNNUMBERED = ("docs/a", METRICS, "tiny.yaml", "why.json", "settings.json", "saved/config.json")  # files without entries


@pytest.mark.parametrize(
    ("name", "file"),
    [(n, f) for n, f in FILES if READERS[n].files[f] in ("json", "json lines", "fields") and f not in UNNUMBERED],
)
def test_an_entry_given_twice_is_refused_or_counts_once(
    name: str, file: str, valid: Callable[[str], tuple[Path, str]]
) -> None:
    folder, whole = valid(name)
    for content in doubled((folder / file).read_bytes(), READERS[name].files[file]):
        assert outcome(READERS[name], folder, whole, file, content) != "other"
