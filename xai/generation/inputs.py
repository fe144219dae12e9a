"""From images and text to the arguments of one pass over a prompt and what was written after it (teacher forcing)."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from xai.adapters.derived import ends_of
from xai.recording.unchanged import evaluation, same_random_numbers

Messages = Sequence[Mapping[str, Any]]  # as chat templates take them
MOST = 64  # tokens that are written where nobody says how many


@dataclass(frozen=True)
class Passage:
    """The arguments of a pass over a text, and where in it the words are that were written.

    Attributes:
        inputs: of the model's forward.
        ids: of the text in which the written tokens are: after the prompt, or after the decoder's start token.
        start: how many tokens are before them.
        prompt: the ids of the encoder's text; None where one text is all.
    """

    inputs: dict[str, Any]
    ids: list[int]
    start: int
    prompt: list[int] | None


def tokenizer_of(processor: Any) -> Any:
    """Returns the tokenizer of a processor, or what is a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def special_ids(tokenizer: Any, model: nn.Module) -> set[int]:
    """Returns the ids that are no words: start, end, roles of a chat, places of images."""
    added = {number for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
    return added | set(tokenizer.all_special_ids) | set(ends_of(model)) | image_ids(model)


def image_ids(model: nn.Module) -> set[int]:
    """Returns the ids that stand for places of images in a text."""
    config = getattr(model, "config", None)
    named = (getattr(config, name, None) for name in ("image_token_id", "image_token_index", "video_token_id"))
    return {number for number in named if isinstance(number, int)}


def prompt_inputs(
    model: nn.Module, processor: Any, images: Sequence[Any], text: str | Messages | None, chat: bool | None
) -> dict[str, Any]:
    """Returns what the model's `generate` takes.

    Raises ValueError for a chat without a template, and where there is neither image nor text.
    """
    if text is None and not images:
        raise ValueError("there is neither text nor an image for the model to go on from; give one")
    messages = _messages(processor, images, text, chat)
    if messages is not None:
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    elif tokenizer_of(processor) is processor:
        inputs = processor(text, return_tensors="pt")
    else:
        arguments = {"images": list(images) or None, "text": text}
        inputs = processor(
            **{name: value for name, value in arguments.items() if value is not None}, return_tensors="pt"
        )
    where = next(model.parameters())
    return {name: moved(value, where) for name, value in inputs.items() if name != "labels"}  # for training


def continuation(
    model: nn.Module, inputs: Mapping[str, Any], special: Collection[int], options: Mapping[str, Any] | None
) -> list[int]:
    """Returns the tokens that the model writes, greedily unless the options of its `generate` say otherwise.

    Raises ValueError if it writes nothing but special tokens.
    """
    options = {"max_new_tokens": MOST, "do_sample": False, **(options or {})}
    with torch.no_grad(), evaluation(model), same_random_numbers(model):
        output = model.generate(**inputs, **options)  # type: ignore[operator]
    tokens = getattr(output, "sequences", output)[0].tolist()
    before = [_start_token(model)] if is_encoder_decoder(model) else _before(model, inputs)["input_ids"][0].tolist()
    if tokens[: len(before)] == before:
        tokens = tokens[len(before) :]
    while tokens and tokens[-1] in special:
        tokens.pop()
    if not set(tokens) - set(special):
        raise ValueError(
            "the model wrote no words; give the text to explain as `answer`, or other options for `generation`"
        )
    return tokens


def passage(model: nn.Module, inputs: Mapping[str, Any], tokens: Sequence[int]) -> Passage:
    """Returns the arguments of one pass over prompt and written tokens."""
    if is_encoder_decoder(model):
        ids = [_start_token(model), *tokens]
        prompt = inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
        decoder = torch.tensor([ids], device=next(model.parameters()).device)
        return Passage({**inputs, "decoder_input_ids": decoder}, ids, 1, prompt)
    before = _before(model, inputs)
    prompt_ids = before.pop("input_ids")
    more = {name: value for name, value in before.items() if name not in ("pixel_values",)}
    for _ in tokens:  # as the model does it itself, token by token
        more = _one_more(model, more)
    ids = [*prompt_ids[0].tolist(), *tokens]
    return Passage({"input_ids": prompt_ids.new_tensor([ids]), **before, **more}, ids, prompt_ids.shape[1], None)


def without_cache(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a pass that keeps no keys and values for the next token, where the model can be told so."""
    told = "use_cache" in signature(model.forward).parameters
    return {**arguments, "use_cache": False} if told else dict(arguments)


def is_encoder_decoder(model: nn.Module) -> bool:
    config: Any = model.config
    text = getattr(config, "text_config", None)
    return bool(getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False))


def _messages(
    processor: Any, images: Sequence[Any], text: str | Messages | None, chat: bool | None
) -> list[dict[str, Any]] | None:
    """What goes into the chat template, with the images in it; None where none is used."""
    template = getattr(processor, "chat_template", None)
    if not isinstance(text, str | None):
        left = iter(images)
        return [_with_images(message, left) for message in text]
    marker = getattr(processor, "image_token", None)
    if chat is None:
        chat = template is not None and text is not None and not (marker and str(marker) in text)
    if not chat:
        return None
    if template is None:
        raise ValueError("the processor has no chat template; give the whole prompt as `text` with chat=False")
    if tokenizer_of(processor) is processor:
        return [{"role": "user", "content": text}]
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text or ""}]
    return [{"role": "user", "content": content}]


def _with_images(message: Mapping[str, Any], images: Any) -> dict[str, Any]:
    """A message whose places of images hold the next ones."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    filled = [
        {**part, "image": next(images)} if part.get("type") == "image" and len(part) == 1 else dict(part)
        for part in content
    ]
    return {**message, "content": filled}


def moved(value: Any, where: Tensor) -> Any:
    """Returns a tensor where another one is, and of its kind if it is of floats too; what is no tensor as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(where.device, where.dtype) if value.is_floating_point() else value.to(where.device)


def _start_token(model: nn.Module) -> int:
    for config in (model.generation_config, model.config, getattr(model.config, "text_config", None)):
        number = getattr(config, "decoder_start_token_id", None)
        if isinstance(number, int):
            return number
    raise ValueError(f"{type(model).__name__} has no decoder_start_token_id; set it in model.generation_config")


def _before(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the text that the model goes on from: some change it, or have one where none is given."""
    before = dict(inputs)
    kind, device = getattr(model.config, "model_type", ""), next(model.parameters()).device
    if kind == "blip":  # starts with its own token, without the end of the prompt
        start = model.config.text_config.bos_token_id
        ids = before.get("input_ids", torch.tensor([[start, 0]], device=device)).clone()
        ids[:, 0] = start
        before["input_ids"] = ids[:, :-1]
        if "attention_mask" in before:
            before["attention_mask"] = before["attention_mask"][:, :-1]
    elif kind == "blip-2" and "input_ids" not in before:
        queries = [model.config.image_token_index] * model.config.num_query_tokens
        before["input_ids"] = torch.tensor([[*queries, model.config.text_config.bos_token_id]], device=device)
    if "input_ids" not in before:
        raise ValueError(f"{type(model).__name__} goes on from a text; give `text`")
    if "attention_mask" not in before:
        before["attention_mask"] = torch.ones_like(before["input_ids"])
    return before


def _one_more(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments beside the ids, such as masks and kinds of tokens, for one token more."""
    return model._update_model_kwargs_for_generation(
        {}, copy(arguments), is_encoder_decoder=False
    )  # outputs without a cache
