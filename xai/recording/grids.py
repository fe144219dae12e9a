"""Grids in which tokens lie that are made from the cells of others."""

import torch
from torch import Tensor

from xai.recording.recording import Recording


def grid_of(recording: Recording, name: str) -> tuple[int, int] | None:
    """Rows and columns of a modality's tokens that are not special, row by row; None if they lie in no grid.

    Tokens that are made from others lie in one if each is made from a block of the cells of a grid.
    """
    if name in recording.grids or name not in recording.links:
        return recording.grids.get(name)
    link = recording.links[name]
    grid = recording.grids.get(link.origin)
    origin, tokens = recording.modalities[link.origin], recording.modalities[name]
    cells, real = ~recording.special[0, origin], ~recording.special[0, tokens]
    weights = link.weights[real][:, cells].double().cpu()
    if grid is None or not len(weights) or not torch.allclose(weights.sum(dim=1), torch.ones(len(weights)).double()):
        return None
    rows = torch.arange(grid[0]).repeat_interleave(grid[1]).double()
    columns = torch.arange(grid[1]).repeat(grid[0]).double()
    down, across = (_ranks(weights @ axis) for axis in (rows, columns))
    count = int(down.max()) + 1, int(across.max()) + 1
    return count if torch.equal(down * count[1] + across, torch.arange(len(weights))) else None


def _ranks(values: Tensor) -> Tensor:
    return (values * 1e6).round().unique(return_inverse=True)[1]
