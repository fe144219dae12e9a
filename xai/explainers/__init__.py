"""The explainers: functions (tape, target, options) to a map [B, T, T] or, where there is none, scores [B, T]."""

from collections.abc import Callable

from torch import Tensor

from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.genatt import genatt
from xai.explainers.interaction import interaction
from xai.explainers.random import random
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rollout import rollout
from xai.explainers.wra import wra

EXPLAINERS: dict[str, Callable[..., Tensor]] = {
    "raw_attention": raw_attention,
    "rollout": rollout,
    "attention_gradcam": attention_gradcam,
    "genatt": genatt,
    "wra": wra,
    "interaction": interaction,
    "random": random,
}
IGNORE_TARGET = frozenset({"raw_attention", "rollout", "random"})
