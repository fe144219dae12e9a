"""Everything that can be set, typed and checked. The command line and the YAML files set these fields.

Nothing here imports torch: a command line is read, and what is wrong with it said, before the slow imports.
"""

from clipmapper.config.data import MOST_SCENES, DataConfig, HubConfig, ShapesConfig
from clipmapper.config.model import (
    SHIPPED,
    SHIPPED_STOCK,
    DecodingConfig,
    MapperName,
    ModelConfig,
    ModelSource,
    Sees,
    Task,
)
from clipmapper.config.trainer import TrainerConfig
from clipmapper.config.training import ExplainConfig, OptimizerConfig, ProtocolName, RunConfig, check_loggers

ReferenceConfig = ModelSource  # its name as a reference model in training

__all__ = [
    "MOST_SCENES",
    "SHIPPED",
    "SHIPPED_STOCK",
    "DataConfig",
    "DecodingConfig",
    "ExplainConfig",
    "HubConfig",
    "MapperName",
    "ModelConfig",
    "ModelSource",
    "OptimizerConfig",
    "ProtocolName",
    "ReferenceConfig",
    "RunConfig",
    "Sees",
    "ShapesConfig",
    "Task",
    "TrainerConfig",
    "check_loggers",
]
