"""Registry of the methods, each with what a caller must know of it before it runs."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from inspect import signature
from math import ceil
from typing import Any, Literal

from torch import Tensor

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
from xai.lrp.propagation import Rules

# inputs without some tokens that count as one pass: they run forward alone, and about half of each is left
SHORTER = 10
ENTRY_POINTS = "xai.explainers"  # the group by which installed packages add methods


@dataclass(frozen=True)
class Method:
    """Record of an explainer.

    Attributes:
        name: by which `explain` knows it.
        function: from (recording, target, **options) to a map [B, T, T], or scores [B, T]; of pixels [B, rows, columns].
        source: paper and equation.
        rules: by which it propagates relevance; None for a method that does not.
        start: where relevance ends, "tokens" or "pixels", so what the recording must hold; None without rules.
        class_agnostic: whether the relevance is the same whatever is explained.
        signed: whether tokens can speak against the target.
        models: which alone it is for, in words; "" for all.
        passes: "one" recorded pass, or "many" passes of the model.
        counted: the option of a method of many passes that is their number; None if it has none.
        least: the smallest value of that option, for four modalities.
        removes: whether its passes are forward alone, on inputs without some tokens, or with less attention to them.
        cheap: options of a rough but faster run.
        pairs: of a method whose map says how much two tokens matter together, `Relevance.pairs`, what scores it gives single
            ones: the "row" that the head reads, as of any map, or a share of their pairs, "shared" as by
            `algebra.shared_scores`. None for a method that says nothing of pairs.

    Example:
        >>> from xai.explainers.registry import method_named
        >>> method_named("rollout").class_agnostic
        True
    """

    name: str
    function: Callable[..., Tensor]
    source: str = ""
    rules: Rules | None = None
    start: Literal["tokens", "pixels"] | None = None
    class_agnostic: bool = False
    signed: bool = False
    models: str = ""
    passes: Literal["one", "many"] = "one"
    counted: str | None = None
    least: int = 1
    removes: bool = False
    cheap: dict[str, Any] = field(default_factory=dict)
    pairs: Literal["row", "shared"] | None = None

    def needs(self, options: Mapping[str, Any] | None = None) -> Literal["tokens", "pixels"] | None:
        """Returns the `lrp` with which a pass must be recorded for the method with these options; None for no rules."""
        modified = (options or {}).get("backward", "autograd") != "autograd"
        return self.start or ("tokens" if modified and "backward" in signature(self.function).parameters else None)

    def further(self, options: Mapping[str, Any] | None = None, targets: int = 1) -> int:
        """Returns how many passes the method runs beside the recorded one, for so many targets of a sample.

        A method of many passes without an option that counts them has one for each target. Runs without some tokens serve all
        targets, and are counted as the passes that take as long.
        """
        if self.passes == "one" or self.counted is None:
            return targets * int(self.passes == "many")
        count = (options or {}).get(self.counted, signature(self.function).parameters[self.counted].default)
        return ceil(count / SHORTER) if self.removes else targets * count


METHODS: dict[str, Method] = {}
"""All methods that `explain` and the command line know by name."""

WRITERS = "models that see an image and write"
CLIPS = "CLIP and the target similarity()"
TOWERS = "two towers that never read each other and the target similarity()"


def register(method: Method) -> Method:
    """Adds a method to those that `explain` and the command line know by name.

    Args:
        method: with a name of its own; the same method may be registered again.

    Returns:
        The method.

    Raises:
        ValueError: another method has the name.

    Example:
        >>> from xai import METHODS, Method, register
        >>> def even(recording, target):  # scores [B, T]
        ...     return recording.mask / recording.mask.sum(dim=1, keepdim=True)
        >>> register(Method("even", even, class_agnostic=True)).name
        'even'
        >>> del METHODS["even"]
    """
    if METHODS.get(method.name, method) != method:
        raise ValueError(f"there is a method {method.name!r} already; give yours another name")
    METHODS[method.name] = method
    return method


def method_named(name: str) -> Method:
    """Returns the method of a name.

    Args:
        name: that of a registered method, of an entry point of the group `xai.explainers` of an installed package, or
            `module:function`, where the function is an explainer or the name a `Method`.

    Raises:
        ValueError: there is no such method; names the nearest one.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return register(_imported(name))
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return register(_as_method(point.load(), name))
    near = difflib.get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}"
    raise ValueError(f"unknown method {name!r}; {hint} Your own is named module:function")


def as_method(method: "str | Method | Callable[..., Tensor]") -> Method:
    """Returns a method from its name, from itself, or from a function `(recording, target, **options)`."""
    if isinstance(method, Method):
        return method
    return method_named(method) if isinstance(method, str) else _as_method(method, _name_of(method))


def _imported(name: str) -> Method:
    module, _, attribute = name.partition(":")
    try:
        return _as_method(getattr(importlib.import_module(module), attribute), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} cannot be imported ({error}); give module:function") from error


def _as_method(value: Any, name: str) -> Method:
    if isinstance(value, Method):
        return value
    if not callable(value):
        raise ValueError(f"method {name!r} is a {type(value).__name__}; give a function (recording, target, **options)")
    return Method(name, value)


def _name_of(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


GAME: dict[str, Any] = {"passes": "many", "counted": "budget", "removes": True, "cheap": {"budget": 64}}

for _method in (
    Method("raw_attention", raw_attention, "GenAtt §4.2, the last layer's attention", class_agnostic=True),
    Method("rollout", rollout, "Abnar & Zuidema 2020", class_agnostic=True),
    Method("attention_gradcam", attention_gradcam, "GenAtt §4.2; Selvaraju et al. 2017"),
    Method("genatt", genatt, "GenAtt eq. 1 to 11"),
    Method("wra", wra, "WRA eq. 1 to 15"),
    Method("interaction", interaction, "WRA eq. 16 to 19", pairs="row"),
    Method("legrad", legrad, "Bousselham et al. 2024"),
    Method("grad_eclip", grad_eclip, "Zhao et al. 2024"),
    Method("attcat", attcat, "Qiang et al. 2022", signed=True),
    Method("tokentm", tokentm, "Wu et al. 2024"),
    Method("input_gradient", input_gradient, "gradient times input; Shrikumar et al. 2016", signed=True),
    Method(
        "integrated_gradients",
        integrated_gradients,
        "Sundararajan et al. 2017",
        signed=True,
        passes="many",
        counted="steps",
        cheap={"steps": 8},
    ),
    Method(
        "smoothgrad",
        smoothgrad,
        "Smilkov et al. 2017",
        signed=True,
        passes="many",
        counted="samples",
        cheap={"samples": 5},
    ),
    Method("occlusion", occlusion, "Zeiler & Fergus 2014", signed=True, passes="many", removes=True),
    Method("rise", rise, "Petsiuk et al. 2018, eq. 6", **GAME, least=4),
    Method("tis", tis, "Englebert et al. 2023", **GAME, least=4),
    Method("shapley", shapley, "Lundberg & Lee 2017, eq. 8", signed=True, **GAME, least=16),
    Method("banzhaf", banzhaf, "Li & Yao 2023", signed=True, **GAME, least=4),
    Method("mm_shap", mm_shap, "Parcalabescu & Frank 2023, §3", signed=True, **GAME, least=4),
    Method("fixlip", fixlip, "Baniecki et al. 2025", signed=True, **GAME, least=4, pairs="shared"),
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
    Method("greedy", greedy, "Chen et al. 2026", signed=True, **GAME, least=4),
    Method("atman", atman, "Deiseroth et al. 2023", signed=True, passes="many", removes=True),
    Method("gradient_norm", gradient_norm, "Simonyan et al. 2014"),
    Method("similarity", similarity, "cosine of a token with the one that is read", class_agnostic=True, signed=True),
    Method(
        "consensus_game",
        consensus_game,
        "this project, docs/consensus.md",
        CP_LRP,
        "tokens",
        signed=True,
        **GAME,
        least=16,
    ),
    Method("tam", tam, "Li et al. 2025", models=WRITERS),
    Method("dex_ar", dex_ar, "Bousselham et al. 2026", models=WRITERS),
    Method("maskclip", maskclip, "Zhou et al. 2022", signed=True, models=CLIPS),
    Method("sclip", sclip, "Wang et al. 2024", signed=True, models=CLIPS),
    Method("clearclip", clearclip, "Lan et al. 2024", signed=True, models=CLIPS),
    Method("clip_surgery", clip_surgery, "Li et al. 2023", signed=True, models=CLIPS),
    Method("head_contributions", head_contributions, "Gandelsman et al. 2024", signed=True, models=CLIPS),
    Method("random", random, "uniform scores", class_agnostic=True),
    Method("partial_lrp", partial_lrp, "Voita et al. 2019; TransAtt §4", TRANSATT, "tokens"),
    Method("full_lrp", full_lrp, "Binder et al. 2016; TransAtt §4", TRANSATT, "tokens", signed=True),
    Method("transatt", transatt, "TransAtt eq. 13 and 14", TRANSATT, "tokens"),
    Method("genatt_lrp", genatt_lrp, "GenAtt §3, with LRP", TRANSATT, "tokens"),
    Method("attn_lrp", attn_lrp, "Achtibat et al. 2024", ATTN_LRP, "tokens", signed=True),
    Method("cp_lrp", cp_lrp, "Ali et al. 2022", CP_LRP, "tokens", signed=True),
    Method("libra_fullgrad", libra_fullgrad, "Mehri et al. 2025, FullGrad+", CP_LRP, "tokens", signed=True),
    Method("consensus", consensus, "this project, docs/consensus.md", CP_LRP, "tokens"),
    Method("pixel_lrp", pixel_lrp, "Binder et al. 2016; TransAtt §4", TRANSATT, "pixels", signed=True),
    Method("attn_lrp_pixels", attn_lrp_pixels, "Achtibat et al. 2024", ATTN_LRP, "pixels", signed=True),
):
    register(_method)
