"""`python -m clipmapper.export CHECKPOINT FOLDER`: a training checkpoint as a folder for `CLIPMapper.from_pretrained`."""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module(__spec__.name)

import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from clipmapper.images import load_image
from clipmapper.models.card import CardFacts
from clipmapper.models.clip_mapper import CLIPMapper
from xai.files import read_json

OPTIONS = {"question": "image", "dataset": "metrics"}  # options that act only where another is given


def export(
    checkpoint: Path,
    folder: Path,
    half: bool = False,
    metrics: Path | None = None,
    dataset: str | None = None,
    image: Path | None = None,
    question: str | None = None,
    push_to_hub: str | None = None,
) -> None:
    """Writes model.safetensors, config.json and a model card.

    Args:
        checkpoint: a checkpoint of train.py, or a saved folder.
        folder: where the files go.
        half: store the weights in half precision.
        metrics: metrics.json of evaluate.py, for the card.
        dataset: what they were measured on, in words; Shapes without.
        image: an example, whose explanation the card shows.
        question: asked about it, of a model that answers.
        push_to_hub: also upload the folder, as owner/name.
    """
    given = {"question": question, "dataset": dataset, "image": image, "metrics": metrics}
    for name, other in OPTIONS.items():
        if given[name] is not None and given[other] is None:
            raise ValueError(f"--{name} does nothing without --{other}: give both, or leave it out")
    model = CLIPMapper.from_pretrained(checkpoint)
    model.facts = CardFacts(
        scores(metrics) if metrics is not None else {},
        dataset or "Shapes",
        **(explained(model, image, question) if image is not None else {}),
    )
    for name, part in model.named_children():
        if half and name != "clip":
            part.half()
    (folder / "README.md").unlink(missing_ok=True)  # that of what was there, which would stay
    model.save_pretrained(folder, model_card_kwargs={"model_id": push_to_hub} if push_to_hub else None)
    print(f"written: {folder}")
    if push_to_hub is not None:
        print(f"uploaded: {model.push_to_hub(push_to_hub, model_card_kwargs={'model_id': push_to_hub})}")


def scores(path: Path) -> dict[str, float]:
    """Returns what a model is measured by: its accuracies, or the metrics of its captions."""
    said = read_json(path, "evaluate the model anew")
    parts = [said.get(name, {}) for name in ("accuracy", "metrics")] if isinstance(said, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts) or not any(parts):
        raise ValueError(f"{path}: holds no accuracy and no metrics of captions; give metrics.json of evaluate.py")
    accuracy, captions = parts
    values = {f"accuracy, {name}": value for name, value in accuracy.items()} | captions
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def explained(model: CLIPMapper, image: Path, question: str | None) -> dict[str, Any]:
    """Returns an example for the card: what the model says of an image, and the explanation as a picture."""
    from clipmapper.explain import explain_answer, explain_caption, preprocessing  # here: slow to import

    if (model.config.task == "vqa") != (question is not None):
        answers = model.config.task == "vqa"
        raise ValueError(
            "--image needs --question: this model answers" if answers else "--question: this model writes captions"
        )
    picture = load_image(image)
    geometry = preprocessing(model.clip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "explanation.png")
        if question is not None:
            said = str(model.answer(picture, question))
            explain_answer(model, picture, question).save_overlay(path, [picture], geometry=geometry)
        else:
            said = model.caption(picture)
            explain_caption(model, picture).save_filmstrip(path, [picture], geometry=geometry)
        drawn = path.read_bytes()
    return {"example": picture, "question": question or "", "said": said, "picture": drawn}


def main() -> None:
    """Command line."""
    auto_cli(export)
