"""TAM and DEX-AR written out entry by entry from what a LLaVA of transformers returns of its states and attentions."""

from math import exp, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from xai import adapter_for, record
from xai.explainers.algebra import readout_scores
from xai.explainers.dex_ar import dex_ar
from xai.explainers.tam import tam
from xai.generation.inputs import passage, prompt_inputs, without_cache
from xai.generation.steps import Steps, text_stream
from xai.recording.recording import Recording

from ..xai.generation.families import loaded

ANSWER = [7, 20, 7, 9]  # a token is written twice
LAYERS = 2


class Written:
    """A pass over a text, its recording by steps, and the model's own states and attentions with a graph."""

    def __init__(self) -> None:
        family = loaded("LLaVA")
        self.model = family.model.double()
        whole = passage(
            self.model, prompt_inputs(self.model, family.processor, family.images, family.text, None), ANSWER
        )
        arguments = {k: v.double() if v.is_floating_point() else v for k, v in whole.inputs.items()}
        arguments = without_cache(self.model, arguments)
        with record(self.model, adapter_for(self.model, arguments)) as recorder:
            self.model(**arguments)
        at = whole.start - 1 + torch.arange(len(ANSWER))
        self.steps = Steps(torch.zeros_like(at), at, torch.tensor(ANSWER))
        stream = text_stream(recorder.recording, "text", len(whole.ids))
        self.whole: Recording = recorder.recording
        self.recording = self.steps.rows(recorder.recording, stream)
        self.first, self.ids = stream.start, whole.ids
        self.is_image = [i == self.model.config.image_token_index for i in self.ids]
        self.model.set_attn_implementation("eager")
        self.model.requires_grad_(True)
        self.out: Any = self.model(**arguments, output_hidden_states=True, output_attentions=True)
        self.model.set_attn_implementation("sdpa")
        self.W = self.model.lm_head.weight.detach().tolist()
        self.F = self.out.hidden_states[-1][0].tolist()

    def laid(self, rows: list[list[float]]) -> Tensor:
        """Scores of the text's tokens on the joint axis; those of an image token are its patch's."""
        scores = torch.zeros(self.recording.mask.shape).double()
        patches = range(1, 17)  # after the class token
        for row, values in enumerate(rows):
            images = iter(patches)
            for place, value in enumerate(values):
                scores[row, next(images) if self.is_image[place] else self.first + place] += value
        return scores


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


def product(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def filtered(cells: dict[tuple[int, int], float], rows: int, columns: int) -> dict[tuple[int, int], float]:
    """The rank Gaussian filter, cell by cell."""
    result = {}
    for r in range(rows):
        for c in range(columns):
            near = [
                cells[min(max(r + i, 0), rows - 1), min(max(c + j, 0), columns - 1)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            near.sort()
            mean = sum(near) / 9
            spread = sqrt(sum((value - mean) ** 2 for value in near) / 9)
            if spread == 0:
                result[r, c] = near[4]
                continue
            sigma = spread / mean
            weights = [exp(-((rank - 4) ** 2) / (2 * sigma**2)) for rank in range(9)]
            result[r, c] = product(weights, near) / sum(weights)
    return result


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("denoise", [True, False])
def test_tam(written: Written, clean: bool, denoise: bool) -> None:
    def of_step(token: int, at: int) -> list[float]:
        values = [max(product(written.W[token], F), 0.0) for F in written.F]
        image = [place for place in range(len(values)) if written.is_image[place]]
        words = [i for i in range(at + 1) if not written.is_image[i] and written.ids[i] != token]
        total = sum(values[i] for i in words)
        a = {j: values[j] for j in image}
        if clean and total > 0:
            taken = {
                j: sum(values[i] * max(product(written.W[written.ids[i]], written.F[j]), 0.0) for i in words) / total
                for j in image
            }
            square = sum(value**2 for value in taken.values())
            beta = sum(a[j] * taken[j] for j in image) / square if square else 0.0
            a = {j: max(a[j] - beta * taken[j], 0.0) for j in image}
        if denoise:
            cells = filtered({divmod(n, 4): a[j] for n, j in enumerate(image)}, 4, 4)
            a = {j: cells[divmod(n, 4)] for n, j in enumerate(image)}
        return [a[j] if written.is_image[j] else value * (j <= at) for j, value in enumerate(values)]

    expected = written.laid([of_step(*step) for step in zip(ANSWER, written.steps.at.tolist(), strict=True)])
    found = tam(written.recording, written.steps.target(), clean, denoise)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # RMSNorm computes in single precision
    assert found[:, 1:17].any(dim=1).sum() >= 2


@pytest.mark.parametrize("lens", [True, False])
@pytest.mark.parametrize("last", [1, 2, 10])
def test_dex_ar(written: Written, lens: bool, last: int) -> None:
    norm, head = written.model.model.language_model.norm, written.model.lm_head

    def of_step(token: int, at: int) -> list[float]:
        scores = [0.0] * len(written.ids)
        for layer in range(max(LAYERS - last, 0), LAYERS):
            logits = written.out.logits
            if lens and layer < LAYERS - 1:  # the last of the hidden states is normed already
                logits = head(norm(written.out.hidden_states[layer + 1]))
            (slopes,) = torch.autograd.grad(logits[0, at, token], written.out.attentions[layer], retain_graph=True)
            for slope in slopes[0, :, at].tolist():
                G = [max(value, 0.0) for value in slope[: at + 1]]
                low, high = min(G), max(G)
                G = [(value - low) / (high - low) if high > low else 0.0 for value in G]
                image = max(g for g, seen in zip(G, written.is_image, strict=False) if seen)
                text = max(g for g, seen in zip(G, written.is_image, strict=False) if not seen)
                for place, value in enumerate(G):
                    if written.is_image[place]:
                        scores[place] += max(image - text, 0.0) * value
        return scores

    expected = written.laid([of_step(*step) for step in zip(ANSWER, written.steps.at.tolist(), strict=True)])
    target = written.steps.target()
    found = readout_scores(written.recording, dex_ar(written.recording, target, last, lens), target)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found[:, 1:17].any()
