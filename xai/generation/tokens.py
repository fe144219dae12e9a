"""A recording that starts at the image tokens of its language model, rather than at the patches they are made from."""

from dataclasses import replace

from xai.recording.axis import within
from xai.recording.grids import grid_of
from xai.recording.recording import Recording


def image_tokens_alone(recording: Recording) -> Recording:
    """Returns the recording without what comes before the tokens that the language model takes for images.

    Args:
        recording: of a model whose image tokens are made from those of a vision tower.

    Returns:
        One in which they are inputs, with a grid where they lie in one.

    Raises:
        ValueError: no tokens of the model are made from others.
    """
    last = set(recording.links) - {link.origin for link in recording.links.values()}
    if not last:
        raise ValueError(
            "the language model of this model has no image tokens that are made from patches; leave image_tokens out"
        )
    before = _before(recording, last)
    layers = tuple(
        kept for layer in recording.layers if (kept := tuple(event for event in layer if event not in before))
    )
    spans = {(span.start, span.stop) for layer in layers for event in layer for span in (event.queries, event.keys)}
    modalities = {
        name: where
        for name, where in recording.modalities.items()
        if any(within(where, slice(start, stop)) is not None for start, stop in spans)
    }
    grids = {name: grid for name in last if (grid := grid_of(recording, name)) is not None}
    grids |= {name: grid for name, grid in recording.grids.items() if name in modalities}
    return replace(recording.fresh(), layers=layers, modalities=modalities, grids=grids, links={})


def _before(recording: Recording, last: set[str]) -> set[object]:
    """The attentions of tokens that image tokens are made from, and of those that these have read."""
    waiting = [recording.modalities[link.origin] for link in recording.links.values()]
    events: set[object] = set()
    ends = [recording.modalities[name] for name in last]
    while waiting:
        where = waiting.pop()
        for event in recording.events:
            if (
                event not in events
                and event.rows(where) is not None
                and not any(event.rows(end) is not None for end in ends)
            ):
                events.add(event)
                waiting += [other for other in recording.modalities.values() if within(other, event.keys) is not None]
    return events
