"""Captions written one token a step: what CLIP's text tower and the mapper have read is kept as keys and values."""

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from clipmapper.models.clip import text_tower
from clipmapper.models.mapper import DualBlock, MapperA, MapperB
from clipmapper.models.memory import Memory

if TYPE_CHECKING:
    from clipmapper.models.clip_mapper import CLIPMapper


class Writing:
    """Captions of B images under way. CLIP's tower and the mapper are causal, so that what was read does not change.

    Raises ValueError for a CLIP whose text layers are not open_clip's plain ones.
    """

    def __init__(self, model: "CLIPMapper", image_tokens: Float[Tensor, "B I image_width"]) -> None:
        self.model = model
        self.tower = text_tower(model.clip.model)
        for block in self.tower.transformer.resblocks:
            if type(block) is not ResidualAttentionBlock:
                raise ValueError(
                    f"captions need a CLIP with plain text layers, {model.clip.name} has {type(block).__name__}"
                )
        self.length = 0
        self.layers = [Memory() for _ in self.tower.transformer.resblocks]
        image = model.image_states(image_tokens)
        self.mapper: StreamA | StreamB
        if isinstance(model.mapper, MapperA):
            self.mapper = StreamA(model.mapper, image)
        else:
            self.mapper = StreamB(model.mapper, image)

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Logits of the token after these; tokens are numbered as the head's logits."""
        ids = self.model.token_ids[tokens]
        x = self.tower.token_embedding(ids)[:, None] + self.tower.positional_embedding[self.length]
        for block, memory in zip(self.tower.transformer.resblocks, self.layers, strict=True):
            x = x + block.ls_1(_attend(block.attn, block.ln_1(x), memory))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        self.length += 1
        text = self.mapper.step(self.model.text_projection(self.tower.ln_final(x)))
        return self.model.head(text[:, 0])

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Goes on with these captions, some perhaps several times."""
        for memory in self.layers:
            memory.select(rows)
        self.mapper.select(rows)


def _attend(attention: nn.MultiheadAttention, x: Tensor, memory: Memory) -> Tensor:
    """Self-attention of new tokens to all that came before and themselves."""
    projected: Any = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (
        t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # [B, H, 1, D / H]
        for t in projected.chunk(3, dim=-1)
    )
    mixed = F.scaled_dot_product_attention(q, *memory.extend(k, v))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


class StreamA:
    """Mapper A after it has read the image."""

    def __init__(self, mapper: MapperA, image: Float[Tensor, "B I D"]) -> None:
        self.blocks, self.layers = mapper.blocks, [Memory() for _ in mapper.blocks]
        # Image tokens attend to each other alone; of the last block only their keys and values are read.
        for block, memory in zip(self.blocks[:-1], self.layers, strict=False):
            image = block(image, None, memory)
        one = torch.zeros(len(image), dtype=torch.long, device=image.device)
        self.blocks[-1](image, None, self.layers[-1], one)

    def step(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        for block, memory in zip(self.blocks, self.layers, strict=True):
            x = block(x, None, memory)
        return x

    def select(self, rows: Tensor) -> None:
        for memory in self.layers:
            memory.select(rows)


class StreamB:
    """The text branch of mapper B, after the image branch is done."""

    def __init__(self, mapper: MapperB, image: Float[Tensor, "B I D"]) -> None:
        blocks = [cast(DualBlock, block) for block in mapper.blocks]
        self.branches = [block.text for block in blocks]
        self.layers = [(Memory(), Memory()) for _ in mapper.blocks]  # of self-attention and of cross-attention
        self.unread: list[Tensor] = []  # each layer's image tokens, until the cross-attention has them in its memory
        for block in blocks:
            image = block.image.attend_self(image, None)
            self.unread.append(block.image.cross_norm(image))
            if block is not blocks[-1]:  # what the last one would make of them is read by nothing
                image = block.image.attend_cross(image, self.unread[-1], None)

    def step(self, text: Float[Tensor, "B 1 D"]) -> Float[Tensor, "B 1 D"]:
        for branch, (own, cross), image in zip(self.branches, self.layers, self.unread, strict=True):
            text = branch.attend_self(text, None, own)
            text = branch.attend_cross(text, image, None, cross)
        self.unread = [image[:, :0] for image in self.unread]
        return text

    def select(self, rows: Tensor) -> None:
        self.unread = [image[rows] for image in self.unread]
        for memories in self.layers:
            for memory in memories:
                memory.select(rows)
