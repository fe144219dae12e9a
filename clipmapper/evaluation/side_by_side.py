"""Several models in one table."""

from collections.abc import Mapping
from typing import Any

NAME = 24  # characters of a row's name


def side_by_side(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Returns the table as text, and as plain values.

    The rows are the scores of the models, then of each method what puts methods in order; the columns are the models.

    Args:
        metrics: by model what its metrics.json holds.
    """
    rows: dict[str, dict[str, float]] = {}
    for model, values in metrics.items():
        for row, value in scores(values).items():
            rows.setdefault(row, {})[model] = value
    width = max(12, *(len(model) + 2 for model in metrics))
    lines = [" " * NAME + "".join(model.rjust(width) for model in metrics)]
    for row, by_model in rows.items():
        cells = (f"{by_model[m]:.1f}" if m in by_model else "-" for m in metrics)
        lines.append(row.ljust(NAME) + "".join(c.rjust(width) for c in cells))
    return "\n".join(lines), rows


def scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns a model's own scores, and each method's metrics in percent."""
    values = {f"accuracy {name}": value for name, value in metrics.get("accuracy", {}).items()}
    values |= {name: 100 * v for name, v in metrics.get("metrics", {}).items() if isinstance(v, float)}
    for method, entry in metrics.get("explainers", {}).get("methods", {}).items():
        for key, value in entry["metrics"].items():
            if value["mean"] is not None and key.endswith(("/srg", "/mass")):
                values[f"{method}: {key}"] = 100 * value["mean"]
    return values
