"""Nothing of a call stays behind."""

import gc
import weakref

import psutil
import torch
import transformers as tf

from xai import adapter_for, explain, given, record
from xai.lrp.positive import TRANSATT
from xai.lrp.relevances import relevances

from .streams import recorded_pass, target, two_streams


def test_the_graph_goes_with_the_tape() -> None:
    recording = recorded_pass(two_streams())
    relevances(recording, target(), TRANSATT)
    watched = [weakref.ref(recording.propagation), weakref.ref(recording.events[0].A)]
    del recording
    gc.collect()
    assert [reference() for reference in watched] == [None] * 2


def test_no_memory_is_held_over_fifty_calls() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = tf.ViTForImageClassification(tf.ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    pixels = torch.randn(64, 3, 32, 32)
    process = psutil.Process()

    def call(method: str) -> None:
        explain(model, pixels, method, given(0))

    for method in ("transatt", "cp_lrp") * 3:
        call(method)
    gc.collect()
    before = process.memory_info().rss
    for _ in range(25):
        for method in ("transatt", "cp_lrp"):
            call(method)
    gc.collect()
    with record(model, adapter_for(model), "tokens") as recorder:
        model(pixels)
    held = sum(event.A.nbytes + event.Y.nbytes for event in recorder.recording.events)
    assert held > 2**19  # of one graph, a part of what it holds
    assert process.memory_info().rss - before < 25 * held  # half of that a call
