"""Which operations have which rule: by name, so that `+`, `add`, `add_` and `__radd__` are one."""

from functools import cache
from typing import Any

from xai.lrp.propagation import Kind

ALIASES = {
    **dict.fromkeys(("radd", "iadd"), "add"),
    **dict.fromkeys(("rmul", "imul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "divide", "true_divide"), "div"),
    **dict.fromkeys(("isub", "subtract"), "sub"),
    **dict.fromkeys(("imatmul", "bmm", "mm"), "matmul"),
    **dict.fromkeys(("concat", "concatenate"), "cat"),
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
}
IN_PLACE = frozenset({"iadd", "imul", "itruediv", "isub", "imatmul"})
ONE_TO_ONE = """
    gelu relu relu6 leaky_relu silu mish elu softplus tanh sigmoid hardtanh hardswish hardsigmoid logsigmoid erf
    neg pow square sqrt rsqrt exp log abs clamp clip nan_to_num normalize
"""
RULED: dict[str, Kind] = {
    "linear": "linear",
    "conv2d": "convolution",
    "sum": "share",
    "mean": "share",
    "softmax": "softmax",
    "log_softmax": "softmax",
    "layer_norm": "norm",
    "rms_norm": "norm",
    **dict.fromkeys(ONE_TO_ONE.split(), "one_to_one"),
}
# those of which `Ruling` says in which others, with rules, they can be written
WRITTEN_OUT = frozenset("add sub rsub mul div matmul addmm baddbmm avg_pool2d einsum index_add".split())  # noqa: SIM905
# the methods of `Ruling` that are given the function, as well
CALLED = {
    **RULED,
    "topk": "topk",
    **dict.fromkeys(
        ("grouped_mm", "grouped_mm_fallback"), "grouped_mm"
    ),  # torch's, and transformers' where it has none
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), "adaptive_avg_pool"),
}
# data that is moved, selected or cast goes back the way it came, by autograd itself
MOVES = """
    T mT H mH t view view_as reshape reshape_as transpose permute swapaxes swapdims movedim flatten unflatten unsqueeze
    squeeze expand expand_as broadcast_to repeat repeat_interleave tile chunk split tensor_split unbind cat stack hstack
    vstack getitem gather index_select select narrow take_along_dim diagonal flip roll pad clone contiguous to type type_as
    float double half bfloat16 masked_fill masked_scatter where dropout amax amin max min
""".split()  # noqa: SIM905
DIVIDING = frozenset({"chunk", "split", "tensor_split", "unbind", "getitem", "select", "narrow", "index_select"})
# modules that write an activation in plain code, where a live tensor is multiplied by another, or, as BLOOM's, in an
# autograd.Function, which no mode sees
ACTIVATIONS = frozenset({"QuickGELU", "QuickGELUActivation", "NewGELUActivation", "FastGELUActivation", "BloomGelu"})


@cache
def name_of(func: Any) -> tuple[str, bool]:
    """The operation's name here, and whether it changes its first operand in place."""
    name = func.__name__
    if name == "__get__":  # of a property, such as x.mT
        name = func.__self__.__name__
    bare = name.strip("_")
    in_place = bare in IN_PLACE if name.startswith("__") else name.endswith("_")
    return ALIASES.get(bare, bare), in_place
