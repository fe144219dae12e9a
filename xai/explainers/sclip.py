"""SCLIP (Wang et al. 2024) and ClearCLIP (Lan et al. 2024): the last attention looks at what is like the patch itself."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.dense import alike, attended, compared, image_tower, shown
from xai.recording.recording import Recording, Score


def sclip(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Reads patches after a last layer whose attention is softmax(q qᵀ / √d) + softmax(k kᵀ / √d).

    Skip connection and feed-forward stay as they are.

    Args:
        recording: one forward pass of CLIP.
        target: `similarity()`, [B].

    Returns:
        Scores [B, T]: the similarity that an image of this patch's embedding would have. Words have 0.

    Raises:
        ValueError: another model, or an attention that does not show its queries, keys and values.

    Source:
        Wang et al. 2024 (ECCV).
    """
    tower = image_tower(recording, "sclip")
    event = tower[1][-1].event
    qkv = shown(event)
    states = tower[0].after(event.Y.detach(), attended(event, alike(qkv.query) + alike(qkv.key)))
    return compared(recording, target, tower, states)


def clearclip(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Reads patches after a last attention softmax(q qᵀ / √d), without skip connection and feed-forward.

    Args:
        recording: one forward pass of CLIP.
        target: `similarity()`, [B].

    Returns:
        Scores [B, T], as `sclip`.

    Raises:
        ValueError: as `sclip`.

    Source:
        Lan et al. 2024 (ECCV).
    """
    tower = image_tower(recording, "clearclip")
    event = tower[1][-1].event
    return compared(recording, target, tower, attended(event, alike(shown(event).query)))
