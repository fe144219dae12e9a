"""The captions of a checkpoint: all metrics beside two baselines, the COCO results file, and on Shapes the check of truth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from clipmapper.benchmark.measure import RANDOM
from clipmapper.benchmark.run import run as benchmark
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.captions import CaptionsTask
from clipmapper.config import DataConfig, OptimizerConfig
from clipmapper.data.captions import Captions
from clipmapper.data.records import load_caption_split
from clipmapper.data.shapes.scene import Scene
from clipmapper.evaluation.command import EvaluationSettings, refuse
from clipmapper.evaluation.gallery import save_captions
from clipmapper.evaluation.prediction import of_shapes, predictions
from clipmapper.explain.models.captioner import Captioner
from clipmapper.files import write_json
from clipmapper.images import readable
from clipmapper.metrics.caption_truth import scenes_of, truth
from clipmapper.metrics.captions import clip_scores, coco_results, embed_images, score
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.processes import launched
from clipmapper.training.tasks import CaptionTask
from xai.explainers.registry import METHODS

CANDIDATES, JUDGED = 100, 100  # captions tried as the one for all, and training images they are tried on


@dataclass(frozen=True)
class Captioned:
    """A split with the model's captions: row -> caption, one row an image."""

    split: Captions
    captions: dict[int, str]

    @property
    def image_ids(self) -> list[int]:
        ids = self.split.records["image_id"]
        return [ids[row] for row in self.captions]


def evaluate_captions(
    model: CLIPMapper | Captioner, data: DataConfig, settings: EvaluationSettings, output: Path
) -> dict[str, Any]:
    """Writes metrics.json, captions.json and examples.png; raises MissingData, BadData, ValueError."""
    if isinstance(model, Captioner):
        refuse(settings, ("--decoding.",), "models of transformers write greedily, by the highest logit")
    captioned = caption_split(model, data, settings)
    own = own_judge(model, known_scenes(data, captioned.image_ids) is not None, settings)
    train = load_caption_split(data, "train", of_shapes(model))[0]["caption"]
    baselines = {
        "random caption": random_captions(train, len(captioned.captions)),
        "constant caption": len(captioned.captions) * [best_constant(load_references(data))],
    }
    systems = {"model": list(captioned.captions.values()), **baselines}
    other = {f" by {settings.judge}": judge(settings.judge)} if settings.judge and own is not None else {}
    judges = {"": judge(str(settings.judge)) if own is None else own} | other
    metrics = all_metrics(captioned, systems, judges)
    scenes = known_scenes(data, captioned.image_ids)
    summary = {
        "metrics": metrics.pop("model"),
        "floors": metrics,  # the baselines, by the name that files have had
        "constant caption": baselines["constant caption"][0],
        "truth": {name: truth(texts, scenes) for name, texts in systems.items()} if scenes else {},
        "images": len(captioned.captions),
        "skipped": captioned.split.skipped(),
        "decoding": asdict(settings.decoding) if isinstance(model, CLIPMapper) else "greedy, by the highest logit",
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "metrics.json", summary)
    write_json(output / "captions.json", coco_results(captioned.image_ids, captioned.captions.values()))
    save_captions(output / "examples.png", captioned.split, captioned.captions)
    print(table(summary))
    say_written(output, "metrics.json", "captions.json", "examples.png")
    if settings.benchmark is not None:
        last = [*judges.values()][-1]
        explainers = compare_explainers(model, data, captioned.split, settings.benchmark, last, output)
        summary |= {"explainers": explainers}
        write_json(output / "metrics.json", summary)
    return summary


def compare_explainers(
    model: CLIPMapper | Captioner,
    data: DataConfig,
    split: Captions,
    config: BenchmarkConfig,
    judged_by: FrozenCLIP,
    output: Path,
) -> dict[str, Any]:
    """Compares explainers on greedy captions of images from all over the split, and draws some captions word by word."""
    root = data.root if data.hub is None else None
    task = CaptionsTask(model, split, config, root, judged_by.to(device_of(model)))
    metrics = benchmark(task, config, output).metrics
    if launched().first and (method := best_on_words(metrics)):
        task.save_filmstrips(output / "filmstrips.png", method)
        say_written(output, "values.parquet", "samples.parquet", "curves.png", "filmstrips.png", "report.html")
    return metrics


def best_on_words(metrics: Mapping[str, Any]) -> str | None:
    """Returns the method whose maps of shapes fall most on them, or the first one; None if all failed."""
    entries = metrics["methods"].items()
    working = {name: entry for name, entry in entries if not entry["error"] and name in METHODS and name != RANDOM}
    masses = {name: entry["metrics"].get("shape/mass", {}).get("mean") or 0 for name, entry in working.items()}
    return max(masses, key=lambda name: masses[name], default=None)


def known_scenes(data: DataConfig, image_ids: Sequence[int]) -> list[Scene] | None:
    return scenes_of(data.root, image_ids) if data.hub is None else None


def say_written(folder: Path, *names: str) -> None:
    print(f"written: {', '.join(str(folder / name) for name in names)}")


def caption_split(model: CLIPMapper | Captioner, data: DataConfig, settings: EvaluationSettings) -> Captioned:
    """Captions every image of the split that can be read."""
    records, root = load_caption_split(data, settings.split, of_shapes(model))
    if isinstance(model, Captioner):
        split = Captions(records, root, None)
        return Captioned(split, captions_of(model, split, split.rows[split.one_each()].tolist()))
    split = Captions(records, root, model.clip)
    split.encode_once(model.clip, data)
    task = CaptionTask(model, OptimizerConfig(), seed=0, extra={}, decoding=settings.decoding)
    written = predictions(task, split, data, device_of(model), split.one_each())
    return Captioned(split, dict(pair for part in written for pair in part))


def captions_of(model: Captioner, split: Captions, rows: Sequence[int]) -> dict[int, str]:
    """Returns the captions of the rows whose image can be read."""
    captions: dict[int, str] = {}
    for start in tqdm(range(0, len(rows), model.batch_size), desc="captioning", unit="batch"):
        images = readable(rows[start : start + model.batch_size], split.source)
        texts = model.write(model.prepare([*images.values()])) if images else []
        captions |= {row: model.text(text) for row, text in zip(images, texts, strict=True)}
    return captions


def own_judge(model: CLIPMapper | Captioner, shapes: bool, settings: EvaluationSettings) -> FrozenCLIP | None:
    """Returns the CLIP that scores a model's captions: the mapper's own, on Shapes the one that knows them.

    Returns:
        None where --judge names it.

    Raises:
        ValueError: there is none.
    """
    if isinstance(model, CLIPMapper):
        return model.clip
    if settings.judge:
        return None
    if shapes:
        return FrozenCLIP(SHAPES_CLIP, "shapes")
    raise ValueError("this model has no CLIP by which captions are scored: name one, --judge ViT-B-32:openai")


def device_of(model: CLIPMapper | Captioner) -> torch.device:
    return model.token_ids.device if isinstance(model, CLIPMapper) else model.device


def load_references(data: DataConfig) -> list[list[str]]:
    """All captions of each of JUDGED training images."""
    train = Captions(*load_caption_split(data, "train"), None)
    return [train.references(row) for row in train.rows[train.one_each(JUDGED)]]


def random_captions(train: Sequence[str], count: int) -> list[str]:
    """Captions drawn from the training captions."""
    return [train[i] for i in np.random.default_rng(0).integers(len(train), size=count).tolist()]


def best_constant(references: Sequence[Sequence[str]]) -> str:
    """Returns that of CANDIDATES training captions with the highest CIDEr where all images get it."""
    texts = sorted({text for some in references for text in some})
    tried = np.random.default_rng(0).permutation(texts)[:CANDIDATES].tolist()
    return max(
        tried, key=lambda text: score(len(references) * [text], references, ("CIDEr",), ptb=False).corpus["CIDEr"]
    )


def judge(name: str) -> FrozenCLIP:
    """The CLIP of `model:weights`, open_clip's names. Raises ValueError."""
    model, _, pretrained = name.partition(":")
    return FrozenCLIP(model, pretrained or None)


def all_metrics(
    captioned: Captioned, systems: Mapping[str, list[str]], judges: Mapping[str, FrozenCLIP]
) -> dict[str, dict[str, float | str]]:
    """Every metric of each system's captions, a list in the order of `captioned`; `judges`: what their metrics are called."""
    split = captioned.split
    references = [split.references(row) for row in captioned.captions]
    by_system = {name: score(texts, references).corpus for name, texts in systems.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for suffix, clip in judges.items():
        clip.to(device)
        images = embed_images(clip, (split.source(row) for row in captioned.captions))
        for name, texts in systems.items():
            corpus = clip_scores(clip, images, texts, references).corpus
            by_system[name] |= {f"{metric}{suffix}": value for metric, value in corpus.items()}
    return by_system


def table(summary: dict[str, Any]) -> str:
    """The figures as text, with the baselines beside them."""
    systems = {"model": summary["metrics"], **summary["floors"]}
    lines = [" ".join(["".ljust(24), *(name.rjust(17) for name in systems)])]
    for metric, value in summary["metrics"].items():
        row = [figures[metric] for figures in systems.values()]
        if all(isinstance(figure, str) for figure in row):
            lines.append(f"{metric:24} {value}")
        else:
            shown = (f"{figure:17.4f}" if isinstance(figure, float) else "not computed".rjust(17) for figure in row)
            lines.append(" ".join([metric.ljust(24), *shown]))
    if checked := summary["truth"]:
        lines.append("right, in %")
        for kind in dict.fromkeys(kind for shares in checked.values() for kind in shares if kind != "named"):
            figures = (f"{shares[kind]:17.1f}" if kind in shares else " " * 17 for shares in checked.values())
            lines.append(" ".join([f"  {kind}".ljust(24), *figures]))
    skipped = ", ".join(f"{count} {reason}" for reason, count in summary["skipped"].items() if count)
    lines.append(f"{summary['images']} images{f'; captions left out: {skipped}' if skipped else ''}")
    return "\n".join(lines)
