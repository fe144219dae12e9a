"""Real weights, all-MiniLM-L6-v2: of two paraphrases, the words that both share in meaning explain why they are alike."""

import re
from statistics import mean

import pytest
from torch import Tensor

from benchmarks.real import Sentences, explained
from xai import Relevance, adapter_for, explain_recording, record

PARAPHRASES = (  # words that have a counterpart in the other sentence stand in brackets
    ("The [cat] sat on the [mat].", "A [kitten] was resting on a [rug]."),
    ("He [bought] a new [car] last [week].", "A [vehicle] was [purchased] by him [seven] [days] ago."),
    ("The [doctor] examined the patient in the [hospital].", "At the [clinic], a [physician] looked at the man."),
    ("It [rained] for most of the [night].", "There was a lot of [wet] [weather] until the [morning]."),
    (
        "She is a [teacher] at the [school] in our [village].",
        "In this small [town] she gives [lessons] to the [pupils].",
    ),
    ("The [film] was so [boring] that we left.", "We walked out of the [movie] because it was [dull]."),
    (
        "There was a [fire] in the [kitchen] of the restaurant.",
        "The place where we eat had [flames] where they [cook].",
    ),
    ("A [man] is [playing] the [guitar] on the [street].", "[Someone] makes [music] on an [instrument] in the [road]."),
    ("The [child] was [afraid] of the [dog].", "A [boy] [feared] the [puppy]."),
    ("The [plane] landed in [Paris] in the [evening].", "At [night] the [aircraft] arrived in the [French] [capital]."),
)
MARKED = [sentence for pair in PARAPHRASES for sentence in pair]
FUNCTION = (
    "a an at because by for had he him in is it last most of on our so that the there they this to until was we where"
)
METHODS = ("raw_attention", "genatt", "wra", "legrad", "tokentm", "partial_lrp", "transatt", "attn_lrp", "cp_lrp")
RANDOM = 20


@pytest.fixture(scope="module")
def inputs(sentences: Sentences) -> dict[str, Tensor]:
    return sentences.inputs([re.sub(r"[\[\]]", "", sentence) for sentence in MARKED])


@pytest.fixture(scope="module")
def relevances(sentences: Sentences, inputs: dict[str, Tensor]) -> dict[str, Relevance]:
    target = sentences.similarity(inputs["attention_mask"])
    words = sentences.pieces(inputs["input_ids"])
    made = explained(sentences.model, inputs, target, METHODS)
    return {method: relevance.with_words(words) for method, relevance in made.items()}


def rank(scores: list[tuple[str, float]], marked: str) -> float:
    """How often a shared word has more relevance than a function word of its sentence; 0.5 by chance."""
    shared = [score for word, score in scores if f"[{word}]" in marked.lower()]
    function = [score for word, score in scores if word in FUNCTION.split() and f"[{word}]" not in marked.lower()]
    assert len(shared) == marked.count("[") and function
    return mean(float(own > other) for own in shared for other in function)


def ranks(relevance: Relevance) -> list[float]:
    return [rank(scores, marked) for scores, marked in zip(relevance.by_word("text"), MARKED, strict=True)]


def as_expected(found: list[float]) -> bool:
    """In nine sentences of ten above chance, and four comparisons of five right."""
    return sum(one > 0.5 for one in found) >= 0.9 * len(found) and mean(found) >= 0.8


def test_the_model_finds_paraphrases_alike(sentences: Sentences, inputs: dict[str, Tensor]) -> None:
    states = sentences.model(**inputs).last_hidden_state
    embeddings = sentences.embeddings(states, inputs["attention_mask"]).unflatten(0, (-1, 2))
    cosines = embeddings[:, 0] @ embeddings[:, 1].T
    assert (cosines.argmax(dim=1) == cosines.argmax(dim=0)).all() and (cosines.argmax(dim=1).diff() == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_shared_words_have_more_than_function_words(relevances: dict[str, Relevance], method: str) -> None:
    found = ranks(relevances[method])
    assert as_expected(found), found


def test_random_maps_do_not_meet_the_expectation(sentences: Sentences, inputs: dict[str, Tensor]) -> None:
    target, words = sentences.similarity(inputs["attention_mask"]), sentences.pieces(inputs["input_ids"])
    with record(sentences.model, adapter_for(sentences.model)) as recorder:
        sentences.model(**inputs)
    for seed in range(RANDOM):
        relevance = explain_recording(recorder.recording, "random", target, seed=seed).with_words(words)
        assert not as_expected(ranks(relevance)), seed
