"""What `import clipmapper` finds beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def import_with(folder: Path) -> subprocess.CompletedProcess[str]:
    """Imports clipmapper with `folder` before the checkout."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    command = [sys.executable, "-c", "import clipmapper"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("beside", [False, True], ids=["elsewhere", "in the folder of ours"])
def test_another_package_called_xai_is_named_before_it_runs(tmp_path: Path, beside: bool) -> None:
    (tmp_path / "xai" / "recording").mkdir(parents=True)
    init = tmp_path / "xai" / "__init__.py"
    init.write_text("import a_module_that_nobody_has\n")
    if beside:
        (tmp_path / "xai" / "recording" / "record.py").write_text((REPOSITORY / "xai/recording/record.py").read_text())
    done = import_with(tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: clipmapper needs the xai that it is installed with")
    assert str(init) in last and "pip uninstall xai" in last and "a_module_that_nobody_has" not in done.stderr


@pytest.mark.parametrize("other", ["xai", "xai-toolbox"])
def test_whoever_installed_its_files_over_ours_is_named(tmp_path: Path, other: str) -> None:
    (tmp_path / "xai").mkdir()
    (tmp_path / "xai" / "__init__.py").write_text("explain = None\n")
    for name in ("clipmapper", other):
        folder = tmp_path / f"{name.replace('-', '_')}-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (folder / "top_level.txt").write_text("xai\n")
        (folder / "RECORD").write_text("xai/__init__.py,,\n")
    assert f"pip uninstall {other}, then" in import_with(tmp_path).stderr.splitlines()[-1]


def test_what_an_uninstalled_xai_leaves_is_named(tmp_path: Path) -> None:
    """Uninstalling the other package takes our `__init__.py` along, where both were installed in one folder."""
    (tmp_path / "xai").mkdir()
    (tmp_path / "clipmapper").mkdir()
    (tmp_path / "clipmapper" / "__init__.py").write_text((REPOSITORY / "clipmapper/__init__.py").read_text())
    code = f"import sys; sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if 'lib' in p and 'site' not in p)]; "
    command = [sys.executable, "-S", "-c", code + "import clipmapper"]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 1 and str(tmp_path / "xai") in done.stderr.splitlines()[-1], done.stderr


def test_ours_is_found(tmp_path: Path) -> None:
    assert import_with(tmp_path).returncode == 0
