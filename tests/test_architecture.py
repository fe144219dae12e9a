"""The shape of the project: who imports whom, and how long files are."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("clipmapper", "xai")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """The names a module imports anywhere in its text, but for type checkers."""
    tree = ast.parse(MODULES[module].read_text())
    for guard in [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        guard.body = []
    return imported_in(tree)


def imported_in(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{ast.unparse(node)}: relative; write the whole name"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_xai_never_imports_clipmapper() -> None:
    for module in MODULES:
        if module.split(".")[0] == "xai":
            assert not {name for name in imported(module) if name.split(".")[0] == "clipmapper"}, module


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES.values()}
    assert not {path: length for path, length in lengths.items() if length > 330}, "split them"


# Parts of clipmapper from the ground up: each imports only those before it, within functions too.
PACKAGES = [
    "errors",
    "files",
    "processes",
    "config",
    "cli",
    "images",
    "download",
    "models",
    "data",
    "metrics",
    "logs",
    "explain",
]
PACKAGES += [
    "benchmark",
    "training",
    "evaluation",
    "app",
    "commands",
    "published",
    "truth",
    "export",
    "pretrain",
    "__main__",
]


def test_no_package_imports_one_above_it() -> None:
    upwards = set()
    for module in MODULES:
        parts = module.split(".")
        if parts[0] != "clipmapper" or len(parts) < 2:
            continue
        for name in imported(module) & MODULES.keys():
            other = name.split(".")
            if other[0] == "clipmapper" and len(other) > 1 and PACKAGES.index(other[1]) > PACKAGES.index(parts[1]):
                upwards.add((parts[1], other[1]))
    assert not upwards


def loaded(module: str) -> set[str]:
    """Modules of ours that are there once this one is imported: what no function imports, and the packages around it."""
    done: set[str] = set()
    todo = {module}
    while todo - done:
        name = (todo - done).pop()
        done.add(name)
        tree = ast.parse(MODULES[name].read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            ):
                node.body = []  # type: ignore[assignment]
        for other in imported_in(tree):
            package, _, last = other.rpartition(".")
            lazy = package in MODULES and other not in MODULES and "__getattr__" in MODULES[package].read_text()
            assert not lazy, f"{name} imports {last} from {package}, which imports more for it: name its module"
            while other:
                todo |= {other} & MODULES.keys()
                other = other.rpartition(".")[0]
    return done


def test_training_alone_imports_nothing_that_explains() -> None:
    modules = loaded("clipmapper.training.run")
    assert 30 < len(modules) <= 65
    assert not [m for m in modules if m.startswith(("clipmapper.benchmark", "clipmapper.explain"))]
    assert {m for m in modules if m.startswith("xai")} == {"xai", "xai.files", "xai.pictures"}


def test_imports_have_no_cycle() -> None:
    # A package's lazy attributes may name its modules: what counts is who needs whom.
    graph = {module: imported(module) & MODULES.keys() - {module} for module in MODULES if module != "clipmapper"}
    TopologicalSorter(graph).prepare()


def test_nothing_reaches_into_another_modules_private_names() -> None:
    for module in MODULES:
        private = {name for name in imported(module) if name.rpartition(".")[2].startswith("_")}
        assert not {name for name in private if name.split(".")[0] in ("clipmapper", "xai")}, module
