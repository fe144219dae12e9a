"""A model from wherever it is kept: `KINDS` names the kinds there are."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import hf_hub_download
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from clipmapper.config import SHIPPED, SHIPPED_STOCK, ModelSource
from clipmapper.data.answers import AnswerVocabulary
from clipmapper.errors import unknown
from clipmapper.explain.models.base import VQAModel
from clipmapper.explain.models.blip import BlipAnswers
from clipmapper.explain.models.captioner import Captioner
from clipmapper.explain.models.classifiers import TransformersClassifier
from clipmapper.explain.models.dual_encoder import DualEncoder
from clipmapper.explain.models.generative import QUESTION, GenerativeCaptioner, GenerativeVQA
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.explain.models.regions import FAMILIES, RegionModel
from clipmapper.explain.models.zero_shot import ZeroShotModel
from clipmapper.models.clip import ASSETS, FrozenCLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.hub import require_hub
from clipmapper.models.pretrained import from_transformers
from clipmapper.models.saved import REMEDY
from xai.adapters.regions import Regions, RegionTable, read_npz
from xai.files import read_json

UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls labels without names
# by model_type of config.json, our kinds; what else writes texts about images is generative
TYPES = {"lxmert": "lxmert", "visual_bert": "visualbert", "vilt": "classifier"}
TYPES |= dict.fromkeys(("clip", "siglip", "chinese_clip", "altclip"), "dual_encoder")
Loaded = VQAModel | Captioner | CLIPMapper


def load_model(source: ModelSource, common: Sequence[str] = ()) -> Loaded:
    """Loads a model in eval mode, without executing code that came with it.

    Args:
        source: where it is, and what is needed beside it.
        common: answers of the data, the commonest first, which a zero-shot CLIP chooses from.

    Returns:
        A model that answers questions or one of transformers that writes captions; or a CLIPMapper that writes captions, or is
        blind to the image or the question.

    Raises:
        ValueError: says what is wrong, and what can be given.

    Example:
        >>> from clipmapper.config import ModelSource
        >>> from clipmapper.explain.models.load import load_model
        >>> load_model(ModelSource("shapes-b-vqa")).description
        'mapper b over shapes-vit-8'
    """
    label, source = source.label, replace(source, name=place_of(source.name))
    kind = source.kind or kind_of(source.name)
    if kind not in KINDS:
        raise ValueError(f"{label!r}: {unknown('kind of model', kind, KINDS)}")
    load, options, remedy = KINDS[kind]
    for name in source.options():
        if name not in options:
            raise ValueError(f"{label!r}: {name} is no option of kind {kind}; leave it out")
    try:
        return load(source, common)
    except (ValueError, OSError, TypeError, RuntimeError) as error:
        raise ValueError(f"{label!r} cannot be loaded ({error}). It may name {remedy}") from error


def place_of(name: str) -> str:
    """Returns the folder of a model of transformers' classes that ships; other names as they are."""
    return str(ASSETS / name) if name in SHIPPED_STOCK else name


def needs_answers(source: ModelSource) -> bool:
    """Returns whether a model chooses from answers that neither it nor its source names."""
    return source.answers is None and (source.kind or kind_of(place_of(source.name))) in ("clip", "dual_encoder")


def kind_of(name: str) -> str:
    """Returns the kind of a model by what there is under its name.

    Raises:
        ValueError: there is nothing, or nothing that answers or captions.
    """
    model, colon, _ = name.partition(":")
    if name in SHIPPED or Path(name).suffix == ".ckpt" or Path(name).is_file():
        return "clipmapper"
    if colon and "/" not in model and not Path(name).exists():
        return "clip"
    described = _description(name)
    if {"config", "answers", "clip_fingerprint"} <= described.keys():
        return "clipmapper"
    if (model_type := described.get("model_type")) in TYPES:
        return TYPES[model_type]
    if model_type in (*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "blip"):
        return "generative"
    raise ValueError(
        f"{name!r} is a model of type {model_type!r}, which cannot be evaluated here; give a CLIPMapper, LXMERT, VisualBERT, "
        "ViLT or BLIP for VQA, a generative model of images and text such as LLaVA, or a CLIP as open_clip's MODEL:WEIGHTS"
    )


def _description(name: str) -> dict[str, Any]:
    """Reads config.json of a folder or a hub id."""
    path = Path(name) / "config.json"
    if not Path(name).is_dir():
        if name.count("/") != 1 or name.startswith((".", "/")):
            raise unknown(
                "model (neither a checkpoint, a saved folder, a hub id nor open_clip's MODEL:WEIGHTS)",
                name,
                (*SHIPPED, *SHIPPED_STOCK),
            )
        require_hub(name, f"model {name}", "fetch it where there is a network, or give a folder of save_pretrained")
        try:
            path = Path(hf_hub_download(name, "config.json"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{name!r} is no folder here, and the hub does not give it ({error})") from error
    if not path.is_file():
        raise ValueError(f"{name!r} has no config.json; give a folder of save_pretrained")
    described = read_json(path, REMEDY)
    if not isinstance(described, dict):
        raise ValueError(f"{path} is not the description of a model")
    return described


def _mapper(source: ModelSource, common: Sequence[str]) -> Loaded:
    model = CLIPMapper.from_pretrained(source.name)
    answers = model.config.task == "vqa" and model.config.sees == "both"
    return MapperModel(model) if answers else model


def _zero_shot(source: ModelSource, common: Sequence[str]) -> VQAModel:
    """The answers it chooses from: those of the file, or the commonest of the run."""
    name, colon, weights = source.name.partition(":")
    if not colon:
        raise ValueError(f"{source.name!r} names no weights")
    return ZeroShotModel(FrozenCLIP(name, weights), _candidates(source, common))


def _dual_encoder(source: ModelSource, common: Sequence[str]) -> VQAModel:
    model = from_transformers(transformers.AutoModel, source.name, "similarity of images and texts").eval()
    if not hasattr(model, "get_text_features"):
        raise ValueError(f"a {type(model).__name__} has no features of images and of texts")
    return DualEncoder(model, _processor(source), _candidates(source, common))


def _candidates(source: ModelSource, common: Sequence[str]) -> list[str]:
    """Returns the answers that are chosen from; raises ValueError if there are none."""
    answers = common if source.answers is None else AnswerVocabulary.from_file(source.answers).answers
    if not answers:
        raise ValueError("it chooses from a list of answers: give their JSON list as `answers`")
    return list(answers)[: source.candidates]


def _of_regions(kind: str, source: ModelSource, common: Sequence[str]) -> VQAModel:
    family = FAMILIES[kind]
    if source.regions is None:
        raise ValueError("it sees regions: name their table as `regions`")
    model = from_transformers(getattr(transformers, family.model), source.name, "VQA")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.tokenizer or source.name)
    answers = _answers(model.eval(), source)
    return RegionModel(family, model, tokenizer, answers, regions_of(source.regions))


def _classifier(source: ModelSource, common: Sequence[str]) -> VQAModel:
    model = from_transformers(transformers.ViltForQuestionAnswering, source.name, "VQA").eval()
    return TransformersClassifier(model, _processor(source), _answers(model, source))


def _generative(source: ModelSource, common: Sequence[str]) -> Loaded:
    """A model that answers if its prompt has a place for the question, or by itself if it chats or is BLIP's for VQA."""
    named = _description(source.name).get("architectures") or [""]
    cls = getattr(transformers, str(named[0]), None)
    if cls is None or not hasattr(cls, "generate"):
        raise ValueError(f"its config.json names no class of transformers that writes texts, but {named[0]!r}")
    model, processor = from_transformers(cls, source.name, "texts about images").eval(), _processor(source)
    for_answers = isinstance(model, transformers.BlipForQuestionAnswering)
    chats = getattr(processor, "chat_template", None) is not None
    if for_answers or (chats if source.prompt is None else QUESTION in source.prompt):
        return GenerativeVQA(BlipAnswers(model) if for_answers else model, processor, source.prompt)
    return GenerativeCaptioner(model, processor, source.prompt)


def _processor(source: ModelSource) -> Any:
    return transformers.AutoProcessor.from_pretrained(source.name)


def _answers(model: nn.Module, source: ModelSource) -> list[str]:
    """Returns the answers of the file, or the model's own, in the order of its logits."""
    config: Any = model.config
    count = getattr(config, "num_qa_labels", None) or config.num_labels
    if source.answers is not None:
        answers = list(AnswerVocabulary.from_file(source.answers).answers)
    else:
        answers = [str(config.id2label[i]) for i in sorted(config.id2label)]
        if len(answers) != count or any(map(UNNAMED.fullmatch, answers)):
            raise ValueError("its config.json does not name its answers: give their label2ans JSON list as `answers`")
    if len(answers) != count:
        raise ValueError(f"{source.answers} has {len(answers)} answers, but the model's head {count}")
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


SAVED = "a folder of save_pretrained or a hub id, with its processor"
OF_REGIONS = "a folder of save_pretrained or a hub id, with its tokenizer"
KINDS: dict[str, tuple[Callable[[ModelSource, Sequence[str]], Loaded], set[str], str]] = {  # options, remedy
    "clipmapper": (
        _mapper,
        set(),
        "a CLIPMapper: a checkpoint of train.py, a folder of save_pretrained, a model that ships, or a hub id",
    ),
    **{
        kind: (
            partial(_of_regions, kind),
            {"regions", "tokenizer", "answers"},
            f"a {family.model} of transformers: {OF_REGIONS}",
        )
        for kind, family in FAMILIES.items()
    },
    "classifier": (_classifier, {"answers"}, f"a ViltForQuestionAnswering of transformers: {SAVED}"),
    "generative": (_generative, {"prompt"}, f"a generative model of transformers for images and text: {SAVED}"),
    "dual_encoder": (_dual_encoder, {"answers", "candidates"}, f"a CLIP or SigLIP of transformers: {SAVED}"),
    "clip": (_zero_shot, {"answers", "candidates"}, "a CLIP as open_clip's MODEL:WEIGHTS, such as ViT-B-32:openai"),
}
