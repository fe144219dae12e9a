"""The README's promises."""

import re
from pathlib import Path

import pytest

from clipmapper import CLIPMapper
from clipmapper.clip import SHAPES_CLIP
from clipmapper.config import ModelConfig
from clipmapper.data.shapes.render import render
from clipmapper.data.shapes.scene import sample_scene

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_its_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    render(sample_scene((0, 1, 0))).save("scene.jpg")
    config = ModelConfig(clip=SHAPES_CLIP, pretrained="shapes", heads=4)
    CLIPMapper(config, ["yes", "no", "red"]).save_pretrained("my-mapper")
    exec(compile(code, "README.md", "exec"), {})
    answer, ranked = capsys.readouterr().out.splitlines()
    assert answer.isalpha()
    assert len(re.findall(r"\('\w+', [01]\.\d+\)", ranked)) == 3
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_what_it_names_exists() -> None:
    for path in re.findall(r"\]\((?!http)([\w./-]+)\)", README):
        assert (REPOSITORY / path).exists(), path
    for config in re.findall(r"--config (\w+)", README):
        assert (REPOSITORY / "configs" / f"{config}.yaml").is_file(), config
    for module in re.findall(r"python -m clipmapper\.(\w+)", README):
        assert (REPOSITORY / "clipmapper" / f"{module}.py").is_file(), module
