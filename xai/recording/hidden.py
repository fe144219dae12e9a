"""Tokens hidden from every attention of a model, or suppressed there: what it says when nothing reads them, or little."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai.recording.adapter import Adapter, Site
from xai.recording.attention import multi_head, scaled_dot_product
from xai.recording.axis import Positions, first_of
from xai.recording.event import MASKED, QKV
from xai.recording.places import Calls, drawn_in_order
from xai.recording.recording import Recording, Score
from xai.recording.unchanged import evaluation, same_random_numbers

TAKE_MASKS = {"softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}  # attentions that take a mask
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class Hidden:
    """Runs a model with some tokens hidden: no attention has them among its keys, so that nothing reads them.

    For patches this is the same as leaving them out of the sequence: each has its own position. Words keep their positions, so
    that a word that is hidden leaves a gap. Tokens that are made from hidden ones, as a language model's image tokens from
    the patches of its vision tower, are hidden too.

    Args:
        model: what runs.
        adapter: its adapter.
        recording: of a pass over inputs of the same structure; any number of samples may run later.
        target: what of the outputs is looked at, one number a sample.
        factor: suppresses tokens in place of hiding them: their scores in every attention lose this share of what they are more
            than the least of their row; None hides them. What reads a token past all attentions still does.

    Raises:
        ValueError: a target as `Recording.score` refuses it, or a factor that is not more than 0 and at most 1.

    Example:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from xai import adapter_for, record
        >>> from xai.recording.hidden import Hidden
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=16, n_layer=2, n_head=2))
        >>> inputs = {"input_ids": torch.tensor([[5, 7, 2]])}
        >>> adapter = adapter_for(model, inputs)
        >>> with record(model, adapter) as recorder:
        ...     whole = model(**inputs).logits
        >>> hidden = Hidden(model, adapter, recorder.recording, lambda outputs: outputs.logits[:, 2, 0])
        >>> with hidden.except_for("text", torch.tensor([[True, False, True]])):
        ...     without = model(**inputs).logits
        >>> torch.allclose(whole[0, 0], without[0, 0], atol=1e-5), torch.allclose(whole[0, 2], without[0, 2], atol=1e-5)
        (True, False)
    """

    def __init__(
        self, model: nn.Module, adapter: Adapter, recording: Recording, target: Score, factor: float | None = None
    ) -> None:
        if factor is not None and not 0 < factor <= 1:
            raise ValueError(f"factor is {factor}; give more than 0, which changes nothing, and at most 1")
        self.model, self.recording, self.factor = model, recording, factor
        read = recording.rows_of(target)  # [B, T], what the target reads after the last attention
        self.read = read if recording.turns is None else recording.turns.any(read)
        if factor is not None:
            self.read = torch.zeros_like(self.read)  # nothing that need be taken away
        self.sites: list[tuple[Site, slice]] = [
            (site, event.keys) for site, event in zip(adapter.sites, recording.events, strict=True)
        ]

    def except_for(
        self, modality: str, keep: Bool[Tensor, "N T"], samples: Int[Tensor, " N"] | None = None
    ) -> AbstractContextManager[None]:
        """Hides all tokens of a modality except for some, in every call of the model or of its parts in the body.

        Args:
            modality: of the recording.
            keep: [N, tokens of the modality], one row for each input that runs in the body.
            samples: which sample of the recording each row is of; None where row i is of sample i.

        Raises:
            ValueError: a token of the modality can be read past all attentions, so that hiding it does not take it away; names
                the module and another removal.
        """
        return self.all_except_for(self._whole(modality, keep), samples)

    @contextmanager
    def all_except_for(self, keep: Bool[Tensor, "N T"], samples: Int[Tensor, " N"] | None = None) -> Iterator[None]:
        """Hides all tokens of the joint axis except for some, as `except_for`.

        Args:
            keep: [N, T], one row for each input that runs in the body.
            samples: as of `except_for`.

        Raises:
            ValueError: as `except_for`.
        """
        axis, turn = self._axis(keep, samples), Counter[str]()
        keys: dict[Any, Tensor] = {}
        for site, span in self.sites:
            for place in site.places.attentions if site.places is not None else ((site.module, turn[site.module]),):
                keys[place] = axis[:, span]
            turn[site.module] += 1
        calls: Calls | _ModuleCalls = Calls() if self.sites[0][0].places is not None else _ModuleCalls(turn)
        with ExitStack() as stack:
            stack.enter_context(same_random_numbers(self.model))
            stack.enter_context(evaluation(self.model))
            for handle in calls.hooks(self.model):
                stack.callback(handle.remove)
            changed = {place: kept for place, kept in keys.items() if not kept.all()}
            stack.enter_context(
                _Masking(calls, changed) if self.factor is None else _Damping(calls, changed, self.factor)
            )
            yield

    def require(self, modality: str, removable: Bool[Tensor, "B T"]) -> None:
        """Raises ValueError if one of some tokens of a modality can be read past all attentions, as `except_for`."""
        self._axis(self._whole(modality, ~removable), None)

    def _whole(self, modality: str, keep: Tensor) -> Tensor:
        """Tokens [N, T] of the joint axis that stay, of a modality some and of others all."""
        axis = torch.ones(len(keep), self.recording.mask.shape[1], dtype=torch.bool, device=keep.device)
        axis[:, self.recording.modalities[modality]] = keep
        return axis

    def _axis(self, keep: Tensor, samples: Tensor | None) -> Tensor:
        """Tokens [N, T] of the joint axis that stay, those that are made from hidden ones hidden too."""
        recording, axis = self.recording, keep.clone()
        removed = {name: ~keep[:, where] for name, where in recording.modalities.items() if not keep[:, where].all()}
        read = self.read.to(keep.device) if samples is None else self.read[samples.to(self.read.device)].to(keep.device)
        for name in removed:
            self._check(name, recording.modalities[name], removed[name], read)
        for name, link in recording.links.items():
            if link.origin not in removed:
                continue
            parts = (link.weights > 0).to(keep.device)
            made = removed[link.origin].any(dim=0)[None].logical_and(parts)
            if bool((made.any(dim=1) & (parts.sum(dim=1) > 1)).any()):
                raise ValueError(
                    f"tokens of {name!r} are made from several of {link.origin!r} each, so that a hidden one is still read by "
                    'them; remove by "mean", "zero" or "blur", which change the pixels'
                )
            made_from = removed[link.origin].float() @ parts.float().mT > 0
            removed[name] = made_from | removed[name] if name in removed else made_from
            self._check(name, recording.modalities[name], removed[name], read)
            axis[:, recording.modalities[name]] &= ~removed[name]
        return axis

    def _check(self, modality: str, where: Positions, removed: Tensor, read: Tensor) -> None:
        if bool((read[:, where] & removed).any()):
            raise ValueError(
                f"what is looked at is read from tokens of {modality!r} themselves, so that hiding them from attention does not "
                'take them away; remove by "mean", "zero" or "blur", which change the pixels'
            )
        read_by = [site for site, span in self.sites if span.start <= first_of(where) < span.stop and removed.any()]
        for site in read_by:
            functions = set() if site.places is None else {place.function for place in site.places.attentions}
            if site.windows is not None or not functions <= TAKE_MASKS:
                raise ValueError(
                    f"module {site.module!r} attends in windows, to sampled points, or by probabilities that it mixes, and no "
                    'tokens can be hidden from it; remove by "mean", "zero" or "blur", which change the pixels'
                )


class _ModuleCalls:
    """Which call of a module that a table names an attention happens in: each computes one, and each pass has as many."""

    def __init__(self, modules: Mapping[str, int]) -> None:
        self.modules, self.calls, self.inside = modules, Counter[str](), list[tuple[str, int]]()

    def hooks(self, model: nn.Module) -> Iterator[Any]:
        for name in self.modules:
            yield model.get_submodule(name).register_forward_pre_hook(partial(self._enter, name))
            yield model.get_submodule(name).register_forward_hook(self._leave, always_call=True)

    def place(self, func: Any) -> tuple[str, int] | None:
        return self.inside[-1] if self.inside and getattr(func, "__name__", "") in TAKE_MASKS else None

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self.inside.append((name, self.calls[name] % self.modules[name]))
        self.calls[name] += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()


class _Masking(TorchFunctionMode):
    """Attentions at some places, with the keys [N, k] that stay."""

    def __init__(self, calls: Calls | _ModuleCalls, keys: Mapping[Any, Tensor]) -> None:
        super().__init__()
        self.calls, self.keys = calls, keys

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, place = kwargs or {}, self.calls.place(func)
        if place not in self.keys:
            return drawn_in_order(func, args, kwargs)
        kept = self.keys[place]
        if func is F.scaled_dot_product_attention:
            return self.scaled_dot_product({**dict(zip(_SDPA, args, strict=False)), **kwargs}, kept)
        if func is F.multi_head_attention_forward:
            return self.multi_head(args, kwargs, kept)
        scores, *more = args if args else (kwargs.pop("input"),)
        return self.softmax(scores, kept, lambda changed: func(changed, *more, **kwargs))

    def scaled_dot_product(self, call: dict[str, Any], kept: Tensor) -> Tensor:
        query, key, given = call["query"], call["key"], call.get("attn_mask")
        mask = query.new_zeros(len(kept), 1, query.shape[-2], key.shape[-2]) if given is None else given
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
        if call.get("is_causal"):
            mask = mask.masked_fill(~torch.ones_like(mask[0, 0], dtype=torch.bool).tril(), -torch.inf)
        masked, nothing = _masked(mask.expand(len(kept), *mask.shape[-3:]), kept)
        masked = masked.masked_fill(nothing, 0)
        return F.scaled_dot_product_attention(**{**call, "attn_mask": masked, "is_causal": False}).masked_fill(
            nothing, 0
        )

    def multi_head(self, args: tuple, kwargs: dict, kept: Tensor) -> Any:
        """Written out: torch's own has no number for a query that has no key left."""

        def hide(scores: Tensor) -> Tensor:
            masked, nothing = _masked(scores, kept)
            return masked.masked_fill(nothing, -torch.inf)

        return multi_head(_unseen, *args, **kwargs, change=hide)

    def softmax(self, scores: Tensor, kept: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        apart = _by_input(scores, kept)
        masked, nothing = _masked(apart, kept)
        return softmax(masked.view_as(scores)).masked_fill(nothing.expand(apart.shape).reshape(scores.shape), 0)


class _Damping(_Masking):
    """Attentions at some places, written out, with the scores of keys damped that are not among the keys [N, k] that stay."""

    def __init__(self, calls: Calls | _ModuleCalls, keys: Mapping[Any, Tensor], factor: float) -> None:
        super().__init__(calls, keys)
        self.factor = factor

    def scaled_dot_product(self, call: dict[str, Any], kept: Tensor) -> Tensor:
        return scaled_dot_product(_unseen, **call, change=partial(self.damped, kept))

    def multi_head(self, args: tuple, kwargs: dict, kept: Tensor) -> Any:
        return multi_head(_unseen, *args, **kwargs, change=partial(self.damped, kept))

    def softmax(self, scores: Tensor, kept: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        return softmax(self.damped(kept, scores))

    def damped(self, kept: Tensor, scores: Tensor) -> Tensor:
        """Scores with those of damped keys nearer to their row's least, of the keys that the query attends to at all.

        Models mask with all kinds of numbers: a key that has less than 1e-30 of the attention is masked.
        """
        apart = _by_input(scores, kept)
        seen = apart.softmax(dim=-1, dtype=torch.promote_types(apart.dtype, torch.float32)) >= MASKED
        least = apart.masked_fill(~seen, torch.inf).amin(dim=-1, keepdim=True)
        damped = least + (1 - self.factor) * (apart - least)
        return torch.where(seen & ~kept[:, None, None, :], damped, apart).view_as(scores)


def _unseen(probabilities: Tensor, qkv: QKV | None) -> None:
    """Nothing looks at the probabilities of an attention that is written out."""


def _by_input(scores: Tensor, kept: Tensor) -> Tensor:
    """Scores [N, H, q, k] of those that may have inputs and heads on one axis."""
    return scores.unflatten(0, (len(kept), -1)) if scores.dim() == 3 else scores


def _masked(scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [N, H, q, k] with hidden keys [N, k] at -inf; which queries have no key left, masks of large numbers counted."""
    masked = scores.masked_fill(~kept[:, None, None, :], -torch.inf)
    return masked, (masked <= torch.finfo(scores.dtype).min / 2).all(dim=-1, keepdim=True)
