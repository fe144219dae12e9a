"""The last norm and projection that a pass of a generative model shows, against the states that the model returns."""

from typing import Any, Literal

import pytest
import torch
import transformers as tf

from xai import adapter_for, explain, explain_recording, record
from xai.explainers.lens import layers_of
from xai.recording.recording import Recording

from ..adapters.stock import built
from ..conftest import build
from ..generation.families import loaded


def last_token(outputs: Any) -> Any:
    return outputs.logits[:, -1, 3]


LENS = ("Llama", "Qwen2", "GPT-2", "Mistral", "Phi-3", "BLOOM")


def recorded(model: Any, inputs: Any, lrp: Literal["tokens"] | None = None) -> Recording:
    with record(model, adapter_for(model, inputs), lrp) as recorder:
        model(**inputs)
    return recorder.recording


@pytest.mark.parametrize("lrp", [None, "tokens"])
@pytest.mark.parametrize("name", LENS)
def test_states_after_each_layer_are_the_model_s(name: str, lrp: Literal["tokens"] | None) -> None:
    stock = built(name)
    recording = recorded(stock.model, stock.inputs, lrp)
    (head,) = recording.heads
    layers = layers_of(recording, head)
    with torch.no_grad():
        out = stock.model(**stock.inputs, output_hidden_states=True)
    assert len(layers) == len(out.hidden_states) - 1
    for layer, states in zip(layers[:-1], out.hidden_states[1:-1], strict=True):
        torch.testing.assert_close(layer.states.detach(), states)
    torch.testing.assert_close(head.features(layers[-1].states).detach(), out.hidden_states[-1])
    torch.testing.assert_close(head.read(layers[-1].states).detach(), out.logits)
    assert head.tokens is not None and torch.equal(head.tokens, stock.inputs["input_ids"])


def test_a_tower_s_layers_are_not_read() -> None:
    family = loaded("LLaVA")
    ids = family.processor(images=family.images, text="<image> Was?", return_tensors="pt")
    inputs = {**ids, "pixel_values": ids["pixel_values"].to(family.model.dtype)}
    recording = recorded(family.model, inputs)
    (head,) = recording.heads
    assert {layer.event.module.split(".")[1] for layer in layers_of(recording, head)} == {"language_model"}
    ruled = recorded(family.model, inputs, "tokens")  # shared with methods that propagate relevance
    for method in ("tam", "dex_ar"):
        one, other = (explain_recording(which, method, last_token) for which in (recording, ruled))
        torch.testing.assert_close(one.scores["image"], other.scores["image"])


SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def softcapped() -> Any:
    return tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.1)
    )


def post_norm() -> Any:
    """Its last norm is that of the last layer: states of other layers are normed already."""
    sizes = {"vocab_size": 40, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
    return tf.BartForCausalLM(tf.BartConfig(**sizes, is_decoder=True, is_encoder_decoder=False))


def with_transform() -> Any:
    """A dense layer stands before its last norm."""
    return tf.BertLMHeadModel(tf.BertConfig(**SIZES, is_decoder=True))


@pytest.mark.parametrize("lrp", [None, "tokens"])
@pytest.mark.parametrize("make", [softcapped, post_norm, with_transform])
def test_where_the_head_is_another_there_is_none(make: Any, lrp: Literal["tokens"] | None) -> None:
    model = make().eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    recording = recorded(model, inputs, lrp)
    assert recording.heads == ()
    for method in ("tam", "dex_ar"):
        with pytest.raises(ValueError, match=r"sees no image|not known"):
            explain_recording(recording, method, last_token)


def test_models_that_do_not_write_have_none() -> None:
    family = build("vit")
    assert recorded(family.model, family.inputs).heads == ()
    with pytest.raises(ValueError, match=r"not known: it is for generative models.*Adapter\.heads"):
        explain(family.model, family.inputs, "dex_ar", family.target)
    scores = explain(family.model, family.inputs, "dex_ar", family.target, lens=False).scores["image"]
    assert scores.any() and (scores >= 0).all()


def test_reading_leaves_the_model_as_it_was() -> None:
    stock = built("Llama")
    stock.model.train().requires_grad_(True)
    recording = recorded(stock.model, stock.inputs)
    (head,) = recording.heads
    head.read(layers_of(recording, head)[0].states)
    assert stock.model.training and all(parameter.requires_grad for parameter in stock.model.parameters())
    stock.model.eval()
