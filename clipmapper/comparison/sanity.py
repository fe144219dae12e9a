"""Do explanations depend on what the model has learned? Each method before and after parts of the model are shuffled."""

from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite

import torch
from torch import Tensor

from clipmapper.comparison.explained import PreparedQuestions, record_once
from clipmapper.explain.answers import FromPixels, answer_target
from clipmapper.models.clip import text_tower
from clipmapper.models.clip_mapper import CLIPMapper
from xai import Target, explain_recording
from xai.metrics.sanity import noisy_output, randomisation
from xai.recording.recording import Recording

GROUPS = {"mapper": ("image_projection", "text_projection", "mapper", "head"), "clip": ("clip",)}
DRAWS = 3  # noisy inputs that an explanation is the mean of
NOISE = 0.05  # of the range of a sample's embeddings
FEWER = {"integrated_gradients": {"steps": 8}, "smoothgrad": {"samples": 5}}  # passes: the draws are averaged already
Correlations = dict[str, dict[str, list[float | None]]]  # by method and group, of each question


def sanity(model: CLIPMapper, asked: PreparedQuestions, methods: Sequence[str]) -> Correlations:
    """Smoothed model-parameter randomisation, each group alone: patches and words are ranked together.

    The answer explained is that of the model as it is. All methods of a draw share one recorded pass. None where a method
    raises or gives the same relevance to all tokens.
    """
    if not methods:
        return {}
    whole, embeddings = FromPixels(model), (model.clip.model.visual.conv1, text_tower(model.clip.model).token_embedding)
    recording = record_once(model, asked.inputs, (), whole)
    target, content = answer_target(model, recording), recording.mask & ~recording.special

    def explain(draw: int) -> Tensor:
        with ExitStack() as stack:
            for i, module in enumerate(embeddings):
                stack.enter_context(noisy_output(module, NOISE, seed=len(embeddings) * draw + i))
            noisy = record_once(model, asked.inputs, methods, whole)
            return torch.stack([_relevance(noisy, name, target) for name in methods])

    found = randomisation(model, explain, tuple(GROUPS.values()), content, DRAWS, cascade=False).tolist()
    return {
        name: {group: [_number(value) for value in found[g][m]] for g, group in enumerate(GROUPS)}
        for m, name in enumerate(methods)
    }


def _relevance(recording: Recording, method: str, target: Target) -> Tensor:
    """[B, T], NaN of a method that raises."""
    try:
        relevance = explain_recording(recording, method, target, **FEWER.get(method, {}))
        return torch.cat([scores.float() for scores in relevance.scores.values()], dim=1)
    except Exception:  # its row says why
        return torch.full(recording.mask.shape, torch.nan, device=recording.mask.device)


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return value if isfinite(value) else None
