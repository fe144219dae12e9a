"""The settings of a benchmark, whatever its task."""

from dataclasses import dataclass

from clipmapper.config import ProtocolName
from clipmapper.config.checks import require

PAPERS = ("rollout", "raw_attention", "attention_gradcam", "full_lrp", "partial_lrp", "transatt", "genatt", "wra")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The comparison of explainers.

    Attributes:
        methods: "all" (of one recorded pass and gradients), "removal" (those that run the model without some tokens, hundreds of
            times), "papers" (those that the papers compare), or names with commas between; a name may be module:function
            for an explainer of your own.
        protocol: which tokens are removed, and how: that of a paper, or the recommended one.
        removal: whether tokens are removed at all; without, only location is measured.
        samples: how many samples, spread over the data; null for all.
        many_pass_samples: how many of them the methods that run the model many times explain; null for all.
        batch_size: samples explained at once, and kept together; null for the task's own, on a CPU fewer where the model is
            large, the inputs long or the methods many.
        removal_batch: inputs with removed tokens that run at once; null for 64 on a CPU and 1024 on a GPU.
        random_seeds: random maps a sample, whose mean is the baseline.
        resamples: resamples of the bootstrap and of the paired tests.
        cost_samples: samples on which cost and sanity are measured, fewer where they would add more than an eighth to all
            passes, about a quarter of the time; 0 measures neither. null for 8, or none where one would add more than a quarter.
        sanity_draws: noisy inputs that an explanation of the sanity check is the mean of, fewer as above.
        gallery: samples that the report shows with their maps.
        seed: of the choice of samples.
    """

    methods: str = "all"
    protocol: ProtocolName = "recommended"
    removal: bool = True
    samples: int | None = 200
    many_pass_samples: int | None = None
    batch_size: int | None = None
    removal_batch: int | None = None
    random_seeds: int = 5
    resamples: int = 10_000
    cost_samples: int | None = None
    sanity_draws: int = 3
    gallery: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "many_pass_samples", "batch_size", "removal_batch"):
            value = getattr(self, name)
            require(value is None or value > 0, f"benchmark.{name}", value, "above 0, or null")
        cost = self.cost_samples
        require(cost is None or cost >= 0, "benchmark.cost_samples", cost, "at least 0, or null")
        for name, least in (
            ("random_seeds", 1),
            ("resamples", 100),
            ("sanity_draws", 1),
            ("gallery", 0),
        ):
            require(getattr(self, name) >= least, f"benchmark.{name}", getattr(self, name), f"at least {least}")
        if not self.names:
            raise ValueError(
                "benchmark.methods names no method; give all, removal, papers, or names with commas between"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names as given, each once; "all", "removal" and "papers" stand for themselves."""
        return tuple(dict.fromkeys(name for part in self.methods.split(",") if (name := part.strip())))
