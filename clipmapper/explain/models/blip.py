"""BLIP for question answering: transformers' class gives no logits of the answer, which this module does."""

from copy import copy
from typing import Any

from torch import Tensor, nn


class BlipAnswers(nn.Module):
    """The pass of `BlipForQuestionAnswering` up to the logits of the answer's tokens, with its own parts.

    Args:
        model: as transformers loads it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.text_encoder, self.text_decoder = (
            model.vision_model,
            model.text_encoder,
            model.text_decoder,
        )
        self.config, self.generation_config = copy(model.config), copy(model.generation_config)
        self.config.is_encoder_decoder = True
        self.generation_config.decoder_start_token_id = model.decoder_start_token_id

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, decoder_input_ids: Tensor, attention_mask: Tensor
    ) -> Any:
        """Pixels [B, 3, H, W], ids of the question and of the answer to outputs with `logits` [B, answer, vocabulary]."""
        image = self.vision_model(pixel_values=pixel_values).last_hidden_state
        question = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=image
        ).last_hidden_state
        return self.text_decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=question,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )
