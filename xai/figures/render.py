"""Pictures of relevance: heat over images, boxes of regions, words in colour.

Colour is the share of the largest score of a sample's modality: white for none, red for, blue against (signed methods).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from xai.figures.geometry import Geometry, Size, squash, upsample
from xai.figures.page import Colour, Outline, Panel, Picture, Scale, Word, page
from xai.files import replacing

if TYPE_CHECKING:
    from xai.results.relevance import Relevance

GeometryOf = Callable[[Size], Geometry]
Images = np.ndarray | dict[str, np.ndarray]  # of a sample: its pixels, or those of each image modality
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
LIGHT = 0.4  # how far the grey image below the colours is moved to white
HEAT_COVER, REGION_COVER = 0.85, 0.5  # how much the strongest colour covers of it
FAINT = 0.15  # boxes below this share have no outline
WHITE: Colour = (1.0, 1.0, 1.0)
ALONE = 256  # about how many pixels a map has that is drawn without an image


def colours(values: np.ndarray) -> np.ndarray:
    """Returns red, green and blue [..., 3] of shares -1 to 1, but for the map's darkest ends, on which words are hard to read."""
    return matplotlib.colormaps["RdBu_r"](0.5 + 0.46 * values)[..., :3]


def overlay(
    relevance: "Relevance",
    images: Sequence[Any] | None = None,
    geometry: GeometryOf | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draws a panel for each sample: the image, its relevance over it, its words in colour."""
    count = _check(relevance, images, titles)
    panels = []
    for sample in range(count):
        image = None if images is None else _images(images[sample])
        pictures = _pictures(relevance, sample, image, geometry)
        plain = _plain(image)
        header = "" if titles is None else titles[sample]
        panels.append(Panel(header, (*plain, *pictures), _texts(relevance, sample)))
    across = max(1, round((count / 2) ** 0.5))
    return page([panels[i : i + across] for i in range(0, count, across)], scale_of([relevance]), label(relevance))


def compare(
    relevances: Sequence["Relevance"],
    images: Sequence[Any] | None = None,
    geometry: GeometryOf | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draws a row for each sample, a column for each method, the image first; all on the same scale of colours."""
    rows = []
    for sample in range(min(_check(relevance, images, titles) for relevance in relevances)):
        image = None if images is None else _images(images[sample])
        title = "" if titles is None else titles[sample]
        plain = [Panel(title, _plain(image))] if _plain(image) else []
        panels = [
            Panel(label(relevance), _pictures(relevance, sample, image, geometry), _texts(relevance, sample))
            for relevance in relevances
        ]
        rows.append([*plain, *panels])
    return page(rows, scale_of(relevances))


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the path's suffix, by default PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")


def label(relevance: "Relevance") -> str:
    """Names the method with its options and its target."""
    options = ", ".join(f"{name}={value}" for name, value in relevance.options.items())
    method = f"{relevance.method}({options})" if options else relevance.method
    return method if relevance.target is None else f"{method}: {relevance.target}"


def pixels(image: Any) -> np.ndarray:
    """Turns a PIL image, an array [height, width, 3] or a tensor [3, height, width] into pixels [height, width, 3] from 0 to 1.

    Whole numbers count from 0 to 255, others from 0 to 1; raises ValueError for other shapes and values.
    """
    if isinstance(image, Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy()
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    array = array / 255 if np.issubdtype(array.dtype, np.integer) else array.astype(float)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"an image has shape {list(array.shape)}; give PIL images, arrays [h, w, 3] or tensors [3, h, w]"
        )
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"an image has values from {array.min():.3g} to {array.max():.3g}; give it before normalisation, from 0 to 1"
        )
    return array


def _images(image: Any) -> Images:
    """The pixels of a sample's image, or of each of its images by modality."""
    return {name: pixels(one) for name, one in image.items()} if isinstance(image, Mapping) else pixels(image)


def _plain(images: Images | None) -> tuple[Picture, ...]:
    every = () if images is None else images.values() if isinstance(images, dict) else (images,)
    return tuple(map(Picture, every))


def scale_of(relevances: Sequence["Relevance"]) -> Scale:
    if any(relevance.signed for relevance in relevances):
        return Scale(colours, -1, ("against", "for the target"))
    return Scale(colours, 0, ("none", "most relevant"))


def _check(relevance: "Relevance", images: Sequence[Any] | None, titles: Sequence[str] | None) -> int:
    """Returns the number of samples."""
    count = len(next(iter(relevance.scores.values())))
    for name, values in (("images", images), ("titles", titles)):
        if values is not None and len(values) != count:
            raise ValueError(f"{len(values)} {name} for {count} samples; give one for each, in their order")
    return count


def _texts(relevance: "Relevance", sample: int) -> tuple[tuple[Word, ...], ...]:
    """Returns the words of each modality that has content and is in no picture; with its name if there are several.

    Last, of several modalities, how much of the positive relevance each has.
    """
    parts = relevance.modalities.items()
    texts = {name: relevance.by_word(name)[sample] for name, part in parts if part.grid is None and part.boxes is None}
    texts = {name: words for name, words in texts.items() if words}
    worded = tuple(_text(name if len(texts) > 1 else "", words) for name, words in texts.items())
    shares = {name: float(by_sample[sample]) for name, by_sample in relevance.shares().items()}
    if len(shares) < 2 or not np.isfinite(list(shares.values())).all():
        return worded
    return (*worded, tuple((f"{name} {share:.0%}", WHITE) for name, share in shares.items()))


def _text(name: str, words: list[tuple[str, float]]) -> tuple[Word, ...]:
    rgb = _rgb(_shares(np.array([value for _, value in words])))
    chips = [(" ".join(word.split()) or "…", colour) for (word, _), colour in zip(words, rgb, strict=True)]
    return tuple([(name, WHITE), *chips] if name else chips)


def _pictures(
    relevance: "Relevance", sample: int, images: Images | None, geometry: GeometryOf | None
) -> tuple[Picture, ...]:
    image = images if isinstance(images, np.ndarray) else None
    heats = (
        _heat(relevance.map(name)[sample], images.get(name) if isinstance(images, dict) else image, geometry)
        for name, part in relevance.modalities.items()
        if part.grid is not None
    )
    regions = (
        _regions(relevance, name, sample, image)
        for name, part in relevance.modalities.items()
        if part.boxes is not None
    )
    return tuple(chain(heats, regions))


def _heat(map: Tensor, image: np.ndarray | None, geometry: GeometryOf | None) -> Picture:
    shares = torch.from_numpy(_shares(map.double().cpu().numpy()))
    if image is None:
        cell = max(1, ALONE // max(shares.shape))
        return Picture(colours(shares.repeat_interleave(cell, 0).repeat_interleave(cell, 1).numpy()))
    size = image.shape[:2]
    place = squash(size, size) if geometry is None else geometry(size)
    return Picture(_blend(image, upsample(shares, place).numpy(), HEAT_COVER))


def _regions(relevance: "Relevance", modality: str, sample: int, image: np.ndarray | None) -> Picture:
    """Colours each pixel by the strongest box over it."""
    content = relevance.content(modality)[sample].cpu()
    part = relevance[modality]
    assert part.boxes is not None
    boxes = part.boxes[sample].cpu()[content].numpy()
    values = _shares(part.scores[sample].double().cpu()[content].numpy())
    order = np.abs(values).argsort(kind="stable")
    if image is None:
        image = np.ones((*np.ceil(boxes[:, [3, 1]].max(0) if len(boxes) else np.ones(2)).astype(int), 3))
    heat = np.zeros(image.shape[:2])
    for (x1, y1, x2, y2), value in zip(boxes[order].round().clip(0).astype(int), values[order], strict=True):
        heat[y1:y2, x1:x2] = value
    regions = zip(boxes[order].tolist(), _rgb(values[order]), np.abs(values[order]), strict=True)
    outlines = [Outline((x1, y1, x2, y2), rgb, 2.5 * size) for (x1, y1, x2, y2), rgb, size in regions if size > FAINT]
    return Picture(_blend(image, heat, REGION_COVER), tuple(outlines))


def _shares(values: np.ndarray) -> np.ndarray:
    largest = np.abs(values).max(initial=0)
    return values / largest if largest > 0 else values


def _rgb(values: np.ndarray) -> list[Colour]:
    return [(r, g, b) for r, g, b in colours(values).tolist()]


def _blend(image: np.ndarray, shares: np.ndarray, most: float) -> np.ndarray:
    """Lays colour over a pale grey image, covering it by at most `most`; what the model did not see (NaN) is paler still."""
    values = np.nan_to_num(shares)
    ground = np.repeat((LIGHT + (1 - LIGHT) * image @ LUMINANCE)[..., None], 3, axis=-1)
    cover = most * np.abs(values[..., None]) ** 0.7
    heat = colours(np.sign(values) * (0.5 + 0.5 * np.abs(values)))  # the cover alone says how little there is
    return np.where(np.isnan(shares)[..., None], 0.3 * ground + 0.7, (1 - cover) * ground + cover * heat)
