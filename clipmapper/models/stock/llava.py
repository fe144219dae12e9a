"""A LLaVA: a Llama that reads CLIP's image tokens."""

from typing import Any

import torch
import transformers as tf
from jaxtyping import Float
from torch import Tensor

from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.stock.base import DESCRIBE, IMAGE, Question, StockModel
from clipmapper.models.stock.towers import as_clip_tower, tower_options

CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Llava(StockModel):
    """A Llama that reads the patches of CLIP's frozen tower, before its last norm, as LLaVA does."""

    frozen = True

    def build(self, clip: FrozenCLIP) -> None:
        visual = clip.model.visual
        vision = tf.CLIPVisionConfig(**tower_options(visual), projection_dim=clip.embed_width)
        language = tf.LlamaConfig(
            **self.ends,
            vocab_size=len(self.tokenizer),
            hidden_size=self.width,
            intermediate_size=-(-8 * self.width // 24) * 8,  # 8/3 of the width, in eights
            num_hidden_layers=self.layers,
            num_attention_heads=self.config.heads,
            max_position_embeddings=1024,
            attention_dropout=self.config.dropout,
        )
        patches = clip.grid[0] * clip.grid[1]
        (place,) = self.encoded([IMAGE])[0]
        config = tf.LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=place,
            image_seq_length=patches,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
        self.model = tf.LlavaForConditionalGeneration(config)
        bare = getattr(self.tower, "vision_model", self.tower)
        bare.load_state_dict(as_clip_tower(visual))
        self.tower.requires_grad_(False)
        self.processor = tf.LlavaProcessor(
            tf.CLIPImageProcessor(**self.image_options),
            self.tokenizer,
            patch_size=vision.patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT,
        )
        before = self.tokenizer(self._chat("")[0])["input_ids"]
        self.places = slice(len(before), len(before) + patches)
        self.opening = before + [place] * patches

    @property
    def tower(self) -> Any:
        return self.model.model.vision_tower

    def _chat(self, question: str) -> tuple[str, str]:
        """What stands before and after the image."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        before, _, after = text.partition(IMAGE)
        return before, after

    @classmethod
    def spoken(cls, question: Question, text: str) -> str:
        return f"USER: \n{question or DESCRIBE} ASSISTANT: {text}"

    def prompt(self, question: Question) -> str:
        return self._chat(question or DESCRIBE)[1]

    def reply(self, question: Question, text: str) -> str:
        return f" {text}"

    @torch.no_grad()
    def image_tokens(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B I D"]:
        return self.tower(pixels).last_hidden_state

    def _embedded(self, image: Tensor, ids: Tensor) -> Tensor:
        inner = self.model.model
        words = inner.language_model.embed_tokens(ids)
        patches = inner.multi_modal_projector(image[:, 1:].to(words.dtype))
        return torch.cat([words[:, : self.places.start], patches, words[:, self.places.stop :]], dim=1)

    def states(self, image: Tensor, ids: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        inputs = {"inputs_embeds": self._embedded(image, ids), "attention_mask": mask, "position_ids": place}
        return self.model.model.language_model(**inputs, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        return self.model.lm_head(states)

    def continued(self, image: Tensor, ids: Tensor) -> Tensor:
        return self.model.generate(inputs_embeds=self._embedded(image, ids), attention_mask=torch.ones_like(ids))
