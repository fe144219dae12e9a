"""What the recorder must know of a model family: a small table, never a change of the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xai.recording.axis import Link, Windows
from xai.recording.head import Head
from xai.recording.places import Place, Places

Stream = tuple[str, ...]  # modalities that share one sequence: one after the other, unless the layout says their places


@dataclass(frozen=True)
class Site:
    """Where one attention happens. A module that is called several times stands in several sites, in that order.

    `module` computes exactly one attention a call. The first argument of `residual` is what the skip connection
    carries; the (first) output of `output` is what is added to it. With `places` these are calls of functions instead, and
    the names are those of the modules around them. `windows` says which tokens are together, where it is computed in parts.
    """

    module: str
    queries: Stream
    keys: Stream
    residual: str
    output: str
    places: Places | None = None
    windows: Windows | None = None


@dataclass(frozen=True)
class Layout:
    """The joint axis of one call of the model: how many tokens, which of them the head reads, which are padding.

    `special` tokens are no content: class, distillation and register tokens, [CLS], [SEP], start and end, object queries.
    `learned` are those of them that are parameters: they are no padding, even where no token attends to them.
    `grids` says how the others of a modality lie in its image, row by row; they number rows * columns. `places` is for
    streams whose modalities stand inside each other, as an image inside a text: the positions of each in its stream.
    """

    lengths: dict[str, int]  # tokens of each modality, in their order on the joint axis
    readout: dict[str, Tensor]  # [B or 1, tokens]: weights of the rows that the head reads
    mask: dict[str, Tensor]  # [B, tokens]: False at padding; a modality that is absent has none
    special: dict[str, Tensor] = field(default_factory=dict)  # [B or 1, tokens]; a modality that is absent has none
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)  # rows and columns, of image modalities alone
    learned: dict[str, Tensor] = field(default_factory=dict)  # [B or 1, tokens]; a modality that is absent has none
    places: dict[str, Tensor] = field(default_factory=dict)  # [tokens], for all modalities of a stream or for none
    links: dict[str, Link] = field(
        default_factory=dict
    )  # of modalities made from others, in the order of their streams


@dataclass(frozen=True)
class Adapter:
    """Table of a model's attentions.

    Attributes:
        layers: in order of execution; sites of one layer are simultaneous. All sites have places or none has.
        layout: from the arguments of the model's forward by name, and the number of tokens of each stream, to the joint axis
            of that call.
        unread: attentions with which the outputs have nothing to do.
        see_padding: tokens that no real token ever attends to are padding too, beside those that the layout names.
        heads: from the arguments of the model's forward to how the streams end that its outputs are read from, for methods
            that read other states as the last; None leaves it to what the pass of a generative model shows.

    Example:
        >>> from xai import Adapter, Layout, Site
        >>> from xai.recording.adapter import at
        >>> text = ("text",)
        >>> layers = tuple((Site(f"layers.{i}", text, text, f"layers.{i}", f"layers.{i}.out"),) for i in range(2))
        >>> def layout(inputs, tokens):  # the head reads token 0; padding has the number 0
        ...     return Layout({"text": tokens[text]}, {"text": at(0, tokens[text])}, {"text": inputs["ids"] > 0})
        >>> [site.module for site in Adapter(layers, layout).sites]
        ['layers.0', 'layers.1']
    """

    layers: tuple[tuple[Site, ...], ...]
    layout: Callable[[Mapping[str, Any], Mapping[Stream, int]], Layout]
    unread: frozenset[Place] = frozenset()
    see_padding: bool = False
    heads: Callable[[Mapping[str, Any]], tuple[Head, ...]] | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(site for layer in self.layers for site in layer)

    @property
    def places(self) -> tuple[Places, ...]:
        return tuple(site.places for site in self.sites if site.places is not None)


def at(position: int | Tensor, length: int) -> Tensor:
    """Read weights [1 or B, length] of a head that reads one token; `position` is an index or one for each sample."""
    index = torch.as_tensor(position).reshape(-1)
    return torch.nn.functional.one_hot(index, length).float()
