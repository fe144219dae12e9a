"""The papers' figures beside ours. They are of the papers' models and data: of ours and theirs the order alone compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from xai.metrics.sanity import rank_correlation

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Published:
    """A table of a paper.

    Attributes:
        source: paper, table, model and data.
        metrics: our metrics that its columns stand for, and which end is better.
        rows: by method its figures in percent, in the order of the columns; a row may end early.
    """

    source: str
    metrics: Mapping[str, Better]
    rows: Mapping[str, tuple[float, ...]]


ANSWERS = Published(
    "GenAtt tab. 5: LXMERT on VQAv2, areas of accuracy",
    {
        "image/accuracy/negative": "higher",
        "image/accuracy/positive": "lower",
        "text/accuracy/negative": "higher",
        "text/accuracy/positive": "lower",
    },
    {
        "genatt": (63.24, 51.10, 48.70, 21.61),
        "genatt_lrp": (62.41, 51.10, 48.25, 21.68),
        "transatt": (61.46, 52.75, 48.24, 21.68),
        "raw_attention": (61.34, 54.17, 38.32, 32.56),
        "partial_lrp": (60.90, 52.82, 45.15, 24.22),
        "attention_gradcam": (60.08, 59.21, 37.99, 34.14),
        "rollout": (58.64, 57.23, 32.05, 39.29),
    },
)
CLASSES = Published(
    "TransAtt tab. 1, GenAtt tab. 2: ViT-B/16, ImageNet val",
    {
        "predicted/accuracy/negative": "higher",
        "predicted/accuracy/positive": "lower",
        "target/accuracy/negative": "higher",
        "target/accuracy/positive": "lower",
    },
    {
        "rollout": (53.10, 20.05),
        "raw_attention": (45.55, 23.99),
        "attention_gradcam": (41.52, 34.06, 42.02, 33.56),
        "full_lrp": (43.49, 41.94, 43.49, 41.93),
        "partial_lrp": (50.49, 19.64, 50.49, 19.64),
        "transatt": (54.16, 17.03, 55.04, 16.04),
        "genatt": (54.61, 17.32, 55.67, 16.72),
    },
)
SEGMENTATION = Published(
    "TransAtt tab. 2: ViT-B/16, ImageNet-Segmentation",
    {"pixel_accuracy": "higher", "map": "higher", "miou": "higher"},
    {
        "rollout": (73.54, 84.76, 55.42),
        "raw_attention": (67.84, 80.24, 46.37),
        "attention_gradcam": (64.44, 71.60, 40.82),
        "full_lrp": (51.09, 55.68, 32.89),
        "partial_lrp": (76.31, 84.67, 57.94),
        "transatt": (79.70, 86.03, 61.95),
    },
)
DETECTION = Published(
    "GenAtt tab. 1: DETR-R50, COCO val2017",
    dict.fromkeys(("ap", "ap_medium", "ap_large", "ar", "ar_medium", "ar_large"), "higher"),
    {
        "rollout": (0.1, 0.1, 0.2, 0.4, 0.1, 0.9),
        "raw_attention": (5.6, 9.6, 6.9, 11.7, 21.8, 10.8),
        "attention_gradcam": (2.3, 2.3, 4.7, 5.5, 5.9, 10.7),
        "partial_lrp": (4.7, 8.0, 5.1, 10.4, 19.9, 8.0),
        "transatt": (7.2, 10.4, 12.4, 13.4, 21.0, 19.4),
        "genatt": (13.1, 14.4, 24.6, 19.3, 23.9, 33.2),
    },
)


def beside(published: Published | None, methods: Mapping[str, Any]) -> dict[str, Any]:
    """Returns for each column of a paper our order of methods beside the paper's.

    Args:
        published: the paper's table.
        methods: our entries, as `summary.summarise` makes them.

    Returns:
        Nothing where fewer than two methods are in both; else the source and by metric Spearman's correlation and for
        each method both figures in percent and both ranks (1 is best, equal figures share).
    """
    if published is None:
        return {}
    compared = {}
    for i, (metric, better) in enumerate(published.metrics.items()):
        pairs = {
            name: (100 * entry["metrics"][metric]["mean"], published.rows[name][i])
            for name, entry in methods.items()
            if i < len(published.rows.get(name, ())) and entry["metrics"].get(metric, {}).get("mean") is not None
        }
        if len(pairs) > 1:
            compared[metric] = _compared(pairs, better)
    return {"source": published.source, "metrics": compared} if compared else {}


def text(beside: Mapping[str, Any]) -> str:
    """Returns a line to stand under the printed table; nothing where there is nothing to compare."""
    if not beside:
        return ""
    orders = ", ".join(
        f"{metric.replace('/accuracy', '')} {_number(p['spearman'])}" for metric, p in beside["metrics"].items()
    )
    count = max(len(part["methods"]) for part in beside["metrics"].values())
    return f"Order of {count} methods against the published one ({beside['source']}), Spearman: {orders}."


def _compared(pairs: Mapping[str, tuple[float, float]], better: Better) -> dict[str, Any]:
    scores = torch.tensor(list(pairs.values()), dtype=torch.float64).T  # [ours and published, methods]
    spearman = rank_correlation(scores[0], scores[1], torch.ones(len(pairs), dtype=torch.bool)).item()
    ranks = pd.DataFrame(pairs.values()).rank(ascending=better == "lower").to_numpy().tolist()
    methods = {
        name: {"ours": ours, "published": theirs, "our_rank": rank[0], "published_rank": rank[1]}
        for (name, (ours, theirs)), rank in zip(pairs.items(), ranks, strict=True)
    }
    return {"spearman": None if spearman != spearman else spearman, "methods": methods}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
