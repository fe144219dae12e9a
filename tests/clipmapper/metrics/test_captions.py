"""Captioning metrics: published figures, CLIPScore by hand, and what a machine without Java or network reports."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocoevalcap.spice import get_stanford_models
from pycocoevalcap.spice import spice as spice_files

from clipmapper.explain.captions import tokens_of
from clipmapper.metrics import captions as caption_metrics
from clipmapper.metrics.captions import (
    CHEAP,
    METRICS,
    PROMPT,
    check_cider,
    clip_score,
    clip_scores,
    coco_results,
    embed_captions,
    embed_images,
    plain_words,
    ref_clip_score,
    score,
)
from clipmapper.models.clip import FrozenCLIP

from ..explain import test_captions as explained

java = pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")
QUICK = [name for name in METRICS if name not in ("METEOR", "SPICE")]  # METEOR reads its tables for seconds

Corpus = tuple[list[str], list[list[str]]]  # captions, and the references of each


@pytest.fixture
def checks(shared_data: Path) -> Path:
    return shared_data / "metric_checks"


@java
@pytest.mark.parametrize(
    ("which", "published"),
    [
        ("good", [0.6667, 0.4899, 0.3469, 0.0000, 0.4280, 0.5637]),
        ("bad", [0.4815, 0.2404, 0.1359, 0.0000, 0.3121, 0.2790]),
    ],
)
def test_figures_published_with_clipscore(checks: Path, which: str, published: list[float]) -> None:
    corpus = score(*clipscore_example(checks, which), QUICK).corpus
    assert corpus.pop("tokenizer") == "PTB"
    assert list(corpus.values()) == pytest.approx(published, abs=5e-5)


def clipscore_example(checks: Path, which: str) -> Corpus:
    folder = checks / "clipscore_example"
    captions = json.loads((folder / f"{which}_captions.json").read_text())
    references = json.loads((folder / "refs.json").read_text())
    return list(captions.values()), [references[name] for name in captions]


def nlg_eval_example(checks: Path) -> Corpus:
    files = [checks / "nlgeval_example" / f"{name}.txt" for name in ("hyp", "ref1", "ref2")]
    hypotheses, *references = (file.read_text().splitlines() for file in files)
    return hypotheses, [list(pair) for pair in zip(*references, strict=True)]


def test_figures_published_with_nlg_eval(checks: Path) -> None:
    """Its sentences are taken as they are; plain words are the same here."""
    hypotheses, references = nlg_eval_example(checks)
    assert [plain_words(text) for text in hypotheses] == hypotheses
    corpus = score(hypotheses, references, QUICK, ptb=False).corpus
    expected = [0.55, 0.428174, 0.284043, 0.201143, 0.522104, 1.242192]
    assert [corpus[name] for name in QUICK] == pytest.approx(expected, abs=5e-7)


@pytest.fixture
def demo(checks: Path) -> Corpus:
    """Captions and references of the 126 results of the COCO caption demo whose references are here."""
    folder = checks / "coco_caption"
    references: dict[int, list[str]] = {}
    for entry in json.loads((folder / "captions_val2014_refs_for_126.json").read_text())["annotations"]:
        references.setdefault(entry["image_id"], []).append(entry["caption"])
    results = json.loads((folder / "captions_val2014_fakecap_results.json").read_text())
    captions = {entry["image_id"]: entry["caption"] for entry in results}
    return [captions[image] for image in references], list(references.values())


@java
def test_figures_of_the_coco_caption_demo(demo: Corpus) -> None:
    scores = score(*demo, QUICK)
    expected = [0.585477, 0.404738, 0.282507, 0.198265, 0.407980, 0.627722]
    assert len(demo[0]) == 126
    assert [scores.corpus[name] for name in QUICK] == pytest.approx(expected, abs=5e-7)
    assert {len(values) for values in scores.each.values()} == {126}
    assert sum(scores.each["CIDEr"]) / 126 == pytest.approx(scores.corpus["CIDEr"])


@pytest.fixture(scope="module")
def foreign_meteor() -> Iterator[None]:
    """METEOR's program on a machine of another language; one for all its tests, as it takes seconds to start."""
    caption_metrics._meteor_process.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=US-ASCII -Duser.language=de -Duser.country=DE")
        caption_metrics._meteor_process(caption_metrics._require_java())
    yield
    caption_metrics._meteor_process.cache_clear()


@java
@pytest.mark.slow
@pytest.mark.usefixtures("foreign_meteor")
def test_published_figures_of_meteor(checks: Path, demo: Corpus) -> None:
    for corpus, ptb, expected, digits in (
        (clipscore_example(checks, "good"), True, 0.3444, 5e-5),
        (clipscore_example(checks, "bad"), True, 0.1861, 5e-5),
        (nlg_eval_example(checks), False, 0.295797, 5e-7),
        (demo, True, 0.205084, 5e-7),
    ):
        scores = score(*corpus, ("METEOR",), ptb)
        assert scores.corpus["METEOR"] == pytest.approx(expected, abs=digits)
        assert len(scores.each["METEOR"]) == len(corpus[0])


@java
@pytest.mark.slow
@pytest.mark.usefixtures("foreign_meteor")
def test_meteor_of_any_script() -> None:
    captions, references = ["a red circle", "ein Bär", ""], [["a circle"], ["ein Bär", "kein Bär"], ["a dog"]]
    found = score(captions, references, ("METEOR",), ptb=False)
    assert 0 < found.each["METEOR"][0] < 1 and found.each["METEOR"][1:] == [1, 0]
    assert score(["ein Bär"], [["ein Bär"]], ("METEOR",), ptb=False).corpus["METEOR"] == pytest.approx(1)
    assert score(["ein Bär"], [["ein Bör"]], ("METEOR",), ptb=False).corpus["METEOR"] < 1  # type: ignore[operator]


@java
@pytest.mark.slow
@pytest.mark.usefixtures("foreign_meteor")
def test_drops_of_meteor_equal_a_loop() -> None:
    model = explained.make()
    explained.check_drops(model, [tokens_of(model, "small dog")], explained.REFERENCES[1:], "meteor")


@java
def test_plain_words_stand_in_for_the_ptb_tokenizer(demo: Corpus) -> None:
    texts = [*demo[0], *(text for some in demo[1] for text in some)]
    exact = caption_metrics.ptb_words(texts)
    same = sum(exact[text] == plain_words(text) for text in texts) / len(texts)
    assert same > 0.95
    ptb, plain = score(*demo, CHEAP), score(*demo, CHEAP, ptb=False)
    assert plain.corpus["CIDEr"] == pytest.approx(ptb.corpus["CIDEr"], rel=0.02)


@java
def test_texts_that_would_break_lines() -> None:
    odd = ["a\ncat", "a\u2028dog\r\n on it", "", "...", "A dog, a cat."]
    assert list(caption_metrics.ptb_words(odd).items()) == sorted(
        {
            "a\ncat": "a cat",
            "a\u2028dog\r\n on it": "a dog on it",
            "": "",
            "...": "",
            "A dog, a cat.": "a dog a cat",
        }.items()
    )


def test_an_empty_caption_scores_nothing() -> None:
    scores = score(["", "a red dog"], [["a cat"], ["a red dog"]], CHEAP, ptb=False)
    assert scores.each["CIDEr"][0] == 0 and scores.each["CIDEr"][1] > 0


@pytest.mark.parametrize("references", [[["a dog"]], [["a red dog", "a dog"]] * 3, [["..."]], [["...", ""]] * 2])
def test_cider_where_no_word_is_rare(references: list[list[str]]) -> None:
    """Even a perfect caption would have 0."""
    scores = score([texts[0] for texts in references], references, ("CIDEr", "ROUGE-L"), ptb=False)
    assert str(scores.corpus["CIDEr"]).startswith("not computed: ") and "CIDEr" not in scores.each
    assert isinstance(scores.corpus["ROUGE-L"], float) == (references[0][0] != "...")  # which has no word at all
    with pytest.raises(ValueError, match="CIDEr cannot be computed"):
        check_cider(references)


def test_cider_of_two_images_that_share_some_words() -> None:
    references = [["a red dog"], ["a cat"]]
    check_cider(references)
    assert score(["a red dog", "a cat"], references, ("CIDEr",), ptb=False).corpus["CIDEr"] == pytest.approx(6.25)


@pytest.mark.parametrize(
    ("words", "figures"), [("", 0), ("dog", 1), ("red dog", 2), ("a red dog", 3), ("a red dog barks", 4)]
)
def test_bleu_of_short_references(words: str, figures: int) -> None:
    """A length of n-grams that no reference has is no ground for a figure; captions that miss one have 0."""
    scores = score([words], [[words]], METRICS[:4], ptb=False)
    assert [scores.corpus[name] for name in METRICS[:figures]] == pytest.approx([1.0] * figures)
    assert all(str(scores.corpus[name]).startswith("not computed: no reference has ") for name in METRICS[figures:4])
    worse = score([""], [["a red dog barks"]], METRICS[:4], ptb=False)
    assert [worse.corpus[name] for name in METRICS[:4]] == pytest.approx([0] * 4)


def test_nothing_equals_nothing_only() -> None:
    scores = score(["", "", "a dog"], [["..."], ["a dog"], ["..."]], ("ROUGE-L",), ptb=False)
    assert scores.each["ROUGE-L"] == [0, 0, 0]


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a dog"], []), (["a dog"], [[]])])
def test_what_cannot_be_scored(captions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="give each caption at least one"):
        score(captions, references)


SCRIPTS = {
    "EIN großer Bär, naïve": "ein großer bär naïve",
    "Рыжая кошка спит.": "рыжая кошка спит",
    "一只 红色 的 猫.": "一只 红色 的 猫",
    "एक लाल बिल्ली": "एक लाल बिल्ली",
    "ba\u0308r": "b\u00e4r",
    "the dog's 2 bones": "the dog 's 2 bones",
    "a 🐶🚗, ☀!": "a 🐶 🚗 ☀",
    "𠮷野家 sells": "𠮷野家 sells",
}


def test_words_of_any_script() -> None:
    assert {text: plain_words(text) for text in SCRIPTS} == SCRIPTS
    assert score(["ein B r"], [["ein Bär"]], ("BLEU-1",), ptb=False).corpus["BLEU-1"] == pytest.approx(1 / 3)


@java
def test_a_caption_of_emoji_is_as_good_as_it_is() -> None:
    scores = score(["🐶", "🚗"], [["🐶"], ["🚲"]], ("BLEU-1", "METEOR", "ROUGE-L", "CIDEr"))
    for name in ("METEOR", "ROUGE-L", "CIDEr"):
        right, wrong = scores.each[name]
        assert right > 0.9 and wrong == 0, name
    assert scores.corpus["BLEU-1"] == pytest.approx(1 / 2)


@java
def test_words_of_any_script_by_ptb_on_a_machine_of_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dfile.encoding=ISO-8859-1 -Duser.language=de")
    assert caption_metrics.ptb_words(SCRIPTS) == SCRIPTS


def test_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    corpus = score(["a red circle"], [["a red circle", "a circle"]]).corpus
    assert corpus["METEOR"] == corpus["SPICE"] == "not computed: java is not installed"
    assert corpus["tokenizer"] == "plain, not PTB: java is not installed"
    assert corpus["BLEU-1"] == pytest.approx(1) and corpus["ROUGE-L"] == 1


def test_spice_without_its_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(shutil, "which", lambda _: "java")
    monkeypatch.setattr(get_stanford_models, "urlretrieve", offline)
    monkeypatch.setattr(get_stanford_models, "SPICELIB", "nowhere")
    caption_metrics._spice_lacks.cache_clear()
    corpus = score(["a dog"], [["a dog"]], ("SPICE", "ROUGE-L"), ptb=False).corpus
    caption_metrics._spice_lacks.cache_clear()
    assert "could not be downloaded: no route to host" in str(corpus["SPICE"]) and corpus["ROUGE-L"] == 1


# Scores of whoever is asked: how many of the candidate's words a reference has.
JAVA_OF_SPICE = """#!{python}
import json, sys

jar, options = sys.argv.index("-jar"), dict(zip(sys.argv[:-1], sys.argv[1:]))
assert "-Duser.language=en" in sys.argv[:jar] and "-Dfile.encoding=UTF-8" in sys.argv[:jar], sys.argv
score = lambda entry: sum(word in entry["refs"][0].split() for word in entry["test"].split())
entries = json.load(open(sys.argv[jar + 2]))
scores = [dict(image_id=entry["image_id"], scores=dict(All=dict(f=score(entry)))) for entry in reversed(entries)]
json.dump(scores{cut}, open(options["-out"], "w"))
"""


def stand_in_for_java(monkeypatch: pytest.MonkeyPatch, folder: Path, cut: str = "") -> None:
    (folder / "java").write_text(JAVA_OF_SPICE.format(python=sys.executable, cut=cut))
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(spice_files, "CACHE_DIR", str(folder / "cache"))
    monkeypatch.setattr(caption_metrics, "_spice_lacks", lambda: "")


def test_spice_is_told_to_speak_english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in_for_java(monkeypatch, tmp_path)
    found = score(["ein Bär", "a b c"], [["ein Bär"], ["b", "a"]], ("SPICE",), ptb=False)
    assert found.each["SPICE"] == [2, 1] and found.corpus["SPICE"] == 1.5


def test_scores_that_spice_does_not_give_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in_for_java(monkeypatch, tmp_path, cut="[1:]")
    found = score(["a dog", "a cat"], [["a dog"], ["a cat"]], ("SPICE", "ROUGE-L"), ptb=False)
    assert "SPICE's Java program failed" in str(found.corpus["SPICE"]) and found.corpus["ROUGE-L"] == 1


@java
def test_a_java_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    corpus = score(["a dog", "a cat"], [["a dog"], ["cat"]], (*QUICK, "METEOR")).corpus
    assert "METEOR's Java program failed" in str(corpus["METEOR"]) and "does not run" in str(corpus["tokenizer"])
    assert corpus["BLEU-1"] == pytest.approx(0.75)


def test_clip_score_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    captions = torch.tensor([[0.6, 0.8], [-0.6, 0.8], [0.0, 1.0]])
    references = [torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, -1.0]])]
    plain = clip_score(images, captions)
    assert plain.tolist() == pytest.approx([1.5, 0, 2.5])
    # nearest references: 0.8 · 0.6 + 0.6 · 0.8 = 0.96, below 0, below 0
    expected = [2 * 1.5 * 0.96 / (1.5 + 0.96), 0, 0]
    assert ref_clip_score(plain, captions, references).tolist() == pytest.approx(expected)


def test_clip_scores_of_a_judge(small_clip: FrozenCLIP) -> None:
    pictures = [Image.effect_noise((90, 60), 80), Image.new("RGB", (64, 64), "red")]
    captions, references = ["a red square", "noise"], [["a red square"], ["a red square", "some noise"]]
    images = embed_images(small_clip, pictures, batch=1)
    scores = clip_scores(small_clip, images, captions, references)
    model = small_clip.model
    for i, picture in enumerate(pictures):
        seen = torch.nn.functional.normalize(model.encode_image(small_clip.pixels(picture.convert("RGB"))[None]))[0]
        said, *truth = (
            torch.nn.functional.normalize(model.encode_text(small_clip.tokenizer([PROMPT + text])))[0]
            for text in (captions[i], *references[i])
        )
        plain = 2.5 * max(0.0, float(seen @ said))
        near = max(0.0, *(float(said @ text) for text in truth))
        assert scores.each["CLIPScore"][i] == pytest.approx(plain, abs=1e-5)
        assert scores.each["RefCLIPScore"][i] == pytest.approx(2 * plain * near / (plain + near or 1), abs=1e-5)
    assert scores.corpus["CLIPScore"] == pytest.approx(sum(scores.each["CLIPScore"]) / 2)
    assert embed_captions(small_clip, captions, batch=1).allclose(embed_captions(small_clip, captions), atol=1e-6)


def test_coco_results() -> None:
    assert coco_results([7, 3], ["a dog", "a cat"]) == [
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 3, "caption": "a cat"},
    ]


@pytest.mark.parametrize("reference", ["", "..."])
def test_references_without_words_have_no_figure(reference: str) -> None:
    corpus = score(["a dog"], [[reference]], ("BLEU-1", "ROUGE-L", "CIDEr"), ptb=False).corpus
    assert {corpus[name] for name in ("BLEU-1", "ROUGE-L", "CIDEr")} == {"not computed: no reference has a word"}
