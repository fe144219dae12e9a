"""The shape of the project: who imports whom, and how long files are."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("clipmapper", "xai")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """The names a module imports anywhere in its text, but for type checkers."""
    names: set[str] = set()
    tree = ast.parse(MODULES[module].read_text())
    for guard in [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        guard.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the whole name"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_xai_never_imports_clipmapper() -> None:
    for module in MODULES:
        if module.split(".")[0] == "xai":
            assert not {name for name in imported(module) if name.split(".")[0] == "clipmapper"}, module


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 300, f"{MODULES[module]}: split it"


def test_imports_have_no_cycle() -> None:
    # A package's lazy attributes may name its modules: what counts is who needs whom.
    graph = {module: imported(module) & MODULES.keys() - {module} for module in MODULES if module != "clipmapper"}
    TopologicalSorter(graph).prepare()


def test_nothing_reaches_into_another_modules_private_names() -> None:
    for module in MODULES:
        private = {name for name in imported(module) if name.rpartition(".")[2].startswith("_")}
        assert not {name for name in private if name.split(".")[0] in ("clipmapper", "xai")}, module
