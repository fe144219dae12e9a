"""How the reference reads docstrings: examples are code, and a source is a line."""

import re
from typing import Any

from griffe import Extension, Object


class Sections(Extension):
    """Names sections of docstrings as griffe knows them."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^Source:\n +", "**Source:** ", text, flags=re.MULTILINE)
