"""The papers' figures, as shares of 1, to stand beside ours. They are of the papers' models and data."""

from typing import Any

Figures = dict[str, dict[str, float]]  # by method and figure


def _table(figures: tuple[str, ...], rows: dict[str, tuple[float, ...]]) -> Figures:
    """From percent; a row may end early."""
    return {
        method: {name: round(value / 100, 4) for name, value in zip(figures, row, strict=False)}
        for method, row in rows.items()
    }


IMAGENET = _table(
    ("negative/predicted", "positive/predicted", "negative/target", "positive/target"),
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
SEGMENTATION = _table(
    ("pixel_accuracy", "map", "miou"),
    {
        "rollout": (73.54, 84.76, 55.42),
        "raw_attention": (67.84, 80.24, 46.37),
        "attention_gradcam": (64.44, 71.60, 40.82),
        "full_lrp": (51.09, 55.68, 32.89),
        "partial_lrp": (76.31, 84.67, 57.94),
        "transatt": (79.70, 86.03, 61.95),
    },
)
DETR = _table(
    ("ap", "ap_medium", "ap_large", "ar", "ar_medium", "ar_large"),
    {
        "rollout": (0.1, 0.1, 0.2, 0.4, 0.1, 0.9),
        "raw_attention": (5.6, 9.6, 6.9, 11.7, 21.8, 10.8),
        "attention_gradcam": (2.3, 2.3, 4.7, 5.5, 5.9, 10.7),
        "partial_lrp": (4.7, 8.0, 5.1, 10.4, 19.9, 8.0),
        "transatt": (7.2, 10.4, 12.4, 13.4, 21.0, 19.4),
        "genatt": (13.1, 14.4, 24.6, 19.3, 23.9, 33.2),
    },
)
PUBLISHED: dict[str, tuple[str, Figures]] = {
    "imagenet": ("TransAtt tab. 1, GenAtt tab. 2: ViT-B/16, ImageNet val", IMAGENET),
    "segmentation": ("TransAtt tab. 2: ViT-B/16, ImageNet-Segmentation", SEGMENTATION),
    "detr": ("GenAtt tab. 1: DETR-R50, COCO val2017", DETR),
    "rationales": ("TransAtt fig. 4 shows curves without figures", {}),
}


def published(benchmark: str) -> dict[str, Any]:
    """For JSON: where the figures stand, and by method."""
    source, figures = PUBLISHED[benchmark]
    return {"source": source, "methods": figures}
