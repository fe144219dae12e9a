"""Generative models of transformers: open answers to questions, and captions, as LLaVA, BLIP and their like write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipmapper.data.answers import normalise
from clipmapper.explain.caption_removal import LIKELIHOOD, Scores, scores_once
from clipmapper.explain.models.base import QuestionBatch, Recorded, VQAModel
from clipmapper.explain.models.captioner import CaptionBatch, Captioner, RecordedCaptions, Tokens
from clipmapper.explain.models.stock import Pass, RecordedStock, Stock, differing, placed, questions_alone
from xai import Relevance, Target
from xai.generation.batches import Prompts, Run, after, greedy, prompts_of
from xai.generation.inputs import image_ids, is_encoder_decoder, special_ids
from xai.generation.steps import Steps, of_words, require_order, text_stream
from xai.metrics.perturbation import Perturbed, Predict
from xai.metrics.protocols import Protocol
from xai.recording.axis import index_of
from xai.recording.reads import EVERYTHING, Needs, as_reads
from xai.recording.recording import Recording
from xai.results.captions import CaptionRelevance, average
from xai.results.modality import ModalityRelevance

QUESTION = "{question}"  # in a prompt, where the question goes
PLAIN = "Question: {question} Answer:"  # the prompt of models without a chat template (BLIP-2)
ANSWER, CAPTION = 10, 40  # tokens that are written at most


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions as a generative model goes on from them.

    Attributes:
        prompts: with room for the answers.
        spans: where each question is among the ids of its prompt.
        soft: of each question the soft scores of the annotators' answers, normalised.
        answers: tokens of the answers, from the first record on: those that are explained, also by shuffled weights.
    """

    prompts: Prompts
    spans: list[slice]
    soft: list[dict[str, float]]
    answers: list[list[int]] = field(default_factory=list)


class Writer(Stock):
    """What answers and captions have in common: tokens are written greedily, by the highest logit each time.

    Args:
        model: one of transformers with `generate`.
        processor: the model's.
        prompt: what the model goes on from; in it {question} stands for the question. None for images alone.
        room: tokens that are written at most.
    """

    def __init__(self, model: Any, processor: Any, prompt: str | None, room: int) -> None:
        super().__init__(model, processor)
        self.prompt, self.room, ends = prompt, room, ends_of(model)
        self.special, self.end, self.never = special_ids(self.tokenizer, model), min(ends), image_ids(model)
        self.ends = (ends | self.special) - self.never  # a token that is no word ends the text

    def probe(self) -> Pass:
        text = None if self.prompt is None else self.prompt.replace(QUESTION, "what?")
        prompts = self.prompts([Image.new("RGB", (64, 64))], [text])
        target = Target("first", lambda outputs: prompts.decided(outputs)[:, 0].amax(dim=-1))
        return self.pass_over(prompts, self.with_end(prompts, [[]]), target, EVERYTHING)[0]

    def prompts(self, images: Sequence[Image.Image], texts: Sequence[str | None]) -> Prompts:
        """Returns prompts; raises ValueError where a picture is cut into tiles."""
        prompts = prompts_of(self.module, self.processor, images, texts, self.room)
        pixels = prompts.arguments.get("pixel_values")
        if pixels is not None and (pixels.dim() > 4 or (pixels.dim() == 4 and prompts.rows["pixel_values"] > 1)):
            raise ValueError(
                f"the processor of {self.description} cuts a picture into tiles, and a question has one image here: let it "
                "make one, by max_patches 1, do_image_splitting false or one size of image_grid_pinpoints in its configuration"
            )
        return prompts

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def until_the_end(self, tokens: Tensor) -> list[list[int]]:
        """Returns the tokens before the end of each text [B, room]."""
        stops = torch.tensor(sorted(self.ends), device=tokens.device)
        real = ~(after(tokens, stops) | torch.isin(tokens, stops))
        return [row[kept].tolist() for row, kept in zip(tokens, real, strict=True)]

    def greedy(self, prompts: Prompts, guess: Tensor | None = None, run: Run | None = None) -> tuple[Tensor, Tensor]:
        """Returns the tokens [B, room] that the model, or a run of it, writes, and the log-probability of the guess [B]."""
        return greedy(prompts, run or self._run, self.ends, guess, self.never)

    def _run(self, arguments: Mapping[str, Any], samples: Tensor) -> Any:
        return self.module(**arguments)

    def steps(self, prompts: Prompts, tokens: Tokens) -> Steps:
        """Returns the steps at which texts were written, text by text."""
        counts = torch.tensor([len(text) for text in tokens])
        of = torch.arange(len(tokens)).repeat_interleave(counts)
        at = torch.cat([torch.arange(count) for count in counts.tolist()])
        labels = torch.tensor([token for text in tokens for token in text])
        return Steps(of, prompts.starts.cpu()[of] - 1 + at, labels)

    def with_end(self, prompts: Prompts, tokens: Tokens) -> Tensor:
        """Returns texts [B, room] with an end each, as far as there is room."""
        whole = prompts.starts.new_full((len(tokens), self.room), self.end)
        for row, text in zip(whole, tokens, strict=True):
            row[: len(text)] = torch.tensor(text[: self.room], device=row.device)
        return whole

    def pass_over(self, prompts: Prompts, tokens: Tensor, target: Target, reads: Needs) -> tuple[Pass, slice]:
        """Returns the recorded pass over prompts and texts [B, room], and where the texts' stream is on the joint axis."""
        recorded = self.recorded(prompts.with_tokens(tokens), target, of_words(as_reads(reads)))
        name = "decoder" if prompts.text == "decoder_input_ids" else "text"
        stream = text_stream(recorded.recording, name, prompts.arguments[prompts.text].shape[1])
        require_order(recorded.recording, stream, prompts.starts - 1)
        return recorded, stream

    def removing(self, recorded: Pass, prompts: Prompts, tokens: Tensor, protocol: Protocol, score: Any) -> Predict:
        """Returns what measures texts that are written without some tokens.

        Args:
            recorded: of the prompts.
            prompts: all of them.
            tokens: [B, room], what was written with all tokens.
            protocol: what is removed.
            score: from the new tokens [N, room], the old texts' log-probability [N] and their rows to metrics by name.
        """
        run = self.without(recorded, protocol, prompts.arguments)

        @torch.no_grad()
        def predict(batch: Perturbed) -> Mapping[str, Tensor]:
            def outputs(arguments: Mapping[str, Any], samples: Tensor) -> Any:
                part = Perturbed(batch.rows[samples], batch.keep[samples], batch.length)
                return run(part, arguments, self.module)

            new, likely = self.greedy(prompts.of(batch.rows), tokens[batch.rows], outputs)
            return score(new, likely, batch.rows)

        return predict


class GenerativeVQA(Writer, VQAModel):
    """A model that writes its answers."""

    def __init__(self, model: Any, processor: Any, prompt: str | None = None, room: int = ANSWER) -> None:
        if prompt is None:
            prompt = QUESTION if getattr(processor, "chat_template", None) or is_encoder_decoder(model) else PLAIN
        super().__init__(model, processor, prompt, room)
        if QUESTION not in prompt:
            raise ValueError(f"the prompt {prompt!r} has no place for the question: write {QUESTION} where it goes")

    def prepare(self, batch: QuestionBatch) -> Questions:
        assert self.prompt is not None
        texts = [self.prompt.replace(QUESTION, question) for question in batch.records["question"]]
        prompts = self.prompts(batch.images, texts)
        (bare,) = self.prompts(
            batch.images[:1], [self.prompt.replace(QUESTION, "")]
        ).prompts  # the same with each image
        spans = [differing(ids, bare) for ids in prompts.prompts]
        if prompts.text == "input_ids" and any(
            span.stop == start for span, start in zip(spans, prompts.starts, strict=True)
        ):
            raise ValueError(
                f"the prompt {self.prompt!r} ends with the question, from whose last token the answer is read, so that it cannot "
                f"be hidden: let it go on, as in {PLAIN!r}"
            )
        return Questions(prompts, spans, batch.soft)

    def answer(self, inputs: Questions) -> list[list[int]]:
        return self.until_the_end(self.greedy(inputs.prompts)[0])

    def texts(self, labels: Tokens) -> list[str]:
        return [self.text(tokens) for tokens in labels]

    def accuracies(self, inputs: Questions, labels: Tokens) -> list[float]:
        return right(inputs.soft, self.texts(labels))

    def record(self, inputs: Questions, reads: Needs) -> RecordedStock:
        """The target is the sum of the logits of the answer's tokens; of an empty answer, that of the end."""
        if not inputs.answers:
            inputs.answers.extend(self.answer(inputs))
        prompts, labels = inputs.prompts, inputs.answers
        explained = [label or [self.end] for label in labels]
        counts, each = [len(label) for label in explained], self.steps(prompts, explained)
        target = sums(", ".join(self.texts(labels)), each, counts)
        recorded, stream = self.pass_over(prompts, self.with_end(prompts, labels), target, reads)
        last = torch.tensor(counts).cumsum(dim=0) - 1
        rows = Steps(each.of[last], each.at[last], each.tokens[last])
        recording, words = self._of_questions(recorded.recording, inputs)
        whole = replace(recorded, recording=recording)
        return RecordedStock(rows.rows(recording, stream), target, labels, words, whole)

    def predictor(self, inputs: Questions, recorded: Recorded, protocol: Protocol) -> Predict:
        assert isinstance(recorded, RecordedStock)

        def score(new: Tensor, likely: Tensor, rows: Tensor) -> dict[str, Tensor]:
            soft = [inputs.soft[row] for row in rows.tolist()]
            accuracy = right(soft, self.texts(self.until_the_end(new)))
            return {"accuracy": likely.new_tensor(accuracy), "probability": likely.exp()}

        tokens = self.with_end(inputs.prompts, recorded.labels)
        return self.removing(recorded.whole, inputs.prompts, tokens, protocol, score)

    def _of_questions(self, recording: Recording, inputs: Questions) -> tuple[Recording, list[list[str]]]:
        """The recording in which words of questions alone are content, and the pieces of all text tokens."""
        where = recording.modalities["text"]
        event = recording.first_event(where)
        assert event is not None
        index = (index_of(where) - event.queries.start).tolist()  # of the text's tokens among the ids
        others = [name for name in recording.inputs if name not in ("image", "text")]
        words = []
        for ids in inputs.prompts.prompts:
            pieces = self.pieces(ids)
            words.append([pieces[place] if place < len(pieces) else "" for place in index])
        return questions_alone(recording, placed(inputs.spans, index), others), words


@dataclass(frozen=True, eq=False)
class RecordedTexts(RecordedCaptions):
    """Captions with the whole pass that their rows are of."""

    whole: Pass


class GenerativeCaptioner(Writer, Captioner):
    """A model that writes captions."""

    def __init__(self, model: Any, processor: Any, prompt: str | None = None, room: int = CAPTION) -> None:
        super().__init__(model, processor, prompt, room)

    def prepare(self, images: Sequence[Image.Image]) -> Prompts:
        return self.prompts(images, [self.prompt] * len(images))

    def write(self, inputs: Prompts) -> list[list[int]]:
        return self.until_the_end(self.greedy(inputs)[0])

    def record(self, captions: CaptionBatch, reads: Needs) -> RecordedTexts:
        inputs, tokens = captions.inputs, captions.tokens
        steps = self.steps(inputs, tokens)
        whole = sums("captions", steps, [len(caption) for caption in tokens])
        recorded, stream = self.pass_over(inputs, self.with_end(inputs, tokens), whole, reads)
        return RecordedTexts(steps.rows(recorded.recording, stream), steps.target(), recorded)

    def relevance(self, captions: CaptionBatch, relevance: Relevance) -> CaptionRelevance:
        """The text of a row is what was written; what it goes on from is left out."""
        inputs, tokens = captions.inputs, captions.tokens
        steps, parts = self.steps(inputs, tokens), dict(relevance.modalities)
        name = "decoder" if inputs.text == "decoder_input_ids" else "text"
        text = parts.pop(name)
        parts = {kind: part for kind, part in parts.items() if kind.startswith("image")}
        shift = inputs.arguments[inputs.text].shape[1] - text.scores.shape[1]  # image tokens, which stand before
        places = (inputs.places.cpu() - shift)[steps.of].to(text.scores.device)
        columns = {what: getattr(text, what).gather(1, places) for what in ("scores", "mask")}
        pieces = [self.pieces(caption) for caption in tokens]
        words = [[*pieces[of], *[""] * (self.room - len(pieces[of]))] for of in steps.of.tolist()]
        special = torch.tensor([[piece == "" for piece in row] for row in words], device=places.device)
        parts["text"] = ModalityRelevance(**columns, special=special, words=tuple(map(tuple, words)))
        weights = tuple(average(len(caption)) for caption in pieces)
        own = tuple(tuple(range(len(caption))) for caption in pieces)
        return CaptionRelevance(replace(relevance, modalities=parts), tuple(map(tuple, pieces)), weights, own)

    def predictor(
        self,
        captions: CaptionBatch,
        recorded: RecordedCaptions,
        protocol: Protocol,
        scorer: Scores,
        images: Sequence[int],
    ) -> Predict:
        assert isinstance(recorded, RecordedTexts)
        inputs, tokens = captions.inputs, captions.tokens
        old, score = self.with_end(inputs, tokens), scores_once(scorer, images)
        whole = self.greedy(inputs, old)[1]

        def metrics(new: Tensor, likely: Tensor, rows: Tensor) -> dict[str, Tensor]:
            texts = [self.text(caption) for caption in self.until_the_end(new)]
            return {**score(texts, rows), LIKELIHOOD: likely - whole[rows]}

        return self.removing(recorded.whole, inputs, old, protocol, metrics)


def right(soft: Sequence[Mapping[str, float]], texts: Sequence[str]) -> list[float]:
    """Returns the soft score of each text as an answer."""
    return [scores.get(normalise(text), 0.0) for scores, text in zip(soft, texts, strict=True)]


def sums(name: str, steps: Steps, counts: Sequence[int]) -> Target:
    """Returns the sum of the logits of each text's steps, of which there are so many, as a target."""
    each = steps.target()
    return Target(name, lambda outputs: torch.stack([values.sum() for values in each(outputs).split(list(counts))]))


def ends_of(model: Any) -> set[int]:
    """Returns the ids that end a text.

    Raises:
        ValueError: none is known.
    """
    configs = (getattr(model, "generation_config", None), model.config, getattr(model.config, "text_config", None))
    names = ("eos_token_id", "sep_token_id") if model.config.model_type == "blip" else ("eos_token_id",)
    values = [getattr(config, name, None) for config in configs for name in names]
    found = {v for value in values for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    if not found:
        raise ValueError(f"{type(model).__name__} names no eos_token_id; set it in model.generation_config")
    return found
