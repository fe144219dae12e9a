"""MaskCLIP (Zhou et al. 2022): each patch by its own value in the last attention, compared with the text."""

from jaxtyping import Float
from torch import Tensor

from xai.explainers.dense import attended, compared, image_tower
from xai.recording.recording import Recording, Score


def maskclip(recording: Recording, target: Score) -> Float[Tensor, "B T"]:
    """Reads W_O v of the last attention by CLIP's last norm and projection, without skip connection and feed-forward.

    Args:
        recording: one forward pass of CLIP.
        target: `similarity()`, [B].

    Returns:
        Scores [B, T]: the similarity that an image of this patch's embedding would have. Words have 0.

    Raises:
        ValueError: another model, or an attention that does not show its values.

    Source:
        Zhou et al. 2022.
    """
    tower = image_tower(recording, "maskclip")
    return compared(recording, target, tower, attended(tower[1][-1].event, None))
