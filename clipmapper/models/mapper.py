"""Mappers A and B: transformers over the joint sequence of image and text tokens (WRA §3.2).

Shapes: B batch, I image tokens, T text tokens, D width. Blocks are pre-norm; masks are True where a key may be attended to.
At equal width 8 layers of A have as many weights as 3 of B: 8 · 12 D² = 3 · 32 D².
A `causal` mapper writes captions: text attends to the image and to earlier text, the image to itself alone (WRA §3.2.1).
"""

from collections.abc import Collection
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clipmapper.models.memory import Memory

ImageTokens = Float[Tensor, "B I D"]
TextTokens = Float[Tensor, "B T D"]
TextMask = Bool[Tensor, "B T"]
Mask = Bool[Tensor, "#B 1 #Q K"]
Rows = Int[Tensor, " B"]  # of each sample one token
Modality = Literal["image", "text"]
Modalities = Collection[Modality]
Read = tuple[Modality, Rows]
OneToken = Float[Tensor, "B D"]


class Attention(nn.Module):
    """Multi-head attention from `x` to `context`; the output projection is the last step."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        context: Float[Tensor, "B K D"],
        mask: Mask | None,
        memory: Memory | None = None,
    ) -> Float[Tensor, "B Q D"]:
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, Q or K, D / H]
            for t in (self.query(x), *self.key_value(context).chunk(2, dim=-1))
        )
        if memory is not None:
            k, v = memory.extend(k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))


class SelfBlock(nn.Module):
    """Self-attention and feed-forward: 12 D² weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward(width, dropout)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Mask | None, memory: Memory | None = None, rows: Rows | None = None
    ) -> Float[Tensor, "B N D"] | Float[Tensor, "B 1 D"]:
        """With `rows` those tokens alone, which read all."""
        normed = self.norm(x)
        x = only(x, rows) + self.attention(only(normed, rows), normed, mask, memory)
        return x + self.feed_forward(self.forward_norm(x))


class Branch(nn.Module):
    """One modality's half of a dual-stream layer: 16 D² weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward(width, dropout)

    def attend_self(
        self, x: Tensor, mask: Mask | None, memory: Memory | None = None, rows: Rows | None = None
    ) -> Tensor:
        """With `rows` those tokens alone, which read all."""
        normed = self.norm(x)
        return only(x, rows) + self.attention(only(normed, rows), normed, mask, memory)

    def attend_cross(self, x: Tensor, other: Tensor, mask: Mask | None, memory: Memory | None = None) -> Tensor:
        """`other` is the other branch's state, normalised by its own branch."""
        x = x + self.cross_attention(self.cross_norm(x), other, mask, memory)
        return x + self.feed_forward(self.forward_norm(x))


class DualBlock(nn.Module):
    """Each branch attends to itself, then both at once to the other: 32 D² weights.

    Where the image may not read the text, its cross-attention reads the image itself, so that the weights stay as many.
    """

    def __init__(self, width: int, heads: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.image, self.text = Branch(width, heads, dropout), Branch(width, heads, dropout)

    def forward(
        self, image: ImageTokens, text: TextTokens, mask: Mask, begun: Modalities = ()
    ) -> tuple[ImageTokens, TextTokens]:
        """Leaves out the self-attention of modalities that have `begun`."""
        image = image if "image" in begun else self.image.attend_self(image, None)
        text = text if "text" in begun else self.text.attend_self(text, mask)
        image_context, text_context = self.image.cross_norm(image), self.text.cross_norm(text)
        read = (image_context, None) if self.causal else (text_context, mask)
        return self.image.attend_cross(image, *read), self.text.attend_cross(text, image_context, None)

    def read(
        self, image: ImageTokens, text: TextTokens, mask: Mask, modality: Modality, rows: Rows
    ) -> Float[Tensor, "B 1 D"]:
        """Returns of a block that is not causal one token of a modality alone."""
        streams = {"image": (self.image, image, None), "text": (self.text, text, mask)}
        branch, x, own = streams.pop(modality)
        ((other, y, others),) = streams.values()
        x, y = branch.attend_self(x, own, rows=rows), other.attend_self(y, others)
        return branch.attend_cross(x, other.cross_norm(y), others)


class MapperA(nn.Module):
    """Single stream: image and text tokens in one sequence."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(SelfBlock(width, heads, dropout) for _ in range(layers))

    def begin(self, modality: Modality, x: Float[Tensor, "B N D"], text_mask: TextMask) -> Float[Tensor, "B N D"]:
        """Returns the tokens as they are: the first thing that this mapper does joins the modalities."""
        return x

    def forward(
        self,
        image: ImageTokens,
        text: TextTokens,
        text_mask: TextMask,
        read: Read | None = None,
        begun: Modalities = (),
    ) -> tuple[ImageTokens, TextTokens] | OneToken:
        """Both sequences, or of a mapper that is not causal what `read` names: the last block then computes no other token."""
        x = torch.cat([image, text], dim=1)
        mask = torch.cat([text_mask.new_ones(image.shape[:2]), text_mask], dim=1)[:, None, None]
        if self.causal:
            mask = after_image(image.shape[1], text.shape[1], text.device)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        if read is not None:
            modality, rows = read
            return self.blocks[-1](x, mask, rows=rows if modality == "image" else rows + image.shape[1])[:, 0]
        x = self.blocks[-1](x, mask)
        return x[:, : image.shape[1]], x[:, image.shape[1] :]


class MapperB(nn.Module):
    """Dual stream: a branch for each modality, which exchange keys and values in every layer."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(DualBlock(width, heads, dropout, causal) for _ in range(layers))

    def begin(self, modality: Modality, x: Float[Tensor, "B N D"], text_mask: TextMask) -> Float[Tensor, "B N D"]:
        """Returns the tokens of a modality after what is done to them before they meet others, for `begun`.

        It is the same for all inputs that share an image or a text. Of a mapper that is causal or of one block it is nothing.
        """
        if not self._begins:
            return x
        first = cast(DualBlock, self.blocks[0])
        return first.image.attend_self(x, None) if modality == "image" else first.text.attend_self(x, _keys(text_mask))

    @property
    def _begins(self) -> bool:
        return len(self.blocks) > 1 and not self.causal

    def forward(
        self,
        image: ImageTokens,
        text: TextTokens,
        text_mask: TextMask,
        read: Read | None = None,
        begun: Modalities = (),
    ) -> tuple[ImageTokens, TextTokens] | OneToken:
        """Computes the same as mapper A. The modalities `begun` are what `begin` gives."""
        mask = after_image(0, text.shape[1], text.device) if self.causal else _keys(text_mask)
        begun = begun if self._begins else ()
        for block in self.blocks[:-1]:
            image, text = block(image, text, mask, begun)
            begun = ()
        last = cast(DualBlock, self.blocks[-1])
        return last(image, text, mask) if read is None else last.read(image, text, mask, *read)[:, 0]


def _keys(text_mask: TextMask) -> Mask:
    return text_mask[:, None, None]


def only(x: Float[Tensor, "B N D"], rows: Rows | None) -> Float[Tensor, "B N D"] | Float[Tensor, "B 1 D"]:
    """One token of each sample; all without `rows`."""
    return x if rows is None else x.gather(1, rows[:, None, None].expand(-1, 1, x.shape[-1]))


def after_image(image: int, text: int, device: torch.device) -> Bool[Tensor, "1 1 N N"]:
    """Returns what a causal mapper may attend to: all image tokens, and a text token also itself and the text before it.

    Padding, which comes after the text, is thereby left out too.
    """
    mask = torch.ones(image + text, image + text, dtype=torch.bool, device=device).tril()
    mask[:, :image] = True
    return mask[None, None]


MAPPERS: dict[str, type[MapperA] | type[MapperB]] = {"a": MapperA, "b": MapperB}
DEFAULT_LAYERS = {"a": 8, "b": 3}  # equal numbers of weights
