"""CLIP through open_clip, frozen, as two sequences of tokens."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float, Int
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from clipmapper.errors import unknown
from clipmapper.models.fingerprint import weights_fingerprint
from clipmapper.models.hub import require_hub, without_network
from clipmapper.models.pretrained import require_finite

ASSETS = Path(__file__).parents[1] / "assets"
SHAPES_CLIP = "shapes-vit-8"  # the CLIP that ships with the package, pretrained on Shapes (tag "shapes")


class FrozenCLIP(nn.Module):
    """A ViT CLIP whose parameters are never trained and which stays in eval mode.

    `name` and `pretrained` are open_clip's (`ViT-B-32`, `openai`); `pretrained` may also be a file of weights, or None for
    random weights. `fingerprint` is that of the weights as loaded, whatever precision they are used in.
    Raises ValueError for a model that has no such tower of tokens, naming what it lacks.
    """

    def __init__(self, name: str, pretrained: str | None) -> None:
        super().__init__()
        self.name, self.pretrained = name, pretrained
        self.model: Any = create_clip(name, pretrained)  # Any: open_clip's towers have no common type
        self.preprocess_config = self.model.visual.preprocess_cfg
        self.preprocess = image_transform_v2(PreprocessCfg(**self.preprocess_config), is_train=False)
        self.tokenizer = clip_tokenizer(name)
        self.requires_grad_(False).eval()
        self.fingerprint = weights_fingerprint(self.model)

    def identity(self) -> dict[str, str]:
        """Returns what the tokens of an image depend on, for a feature cache."""
        preprocess = json.dumps(self.preprocess_config, sort_keys=True)
        return {"clip": self.name, "weights": self.fingerprint, "preprocess": preprocess}

    def train(self, mode: bool = True) -> "FrozenCLIP":
        return super().train(False)

    @property
    def image_width(self) -> int:
        return self.model.visual.ln_post.normalized_shape[0]

    @property
    def text_width(self) -> int:
        return text_tower(self.model).ln_final.normalized_shape[0]

    @property
    def embed_width(self) -> int:
        """Width of the joint space of image and text."""
        return self.model.visual.output_dim

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image patches."""
        return self.model.visual.grid_size

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """An RGB image as CLIP's own preprocessing gives it."""
        return self.preprocess(image)

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        return tokenize(self.tokenizer, texts)

    @torch.no_grad()
    def image_tokens(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens width"]:
        """Class token and patch grid after the last layer and its norm, before the final projection, in CLIP's own precision."""
        return image_tokens(self.model, pixels.to(self.model.visual.conv1.weight))

    @torch.no_grad()
    def text_tokens(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """Text tokens after the last layer and its norm, under CLIP's causal mask."""
        return text_tokens(self.model, ids)


def know_shapes(name: str) -> None:
    """Tells open_clip of the CLIP of Shapes where it is asked for; who uses others finds open_clip as it was."""
    if name == SHAPES_CLIP and name not in open_clip.list_models():
        open_clip.add_model_config(ASSETS / "shapes-clip")


@lru_cache(maxsize=4)
def clip_tokenizer(name: str) -> Any:
    """Returns open_clip's tokenizer of a model, made once: reading its merges takes as long as making a small model."""
    know_shapes(name)
    return open_clip.get_tokenizer(name)


def create_clip(name: str, pretrained: str | None) -> Any:
    """open_clip's model with the weights of `pretrained`: a tag, a file, "shapes", or None for random weights."""
    know_shapes(name)
    if name not in open_clip.list_models():
        raise unknown("CLIP model", name, open_clip.list_models())
    if pretrained == "shapes":
        pretrained = str(ASSETS / "shapes-clip" / "weights.safetensors")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is not None and pretrained not in tags and not Path(pretrained).is_file():
        raise unknown(f"weights (neither a file nor a tag of {name})", pretrained, tags)
    repo = (
        os.path.dirname(open_clip.get_pretrained_cfg(name, pretrained).get("hf_hub", "")) if pretrained in tags else ""
    )
    if repo:
        remedy = "fetch it where there is a network, or name a file of weights instead: --model.pretrained FILE, or MODEL:FILE"
        require_hub(repo, f"CLIP {name}:{pretrained}", remedy)
    with torch.random.fork_rng(devices=[]), without_network(repo) if repo else nullcontext():
        torch.manual_seed(0)  # random weights are always the same, so that a checkpoint finds its CLIP again
        try:
            model = open_clip.create_model(name, pretrained=pretrained)
        except Exception as error:  # open_clip raises many kinds for files that are truncated or of another model
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"the weights {pretrained} cannot be loaded into CLIP {name}: {reason}") from error
    if pretrained is not None:
        require_finite(model.state_dict(), f"CLIP model {name} of {pretrained}")
    if not isinstance(model.visual, open_clip.transformer.VisionTransformer) or model.visual.attn_pool is not None:
        raise ValueError(
            f"CLIP model {name}: its image tower is not a plain ViT with a class token; choose a ViT-* model"
        )
    if getattr(text_tower(model), "attn_mask", None) is None:
        raise ValueError(
            f"CLIP model {name}: its text tower has no causal mask; choose a ViT-* model with CLIP's own text tower"
        )
    return model


def tokenize(
    tokenizer: Callable[[list[str]], Tensor], texts: Sequence[str]
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """BPE ids with start and end token, padded to the longest text of the batch only; True where a token is real."""
    ids = tokenizer(list(texts))
    lengths = ids.argmax(dim=1) + 1  # the end token has the highest id
    ids = ids[:, : int(lengths.max())]
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def text_tower(model: Any) -> Any:
    """The module that holds the text layers: the model itself, or its `text` in models with a separate text tower."""
    return getattr(model, "text", model)


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] to normalised tokens [B, 1 + patches, width]."""
    out = model.visual.forward_intermediates(
        pixels,
        indices=1,
        normalize_intermediates=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    return torch.cat([out["image_intermediates_prefix"][0], out["image_intermediates"][0]], dim=1)


def text_tokens(model: Any, ids: Tensor) -> Tensor:
    """BPE ids [B, L], L at most the context length, to normalised tokens [B, L, width]."""
    tower, length = text_tower(model), ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    return tower.ln_final(x)
