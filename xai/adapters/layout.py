"""The layout of a derived adapter: for other arguments of the same structure, which tokens are special, padding, patches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai.adapters.common import text_ends
from xai.adapters.streams import Modality, Streams
from xai.adapters.tokens import GRIDS, PATCHES
from xai.recording.adapter import Layout, Stream
from xai.recording.assemble import RecordingError
from xai.recording.axis import Link
from xai.recording.record import ANEW

MASKS = ("attention_mask", "mask", "padding_mask", "patch_valid")  # of whichever argument has their shape


@dataclass(frozen=True)
class DerivedLayout:
    """The layout of a derived adapter, for any values of arguments of the same structure."""

    streams: tuple[tuple[Stream, tuple[Modality, ...]], ...]
    ends: tuple[int, ...]  # ids that the model's configuration calls start, end, separator
    settled: Mapping[str, int]  # what `settled` said of the arguments
    placeholders: Mapping[
        str, tuple[frozenset[int], tuple[int, ...]]
    ]  # by argument, ids in whose places other tokens stand

    def fits(self, inputs: Mapping[str, Any]) -> bool:
        """Whether these arguments have their tokens where the adapter was found to have them."""
        return settled(inputs) == self.settled and all(
            _places_of(ids, inputs[name]) == places for name, (ids, places) in self.placeholders.items()
        )

    def __call__(self, inputs: Mapping[str, Any], sizes: Mapping[Stream, int]) -> Layout:
        if not self.fits(inputs):
            names = ", ".join((*self.settled, *self.placeholders))
            raise RecordingError(f"{names} had other values when the adapter was found; {ANEW}")
        lengths, special, learned, mask, grids = {}, {}, {}, {}, {}
        places: dict[str, Tensor] = {}
        links: dict[str, Link] = {}
        for stream, modalities in self.streams:
            length = sum(len(modality.special) for modality in modalities)
            if sizes.get(stream, length) != length:
                raise RecordingError(
                    f"{sizes[stream]} tokens of {'+'.join(stream)}, where the adapter was found from a call with {length}; {ANEW}"
                )
            if [place for modality in modalities for place in modality.places] != list(range(length)):
                places |= {modality.name: torch.tensor(modality.places) for modality in modalities}
            links |= {modality.name: modality.link for modality in modalities if modality.link is not None}
            for modality in modalities:
                name = modality.name
                lengths[name] = len(modality.special)
                learned[name] = torch.tensor([modality.special])
                if modality.grid is not None:
                    grids[name] = modality.grid
                real = _mask(modality, inputs)
                if real is not None:
                    mask[name] = real
                special[name] = self._special(modality, inputs, learned[name], real)
        return Layout(lengths, {}, mask, special, grids, learned, places, links)

    def _special(self, modality: Modality, inputs: Mapping[str, Any], learned: Tensor, real: Tensor | None) -> Tensor:
        """Beside tokens of parameters, the ends of a text."""
        source = modality.source
        ids = None if source is None else inputs.get(source.argument)
        if ids is None or ids.is_floating_point() or len(modality.positions) != learned.shape[1]:
            return learned
        ids = ids[:, modality.positions]
        if modality.causal or modality.read:
            return torch.isin(ids, torch.tensor(self.ends, dtype=ids.dtype, device=ids.device))
        return text_ends(ids, torch.ones_like(ids) if real is None else real)


def placeholders_of(streams: Streams, inputs: Mapping[str, Any]) -> dict[str, tuple[frozenset[int], tuple[int, ...]]]:
    """Ids in whose places tokens made from others stand, and those places: where ids are given as long as a stream is."""
    found: dict[str, tuple[frozenset[int], tuple[int, ...]]] = {}
    for tokens, parts in streams.streams:
        name = next((part.source.argument for part in parts if part.source is not None), "")
        ids = inputs.get(name)
        places = sorted(place for part in parts if part.origin is not None for place in part.places)
        if places and isinstance(ids, Tensor) and not ids.is_floating_point() and ids.shape[1:] == tokens.shape:
            kinds = frozenset(ids[:, places].flatten().tolist())
            found[name] = kinds, _places_of(kinds, ids) or tuple(places)
    return found


def _places_of(kinds: frozenset[int], ids: Tensor) -> tuple[int, ...] | None:
    """Where these ids are; None if elsewhere in each sample."""
    there = torch.isin(ids, torch.tensor(sorted(kinds), dtype=ids.dtype, device=ids.device))
    return tuple(there[0].nonzero()[:, 0].tolist()) if bool((there == there[:1]).all()) else None


def settled(inputs: Mapping[str, Any]) -> dict[str, int]:
    """Hashes of arguments by which a model may choose tokens, such as masks of pixels and sizes of grids.

    Those of whole numbers with three axes or more, and those that say how many rows and columns images have.
    """
    chosen = {
        n: x
        for n, x in inputs.items()
        if isinstance(x, Tensor)
        and not x.is_floating_point()
        and (x.dim() > 2 or n in GRIDS.values() or n in ("image_sizes", *PATCHES))
    }
    return {name: hash(tuple(x.flatten().tolist())) for name, x in chosen.items()}


def _mask(modality: Modality, inputs: Mapping[str, Any]) -> Tensor | None:
    """Real tokens, by the padding mask among the arguments: of the same prefix as what it masks, or the only one of its shape.

    Tokens of parameters are real. None of images that are given as pixels: no such mask has their shape.
    """
    argument = "" if modality.source is None else modality.source.argument
    given = inputs.get(argument)
    if not isinstance(given, Tensor) or given.dim() not in (2, 3):
        return None
    prefix = argument.rpartition("input")[0] if "input" in argument else argument.partition("_")[0] + "_"
    fitting = {
        name: value
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == given.shape[1]
    }
    own = [fitting[name] for name in (f"{prefix}attention_mask", f"{prefix}mask") if name in fitting]
    others = [fitting[name] for name in MASKS if name in fitting]
    if not own and (len(others) != 1 or argument.startswith(("decoder_", "labels"))):
        return None
    mask = (own or others)[0]
    real = mask.new_ones(len(mask), len(modality.special))
    real[:, [not special for special in modality.special]] = mask[:, modality.positions]
    return real
