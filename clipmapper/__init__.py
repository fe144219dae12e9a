"""CLIPmapper: mappers over a frozen CLIP for vision-language tasks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmapper.models.clip_mapper import CLIPMapper

__all__ = ["CLIPMapper"]


def __getattr__(name: str) -> Any:  # torch is imported only by those who need it
    if name == "CLIPMapper":
        from clipmapper.models.clip_mapper import CLIPMapper

        return CLIPMapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
