"""What a generative language model writes, with images or without, explained word by word from one recorded pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from xai.adapters import adapter_for
from xai.explainers.registry import as_method
from xai.explanation import Named, explain_recording, recorded_by
from xai.generation.goals import each_token, parting, together, tokens_of
from xai.generation.inputs import (
    Messages,
    Passage,
    continuation,
    passage,
    prompt_inputs,
    special_ids,
    tokenizer_of,
    without_cache,
)
from xai.generation.pictures import pictures_of
from xai.generation.pieces import pieces_of
from xai.generation.steps import Figure, of_words, require_order, text_stream
from xai.generation.tokens import image_tokens_alone
from xai.recording.adapter import Adapter
from xai.recording.axis import index_of
from xai.recording.checks import unwrapped
from xai.recording.reads import Reads
from xai.recording.record import record
from xai.recording.recording import Recording
from xai.results.captions import CaptionRelevance, average
from xai.results.modality import ModalityRelevance
from xai.results.relevance import Relevance

GRADIENTS = 8 * 2**30  # bytes, of the words that one backward pass serves


def explain_generated(
    model: nn.Module,
    processor: Any,
    images: Any = None,
    text: str | Messages | None = None,
    answer: str | None = None,
    method: Named | None = None,
    target: Figure = "logit",
    phrase: str | None = None,
    rather_than: str | None = None,
    image_tokens: bool = False,
    chat: bool | None = None,
    generation: Mapping[str, Any] | None = None,
    at_once: int | None = None,
    adapter: Adapter | None = None,
    **options: Any,
) -> CaptionRelevance:
    """Explains every word that a generative model of transformers writes, from one recorded pass over its whole text.

    The targets of all words share the recorded pass, and one batched backward pass.

    Args:
        model: one with `generate`: a language model, one that sees images, or an encoder with a decoder.
        processor: the model's processor, or the tokenizer of one that takes text alone.
        images: one image or several, as the processor takes them; None for text alone.
        text: what the model goes on from: messages as chat templates take them, or one text, which is put in the processor's
            chat template where there is one. None for a captioner that needs none.
        answer: the text to explain, as it follows on the prompt with its blanks, whether or not the model would write it;
            None for what it writes by itself.
        method: as of `xai.explain`.
        target: the "logit" of each token, its "log_probability", or its "margin" over the likeliest other one.
        phrase: words of the answer that are explained together, by the sum of their tokens' targets; None for each word.
        rather_than: another answer: explains the first token in which both differ, by its logit minus that of the other's.
        image_tokens: stops at the image tokens that the language model reads, rather than at the patches they are made from.
        chat: whether `text` is put in the chat template; None to do so where there is one, unless `text` has places of images.
        generation: options of the model's `generate`; greedy and up to 64 tokens by default.
        at_once: tokens served by one backward pass; fewer take less memory. None for as many as have gradients of GRADIENTS
            bytes together.
        adapter: as of `xai.explain`.
        options: of the method.

    Returns:
        The relevance for each word, or for the one phrase, on each image ("image", "image 2", ...), the "prompt" and the "text"
        before the word; `words`, `word_maps()`, `shares()`, `save_filmstrip(path)`, `save_page(path)`.

    Raises:
        ValueError: nothing to go on from, an answer without words, a phrase that is not in it, answers that do not differ, a
            model whose pass over the whole text is not that of the words one by one, or as `xai.explain`.
        TypeError, RecordingError, PropagationError: as `xai.explain`.

    Source:
        WRA §3.3.3 for words as targets; Yin & Neubig 2022 for one token rather than another.

    Example:
        >>> import torch
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> from xai import explain_generated
        >>> words = Tokenizer(models.WordLevel({"?": 0, "the": 1, "dog": 2, "is": 3, "red": 4}, unk_token="?"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=16, n_layer=2, n_head=2))
        >>> relevance = explain_generated(model, tokenizer, text="the dog", answer=" is red")
        >>> relevance.words, relevance.steps.scores["prompt"].shape
        ([['is', 'red']], torch.Size([2, 2]))
        >>> sorted(relevance.shares()[0])
        ['prompt', 'text']
    """
    model = unwrapped(model)
    if method is not None and as_method(method).start == "pixels":
        raise ValueError(f"method {as_method(method).name!r} is for images alone; tokens have no pixels")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}; give at least 1")
    sources = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
    tokenizer = tokenizer_of(processor)
    special = special_ids(tokenizer, model)
    inputs = prompt_inputs(model, processor, sources, text, chat)
    tokens = continuation(model, inputs, special, generation) if answer is None else tokens_of(tokenizer, answer)
    whole, pieces = passage(model, inputs, tokens), pieces_of(tokenizer, tokens, special)
    if phrase is not None and rather_than is not None:
        raise ValueError("give a phrase or another answer to compare with, not both")
    if rather_than is not None:
        goals = parting(tokens, pieces, whole, tokenizer, special, rather_than)
    else:
        goals = (
            each_token(tokens, pieces, whole, target)
            if phrase is None
            else together(tokens, pieces, whole, target, phrase)
        )
    arguments = without_cache(model, whole.inputs)

    def run(reads: Reads) -> Recording:
        with record(model, adapter or adapter_for(model, arguments), of_words(reads)) as recorder:
            model(**arguments)
        return recorder.recording

    known, recording = recorded_by(method, options, run)
    recording = image_tokens_alone(recording) if image_tokens else recording
    text_name = "text" if whole.prompt is None else "decoder"
    stream = text_stream(recording, text_name, len(whole.ids))
    require_order(recording, stream, whole.start - 1)
    parts = [
        explain_recording(part.rows(recording, stream), known, part.target(), **options)
        for part in goals.parts(at_once or _served(recording))
    ]
    steps = _named(_joined(parts), recording, stream, whole, tokenizer, special)
    pictures = pictures_of(processor, whole.inputs, [name for name in recording.inputs if name.startswith("image")])
    weights = (average(len(goals.pieces)),)
    return CaptionRelevance(steps, (goals.pieces,), weights, (goals.places,), (pictures,) if pictures else None)


def _served(recording: Recording) -> int:
    """How many tokens one backward pass may serve: at most, gradients of all attentions are there at once for each."""
    parts = (part for event in recording.events for kept in event.in_graph.kept.values() for part in kept)
    return max(1, GRADIENTS // sum(part.numel() * part.element_size() for part in parts))


def _joined(parts: Sequence[Relevance]) -> Relevance:
    """The rows of all parts."""
    first, modalities = parts[0], {}
    for name, part in first.modalities.items():
        joined: dict[str, Any] = {
            what: torch.cat([getattr(other[name], what) for other in parts]) for what in ("scores", "mask", "special")
        }
        modalities[name] = replace(part, **joined)
    return replace(first, modalities=modalities, pairs=None)  # each word has a map of its own already


def _named(
    relevance: Relevance, recording: Recording, stream: slice, whole: Passage, tokenizer: Any, special: set[int]
) -> Relevance:
    """With the words of prompt and text, which are modalities of their own."""
    parts = dict(relevance.modalities)
    text = parts.pop("text" if whole.prompt is None else "decoder")
    if whole.prompt is None:
        places = (index_of(recording.modalities["text"]) - stream.start).tolist()
        images = {whole.ids[place] for place in set(range(len(whole.ids))) - set(places)}
        before = sum(place < whole.start for place in places)
        prompt, text = _columns(text, slice(0, before)), _columns(text, slice(before, None))
        prompt_pieces = pieces_of(tokenizer, whole.ids[: whole.start], special | images)
        parts["prompt"] = _worded(prompt, [prompt_pieces[place] for place in places[:before]])
    elif "text" in parts:
        encoded = parts.pop("text")
        parts["prompt"] = _worded(encoded, pieces_of(tokenizer, whole.prompt, special))
    text_pieces = pieces_of(tokenizer, whole.ids[whole.start :], special)
    parts["text"] = _worded(text, [*[None] * (text.scores.shape[1] - len(text_pieces)), *text_pieces])
    return replace(relevance, modalities=parts)


def _columns(part: ModalityRelevance, columns: slice) -> ModalityRelevance:
    return replace(part, **{name: getattr(part, name)[:, columns] for name in ("scores", "mask", "special")})


def _worded(part: ModalityRelevance, pieces: Sequence[str | None]) -> ModalityRelevance:
    """With the strings of its tokens; those that are no words are special."""
    special = torch.tensor([piece is None for piece in pieces], dtype=torch.bool, device=part.mask.device)
    words = tuple(piece or "" for piece in pieces)
    return replace(part, special=special.expand(part.mask.shape), words=(words,) * len(part.mask))
