"""The streams that attentions join, and the modalities in them: which tokens come from which argument, or from other tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xai.adapters.skips import Attention
from xai.adapters.tokens import GIVEN, IMAGE, LEARNED, POSITION, Doubt, Source, rank_of, source_of, without_image
from xai.adapters.windows import positions_of
from xai.recording.adapter import Stream
from xai.recording.axis import Link, Windows


@dataclass(eq=False)
class Modality:
    """Tokens of one source, or made from those of one modality. `special` are those that come from parameters."""

    name: str
    source: Source | None
    places: list[int] = field(default_factory=list)  # in its stream
    special: list[bool] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # in the source, of those that are not special
    causal: bool = False
    read: bool = False  # by another stream that it does not read, as an encoder is by its decoder
    origin: "Modality | None" = None  # what its tokens are made from
    parents: list[list[int]] = field(default_factory=list)  # of each token, which of the origin's it is made from

    def add(self, place: int, special: bool = False, parents: Sequence[int] = ()) -> None:
        self.places.append(place)
        self.special.append(special)
        self.parents.append(list(parents))

    @property
    def start(self) -> "Modality":
        """Itself, or what its tokens are made from in the end."""
        return self if self.origin is None else self.origin.start

    def order(self) -> None:
        """Puts the cells of a grid row by row, as a model may have them in blocks."""
        if self.source is None or self.source.grid is None or self.positions == sorted(self.positions):
            return
        cells = [index for index, special in enumerate(self.special) if not special]
        index = list(range(len(self.special)))
        for at, cell in zip(cells, sorted(range(len(cells)), key=self.positions.__getitem__), strict=True):
            index[at] = cells[cell]
        self.places = [self.places[i] for i in index]
        self.parents = [self.parents[i] for i in index]
        self.positions.sort()

    @cached_property
    def link(self) -> Link | None:
        """Of tokens made from others, once they are all there."""
        if self.origin is None:
            return None
        weights = torch.zeros(len(self.special), len(self.origin.special))
        for token, parents in enumerate(self.parents):
            weights[token, parents] = 1 / max(len(parents), 1)
        return Link(self.origin.name, weights)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns, where the tokens are all cells of a grid, row by row."""
        if self.source is None or self.source.grid is None:
            return None
        columns = self.source.grid[1]
        places = [divmod(position, columns) for position in self.positions]
        rows, across = (sorted(set(axis)) for axis in zip(*places, strict=True))
        whole = places == [(row, column) for row in rows for column in across]
        return (len(rows), len(across)) if whole else None


class Streams:
    """The streams of some attentions, each a tuple of modalities that stand side by side."""

    def __init__(self, found: list[Attention], sources: list[Source]) -> None:
        self.sources = sources
        self.streams: list[tuple[Tensor, list[Modality]]] = []
        self.of: list[tuple[int, int]] = []  # the numbers of queries' and keys' stream, of each attention
        self.members: dict[int, list[list[int]]] = {}  # of each source, the tokens that its tokens are made from
        self.holders: dict[int, tuple[Modality, int]] = {}  # of each token, where it was last
        self.before_images: set[int] = set()  # learned tokens of which each image has one
        self.views: list[
            tuple[Tensor, list[Modality]]
        ] = []  # some modalities of streams, or of several; -1 is the first
        self.alone: dict[
            int, int
        ] = {}  # learned tokens that are all queries of some attention -> the first that has them
        self.windows: list[Windows | None] = []  # of each attention
        for number, one in enumerate(found):
            if bool((rank_of(one.queries) == LEARNED).all()):
                self.alone |= {token: number for token in one.queries.tolist() if token not in self.alone}
        for one in found:
            where = f"module {one.places.module!r}"
            q, k = self._number(one.queries, where), self._number(one.keys, where)
            self.of.append((q, k))
            self.windows.append(self._in_order_of(k, one))
            for modality in self.parts(q):
                modality.causal |= one.causal and q == k
        for q, k in self.of:
            for modality in self.parts(k):
                modality.read |= q != k and (k, q) not in self.of and k not in self.related(q)

    @property
    def modalities(self) -> list[Modality]:
        return [modality for _, modalities in self.streams for modality in modalities]

    def parts(self, number: int) -> list[Modality]:
        """The modalities of a stream, or of a view."""
        return (self.streams[number] if number >= 0 else self.views[-1 - number])[1]

    def name(self, number: int) -> Stream:
        return tuple(modality.name for modality in self.parts(number))

    def related(self, number: int) -> set[int]:
        """The other streams and views that share a modality with it."""
        own = {id(modality) for modality in self.parts(number)}
        others = set(range(-len(self.views), len(self.streams))) - {number}
        return {other for other in others if own & {id(modality) for modality in self.parts(other)}}

    def _number(self, tokens: Tensor, where: str) -> int:
        for number, (others, _) in enumerate(self.streams):
            if torch.equal(tokens, others):
                return number
        if (view := self._view(tokens)) is not None:
            return view
        parts = self._parts(tokens, where)
        self.streams.append((tokens, parts))
        for part in parts:
            for index, place in enumerate(part.places):
                self.holders[int(tokens[place])] = part, index
                if rank_of(tokens[place]) == LEARNED and (plain := without_image(int(tokens[place]))) != tokens[place]:
                    self.before_images.add(plain)
        return len(self.streams) - 1

    def _view(self, tokens: Tensor) -> int | None:
        """The view that has these tokens: whole modalities side by side, among them one of learned tokens that ask alone.

        So class attention reads the class token and the patches, and a perceiver its latents and the image.
        """
        held = [self.holders[token][0] for token in tokens.tolist() if token in self.holders]
        inside = {id(modality) for modality in held}
        everything = self.modalities
        members = [modality for modality in everything if id(modality) in inside]
        if len(held) != len(tokens) or not any(m.source is None and m.origin is None for m in members):
            return None
        first = next(n for n, modality in enumerate(everything) if modality is members[0])
        neighbours = all(a is b for a, b in zip(members, everything[first:], strict=False))
        ordered = [(stream, parts) for stream, parts in self.streams if any(part in members for part in parts)]
        plain = all([place for part in parts for place in part.places] == list(range(len(s))) for s, parts in ordered)
        if not neighbours or not plain or sum(len(m.special) for m in members) != len(tokens):
            return None
        axis = torch.cat([stream[part.places] for stream, parts in ordered for part in parts if part in members])
        for number, (others, _) in enumerate(self.views):
            if torch.equal(axis, others):
                return -1 - number
        self.views.append((axis, members))
        return -len(self.views)

    def _in_order_of(self, number: int, one: Attention) -> Windows | None:
        """Which key each is on the axis, where an attention has those of a view in another order."""
        q, k = len(one.queries), len(one.keys)
        if number >= 0 or torch.equal(axis := self.views[-1 - number][0], one.keys):
            return one.windows
        windows = one.windows or Windows((torch.arange(q)[None],), (torch.arange(k)[None],), (q, k))
        moved = positions_of(one.keys, axis)
        keys = tuple(torch.where(places < 0, places, moved[places]) for places in windows.keys)
        return replace(windows, keys=keys)

    def origins(self, number: int) -> set[int]:
        """The streams whose tokens those of a stream are made from."""
        parents = [part.origin for part in self.parts(number) if part.origin is not None]
        return {
            n
            for n, (_, parts) in enumerate(self.streams)
            if any(part is parent for part in parts for parent in parents)
        }

    def _parts(self, tokens: Tensor, where: str) -> list[Modality]:
        """Tokens by source, or by what they are made from. Those of parameters join what follows, the last what is before."""
        parts: dict[Any, Modality] = {}
        part, waiting = None, list[int]()
        for place, token in enumerate(tokens.tolist()):
            parents = self._parents(token, where)
            source = self.sources[source_of(token)] if token >> 48 >= GIVEN else None
            if not parents and source is None and token in self.before_images:
                raise Doubt(f"{where}: among its tokens is a learned one that stands before several images")
            if not parents and source is None and token in self.alone:
                asking = self.alone[token]
                if asking not in parts:
                    parts[asking] = Modality(self._free("queries", parts), None)
                parts[asking].add(place, special=True)
                continue
            if not parents and source is None:
                if part is not None and part.origin is not None:  # such as the end of a row of patches
                    part.add(place, special=True)
                else:
                    waiting.append(place)
                continue
            origin = parents[0][0] if parents else None
            key = source if origin is None else id(origin)
            if key not in parts and origin is not None:
                name = f"{origin.start.name} tokens"
                parts[key] = Modality(self._free(name, parts), None, origin=origin)
            elif key not in parts and source is not None:
                parts[key] = Modality(self._named(source, parts), source)
            part = parts[key]
            for before in waiting:
                part.add(before, special=True)
            part.add(place, parents=[index for _, index in parents])
            part.positions += [token & POSITION] if origin is None else []
            waiting = []
        if part is None and waiting:
            part = parts[None] = Modality(self._free("queries", parts), None)
        if part is not None:
            for after in waiting:
                part.add(after, special=True)
        for modality in parts.values():
            modality.order()
        return list(parts.values())

    def _parents(self, token: int, where: str) -> list[tuple[Modality, int]]:
        """Where a token, or all that it is made from, was before: places in one modality. None of a new token."""
        if token in self.holders:
            return [self.holders[token]]
        source = source_of(token)
        if token and source not in self.members and (members := self.sources[source].members) is not None:
            if (cells := members()) is None:
                raise Doubt(
                    f"{where}: its tokens are cells of a grid that was scaled (interpolated, or pooled to a size), so it "
                    "cannot be told which cells each is made from"
                )
            self.members[source] = cells
        under = self.members[source][token & POSITION] if source in self.members else []
        parents = [parent for member in under for parent in self._parents(member, where)]
        if len({id(modality) for modality, _ in parents}) > 1:
            raise Doubt(f"{where}: a token is made from those of {' and '.join(sorted({m.name for m, _ in parents}))}")
        return parents

    def _named(self, source: Source, parts: dict[Any, Modality]) -> str:
        argument = source.argument
        if argument.endswith("videos"):
            return self._free("frame", parts)
        if source.rank == IMAGE or argument.startswith("pixel"):
            return self._free("image", parts)
        if argument.startswith(("decoder_", "labels")):
            return self._free("decoder", parts)
        if argument.startswith("visual_"):
            return self._free("regions", parts)
        if argument.endswith(("ids", "inputs_embeds", "text", "tokens")):
            return self._free("text", parts)
        return self._free(argument, parts)

    def _free(self, name: str, parts: dict[Any, Modality]) -> str:
        used = {modality.name for modality in (*self.modalities, *parts.values())}
        number = next(n for n in range(1, len(used) + 2) if (name if n == 1 else f"{name} {n}") not in used)
        return name if number == 1 else f"{name} {number}"
