"""What enters a layer leaves it, by the rules that promise it; what is lost is named."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xai import adapter_for, explain, given, record
from xai.explainers import METHODS
from xai.lrp.conservation import conservation
from xai.lrp.mode import PropagationError
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP, with_gamma
from xai.lrp.positive import TRANSATT, linear
from xai.lrp.propagation import Operands, Operation, Rules, Way
from xai.lrp.relevances import relevances

from ..conftest import Family, build
from .streams import adapter, inputs, recorded_pass, target, two_streams

TABLES = [TRANSATT, CP_LRP, with_gamma(CP_LRP, 0.25), ATTN_LRP]

LOSES = ("detr",)  # its first decoder layer reads zeros, which no share can be given to

LRP_EXPLAINERS = [name for name, method in METHODS.items() if method.start == "tokens"]


def lossy(y: Tensor, operands: Operands, operation: Operation) -> Way:
    """Loses a tenth in one module."""
    way, kept = linear(y, operands, operation), 0.9 if operation.module == "vit.layers.1.mlp.fc1" else 1
    return way._replace(back=lambda *given: (way.back(*given)[0] * kept, None, None))


def test_no_layer_loses(family: Family, request: pytest.FixtureRequest) -> None:
    with record(family.model, adapter_for(family.model), "tokens") as recorder:
        family.model(**family.inputs)
    for rules in TABLES:
        kept = conservation(recorder.recording, family.target, rules)
        if request.node.callspec.params["family"] in LOSES and rules is TRANSATT:
            with pytest.raises(PropagationError, match=r"lost in layer 'model\.decoder\.layers\.0'"):
                kept.check(1e-5)
            continue
        kept.check(1e-7 if rules is TRANSATT else 1e-10)
        assert all(layer.entered for layer in kept.layers if layer.name != "")
        if rules is TRANSATT:
            assert not any(layer.absorbed for layer in kept.layers)


@pytest.mark.parametrize("rules", TABLES, ids=["TransAtt", "CP-LRP", "gamma", "AttnLRP"])
def test_the_report_says_what_reaches_the_tokens(rules: Rules) -> None:
    """Start = tokens + absorbed + lost, and each layer's entries are what the later layers left."""
    recording = recorded_pass(two_streams())
    kept = conservation(recording, target(), rules)
    start = recording.score(target()).sum() if rules.modified_gradient else torch.tensor(2.0)
    gone = sum(layer.absorbed + layer.lost for layer in kept.layers)
    torch.testing.assert_close(
        float(relevances(recording, target(), rules).tokens.sum()), float(start) - gone, rtol=1e-9, atol=1e-9
    )
    names = [layer.name for layer in kept.layers]
    assert names[:5] == ["head.3", "head.2", "head.1", "head.0", "joint.0"]
    for later, earlier in zip(kept.layers[:4], kept.layers[1:5], strict=True):
        assert earlier.entered == pytest.approx(later.left, rel=1e-9, abs=1e-12)


def test_lost_relevance_is_named() -> None:
    family = build("vit")
    with record(family.model, adapter_for(family.model), "tokens") as recorder:
        family.model(**family.inputs)
    kept = conservation(recorder.recording, family.target, replace(TRANSATT, linear=lossy))
    with pytest.raises(PropagationError, match=r"layer 'vit\.layers\.1'.*linear in module 'vit\.layers\.1\.mlp\.fc1'"):
        kept.check(1e-3)
    (layer,) = (layer for layer in kept.layers if layer.name == "vit.layers.1")
    through = layer.lost / 0.1
    assert layer.left == pytest.approx(layer.entered - 0.1 * through)
    assert all(kept.loss(other) < 1e-7 for other in kept.layers if other.name != "vit.layers.1")


@pytest.mark.parametrize("method", LRP_EXPLAINERS)
def test_explain_checks(method: str) -> None:
    family = build("bert")
    result = explain(family.model, family.inputs, method, family.target, check=True)
    assert result.conservation is not None and "bert.encoder.layer.1" in str(result.conservation)
    assert explain(family.model, family.inputs, method, family.target).conservation is None
    with pytest.raises(PropagationError, match="tolerance of 0"):
        explain(family.model, family.inputs, method, family.target, check=0.0)


def test_checks_of_detr_and_of_the_pixels() -> None:
    detr, vit = build("detr"), build("vit")
    with pytest.raises(PropagationError, match="decoder"):
        explain(detr.model, detr.inputs, "transatt", detr.target, check=True)
    result = explain(vit.model, vit.inputs, "pixel_lrp", vit.target, check=True)
    assert result.conservation is not None
    (embedding,) = (layer for layer in result.conservation.layers if layer.name == "vit.embeddings")
    absorbed = embedding.absorbed
    assert absorbed > 0 and float(result.scores["pixels"].sum()) < result.conservation.start


def test_other_methods_have_nothing_to_check() -> None:
    with pytest.raises(ValueError, match=r"check is for methods that propagate relevance: .*partial_lrp"):
        explain(two_streams(), inputs(), "genatt", given(0), adapter(), check=True)
