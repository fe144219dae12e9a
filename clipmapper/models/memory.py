"""The memory of an attention for the tokens that it has read."""

from torch import Tensor

ROOM = 32  # tokens that fit before the memory moves


class Memory:
    """Keys and values [B, H, N, D / H] of the tokens that an attention has read, for tokens that come one by one.

    They lie in a larger tensor, so that what was read is not copied for every new token.
    """

    def __init__(self) -> None:
        self.kept: Tensor | None = None  # keys, then values, [2, B, H, N and room, D / H]
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, the given ones last."""
        start, self.length = self.length, self.length + keys.shape[2]
        if self.kept is None or self.length > self.kept.shape[3]:
            larger = keys.new_empty(2, *keys.shape[:2], self.length + ROOM, keys.shape[3])
            if self.kept is not None:
                larger[:, :, :, :start] = self.kept[:, :, :, :start]
            self.kept = larger
        self.kept[0, :, :, start : self.length], self.kept[1, :, :, start : self.length] = keys, values
        return self.kept[0, :, :, : self.length], self.kept[1, :, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Goes on with these samples of the batch, some perhaps several times."""
        if self.kept is not None:
            self.kept = self.kept[:, rows]
