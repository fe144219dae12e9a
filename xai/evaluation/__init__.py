"""Another name of `xai.metrics`, whose modules are found here too."""

from xai import metrics

__path__ = metrics.__path__
