"""How alike a token is to the one that is read, a baseline without attention and without gradient."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xai.explainers.last_map import last_map
from xai.explainers.states import side_by_side, states
from xai.recording.event import Event
from xai.recording.recording import Recording, Score


def similarity(recording: Recording, target: Score) -> Float[Tensor, "B T T"]:
    """Returns the cosines of the tokens' last states, of which the row is shown that the target reads.

    A token's last state is the sum after its last attention, which every model has on its recording. Two tokens are compared
    where one may be a key of the other: in one stream, and between streams of which one reads the other. The towers of
    a dual encoder read nothing of each other, so that patches are compared with their class token and words with their end
    token: only those does the head project into a space in common. 0 says nothing in common, or not compared.

    Args:
        recording: one forward pass.
        target: from the model's outputs to one number a sample, [B]; of it only the rows that it reads count.

    Returns:
        Map [B, T, T] of values from -1 to 1; a negative one says opposed directions, and nothing of the target's sign.

    Raises:
        ValueError: streams of different widths that read each other, or one without a state; names the module.

    Source:
        None: a baseline.
    """
    last = states(recording)[-1]

    def show(event: Event) -> Tensor:
        queries, keys = (
            side_by_side(recording, event, tokens, last, after_attention) for tokens in (event.queries, event.keys)
        )
        if queries.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"module {event.module!r} reads tokens of width {keys.shape[-1]} into ones of width {queries.shape[-1]}, which "
                "cannot be compared; give another baseline, such as gradient_norm"
            )
        return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT

    return last_map(recording, show)


def after_attention(event: Event) -> Float[Tensor, "B q D"]:
    """Returns what the skip connection carries and what the attention adds to it."""
    return (event.Y + event.Y_out).detach()
