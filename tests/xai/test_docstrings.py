"""Public functions say what they take and give, their shapes are checked while tests run, and former names still work."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import jaxtyping
import pytest
import torch

import xai
from xai import Adapter, Method, Relevance
from xai.explainers.algebra import rownorm
from xai.metrics.removal import drop
from xai.results.captions import CaptionRelevance

METRICS = (
    "localisation",
    "pairs",
    "perturbation",
    "protocols",
    "ranking",
    "removal",
    "resampling",
    "sanity",
    "segmentation",
    "statistics",
)
CLASSES = (Relevance, CaptionRelevance, Adapter, Method)


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in xai.__all__:
        if inspect.isfunction(inspect.unwrap(getattr(xai, name))) and name != "adapter_for":
            yield name, getattr(xai, name)
    for module in (import_module(f"xai.metrics.{name}") for name in METRICS):
        for name, value in vars(module).items():
            ours = getattr(value, "__module__", None) == module.__name__
            if ours and not name.startswith("_") and inspect.isfunction(inspect.unwrap(value)) and name != "keep_masks":
                yield f"{module.__name__}.{name}", value


@pytest.mark.parametrize(("name", "function"), list(public()))
def test_a_public_function_says_its_arguments_and_shows_its_use(name: str, function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    arguments = re.search(r"^Args:\n((?: .*\n|\n)+)", text, re.MULTILINE)
    described = re.findall(r"^    (\w+): ", arguments[1], re.MULTILINE) if arguments else []
    assert described == list(inspect.signature(function).parameters)
    assert "\nExample:\n    >>> " in text
    annotation = str(inspect.signature(function).return_annotation)
    nothing = annotation in ("None", "collections.abc.Iterator[None]")
    assert nothing or "\nReturns:\n" in text or "\nYields:\n" in text or text.startswith("Returns ")


@pytest.mark.parametrize("method", list(xai.METHODS.values()), ids=lambda method: method.name)
def test_an_explainer_says_its_options_and_its_source(method: Method) -> None:
    text = inspect.getdoc(method.function) or ""
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, re.MULTILINE) == list(inspect.signature(method.function).parameters)
    assert "\nReturns:\n" in text and "\nSource:\n" in text and method.source


@pytest.mark.parametrize("kind", CLASSES)
def test_a_public_class_says_its_attributes_and_shows_its_use(kind: type) -> None:
    text = inspect.getdoc(kind) or ""
    fields = list(inspect.signature(kind).parameters)
    assert re.findall(r"^    (\w+): ", text.partition("Attributes:\n")[2].partition("\n\n")[0], re.MULTILINE) == fields
    assert "\nExample:\n    >>> " in text


def test_shapes_are_checked_while_tests_run() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="keep"):
        drop(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="M"):
        rownorm(torch.ones(2, 2, dtype=torch.long))


def test_former_names_still_work() -> None:
    assert xai.explain_tape is xai.explain_recording
    former, present = (import_module(f"xai.{name}.localisation") for name in ("evaluation", "metrics"))
    assert former is present
