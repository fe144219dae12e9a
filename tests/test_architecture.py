"""The shape of the project: who imports whom, and how long files are."""

import ast
import subprocess
import sys
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
PACKAGES += ["benchmark", "training", "evaluation", "published", "truth", "export", "pretrain"]


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


def test_training_alone_imports_nothing_that_explains() -> None:
    code = "import sys, clipmapper.training.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    modules = [name for name in done.stdout.split() if name.split(".")[0] in ("clipmapper", "xai")]
    assert len(modules) <= 60 and not [
        m for m in modules if m.startswith(("clipmapper.benchmark", "clipmapper.explain"))
    ]
    assert [m for m in modules if m.startswith("xai")] == ["xai", "xai.files", "xai.pictures"]


def test_imports_have_no_cycle() -> None:
    # A package's lazy attributes may name its modules: what counts is who needs whom.
    graph = {module: imported(module) & MODULES.keys() - {module} for module in MODULES if module != "clipmapper"}
    TopologicalSorter(graph).prepare()


def test_nothing_reaches_into_another_modules_private_names() -> None:
    for module in MODULES:
        private = {name for name in imported(module) if name.rpartition(".")[2].startswith("_")}
        assert not {name for name in private if name.split(".")[0] in ("clipmapper", "xai")}, module
