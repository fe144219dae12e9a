"""CLIPmapper: mappers over a frozen CLIP for vision-language tasks."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmapper.models.clip_mapper import CLIPMapper

__all__ = ["CLIPMapper"]


def _check_xai() -> None:
    """Raises ImportError where `import xai` would find another package of that name, before a line of it runs."""
    spec = find_spec("xai")
    source = getattr(spec and spec.loader, "get_source", lambda name: None)("xai") or ""
    if "xai.recording.record" not in source:  # what ours names: files of both may lie in one folder
        from importlib.metadata import packages_distributions  # slow, and needed for this error alone

        found = spec and (spec.origin or list(spec.submodule_search_locations or ()))
        owners = sorted({*packages_distributions().get("xai", ["xai"])} - {"clipmapper"}) or ["xai"]
        raise ImportError(
            f"clipmapper needs the xai that it is installed with, and finds {found or 'none'}. PyPI has another package "
            f"of this name: pip uninstall {' '.join(owners)}, then install clipmapper anew (pip install --force-reinstall "
            "--no-deps, from its checkout); if it lies elsewhere on PYTHONPATH, take it out there"
        )


_check_xai()


def __getattr__(name: str) -> Any:  # torch is imported only by those who need it
    if name == "CLIPMapper":
        from clipmapper.models.clip_mapper import CLIPMapper

        return CLIPMapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
