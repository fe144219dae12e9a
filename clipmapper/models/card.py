"""The card of a saved CLIPMapper: what a hub files it by, what it was measured at, and one explained example."""

import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL.Image import Image

from clipmapper.config import ModelConfig
from xai.files import replacing

PICTURE, EXAMPLE = "explanation.png", "example.png"
TASKS = {"vqa": "visual-question-answering", "caption": "image-to-text"}
CARD = """---
{{ card_data }}
---

A mapper over a frozen CLIP that answers questions about images or captions them, as `config.json` says. The weights are the
mapper's alone; CLIP's come from open_clip.

{% if picture %}![An explanation of one example]({{ picture }})

What the model says of this image, and where the explanation sees the reason: {{ told }}
{% endif %}
```python
from clipmapper import CLIPMapper

model = CLIPMapper.from_pretrained("{{ model_id | default("owner/name", true) }}")
print(model.answer("image.jpg", "What color is the circle?", top=3))  # task: vqa
print(model.caption("image.jpg"))  # task: caption
```
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the model's settings.

    Attributes:
        metrics: of the model, by name.
        dataset: what they were measured on, in words.
        split: of it.
        example: an image; None without.
        question: asked about it; empty of a captioner.
        said: what the model says of it.
        picture: the explanation of that, as a PNG file's bytes.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    dataset: str = "Shapes"
    split: str = "val"
    example: Image | None = None
    question: str = ""
    said: str = ""
    picture: bytes = b""


def model_card(
    config: ModelConfig, data: ModelCardData, facts: CardFacts, model_id: str | None = None, **kwargs: Any
) -> ModelCard:
    """Returns the card; all that comes from outside stands in its front matter as YAML writes it, in its text escaped."""
    values = data.to_dict() | {"license": "mit", "language": "en", "pipeline_tag": TASKS[config.task]}
    values["tags"] = sorted({*values.get("tags", []), "clip", "interpretability", TASKS[config.task]})
    if base := base_model(config):
        values["base_model"] = base
    if facts.example is not None:
        place = f"https://huggingface.co/{model_id}/resolve/main/" if model_id else ""
        widget = {"src": f"{place}{EXAMPLE}", "text": facts.question}
        values["widget"] = [{name: text for name, text in widget.items() if text}]
    values.pop("model-index", None)
    results = [
        EvalResult(
            task_type=TASKS[config.task],
            dataset_type=facts.dataset,
            dataset_name=facts.dataset,
            dataset_split=facts.split,
            metric_type=name.split(",")[0].split("/")[0],
            metric_name=name,
            metric_value=value,
        )
        for name, value in facts.metrics.items()
    ]
    named: dict[str, Any] = {"model_name": model_id or "mapper", "eval_results": results} if results else {}
    told = f"{facts.question} {facts.said}".strip()
    return ModelCard.from_template(
        ModelCardData(**values, **named),
        template_str=CARD,
        model_id=model_id,
        picture=PICTURE if facts.picture else "",
        told=plain(told),
    )


def base_model(config: ModelConfig) -> str | None:
    """The hub id of the CLIP below a mapper; None where its weights are a file, or of this package."""
    known = open_clip.get_pretrained_cfg(config.clip, config.pretrained or "") or {}
    return str(known.get("hf_hub", "")).rstrip("/") or None


def save_pictures(facts: CardFacts, folder: Path) -> None:
    """Writes the pictures that the card shows."""
    pictures = {PICTURE: facts.picture}
    if facts.example is not None:
        file = io.BytesIO()
        facts.example.convert("RGB").save(file, "PNG")
        pictures[EXAMPLE] = file.getvalue()
    for name, content in pictures.items():
        if content:
            with replacing(folder / name) as path:
                path.write_bytes(content)


def plain(text: str) -> str:
    """A text as Markdown shows it letter by letter."""
    escaped = html.escape(" ".join(text.split()))
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+!|~<>$" else letter for letter in escaped)
