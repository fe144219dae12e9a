"""Table of the methods that are here, a row each."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from xai.explainers.atman import atman
from xai.explainers.attcat import attcat
from xai.explainers.attention_gradcam import attention_gradcam
from xai.explainers.banzhaf import banzhaf
from xai.explainers.clip_surgery import clip_surgery
from xai.explainers.consensus import consensus
from xai.explainers.consensus_game import consensus_game
from xai.explainers.dex_ar import dex_ar
from xai.explainers.exclip import exclip
from xai.explainers.fixlip import fixlip
from xai.explainers.genatt import genatt
from xai.explainers.genatt_lrp import genatt_lrp
from xai.explainers.grad_eclip import grad_eclip
from xai.explainers.gradient_norm import gradient_norm
from xai.explainers.greedy import greedy
from xai.explainers.head_contributions import head_contributions
from xai.explainers.input_gradient import input_gradient
from xai.explainers.input_relevance import attn_lrp, attn_lrp_pixels, cp_lrp, full_lrp, pixel_lrp
from xai.explainers.integrated_gradients import integrated_gradients
from xai.explainers.interaction import interaction
from xai.explainers.legrad import legrad
from xai.explainers.libra_fullgrad import libra_fullgrad
from xai.explainers.maskclip import maskclip
from xai.explainers.method import Method
from xai.explainers.occlusion import occlusion
from xai.explainers.partial_lrp import partial_lrp
from xai.explainers.random import random
from xai.explainers.raw_attention import raw_attention
from xai.explainers.rise import rise
from xai.explainers.rollout import rollout
from xai.explainers.sclip import clearclip, sclip
from xai.explainers.shapley import mm_shap, shapley
from xai.explainers.similarity import similarity
from xai.explainers.smoothgrad import smoothgrad
from xai.explainers.tam import tam
from xai.explainers.tis import tis
from xai.explainers.tokentm import tokentm
from xai.explainers.transatt import transatt
from xai.explainers.wra import wra
from xai.lrp.modified_gradient import ATTN_LRP, CP_LRP
from xai.lrp.positive import TRANSATT
from xai.recording.reads import EVERYTHING, Reads, reads

WRITERS = "models that see an image and write"
CLIPS = "CLIP and the target similarity()"
TOWERS = "two towers that never read each other and the target similarity()"


def _of_last(own: Reads) -> Callable[[Mapping[str, Any]], Reads]:
    """Returns what a method reads of which the option `last` is the layers that count."""
    return lambda options: replace(own, last=options.get("last"))


def _of_genatt(options: Mapping[str, Any]) -> Reads:
    """Returns what GenAtt reads: the whole gradient where another tensor takes the place of attention."""
    return _of_last(EVIDENCE if options.get("attention") is None else MAP_GRADIENTS)(options)


def _of_legrad(options: Mapping[str, Any]) -> Reads:
    """Returns what LeGrad reads: with a layer's own head also the states that it reads."""
    return EVERYTHING if options.get("heads", "final") == "own" else _of_last(SENSITIVITY)(options)


MAPS = reads("A")
MAP_GRADIENTS = reads("A", gradients=["A"])
EVIDENCE = reads("A", gradients=["evidence"])
SENSITIVITY = reads("A", gradients=["sensitivity"])
STATE_GRADIENTS = reads("A", "Y", "Y_out", gradients=["evidence", "Y", "Y_out"])
INPUT_GRADIENTS = reads("inputs", gradients=["inputs"])
INPUTS = reads("inputs")
SEVERAL = replace(INPUT_GRADIENTS, once=False)  # backward passes
RELEVANCE = reads("A", "inputs", gradients=["A", "inputs"])
MAPS_TWICE = replace(RELEVANCE, once=False)  # relevance and gradients

GAME: dict[str, Any] = {"passes": "many", "counted": "budget", "removes": True, "cheap": {"budget": 64}}

OWN = (
    Method("raw_attention", raw_attention, "GenAtt §4.2, the last layer's attention", class_agnostic=True, reads=MAPS),
    Method("rollout", rollout, "Abnar & Zuidema 2020", class_agnostic=True, reads=_of_last(MAPS)),
    Method("attention_gradcam", attention_gradcam, "GenAtt §4.2; Selvaraju et al. 2017", reads=MAP_GRADIENTS),
    Method("genatt", genatt, "GenAtt eq. 1 to 11", reads=_of_genatt),
    Method("wra", wra, "WRA eq. 1 to 15", reads=_of_last(STATE_GRADIENTS)),
    Method("interaction", interaction, "WRA eq. 16 to 19", pairs="row", reads=_of_last(STATE_GRADIENTS)),
    Method("legrad", legrad, "Bousselham et al. 2024", reads=_of_legrad),
    Method("grad_eclip", grad_eclip, "Zhao et al. 2024", reads=reads("A", "qkv", gradients=["A"])),
    Method("attcat", attcat, "Qiang et al. 2022", signed=True, reads=reads("A", "Y", gradients=["Y"])),
    Method("tokentm", tokentm, "Wu et al. 2024", reads=reads("A", "qkv", "Y", gradients=["evidence"])),
    Method(
        "input_gradient",
        input_gradient,
        "gradient times input; Shrikumar et al. 2016",
        signed=True,
        reads=INPUT_GRADIENTS,
    ),
    Method(
        "integrated_gradients",
        integrated_gradients,
        "Sundararajan et al. 2017",
        signed=True,
        passes="many",
        counted="steps",
        cheap={"steps": 8},
        reads=lambda options: EVERYTHING if options.get("layer", 0) else INPUTS,
    ),
    Method(
        "smoothgrad",
        smoothgrad,
        "Smilkov et al. 2017",
        signed=True,
        passes="many",
        counted="samples",
        cheap={"samples": 5},
        reads=INPUTS,
    ),
    Method("occlusion", occlusion, "Zeiler & Fergus 2014", signed=True, passes="many", removes=True, reads=INPUTS),
    Method("rise", rise, "Petsiuk et al. 2018, eq. 6", **GAME, least=4, reads=INPUTS),
    Method("tis", tis, "Englebert et al. 2023", **GAME, least=4, reads=reads("Y")),
    Method("shapley", shapley, "Lundberg & Lee 2017, eq. 8", signed=True, **GAME, least=16, reads=INPUTS),
    Method("banzhaf", banzhaf, "Li & Yao 2023", signed=True, **GAME, least=4, reads=INPUTS),
    Method("mm_shap", mm_shap, "Parcalabescu & Frank 2023, §3", signed=True, **GAME, least=4, reads=INPUTS),
    Method("fixlip", fixlip, "Baniecki et al. 2025", signed=True, **GAME, least=4, pairs="shared", reads=INPUTS),
    Method(
        "exclip",
        exclip,
        "Möller et al. 2025",
        signed=True,
        passes="many",
        counted="steps",
        cheap={"steps": 4},
        pairs="shared",
        models=TOWERS,
    ),
    Method("greedy", greedy, "Chen et al. 2026", signed=True, **GAME, least=4, reads=INPUTS),
    Method("atman", atman, "Deiseroth et al. 2023", signed=True, passes="many", removes=True, reads=INPUTS),
    Method("gradient_norm", gradient_norm, "Simonyan et al. 2014", reads=INPUT_GRADIENTS),
    Method(
        "similarity",
        similarity,
        "cosine of a token with the one that is read",
        class_agnostic=True,
        signed=True,
        reads=reads("Y", "Y_out"),
    ),
    Method(
        "consensus_game",
        consensus_game,
        "this project, docs/consensus.md",
        CP_LRP,
        "tokens",
        signed=True,
        **GAME,
        least=16,
        reads=SEVERAL,
    ),
    Method("tam", tam, "Li et al. 2025", models=WRITERS),
    Method("dex_ar", dex_ar, "Bousselham et al. 2026", models=WRITERS),
    Method("maskclip", maskclip, "Zhou et al. 2022", signed=True, models=CLIPS),
    Method("sclip", sclip, "Wang et al. 2024", signed=True, models=CLIPS),
    Method("clearclip", clearclip, "Lan et al. 2024", signed=True, models=CLIPS),
    Method("clip_surgery", clip_surgery, "Li et al. 2023", signed=True, models=CLIPS),
    Method("head_contributions", head_contributions, "Gandelsman et al. 2024", signed=True, models=CLIPS),
    Method("random", random, "uniform scores", class_agnostic=True, reads=reads()),
    Method("partial_lrp", partial_lrp, "Voita et al. 2019; TransAtt §4", TRANSATT, "tokens", reads=RELEVANCE),
    Method(
        "full_lrp", full_lrp, "Binder et al. 2016; TransAtt §4", TRANSATT, "tokens", signed=True, reads=INPUT_GRADIENTS
    ),
    Method(
        "transatt",
        transatt,
        "TransAtt eq. 13 and 14",
        TRANSATT,
        "tokens",
        reads=MAPS_TWICE,
    ),
    Method(
        "genatt_lrp",
        genatt_lrp,
        "GenAtt §3, with LRP",
        TRANSATT,
        "tokens",
        reads=MAPS_TWICE,
    ),
    Method("attn_lrp", attn_lrp, "Achtibat et al. 2024", ATTN_LRP, "tokens", signed=True, reads=INPUT_GRADIENTS),
    Method("cp_lrp", cp_lrp, "Ali et al. 2022", CP_LRP, "tokens", signed=True, reads=INPUT_GRADIENTS),
    Method(
        "libra_fullgrad",
        libra_fullgrad,
        "Mehri et al. 2025, FullGrad+",
        CP_LRP,
        "tokens",
        signed=True,
        reads=reads("Y", gradients=["Y"]),
    ),
    Method(
        "consensus",
        consensus,
        "this project, docs/consensus.md",
        CP_LRP,
        "tokens",
        reads=SEVERAL,
    ),
    Method(
        "pixel_lrp",
        pixel_lrp,
        "Binder et al. 2016; TransAtt §4",
        TRANSATT,
        "pixels",
        signed=True,
        reads=INPUT_GRADIENTS,
    ),
    Method(
        "attn_lrp_pixels",
        attn_lrp_pixels,
        "Achtibat et al. 2024",
        ATTN_LRP,
        "pixels",
        signed=True,
        reads=INPUT_GRADIENTS,
    ),
)
