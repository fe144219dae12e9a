"""The perturbation engine against a loop that runs every perturbed sample alone, both images and words, at the same figures.

python benchmarks/perturbation.py [--samples 8] [--methods 8] [--protocol recommended] [--mapper b]

The model is a mapper of the usual size, with random weights, over the CLIP that ships. The engine runs each distinct input
once, in batches of equal length, over CLIP's tokens of the modality that stays whole; the loop encodes image and question
anew for every method, direction and step.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from clipmapper.clip import SHAPES_CLIP
from clipmapper.config import ModelConfig
from clipmapper.model import CLIPMapper
from clipmapper.perturbation import Inputs, predictor
from xai.evaluation.perturbation import perturb
from xai.evaluation.protocols import DIRECTIONS, Protocol, area, kept_counts, named
from xai.evaluation.ranking import random_relevance

ANSWERS = [str(number) for number in range(47)]
QUESTIONS = ["What color is the small circle?", "Is there a red square left of the big triangle?"]
BATCH = 64
Perturb = Callable[[Tensor, Protocol], Tensor]


class Bench:
    def __init__(self, samples: int, mapper: str) -> None:
        torch.manual_seed(0)
        config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", mapper=mapper, heads=4)
        self.model, self.samples = CLIPMapper(config, ANSWERS).eval(), torch.arange(samples)
        ids, mask = self.model.clip.tokenize([QUESTIONS[i % 2] for i in range(samples)])
        self.inputs = Inputs(torch.randn(samples, 3, 64, 64), ids, mask, torch.rand(samples, len(ANSWERS)))
        patches = torch.ones(samples, 1 + self.model.clip.grid[0] * self.model.clip.grid[1], dtype=torch.bool)
        patches[:, 0] = False
        words = mask & (torch.arange(mask.shape[1]) > 0) & (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True) - 1)
        self.removable, self.real = {"image": patches, "text": words}, {"image": patches | True, "text": mask}
        self.answer = self._whole().argmax(dim=1)

    @torch.inference_mode()
    def _whole(self) -> Tensor:
        return self.model(self.model.clip.image_tokens(self.inputs.pixels), self.inputs.ids, self.inputs.mask)

    def engine(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        modality = protocol.modality
        predict = predictor(self.model, self.inputs, self.answer, protocol)
        found = perturb(
            relevance, self.removable[modality], self.samples, predict, protocol, self.real[modality], batch_size=BATCH
        )
        return found["probability"]

    def loop(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        removable, real = self.removable[protocol.modality], self.real[protocol.modality]
        curves = torch.zeros(len(relevance), len(DIRECTIONS), len(self.samples), len(protocol.shares))
        for m, b in torch.cartesian_prod(torch.arange(len(relevance)), self.samples).tolist():
            tokens = removable[b].nonzero()[:, 0]
            positive = tokens[relevance[m, b, tokens].argsort(descending=True)]
            for d, order in enumerate((positive, positive.flip(0))):
                for s, kept in enumerate(kept_counts(torch.tensor([len(tokens)]), protocol.shares)[0].tolist()):
                    keep = real[b].clone()
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


def timed(run: Perturb, relevance: Tensor, protocol: Protocol) -> tuple[Tensor, float]:
    start = time.perf_counter()
    with torch.inference_mode():
        curves = run(relevance, protocol)
    return curves, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--methods", type=int, default=8)
    parser.add_argument("--protocol", default="recommended")
    parser.add_argument("--mapper", choices=("a", "b"), default="b")
    options = parser.parse_args()
    bench = Bench(options.samples, options.mapper)
    total = {"engine": 0.0, "loop": 0.0}
    for modality, removable in bench.removable.items():
        protocol = named(options.protocol, modality)
        relevance = random_relevance(bench.samples, removable.shape[1], seeds=range(options.methods))
        fast, engine = timed(bench.engine, relevance, protocol)
        slow, loop = timed(bench.loop, relevance, protocol)
        difference = (area(fast, protocol.shares) - area(slow, protocol.shares)).abs().max()
        total = {"engine": total["engine"] + engine, "loop": total["loop"] + loop}
        print(f"{modality:6s} engine {engine:6.2f} s   loop {loop:7.2f} s   ratio {loop / engine:5.1f} x   "
              f"largest difference of an area {difference:.1e}")  # fmt: skip
    print(f"both   engine {total['engine']:6.2f} s   loop {total['loop']:7.2f} s   "
          f"ratio {total['loop'] / total['engine']:5.1f} x")  # fmt: skip


if __name__ == "__main__":
    main()
