"""A BLIP: a decoder that attends to an image tower."""

from typing import Any

import torch
import transformers as tf
from jaxtyping import Float
from tokenizers import Tokenizer, processors
from torch import Tensor

from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.stock.base import END, START, Question, StockModel
from clipmapper.models.stock.towers import as_blip_tower, blip_image_options, tower_options


class Blip(StockModel):
    """A decoder that attends to an image tower of BLIP, which starts as CLIP's and is trained along.

    BLIP's tower has no norm before its first layer. At the start that norm is taken for the linear map that it is of a token
    of average length.
    """

    frozen = False

    def wrapped(self, tokenizer: Tokenizer) -> Tokenizer:
        """Puts start and end token around a text: BLIP's `generate` goes on from it without its last."""
        ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
        tokenizer.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=ends)
        return tokenizer

    def build(self, clip: FrozenCLIP) -> None:
        visual = clip.model.visual
        language = tf.BlipTextConfig(
            **self.ends,
            sep_token_id=self.tokenizer.eos_token_id,
            vocab_size=len(self.tokenizer),
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.config.heads,
            max_position_embeddings=256,
            hidden_dropout_prob=self.config.dropout,
            attention_probs_dropout_prob=self.config.dropout,
        )
        vision = tf.BlipVisionConfig(**tower_options(visual), projection_dim=clip.embed_width)
        self.model = tf.BlipForConditionalGeneration(tf.BlipConfig(text_config=language, vision_config=vision))
        self.tower.load_state_dict(as_blip_tower(visual))
        self.processor = tf.BlipProcessor(
            tf.BlipImageProcessor(**blip_image_options(self.image_options)), self.tokenizer
        )
        self.opening = [self.tokenizer.bos_token_id]

    @property
    def tower(self) -> Any:
        return self.model.vision_model

    def prompt(self, question: Question) -> str:
        return question or ""

    def reply(self, question: Question, text: str) -> str:
        return f" {text}" if question else text

    def image_tokens(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B I D"]:
        return self.tower(pixels).last_hidden_state

    def states(self, image: Tensor, ids: Tensor, place: Tensor, mask: Tensor) -> Tensor:
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": place, "encoder_hidden_states": image}
        return self.model.text_decoder.bert(**inputs, is_decoder=True, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        return self.model.text_decoder.cls(states)

    def continued(self, image: Tensor, ids: Tensor) -> Tensor:
        options = {"attention_mask": torch.ones_like(ids), "encoder_hidden_states": image}
        config = self.model.generation_config
        return self.model.text_decoder.generate(ids, generation_config=config, **options)[:, ids.shape[1] :]
