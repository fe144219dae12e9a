import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from clipmapper.published.commands import main
from clipmapper.published.explained import Methods, methods_of
from clipmapper.published.rationales import class_of, load_reader, marked, measure
from clipmapper.published.settings import Rationales
from PIL import Image

from xai import given
from xai.metrics.rationales import TOP, Review, read_eraser

TEXTS = {  # with the words that people marked
    "POS": ("this film is very fun", [(3, 5)]),
    "NEG": ("a bad film is not fun " * 4 + "bad", [(1, 2), (24, 25)]),
}


@pytest.fixture(scope="module")
def eraser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eraser")
    (folder / "docs").mkdir()
    lines = []
    for label, (text, spans) in TEXTS.items():
        (folder / "docs" / label).write_text(text)
        parts = [[{"docid": label, "start_token": start, "end_token": end}] for start, end in spans]
        lines.append(json.dumps({"annotation_id": label, "classification": label, "evidences": parts}))
    (folder / "test.jsonl").write_text("\n".join(lines))
    return folder


def settings(bert: Path, eraser: Path, **options: Any) -> Rationales:
    return Rationales(model=str(bert), output=eraser / "out", data=eraser, device="cpu", **options)


class Oracle(Methods):
    """One method that marks the fourth and the fifth token, [CLS] being the first."""

    def scores(self, recording: Any, target: Any, modality: str) -> torch.Tensor:
        return torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0]).repeat(1, len(recording.mask), 1)[..., : recording.mask.shape[1]]


def test_f1_by_hand(bert: Path) -> None:
    """ "goodness" is two pieces: the words are tokens 1, 2-3 and 4, of which the last two are marked."""
    review = Review("x", ["very", "goodness", "fun"], "POS", [(1, 3)])
    reader = load_reader(Rationales(model=str(bert), output=Path(), data=Path(), device="cpu"), [review])
    _, word_of = reader.encoded([review])
    assert word_of.tolist() == [[-1, 0, 1, 1, 2, -1]]

    class Pieces(Methods):
        def scores(self, recording: Any, target: Any, modality: str) -> torch.Tensor:
            return torch.tensor([[[9.0, 0.1, 0.0, 0.5, 0.3, 9.0]], [[9.0, 0.5, 0.0, 0.1, 0.3, 9.0]]])

    found = measure(reader, [review], [0], Pieces(("right", "wrong")), of_predicted=False)
    assert found.words[0].tolist() == [pytest.approx([0.1, 0.5, 0.3]), pytest.approx([0.5, 0.1, 0.3])]
    assert found.f1.shape == (3, 1, len(TOP))
    assert found.f1[:, 0, 0].tolist() == pytest.approx([0.8, 0.8, 0.8]), (
        "of 3 words the top 10 are all: 2 * 2 / (3 + 2)"
    )


def test_words_beyond_the_model_are_missed_but_count(bert: Path, eraser: Path) -> None:
    """Of 25 words the first 14 fit; of the two marked ones the second is lost."""
    reviews = read_eraser(eraser, "test")
    reader = load_reader(settings(bert, eraser), reviews)
    inputs, word_of = reader.encoded(reviews)
    assert inputs["input_ids"].shape == (2, 16) and int(word_of.max()) == 13
    found = measure(reader, reviews, [0, 1], methods_of("rollout"), of_predicted=False)
    order = found.words[1][0]
    assert found.words[1].shape == (1, 25) and not order[14:].any()
    hit = float((order[:14] > order[1]).sum() < 10)
    assert float(found.f1[0, 1, 0]) == pytest.approx(2 * hit / (10 + 2))
    assert float(found.f1[0, 1, 1]) == pytest.approx(2 / (14 + 2)), "20 words, but the model saw 14"


@pytest.mark.parametrize("explained", ["label", "predicted"])
def test_the_class_that_is_explained(bert: Path, eraser: Path, explained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews, asked = read_eraser(eraser, "test"), []
    reader = load_reader(settings(bert, eraser), reviews)
    scores = Methods.scores

    def watched(self: Methods, recording: Any, target: Any, modality: str) -> torch.Tensor:
        asked.append(target(recording.output).tolist())
        return scores(self, recording, target, modality)

    monkeypatch.setattr(Methods, "scores", watched)
    found = measure(reader, reviews, [0, 1], methods_of("genatt"), explained == "predicted")
    inputs, _ = reader.encoded(reviews)
    outputs = reader.model(**inputs)
    wanted = torch.tensor([1, 0]) if explained == "label" else found.predicted
    assert asked[0] == pytest.approx(given(wanted)(outputs).tolist(), rel=1e-4)


def test_the_command(bert: Path, eraser: Path, tmp_path: Path) -> None:
    options = ["--methods", "genatt,full_lrp", "--device", "cpu", "--output", str(tmp_path)]
    main(["rationales", "--model", str(bert), "--data", str(eraser), *options])
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert list(found["methods"]["genatt"]["figures"]) == [f"f1@{k}" for k in range(10, 81, 10)]
    assert found["methods"]["full_lrp"]["error"] is None and found["protocol"]["explained"] == "class of the data"
    rows = pq.read_table(tmp_path / "samples.parquet").to_pandas()
    assert rows["review"].tolist() == ["POS", "NEG"] * 3 and rows["label"].tolist() == [1, 0] * 3
    by_hand = rows[rows["method"] == "genatt"]["f1@10"].mean()
    assert found["methods"]["genatt"]["figures"]["f1@10"]["mean"] == pytest.approx(by_hand)
    assert rows["f1@10"].iloc[0] == pytest.approx(2 * 2 / (5 + 2)), "of 5 words all are chosen"
    assert Image.open(tmp_path / "samples.png").width > 300


def test_classes_of_the_data_are_those_of_the_model() -> None:
    assert class_of(["NEG", "POS"], None, ["POS", "NEG"]) == {"NEG": 1, "POS": 0}
    assert class_of(["NEG"], "POS, NEG", ["LABEL_0", "LABEL_1"]) == {"NEG": 1}
    with pytest.raises(ValueError, match=r"unknown class 'NEG'.*give --classes"):
        class_of(["NEG"], None, ["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match="--classes names 1 classes; the model has 2: a, b"):
        class_of(["NEG"], "NEG", ["a", "b"])


def test_marked_words_are_in_brackets() -> None:
    review = Review("x", ["a", "very", "bad", "film"], "NEG", [(1, 3), (3, 4), (0, 0)])
    assert marked(review) == ["a", "[very", "bad]", "[film]"]


@pytest.mark.slow
def test_the_command_on_movie_reviews(bert: Path, shared_data: Path, tmp_path: Path) -> None:
    options = ["--methods", "genatt", "--samples", "20", "--device", "cpu", "--output", str(tmp_path), "--split", "val"]
    main(["rationales", "--model", str(bert), "--data", str(shared_data / "eraser_movies"), *options])
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 20
