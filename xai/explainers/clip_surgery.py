"""CLIP Surgery (Li et al. 2023): patches along a second path of value-value attention, less what all texts find."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.dense import alike, attended, compared, direction, embedding, image_tower, on_image, shown
from xai.explainers.lens import read_token
from xai.recording.recording import Recording, Score


def clip_surgery(
    recording: Recording,
    target: Score,
    last: int = 6,
    empty: Float[Tensor, " E"] | None = None,
    others: Float[Tensor, "N E"] | None = None,
) -> Float[Tensor, "B T"]:
    """Reads patches that in the last layers took x + W_O softmax(v vᵀ / √d) v, v of the original path, and no feed-forward.

    The class token stays that of the original path. A text has much in common with any other; what patches have of that is
    taken off: with `empty`, F · (T - T_empty); with `others`, F ⊙ T ⊙ w less its mean over T and the others, summed over the
    width, w = softmax(2 F_class · T) over them, divided by its mean. By default it is left in: one image and one text do not
    show it.

    Args:
        recording: one forward pass of CLIP.
        target: `similarity()`, [B].
        last: layers that the second path has; all if there are fewer.
        empty: the embedding of a text without words.
        others: embeddings of other texts, as of other classes.

    Returns:
        Scores [B, T], in units of the similarity. Words have 0.

    Raises:
        ValueError: another model, an attention that does not show its values, or both `empty` and `others`.

    Source:
        Li et al. 2023 (arXiv 2304.05653).
    """
    if last < 1:
        raise ValueError(f"last is {last}; give at least 1")
    if empty is not None and others is not None:
        raise ValueError("give the embedding of an empty text or those of others, not both")

    tower = image_tower(recording, "clip_surgery")
    head, layers = tower
    path = layers[-last:][0].event.Y.detach()
    for event, _ in layers[-last:]:
        path = path + attended(event, alike(shown(event).value))
    read = read_token(recording, target, layers[-1].event)[..., None] > 0
    states = torch.where(read, layers[-1].states.detach(), path)
    if empty is None and others is None:
        return compared(recording, target, tower, states)
    slope = direction(recording, target, tower)
    scale, patches = slope.norm(dim=-1, keepdim=True), head.read(states).detach()
    if empty is not None:
        slope = slope - scale * F.normalize(empty.to(slope), dim=-1)
        return on_image(recording, (patches @ slope[..., None])[..., 0])
    assert others is not None
    more = F.normalize(others.to(slope), dim=-1).expand(len(slope), -1, -1)
    texts = torch.cat([(slope / scale)[:, None], more], dim=1)  # [B, 1 + N, E]
    w = (2 * texts @ embedding(recording, target, tower)[..., None]).softmax(dim=1)
    found = patches @ (texts * w / w.mean(dim=1, keepdim=True)).mT  # [B, q, 1 + N]
    return on_image(recording, scale * (found[..., 0] - found.mean(dim=-1)))
