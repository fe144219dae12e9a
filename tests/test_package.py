"""What pip installs: everything that training and evaluation need, without the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

import clipmapper
from clipmapper.commands import COMMANDS, CONFIGS, MODULES

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def build(kind: str, source: Path, folder: Path) -> Path:
    """Builds a distribution as pip does, with the setuptools that is there."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel of the source distribution holds; beside it `source`, what that itself holds."""
    folder = tmp_path_factory.mktemp("package")
    skipped = shutil.ignore_patterns("__pycache__")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("clipmapper", "xai", "configs", "docs"):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=skipped)
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "mkdocs.yml",
        "Makefile",
        "CHANGELOG.md",
        "CITATION.cff",
    ):
        shutil.copy(REPOSITORY / name, tree)
    with tarfile.open(build("sdist", tree, folder)) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    with zipfile.ZipFile(build("wheel", source, folder)) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_every_file_of_the_packages(installed: Path) -> None:
    for package in ("clipmapper", "xai"):
        ours = {
            path.relative_to(REPOSITORY)
            for path in (REPOSITORY / package).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert ours and not {path for path in ours if not (installed / path).is_file()}
    assert {path.name for path in (installed / "clipmapper" / "configs").iterdir()} == {
        path.name for path in (REPOSITORY / "configs").iterdir()
    }
    assert sorted(path.name for path in installed.iterdir() if path.suffix != ".dist-info") == ["clipmapper", "xai"]
    (facts,) = installed.glob("*.dist-info")
    assert (facts / "licenses" / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()


def test_the_source_distribution_holds_the_documentation(installed: Path) -> None:
    (source,) = (installed.parent / "source").iterdir()
    names = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob("*") if path.is_file()}
    names = {path for path in names if path.suffix != ".pyc"} | {
        Path("mkdocs.yml"),
        Path("Makefile"),
        Path("CHANGELOG.md"),
    }
    assert len(names) > 40 and not {path for path in names if not (source / path).is_file()}
    assert not list(source.rglob("*.pyc"))


def test_it_trains_by_a_named_configuration_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    words = ["train", "--config", "mapper_b_vqa_shapes", "--optimizer.lr", "0.5", "--print_config"]
    done = subprocess.run(
        [sys.executable, "-m", "clipmapper", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load(done.stdout)
    named = yaml.safe_load((REPOSITORY / "configs" / "mapper_b_vqa_shapes.yaml").read_text())
    assert settings["model"]["clip"] == named["model"]["clip"] and settings["optimizer"]["lr"] == 0.5
    assert not any(tmp_path.iterdir())


def test_the_console_command_names_what_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (main,) = (EntryPoint(name, value, "console_scripts").load() for name, value in PROJECT["scripts"].items())
    monkeypatch.setattr(sys, "argv", ["clipmapper"])
    main()
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in [*COMMANDS, *MODULES])
    monkeypatch.setattr(sys, "argv", ["clipmapper", "--version"])
    main()
    assert capsys.readouterr().out.strip() == PROJECT["version"]
    monkeypatch.setattr(sys, "argv", ["clipmapper", "trian"])
    with pytest.raises(SystemExit) as left:
        main()
    assert "did you mean 'train'" in str(left.value.code)


def test_commands_say_their_own_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from clipmapper.commands import main

    for words, said in (
        (["train", "--config", "mapper_b_vqa_shapes", "--optimizer.l", "1"], "clipmapper train --help"),
        (["evaluate", "--output", "x"], "clipmapper evaluate --help"),
        (["evaluate", "imagenet", "--no", "1"], "clipmapper evaluate imagenet --help"),
        (["export", "--no"], "clipmapper export"),
    ):
        monkeypatch.setattr(sys, "argv", ["clipmapper", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("module", [module for module, _ in MODULES.values()])
def test_a_signal_while_a_module_is_imported_is_one_line(module: str, tmp_path: Path) -> None:
    """A shell's background jobs ignore SIGINT: the process sets Python's own handler first, as one in a terminal has it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    )
    for name in ("jsonargparse", "requests"):
        (tmp_path / f"{name}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-m", module.removesuffix(".__main__")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    expected = "\nSIGINT: stopped; start it again to go on\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "", expected)


def test_configurations_of_a_checkout_are_those_of_the_package() -> None:
    assert Path(clipmapper.__file__).parent / "configs" == CONFIGS and CONFIGS.resolve() == REPOSITORY / "configs"


def test_what_is_to_be_cited_is_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert len(citation["references"]) == 3


@pytest.mark.parametrize(("given", "compared"), [([], ["--explainers", "all"]), (["--explainers=wra"], [])])
def test_the_benchmark_compares_all_unless_it_names_some(
    given: list[str], compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmapper import commands

    started: list[tuple[list[str], str]] = []
    monkeypatch.setattr(commands, "evaluate", lambda words, program: started.append((words, program)))
    COMMANDS["benchmark"](["--model", "shapes-b-vqa", *given])
    assert started == [(["--model", "shapes-b-vqa", *given, *compared], "clipmapper benchmark")]
