"""The answers of a mapper when image patches or words are removed: the model's side of the perturbation engine.

`image_states` and `word_states` are CLIP's side of it, with or without a mapper.

Both towers of CLIP embed each token by itself, so every removal is one of two things on embeddings: leaving tokens out of
the sequence, or putting a filler's embedding in their place. What attention may not read is left out as well: the figures
are those of a mask, at the cost of a shorter sequence. Of the modality that stays whole
all that no other token is read for is computed once: CLIP's tokens, and the mapper's first attention among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from clipmapper.errors import unknown
from clipmapper.metrics.answers import soft_accuracy
from clipmapper.models.clip import FrozenCLIP, text_tower
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.mapper import Modality
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol, Removal
from xai.metrics.removal import drop, filler
from xai.recording.recording import Recording, Score, Without

BLANK = "_"  # a word that leaves its place open: CLIP has no mask token
Tokens = Callable[[Perturbed], Tensor]  # a tower's tokens [N, L, D] of what is left
SHORTER = ("drop", "attention_mask")  # removals after which the sequence has fewer tokens
WORDS: tuple[Removal, ...] = ("drop", "attention_mask", "mask_token", "mean", "zero")  # words cannot be blurred


@dataclass(frozen=True)
class Inputs:
    """Questions with their images as the model takes them, and how good each of its answers is."""

    pixels: Tensor  # [B, 3, H, W]
    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    scores: Tensor  # [B, answers], 0 to 1


@torch.no_grad()
def predictor(model: CLIPMapper, inputs: Inputs, target: Tensor, protocol: Protocol) -> Predict:
    """`predict` for `xai.metrics.perturbation.perturb`: accuracy of the likeliest answer, probability of `target` [B].

    Tokens are those of `record_answer`'s recording. The probability is the answer's sigmoid, as the head was trained.
    Raises ValueError for a removal that the modality does not have.
    """
    if protocol.modality == "image":
        text = whole_text(model, inputs.ids, inputs.mask)
        left = image_states(model.clip, inputs.pixels, protocol.removal)

        def answers(batch: Perturbed) -> Tensor:
            image = model.image_states(model.clip.model.visual.ln_post(left(batch)))
            return model.answers_to(image, text[batch.rows], inputs.mask[batch.rows], ["text"])
    else:
        image = whole_image(model, inputs.pixels, inputs.mask)
        words = word_states(model.clip, inputs.ids, protocol.removal)

        def answers(batch: Perturbed) -> Tensor:
            text = model.text_states(words(batch))
            mask = batch.keep.new_ones(text.shape[:2]) if protocol.removal in SHORTER else inputs.mask[batch.rows]
            return model.answers_to(image[batch.rows], text, mask, ["image"])

    def predict(batch: Perturbed) -> dict[str, Tensor]:
        logits = answers(batch)
        return figures(logits, logits.sigmoid(), inputs.scores[batch.rows], target[batch.rows])

    return predict


def without(
    model: CLIPMapper, pixels: Tensor, ids: Tensor, mask: Tensor, recording: Recording, target: Score
) -> Without:
    """What runs a mapper that answers on questions from which tokens are dropped, as `predictor` does it, of both modalities.

    Args:
        model: the mapper.
        pixels: [B, 3, H, W].
        ids: [B, T].
        mask: [B, T].
        recording: of the pass, whose joint axis the tokens are on.
        target: is not looked at: whatever is dropped, the token that is read stays.
    """
    image, text = (recording.modalities[name] for name in ("image", "text"))
    patches, words = image_states(model.clip, pixels, "drop"), word_states(model.clip, ids, "drop")
    same_image, same_text = whole_image(model, pixels, mask), whole_text(model, ids, mask)

    def answers(keep: Tensor, rows: Tensor) -> Tensor:
        left, said, begun = keep[:, image], keep[:, text] & mask[rows], list[Modality]()
        if bool(left.all()):
            states, begun = same_image[rows], ["image"]
        else:
            batch = Perturbed(rows, left, int(left[0].sum()))
            states = model.image_states(model.clip.model.visual.ln_post(patches(batch)))
        if bool((said == mask[rows]).all()):
            return model.answers_to(states, same_text[rows], mask[rows], [*begun, "text"])
        counts = said.sum(dim=1)  # what follows on the end token is read by nothing
        tokens = model.text_states(words(Perturbed(rows, said, int(counts.max()))))
        real = torch.arange(tokens.shape[1], device=counts.device) < counts[:, None]
        return model.answers_to(states, tokens, real, begun)

    @torch.no_grad()
    def run(keep: Tensor, rows: Tensor) -> Tensor:
        lengths = keep[:, image].sum(dim=1)
        logits = torch.empty(len(keep), len(model.answers), device=keep.device, dtype=same_text.dtype)
        for length in lengths.unique():
            part = (lengths == length).nonzero()[:, 0]
            logits[part] = answers(keep[part], rows[part]).to(logits.dtype)
        return logits

    return run


@torch.no_grad()
def whole_image(model: CLIPMapper, pixels: Tensor, mask: Tensor) -> Tensor:
    """Returns what the mapper makes of whole images [B, 3, H, W] before they meet a text."""
    return model.mapper.begin("image", model.image_states(model.clip.image_tokens(pixels)), mask)


@torch.no_grad()
def whole_text(model: CLIPMapper, ids: Tensor, mask: Tensor) -> Tensor:
    """Returns what the mapper makes of whole texts [B, T] before they meet an image."""
    return model.mapper.begin("text", model.text_states(model.clip.text_tokens(ids)), mask)


def figures(logits: Tensor, probabilities: Tensor, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Soft accuracy of the likeliest of the answers [N, answers], probability of `labels` [N]."""
    return {
        "accuracy": soft_accuracy(logits, scores),
        "probability": probabilities.gather(1, labels[:, None])[:, 0],
    }


def image_states(clip: FrozenCLIP, pixels: Tensor, removal: Removal) -> Tokens:
    """CLIP's image tokens before the last norm.

    A patch that is left out takes its position along, so that a mask and a shorter sequence are the same.
    """
    visual = clip.model.visual
    whole, other = visual._embeds(pixels), None
    if removal not in SHORTER:
        other = visual._embeds(_filled(clip, pixels, removal))
    return lambda batch: visual.transformer(_left(whole, other, batch))


def _filled(clip: FrozenCLIP, pixels: Tensor, removal: Removal) -> Tensor:
    """Returns what removed patches show; of "mask_token" CLIP embeds the position alone (its convolution has no bias)."""
    if removal == "mask_token":
        return torch.zeros_like(pixels)
    if removal not in ("mean", "zero", "blur"):
        raise unknown("removal of patches", removal, get_args(Removal))
    mean, std = (pixels.new_tensor(clip.preprocess_config[name])[:, None, None] for name in ("mean", "std"))
    return (filler(pixels * std + mean, removal) - mean) / std


def word_states(clip: FrozenCLIP, ids: Tensor, removal: Removal) -> Tokens:
    """CLIP's text tokens after the last norm.

    Words that are dropped close up; those that attention may not read leave their positions empty. Raises ValueError for a
    removal that words do not have.
    """
    if removal not in WORDS:
        raise unknown("removal of words", removal, WORDS)
    tower, length = text_tower(clip.model), ids.shape[1]
    words, positions = tower.token_embedding(ids), tower.positional_embedding[:length]

    def encoded(x: Tensor) -> Tensor:
        causal = tower.attn_mask[: x.shape[1], : x.shape[1]]
        return tower.ln_final(tower.transformer(x, attn_mask=causal))

    if removal == "drop":
        return lambda batch: encoded(_left(words, None, batch) + positions[: batch.length])
    other = None if removal == "attention_mask" else (_stand_in(clip, removal) + positions).expand_as(words)
    return lambda batch: encoded(_left(words + positions, other, batch))


def _stand_in(clip: FrozenCLIP, removal: Removal) -> Tensor:
    """The embedding [D] in the place of a removed word: of BLANK, zero, or the mean of the vocabulary."""
    embedding = text_tower(clip.model).token_embedding.weight
    if removal == "zero":
        return torch.zeros_like(embedding[0])
    if removal == "mean":
        return embedding.mean(dim=0)
    return embedding[clip.tokenize([BLANK])[0][0, 1]]


def _left(whole: Tensor, other: Tensor | None, batch: Perturbed) -> Tensor:
    """Embeddings of what is kept, or with those of `other` where something is removed."""
    if other is None:
        return drop(whole[batch.rows], batch.keep, batch.length)
    return whole[batch.rows].where(batch.keep[..., None], other[batch.rows])
