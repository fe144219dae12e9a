"""The comparison of `evaluate.py --explainers` for captions: measured in batches that stay on disk, then summed up."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from tqdm import tqdm

from clipmapper.caption_relevance import page
from clipmapper.caption_relevance.curves import draw
from clipmapper.caption_relevance.measure import (
    AVERAGE,
    RANDOM,
    Captioned,
    Measured,
    Rule,
    Whole,
    explain_part,
    joined,
    measure_part,
)
from clipmapper.caption_relevance.parts import from_plain, plain
from clipmapper.caption_relevance.perturbation import Judge, dropping
from clipmapper.caption_relevance.summary import (
    bands,
    curves_table,
    label,
    perturbation_summary,
    report,
    wholes_summary,
    words_summary,
    words_table,
)
from clipmapper.comparison.curves import save
from clipmapper.comparison.parts import Parts, keep, known
from clipmapper.data.images import load_image
from clipmapper.explain.answers import preprocessing
from clipmapper.explain.weights import METRICS, caption_weights
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.fingerprint import weights_fingerprint
from xai.files import replacing
from xai.report.build import write_report
from xai.report.data import Sample

BATCH = 8  # captions explained at once; each counts as many times as it has tokens
FILMSTRIPS = 10
WEIGHTED = "wra"  # the method whose whole captions are also weighed by metrics

Weighed = dict[str, list[Tensor]]  # by name, of each caption the weights of its tokens


@dataclass(frozen=True)
class Plan:
    """Which methods explain which captions, by whose schedule patches are removed, and which CLIP judges new captions.

    `facts` stand at the foot of the report.
    """

    captioned: Captioned
    methods: tuple[str, ...]
    protocol: str
    judge: FrozenCLIP
    facts: Mapping[str, str]


def compare(model: CLIPMapper, plan: Plan, output: Path) -> dict[str, Any]:
    """What metrics.json holds under "explainers"; goes on where an interrupted run of the same plan stopped.

    Batches are kept in `output`/explainers. Writes words.parquet where the scenes are known, perturbation.parquet,
    curves.png, filmstrips.png and report.html, and prints the tables. Raises ValueError for less than two captions, or if
    the folder holds another comparison.
    """
    model.eval()
    weights, missing = weights_of(model, plan)
    wholes = wholes_of(plan.methods, tuple(weights))
    parts = Parts(output / "explainers", _described(model, plan, wholes))
    batches = _measured(model, plan, wholes, weights, parts.folder)
    measured = joined([from_plain(batch["measured"]) for batch in batches])
    result = summarised(measured, wholes, plan) | {"errors": measured.errors, "not computed": missing}
    _save_tables(output, measured, wholes, plan)
    by_figure = {f"image/{name}": band for name, band in bands(measured, wholes).items()}
    save(draw(by_figure, [*map(label, wholes), RANDOM], plan.protocol), output / "curves.png")
    if worked := [method for method in plan.methods if method not in measured.errors]:
        some = plan.captioned.part(0, FILMSTRIPS)
        save_filmstrips(output / "filmstrips.png", model, some, best_of(result, worked))
    shown = _gallery(model, plan, batches)
    write_report(page.report(result, wholes, shown, {**plan.facts, "protocol": plan.protocol}), output / "report.html")
    print(report(result))
    return result


def weights_of(model: CLIPMapper, plan: Plan) -> tuple[Weighed, dict[str, str]]:
    """Equal weights and, for WEIGHTED, those by each metric; and why some metrics cannot be computed here."""
    found: Weighed = {}
    missing: dict[str, str] = {}
    for name in (AVERAGE, *(METRICS if WEIGHTED in plan.methods else ())):
        try:
            found[name] = caption_weights(model, plan.captioned.tokens, plan.captioned.references, name)
        except ValueError as error:
            missing[name] = str(error)
    return found, missing


def wholes_of(methods: Sequence[str], weights: Sequence[str]) -> list[Whole]:
    """All methods with equal weights, then WEIGHTED with the others."""
    return [*((method, AVERAGE) for method in methods), *((WEIGHTED, name) for name in weights if name != AVERAGE)]


def summarised(measured: Measured, wholes: Sequence[Whole], plan: Plan) -> dict[str, Any]:
    result: dict[str, Any] = {"images": len(plan.captioned.ids)}
    if measured.in_words is not None:
        result |= {"words": words_summary(measured, plan.methods), "wholes": wholes_summary(measured, wholes)}
    return result | {"perturbation": perturbation_summary(measured, wholes, dropping(plan.protocol))}


def best_of(result: dict[str, Any], methods: Sequence[str]) -> str:
    """The method whose maps of shapes fall most on them; the first if that is not known."""
    shares = result["words"]["shape"]["mass"] if "words" in result else {}
    return max(methods, key=lambda method: (shares[method]["mean"] or 0) if shares else 0)


def save_filmstrips(path: Path, model: CLIPMapper, captioned: Captioned, method: str) -> None:
    """Captions with the maps of their words by one method."""
    relevance = explain_part(model, captioned, [method]).relevances[method]
    images = [load_image(source) for source in captioned.sources]
    relevance.save_filmstrip(path, images, preprocessing(model.clip))


def _described(model: CLIPMapper, plan: Plan, wholes: Sequence[Whole]) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    return {
        "model": weights_fingerprint(model),
        "images": plan.captioned.ids,
        "methods": plan.methods,
        "maps": ["/".join(whole) for whole in wholes],
        "protocol": plan.protocol,
        "judge": plan.judge.fingerprint,
        "batch": BATCH,
    }


def _measured(
    model: CLIPMapper, plan: Plan, wholes: Sequence[Whole], weights: Weighed, folder: Path
) -> list[dict[str, Any]]:
    """The batches, of which those in `folder` are not measured again."""
    starts = range(0, len(plan.captioned.ids), BATCH)
    paths = [folder / f"part-{i:05d}.json" for i, _ in enumerate(starts)]
    todo = [i for i, path in enumerate(paths) if known(path) is None]
    if todo:
        judge = Judge.of(plan.judge, plan.captioned.sources, plan.captioned.references)
        rule = Rule(wholes, dropping(plan.protocol), judge)
        for i in tqdm(todo, desc="explainers", unit="batch", initial=len(paths) - len(todo), total=len(paths)):
            keep(paths[i], _batch(model, plan, weights, rule, starts[i]))
    return [known(path) for path in paths]


def _batch(model: CLIPMapper, plan: Plan, weights: Weighed, rule: Rule, start: int) -> dict[str, Any]:
    """Figures of some captions, and the explanations of those that the report shows, by their places."""
    part = plan.captioned.part(start, BATCH)
    own = {name: values[start : start + BATCH] for name, values in weights.items()}
    found = explain_part(model, part, plan.methods)
    places = range(start, start + len(part.ids))
    shown = {}
    for i in _shown(plan):
        if i in places:
            scene = None if part.scenes is None else part.scenes[i - start]
            by_method = page.explanations(found.worked, i - start, scene, model.clip.grid)
            shown[i] = {method: asdict(explanation) for method, explanation in by_method.items()}
    return {"measured": plain(measure_part(model, part, found, own, rule, places)), "shown": shown}


def _shown(plan: Plan) -> list[int]:
    """Places from all over the captions."""
    count = len(plan.captioned.ids)
    return np.linspace(0, count - 1, min(page.GALLERY, count)).astype(int).tolist()


def _gallery(model: CLIPMapper, plan: Plan, batches: Sequence[Mapping[str, Any]]) -> list[Sample]:
    samples = []
    for place, by_method in ((int(place), by) for batch in batches for place, by in batch["shown"].items()):
        explained = {method: page.from_plain(values) for method, values in by_method.items()}
        text = model.text_of(plan.captioned.tokens[place])
        samples.append(page.sample(plan.captioned, place, text, explained, model.clip))
    return samples


def _save_tables(output: Path, measured: Measured, wholes: Sequence[Whole], plan: Plan) -> None:
    if measured.in_words is not None:
        _save_table(output / "words.parquet", words_table(measured, plan.methods))
    curves = curves_table(measured, wholes, dropping(plan.protocol), plan.captioned.ids)
    _save_table(output / "perturbation.parquet", curves)


def _save_table(path: Path, table: pa.Table) -> None:
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
