"""Saving, loading, the hub, and answering."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.images import BadImage
from clipmapper.models import clip_mapper as model_module
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper

ANSWERS = ["yes", "no", "red", "2"]


def make(**options: Any) -> CLIPMapper:
    torch.manual_seed(0)
    config = ModelConfig(SHAPES_CLIP, None, **{"width": 16, "heads": 2, "layers": 1, "mapper": "b", **options})
    model = CLIPMapper(config, ANSWERS)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)  # so that the answers differ visibly
    return model.eval()


def logits(model: CLIPMapper, tokens: Tensor) -> Tensor:
    ids, mask = model.clip.tokenize(["What is it?"] * len(tokens))
    return model(tokens, ids, mask)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "saved"
    make().save_pretrained(folder)
    return folder


@pytest.fixture
def spoilt(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model for a test to break."""
    return Path(shutil.copytree(saved, tmp_path / "spoilt"))


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    description = json.loads(path.read_text())
    description["config"] |= changes.pop("config", {})
    path.write_text(json.dumps(description | changes))


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_loaded_model_computes_the_same(mapper: str, tmp_path: Path, tokens: Tensor) -> None:
    model = make(mapper=mapper, read="text")
    model.save_pretrained(tmp_path / "m")
    loaded = CLIPMapper.from_pretrained(tmp_path / "m")
    assert not loaded.training and loaded.config == model.config and loaded.answers == ANSWERS
    assert logits(loaded, tokens).equal(logits(model, tokens))


def test_saved_folder_holds_the_mapper_alone(saved: Path) -> None:
    names = set(load_file(saved / "model.safetensors"))
    assert names == {name for name, _ in make().named_parameters() if not name.startswith("clip.")}
    card = (saved / "README.md").read_text()
    assert "visual-question-answering" in card and "library_name: clipmapper" in card


def test_saving_again_replaces_what_was_there(spoilt: Path, tokens: Tensor) -> None:
    other = make(mapper="a", layers=2)
    other.save_pretrained(spoilt)
    assert logits(CLIPMapper.from_pretrained(spoilt), tokens).equal(logits(other, tokens))
    assert sorted(path.name for path in spoilt.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_another_clip_is_refused(spoilt: Path) -> None:
    describe(spoilt, clip_fingerprint="0123456789abcdef")
    with pytest.raises(
        ValueError, match=r"spoilt/config\.json was trained over another CLIP.*0123456789abcdef.*\.pretrained"
    ):
        CLIPMapper.from_pretrained(spoilt)


def test_moved_clip_weights_can_be_named(saved: Path, tmp_path: Path, tokens: Tensor) -> None:
    model = make()
    save_file(model.clip.model.state_dict(), tmp_path / "clip.safetensors")
    loaded = CLIPMapper.from_pretrained(saved, pretrained=str(tmp_path / "clip.safetensors"))
    assert logits(loaded, tokens).equal(logits(model, tokens))
    with pytest.raises(ValueError, match=r"unknown weights .*'nowhere'"):
        CLIPMapper.from_pretrained(saved, pretrained="nowhere")


def test_weights_of_another_mapper_are_refused(spoilt: Path) -> None:
    describe(spoilt, config={"mapper": "a"})
    with pytest.raises(ValueError, match=r"model\.safetensors is of another model .*mapper='a'.*weight"):
        CLIPMapper.from_pretrained(spoilt)


def test_weights_of_another_shape_are_refused(spoilt: Path) -> None:
    describe(spoilt, answers=["yes", "no"])
    with pytest.raises(ValueError, match=r"weight 'head\.4\.weight' is \(4, 32\) there, \(2, 32\) in the"):
        CLIPMapper.from_pretrained(spoilt)


def test_damaged_weights_are_refused(spoilt: Path) -> None:
    path = spoilt / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # still a number
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"spoilt.model\.safetensors is damaged, .*checksum: save or fetch"):
        CLIPMapper.from_pretrained(spoilt)


def test_former_versions_kept_no_checksum(spoilt: Path, tokens: Tensor) -> None:
    description = json.loads((spoilt / "config.json").read_text())
    del description["sha256"]
    (spoilt / "config.json").write_text(json.dumps(description))
    assert logits(CLIPMapper.from_pretrained(spoilt), tokens).equal(logits(make(), tokens))


def test_weights_that_are_no_numbers_are_refused(spoilt: Path) -> None:
    other = make()
    other.head[4].weight.data[1, 2] = float("nan")
    other.save_pretrained(spoilt)
    with pytest.raises(ValueError, match=r"spoilt.model\.safetensors: weights are NaN or infinite: head\.4\.weight"):
        CLIPMapper.from_pretrained(spoilt)


def test_interrupted_save_is_not_taken_for_whole(spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_module, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        make().save_pretrained(spoilt)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        CLIPMapper.from_pretrained(spoilt)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(spoilt: Path, name: str) -> None:
    (spoilt / name).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=f"spoilt.{name}"):
        CLIPMapper.from_pretrained(spoilt)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_broken_files_are_named(spoilt: Path, name: str) -> None:
    (spoilt / name).write_bytes((spoilt / name).read_bytes()[:100])
    with pytest.raises(ValueError, match=f"spoilt.{name}"):
        CLIPMapper.from_pretrained(spoilt)


def test_foreign_configuration_is_refused(spoilt: Path) -> None:
    (spoilt / "config.json").write_text(json.dumps({"hidden_size": 768}))
    with pytest.raises(ValueError, match=r"config\.json is not of a CLIPMapper: it lacks answers"):
        CLIPMapper.from_pretrained(spoilt)


def test_unknown_name_is_answered_without_the_network() -> None:
    with pytest.raises(ValueError, match=r"neither .* nor a hub id.*'shapes-b-vqq'; did you mean 'shapes-b-vqa'"):
        CLIPMapper.from_pretrained("shapes-b-vqq")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"model\.heads is 3 and must divide the mapper's width, 16"):
        make(heads=3)


def test_hub_there_and_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: Tensor) -> None:
    """The hub is a folder: what `push_to_hub` uploads is what `from_pretrained` finds."""
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: str | Path, **_: Any) -> str:
            shutil.copytree(folder_path, hub / repo_id)
            return repo_id

    def download(repo_id: str, filename: str, **_: Any) -> str:
        return str(hub / repo_id / filename)

    def snapshot(repo_id: str, *, allow_patterns: list[str], revision: str | None, **_: Any) -> str:
        assert revision == "v1" and set(allow_patterns) == {"config.json", "model.safetensors"}
        return str(hub / repo_id)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    monkeypatch.setattr(model_module, "snapshot_download", snapshot)
    model = make()
    model.push_to_hub("somebody/shapes")
    assert {path.name for path in (hub / "somebody/shapes").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    loaded = CLIPMapper.from_pretrained("somebody/shapes", revision="v1")
    assert logits(loaded, tokens).equal(logits(model, tokens))


def test_answer_from_path_bytes_or_image(tmp_path: Path) -> None:
    model = make().train()
    image = Image.effect_noise((90, 60), 80)  # greyscale
    image.save(tmp_path / "noise.png")
    content = io.BytesIO()
    image.save(content, "PNG")
    question = "What is it?"
    pixels = model.clip.pixels(image.convert("RGB"))[None]
    expected = logits(model.eval(), model.clip.image_tokens(pixels))[0].sigmoid()
    model.train()
    for source in (tmp_path / "noise.png", str(tmp_path / "noise.png"), content.getvalue(), image):
        assert model.answer(source, question) == ANSWERS[int(expected.argmax())]
        assert model.training and not model.clip.training
        top = model.answer(source, question, top=3)
        assert [answer for answer, _ in top] == [ANSWERS[i] for i in expected.argsort(descending=True)[:3]]
        assert [value for _, value in top] == pytest.approx(expected.sort(descending=True).values[:3].tolist())
    assert len(model.answer(image, question, top=10)) == len(ANSWERS)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision_answers(precision: torch.dtype) -> None:
    model, image = make(), Image.effect_noise((90, 60), 80)
    expected = dict(model.answer(image, "What is it?", top=len(ANSWERS)))
    found = dict(model.to(precision).answer(image, "What is it?", top=len(ANSWERS)))
    assert found == pytest.approx(expected, abs=0.01)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"broken\.jpg"):
        make().answer(tmp_path / "broken.jpg", "What is it?")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"width": "16"}}, "width is '16'"),
        ({"config": {"width": 2**40}}, "width is 1099511627776 there, and 16 in the weights"),
        ({"config": {"layers": 10**9}}, "layers is 1000000000 there, and 1 in the weights"),
        ({"config": {"dropout": None}}, "dropout is 'None'"),
        ({"config": {"mapper": ["a"]}}, r"mapper is .*a"),
        ({"config": {"wdth": 3}}, "unknown setting 'wdth'; did you mean 'width'"),
        ({"config": {"clip": "-1"}}, "unknown CLIP model '-1'"),
        ({"answers": "yes"}, "its answers are yes, no list of str"),
        ({"answers": [1]}, r"its answers are \[1\], no list of str"),
        ({"tokens": None}, "its tokens are None, no list of int"),
        ({"clip_fingerprint": 8}, "clip_fingerprint is 8, no text"),
        ({"sha256": {}}, r"sha256 is \{\}, no text"),
    ],
)
def test_descriptions_of_other_types_are_named(spoilt: Path, change: dict[str, Any], message: str) -> None:
    """And no model far larger than its weights is built."""
    describe(spoilt, **change)
    with pytest.raises(ValueError, match=rf"spoilt/config\.json: {message}"):
        CLIPMapper.from_pretrained(spoilt)


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"config": []}', '{"config": [], "answers": [], "clip_fingerprint": ""}']
)
def test_other_json_is_no_description(spoilt: Path, content: str) -> None:
    (spoilt / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"spoilt/config\.json(: its settings are a list| is not of a CLIPMapper)"):
        CLIPMapper.from_pretrained(spoilt)


def test_a_description_may_begin_with_a_byte_order_mark(spoilt: Path) -> None:
    path = spoilt / "config.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert CLIPMapper.from_pretrained(spoilt).answers == ANSWERS


@pytest.mark.parametrize("tokens", [[10**6, 49406, 49407], [-1, 49406, 49407], [49406, 49406, 49407]])
def test_tokens_that_clip_has_not_are_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="a caption's tokens must be numbers of CLIP's, each once"):
        CLIPMapper(
            ModelConfig(clip=SHAPES_CLIP, pretrained=None, task="caption", width=16, heads=2, layers=1), (), tokens
        )


def test_weights_that_are_no_fractions_are_refused(spoilt: Path) -> None:
    model = make()
    state = {name: tensor.long() for name, tensor in model.trained_state().items()}
    with pytest.raises(ValueError, match=r"here is of another model: weight .* is torch\.int64"):
        model.load_trained_state(state, "here")
