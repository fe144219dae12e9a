"""The models of the page, loaded when they are first asked, and the methods that fit them."""

from collections import OrderedDict
from threading import Lock

import torch

from clipmapper.config import ModelSource
from clipmapper.explain.answers import mapper_adapter
from clipmapper.explain.models.base import Classifier, VQAModel
from clipmapper.explain.models.captioner import Captioner, MapperCaptioner
from clipmapper.explain.models.dual_encoder import DualEncoder
from clipmapper.explain.models.generative import GenerativeVQA
from clipmapper.explain.models.load import load_model
from clipmapper.explain.models.regions import RegionModel
from clipmapper.explain.models.zero_shot import ZeroShotModel
from clipmapper.models.clip_mapper import CLIPMapper
from xai.explainers.registry import METHODS
from xai.explainers.table import CLIPS, TOWERS, WRITERS
from xai.explanation import RECOMMENDED

Model = VQAModel | Captioner
KEPT = 2  # models in memory
NAME = 1000  # letters at most, with all that is said of a model


class Models:
    """Models by the names that `evaluate.py --model` takes; the ones asked last stay in memory.

    Args:
        device: where they compute.

    Example:
        >>> import torch
        >>> from clipmapper.app.models import Models
        >>> Models(torch.device("cpu"))["shapes-b-vqa"].description
        'mapper b over shapes-vit-8'
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.lock = device, Lock()
        self.loaded: OrderedDict[str, Model] = OrderedDict()

    def __getitem__(self, name: str) -> Model:
        """Returns a model; raises ValueError, with a remedy, for one that cannot be loaded or explained."""
        with self.lock:
            if name not in self.loaded:
                model = usable(name).to(self.device)
                while len(self.loaded) >= KEPT:
                    self.loaded.popitem(last=False)
                self.loaded[name] = model
            self.loaded.move_to_end(name)
            return self.loaded[name]


def usable(name: str) -> Model:
    """Loads a model that can be asked about a picture alone."""
    if not name.strip():
        raise ValueError("no model is named; choose one of the list, or name a folder, a hub id or MODEL:WEIGHTS")
    if len(name) > NAME:
        raise ValueError(f"a model's name of {len(name)} letters is none; give one of at most {NAME}")
    model = load_model(ModelSource.parse(name.strip()))
    if isinstance(model, RegionModel):
        raise ValueError(
            f"{name} sees the regions that a detector found, which a picture alone does not have; "
            "choose a model that sees pixels"
        )
    if not isinstance(model, CLIPMapper):
        return model
    mapper_adapter(model)  # refuses one that is blind to the image or the text
    return MapperCaptioner(model)


def has_rivals(model: Model) -> bool:
    """Returns whether one pass gives the logits of all answers, so that one can be explained against another."""
    return isinstance(model, Classifier) and not isinstance(model, ZeroShotModel | DualEncoder)


def methods_for(model: Model) -> list[str]:
    """Returns the methods that fit a model, the recommended one first: those that score tokens, and random last.

    Example:
        >>> import torch
        >>> from clipmapper.app.models import Models, methods_for
        >>> methods_for(Models(torch.device("cpu"))["shapes-b-vqa"])[0]
        'consensus'
    """
    kinds = {""}
    if isinstance(model, GenerativeVQA | Captioner):
        kinds |= {WRITERS}
    if isinstance(model, ZeroShotModel | DualEncoder):
        kinds |= {CLIPS, TOWERS}
    names = [name for name, method in METHODS.items() if method.start != "pixels" and method.models in kinds]
    return sorted(names, key=lambda name: (name != RECOMMENDED, name == "random"))
