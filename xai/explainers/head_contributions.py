"""Gandelsman et al. 2024: CLIP's embedding as a sum of what each head has taken from each token."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai.explainers.dense import Tower, at_read_token, attended, direction, towers
from xai.explainers.lens import read_token
from xai.recording.recording import Recording, Score
from xai.targets import similarity


class Contributions(NamedTuple):
    """Parts of an embedding before it has length 1; all parts of all layers sum to it.

    Attributes:
        heads: what each head of each layer's attention has taken from each token, [B, layers, H, tokens, E].
        biases: of the attentions' output projections, [B, layers, E].
        forward: the feed-forwards, [B, layers, E].
        first: the state of the read token that entered the first layer, [B, E].
        norm: the bias of the last norm, and of the projection if it has one, [B, E].

    Example:
        >>> import torch
        >>> from xai.explainers.head_contributions import Contributions
        >>> parts = [torch.ones(1, 2, 3, 4, 5), torch.ones(1, 2, 5), torch.ones(1, 2, 5), torch.ones(1, 5), torch.ones(1, 5)]
        >>> Contributions(*parts).embedding[0, 0].item()
        30.0
    """

    heads: Float[Tensor, "B L H T E"]
    biases: Float[Tensor, "B L E"]
    forward: Float[Tensor, "B L E"]
    first: Float[Tensor, "B E"]
    norm: Float[Tensor, "B E"]

    @property
    def embedding(self) -> Float[Tensor, "B E"]:
        """Returns the sum of all parts."""
        return self.heads.sum(dim=(1, 2, 3)) + (self.biases + self.forward).sum(dim=1) + self.first + self.norm


def head_contributions(recording: Recording, target: Score, last: int | None = 4) -> Float[Tensor, "B T"]:
    """Sums what the heads of the last layers have taken from each token, as far as it counts for the target.

    Words have what the text's embedding took from them, by the same rule: our generalisation.

    Args:
        recording: one forward pass of CLIP.
        target: `similarity()`, [B].
        last: layers of each tower that count, from the end; all if there are fewer, or None.

    Returns:
        Scores [B, T]; of all layers they and the parts that are of no token sum to the similarity, for each tower.

    Raises:
        ValueError: another model, or an attention that does not show its values.

    Source:
        Gandelsman et al. 2024 (ICLR).
    """
    if last is not None and last < 1:
        raise ValueError(f"last is {last}; give at least 1 or None")
    scores = torch.zeros(recording.mask.shape, dtype=recording.readout.dtype, device=recording.mask.device)
    for name, tower in towers(recording, "head_contributions").items():
        parts = _parts(recording, target, tower)
        taken = parts.heads[:, 0 if last is None else -last :].sum(dim=(1, 2))
        slope = direction(recording, target, tower) / parts.embedding.norm(dim=-1, keepdim=True)
        scores[:, recording.modalities[name]] = (taken @ slope[..., None])[..., 0].to(scores)
    return scores


def contributions(recording: Recording, modality: str = "image", target: Score | None = None) -> Contributions:
    """Returns the parts of an embedding of CLIP.

    Args:
        recording: one forward pass.
        modality: "image" or "text".
        target: whatever is read from the embedding, which tells from which token it is made; None for `similarity()`.

    Returns:
        The parts; of a text those of padding are 0.

    Raises:
        ValueError: as `head_contributions`, or a modality that the pass has not.

    Source:
        Gandelsman et al. 2024 (ICLR), §3.

    Example:
        >>> import torch
        >>> from transformers import CLIPConfig, CLIPModel
        >>> from xai import adapter_for, record
        >>> from xai.explainers.head_contributions import contributions
        >>> tiny = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> vision = dict(**tiny, image_size=32, patch_size=16)
        >>> config = CLIPConfig(text_config=dict(**tiny, vocab_size=9), vision_config=vision, projection_dim=8)
        >>> model = CLIPModel(config)
        >>> with record(model, adapter_for(model)) as recorder:
        ...     out = model(input_ids=torch.tensor([[1, 5, 8]]), pixel_values=torch.rand(1, 3, 32, 32))
        >>> parts = contributions(recorder.recording)
        >>> parts.heads.shape, torch.allclose(parts.embedding / parts.embedding.norm(), out.image_embeds, atol=1e-5)
        (torch.Size([1, 2, 2, 5, 8]), True)
    """
    found = towers(recording, "contributions")
    if modality not in found:
        raise ValueError(f"no {modality!r} whose embedding can be taken apart; the pass has {', '.join(found)}")
    return _parts(recording, target or similarity(), found[modality])


def _parts(recording: Recording, target: Score, tower: Tower) -> Contributions:
    head, layers = tower
    norm = head.norm
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError(f"the last norm is a {type(norm).__name__}; an embedding is taken apart through a LayerNorm")
    last = at_read_token(recording, target, tower, layers[-1].states)
    spread = (last.var(dim=-1, unbiased=False) + norm.eps).sqrt()
    gain = 1 if norm.weight is None else norm.weight.detach()
    zero = head.project(torch.zeros_like(last)).detach()

    def projected(part: Tensor) -> Tensor:
        """The norm with its spread as a constant, and the projection: linear in the part [B, ..., D]."""
        centred = (part - part.mean(dim=-1, keepdim=True)) * gain / spread.view(-1, *[1] * (part.dim() - 1))
        return head.project(centred).detach() - zero[(slice(None), *[None] * (part.dim() - 2))]

    heads, biases, forward = [], [], []
    for event, after in layers:
        attended(event, None)  # refuses what is no linear projection of values
        assert event.qkv is not None and event.qkv.projection is not None
        read = read_token(recording, target, event).to(after.dtype)
        A, value = (t.detach().to(after.dtype) for t in (event.A, event.qkv.value))
        mixed = torch.einsum("bq,bhqk,bhkd->bhkd", read, A, value)
        weight = event.qkv.projection.detach().unflatten(1, (value.shape[1], -1))
        heads.append(projected(torch.einsum("bhkd,ohd->bhko", mixed, weight)))
        bias = torch.zeros_like(last) if event.qkv.bias is None else event.qkv.bias.detach().expand_as(last)
        biases.append(projected(bias))
        change = after.detach() - event.Y.detach() - event.Y_out.detach()
        forward.append(projected(at_read_token(recording, target, tower, change)))
    first = at_read_token(recording, target, tower, layers[0].event.Y)
    constant = head.project(
        torch.zeros_like(last) if norm.bias is None else norm.bias.detach().expand_as(last)
    ).detach()
    return Contributions(
        torch.stack(heads, dim=1), torch.stack(biases, dim=1), torch.stack(forward, dim=1), projected(first), constant
    )
