"""Rationales of people: F1 by hand, what the model cannot see, the command."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers as tf

from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.task import Explained
from clipmapper.benchmark.tasks.rationales import RationalesSettings, RationalesTask, class_of, longest_text
from clipmapper.data.files import MissingData
from clipmapper.evaluation.papers import main
from xai import given
from xai.metrics.rationales import TOP

TEXTS = {  # with the words that people marked
    "POS": ("this film is very fun", [(3, 5)]),
    "NEG": ("a bad film is not fun " * 4 + "bad", [(1, 2), (24, 25)]),
}
CONFIG = BenchmarkConfig(methods="genatt", random_seeds=2)


def write(folder: Path, texts: dict[str, tuple[str, list[tuple[int, int]]]]) -> Path:
    (folder / "docs").mkdir(parents=True)
    lines = []
    for label, (text, spans) in texts.items():
        (folder / "docs" / label).write_text(text)
        parts = [[{"docid": label, "start_token": start, "end_token": end}] for start, end in spans]
        lines.append(json.dumps({"annotation_id": label, "classification": label, "evidences": parts}))
    (folder / "test.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def eraser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("eraser"), TEXTS)


def task(bert: Path, data: Path, **options: Any) -> RationalesTask:
    return RationalesTask(
        RationalesSettings(model=str(bert), output=data / "out", data=data, device="cpu", **options), CONFIG
    )


def test_f1_by_hand(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "goodness" is two pieces: the words are tokens 1, 2-3 and 4, of which the last two are marked."""
    made = task(bert, write(tmp_path / "one", {"POS": ("very goodness fun " * 4, [(1, 3)])}))
    _, word_of, _ = made.batch(range(1)).inputs
    assert word_of.tolist() == [[-1, 0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, -1]]
    scores = torch.zeros(2, 1, 16)
    scores[:, :, 0] = scores[:, :, -1] = 9  # of special tokens, which are no words
    scores[0, 0, 2:5] = torch.tensor([0.1, 0.5, 0.3])
    scores[1, 0] = 1
    scores[1, 0, 2:5] = 0
    monkeypatch.setattr(Explained, "scores", lambda *unused: scores)
    found = measure(made, range(1), ("genatt", "rollout"), CONFIG)
    assert TOP[0] == 10
    assert found.values["f1@10"][0, 0] == pytest.approx(2 * 2 / (10 + 2)), "both marked words are among the ten"
    assert found.values["f1@10"][1, 0] == pytest.approx(2 * 1 / (10 + 2)), "nine others come first, then one of the two"


def test_a_tokenizer_without_padding_is_refused(bert: Path, eraser: Path, tmp_path: Path) -> None:
    tf.AutoModelForSequenceClassification.from_pretrained(bert).save_pretrained(tmp_path)
    tokenizer = tf.AutoTokenizer.from_pretrained(bert)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"without a padding token; set tokenizer\.pad_token .* and save both there"):
        task(tmp_path, eraser)


def test_words_beyond_the_model_are_missed_but_count(bert: Path, eraser: Path) -> None:
    """Of 25 words the first 14 fit; of the two marked ones the second is lost."""
    made = task(bert, eraser)
    inputs, word_of, _ = made.batch(range(2)).inputs
    assert inputs["input_ids"].shape == (2, 16) and int(word_of.max()) == 13
    found = measure(made, range(2), ("rollout",), CONFIG)
    assert found.values["f1@20"][0, 1] == pytest.approx(2 / (14 + 2)), "20 words, but the model saw 14"


@pytest.mark.parametrize("explained", ["label", "predicted"])
def test_the_class_that_is_explained(bert: Path, eraser: Path, explained: Any) -> None:
    made = task(bert, eraser, explained=explained)
    batch = made.batch(range(2))
    recorded = made.record(batch, None)
    logits = recorded.recording.output.logits
    labels = torch.tensor([1, 0]) if explained == "label" else logits.argmax(dim=1)
    torch.testing.assert_close(recorded.target(recorded.recording.output), given(labels)(recorded.recording.output))


def test_the_command(bert: Path, eraser: Path, tmp_path: Path) -> None:
    options = [
        "--methods",
        "genatt,full_lrp",
        "--device",
        "cpu",
        "--output",
        str(tmp_path),
        "--benchmark.resamples=100",
    ]
    options += ["--benchmark.cost_samples=1"]

    def run() -> dict[str, Any]:
        main(["rationales", "--model", str(bert), "--data", str(eraser), *options])
        return json.loads((tmp_path / "metrics.json").read_text())

    found = run()
    entry = found["methods"]["genatt"]
    assert list(entry["metrics"]) == [f"f1@{k}" for k in range(10, 81, 10)] and entry["sanity"]["model"]
    assert found["methods"]["full_lrp"]["error"] is None
    samples = pq.read_table(tmp_path / "samples.parquet").to_pydict()
    assert samples["name"] == ["POS", "NEG"]
    frame = pq.read_table(tmp_path / "values.parquet").to_pandas()
    one = frame[(frame["method"] == "genatt") & (frame["metric"] == "f1@10")]["value"]
    assert entry["metrics"]["f1@10"]["mean"] == pytest.approx(one.mean())
    assert one.iloc[0] == pytest.approx(2 * 2 / (5 + 2)), "of 5 words all are chosen"
    (tmp_path / "explainers" / "values-00000.parquet").write_bytes(b"cut")
    assert run()["methods"] == found["methods"]


def test_classes_of_the_data_are_those_of_the_model() -> None:
    assert class_of(["NEG", "POS"], None, ["POS", "NEG"]) == {"NEG": 1, "POS": 0}
    assert class_of(["NEG"], "POS, NEG", ["LABEL_0", "LABEL_1"]) == {"NEG": 1}
    with pytest.raises(ValueError, match=r"unknown class 'NEG'.*give --classes"):
        class_of(["NEG"], None, ["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match="several classes are called 'POS'; give --classes"):
        class_of(["POS"], None, ["POS", "NEG", "POS"])
    with pytest.raises(ValueError, match="--classes names 1 classes; the model has 2: a, b"):
        class_of(["NEG"], "NEG", ["a", "b"])


def test_a_folder_without_docs_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(MissingData, match=r"--data: .*docs is no folder"):
        task(tmp_path / "no model", tmp_path)


def test_positions_after_the_paddings_are_fewer_tokens() -> None:
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }

    class Tokenizer:
        model_max_length = 10**9

    roberta = tf.RobertaForSequenceClassification(
        tf.RobertaConfig(**sizes, max_position_embeddings=514, pad_token_id=1)
    )
    assert longest_text(roberta, Tokenizer()) == 512
    bert = tf.BertForSequenceClassification(tf.BertConfig(**sizes, max_position_embeddings=16))
    assert longest_text(bert, Tokenizer()) == 16


@pytest.mark.slow
def test_the_command_on_movie_reviews(bert: Path, shared_data: Path, tmp_path: Path) -> None:
    options = ["--methods", "genatt", "--samples", "20", "--device", "cpu", "--output", str(tmp_path), "--split", "val"]
    options += ["--benchmark.cost_samples", "0"]
    main(["rationales", "--model", str(bert), "--data", str(shared_data / "eraser_movies"), *options])
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 20
