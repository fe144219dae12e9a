"""Stock models of transformers: recorded with an adapter found from themselves, their patches and words hidden from attention."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipmapper.errors import unknown
from clipmapper.explain.models.base import Explainable, Recorded
from clipmapper.explain.models.covering import PIXELS, covering
from xai import Target, record
from xai.adapters import observed
from xai.figures.geometry import Geometry, Size, processor_geometry
from xai.generation.inputs import tokenizer_of
from xai.generation.pieces import pieces_of
from xai.metrics.perturbation import Perturbed
from xai.metrics.protocols import Protocol, Removal, named
from xai.recording.hidden import Hidden
from xai.recording.reads import Needs
from xai.recording.recording import Recording

HIDDEN: tuple[Removal, ...] = ("drop", "attention_mask")


@dataclass(frozen=True, eq=False)
class Pass:
    """A recorded pass, and what hides its tokens from later ones."""

    recording: Recording
    hidden: Hidden

    def content(self, modality: str) -> Tensor:
        """Returns which tokens of a modality are content, [B, tokens]."""
        return (self.recording.mask & ~self.recording.special)[:, self.recording.modalities[modality]]


@dataclass(frozen=True, eq=False)
class RecordedStock(Recorded):
    """Answers, and what hides tokens of the pass that their rows are of."""

    whole: Pass


class Stock(Explainable, ABC):
    """A model of transformers with its processor; one image a sample."""

    module: Any  # transformers' models have no common type

    def __init__(self, model: Any, processor: Any) -> None:
        self.module, self.processor, self.tokenizer = model, processor, tokenizer_of(processor)
        self.special = set(self.tokenizer.all_special_ids)  # ids that are no words
        self.images = getattr(processor, "image_processor", processor)
        self.batch_size = self.batch_size if one_size(self.images) else 1
        self.description = f"{type(model).__name__} of transformers"

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the pieces of words that ids stand for, "" for those that are no words."""
        return [piece or "" for piece in pieces_of(self.tokenizer, ids, self.special)]

    @abstractmethod
    def probe(self) -> Pass:
        """Returns a recorded pass over some picture."""

    @cached_property
    def hides_patches(self) -> bool:
        """Whether patches can be hidden from attention; if not, they are covered by the picture's mean colour."""
        probe = self.probe()
        try:
            probe.hidden.require("image", probe.content("image"))
        except ValueError:
            return False
        return True

    def protocol(self, name: str, modality: str) -> Protocol:
        """Words are hidden and keep their positions; patches are dropped, which is the same for them, where that can be had."""
        whole = named(name, modality)
        if modality != "image":
            return replace(whole, removal="attention_mask")
        return whole if whole.removal != "drop" or self.hides_patches else replace(whole, removal="mean")

    def geometry(self, size: Size) -> Geometry:
        cropped = getattr(self.images, "do_center_crop", False)
        return processor_geometry(self.images, size) if cropped else super().geometry(size)

    def recorded(self, arguments: Mapping[str, Any], target: Target, reads: Needs) -> Pass:
        """Records a pass over arguments by name."""
        adapter = observed(self.module, arguments)
        with record(self.module, adapter, reads) as recorder:
            self.module(**arguments)
        recording = recorder.recording
        if "image" not in recording.modalities:
            names = ", ".join(recording.modalities)
            raise ValueError(
                f"{self.description}: no tokens of its pass are known as those of one image; it has {names}"
            )
        return Pass(recording, Hidden(self.module, adapter, recording, target))

    def without(
        self, recorded: Pass, protocol: Protocol, arguments: Mapping[str, Any]
    ) -> Callable[[Perturbed, Mapping[str, Any], Callable[..., Any]], Any]:
        """Returns what runs the model, as `run(batch, arguments of its rows, model)`, without what a protocol removes.

        Raises:
            ValueError: a removal that the modality does not have, or tokens that cannot be hidden.
        """
        modality, removal = protocol.modality, protocol.removal
        known = HIDDEN + (PIXELS if modality == "image" else ())
        if removal not in known:
            raise unknown(f"removal of {modality} tokens", removal, known)
        if removal in HIDDEN:
            recorded.hidden.require(modality, recorded.content(modality))

            def hiding(batch: Perturbed, given: Mapping[str, Any], model: Callable[..., Any]) -> Any:
                with recorded.hidden.except_for(modality, batch.keep, batch.rows):
                    return model(**given)

            return hiding
        recording = recorded.recording
        cover = covering(self.images, arguments, recording.grids.get("image"), removal, self.description)
        special = recording.special[:, recording.modalities["image"]]

        def covered(batch: Perturbed, given: Mapping[str, Any], model: Callable[..., Any]) -> Any:
            keep = batch.keep[~special[batch.rows]].unflatten(0, (len(batch.rows), -1))
            return model(**{**given, "pixel_values": cover(batch, given["pixel_values"], keep)})

        return covered


def one_size(images: Any) -> bool:
    """Returns whether an image processor brings all pictures to one tensor each, of one size, without padding."""
    made = images(images=[Image.new("RGB", (64, 48)), Image.new("RGB", (48, 64))], return_tensors="pt")
    pixels = made["pixel_values"]
    return isinstance(pixels, Tensor) and pixels.dim() == 4 and len(pixels) == 2 and "pixel_mask" not in made


def questions_alone(recording: Recording, spans: Sequence[slice], others: Sequence[str] = ()) -> Recording:
    """Returns a recording in which of the text only a span of each sample's tokens is content, and of other modalities nothing.

    Args:
        recording: of a pass.
        spans: of each sample.
        others: modalities without content.
    """
    special, where = recording.special.clone(), recording.modalities["text"]
    for name in others:
        special[:, recording.modalities[name]] = True
    outside = torch.ones_like(special[:, where])
    for row, span in zip(outside, spans, strict=True):
        row[span] = False
    special[:, where] = outside
    return replace(recording, special=special)


def differing(one: Sequence[int], other: Sequence[int]) -> slice:
    """Returns where a sequence of ids differs from another: what is left of it without their common beginning and end.

    Example:
        >>> from clipmapper.explain.models.stock import differing
        >>> differing([1, 7, 8, 2], [1, 2])
        slice(1, 3, None)
    """
    shorter = min(len(one), len(other))
    start = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    left = shorter - start
    end = next((i for i in range(left) if one[-1 - i] != other[-1 - i]), left)
    return slice(start, len(one) - end)


def placed(spans: Sequence[slice], index: Sequence[int]) -> list[slice]:
    """Returns spans of a text's ids as those of the text tokens, which are at `index` among them.

    Raises:
        ValueError: other tokens stand between them.
    """
    places = torch.tensor(index)
    found = []
    for span in spans:
        inside = ((places >= span.start) & (places < span.stop)).nonzero()[:, 0]
        if len(inside) != span.stop - span.start:
            raise ValueError("some tokens of a question are none of its text: is an image written inside of it?")
        found.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return found
