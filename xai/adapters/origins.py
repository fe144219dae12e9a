"""Which token each entry of a tensor belongs to: every tensor of a pass has a companion of the same shape that says it.

A companion holds tokens' numbers (tokens.py), 0 where an entry is of no token (a constant, a position).
Where data is moved, so is the companion; where numbers are computed, the tokens of the operands stay with them.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from xai.adapters.operands import is_suffix, replaced, split_equation, stripped, tensors
from xai.adapters.operations import CHOOSING, CREATING, MORE_MOVES, PRODUCTS, REDUCING, SAME, SPATIAL
from xai.adapters.tokens import (
    CLASH,
    GIVEN,
    GRIDS,
    IMAGE,
    LEARNED,
    Source,
    cells_under,
    grid_of,
    lean,
    met,
    own_tokens,
    patch_order,
    patches_in,
    rank_of,
    source_of,
)
from xai.lrp.operations import MOVES
from xai.recording.places import samples_of

_ARGUMENTS = {  # in their order, of poolings and of convolutions
    False: ("input", "kernel_size", "stride", "padding"),
    True: ("input", "weight", "bias", "stride", "padding", "dilation"),
}


class Origins:
    """The companions of all tensors alive."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.sources: list[Source] = []
        self.seeds: list[Source] = []  # of the arguments
        self.table = WeakIdKeyDictionary()
        self.learned = WeakIdKeyDictionary()
        self.chosen = WeakIdKeyDictionary()  # indices that depend on what the model computes
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim():
                self.learned[tensor] = True
        self.samples = samples_of(inputs)
        for name, value in inputs.items():
            self._seed(name, value, inputs, getattr(model, "config", None))
        self.seeds = self.sources[:]

    def _seed(self, name: str, value: Any, inputs: Mapping[str, Any], config: Any) -> None:
        """Integers [B, T], but for masks, are tokens; numbers [B, T, D] are too; images are their pixels or patches."""
        grids = inputs.get(GRIDS.get(name, ""))
        if not isinstance(value, Tensor) or value.dtype == torch.bool or "mask" in name:
            return
        if value.dim() == 2 and not value.is_floating_point():
            self.table[value] = self._new(Source(GIVEN, name), value.shape[1:], value).expand(value.shape)
        elif value.dim() == 3 and value.is_floating_point():
            source = Source(IMAGE, name, grid_of(inputs)) if patches_in(inputs) else Source(GIVEN, name)
            self.table[value] = self._new(source, value.shape[1:2], value)[:, None].expand(value.shape)
        elif (images := self._images(value)) and value.is_floating_point():
            size = (value.shape[-2], value.shape[-1])
            tokens = [self._new(Source(IMAGE, name, size, n), size, value) for n in range(images)]
            self.table[value] = torch.stack(tokens)[:, None].expand(value.shape)
        elif value.dim() == 2 and grids is not None:
            merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1)
            flat = [
                self._new(Source(IMAGE, name, grid, n), order.shape, value)[order.to(value.device)]
                for n, (order, grid) in enumerate(patch_order(grids, merge))
            ]
            self.table[value] = torch.cat(flat)[:, None].expand(value.shape)

    def _images(self, value: Tensor) -> int:
        """Images of each sample in [B, C, H, W], [images, C, H, W] or [B, images, C, H, W]; 0 if it cannot be told whose."""
        if value.dim() == 4:
            return len(value) if self.samples == 1 else 1
        return value.shape[1] if value.dim() == 5 and 1 in value.shape[:2] else 0

    def _new(self, source: Source, shape: Any, like: Tensor) -> Tensor:
        self.sources.append(source)
        first = source.rank << 48 | (len(self.sources) - 1) << 32
        return first + torch.arange(math.prod(shape), device=like.device).reshape(tuple(shape))

    def of(self, tensor: Any) -> Tensor | None:
        """A tensor's companion; None for one that is of no token at all."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor not in self.table and tensor in self.learned:
            rows = tensor.shape[:-1]
            self.table[tensor] = self._new(Source(LEARNED, ""), rows, tensor)[..., None].expand(tensor.shape)
        return self.table.get(tensor)

    def rows(self, tensor: Tensor) -> Tensor | None:
        """Tokens [..., T] of a tensor [..., T, D]."""
        tokens = self.of(tensor)
        return None if tokens is None or tokens.dim() < 2 or not tokens.numel() else lean(tokens).amax(dim=-1)

    def columns(self, tensor: Tensor) -> Tensor | None:
        """Tokens [..., T] of a tensor [..., D, T]."""
        tokens = self.of(tensor)
        return None if tokens is None or tokens.dim() < 2 or not tokens.numel() else tokens.amax(dim=-2)

    def _merged(self, x: Tensor) -> Tensor | None:
        """As `rows`; rows that are each of several tokens, as of patches laid side by side, are new tokens made from those."""
        tokens = self.of(x)
        if tokens is None or tokens.dim() < 2 or not tokens.numel() or lean(tokens).shape[-1] == 1:
            return self.rows(x)
        ranks, some = rank_of(tokens), tokens.amax(dim=-1, keepdim=True)
        if bool(((tokens == 0) | (tokens == some)).all()) or bool((ranks == LEARNED).any() | (ranks == CLASH).any()):
            return self.rows(x)
        if (own := own_tokens(tokens)) is not None:
            return own
        kinds, index = torch.unique(tokens.flatten(0, -2).sort(dim=-1).values, dim=0, return_inverse=True)
        members = [
            sorted(set(kind) - {0}) for kind in kinds.tolist()
        ]  # beside a border there may be padding, of no token
        source = Source(
            IMAGE if int(ranks.masked_fill(tokens == 0, IMAGE).min()) == IMAGE else GIVEN,
            self.sources[source_of(members[-1][0])].argument,
            members=lambda: members,
        )
        made = self._new(source, (len(members),), x) * torch.tensor([bool(kind) for kind in members], device=x.device)
        return made[index].reshape(tokens.shape[:-1])

    def set(self, tensor: Tensor, tokens: Tensor | None) -> None:
        if tokens is not None and tokens.shape == tensor.shape:
            self.table[tensor] = tokens
        elif tensor in self.table:
            del self.table[tensor]

    def follow(self, name: str, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """Gives the results of a call their companions; none where it is called in a way that no rule here knows."""
        try:
            self._follow(name, func, args, kwargs, result)
        except (RuntimeError, IndexError, TypeError, ValueError, KeyError, StopIteration):
            for part in tensors((result,) if name != "setitem" else args[:1]):
                self.set(part, None)

    def _follow(self, name: str, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        if name == "setitem":
            self._written(args)
            return
        parts = list(tensors((result,)))
        if not parts or name.startswith("new_") or name in CREATING:
            return
        if (name in CHOOSING and args[0].is_floating_point()) or self._is_chosen(args, kwargs):
            self.chosen |= {part: True for part in parts if part.dtype == torch.int64}
        if name in SAME:
            self.set(parts[0], self.of(args[0]))
        elif name == "detach":
            self.set(parts[0], self._cut_off(args[0]))
        elif name in MOVES or name in MORE_MOVES:
            moved = self._moved(name, func, args, kwargs)
            for part, tokens in zip(parts, [None] * len(parts) if moved is None else tensors((moved,)), strict=False):
                self.set(part, tokens)
        else:
            self.set(parts[0], self._computed(name, args, kwargs, parts[0]))

    def _cut_off(self, x: Tensor) -> Tensor | None:
        """Chosen tokens are constants once they are detached, and each row then one of its own, as of a parameter."""
        tokens = self.of(x)
        if tokens is None or x.dim() < 3 or not bool((rank_of(tokens) == CLASH).any()):
            return tokens
        return self._new(Source(LEARNED, ""), x.shape[1:-1], x)[..., None].expand(x.shape)

    def _computed(self, name: str, args: tuple, kwargs: dict, y: Tensor) -> Tensor | None:
        if name in ("linear", "scaled_dot_product_attention", "addmm"):
            x = args[1] if name == "addmm" else args[0] if args else kwargs["input" if "input" in kwargs else "query"]
            return _along(self._merged(x), y)
        if name == "multi_head_attention_forward":
            return _along(self.rows(args[0] if args else kwargs["query"]), y)
        if name == "deformable_attention":
            weights = self.rows(args[6])
            return None if weights is None else _along(weights.flatten(2).amax(dim=2), y)
        if name in PRODUCTS:
            return self._product(name, [*args, *kwargs.values()], y)
        if name == "embedding":
            index = self.of(args[0] if args else kwargs["input"])
            return None if index is None else _along(index, y)
        if name.startswith("conv") or name in SPATIAL:
            call = {**dict(zip(_ARGUMENTS[name.startswith("conv")], args, strict=False)), **kwargs}
            return self._cells(call, y)
        if name in REDUCING and args and (tokens := self.of(args[0])) is not None:
            if tokens.dim() != y.dim():
                return None
            axes = [axis for axis in range(y.dim()) if tokens.shape[axis] != y.shape[axis]]
            return tokens.amax(dim=axes, keepdim=True) if axes else tokens
        return self._elementwise([*args, *kwargs.values()], y)

    def _product(self, name: str, args: list[Any], y: Tensor) -> Tensor | None:
        """Rows of a product are those of its left operand."""
        if name != "einsum":
            return _along(self.rows(list(tensors(args))[-2]), y)
        left, out = split_equation(args)
        tokens = self.of(next(tensors(args[1:])))
        if tokens is None or left is None:
            return None
        gone = [axis for axis, letter in enumerate(left) if letter not in out]
        tokens = tokens.amax(dim=gone) if gone else tokens
        kept = [letter for letter in left if letter in out]
        tokens = tokens.permute([kept.index(letter) for letter in out if letter in kept])
        return tokens[tuple(slice(None) if letter in kept else None for letter in out)].expand(y.shape)

    def _cells(self, call: Mapping[str, Any], y: Tensor) -> Tensor | None:
        """New tokens, for each cell of a grid, made from the cells under it; pixels are no tokens."""
        x = call["input"]
        tokens = self.of(x)
        if tokens is None:
            return None
        if x.shape[2:] == y.shape[2:]:
            return tokens.amax(dim=1, keepdim=True).expand(y.shape)
        if y.shape[2:].numel() == 1 and bool(
            (tokens == tokens.flatten(1)[:, 0].reshape(-1, *[1] * (x.dim() - 1))).all()
        ):
            return (
                tokens.flatten(1)[:, 0].reshape(-1, *[1] * (y.dim() - 1)).expand(y.shape)
            )  # each is a patch by itself
        numbers = source_of(tokens.flatten(1).amax(dim=1)).tolist()
        if len(set(numbers)) > 1:  # images of one sample
            return torch.cat(
                [self._cells_of(part[None], number, call, y) for part, number in zip(tokens, numbers, strict=True)]
            )
        return self._cells_of(tokens, numbers[0], call, y).expand(y.shape)

    def _cells_of(self, tokens: Tensor, number: int, call: Mapping[str, Any], y: Tensor) -> Tensor:
        source = self.sources[number]
        size = (y.shape[2], y.shape[3]) if y.dim() == 4 and source.rank == IMAGE else None
        members = (
            None
            if size is None or source in self.seeds
            else partial(cells_under, tokens[:1].amax(dim=1, keepdim=True), call)
        )
        cells = Source(source.rank, source.argument, size, source.image, members)
        return self._new(cells, y.shape[2:], y).expand(1, *y.shape[1:])

    def _elementwise(self, operands: list[Any], y: Tensor) -> Tensor | None:
        """An operand that is repeated along the tokens, such as a bias, does not say which token it is."""
        if y.dtype == torch.bool or not y.dim():
            return None
        found: Tensor | None = None
        for x in tensors(operands):
            tokens = self.of(x)
            if tokens is None or (stripped(x.shape) != stripped(y.shape) and not is_suffix(x.shape, y.shape)):
                continue
            found = lean(tokens) if found is None else met(found, lean(tokens))
        fits = found is not None and found.dim() <= y.dim() and torch.broadcast_shapes(found.shape, y.shape) == y.shape
        return found.expand(y.shape) if found is not None and fits else None

    def _moved(self, name: str, func: Any, args: tuple, kwargs: dict) -> Any:
        """The same move of the companions; indices and masks stay what they are."""
        data = self._data(name, args)
        if all(self.of(x) is None for x in data):
            return None
        known = {id(x): self._or_zeros(x) for x in data}
        given = replaced(args, known)
        if name in ("view", "reshape"):
            return given[0].reshape(*given[1:], **kwargs)
        if name in ("max", "min", "amax", "amin"):
            return None
        if name == "masked_fill":
            return given[0]
        if name == "unfold" and func is F.unfold:  # of floats alone, which hold these numbers exactly
            return func(given[0].double(), *given[1:], **kwargs).long()
        if name == "pad":
            kwargs = {k: (0 if k == "value" else v) for k, v in kwargs.items()}
        moved = func(*given, **kwargs)
        if self._is_chosen(args, kwargs):  # other tokens for every image
            return torch.full_like(moved, CLASH << 48)
        return moved

    def _is_chosen(self, args: tuple, kwargs: dict) -> bool:
        return any(x in self.chosen for x in tensors((*args, *kwargs.values())))

    def _data(self, name: str, args: tuple) -> list[Tensor]:
        if name in ("cat", "stack", "hstack", "vstack"):
            return list(tensors(args))
        if name == "where":
            return [x for x in args[1:] if isinstance(x, Tensor)]
        if name == "masked_scatter":
            return [args[0], args[2]]
        return [args[0]] if args and isinstance(args[0], Tensor) else []

    def _or_zeros(self, x: Tensor) -> Tensor:
        tokens = self.of(x)
        return torch.zeros((), dtype=torch.int64, device=x.device).expand(x.shape) if tokens is None else tokens

    def _written(self, args: tuple) -> None:
        target, index, value = args
        if self.of(target) is None and self.of(value) is None:
            return
        tokens = self._or_zeros(target).clone()
        tokens[index] = self._or_zeros(value) if isinstance(value, Tensor) else 0
        self.set(target, tokens)


def _along(rows: Tensor | None, y: Tensor) -> Tensor | None:
    return None if rows is None or rows.dim() + 1 > y.dim() else rows[..., None].expand(y.shape)
