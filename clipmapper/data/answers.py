"""VQA answers as text: the official normalisation, the official accuracy, the answer vocabulary.

The rules are those of the VQA evaluation code, https://github.com/GT-Vision-Lab/VQA, oddities included:
a tidier rule would give another score.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xai.files import read_json

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")  # the look-behind is misspelt upstream, so "3." loses its period too
PERIODS_REMOVED = 32  # upstream passes re.UNICODE where re.sub expects the number of replacements

NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
ARTICLES = frozenset({"a", "an", "the"})

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# Upstream maps a form that lacks exactly one apostrophe to the full form; one entry of its table runs the other way.
CONTRACTIONS = {
    form[:i] + form[i + 1 :]: form for form in _CONTRACTED.split() for i, char in enumerate(form) if char == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"


def strip(answer: str) -> str:
    """The answer without line breaks, tabs and outer blanks, as the official evaluation reads every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(answer: str) -> str:
    joins = COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in PUNCTUATION:
        touches_blank = mark + " " in answer or " " + mark in answer
        text = text.replace(mark, "" if joins or touches_blank else " ")
    return PERIOD.sub("", text, count=PERIODS_REMOVED)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """An answer in the form in which the official evaluation compares answers."""
    words = (NUMBERS.get(word, word) for word in _without_punctuation(strip(answer)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _leave_one_out(matches: int, annotators: int) -> float:
    own_left_out = matches * min(1.0, (matches - 1) / 3)
    other_left_out = (annotators - matches) * min(1.0, matches / 3)
    return (own_left_out + other_left_out) / annotators


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official VQA accuracy in [0, 1] of one prediction against the raw answers of all annotators.

    Both sides are normalised only where the annotators disagree. Raises ValueError if there are no answers.
    """
    if not answers:
        raise ValueError("answers is empty: a question without annotator answers (a test split) cannot be scored")
    stripped = [strip(answer) for answer in answers]
    prediction = strip(prediction)
    if len(set(stripped)) > 1:
        stripped = [normalise(answer) for answer in stripped]
        prediction = normalise(prediction)
    return _leave_one_out(stripped.count(prediction), len(stripped))


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Score in [0, 1] of each normalised answer: what `vqa_accuracy` gives whoever says it. Empty for no answers."""
    counts = Counter(map(normalise, answers))
    return {answer: _leave_one_out(count, len(answers)) for answer, count in counts.items()}


def unanimous(answers: list[str]) -> list[str]:
    """A lone answer counts as that of ten annotators: alone, leave-one-out would give it 0."""
    return answers * 10 if len(answers) == 1 else answers


@dataclass(frozen=True)
class AnswerVocabulary:
    """The answers a classifier chooses from; a label is a position in `answers`."""

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = [answer for answer, count in Counter(self.answers).items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} answers occur more than once, the first is {twice[0]!r}; keep one of each")

    @classmethod
    def from_file(cls, path: str | Path) -> "AnswerVocabulary":
        """Reads a JSON list of answers (label2ans) or a JSON object answer -> label (ans2label).

        Raises FileNotFoundError, or ValueError for a file that holds something else.
        """
        try:
            content = read_json(Path(path), "expected a list of answers")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such answer vocabulary; give a label2ans JSON list") from None
        try:
            return cls(tuple(_in_label_order(content)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 9) -> "AnswerVocabulary":
        """The answers given at least `min_count` times, most frequent first, ties by the alphabet."""
        frequent = [answer for answer, count in counts.items() if count >= min_count]
        return cls(tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer))))

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {answer: label for label, answer in enumerate(self.answers)}

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, label: int) -> str:
        return self.answers[label]

    def encode(self, answers: Sequence[str]) -> tuple[list[int], list[float]]:
        """Labels and soft scores of raw annotator answers; answers outside the vocabulary are left out."""
        labels, scores = self.encode_all(pa.chunked_array([pa.array([list(answers)], pa.list_(pa.string()))]))
        return labels[0].as_py(), scores[0].as_py()

    def encode_all(self, answers: pa.ChunkedArray) -> tuple[pa.ListArray, pa.ListArray]:
        """`encode` of many questions at once, [questions] lists of answers to as many of labels and of scores."""
        lists = answers.combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        distinct = lists.flatten().dictionary_encode()
        label_of = np.array(
            [self._labels.get(normalise(a), -1) for a in distinct.dictionary.to_pylist()], dtype=np.int64
        )
        labels = label_of[distinct.indices.to_numpy()]  # of each answer, -1 outside the vocabulary
        known, questions = labels >= 0, np.repeat(np.arange(len(lengths)), lengths)
        keys = questions[known] * max(1, len(self)) + labels[known]
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        order = np.argsort(first)  # as the annotators gave them
        first, counts = np.flatnonzero(known)[first[order]], counts[order]
        pairs, which = np.unique(np.stack([counts, lengths[questions[first]]]), axis=1, return_inverse=True)
        scores = np.array([_leave_one_out(*pair) for pair in pairs.T.tolist()], dtype=np.float32)[which.reshape(-1)]
        ends = np.searchsorted(questions[first], np.arange(len(lengths) + 1)).astype(np.int32)
        return tuple(
            pa.ListArray.from_arrays(ends, pa.array(values)) for values in (labels[first].astype(np.int32), scores)
        )


def _in_label_order(content: object) -> list[str]:
    if isinstance(content, dict):
        if sorted(content.values(), key=str) != sorted(range(len(content)), key=str):
            raise ValueError(f"the labels are not 0 to {len(content) - 1}, each once; expected {{answer: label, ...}}")
        content = sorted(content, key=content.__getitem__)
    if not isinstance(content, list):
        raise ValueError(f"holds a {type(content).__name__}; expected a JSON list of answers")
    for label, answer in enumerate(content):
        if not isinstance(answer, str):
            raise ValueError(f"entry {label} is {answer!r}; expected a string")
    return content
