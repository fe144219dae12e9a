"""What holds for every kind of model: figures of a plain loop that runs each input alone, batched or one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmapper.benchmark.measure import BatchResult, explain_batch, joined, measure
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.data.answers import soft_scores
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import PreparedQuestions, VQAModel
from clipmapper.explain.models.regions import RegionModel
from clipmapper.explain.models.zero_shot import ZeroShotModel
from xai.metrics.protocols import SCHEDULES
from xai.targets import logits

KINDS = ("lxmert", "visualbert", "clip")
METHODS = ("wra", "attn_lrp")
ROWS = [0, 9, 20]
Alone = Callable[
    [PreparedQuestions, int, Tensor, str], Tensor
]  # answer logits [1, answers] of sample b with `keep` of a modality


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


CONFIG = BenchmarkConfig(protocol="wra", random_seeds=1)


@pytest.fixture(scope="module")
def task(kind: str, models: dict[str, VQAModel], questions: Questions, shapes_root: Path) -> AnswersTask:
    return AnswersTask(models[kind], questions, ROWS, CONFIG, shapes_root)


@pytest.fixture(scope="module")
def together(task: AnswersTask) -> BatchResult:
    return measure(task, range(3), METHODS, CONFIG)


def of_regions(model: RegionModel) -> Alone:
    """From lists, without padding."""

    def alone(asked: PreparedQuestions, b: int, keep: Tensor, modality: str) -> Tensor:
        given = {name: tensor[b] for name, tensor in asked.inputs.arguments.items()}
        words, regions = given["attention_mask"].bool(), given["visual_attention_mask"].bool()
        words, regions = (words & keep, regions) if modality == "text" else (words, regions & keep)
        visual = {name: given[name][None, regions] for name in model.family.regions}
        ids = given["input_ids"][None, words]
        with reading_nothing(model.module, not regions.any()):
            if not regions.any():  # transformers takes no LXMERT input without regions
                visual = {name: given[name][None, :1] for name in model.family.regions}
                visual |= {"visual_attention_mask": torch.zeros(1, 1)}
            return logits(model.module(input_ids=ids, attention_mask=torch.ones_like(ids), **visual))

    return alone


@contextmanager
def reading_nothing(model: torch.nn.Module, active: bool) -> Iterator[None]:
    """Attention of LXMERT to the one region there is gives nothing."""
    modules = [m for m in model.modules() if active and type(m).__name__ == "LxmertAttention"]
    hooks = [m.register_forward_hook(lambda m, args, out: (out[0] * (args[1].shape[1] > 1), *out[1:])) for m in modules]
    yield
    for hook in hooks:
        hook.remove()


def zero_shot(model: ZeroShotModel) -> Alone:
    """Every prompt as text ids of their own, through open_clip's own functions."""

    @cache
    def encoded(question: tuple[int, ...]) -> Tensor:
        prompts = torch.zeros(len(model.answers), 77, dtype=torch.long)
        for prompt, answer in zip(prompts, model.answers, strict=True):
            start, *words, end = model.clip.tokenize([answer])[0][0].tolist()
            prompt[: len(question) + len(words) + 2] = torch.tensor([start, *question, *words, end])
        return model.clip.model.encode_text(prompts, normalize=True)

    def alone(asked: PreparedQuestions, b: int, keep: Tensor, modality: str) -> Tensor:
        clip, pixels = model.clip.model, asked.inputs.pixels[[b]]
        question = model.clip.tokenize([asked.records["question"][b]])[0][0].tolist()[1:-1]
        if modality == "text":
            question = [i for i, kept in zip(question, keep[1:].tolist(), strict=False) if kept]
            image = clip.encode_image(pixels, normalize=True)
        else:
            states = clip.visual.transformer(clip.visual._embeds(pixels)[:, keep])
            image = torch.nn.functional.normalize(clip.visual.ln_post(states)[:, 0] @ clip.visual.proj, dim=-1)
        prompts = encoded(tuple(question))
        return clip.logit_scale.exp() * image @ prompts.T

    return alone


@torch.no_grad()
def loop(task: AnswersTask, modality: str, method: str) -> dict[str, np.ndarray]:
    """Curves [samples, steps] of one method under the protocol of WRA by metric, nothing shared."""
    model, batch = task.model, task.batch(range(len(ROWS)))
    alone = of_regions(model) if isinstance(model, RegionModel) else zero_shot(model)  # type: ignore[arg-type]
    explained = explain_batch(task, batch, [method])
    relevance, shares = explained.relevances()[method], SCHEDULES["wra"]
    curves: dict[str, np.ndarray] = {}
    for b, label in enumerate(explained.recorded.labels.tolist()):  # type: ignore[attr-defined]
        removable = relevance.content(modality)[b].nonzero()[:, 0]
        ranked = removable[relevance.scores[modality][b, removable].argsort(descending=True)]
        for direction, order in (("positive", ranked), ("negative", ranked.flip(0))):
            for s, share in enumerate(shares):
                keep = relevance[modality].mask[b].clone()
                keep[order[: len(order) - int((1 - share) * len(order))]] = False
                answer = alone(batch.inputs, b, keep, modality)[0]
                probability = answer.sigmoid() if "Lxmert" in type(model.module).__name__ else answer.softmax(0)
                values = {"probability": probability[label], "accuracy": batch.inputs.inputs.scores[b, answer.argmax()]}
                for name, value in values.items():
                    key = f"{modality}/{name}/{direction}"
                    curves.setdefault(key, np.zeros((len(ROWS), len(shares))))[b, s] = value
    return curves


@pytest.mark.parametrize("modality", ["image", "text"])
def test_curves_are_those_of_a_plain_loop(task: AnswersTask, together: BatchResult, modality: str) -> None:
    expected = loop(task, modality, "wra")
    probabilities = expected[f"{modality}/probability/positive"]
    assert len(np.unique(probabilities.round(6))) > 10, "it matters what is removed"
    for name, values in expected.items():
        np.testing.assert_allclose(together.values[name][0], values, atol=1e-6, rtol=1e-5)


def test_batched_is_one_by_one(task: AnswersTask, together: BatchResult) -> None:
    singly = joined([measure(task, range(i, i + 1), METHODS, CONFIG) for i in range(3)])
    assert together.samples == singly.samples and not together.errors
    for key, values in together.values.items():
        np.testing.assert_allclose(values, singly.values[key], atol=1e-5, err_msg=key)
    assert np.isfinite(together.values["text/mass"][0]).any()
    assert np.isfinite(together.values["image/mass"][0]).any()


def test_scores_are_those_of_the_models_own_answers(task: AnswersTask, together: BatchResult) -> None:
    records = task.questions.records.select_columns(["answers"])[ROWS]["answers"]
    batch = task.batch(range(3))
    likeliest = task.model.logits(batch.inputs.inputs).argmax(dim=1).tolist()
    for b, answers in enumerate(records):
        right = soft_scores(answers)
        expected = [right.get(answer, 0.0) for answer in task.model.answers]
        assert batch.inputs.inputs.scores[b].tolist() == pytest.approx(expected)
        assert together.samples["predicted"][b] == task.model.answers[likeliest[b]]
        assert together.samples["accuracy"][b] == pytest.approx(right.get(together.samples["predicted"][b], 0.0))


def test_the_columns_are_image_and_text(task: AnswersTask) -> None:
    batch = task.batch(range(3))
    explained = explain_batch(task, batch, METHODS)
    for relevance in explained.relevances().values():
        assert set(relevance.scores) == {"image", "text"}
        spoken = relevance.with_words(explained.recorded.words).by_word()  # type: ignore[attr-defined]
        for question, words in zip(batch.records["question"], spoken, strict=True):
            expected = question.lower().replace("?", " ?").replace(",", " ,").split()
            assert [word for word, _ in words] == expected, "the question's words alone, without special tokens"


def test_the_report_shows_every_kind(task: AnswersTask) -> None:
    batch = task.batch(range(1))
    shown = task.explanations(batch, explain_batch(task, batch, METHODS), 0)
    assert set(shown) == {*METHODS, "ground truth"}
    assert all(max(map(max, explanation.patches)) > 0 for explanation in shown.values() if explanation.patches)
    assert task.gallery({**task_record(task), "row": 0}, shown) is not None


def task_record(task: AnswersTask) -> dict[str, object]:
    result = measure(task, range(1), METHODS, CONFIG)
    return {name: column[0] for name, column in result.samples.items()}
