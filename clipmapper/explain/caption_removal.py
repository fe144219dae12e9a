"""What a captioner writes, and how likely its old caption is, when image patches are removed (WRA §4.3.5)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clipmapper.config import DecodingConfig
from clipmapper.data.images import ImageSource
from clipmapper.explain.removal import image_states
from clipmapper.explain.weights import Cider, References
from clipmapper.metrics.captions import clip_score, embed_captions, embed_images, ref_clip_score
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import UNKNOWN, CLIPMapper
from clipmapper.models.decoding import write
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol, named

FIGURES = ("RefCLIPScore", "CIDEr", "log_probability")


def dropping(protocol: str) -> Protocol:
    """The schedule of a named protocol, by which patches are dropped. Raises ValueError for an unknown one."""
    return Protocol(named(protocol, "image").schedule, "drop", "image")


@dataclass(eq=False)
class CaptionScorer:
    """RefCLIPScore and CIDEr of captions of some images, each caption of an image scored once."""

    clip: FrozenCLIP
    images: Tensor  # [images, D], as embed_images gives them
    references: list[Tensor]  # of each image [its references, D], as embed_captions gives them
    cider: Cider
    known: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, clip: FrozenCLIP, images: Sequence[ImageSource], references: References) -> "CaptionScorer":
        """Raises ValueError for less than two images, BadImage."""
        embedded = embed_captions(clip, [text for texts in references for text in texts])
        by_image = embedded.split([len(texts) for texts in references])
        return cls(clip, embed_images(clip, images), list(by_image), Cider(references))

    def __call__(self, captions: Sequence[str], images: Sequence[int]) -> Tensor:
        """Returns RefCLIPScore and CIDEr, [2, N], of caption i for image `images[i]`."""
        pairs = list(zip(images, captions, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        if new:
            rows, texts = map(list, zip(*new, strict=True))
            embedded = embed_captions(self.clip, texts)
            plain = clip_score(self.images[rows], embedded)
            scores = ref_clip_score(plain, embedded, [self.references[row] for row in rows])
            ciders = self.cider(texts, rows)
            self.known |= zip(new, zip(scores.tolist(), ciders.tolist(), strict=True), strict=True)
        return torch.tensor([self.known[pair] for pair in pairs]).T


@torch.no_grad()
def predictor(
    model: CLIPMapper, pixels: Tensor, tokens: Sequence[Sequence[int]], scorer: CaptionScorer, images: Sequence[int]
) -> Predict:
    """`predict` for `xai.metrics.perturbation.perturb`: FIGURES of images [B, 3, H, W] with patches dropped.

    The image is captioned again, greedily, and `scorer`, which knows it by its number in `images`, scores the new caption.
    The log-probability is that of the old caption with its end, `tokens`, less what it is on the whole image.
    """
    numbers = torch.tensor(images)
    encode, tower = image_states(model.clip, pixels, "drop"), model.clip.model.visual
    old = _Old(model, tokens)
    whole = old.log_probability(model.clip.image_tokens(pixels), torch.arange(len(pixels)))

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        left = tower.ln_post(encode(batch))
        captions = [model.text_of(new) for new in write(model, left, DecodingConfig()).tokens]
        score, cider = scorer(captions, numbers[batch.rows.cpu()].tolist())
        likely = old.log_probability(left, batch.rows) - whole[batch.rows]
        figures = (score, cider, likely)
        return {name: value.to(batch.rows.device) for name, value in zip(FIGURES, figures, strict=True)}

    return predict


class _Old:
    """Captions that were written, their text encoded once."""

    def __init__(self, model: CLIPMapper, tokens: Sequence[Sequence[int]]) -> None:
        self.model, device = model, model.token_ids.device
        length = max(map(len, tokens)) + 1
        self.next = torch.full((len(tokens), length), UNKNOWN, device=device)
        for row, caption in zip(self.next, tokens, strict=True):
            row[: len(caption) + 1] = torch.tensor([*caption, model.end])
        self.mask = self.next != UNKNOWN
        start = self.next.new_full((len(tokens), 1), model.start)
        read = torch.cat([start, self.next[:, :-1].where(self.mask[:, 1:], model.end)], dim=1)
        self.text = model.text_states(model.clip.text_tokens(model.token_ids[read]))

    def log_probability(self, image: Tensor, rows: Tensor) -> Tensor:
        """Of captions `rows` [N] of CLIP's image tokens [N, L, D], [N]."""
        mask, target = self.mask[rows], self.next[rows]
        _, text = self.model.mapper(self.model.image_states(image), self.text[rows], mask)
        found = self.model.head(text).float().log_softmax(dim=-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
        return found.where(mask, 0).sum(dim=1)
