"""Greedy captions with cached keys and values against re-encoding every prefix: time, and whether the tokens are the same.

python benchmarks/decoding.py [--tokens 20] [--batch 1] [--mapper a]
"""

import argparse
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.decoding import Writer, greedy, one_by_one
from clipmapper.incremental import Writing
from clipmapper.model import CLIPMapper


class Reencoding:
    """Captions under way, of which each step reads the whole beginning anew."""

    def __init__(self, model: CLIPMapper, image_tokens: Tensor) -> None:
        self.model, self.image = model, image_tokens
        self.written = torch.empty(len(image_tokens), 0, dtype=torch.long, device=image_tokens.device)

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[:, None]], dim=1)
        ids = self.model.token_ids[self.written]
        _, text = self.model.states(self.image, ids, torch.ones_like(ids, dtype=torch.bool))
        return self.model.head(text[:, -1])

    def select(self, rows: Tensor) -> None:
        self.image, self.written = self.image[rows], self.written[rows]


@torch.no_grad()
def seconds(
    model: CLIPMapper, image: Tensor, writer: Callable[..., Writer], tokens: int
) -> tuple[float, list[list[int]]]:
    """Time of one batch, and its tokens; no caption ends before it has as many as asked for."""
    first = torch.full((len(image),), model.start, device=image.device)
    start = time.perf_counter()
    written = one_by_one(writer(model, image), first, end=-1, length=tokens, choose=greedy)
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, written.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--mapper", nargs="*", default=["a", "b"])
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.disable()  # open_clip warns of random weights
    for mapper in options.mapper:
        torch.manual_seed(0)
        config = ModelConfig(pretrained=None, mapper=mapper, width=options.width, task="caption")
        model = CLIPMapper(config).to(options.device).eval()
        for batch in options.batch:
            image = torch.randn(batch, 50, model.clip.image_width, device=options.device)
            runs: dict[str, list[tuple[float, list[list[int]]]]] = {"cached": [], "re-encoded": []}
            for _ in range(3):  # in turn, so that both see the same machine
                runs["cached"].append(seconds(model, image, Writing, options.tokens))
                runs["re-encoded"].append(seconds(model, image, Reencoding, options.tokens))
            cached, anew = (min(run)[0] for run in runs.values())
            same = runs["cached"][0][1] == runs["re-encoded"][0][1]
            print(
                f"mapper {mapper}, ViT-B-32, {batch} captions of {options.tokens} tokens: cached {cached:.3f} s, re-encoded "
                f"{anew:.3f} s, ratio {anew / cached:.1f} x, {'same' if same else 'DIFFERENT'} tokens",
                flush=True,
            )


if __name__ == "__main__":
    main()
