"""The perturbation engine against a loop that runs every perturbed sample alone, at the same figures.

The model is a mapper B of the usual size, with random weights, over the CLIP that ships. The engine runs each distinct
input once, in batches of equal length, over CLIP's tokens of the modality that stays whole; the loop encodes image and
question anew for every method, direction and step. Maps are random: methods that agree ask for fewer distinct inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.entry import Entry, gain
from benchmarks.machine import DEVICE
from benchmarks.timing import in_turn
from clipmapper.config import MapperName, ModelConfig
from clipmapper.explain.removal import Inputs, predictor
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from xai.metrics.perturbation import perturb
from xai.metrics.protocols import DIRECTIONS, Protocol, kept_counts, named
from xai.metrics.ranking import random_relevance

ANSWERS = [str(number) for number in range(47)]
QUESTIONS = ["What color is the small circle?", "Is there a red square left of the big triangle?"]
BATCH = 64
Perturb = Callable[[Tensor, Protocol], Tensor]


class Bench:
    def __init__(self, samples: int, mapper: MapperName) -> None:
        torch.manual_seed(0)
        config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", mapper=mapper, heads=4)
        self.model: Any = CLIPMapper(config, ANSWERS).eval().to(DEVICE)
        self.samples = torch.arange(samples, device=DEVICE)
        ids, mask = self.model.clip.tokenize([QUESTIONS[i % 2] for i in range(samples)])
        inputs = torch.randn(samples, 3, 64, 64), ids, mask, torch.rand(samples, len(ANSWERS))
        self.inputs = Inputs(*(tensor.to(DEVICE) for tensor in inputs))
        mask = self.inputs.mask
        patches = torch.ones(
            samples, 1 + self.model.clip.grid[0] * self.model.clip.grid[1], dtype=torch.bool, device=DEVICE
        )
        patches[:, 0] = False
        places = torch.arange(mask.shape[1], device=DEVICE)
        words = mask & (places > 0) & (places < mask.sum(1, keepdim=True) - 1)
        self.removable, self.mask = {"image": patches, "text": words}, {"image": patches | True, "text": mask}
        self.answer = self._whole().argmax(dim=1)

    @torch.inference_mode()
    def _whole(self) -> Tensor:
        return self.model(self.model.clip.image_tokens(self.inputs.pixels), self.inputs.ids, self.inputs.mask)

    def runs(self, modality: str, name: str, methods: int, kept: dict[str, Tensor]) -> dict[str, Callable[[], None]]:
        """Engine and loop on the same random maps; each leaves its curves in `kept`."""
        protocol = named(name, modality)
        relevance = random_relevance(self.samples, self.removable[modality].shape[1], seeds=range(methods))

        def keeping(side: str, perturbing: Perturb) -> None:
            with torch.inference_mode():
                kept[side] = perturbing(relevance, protocol)

        return {"engine": lambda: keeping("engine", self.engine), "loop": lambda: keeping("loop", self.loop)}

    def engine(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        modality = protocol.modality
        predict = predictor(self.model, self.inputs, self.answer, protocol)
        found = perturb(
            relevance, self.removable[modality], self.samples, predict, protocol, self.mask[modality], batch_size=BATCH
        )
        return found["probability"]

    def loop(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        removable, mask = self.removable[protocol.modality], self.mask[protocol.modality]
        curves = torch.zeros(len(relevance), len(DIRECTIONS), len(self.samples), len(protocol.shares), device=DEVICE)
        for m, b in torch.cartesian_prod(torch.arange(len(relevance)), self.samples.cpu()).tolist():
            tokens = removable[b].nonzero()[:, 0]
            positive = tokens[relevance[m, b, tokens].argsort(descending=True)]
            for d, order in enumerate((positive, positive.flip(0))):
                for s, kept in enumerate(kept_counts(torch.tensor([len(tokens)]), protocol.shares)[0].tolist()):
                    keep = mask[b].clone()
                    keep[order[: len(tokens) - kept]] = False
                    curves[m, d, b, s] = self._alone(b, keep, protocol.modality)
        return curves

    def _alone(self, b: int, keep: Tensor, modality: str) -> Tensor:
        """The answer's probability where the tokens of one sample are dropped."""
        clip, ids = self.model.clip, self.inputs.ids[b, self.inputs.mask[b]][None]
        visual = clip.model.visual
        x = visual._embeds(self.inputs.pixels[b][None])
        if modality == "image":
            x = x[:, keep]
        else:
            ids = self.inputs.ids[b, keep][None]
        image = visual.ln_post(visual.transformer(x))
        return self.model(image, ids, torch.ones_like(ids, dtype=torch.bool))[0, self.answer[b]].sigmoid()


def run(quick: bool) -> list[Entry]:
    samples, methods, rounds = (2, 2, 1) if quick else (4, 6, 3)
    bench = Bench(samples, "b")
    times: dict[str, list[float]] = {}
    found = []
    for modality in bench.removable:
        kept: dict[str, Tensor] = {}
        runs = bench.runs(modality, "wra" if quick else "recommended", methods, kept)
        here = in_turn(runs, rounds, warm=False)
        differs = float((kept["engine"] - kept["loop"]).abs().max())
        found.append(_gain(modality, here, extra={"largest difference of a probability": differs}))
        times = {
            name: [a + b for a, b in zip(times.get(name, [0.0] * rounds), here[name], strict=True)] for name in here
        }
    return [*found, _gain("both", times)]


def _gain(what: str, times: dict[str, list[float]], **fields: dict[str, float | None]) -> Entry:
    return gain(f"{what}: engine / a loop over every perturbed sample", times, "engine", "loop", 10, **fields)
