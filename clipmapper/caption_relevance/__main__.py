"""`python -m clipmapper.caption_relevance --model FOLDER_OR_CHECKPOINT --output DIR`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jsonargparse import auto_cli

from clipmapper.caption_evaluation import judge as other_judge
from clipmapper.caption_relevance.measure import (
    AVERAGE,
    RANDOM,
    Captioned,
    Measured,
    Whole,
    caption_images,
    explain_part,
    measure_all,
)
from clipmapper.caption_relevance.perturbation import Judge, dropping
from clipmapper.caption_relevance.summary import (
    curves_table,
    perturbation_summary,
    report,
    wholes_summary,
    words_summary,
    words_table,
)
from clipmapper.caption_relevance.weights import METRICS, caption_weights
from clipmapper.caption_truth import scenes_of
from clipmapper.config import DataConfig, ProtocolName
from clipmapper.data.captions import Captions
from clipmapper.data.files import BadData, MissingData
from clipmapper.data.images import load_image
from clipmapper.data.records import load_caption_split
from clipmapper.data.shapes.write import ShapesConfig
from clipmapper.errors import unknown
from clipmapper.explain import preprocessing
from clipmapper.explain_caption import require_captioner
from clipmapper.files import write_json
from clipmapper.model import CLIPMapper
from clipmapper.sources import trained
from xai.evaluation.protocols import Protocol
from xai.explainers import EXPLAINERS, LRP_EXPLAINERS
from xai.files import replacing

METHODS = [name for name in (*EXPLAINERS, *LRP_EXPLAINERS) if name != RANDOM]  # whose floor is always measured


def measure(
    model: str,
    output: Path,
    samples: int = 200,
    root: Path = Path("data/shapes"),
    methods: list[str] | None = None,
    weighted: list[str] | None = None,
    weights: list[str] | None = None,
    protocol: ProtocolName | None = "wra",
    judge: str | None = None,
    pictures: int = 10,
    batch_size: int = 8,
    device: str | None = None,
) -> None:
    """Explains held-out captions and measures the explanations; writes metrics.json, Parquet tables and words.png.

    On Shapes, whose objects are known, it says where the maps of words fall.

    Args:
        model: a checkpoint of a captioner, or what CLIPMapper.from_pretrained takes.
        output: folder for the results.
        samples: held-out images, from all over the split.
        root: folder of COCO's official files, or of Shapes, which is written if missing.
        methods: names of explainers; by default all, of which integrated_gradients and smoothgrad take most of the time.
        weighted: methods whose whole captions are also weighed by `weights`; by default wra, if it is one of `methods`.
        weights: bleu4, cider, meteor (needs Java); all by default.
        protocol: by whose schedule patches are removed; null removes none.
        judge: another CLIP than the model's for RefCLIPScore, as model:weights of open_clip.
        pictures: captions in words.png.
        batch_size: images explained at once; each counts as many times as its caption has tokens.
        device: where to compute; a GPU by default if there is one.
    """
    names = methods or METHODS
    if weighted is None:
        weighted = [name for name in ("wra",) if name in names]
    wholes = chosen([*names, *weighted], weighted, weights or list(METRICS))
    if samples < 2 or batch_size < 1:
        raise ValueError(f"nothing to measure: {samples=} (at least 2), {batch_size=} (at least 1)")
    mapper = trained(model).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    require_captioner(mapper)
    captioned = held_out(mapper, DataConfig(root=root, shapes=ShapesConfig()), samples, batch_size)
    given = (mapper, captioned.tokens, captioned.references)
    counted = {name: caption_weights(*given, name) for name in dict.fromkeys(name for _, name in wholes)}
    rule = None if protocol is None else dropping(protocol)
    scorer = None
    if rule is not None:
        clip = mapper.clip if judge is None else other_judge(judge).to(mapper.token_ids.device)
        scorer = Judge.of(clip, captioned.sources, captioned.references)
    measured = measure_all(mapper, captioned, wholes, counted, rule, scorer, batch_size)
    result: dict[str, Any] = {"model": model, "root": str(root), "judge": judge or "the model's own CLIP"}
    result |= summarised(measured, wholes, rule, len(captioned.ids))
    save_all(output, measured, wholes, rule, captioned.ids, result)
    if pictures:
        save_pictures(output / "words.png", mapper, captioned.part(0, pictures), best_of(result, wholes))
    print(report(result))
    print(f"written: {', '.join(sorted(str(path) for path in output.iterdir()))}")


def chosen(methods: Sequence[str], weighted: Sequence[str], weights: Sequence[str]) -> list[Whole]:
    """All methods with equal weights, then some with others. Raises ValueError for names that are not known."""
    for name in (*methods, *weighted):
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    for name in weights:
        if name not in METRICS:
            raise unknown("weights of a caption's words", name, METRICS)
    others = [(method, name) for method in weighted for name in weights]
    return [*((method, AVERAGE) for method in dict.fromkeys(methods)), *dict.fromkeys(others)]


def held_out(model: CLIPMapper, data: DataConfig, count: int, batch_size: int) -> Captioned:
    """Validation images with the model's captions, and scenes if they are of Shapes."""
    records, root = load_caption_split(data, "val")
    captioned = caption_images(model, Captions(records, root, model.clip), count, batch_size)
    return replace(captioned, scenes=scenes_of(data.root, captioned.ids))


def summarised(measured: Measured, wholes: Sequence[Whole], protocol: Protocol | None, images: int) -> dict[str, Any]:
    """What was measured, of what there is."""
    methods = list(dict.fromkeys(method for method, _ in wholes))
    result: dict[str, Any] = {"images": images}
    if measured.in_words is not None:
        result |= {"words": words_summary(measured, methods), "wholes": wholes_summary(measured, wholes)}
    if protocol is not None:
        result["perturbation"] = perturbation_summary(measured, wholes, protocol)
    return result


def best_of(result: dict[str, Any], wholes: Sequence[Whole]) -> str:
    """The method whose maps of shapes fall most on them; the first if that is not known."""
    methods = list(dict.fromkeys(method for method, _ in wholes))
    if "words" not in result:
        return methods[0]
    shares = result["words"]["shape"]["mass"]
    return max(methods, key=lambda method: shares[method]["mean"] or 0)


def save_all(
    output: Path,
    measured: Measured,
    wholes: Sequence[Whole],
    protocol: Protocol | None,
    ids: Sequence[int],
    result: dict[str, Any],
) -> None:
    methods = list(dict.fromkeys(method for method, _ in wholes))
    if measured.in_words is not None:
        save_table(output / "words.parquet", words_table(measured, methods))
    if protocol is not None:
        save_table(output / "perturbation.parquet", curves_table(measured, wholes, protocol, ids))
    write_json(output / "metrics.json", result)


def save_table(path: Path, table: pa.Table) -> None:
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def save_pictures(path: Path, model: CLIPMapper, captioned: Captioned, method: str) -> None:
    """Captions with the maps of their words by one method."""
    relevance = explain_part(model, captioned, [method])[method]
    images = [load_image(source) for source in captioned.sources]
    relevance.save_filmstrip(path, images, preprocessing(model.clip))


def main() -> None:
    """Leaves with a message on bad input."""
    try:
        auto_cli(measure, as_positional=False)
    except (MissingData, BadData, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
