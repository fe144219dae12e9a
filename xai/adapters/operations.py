"""Names of torch functions by what they do with tokens."""

SAME = (
    "contiguous",
    "clone",
    "to",
    "type",
    "type_as",
    "float",
    "double",
    "half",
    "bfloat16",
    "dropout",
    "alias",
)
REDUCING = ("mean", "sum", "var", "std", "norm", "logsumexp", "prod", "vector_norm")
SPATIAL = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate")
CREATING = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "bernoulli")
MORE_MOVES = ("masked_select", "scatter", "index_copy", "unfold", "pixel_unshuffle", "rot90", "tril", "triu", "take")
CHOOSING = ("topk", "sort", "argsort", "argmax", "argmin", "nonzero")  # of numbers
PRODUCTS = ("matmul", "einsum", "baddbmm")
