"""How much memory it takes to explain what a model writes, told without running it: from shapes alone."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xai.explainers.registry import as_method
from xai.explanation import RECOMMENDED, Named
from xai.generation.inputs import is_encoder_decoder
from xai.lrp.propagation import Propagation
from xai.lrp.ruling import Ruling
from xai.recording.attention import scaled_dot_product
from xai.recording.unchanged import evaluation


class ExplanationMemory(NamedTuple):
    """Bytes beside the model's own.

    Attributes:
        recording: of one recorded pass: what its graph has saved, and the attentions.
        word: more for each word that one backward pass serves: the gradients of all attentions. Methods that read
            means over heads of them, as GenAtt and WRA, keep these alone, so that it is an upper bound.
    """

    recording: int
    word: int


def explanation_memory(
    model: nn.Module, tokens: int, method: Named = RECOMMENDED, images: int = 1, dtype: torch.dtype | None = None
) -> ExplanationMemory:
    """Computes what a recording of a generative model of transformers takes, from a copy of it that has shapes alone.

    Args:
        model: a language model, or one that sees images; one made under `torch.device("meta")` will do.
        tokens: of the text: prompt, image tokens and what was written; of an encoder's text as many.
        method: as of `xai.explain`; methods that propagate relevance keep more.
        images: how many the vision tower sees, or tiles of them, if the model has one that takes pixels.
        dtype: of the weights; None for the model's own.

    Returns:
        Bytes of the recording, and of each word that is explained at once (`at_once` of `explain_generated`).

    Raises:
        ValueError: fewer than one token.
        TypeError: a model that cannot be made from its configuration.
        PropagationError: an operation that has no rule for relevance.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from xai import explanation_memory
        >>> sizes = dict(vocab_size=100, num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128)
        >>> with torch.device("meta"):  # no weights
        ...     model = LlamaForCausalLM(LlamaConfig(**sizes))
        >>> memory = explanation_memory(model, tokens=500, method="wra")
        >>> memory.word == 4 * 2 * (4 * 500 * 500 + 2 * 500 * 64)  # bytes x layers x (heads x queries x keys + 2 states)
        True
        >>> memory.recording < explanation_memory(model, 500, "attn_lrp").recording
        True
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; give at least 1")
    known = as_method(method)
    copy: Any = _of_shapes(model, dtype)
    passes = [_pass(part, inputs, known.start is not None) for part, inputs in _parts(copy, tokens, images)]
    recording, word = (sum(values) for values in zip(*passes, strict=True))
    head = copy.get_output_embeddings()
    if not is_encoder_decoder(copy) and head is not None and _language(copy) is not copy:
        recording += tokens * head.weight.shape[0] * head.weight.element_size()
    return ExplanationMemory(recording, word * (1 if known.start is None else 2))


def _of_shapes(model: Any, dtype: torch.dtype | None) -> nn.Module:
    try:
        with torch.device("meta"):
            copy = type(model)(model.config)
    except Exception as error:
        raise TypeError(f"{type(model).__name__} cannot be made from its configuration: {error}") from error
    return copy.to(next(model.parameters()).dtype if dtype is None else dtype).eval().requires_grad_(False)


def _language(model: Any) -> Any:
    """The part that reads the text."""
    decoder = None if is_encoder_decoder(model) else getattr(model, "get_decoder", lambda: None)()
    return model if decoder is None or decoder is getattr(model, "base_model", None) else decoder


def _parts(model: Any, tokens: int, images: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The parts of a model that are recorded, and what they are given."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    language, name = _language(model), "input_ids"
    inputs = {name: ids, "decoder_input_ids": ids} if is_encoder_decoder(model) else {name: ids}
    yield language, {**inputs, "use_cache": False}
    for part in model.modules():
        takes = getattr(part, "main_input_name", None)
        size = getattr(getattr(part, "config", None), "image_size", None)
        if part is not model and takes == "pixel_values" and size is not None and hasattr(part, "get_input_embeddings"):
            height, width = (size, size) if isinstance(size, int) else size
            weight = next(part.parameters())
            yield part, {"pixel_values": torch.zeros(images, 3, height, width, device="meta", dtype=weight.dtype)}
            return


class _Written(TorchFunctionMode):
    """Attention written out, as a recording has it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.maps: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func is Tensor.__bool__ and args[0].is_meta:  # such as whether no token is padding
            return True
        if func is F.scaled_dot_product_attention:
            return scaled_dot_product(self.see, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def see(self, probabilities: Tensor, qkv: Any) -> None:
        self.maps.append(probabilities)
        self.kept += [qkv.query, qkv.key, qkv.value]


def _pass(part: Any, inputs: dict[str, Any], rules: bool) -> tuple[int, int]:
    """Bytes of a pass, and of the gradients of its attentions."""
    watch = _Written()
    with ExitStack() as stack:
        stack.enter_context(evaluation(part))
        stacks = [part.get_encoder(), part.get_decoder()] if is_encoder_decoder(part) else [part]
        for module in {one.get_input_embeddings() for one in stacks}:  # make the first states, where the graph starts
            handle = module.register_forward_hook(lambda m, a, output: output.requires_grad_())
            stack.callback(handle.remove)
        stack.enter_context(torch.enable_grad())
        if rules:
            ruling = Ruling(Propagation(), "blocks")
            for handle in ruling.hooks(part):
                stack.callback(handle.remove)
            stack.enter_context(ruling)
        stack.enter_context(watch)
        output = part(**inputs)
    parameters = {_storage(tensor) for tensor in part.parameters()}
    results = [tensor for tensor in tree_leaves(dict(output)) if isinstance(tensor, Tensor)]
    saved = {_storage(t): t.untyped_storage().nbytes() for t in [*_saved(results), *results, *watch.maps, *watch.kept]}
    width = (
        part.config.get_text_config().hidden_size
        if hasattr(part.config, "get_text_config")
        else part.config.hidden_size
    )
    states = [A.shape[0] * A.shape[2] * width * next(part.parameters()).element_size() for A in watch.maps]
    word = sum(A.numel() * A.element_size() for A in watch.maps) + 2 * sum(states)
    return sum(size for key, size in saved.items() if key not in parameters) + sum(states), word


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _saved(outputs: list[Tensor]) -> Iterator[Tensor]:
    """What the graph behind some tensors has saved."""
    waiting, known = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None], set()
    while waiting:
        node: Any = waiting.pop()
        if node in known:
            continue
        known.add(node)
        values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        values += list(getattr(node, "saved_tensors", ()))
        yield from (value for value in tree_leaves(values) if isinstance(value, Tensor))
        waiting += [other for other, _ in node.next_functions if other is not None]
