import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xai.metrics.rationales import TOP, read_eraser, token_f1, word_relevance


@pytest.mark.parametrize("split", ["val", "test"])
def test_spans_are_the_words_that_the_file_quotes(shared_data: Path, split: str) -> None:
    folder = shared_data / "eraser_movies"
    reviews = read_eraser(folder, split)
    lines = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
    assert len(reviews) == {"val": 200, "test": 199}[split]
    assert {review.label for review in reviews} == {"POS", "NEG"}
    for review, line in zip(reviews, lines, strict=True):
        quotes = [part["text"] for group in line["evidences"] for part in group]
        assert [" ".join(review.words[start:end]) for start, end in review.spans] == quotes
        assert review.rationale.any() and not review.rationale.all()


def test_the_rationale_itself_is_the_best_and_random_words_are_chance(shared_data: Path) -> None:
    review = read_eraser(shared_data / "eraser_movies", "val")[0]
    truth, valid = review.rationale[None], torch.ones(1, len(review.words), dtype=torch.bool)
    gold = int(truth.sum())
    best = token_f1(truth.float(), truth, valid, top=[gold, 2 * gold])[0]
    assert best.tolist() == pytest.approx([1.0, 2 / 3])
    assert token_f1(-truth.float(), truth, valid)[0].tolist() == [0.0] * len(TOP)
    flat = token_f1(torch.zeros(1, len(review.words)), truth, valid, top=[40])
    assert float(flat) == pytest.approx(2 * 40 * gold / len(review.words) / (40 + gold))


def test_f1_by_hand() -> None:
    relevance = torch.tensor([[0.9, 0.1, 0.8, 0.7, 5.0]])
    truth = torch.tensor([[True, True, False, False, True]])
    valid = torch.tensor([[True, True, True, True, False]])  # the last word was cut off, and still is part of the truth
    found = token_f1(relevance, truth, valid, top=[1, 2, 4, 10])
    assert found[0].tolist() == pytest.approx([2 / 4, 2 / 5, 4 / 7, 4 / 7])
    assert torch.equal(token_f1(torch.stack([relevance, -relevance]), truth, valid, top=[1, 2])[0], found[:, :2])
    relevance[0, 2] = torch.nan
    assert token_f1(relevance, truth, valid).isnan().all()
    assert token_f1(torch.zeros(1, 5), truth & False, valid).isnan().all()


def test_a_word_has_the_relevance_of_its_best_piece() -> None:
    relevance = torch.tensor([[9.0, 0.1, 0.3, -0.5, 9.0, 9.0]])
    word_of = torch.tensor([[-1, 0, 0, 1, -1, -1]])
    found, seen = word_relevance(relevance, word_of, words=3)
    assert torch.equal(found, torch.tensor([[0.3, -0.5, 0.0]])) and seen.tolist() == [[True, True, False]]
    both, _ = word_relevance(torch.stack([relevance, -relevance]), word_of, words=3)
    assert torch.equal(both[1], torch.tensor([[-0.1, 0.5, 0.0]]))


@pytest.mark.parametrize(
    ("evidences", "message"),
    [
        ([("a", 0, 2), ("b", 0, 1)], "'a' has reasons in several documents: a, b"),
        ([("a", 2, 9)], "'a': words 2 to 9 of the 3 words of .*docs/a"),
        ([("a", -1, 2)], "words -1 to 2"),
    ],
)
def test_entries_that_do_not_fit_are_refused(tmp_path: Path, evidences: list, message: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a").write_text("one two\nthree")
    parts = [{"docid": doc, "start_token": start, "end_token": end} for doc, start, end in evidences]
    entry = {"annotation_id": "a", "classification": "POS", "evidences": [parts]}
    (tmp_path / "val.jsonl").write_text(json.dumps(entry) + "\n\n")
    with pytest.raises(ValueError, match=message):
        read_eraser(tmp_path, "val")


def eraser(folder: Path, texts: dict[str, bytes], *entries: dict | str) -> Path:
    (folder / "docs").mkdir()
    for name, text in texts.items():
        (folder / "docs" / name).write_bytes(text)
    lines = [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries]
    (folder / "val.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def entry(name: str, *spans: tuple[int, int], **more: Any) -> dict:
    parts = [{"docid": name, "start_token": start, "end_token": end} for start, end in spans]
    return {"annotation_id": name, "classification": "POS", "evidences": [parts], **more}


@pytest.mark.parametrize("white", ["\u00a0", "\u2003", "\x1f", "\t", "\u2028", "\x85"])
def test_blanks_and_lines_alone_part_words(tmp_path: Path, white: str) -> None:
    text = f" a{white}b  good\r\n\n{white}film \n".encode()
    (review,) = read_eraser(eraser(tmp_path, {"a": text}, entry("a", (1, 2))), "val")
    assert review.words == [f"a{white}b", "good", "film"] and review.rationale.tolist() == [False, True, False]


def test_ends_of_lines_of_other_kinds_stand_in_entries(tmp_path: Path) -> None:
    folder = eraser(tmp_path, {"a": b"one two"}, entry("a", (0, 1), query="what\u2028is\x85it"))
    assert len(read_eraser(folder, "val")) == 1


def test_which_document_an_entry_is_of(tmp_path: Path) -> None:
    """That of its reasons, else that which `docids` lists, else that of its own name."""
    texts = {name: name.encode() for name in ("one", "two", "three")}
    of_reasons = entry("one", (0, 1), annotation_id="first", docids=["two", "one"])
    listed = entry("second", evidences=[], docids=["two"])
    own = entry("three", evidences=[[]], docids=None)
    reviews = read_eraser(eraser(tmp_path, texts, of_reasons, listed, own), "val")
    assert [review.words for review in reviews] == [["one"], ["two"], ["three"]]
    assert [review.spans for review in reviews] == [[(0, 1)], [], []]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (json.dumps(entry("a", (0, 1)))[:-20], r"val\.jsonl: line 2: truncated or not JSON"),
        ("[1]", r"val\.jsonl: line 2: has no text 'annotation_id'"),
        (entry("a", annotation_id=3), "entry 3: has no text 'annotation_id'"),
        (entry("a", classification=None), "entry 'a': has no text 'classification'"),
        (entry("a", evidences=None), "entry 'a': its 'evidences' are no list"),
        (entry("a", evidences=[{"docid": "a"}]), "entry 'a': its 'evidences' are no list"),
        (entry("a", (0.0, 1)), "entry 'a': its evidence .* has no whole 'start_token'"),  # type: ignore[arg-type]
        (entry("a", evidences=[[{"docid": "a", "start_token": 0}]]), "has no whole 'start_token' and 'end_token'"),
        (entry("a", docids="a"), "entry 'a': its 'docids' .* are no texts"),
        (entry("a", evidences=[], docids=["a", "empty"]), "entry 'a' has reasons in several documents: a, empty"),
        (entry("b", evidences=[]), r"entry 'b': no document .*docs/b; fetch it, or name it in the entry's 'docids'"),
        (entry("empty", evidences=[]), "entry 'empty': the document .*docs/empty has no word"),
        (entry("latin", evidences=[]), r"docs/latin: not UTF-8 .*save it anew as UTF-8"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, bad: dict | str, message: str) -> None:
    texts = {"a": b"one two", "empty": b" \n", "latin": "voil\xe0".encode("latin-1")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_eraser(eraser(tmp_path, texts, entry("a", (0, 1)), bad), "val")


def packed(folder: Path, documents: list[Any], *entries: dict) -> Path:
    for name, lines in (("docs.jsonl", documents), ("val.jsonl", entries)):
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (folder / name).write_text(f"{text}\n", encoding="utf-8")
    return folder


def document(name: Any, text: Any) -> dict:
    return {"docid": name, "document": text}


def test_documents_of_one_file(tmp_path: Path) -> None:
    """As in e-SNLI and CoS-E: the same words as those of files, but empty ones, which ERASER counts here alone."""
    text = "a\u00a0b  good\u2028\n\nfilm"
    documents = [document("a", text), document("b", "other"), document("a", text)]
    (review,) = read_eraser(packed(tmp_path, documents, entry("a", (2, 3))), "val")
    assert review.words == ["a\u00a0b", "", "good", "", "film"]
    assert review.rationale.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([document("b", "one two")], r"entry 'a': no document 'a' in .*docs\.jsonl; add it"),
        ([document("a", " \n")], r"entry 'a': the document 'a' of .*docs\.jsonl has no word"),
        ([document("a", "one"), document("a", "two")], r"docs\.jsonl: line 2: another text of the document 'a'"),
        ([document(3, "one")], r"docs\.jsonl: line 1: has no texts 'docid' and 'document'"),
        ([document("a", ["one"])], r"docs\.jsonl: line 1: has no texts 'docid' and 'document'"),
        (["a"], r"docs\.jsonl: line 1: has no texts 'docid' and 'document'"),
    ],
)
def test_documents_of_one_file_that_do_not_fit_are_named(tmp_path: Path, documents: list, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_eraser(packed(tmp_path, documents, entry("a", (0, 1))), "val")


def test_documents_in_a_file_and_in_a_folder_are_refused(tmp_path: Path) -> None:
    folder = eraser(packed(tmp_path, [document("a", "one two")]), {"a": b"one two"}, entry("a", (0, 1)))
    with pytest.raises(ValueError, match=r"has both docs\.jsonl and docs"):
        read_eraser(folder, "val")
