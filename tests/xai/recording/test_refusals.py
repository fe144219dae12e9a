"""What cannot be recorded one for one is an error that names the module."""

import pytest
from torch import nn
from torch.utils.checkpoint import checkpoint

from xai import Adapter, RecordingError, record

from ..toys import TWO, adapter_of, blocks, model_of, snapshot, x


def bad(name: str) -> tuple[nn.Module, Adapter]:
    model = blocks({"none": "exp", "twice": "twice"}.get(name, "sdpa"))
    if name == "checkpointed":
        model.blocks[1].grad_checkpointing = True
    if name == "hidden checkpoint":
        return model_of(lambda x: checkpoint(model.blocks[0], x, use_reentrant=True), inner=model), adapter_of(
            "inner.blocks.0"
        )
    if name in ("bias_k", "add_zero_attn"):
        attention = nn.MultiheadAttention(
            8, 2, batch_first=True, add_bias_kv=name == "bias_k", add_zero_attn=name != "bias_k"
        )
        return model_of(lambda x: attention(x, x, x)[0], attention=attention), adapter_of("attention")
    if name == "merging":
        return model_of(lambda x: model.blocks[1](model.blocks[0](x)[:, ::2]), inner=model), adapter_of(
            "inner.blocks.0", "inner.blocks.1"
        )
    if name == "windows":
        run = lambda x: model.blocks[1](model.blocks[0](x).reshape(10, 1, 8).expand(10, 5, 8)).reshape(2, 25, 8)  # noqa: E731
        return model_of(run, inner=model), adapter_of("inner.blocks.0", "inner.blocks.1")
    adapters = {
        "unnamed": adapter_of("blocks.0"),
        "absent": adapter_of("blocks.2"),
        "uncalled": adapter_of("blocks.0", "head"),
    }
    return model, adapters.get(name, TWO)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "module 'blocks.0' computed 0 attentions in one call and must compute one"),
        ("twice", "module 'blocks.0' computed 2 attentions"),
        ("unnamed", "outside all modules that the adapter names"),
        ("absent", "names module 'blocks.2', which Blocks has not"),
        ("checkpointed", "module 'blocks.1' uses activation checkpointing"),
        ("hidden checkpoint", "off the graph"),
        ("bias_k", "bias_k"),
        ("add_zero_attn", "add_zero_attn"),
        ("merging", "module 'inner.blocks.1': 3 tokens of x where earlier layers had 5"),
        ("windows", "module 'inner.blocks.1'.* windows"),
    ],
)
def test_refuses(name: str, message: str) -> None:
    model, adapter = bad(name)
    before = snapshot(model)
    with pytest.raises((RecordingError, ValueError), match=message), record(model, adapter):
        model(x())
    assert snapshot(model) == before


def test_a_module_that_is_not_called() -> None:
    model = blocks()
    once = model_of(lambda x: model.blocks[0](x), inner=model)
    message = "module 'inner.blocks.1' computed attention 0 times; the adapter expects 1"
    with pytest.raises(RecordingError, match=message), record(once, adapter_of("inner.blocks.0", "inner.blocks.1")):
        once(x())


def test_one_call_in_a_recording() -> None:
    model = blocks()
    with pytest.raises(RecordingError, match="called twice"), record(model, TWO):
        model(x())
        model(x())
    with record(model, TWO) as recorder:
        pass
    with pytest.raises(RecordingError, match="nothing was recorded"):
        _ = recorder.recording
