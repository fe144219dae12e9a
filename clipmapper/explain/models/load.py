"""Reference models by their configuration: `KINDS` names the kinds there are."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from clipmapper.config import ReferenceConfig
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.errors import unknown
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.explain.models.regions import FAMILIES, RegionModel
from clipmapper.explain.models.zero_shot import ZeroShotModel
from clipmapper.models.clip import FrozenCLIP
from clipmapper.training.sources import trained
from xai.adapters.regions import Regions, RegionTable, read_npz

UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls labels without names


def load_reference(reference: ReferenceConfig, common: Sequence[str]) -> VQAModel:
    """The model in eval mode; `common` are the answers of the run, the commonest first.

    Raises ValueError, saying what is wrong and what can be given.
    """
    where = f"explain.reference_models: {reference.label!r}"
    if reference.kind not in KINDS:
        raise ValueError(f"{where}: {unknown('kind of model', reference.kind, KINDS)}")
    load, options, remedy = KINDS[reference.kind]
    for name in reference.chosen():
        if name not in options:
            raise ValueError(f"{where}: {name} is no option of kind {reference.kind}; leave it out")
    try:
        return load(reference, common)
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(f"{where} is no model to compare with ({error}). It may name {remedy}") from error


def _mapper(reference: ReferenceConfig, common: Sequence[str]) -> VQAModel:
    return MapperModel(trained(reference.name))


def _zero_shot(reference: ReferenceConfig, common: Sequence[str]) -> VQAModel:
    """The answers it chooses from: those of the file, or the commonest of the run."""
    name, colon, weights = reference.name.partition(":")
    if not colon:
        raise ValueError(f"{reference.name!r} names no weights")
    answers = common if reference.answers is None else AnswerVocabulary.from_file(reference.answers).answers
    return ZeroShotModel(FrozenCLIP(name, weights), list(answers)[: reference.candidates])


def _of_regions(kind: str, reference: ReferenceConfig, common: Sequence[str]) -> VQAModel:
    family = FAMILIES[kind]
    if reference.regions is None:
        raise ValueError("it sees regions: name their table as `regions`")
    model, loading = getattr(transformers, family.model).from_pretrained(reference.name, output_loading_info=True)
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"it lacks weights of {family.model}, such as {missing[0]!r}: it was not trained for VQA")
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference.tokenizer or reference.name)
    answers = _answers(model.eval(), reference)
    return RegionModel(family, model, tokenizer, answers, regions_of(reference.regions))


def _answers(model: nn.Module, reference: ReferenceConfig) -> list[str]:
    """Those of the file, or the model's own, in the order of its logits."""
    config: Any = model.config
    count = getattr(config, "num_qa_labels", None) or config.num_labels
    if reference.answers is not None:
        answers = list(AnswerVocabulary.from_file(reference.answers).answers)
    else:
        answers = [str(config.id2label[i]) for i in sorted(config.id2label)]
        if len(answers) != count or any(map(UNNAMED.fullmatch, answers)):
            raise ValueError("its config.json does not name its answers: give their label2ans JSON list as `answers`")
    if len(answers) != count:
        raise ValueError(f"{reference.answers} has {len(answers)} answers, but the model's head {count}")
    return answers


def regions_of(path: Path) -> Callable[[str], Regions | None]:
    """Regions by an image's id or file name: of a table, or of a folder with an npz file for each image."""
    if path.is_dir():
        return lambda image: read_npz(file) if (file := path / f"{image}.npz").is_file() else None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of regions; give a TSV file or a folder of npz files")
    if path.suffix == ".npz":
        raise ValueError(f"{path} holds the regions of one image; give the folder of all")
    return RegionTable(path).get


OF_REGIONS = "a folder of save_pretrained or a hub id, with its tokenizer"
KINDS: dict[str, tuple[Callable[[ReferenceConfig, Sequence[str]], VQAModel], set[str], str]] = {  # options, remedy
    "clipmapper": (
        _mapper,
        set(),
        "a CLIPMapper for vqa: a checkpoint of train.py, a folder of save_pretrained, a model that ships, or a hub id",
    ),
    **{
        kind: (
            partial(_of_regions, kind),
            {"regions", "tokenizer", "answers"},
            f"a {family.model} of transformers: {OF_REGIONS}",
        )
        for kind, family in FAMILIES.items()
    },
    "clip": (_zero_shot, {"answers", "candidates"}, "a CLIP as open_clip's MODEL:WEIGHTS, such as ViT-B-32:openai"),
}
