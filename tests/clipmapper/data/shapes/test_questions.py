"""Questions: a small interpreter reads each text and works out answer and deciding objects anew; no text gives away."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from clipmapper.data.shapes import questions as module
from clipmapper.data.shapes.questions import FAMILIES, Question, ask
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, sample_scene

PreparedQuestions = list[tuple[Scene, Question]]

SHAPE_WORDS = {shape: shape for shape in SHAPES} | {f"{shape}s": shape for shape in SHAPES} | {"crosses": "cross"}
RELATION_WORDS = ("left", "right", "above", "below")
QUANTITIES = ("more", "fewer", "larger", "smaller")
ASKED_FOR = ("color", "shape", "size", "Where", "part")
DECIDING = re.compile(rf"\b({'|'.join([*SHAPE_WORDS, *COLOURS, *SIZES, *ASKED_FOR, *RELATION_WORDS, *QUANTITIES])})\b")


def named(phrase: str, scene: Scene) -> tuple[int, ...]:
    """Indices of the objects that "small red circles" or "object" stands for."""
    *adjectives, noun = phrase.split()
    assert noun in SHAPE_WORDS or noun in ("object", "objects")
    wanted = {*adjectives, SHAPE_WORDS[noun]} if noun in SHAPE_WORDS else set(adjectives)
    return tuple(i for i, t in enumerate(scene) if wanted <= {t.size, t.colour, t.shape})


def the(phrase: str, scene: Scene) -> int:
    (only,) = named(phrase, scene)
    return only


def yes(true: bool) -> str:
    return "yes" if true else "no"


def _existence(scene: Scene, article: str, noun: str) -> tuple[str, set[int]]:
    assert (article == "an") == (noun[0] in "aeiou")
    return yes(bool(named(noun, scene))), set(named(noun, scene))


def _counting(scene: Scene, noun: str) -> tuple[str, set[int]]:
    assert noun.endswith("s")
    return str(len(named(noun, scene))), set(named(noun, scene))


def _attribute(scene: Scene, name: str, noun: str) -> tuple[str, set[int]]:
    i = the(noun, scene)
    return getattr(scene.things[i], {"color": "colour"}.get(name, name)), {i}


def _either(scene: Scene, noun: str) -> tuple[str, set[int]]:
    return _attribute(scene, "size", noun)


def _position(scene: Scene, noun: str) -> tuple[str, set[int]]:
    i = the(noun, scene)
    rows, columns = ("top ", "", "bottom "), ("left", "", "right")
    third = SIDE / 3
    words = rows[int(scene.things[i].y // third)] + columns[int(scene.things[i].x // third)]
    return words.strip() or "center", {i}


def _relation(scene: Scene, first: str, word: str, second: str) -> tuple[str, set[int]]:
    i, j = the(first, scene), the(second, scene)
    one, other = scene.things[i], scene.things[j]
    # pixels by which the first is where the word says; y points down
    gap = {"left": other.x - one.x, "right": one.x - other.x, "above": other.y - one.y, "below": one.y - other.y}[word]
    assert i != j and abs(gap) > 12
    return yes(gap > 0), {i, j}


def _numbers(scene: Scene, word: str, first: str, second: str) -> tuple[str, set[int]]:
    a, b = named(first, scene), named(second, scene)
    assert a and b and len(a) != len(b)
    return yes(len(a) > len(b) if word == "more" else len(a) < len(b)), {*a, *b}


def _sizes(scene: Scene, first: str, word: str, second: str) -> tuple[str, set[int]]:
    i, j = the(first, scene), the(second, scene)
    gap = scene.things[i].radius - scene.things[j].radius
    assert abs(gap) > 5  # sizes are of different names, so the pixels tell
    return yes(gap > 0 if word == "larger" else gap < 0), {i, j}


def _which_relation(scene: Scene, first: str, word: str, opposite: str, second: str) -> tuple[str, set[int]]:
    holds, things = _relation(scene, first, word, second)
    return word if holds == "yes" else opposite, things


def _which_number(scene: Scene, first: str, second: str) -> tuple[str, set[int]]:
    more, things = _numbers(scene, "more", first, second)
    return "more" if more == "yes" else "fewer", things


def _which_size(scene: Scene, first: str, second: str) -> tuple[str, set[int]]:
    larger, things = _sizes(scene, first, "larger", second)
    return "larger" if larger == "yes" else "smaller", things


NOUN = r"((?:(?:small|large) )?(?:[a-z]+ )?[a-z]+)"
# Every form of question as (family, answer type, text, interpretation).
FORMS: list[tuple[str, str, str, Callable[..., tuple[str, set[int]]]]] = [
    ("existence", "yes/no", rf"Is there (an?) {NOUN}\?", _existence),
    ("existence", "yes/no", rf"Is there (an?) {NOUN} in the picture\?", _existence),
    ("existence", "yes/no", rf"Can you see (an?) {NOUN}\?", _existence),
    ("existence", "yes/no", rf"Does the image show (an?) {NOUN}\?", _existence),
    ("counting", "number", rf"How many {NOUN} are (?:there|in the picture)\?", _counting),
    ("counting", "number", rf"What is the number of {NOUN}\?", _counting),
    *(
        (family, "other", form.format(word=word, noun=NOUN), _attribute)
        for family, word in (("colour", "color"), ("shape", "shape"), ("size", "size"))
        for form in (r"What ({word}) is the {noun}\?", r"What is the ({word}) of the {noun}\?")
    ),
    ("colour", "other", rf"Which (color) does the {NOUN} have\?", _attribute),
    ("shape", "other", rf"Which (shape) does the {NOUN} have\?", _attribute),
    ("size", "other", rf"Is the {NOUN} large or small\?", _either),
    ("relation", "yes/no", rf"Is the {NOUN} (left|right) of the {NOUN}\?", _relation),
    ("relation", "yes/no", rf"Is the {NOUN} (above|below) the {NOUN}\?", _relation),
    ("relation", "other", rf"Is the {NOUN} (left) or (right) of the {NOUN}\?", _which_relation),
    ("relation", "other", rf"Is the {NOUN} (above) or (below) the {NOUN}\?", _which_relation),
    ("position", "other", rf"Where (?:in the picture )?is the {NOUN}\?", _position),
    ("position", "other", rf"In which part of the picture is the {NOUN}\?", _position),
    ("comparison", "other", rf"Are there fewer or more {NOUN} than {NOUN}\?", _which_number),
    ("comparison", "other", rf"Is the {NOUN} smaller or larger than the {NOUN}\?", _which_size),
    ("comparison", "yes/no", rf"Are there (more|fewer) {NOUN} than {NOUN}\?", _numbers),
    ("comparison", "yes/no", rf"Is the {NOUN} (larger|smaller) than the {NOUN}\?", _sizes),
]


def form_of(question: Question) -> tuple[int, tuple[str, ...]]:
    """The one form the text has, by number, and the words in its gaps."""
    fits = [(k, m.groups()) for k, form in enumerate(FORMS) if (m := re.fullmatch(form[2], question.text))]
    (fit,) = fits
    return fit


@pytest.fixture(scope="module")
def asked() -> PreparedQuestions:
    """Six questions on each of 1000 scenes, asked as for a data set."""
    given: Counter[tuple[str, int, str]] = Counter()
    scenes = [sample_scene((13, i)) for i in range(1000)]
    return [(s, q) for i, s in enumerate(scenes) for q in ask(s, np.random.default_rng((13, i, 1)), given, 6)]


def shares(questions: Iterable[Question]) -> dict[str, float]:
    answers = Counter(question.answer for question in questions)
    return {answer: n / answers.total() for answer, n in answers.items()}


def of_family(asked: PreparedQuestions, family: str) -> list[Question]:
    return [question for _, question in asked if question.family == family]


def test_answers_and_deciding_objects_are_right(asked: PreparedQuestions) -> None:
    used = Counter()
    for scene, question in asked:
        k, gaps = form_of(question)
        family, answer_type, _, interpret = FORMS[k]
        answer, things = interpret(scene, *gaps)
        assert (question.family, question.answer_type) == (family, answer_type), question
        assert question.answer == answer, (question, scene)
        assert set(question.things) == things and len(question.things) == len(things), (question, scene)
        used[k] += 1
    assert min(used[k] for k in range(len(FORMS))) > 50


def test_every_offered_question_is_right() -> None:
    """Also those that `ask` seldom takes."""
    for i in range(60):
        scene = sample_scene((14, i))
        for family, (offer, _) in FAMILIES.items():
            for question in offer(scene, np.random.default_rng(i)):
                k, gaps = form_of(question)
                answer, things = FORMS[k][3](scene, *gaps)
                assert (question.family, question.answer, set(question.things)) == (family, answer, things), question


def test_deciding_words_are_exactly_the_attribute_and_relation_words(asked: PreparedQuestions) -> None:
    for _, question in asked:
        assert question.words == tuple(match.span() for match in DECIDING.finditer(question.text)), question
        assert question.words and not set("[]{}") & set(question.text)


def test_families_have_their_shares(asked: PreparedQuestions) -> None:
    counts = Counter(question.family for _, question in asked)
    assert set(counts) == set(FAMILIES)
    assert sum(share for _, share in FAMILIES.values()) == pytest.approx(1)
    for family, (_, share) in FAMILIES.items():
        assert counts[family] / counts.total() == pytest.approx(share, rel=0.25)


def test_questions_of_a_scene_are_different_and_as_many_as_wanted(asked: PreparedQuestions) -> None:
    texts = defaultdict(list)
    for scene, question in asked:
        texts[scene.seed].append(question.text)
    assert all(len(set(t)) == len(t) <= 6 for t in texts.values())
    assert len(asked) > 0.99 * 6000


def test_answers_are_even_in_each_family(asked: PreparedQuestions) -> None:
    for family in ("existence", "relation", "comparison"):
        assert shares(yes_or_no(of_family(asked, family)))["yes"] == pytest.approx(0.5, abs=0.02)
    for family, words in (("relation", RELATION_WORDS), ("comparison", QUANTITIES)):
        found = shares(q for q in of_family(asked, family) if q.answer_type == "other")
        assert set(found) == set(words)
        for one, opposite in (words[:2], words[2:]):
            assert found[one] == pytest.approx(found[opposite], abs=0.02)
    found = shares(of_family(asked, "position"))
    assert len(found) == 9 and max(found.values()) < 0.15
    assert shares(of_family(asked, "size"))["small"] == pytest.approx(0.5, abs=0.02)
    for family, names in (("colour", tuple(COLOURS)), ("shape", SHAPES)):
        found = shares(of_family(asked, family))
        assert set(found) == set(names) and max(found.values()) < 2 / len(names)
    numbers = shares(of_family(asked, "counting"))
    assert set(numbers) == set("012345") and max(numbers.values()) < 0.25


def yes_or_no(questions: list[Question]) -> list[Question]:
    return [question for question in questions if question.answer_type == "yes/no"]


def template(question: Question) -> str:
    """The text with its colours, shapes and first size as gaps."""
    text = re.sub(r"\ban\b", "a", question.text)
    text = re.sub(rf"\b({'|'.join(SHAPE_WORDS)})\b", "SHAPE", text)
    text = re.sub(rf"\b({'|'.join(COLOURS)})\b", "COLOUR", text)
    return re.sub(r"\b(small|large) (?=SHAPE|COLOUR|object)", "SIZE ", text)


def guessed(questions: list[Question], key: Callable[[Question], object]) -> float:
    """Share right when guessing the answer most frequent at the same key among the other half of the questions."""
    right = 0
    # `ask` makes answers alternate, so that every second question would be the opposite of the rest.
    questions = [questions[i] for i in np.random.default_rng(0).permutation(len(questions))]
    for half in (0, 1):
        seen: defaultdict[object, Counter[str]] = defaultdict(Counter)
        for question in questions[half::2]:
            seen[key(question)][question.answer] += 1
        guess = {text: answers.most_common(1)[0][0] for text, answers in seen.items()}
        right += sum(question.answer == guess.get(key(question)) for question in questions[1 - half :: 2])
    return right / len(questions)


@pytest.mark.parametrize(
    ("family", "most"),
    [
        ("existence", 0.55),
        ("relation", 0.55),
        ("comparison", 0.55),
        ("position", 2 / 9),
        ("size", 0.55),
        ("colour", 2 / 12),
        ("shape", 2 / 10),
        ("counting", 0.28),
    ],
)
def test_template_gives_no_answer_away(asked: PreparedQuestions, family: str, most: float) -> None:
    questions = of_family(asked, family)
    assert guessed(questions, template) < most
    assert guessed(questions, lambda question: question.text) < most


def test_guessing_finds_what_a_template_gives_away(asked: PreparedQuestions) -> None:
    """The test above has eyes."""
    biased = [q for q in of_family(asked, "existence") if (q.answer == "yes") == q.text.startswith("Is there")]
    assert guessed(biased, template) > 0.95


@pytest.fixture(scope="module")
def yes_no() -> PreparedQuestions:
    """Many questions with these answers: a word must occur often to tell a bias from chance."""
    given: Counter[tuple[str, int, str]] = Counter()
    families = {family: FAMILIES[family] for family in ("existence", "relation", "comparison")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FAMILIES", families)
        scenes = [sample_scene((17, i)) for i in range(2000)]
        return [(s, q) for i, s in enumerate(scenes) for q in ask(s, np.random.default_rng((17, i, 1)), given, 5)]


@pytest.mark.parametrize("family", ["existence", "relation", "comparison"])
def test_no_word_gives_yes_or_no_away(yes_no: PreparedQuestions, family: str) -> None:
    pools: defaultdict[str, list[Question]] = defaultdict(list)
    for question in yes_or_no(of_family(yes_no, family)):
        for word in {question.text[start:end] for start, end in question.words}:
            pools[SHAPE_WORDS.get(word, word)].append(question)
    expected = {*COLOURS, *SHAPES} | {"existence": set(), "relation": {*RELATION_WORDS}}.get(family, {*QUANTITIES})
    assert set(pools) == expected
    for word, questions in pools.items():
        assert 0.35 < shares(questions)["yes"] < 0.65, word
    for word in expected & {*RELATION_WORDS, *QUANTITIES}:
        assert 0.4 < shares(pools[word])["yes"] < 0.6, word


def test_half_of_the_absent_pairs_combine_what_is_there(asked: PreparedQuestions) -> None:
    near = []
    for scene, question in asked:
        words = [question.text[start:end] for start, end in question.words]
        if question.family == "existence" and question.answer == "no" and len(words) == 2:
            near.append(any(t.colour == words[0] for t in scene) and any(t.shape == words[1] for t in scene))
    assert 0.3 < np.mean(near) < 0.7


def thing(shape: str, colour: str, size: str, x: float, y: float) -> Thing:
    return Thing(shape, colour, size, x, y, radius={"small": 10, "large": 20}[size], angle=0, rgb=(0, 0, 0))


PAIR_THINGS = (thing("circle", "red", "small", 30, 30), thing("heart", "blue", "large", 90, 41))
PAIR = Scene(PAIR_THINGS, "plain", ((9, 9, 9), (9, 9, 9)), outlined=False, seed=0)


def test_relations_are_asked_only_where_they_are_clear() -> None:
    offered = [q for i in range(50) for q in FAMILIES["relation"][0](PAIR, np.random.default_rng(i))]
    answers = {q.text: (q.answer, q.things) for q in offered}
    assert answers["Is the circle left of the heart?"] == ("yes", (0, 1))
    assert answers["Is the blue object left of the red circle?"] == ("no", (1, 0))
    assert answers["Is the red circle right of the blue heart?"] == ("no", (0, 1))
    assert not any("above" in text or "below" in text for text in answers)  # 11 pixels are not clear


def test_ask_takes_the_answer_given_least_often() -> None:
    given = Counter()
    for words in range(6):
        given |= Counter({("existence", words, "yes"): 99, ("relation", words, "no"): 99, ("colour", words, "red"): 99})
    questions = [q for i in range(30) for q in ask(PAIR, np.random.default_rng(i), given.copy(), 4)]
    answers = {(q.family, q.answer) for q in questions}
    assert {("existence", "no"), ("relation", "yes"), ("colour", "blue")} <= answers
    assert not answers & {(family, answer) for family, _, answer in given}


def test_ask_counts_and_repeats_itself() -> None:
    scene = sample_scene((13, 0))
    first, second = Counter(), Counter()
    questions = ask(scene, np.random.default_rng(5), first, 8)
    assert ask(scene, np.random.default_rng(5), second, 8) == questions
    assert first == second == Counter((q.family, len(q.words), q.answer) for q in questions)
    assert len(questions) == 8
