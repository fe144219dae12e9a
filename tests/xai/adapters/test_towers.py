"""Models of open_clip and timm without a table: their attention in plain code, padding, and which tokens are read."""

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from torch import Tensor

from xai import adapter_for, explain, explain_recording, given, similarity

from ..conftest import Family, words
from .stock import BART, built
from .test_derived import shown
from .test_windows import Softmaxes
from .towers import TOWERS

PLAIN = [name for name in TOWERS if name.startswith("timm")]
COCA = ("open_clip CoCa", "open_clip CoCa captions")


@pytest.mark.parametrize("name", PLAIN)
def test_attention_is_that_of_timms_plain_code(name: str) -> None:
    family, recording = shown(name)
    plain = built(name).model
    for module in plain.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with Softmaxes() as softmaxes, torch.no_grad():
        plain(**family.inputs)
    real = recording.mask[:, None, :, None]  # what padding attends to is nobody's
    assert len(softmaxes.results) == len(recording.events)
    for event, wanted in zip(recording.events, softmaxes.results, strict=True):
        rows = real[:, :, event.queries]
        torch.testing.assert_close(event.A.detach() * rows, wanted * rows)


def second(family: Family) -> dict[str, Tensor]:
    return {name: value[1:] for name, value in family.inputs.items()}


def without_padding(family: Family) -> dict[str, Tensor]:
    """The second sample: four patches of six, or five words of seven."""
    return {
        name: value[:, :4] if name in ("x", "patch_coord", "patch_valid") else value[:, :5] if name == "text" else value
        for name, value in second(family).items()
    }


PADDED = ("timm NaFlex", "open_clip XLM-R")


@pytest.mark.parametrize("name", [*TOWERS, "OWL-ViT", "OWLv2", "AST", "GIT", "mBART", "ViTDet"])
def test_samples_of_a_batch_are_explained_as_alone(name: str) -> None:
    family = built(name)
    alone = without_padding(family) if name in PADDED else second(family)
    target = given(2) if "given" in family.target.name else family.target
    for method in ("rollout", "genatt", "wra", "input_gradient"):
        together = explain(family.model, family.inputs, method, target)
        for modality, wanted in explain(family.model, alone, method, target).scores.items():
            scores = together.scores[modality]
            torch.testing.assert_close(
                scores[1:, : wanted.shape[1]], wanted, atol=1e-6, rtol=1e-5
            )  # GIT: partly in single
            assert not scores[1:, wanted.shape[1] :].any()


def test_patches_that_are_given_one_by_one_have_a_grid_where_all_samples_have_the_same() -> None:
    assert shown("timm NaFlex, map")[1].grids == {"image": (2, 3)} and not shown("timm NaFlex")[1].grids
    family = built("SigLIP 2")
    family.inputs |= {"pixel_attention_mask": torch.ones(2, 4).long(), "spatial_shapes": torch.tensor([[1, 4]] * 2)}
    assert explain(family.model, family.inputs, "genatt", family.target)["image"].grid == (1, 4)
    family.inputs["spatial_shapes"] = torch.tensor([[2, 2]] * 2)  # of the same structure otherwise
    assert explain(family.model, family.inputs, "genatt", family.target)["image"].grid == (2, 2)


def test_a_class_token_at_the_end_of_the_text_is_read_even_if_it_is_hidden_from_the_words() -> None:
    """The table knows the end token alone."""
    family, recording = shown("open_clip, class token of the text")
    with pytest.raises(ValueError, match="text tower TextTransformer is not CLIP's"):
        adapter_for(family.model)
    assert recording.rows_of(family.target).nonzero()[:, 1].tolist() == [0, 12, 0, 12]
    assert recording.mask[1].tolist() == [True] * 11 + [False, True]


def test_words_beside_their_neighbours_are_themselves() -> None:
    """MobileBERT lays each word's embedding between those of the words around it."""
    _, recording = shown("MobileBERT")
    assert torch.equal(recording.mask, words()["attention_mask"].bool())
    assert recording.special.nonzero().tolist() == [[0, 0], [0, 6], [1, 0], [1, 4]]


def coca_by_hand() -> tuple[Tensor, Tensor]:
    """Rollout of the two embeddings and of the decoder's six words over [text 8, image 5, queries 3]."""
    _, recording = shown("open_clip CoCa captions")
    means = {event.module: event.A.detach().mean(dim=1) for event in recording.events}

    def rolled(module: str, layers: int) -> Tensor:
        rows = torch.eye(means[f"{module}.0.attn"].shape[-1]).double()
        for n in range(layers):
            rows = (rows + means[f"{module}.{n}.attn"] @ rows) / 2
        return rows

    text, decoded = rolled("text.transformer.resblocks", 2), rolled("text_decoder.resblocks", 2)
    queries = torch.eye(3).double().expand(2, -1, -1)
    pooled = torch.cat([means["visual.attn_pool.attn"] @ rolled("visual.transformer.resblocks", 3), queries], dim=-1)
    read = decoded.mT @ means["text_decoder.cross_attn.1.attn"] @ pooled[:, 1:]  # the last cross-attention counts alone
    embeddings = torch.cat([F.pad(text[:, 7:], (0, 8)), F.pad(pooled[:, :1], (8, 0))], dim=1)
    return embeddings, torch.cat([decoded @ text[:, :6], read], dim=-1)


def test_coca_has_an_embedding_and_captions() -> None:
    """The similarity reads the class tokens, and the logits of a word the decoder, whose image is the other queries."""
    embeddings, decoded = coca_by_hand()
    family, recording = shown("open_clip CoCa captions")
    for target, rows in ((similarity(), embeddings.mean(dim=1)), (family.target, decoded[:, 3])):
        scores = explain_recording(recording, "rollout", target).scores
        for modality, wanted in zip(("text", "image", "queries"), rows.split([8, 5, 3], dim=1), strict=True):
            torch.testing.assert_close(scores[modality], wanted * recording.mask[:, recording.modalities[modality]])


@pytest.mark.parametrize("cls", [tf.BartForConditionalGeneration, tf.MBartForConditionalGeneration])
@pytest.mark.parametrize("samples", [1, 2])
def test_decoder_tokens_that_are_made_from_the_encoders_are_refused_with_the_remedy(cls: type, samples: int) -> None:
    config = cls.config_class(vocab_size=40, d_model=16, **BART, encoder_ffn_dim=24, decoder_ffn_dim=24, pad_token_id=0)
    inputs = {name: value[:samples] for name, value in words().items()}
    with pytest.raises(TypeError, match=r"module 'model\.decoder\.layers\.0\.self_attn'.* decoder_input_ids"):
        explain(cls(config), inputs, "genatt", given(1))
