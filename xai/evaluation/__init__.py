"""Alias of `xai.metrics`: its name until 0.1, which users' scripts still have. Its modules are found here too."""

from xai import metrics

__path__ = metrics.__path__
