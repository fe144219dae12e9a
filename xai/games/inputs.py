"""Inputs without some tokens: each one that differs once, in batches of one length."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

WORD = 62  # bits of a mask in one int64


class Perturbed(NamedTuple):
    """Inputs to run together: those of the batch at `rows` [N], each with as many tokens left."""

    rows: Int[Tensor, " N"]
    keep: Bool[Tensor, "N T"]  # False where removed, and at padding
    length: int  # tokens kept in every row


def distinct(
    keep: Bool[Tensor, "*inputs T"], rows: Int[Tensor, "*inputs"], batch_size: int
) -> tuple[list[Perturbed], Int[Tensor, "*inputs"]]:
    """Sorts inputs into batches of one length, every one that differs once.

    Args:
        keep: [..., T], False where removed.
        rows: [...], whose tokens they are.
        batch_size: inputs of a batch at most.

    Returns:
        The batches, by length and row; and which of their inputs, all in order, each one that was given is.
    """
    words = torch.stack([_packed(masks) for masks in keep])  # part by part: words take 8 times the memory of masks
    keys = torch.cat([keep.sum(dim=-1, keepdim=True), rows[..., None], words], dim=-1)
    inputs, places = keys.flatten(0, -2).unique(dim=0, return_inverse=True)
    bits = torch.arange(WORD, device=keep.device)
    masks = (inputs[:, 2:, None] >> bits & 1).bool().flatten(1)[:, : keep.shape[-1]]
    return list(_batches(inputs, masks, batch_size)), places.reshape(rows.shape)


def _packed(masks: Bool[Tensor, "*steps T"]) -> Int[Tensor, "*steps words"]:
    """Packs masks into integers."""
    bits = torch.arange(WORD, device=masks.device)
    padded = F.pad(masks, (0, -masks.shape[-1] % WORD))
    return (padded.unflatten(-1, (-1, WORD)).long() << bits).sum(dim=-1)


def _batches(inputs: Tensor, masks: Tensor, batch_size: int) -> Iterator[Perturbed]:
    """Yields inputs of one length at a time, at most `batch_size`."""
    lengths, counts = inputs[:, 0].unique_consecutive(return_counts=True)
    first = 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        for start in range(first, first + count, batch_size):
            part = slice(start, min(start + batch_size, first + count))
            yield Perturbed(inputs[part, 1], masks[part], length)
        first += count
