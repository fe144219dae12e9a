"""A method, and what a caller must know of it before it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from math import ceil
from typing import Any, Literal

from torch import Tensor

from xai.lrp.modified_gradient import with_gamma
from xai.lrp.propagation import Rules
from xai.recording.reads import EVERYTHING, Reads

# inputs without some tokens that count as one pass: they run forward alone, and about half of each is left
SHORTER = 10


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
        reads: what of a recording, so that a pass for it keeps no more: also a function of the options; None for everything.
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
    reads: Reads | Callable[[Mapping[str, Any]], Reads] | None = None
    passes: Literal["one", "many"] = "one"
    counted: str | None = None
    least: int = 1
    removes: bool = False
    cheap: dict[str, Any] = field(default_factory=dict)
    pairs: Literal["row", "shared"] | None = None

    def table(self, options: Mapping[str, Any]) -> Rules | None:
        """Returns the rules with these options: those of the gamma rule change them."""
        if self.rules is None:
            return None
        given = signature(self.function).parameters
        gamma, of_pixels = (
            options.get(name, given[name].default if name in given else 0.0) for name in ("gamma", "gamma_pixels")
        )
        return with_gamma(self.rules, gamma, of_pixels)

    def needs(self, options: Mapping[str, Any] | None = None) -> Reads:
        """Returns what a pass must be recorded with for the method with these options: what it reads, and rules, if any.

        Of a method that reads relevance of the inputs alone, once, these rules are the only way back.
        """
        options = options or {}
        own = self.reads(options) if callable(self.reads) else self.reads or EVERYTHING
        modified = (
            options.get("backward", "autograd") != "autograd" and "backward" in signature(self.function).parameters
        )
        alone = self.start is not None and own.once and own.gradients == {"inputs"}
        lrp = self.start or ("tokens" if modified else None)
        return replace(own, lrp=lrp, rules=self.table(options) if alone else None)

    @property
    def count(self) -> int | None:
        """The number of passes where the option that counts them is not given; None if there is none."""
        return None if self.counted is None else signature(self.function).parameters[self.counted].default

    def further(self, options: Mapping[str, Any] | None = None, targets: int = 1) -> int:
        """Returns how many passes the method runs beside the recorded one, for so many targets of a sample.

        A method of many passes without an option that counts them has one for each target; with it as many as it says, and of
        several one more, which is compared with the recorded one. Runs without some tokens serve all targets, and are counted as
        the passes that take as long.
        """
        if self.passes == "one" or self.counted is None:
            return targets * int(self.passes == "many")
        count = (options or {}).get(self.counted, self.count)
        return ceil(count / SHORTER) if self.removes else targets * (count + (count > 1))
