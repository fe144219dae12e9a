"""What holds for every kind of model: figures of a plain loop that runs each input alone, batched or one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from clipmapper.comparison import measure as measure_module
from clipmapper.comparison.explained import RANDOM, Explained, explain_all
from clipmapper.comparison.measure import Measured, joined, measure, perturbed, truth_of
from torch import Tensor

from clipmapper.data.answers import soft_scores
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import PreparedQuestions, VQAModel, ask
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


@pytest.fixture(autouse=True)
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "RANDOM_SEEDS", range(1))


@pytest.fixture(scope="module")
def explained(kind: str, answerers: dict[str, VQAModel], questions: Questions) -> Explained:
    return explain_all(answerers[kind], ask(answerers[kind], questions, ROWS), METHODS)


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
def loop(model: VQAModel, explained: Explained, modality: str, method: str) -> dict[str, Tensor]:
    """Curves [directions, B, steps] of one method under the protocol of WRA, nothing shared."""
    alone = of_regions(model) if isinstance(model, RegionModel) else zero_shot(model)  # type: ignore[arg-type]
    relevance, shares = explained.relevances[method], SCHEDULES["wra"]
    found = {name: torch.zeros(2, len(ROWS), len(shares), dtype=torch.float64) for name in ("accuracy", "probability")}
    for b, label in enumerate(explained.target.tolist()):
        removable = relevance.content(modality)[b].nonzero()[:, 0]
        ranked = removable[relevance.scores[modality][b, removable].argsort(descending=True)]
        for d, order in enumerate((ranked, ranked.flip(0))):
            for s, share in enumerate(shares):
                keep = relevance[modality].mask[b].clone()
                keep[order[: len(order) - int((1 - share) * len(order))]] = False
                answer = alone(explained.asked, b, keep, modality)[0]
                probability = answer.sigmoid() if "Lxmert" in type(model.module).__name__ else answer.softmax(0)
                found["probability"][d, b, s] = probability[label]
                found["accuracy"][d, b, s] = explained.asked.inputs.scores[b, answer.argmax()]
    return found


@pytest.mark.parametrize("modality", ["image", "text"])
def test_curves_are_those_of_a_plain_loop(
    kind: str, answerers: dict[str, VQAModel], explained: Explained, modality: str
) -> None:
    curves = perturbed(answerers[kind], explained, "wra", modality)
    expected = loop(answerers[kind], explained, modality, "wra")
    assert len(expected["probability"].round(decimals=6).unique()) > 20, "it matters what is removed"
    for name, values in expected.items():
        torch.testing.assert_close(curves[name][0].double(), values, atol=1e-6, rtol=1e-5)


def test_batched_is_one_by_one(
    kind: str, answerers: dict[str, VQAModel], questions: Questions, shapes_root: Path
) -> None:
    truth = truth_of(shapes_root)

    def figures(rows: list[int]) -> Measured:
        model = answerers[kind]
        return measure(model, explain_all(model, ask(model, questions, rows), METHODS), "wra", truth)

    together, singly = figures(ROWS), joined([figures([row]) for row in ROWS])
    assert together.records == singly.records and not together.errors
    assert together.methods == (*METHODS, RANDOM)
    for key, curves in together.curves.items():
        np.testing.assert_allclose(curves, singly.curves[key], atol=1e-5, err_msg=key)
        assert np.isfinite(curves).all()
    for key, values in together.figures.items():
        np.testing.assert_allclose(values, singly.figures[key], atol=1e-5, err_msg=key)
    assert np.isfinite(together.figures["truth/text_mass"][0]).any()
    assert np.isfinite(together.figures["truth/image_mass"][0]).any()


def test_scores_are_those_of_the_models_own_answers(
    kind: str, answerers: dict[str, VQAModel], explained: Explained, questions: Questions
) -> None:
    model, records = answerers[kind], explained.asked.records
    given = questions.records.select_columns(["answers"])[ROWS]["answers"]
    for b, answers in enumerate(given):
        right = soft_scores(answers)
        assert explained.asked.inputs.scores[b].tolist() == pytest.approx([right.get(a, 0.0) for a in model.answers])
        assert records["predicted"][b] == model.answers[explained.target[b]]
        assert records["accuracy"][b] == pytest.approx(right.get(records["predicted"][b], 0.0))


def test_the_columns_are_image_and_text(explained: Explained) -> None:
    for relevance in explained.relevances.values():
        assert set(relevance.scores) == {"image", "text"}
        for record, words in zip(explained.asked.records["question"], relevance.by_word(), strict=True):
            spoken = record.lower().replace("?", " ?").replace(",", " ,").split()
            assert [word for word, _ in words] == spoken, "the question's words alone, without special tokens"
