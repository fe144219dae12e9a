"""`python -m clipmapper.truth --model FOLDER_OR_CHECKPOINT --output DIR`."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from jsonargparse import auto_cli

from clipmapper.config import DataConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.data.files import BadData, MissingData, column
from clipmapper.data.records import load_split
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.shapes.write import ShapesConfig
from clipmapper.data.vqa import Questions
from clipmapper.errors import unknown
from clipmapper.files import write_json
from clipmapper.models.sources import trained
from clipmapper.truth.gallery import gallery_rows, save_gallery
from clipmapper.truth.scores import BASELINES, choose, explain_rows, score_all
from clipmapper.truth.summary import report, summary, table
from xai.explainers import EXPLAINERS, LRP_EXPLAINERS
from xai.files import replacing

SHOWN = 6  # questions in the gallery
COLUMNS = 5  # methods in it
METHODS = {**EXPLAINERS, **LRP_EXPLAINERS}


def measure(
    model: str,
    output: Path,
    samples: int = 500,
    root: Path = Path("data/shapes"),
    methods: list[str] | None = None,
    batch_size: int = 50,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Scores explainers against the truth of Shapes; writes samples.parquet, summary.json and gallery.png.

    Args:
        model: a checkpoint, or what CLIPMapper.from_pretrained takes.
        output: folder for the results.
        samples: held-out questions, of different scenes as long as there are enough.
        root: folder of Shapes; written if missing.
        methods: names of explainers; by default all, of which integrated_gradients and smoothgrad take most of the time.
        batch_size: questions a forward pass.
        seed: of the choice of questions.
        device: where to compute; a GPU by default if there is one.
    """
    names = [name for name in methods or METHODS if name not in BASELINES]
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    if not names or samples < 1 or batch_size < 1:
        raise ValueError(f"nothing to do: {samples=}, {batch_size=}, methods {', '.join(names) or 'none'}")
    mapper = trained(model).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = DataConfig(root=root, shapes=ShapesConfig())
    records, _ = load_split(data, "val", AnswerVocabulary(tuple(mapper.answers)))
    questions, truth = Questions(records, root, len(mapper.answers), mapper.clip), Truth(root)
    rows = choose(column(questions.records, "image_id").to_numpy(), samples, seed)
    measured = score_all(mapper, questions, truth, rows, names, batch_size)
    result = {"model": model, "root": str(root), "seed": seed, **summary(measured)}
    with replacing(output / "samples.parquet") as temporary:
        pq.write_table(table(measured), temporary)
    write_json(output / "summary.json", result)
    best = [entry["method"] for entry in result["figures"]["region_mass"]["ranking"]]
    shown = [name for name in best if name not in BASELINES][:COLUMNS]
    explained = explain_rows(mapper, questions, truth, gallery_rows(measured, SHOWN), shown)
    save_gallery(output / "gallery.png", explained, questions, truth)
    print(report(result))
    print(f"written: {', '.join(str(output / f) for f in ('samples.parquet', 'summary.json', 'gallery.png'))}")


def main() -> None:
    """Leaves with a message on bad input."""
    try:
        auto_cli(measure, as_positional=False)
    except (MissingData, BadData, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
