"""Alias of `xai.metrics`: its name until 0.1, which users' scripts still have. Its modules are found here too."""

import sys
from importlib import import_module
from pkgutil import iter_modules

from xai import metrics

for _name in [module.name for module in iter_modules(metrics.__path__)]:  # the same modules, not second copies
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = import_module(f"xai.metrics.{_name}")
