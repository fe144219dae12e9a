"""The choice of held-out questions."""

import numpy as np


def hold_out(question_ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (kept, held out) of int64 ids [n], each in row order; `count` of them, or all, are held out.

    The choice depends on the ids alone: neither on their order nor on a random state.
    """
    order = np.argsort(_splitmix64(question_ids), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


def _splitmix64(values: np.ndarray) -> np.ndarray:
    """Scrambled values [n], uint64, all different if the values are (Steele et al. 2014, SplitMix64's finaliser)."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
