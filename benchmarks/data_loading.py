"""Time and memory of opening a data set of VQAv2's size.

Writes that many questions with ten answers each in the official format into a temporary folder (two thirds train, the
rest val, no images), then measures fresh processes: the first conversion, and opening the converted data set again.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.entry import Entry, Target
from benchmarks.memory import kilobytes
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.official import SPLITS, answer_counts, train_val, with_labels

QUESTIONS = 658_000
WORDS = "what colour is the dog standing on left side of a wooden table how many people are there in this picture"
ROWS_READ = 10_000


def write_split(root: Path, split: str, count: int, rng: random.Random) -> None:
    """`count` questions and annotations, one JSON object at a time, under the official names."""
    words = WORDS.split()
    pool = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(20_000)]
    ids = range(len(split) * 10_000_000, len(split) * 10_000_000 + count)

    def questions() -> Iterator[dict]:
        for i in ids:
            text = " ".join(rng.choices(words, k=rng.randint(4, 10))) + "?"
            yield {"image_id": i // 5, "question": text, "question_id": i}

    def annotations() -> Iterator[dict]:
        for i in ids:
            drawn = rng.choices(rng.choices(pool, k=3), k=10)
            answers = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(drawn, 1)]
            common = {"question_id": i, "image_id": i // 5, "question_type": "what", "answer_type": "other"}
            yield common | {"multiple_choice_answer": drawn[0], "answers": answers}

    questions_file, annotations_file = SPLITS[split].paths(root)
    _write_list(questions_file, "questions", questions())
    _write_list(annotations_file, "annotations", annotations())


def _write_list(path: Path, key: str, entries: Iterator[dict]) -> None:
    with path.open("w") as file:
        file.write(f'{{"{key}": [')
        for i, entry in enumerate(entries):
            file.write((", " if i else "") + json.dumps(entry))
        file.write("]}")


def measure(root: Path) -> None:
    """Print seconds to open, seconds for ROWS_READ random rows, peak memory in MB, of this process, as JSON."""
    start = time.perf_counter()
    train, val = train_val(root, cache_dir=root / "cache")
    opened = time.perf_counter()
    rows = random.Random(0).choices(range(len(train)), k=ROWS_READ)
    answers = sum(len(train[row]["answers"]) for row in rows)
    read = time.perf_counter()
    peak = kilobytes("VmHWM") / 1024  # ru_maxrss would count what the parent had
    assert answers == 10 * ROWS_READ
    print(json.dumps({"questions": len(train) + len(val), "open": opened - start, "rows": read - opened, "peak": peak}))


def label(root: Path) -> None:
    """Print seconds to build a vocabulary and to attach labels, and peak memory in MB, as JSON."""
    train, _ = train_val(root, cache_dir=root / "cache")
    start = time.perf_counter()
    vocabulary = AnswerVocabulary.from_counts(answer_counts(train))
    counted = time.perf_counter()
    with_labels(train, vocabulary)
    peak = kilobytes("VmHWM") / 1024
    print(json.dumps({"count": counted - start, "label": time.perf_counter() - counted, "peak": peak}))


def _in_fresh_process(job: str, root: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data_loading", job, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(quick: bool) -> list[Entry]:
    count = 300 if quick else QUESTIONS
    with tempfile.TemporaryDirectory() as folder:
        root, rng = Path(folder), random.Random(0)
        write_split(root, "train", count * 2 // 3, rng)
        write_split(root, "val", count - count * 2 // 3, rng)
        first, again, labels = (_in_fresh_process(job, root) for job in ("open", "open", "label"))
    what = f"{count} questions"
    return [
        _bounded(f"{what}: first conversion", "s", first["open"], 60),
        _bounded(f"{what}: opened again", "s", again["open"], 5),
        _bounded(f"{what}: {ROWS_READ} random rows", "s", again["rows"], None),
        _bounded(f"{what}: answers counted", "s", labels["count"], None),
        _bounded(f"{what}: labels attached, first time", "s", labels["label"], None),
        _bounded(f"{what}: peak memory of the conversion", "MB", first["peak"], 1000),
    ]


def _bounded(what: str, unit: str, value: float, most: float | None) -> Entry:
    """A figure in units of its own, not of another run."""
    return Entry(what, value, None, unit, value, None, None if most is None else Target("<=", most))


if __name__ == "__main__":
    {"open": measure, "label": label}[sys.argv[1]](Path(sys.argv[2]))
