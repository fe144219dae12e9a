"""Settings of models: what is built, how it writes captions, and where a built one is kept."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import yaml

from clipmapper.config.checks import require
from clipmapper.errors import unknown

Kind = Literal["mapper", "llava", "blip"]
MapperName = Literal["a", "b"]
Task = Literal["vqa", "caption"]
Sees = Literal["both", "question", "image"]
SHIPPED = ("shapes-a-vqa", "shapes-b-vqa", "shapes-a-caption", "shapes-b-caption")  # trained mappers in the package
SHIPPED_STOCK = ("shapes-llava", "shapes-blip")  # trained models of transformers' classes in it


@dataclass
class ModelConfig:
    """The model, up to its answers or the tokens of its captions.

    Attributes:
        kind: mapper (ours, over a frozen CLIP), or a model of transformers' own classes that answers and captions in words:
            llava (a Llama that reads CLIP's frozen image tokens) or blip (a decoder that attends to an image tower, which
            starts as CLIP's).
        task: vqa (answers questions) or caption (writes captions, word by word).
        clip: open_clip's model name.
        pretrained: open_clip's tag, a file of weights, or null for random weights.
        mapper: a (single stream) or b (dual stream).
        layers: of the mapper or language model; null for 8 of mapper a, 3 of mapper b (which is fair), 4 of llava and blip.
        width: of the mapper or language model; null for CLIP's joint width, where a mapper's projections start as CLIP's own.
        heads: attention heads of the mapper or language model; must divide the width.
        dropout: share of activations dropped in attention and, but for llava, in feed-forward and head.
        read: token the head of vqa reads: the image's class token or the question's end token.
        sees: "question" and "image" blind the model to the other modality (baselines).
        tied: captions: the output is CLIP's frozen token embedding after a learned projection, not a learned matrix.
        tokens: captions: BPE tokens that can be written, all of CLIP's or those seen in the training captions.
    """

    clip: str = "ViT-B-32"
    pretrained: str | None = "openai"
    mapper: MapperName = "b"
    layers: int | None = None
    width: int | None = None
    heads: int = 8
    dropout: float = 0.1
    read: Literal["image", "text"] = "image"
    sees: Sees = "both"
    task: Task = "vqa"
    tied: bool = True
    tokens: Literal["all", "seen"] = "all"
    kind: Kind = "mapper"

    def __post_init__(self) -> None:
        require(self.layers is None or self.layers > 0, "model.layers", self.layers, "above 0, or null")
        require(self.width is None or self.width > 0, "model.width", self.width, "above 0, or null")
        require(self.heads > 0, "model.heads", self.heads, "above 0")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        blind = self.task == "caption" and self.sees == "image"
        require(not blind, "model.sees", self.sees, '"both" or "question" where captions are written')


@dataclass
class DecodingConfig:
    """The decoding of captions.

    Attributes:
        method: greedy (the paper's), beam, or nucleus.
        beams: captions kept a step by beam search.
        top_p: probability of the tokens that nucleus sampling draws from.
        temperature: of nucleus sampling.
        length: most tokens of a caption.
        seed: of nucleus sampling.
    """

    method: Literal["greedy", "beam", "nucleus"] = "greedy"
    beams: int = 5
    top_p: float = 0.9
    temperature: float = 1.0
    length: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.beams > 0, "decoding.beams", self.beams, "above 0")
        require(0 < self.top_p <= 1, "decoding.top_p", self.top_p, "in (0, 1]")
        require(self.temperature > 0, "decoding.temperature", self.temperature, "above 0")
        require(self.length > 0, "decoding.length", self.length, "above 0")


@dataclass
class ModelSource:
    """A model, wherever it is kept.

    Attributes:
        name: a CLIPMapper: a checkpoint, saved folder, shipped name or hub id; a model of transformers: a saved folder, shipped
            name or hub id; CLIP without training: open_clip's MODEL:WEIGHTS.
        kind: clipmapper, lxmert, visualbert, classifier (ViLT), generative (BLIP, LLaVA and their like), dual_encoder (SigLIP
            and CLIP of transformers) or clip (open_clip), both zero-shot; null finds it from what is there.
        regions: lxmert, visualbert: table of the images' regions (TSV), or a folder with an npz file for each image.
        tokenizer: lxmert, visualbert: where its tokenizer is, if not beside the model.
        answers: the answers in the order of the model's labels (label2ans JSON list), if its config.json does not name
            them; of clip and dual_encoder those they choose from, null for the commonest of the data.
        candidates: clip, dual_encoder: how many answers they choose from.
        prompt: generative: what the model goes on from. With {question} in it the model answers, without it captions; null for
            the question in the model's chat template, or for no prompt where it has none and captions.
    """

    name: str
    kind: str | None = None
    regions: Path | None = None
    tokenizer: str | None = None
    answers: Path | None = None
    candidates: int = 100
    prompt: str | None = None

    def __post_init__(self) -> None:
        require(self.candidates > 0, f"{self.name}: candidates", self.candidates, "above 0")
        self.regions, self.answers = (None if path is None else Path(path) for path in (self.regions, self.answers))

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """Reads a name, or a YAML mapping such as {name: DIR, regions: regions.tsv}.

        Raises:
            ValueError: a mapping without a name, with another option, or with a value of another type.
        """
        if not text.lstrip().startswith("{"):
            return cls(text)
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--model {text}: no YAML mapping ({error})") from error
        for name, value in values.items():
            if name not in (known := [f.name for f in fields(cls)]):
                raise ValueError(f"--model {text}: {unknown('option', str(name), known)}")
            kind, said = (int, "a whole number") if name == "candidates" else (str, "text; put it in quotes")
            if type(value) is not kind and (value is not None or kind is int):
                raise ValueError(f"--model {text}: {name} is {value!r} and must be {said}")
        if values.get("name") is None:
            raise ValueError(f"--model {text} has no name; give a folder, a hub id, a shipped name or MODEL:WEIGHTS")
        return cls(**values)

    @property
    def label(self) -> str:
        """Its name in logs and tables."""
        return self.name if self.kind in (None, "clipmapper") else f"{self.kind}:{self.name}"

    def options(self) -> list[str]:
        """Returns the options that are not left as they are."""
        always = {"name", "kind"}
        return [f.name for f in fields(self) if f.name not in always and getattr(self, f.name) != f.default]
