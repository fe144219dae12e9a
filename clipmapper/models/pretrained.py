"""Weights that others have saved: they are all there, they fit, and they are numbers, or the model is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from clipmapper.models.hub import require_hub
from xai.files import read_json

UNUSED = {"VisualBertForQuestionAnswering": ("visual_bert.pooler.",)}  # by class: parts that its logits do not read
NAMED = 3  # tensors that an error names
MOST_LAYERS = 10_000


def from_transformers(auto: Any, source: str, purpose: str) -> Any:
    """Returns what a class of transformers makes of saved weights; code and pickles beside them are never run.

    Args:
        auto: an Auto class, or the class of a model.
        source: a folder of `save_pretrained`, or a hub id.
        purpose: what the model is for, in words: "image classification".

    Raises:
        ValueError: there are no weights, some are missing or have another shape, which transformers would draw at random, or
            some are not finite. Names the source, the tensors and the remedy.
        OSError: transformers' own, for a source that is not there.
    """
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise ValueError(f"{source} has no config.json; give a folder of save_pretrained")
    if Path(source).exists():
        _refuse_countless_layers(read_json(Path(source) / "config.json"), source)
    if not Path(source).exists() and (source.startswith(("/", ".")) or source.count("/") > 1):
        raise ValueError(
            f"there is no folder {source}; give a folder of save_pretrained, or a hub id such as owner/name"
        )
    if not Path(source).exists():
        require_hub(source, f"model {source}", "fetch it where there is a network, or give a folder of save_pretrained")
    try:
        model, loading = auto.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
        )
    except SafetensorError as error:
        raise ValueError(
            f"{source}: its weights are truncated or no safetensors file ({error}): fetch them anew"
        ) from error
    except Exception as error:
        if not Path(source).exists():
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{source}: transformers makes no model for {purpose} of its config.json ({reason}); fetch the folder anew, or "
            "give another model"
        ) from error
    kind = type(model).__name__
    remedy = f"it was not trained for {purpose}; give a folder of {kind}.save_pretrained after training"
    if other := sorted(loading["mismatched_keys"]):
        shapes = [f"{name} {list(there)} where config.json asks for {list(here)}" for name, there, here in other]
        raise ValueError(f"{source} has weights of another shape: {some(shapes)}; {remedy}")
    if missing := sorted(name for name in loading["missing_keys"] if _needed(name, model)):
        raise ValueError(f"{source} lacks weights of {kind}: {some(missing)}; {remedy}")
    if extra := _layers_left_out(sorted(loading["unexpected_keys"]), model):
        raise ValueError(
            f"{source} has layers that its config.json leaves out: {some(extra)}; correct their number there"
        )
    require_finite(model.state_dict(), source)
    return model


def _refuse_countless_layers(config: Any, source: str, name: str = "") -> None:
    """Raises ValueError for a number of layers that would take hours to make before anything can be compared."""
    if isinstance(config, Mapping | list):
        for key, value in config.items() if isinstance(config, Mapping) else ((name, value) for value in config):
            _refuse_countless_layers(value, source, str(key))
    elif isinstance(config, int) and config > MOST_LAYERS and ("layers" in name or "depth" in name):
        raise ValueError(f"{source}: its config.json says {name} {config}; correct it, or fetch the folder anew")


def _layers_left_out(names: list[str], model: nn.Module) -> list[str]:
    """Returns tensors of a list of layers that is shorter in the model."""
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    beyond = [(f"{name}.", len(part)) for name, part in lists]
    return [
        name
        for name in names
        for prefix, count in beyond
        if name.startswith(prefix)
        and (number := name[len(prefix) :].partition(".")[0]).isdecimal()
        and int(number) >= count
    ]


def _needed(name: str, model: nn.Module) -> bool:
    """Tells whether logits depend on a tensor that was not loaded. Buffers of whole numbers are positions and counters."""
    whole = {other for other, buffer in model.named_buffers() if not buffer.is_floating_point()}
    return name not in whole and not name.startswith(UNUSED.get(type(model).__name__, ()))


def require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises ValueError, naming the source and the tensors, where a value is NaN or infinite."""
    spoilt = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if spoilt:
        raise ValueError(
            f"{source}: weights are NaN or infinite: {some(spoilt)}; fetch the file anew, or take a checkpoint from before"
        )


def some(names: list[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
