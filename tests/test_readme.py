"""The README's promises."""

import re
from pathlib import Path

import pytest
from PIL import Image

from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import COLOURS, sample_scene

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    render(sample_scene((0, 1, 0))).save("scene.jpg")
    exec(compile(code, "README.md", "exec"), {})
    answer, ranked, caption = capsys.readouterr().out.splitlines()
    assert answer in COLOURS
    assert len(re.findall(r"\('\w+', \d\.[\de-]+\)", ranked)) == 3
    assert len(caption.split()) > 2
    assert Image.open("why.png").width > 100 and Image.open("words.png").width > 100
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_what_it_names_exists() -> None:
    for path in re.findall(r"\]\((?!http)([\w./-]+)\)", README):
        assert (REPOSITORY / path).exists(), path
    for config in re.findall(r"--config (\w+)", README):
        assert (REPOSITORY / "configs" / f"{config}.yaml").is_file(), config
    for module in re.findall(r"python -m (clipmapper[.\w]*\w)", README):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
