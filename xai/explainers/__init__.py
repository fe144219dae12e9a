"""The explainers: functions (recording, target, options) to a map [B, T, T] or, where there is none, scores [B, T]."""

from collections.abc import Callable

from torch import Tensor

from xai.explainers.attcat import attcat
from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.genatt import genatt
from xai.explainers.genatt_lrp import genatt_lrp
from xai.explainers.grad_eclip import grad_eclip
from xai.explainers.input_gradient import input_gradient
from xai.explainers.input_relevance import attn_lrp, cp_lrp, full_lrp, pixel_lrp
from xai.explainers.integrated_gradients import integrated_gradients
from xai.explainers.interaction import interaction
from xai.explainers.legrad import legrad
from xai.explainers.partial_lrp import partial_lrp
from xai.explainers.random import random
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rollout import rollout
from xai.explainers.smoothgrad import smoothgrad
from xai.explainers.tokentm import tokentm
from xai.explainers.transatt import transatt
from xai.explainers.wra import wra
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP
from xai.lrp.positive import TRANSATT
from xai.lrp.propagation import Rules

EXPLAINERS: dict[str, Callable[..., Tensor]] = {
    "raw_attention": raw_attention,
    "rollout": rollout,
    "attention_gradcam": attention_gradcam,
    "genatt": genatt,
    "wra": wra,
    "interaction": interaction,
    "legrad": legrad,
    "grad_eclip": grad_eclip,
    "attcat": attcat,
    "tokentm": tokentm,
    "input_gradient": input_gradient,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smoothgrad,
    "random": random,
}
IGNORE_TARGET = frozenset({"raw_attention", "rollout", "random"})
RUN_AGAIN = frozenset(
    {"integrated_gradients", "smoothgrad"}
)  # these need more passes of the model than the recording's
LRP_EXPLAINERS: dict[str, Callable[..., Tensor]] = {  # of a recording recorded with rules, `record(..., lrp="tokens")`
    "partial_lrp": partial_lrp,
    "full_lrp": full_lrp,
    "transatt": transatt,
    "genatt_lrp": genatt_lrp,
    "attn_lrp": attn_lrp,
    "cp_lrp": cp_lrp,
}
PIXEL_EXPLAINERS: dict[str, Callable[..., Tensor]] = {
    "pixel_lrp": pixel_lrp
}  # `record(..., lrp="pixels")`; [B, rows, columns]
RULES: dict[str, Rules] = {  # by which the methods above propagate relevance
    **dict.fromkeys((*LRP_EXPLAINERS, *PIXEL_EXPLAINERS), TRANSATT),
    "attn_lrp": ATTN_LRP,
    "cp_lrp": CP_LRP,
}
