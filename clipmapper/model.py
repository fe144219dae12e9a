"""CLIPMapper: a frozen CLIP, a mapper over its tokens, and an answer head."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipmapper.clip import FrozenCLIP, text_tower
from clipmapper.config import ModelConfig
from clipmapper.data.images import ImageSource, load_image
from clipmapper.files import replacing
from clipmapper.heads import AnswerHead
from clipmapper.mapper import DEFAULT_LAYERS, MAPPERS, DualBlock, MapperB

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CARD = """---
{{ card_data }}
---

A mapper over a frozen CLIP that answers questions about images. The weights are the mapper's alone; CLIP's come from
open_clip, as `config.json` names them.

```python
from clipmapper import CLIPMapper

model = CLIPMapper.from_pretrained("{{ model_id | default("owner/name", true) }}")
print(model.answer("image.jpg", "What color is the circle?", top=3))
```
"""


class CLIPMapper(
    nn.Module,
    ModelHubMixin,
    library_name="clipmapper",
    model_card_template=CARD,
    tags=["visual-question-answering", "explainability"],
    pipeline_tag="visual-question-answering",
):
    """Answers questions about images; only `mapper`, `head` and the two projections have trainable parameters."""

    def __init__(self, config: ModelConfig, answers: list[str]) -> None:
        super().__init__()
        self.config, self.answers = config, list(answers)
        self.clip = FrozenCLIP(config.clip, config.pretrained)
        embed = self.clip.embed_width
        width = config.width or embed
        if width % config.heads:
            raise ValueError(f"model.heads is {config.heads} and must divide the mapper's width, {width}")
        self.image_projection = nn.Linear(self.clip.image_width, width)
        self.text_projection = nn.Linear(self.clip.text_width, width)
        if width == embed:
            self._start_from_clip()
        layers = config.layers or DEFAULT_LAYERS[config.mapper]
        self.mapper = MAPPERS[config.mapper](width, layers, config.heads, config.dropout)
        self.head = AnswerHead(width, len(self.answers), config.dropout)
        self._freeze_unread()

    @torch.no_grad()
    def _start_from_clip(self) -> None:
        """CLIP's own projections into the joint space are where the two sequences already agree."""
        image, text = self.clip.model.visual.proj, text_tower(self.clip.model).text_projection
        text = text.weight.T if isinstance(text, nn.Linear) else text
        for linear, matrix in ((self.image_projection, image), (self.text_projection, text)):
            if matrix is not None:
                linear.weight.copy_(matrix.T)
                linear.bias.zero_()

    def _freeze_unread(self) -> None:
        """B's last layer changes also the stream the head does not read: nothing to learn, and ddp would wait for it."""
        if isinstance(self.mapper, MapperB):
            last = cast(DualBlock, self.mapper.blocks[-1])
            unread = last.text if self.config.read == "image" else last.image
            for part in (unread.cross_attention, unread.forward_norm, unread.feed_forward):
                part.requires_grad_(False)

    def forward(
        self,
        image_tokens: Float[Tensor, "B I image_width"],
        ids: Int[Tensor, "B T"],
        text_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B answers"]:
        """Answer logits from CLIP's image tokens and the question's BPE ids; `text_mask` is True for real tokens."""
        if self.config.sees == "question":
            image_tokens = torch.zeros_like(image_tokens[:, :1])
        if self.config.sees == "image":
            ids, text_mask = self._without_words(ids)
        image = self.image_projection(image_tokens.to(self.image_projection.weight.dtype))
        text = self.text_projection(self.clip.text_tokens(ids))
        image, text = self.mapper(image, text, text_mask)
        if self.config.read == "image":
            return self.head(image[:, 0])
        return self.head(text[torch.arange(len(text), device=text.device), text_mask.sum(1) - 1])

    def _without_words(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        bare = torch.stack([ids[:, 0], ids.amax(1)], dim=1)  # start and end token
        return bare, torch.ones_like(bare, dtype=torch.bool)

    @torch.inference_mode()
    def answer(self, image: ImageSource, question: str, top: int = 1) -> str | list[tuple[str, float]]:
        """The likeliest answer; with `top` above 1 the likeliest answers with their probabilities (sigmoids).

        `image` is a path, bytes or a PIL image. Raises BadImage.
        """
        was_training, device = self.training, self.image_projection.weight.device
        self.eval()
        try:
            pixels = self.clip.pixels(load_image(image))[None].to(device)
            ids, mask = self.clip.tokenize([question])
            logits = self(self.clip.image_tokens(pixels), ids.to(device), mask.to(device))[0]
        finally:
            self.train(was_training)
        values, labels = logits.sigmoid().topk(min(top, len(self.answers)))
        ranked = [(self.answers[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]
        return ranked if top > 1 else ranked[0][0]

    def trained_state(self) -> dict[str, Tensor]:
        """All weights but CLIP's, which come from open_clip."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("clip.")}

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        """Loads `trained_state`; raises ValueError naming `source` and the first weight that does not fit."""
        expected = self.trained_state()
        for name in sorted(expected.keys() ^ state.keys()):
            raise ValueError(f"{source} is of another model ({self.config.mapper=}): weight {name!r} is in one only")
        for name, tensor in expected.items():
            if tensor.shape != state[name].shape:
                shapes = f"{tuple(state[name].shape)} there, {tuple(tensor.shape)} in the model"
                raise ValueError(f"{source} is of another model: weight {name!r} is {shapes}")
        self.load_state_dict(state, strict=False)

    def check_clip(self, fingerprint: str, source: str) -> None:
        """Raises ValueError if `source` was trained over a CLIP with other weights."""
        own = self.clip.fingerprint
        if own != fingerprint:
            raise ValueError(
                f"{source} was trained over another CLIP: its fingerprint is {fingerprint}, {self.clip.name} with "
                f"{self.clip.pretrained!r} has {own}; give the weights it was trained with as model.pretrained"
            )

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "CLIPMapper":  # type: ignore[override]
        """A trained model in eval mode, from a saved folder or a hub id.

        `options` are huggingface_hub's (`revision`, `token`, ...); `pretrained` names CLIP's weights if they moved.
        Raises ValueError or FileNotFoundError, naming what does not fit.
        """
        if not Path(name).is_dir() and "/" not in str(name):
            raise FileNotFoundError(f"{name} is neither a folder of save_pretrained nor a hub id (owner/model)")
        if Path(name).is_dir():
            _read_description(Path(name) / CONFIG)  # huggingface_hub reads it too, but does not say what is wrong
        return super().from_pretrained(name, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in self.trained_state().items()}
        description = {
            "config": asdict(self.config),
            "answers": self.answers,
            "clip_fingerprint": self.clip.fingerprint,
        }
        # huggingface_hub has removed the old configuration; the new one comes last, so that one stands for whole weights.
        with replacing(save_directory / WEIGHTS) as path:
            save_file(state, path)
        with replacing(save_directory / CONFIG) as path:
            path.write_text(json.dumps(description, indent=1))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        pretrained: str | None = None,
        **unused: Any,
    ) -> "CLIPMapper":
        folder = Path(model_id)
        if not folder.is_dir():
            options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
            options |= {"local_files_only": local_files_only, "token": token}
            folder = Path(str(snapshot_download(model_id, allow_patterns=[WEIGHTS, CONFIG], **options)))
        description = _read_description(folder / CONFIG)
        config = ModelConfig(**description["config"])
        if pretrained is not None:
            config.pretrained = pretrained
        model = cls(config, description["answers"])
        model.check_clip(description["clip_fingerprint"], str(folder))
        model.load_trained_state(_read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
        return model.eval()


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a saved CLIPMapper has {CONFIG} and {WEIGHTS}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}): save or fetch the model anew"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a saved CLIPMapper has {CONFIG} and {WEIGHTS}")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): save or fetch the model anew") from error
    missing = {"config", "answers", "clip_fingerprint"} - description.keys()
    if missing:
        raise ValueError(f"{path} is not of a CLIPMapper: it lacks {', '.join(sorted(missing))}")
    return description
