"""AtMan: what the target loses when all attentions turn away from a token."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xai.explainers.states import embeddings
from xai.games.game import Game
from xai.recording.axis import index_of
from xai.recording.recording import Recording, Score


def atman(recording: Recording, target: Score, factor: float = 0.9, likeness: float = 0.7) -> Float[Tensor, "B T"]:
    """Computes s_i = log p - log p(i suppressed), one run of the model for each token, with nothing removed.

    In every attention the score of each query for token i, counted from the least score of the query's row, is multiplied by
    1 - factor before the softmax. Tokens of its modality whose embeddings are like its own are suppressed with it. The least
    score is that of the keys which the query attends to at all; the authors count those that are masked, too.

    Args:
        recording: one forward pass, or one whose rows share its samples.
        target: from the model's outputs to one number a sample, [B]. The logarithm is of its probability where it knows one;
            where not, s_i is the difference of the target itself.
        factor: more than 0, and at most 1, by which a token has the least score of each row.
        likeness: the cosine of two embeddings, as they enter the first attention, from which on they are suppressed together;
            1 for each token by itself.

    Returns:
        Scores [B, T] of content tokens; negative ones speak against the target.

    Raises:
        ValueError: a recording that cannot run its model again, a factor that is not more than 0 and at most 1, tokens that no
            attention has as queries, or attentions in windows, at sampled points, or by probabilities that are mixed.

    Source:
        Deiseroth et al. 2023.
    """
    suppressed = recording.suppressed
    if suppressed is None:
        raise ValueError("this recording cannot run its model with tokens suppressed; it was not made by `record`")
    game = Game(replace(recording, without=lambda of, goal: suppressed(of, goal, factor)), target)
    content = recording.mask & ~recording.special
    if recording.turns is not None:
        content = recording.turns.any(content)
    groups = together(recording, game.rows[:, 0], content, likeness)
    samples, tokens = (content & groups.any(dim=-1)).nonzero().unbind(dim=1)
    values = torch.cat([game.whole.to(content.device), game(~groups[samples, tokens], samples)])
    if getattr(game.target, "probability", None) is not None:
        values = values.clamp(min=torch.finfo(values.dtype).tiny).log()
    loss = values[: len(content)][samples] - values[len(content) :]
    scores = torch.zeros(recording.mask.shape, dtype=torch.float64, device=content.device)
    for sample in range(len(content)):
        rows, own = game.rows_of(sample).to(content.device), samples == sample
        scores[rows[:, None], tokens[own]] = loss[own, : len(rows)].mT
    return scores * recording.mask


def together(
    recording: Recording, rows: Tensor, content: Bool[Tensor, "samples T"], likeness: float
) -> Bool[Tensor, "samples T T"]:
    """Finds which tokens are suppressed with each: itself, and the content of its modality that is like it."""
    groups = torch.zeros(*content.shape, content.shape[1], dtype=torch.bool, device=content.device)
    for name, vectors in embeddings(recording).items():
        where = index_of(recording.inputs[name]).to(content.device)
        units = torch.nn.functional.normalize(vectors[rows.to(vectors.device)].double(), dim=-1)
        alike = (units @ units.mT >= likeness) | torch.eye(len(where), dtype=torch.bool, device=content.device)
        own = content[:, where]
        groups[:, where[:, None], where] = alike & own[:, :, None] & own[:, None]
    return groups
