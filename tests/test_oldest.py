"""The oldest versions that `make test-oldest` tries are the lower bounds of pyproject.toml."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
REAL = "real"  # pinned packages of weights and what reads them, which `make test` alone installs
ELSE = "what else must not be newer"  # heading in the constraints of packages that pyproject.toml does not name


def lower_bounds() -> dict[str, set[Version]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != REAL}
    lines = [*project["dependencies"], *(line for some in extras.values() for line in some)]
    bounds: dict[str, set[Version]] = {}
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:  # an extra that holds others
            continue
        bounds.setdefault(canonicalize_name(requirement.name), set()).update(
            Version(part.version) for part in requirement.specifier if part.operator == ">="
        )
    return bounds


def pinned(lines: list[str]) -> dict[str, set[Version]]:
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all([part.operator for part in one.specifier] == ["=="] for one in requirements)
    return {canonicalize_name(one.name): {Version(part.version) for part in one.specifier} for one in requirements}


def test_the_constraints_are_the_lower_bounds() -> None:
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    heading = next(number for number, line in enumerate(lines) if ELSE in line)
    bounds = lower_bounds()
    assert pinned(lines[:heading]) == {name: versions for name, versions in bounds.items() if versions}
    assert not pinned(lines[heading:]).keys() & bounds.keys()


def test_what_has_no_lower_bound_is_stubs_of_types() -> None:
    assert {name.partition("-")[0] for name, versions in lower_bounds().items() if not versions} == {"types"}


def test_the_tests_that_are_run_with_them_are_there() -> None:
    lines = re.search(r"^OLDEST = (.*?[^\\])\n", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert lines is not None
    text = re.sub(
        r"\$\(addprefix ([^,]+),([^)]*)\)", lambda m: " ".join(m[1] + name for name in m[2].split()), lines[1]
    )
    named = [ROOT / name for name in text.replace("\\", " ").split()]
    assert len(named) > 10 and all(path.exists() for path in named), named
