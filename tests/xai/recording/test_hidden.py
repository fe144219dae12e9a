"""Hidden tokens: nothing reads them, whatever the attention is computed by; where that cannot be had there is an error."""

import pytest
import torch
from torch import Tensor, nn

from xai import Target, adapter_for, record
from xai.adapters.derived import derived
from xai.recording.hidden import Hidden
from xai.recording.recording import Recording

from ..adapters.stock import SEEING, STOCK
from ..conftest import Family, build

NAMES = [
    "GPT-2",
    "BLOOM",
    "T5",
    "Whisper",
    "MPNet",
    "ViLT",
    "BLIP captions",
    "SigLIP",
    "FLAVA",
    "BLIP-2",
    "LLaVA",
    "CLIP classifier",
]


def recorded(family: Family) -> tuple[Hidden, Recording]:
    adapter = derived(family.model, family.inputs)
    with record(family.model, adapter) as recorder:
        family.model(**family.inputs)
    return Hidden(family.model, adapter, recorder.recording, family.target), recorder.recording


def model_of(name: str) -> Family:
    torch.manual_seed(3)
    family = (STOCK | SEEING)[name]()
    for weight in family.model.eval().parameters():  # BLIP's begin near 0, so that its patches would not count
        nn.init.normal_(weight, std=0.3)
    return family


@pytest.mark.parametrize("name", NAMES)
def test_nothing_reads_a_hidden_token(name: str) -> None:
    """Whatever its embedding is, the output stays; it does not where the token is not hidden."""
    family = model_of(name)
    hidden, recording = recorded(family)
    assert recording.rerun is not None
    for modality, where in recording.inputs.items():
        count = len(torch.arange(recording.mask.shape[1])[where])
        places = (recording.mask & ~recording.special & ~hidden.read)[:, where].all(dim=0).nonzero()[:, 0]
        if modality == "queries" or not len(places):
            continue
        first = recording.first_event(where)
        assert first is not None
        embedding = first.Y[:, first.rows(where)].detach()
        gone = places[[0, len(places) // 2]]
        other = embedding.clone()
        other[:, gone] = torch.randn(other[:, gone].shape)
        keep = torch.ones(len(embedding), count, dtype=torch.bool)
        keep[:, gone] = False
        outputs = {}
        for what, values in (("own", embedding), ("other", other)):
            with hidden.except_for(modality, keep):
                outputs[what] = family.target(recording.rerun({modality: values}).output).detach()
        torch.testing.assert_close(outputs["own"], outputs["other"])
        seen = family.target(recording.rerun({modality: other}).output).detach()
        whole = family.target(recording.output).detach()
        assert not torch.allclose(seen, whole, atol=1e-6) and not torch.allclose(outputs["own"], whole, atol=1e-6)
        with hidden.except_for(modality, torch.ones_like(keep)):
            torch.testing.assert_close(
                family.target(family.model(**family.inputs)).detach(), whole, atol=1e-5, rtol=1e-4
            )


def test_hidden_words_are_those_that_the_model_s_own_mask_hides() -> None:
    family = model_of("ViLT")
    hidden, _ = recorded(family)
    keep = family.inputs["attention_mask"].bool().clone()
    keep[:, 2] = False
    masked = {**family.inputs, "attention_mask": keep.long()}
    with torch.no_grad(), hidden.except_for("text", keep):
        without = family.model(**family.inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(without, family.model(**masked).logits)


def test_hidden_patches_are_those_that_a_tower_never_had() -> None:
    family = model_of("CLIP's image tower")
    hidden, _ = recorded(family)
    keep = torch.tensor([[True, True, False, False, True]] * 2)
    with torch.no_grad(), hidden.except_for("image", keep):
        without = family.model(**family.inputs).image_embeds
    handle = family.model.get_submodule("vision_model.embeddings").register_forward_hook(
        lambda m, args, x: x[:, keep[0]]
    )
    with torch.no_grad(), handle:
        torch.testing.assert_close(without, family.model(**family.inputs).image_embeds)


def test_more_samples_than_were_recorded() -> None:
    family = model_of("GPT-2")
    hidden, _ = recorded(family)
    rows = torch.tensor([0, 1, 0, 1, 1])
    keep = torch.ones(5, 7, dtype=torch.bool)
    keep[torch.arange(5), torch.arange(5) % 3] = False
    inputs = {name: values[rows] for name, values in family.inputs.items()}
    with torch.no_grad(), hidden.except_for("text", keep, rows):
        together = family.model(**inputs).logits
    for i, row in enumerate(rows.tolist()):
        one = {name: values[row : row + 1] for name, values in family.inputs.items()}
        with torch.no_grad(), hidden.except_for("text", keep[i : i + 1], rows[i : i + 1]):
            alone = family.model(**one).logits
        real = int(family.inputs["attention_mask"][row].sum())
        torch.testing.assert_close(together[i : i + 1, :real], alone[:, :real])


def everything(recording: Recording) -> Tensor:
    return ~recording.special[:, recording.modalities["image"]]


def test_what_the_head_reads_cannot_be_hidden() -> None:
    family = model_of("SigLIP classifier")
    hidden, recording = recorded(family)
    with pytest.raises(ValueError, match="read from tokens of 'image' themselves"):
        hidden.require("image", everything(recording))


def test_windows_and_merged_patches_are_refused() -> None:
    family = model_of("Swin")
    hidden, recording = recorded(family)
    with pytest.raises(ValueError, match="attends in windows"):
        hidden.require("image", everything(recording))
    family = model_of("InternVL")
    hidden, recording = recorded(family)
    with pytest.raises(ValueError, match="made from several"):
        hidden.require("image", everything(recording))


class Careful(nn.Module):
    """Masks what comes later by the lowest number rather than by -inf, in plain code."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        scores = self.query(x) @ self.key(x).mT
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = (scores + torch.zeros_like(scores).masked_fill(later, torch.finfo(scores.dtype).min))[:, None]
        x = x + (scores.softmax(dim=-1) @ self.value(x)[:, None])[:, 0]
        return self.head(x)


def test_a_query_without_keys_does_not_read_what_comes_later() -> None:
    torch.manual_seed(0)
    model, ids = Careful().eval(), torch.tensor([[1, 2, 3, 4]])
    target = Target("second", lambda outputs: outputs[:, 1, 0])
    adapter = derived(model, {"ids": ids})
    with record(model, adapter) as recorder:
        model(ids)
    recording = recorder.recording
    keep = torch.tensor([[False, False, True, True]])
    hidden = Hidden(model, adapter, recording, Target("last", lambda outputs: outputs[:, 3, 0]))
    with torch.no_grad(), hidden.except_for("text", keep):
        output = target(model(ids))
        torch.testing.assert_close(output, model.head(model.embedding(ids))[:, 1, 0])  # only its own skip connection


def test_a_picture_without_patches_is_any_picture_without_patches() -> None:
    """SigLIP pools its patches by an attention; where it has no key left, it says the same of all pictures, and a number."""
    family = model_of("SigLIP")
    hidden, recording = recorded(family)
    nothing = torch.zeros(2, recording.mask[:, recording.modalities["image"]].shape[1], dtype=torch.bool)
    nothing[1, 0] = True
    with hidden.except_for("image", nothing), torch.no_grad():
        found = family.model(**family.inputs).image_embeds
        other = family.model(**{**family.inputs, "pixel_values": family.inputs["pixel_values"].flip(0)}).image_embeds
    assert found.isfinite().all()
    torch.testing.assert_close(other[0], found[0])
    assert not torch.allclose(other[1], found[1])


@pytest.mark.parametrize("name", ["clip", "SigLIP", "bert"])
def test_tokens_are_hidden_in_every_call_of_the_body(name: str) -> None:
    family = model_of(name) if name in STOCK else build(name)
    adapter = adapter_for(family.model, family.inputs)
    with record(family.model, adapter) as recorder:
        family.model(**family.inputs)
    hidden = Hidden(family.model, adapter, recorder.recording, family.target)
    modality = "text" if name == "bert" else "image"
    keep = recorder.recording.special[:, recorder.recording.modalities[modality]].clone()
    whole = family.target(family.model(**family.inputs)).detach()
    with hidden.except_for(modality, keep), torch.no_grad():
        first, second = (family.target(family.model(**family.inputs)) for _ in range(2))
    assert torch.equal(second, first) and not torch.allclose(first, whole)


def test_a_query_of_torch_s_own_attention_without_keys_reads_nothing() -> None:
    """SigLIP's pooling head asks with a parameter of its own; without any patch it reads the bias of its projection."""
    family = model_of("SigLIP 2")
    hidden, recording = recorded(family)
    content = (recording.mask & ~recording.special)[:, recording.modalities["image"]]
    with torch.no_grad(), hidden.except_for("image", ~content):
        without = family.target(family.model(**family.inputs))
    assert without.isfinite().all()
    assert not torch.allclose(without, family.target(recording.output), atol=1e-6)
