"""The perturbation engine against a loop that runs every perturbed sample alone, both images and words, at the same figures.

python benchmarks/perturbation.py [--samples 4] [--methods 12] [--protocol recommended]

The model has the costs of a small CLIP and its mapper: a tower over each modality, and layers over both together. As
dropping demands, image patches are dropped after their positions were added and before the image tower. The engine's
callable keeps the tower's tokens of the modality that stays whole; the loop computes everything for every step.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from xai.evaluation.perturbation import Perturbed, perturb
from xai.evaluation.protocols import DIRECTIONS, Protocol, area, kept_counts, named
from xai.evaluation.ranking import random_relevance
from xai.evaluation.removal import drop

PATCHES, WORDS, ANSWERS = 64, 8, 40
Perturb = Callable[[Tensor, Protocol], Tensor]


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

        def layers(count: int) -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, count, enable_nested_tensor=False)

        self.towers = nn.ModuleDict({"image": layers(4), "text": layers(4)})
        self.mapper, self.head = layers(3), nn.Linear(width, ANSWERS)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Answer probabilities [B, answers] from the towers' tokens."""
        return self.head(self.mapper(torch.cat([image, text], dim=1))[:, 0]).softmax(dim=-1)


class Bench:
    def __init__(self, samples: int, width: int, batch: int) -> None:
        torch.manual_seed(0)
        self.batch = batch
        self.model = Model(width).eval()
        self.inputs = {
            "image": torch.randn(samples, 1 + PATCHES, width),
            "text": torch.randn(samples, 2 + WORDS, width),
        }
        self.removable = {name: torch.ones(x.shape[:2], dtype=torch.bool) for name, x in self.inputs.items()}
        self.removable["image"][:, 0] = self.removable["text"][:, [0, -1]] = False  # class, start and end token
        self.samples = torch.arange(samples)
        with torch.inference_mode():
            whole = self.model(*(self.model.towers[name](x) for name, x in self.inputs.items()))
        self.answer = whole.argmax(dim=1)

    def engine(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        perturbed, other = self.inputs[protocol.modality], {"image": "text", "text": "image"}[protocol.modality]
        untouched = self.model.towers[other](self.inputs[other])

        def predict(batch: Perturbed) -> dict[str, Tensor]:
            left = drop(perturbed[batch.rows], batch.keep, batch.length)
            tokens = {protocol.modality: self.model.towers[protocol.modality](left), other: untouched[batch.rows]}
            answers = self.model(tokens["image"], tokens["text"])
            return {"probability": answers.gather(1, self.answer[batch.rows, None])[:, 0]}

        removable = self.removable[protocol.modality]
        return perturb(relevance, removable, self.samples, predict, protocol, batch_size=self.batch)["probability"]

    def loop(self, relevance: Tensor, protocol: Protocol) -> Tensor:
        removable = self.removable[protocol.modality]
        curves = torch.zeros(len(relevance), len(DIRECTIONS), len(self.samples), len(protocol.shares))
        for m, b in torch.cartesian_prod(torch.arange(len(relevance)), self.samples).tolist():
            tokens = removable[b].nonzero()[:, 0]
            positive = tokens[relevance[m, b, tokens].argsort(descending=True)]
            for d, order in enumerate((positive, positive.flip(0))):
                for s, kept in enumerate(kept_counts(torch.tensor([len(tokens)]), protocol.shares)[0].tolist()):
                    keep = torch.ones_like(removable[b])
                    keep[order[: len(tokens) - kept]] = False
                    curves[m, d, b, s] = self._alone(b, keep, protocol.modality)
        return curves

    def _alone(self, b: int, keep: Tensor, modality: str) -> Tensor:
        inputs = {name: x[b : b + 1] for name, x in self.inputs.items()}
        inputs[modality] = inputs[modality][:, keep]
        tokens = {name: self.model.towers[name](x) for name, x in inputs.items()}
        return self.model(tokens["image"], tokens["text"])[0, self.answer[b]]


def timed(run: Perturb, relevance: Tensor, protocol: Protocol) -> tuple[Tensor, float]:
    start = time.perf_counter()
    with torch.inference_mode():
        curves = run(relevance, protocol)
    return curves, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--methods", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64, help="of the engine")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--protocol", default="recommended")
    options = parser.parse_args()
    bench = Bench(options.samples, options.width, options.batch)
    total = {"engine": 0.0, "loop": 0.0}
    for modality, x in bench.inputs.items():
        protocol = named(options.protocol, modality)
        relevance = random_relevance(bench.samples, x.shape[1], seeds=range(options.methods))
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
