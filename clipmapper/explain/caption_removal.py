"""The caption that a captioner writes, and how likely its old one is, when image patches are removed (WRA §4.3.5)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipmapper.config import DecodingConfig
from clipmapper.explain.removal import image_states
from clipmapper.explain.weights import Cider, References
from clipmapper.images import ImageSource
from clipmapper.metrics.captions import clip_score, embed_captions, embed_images, ref_clip_score
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import UNKNOWN, CLIPMapper
from clipmapper.models.decoding import most_tokens, write
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol, named

LIKELIHOOD = "log_probability"
FIGURES = ("RefCLIPScore", "CIDEr", LIKELIHOOD)
# from captions and the numbers of their images to the first of FIGURES, [figures, N]
Scores = Callable[[Sequence[str], Sequence[int]], Tensor]


def dropping(protocol: str) -> Protocol:
    """The schedule of a named protocol, by which patches are dropped. Raises ValueError for an unknown one."""
    return Protocol(named(protocol, "image").schedule, "drop", "image")


class CaptionScorer:
    """RefCLIPScore and CIDEr of captions of some images. An image and its references are embedded when first needed.

    Args:
        clip: the CLIP of RefCLIPScore.
        images: all images, by whose references CIDEr weighs n-grams.
        references: the right captions of each.

    Raises:
        ValueError: fewer than two images.
    """

    def __init__(self, clip: FrozenCLIP, images: Sequence[ImageSource], references: References) -> None:
        self.clip, self.images, self.references = clip, images, references
        self.cider = Cider(references)
        self.embedded: dict[int, tuple[Tensor, Tensor]] = {}  # by image its own [D] and that of its references [R, D]

    def __call__(self, captions: Sequence[str], images: Sequence[int]) -> Tensor:
        """Returns RefCLIPScore and CIDEr, [2, N], of caption i for image `images[i]`; raises BadImage."""
        for image in set(images) - self.embedded.keys():
            picture = embed_images(self.clip, [self.images[image]])[0]
            self.embedded[image] = picture, embed_captions(self.clip, self.references[image])
        embedded, texts = [self.embedded[image] for image in images], embed_captions(self.clip, captions)
        plain = clip_score(torch.stack([picture for picture, _ in embedded]), texts)
        scores = ref_clip_score(plain, texts, [references for _, references in embedded])
        return torch.stack([scores.cpu().double(), self.cider(captions, images)])


@torch.no_grad()
def predictor(
    model: CLIPMapper, pixels: Tensor, tokens: Sequence[Sequence[int]], scorer: Scores, images: Sequence[int]
) -> Predict:
    """Returns `predict` for `xai.metrics.perturbation.perturb`: FIGURES of images [B, 3, H, W] with patches dropped.

    The image is captioned again, greedily, and `scorer`, which knows it by its number in `images`, scores the new caption;
    each caption of an image once. The log-probability is that of the old caption with its end, `tokens`, less what it is on
    the whole image.
    """
    encode, tower, config = image_states(model.clip, pixels, "drop"), model.clip.model.visual, DecodingConfig()
    old, most = _Old(model, tokens), most_tokens(model, config)
    whole = old.log_probability(model.clip.image_tokens(pixels), torch.arange(len(pixels)))
    score = scores_once(scorer, images)

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        left, rows = tower.ln_post(encode(batch)), batch.rows.tolist()
        new = write(model, left, config)
        scores = score([model.text_of(text) for text in new.tokens], batch.rows)
        likely = new.log_probability.clone()  # of the old caption, where the new one is the same to its end
        ended = [len(text) < most and text == list(tokens[row]) for text, row in zip(new.tokens, rows, strict=True)]
        others = (~torch.tensor(ended, device=left.device)).nonzero()[:, 0]
        likely[others] = old.log_probability(left[others], batch.rows[others])
        return {**scores, LIKELIHOOD: likely - whole[batch.rows]}

    return predict


def scores_once(scorer: Scores, images: Sequence[int]) -> Callable[[Sequence[str], Tensor], dict[str, Tensor]]:
    """Returns what scores captions [N] of images `images[row]` by the first FIGURES, each caption of an image once."""
    known: dict[tuple[str, int], tuple[float, ...]] = {}

    def scores(captions: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
        pairs = [(text, images[row]) for text, row in zip(captions, rows.tolist(), strict=True)]
        if unknown := list(dict.fromkeys(pair for pair in pairs if pair not in known)):
            known.update(zip(unknown, map(tuple, scorer(*zip(*unknown, strict=True)).T.tolist()), strict=True))
        columns = torch.tensor([known[pair] for pair in pairs], device=rows.device).T
        return dict(zip(FIGURES, columns, strict=False))

    return scores


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
        """Returns that of captions `rows` [N] of CLIP's image tokens [N, L, D], [N]."""
        mask, target = self.mask[rows], self.next[rows]
        _, text = self.model.mapper(self.model.image_states(image), self.text[rows], mask)
        likely = self.model.head(text).float().log_softmax(dim=-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
        return likely.where(mask, 0).sum(dim=1)
