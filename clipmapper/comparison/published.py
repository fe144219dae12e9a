"""Our order of methods beside a published one: of another model and other data, so of the order alone."""

from collections.abc import Mapping
from typing import Any

import torch

from xai.metrics.sanity import rank_correlation

SOURCE = "GenAtt tab. 5: LXMERT on VQAv2, areas of accuracy in percent"
AREAS = {  # what of ours it stands for, and which end is better
    "image/accuracy/negative": "higher",
    "image/accuracy/positive": "lower",
    "text/accuracy/negative": "higher",
    "text/accuracy/positive": "lower",
}
TABLE = {  # in the order of AREAS
    "genatt": (63.24, 51.10, 48.70, 21.61),
    "genatt_lrp": (62.41, 51.10, 48.25, 21.68),
    "transatt": (61.46, 52.75, 48.24, 21.68),
    "raw_attention": (61.34, 54.17, 38.32, 32.56),
    "partial_lrp": (60.90, 52.82, 45.15, 24.22),
    "attention_gradcam": (60.08, 59.21, 37.99, 34.14),
    "rollout": (58.64, 57.23, 32.05, 39.29),
}


def beside(methods: Mapping[str, Any]) -> dict[str, Any]:
    """By area the methods that both have, figures and ranks (1 is best, equal ones share), and Spearman's correlation.

    `methods` are those of `summary`. Empty where fewer than two are in both; an undefined figure leaves a method out.
    """
    found = {}
    for i, (area, better) in enumerate(AREAS.items()):
        ours = {name: methods[name]["figures"][area]["mean"] for name in TABLE if name in methods}
        pairs = {name: (100 * mean, TABLE[name][i]) for name, mean in ours.items() if mean is not None}
        if len(pairs) > 1:
            found[area] = _compared(pairs, better)
    return {"source": SOURCE, "areas": found} if found else {}


def _compared(pairs: Mapping[str, tuple[float, float]], better: str) -> dict[str, Any]:
    scores = torch.tensor(list(pairs.values()), dtype=torch.float64).T  # [ours or published, methods]
    spearman = rank_correlation(scores[0], scores[1], torch.ones(len(pairs), dtype=torch.bool)).item()
    ranks = _ranks(scores if better == "lower" else -scores).T.tolist()
    methods = {
        name: {"ours": ours, "published": theirs, "our_rank": rank[0], "published_rank": rank[1]}
        for (name, (ours, theirs)), rank in zip(pairs.items(), ranks, strict=True)
    }
    return {"spearman": None if spearman != spearman else spearman, "methods": methods}


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Of each row from 1, the smallest first; equal ones share the mean of their places."""
    below = (scores[:, None, :] < scores[:, :, None]).sum(dim=-1)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(dim=-1)
    return below + (equal + 1) / 2


def text(published: Mapping[str, Any]) -> str:
    """A line to stand under the printed table; nothing where there is nothing to compare."""
    if not published:
        return ""
    orders = ", ".join(
        f"{area.replace('/accuracy', '')} {_number(p['spearman'])}" for area, p in published["areas"].items()
    )
    count = max(len(part["methods"]) for part in published["areas"].values())
    return f"Order of {count} methods against that published ({published['source']}), Spearman: {orders}."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
