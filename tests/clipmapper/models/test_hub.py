"""Models of the hub on a machine without a network: the endpoint is a port of this machine where nobody listens."""

import time
from pathlib import Path

import pytest
import transformers as tf
from huggingface_hub import constants

from clipmapper.explain.models.load import kind_of
from clipmapper.models.clip import FrozenCLIP
from clipmapper.models.hub import kept, require_hub, without_network
from clipmapper.models.pretrained import from_transformers

REPO = "timm/vit_base_patch32_clip_224.openai"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def keep(folder: Path, name: str, content: bytes) -> None:
    repo = folder / "hub" / f"models--{REPO.replace('/', '--')}"
    for path, written in (("refs/main", b"abc"), (f"snapshots/abc/{name}", content)):
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_bytes(written)


@pytest.mark.parametrize("offline", [False, True])
def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    with pytest.raises(OSError) as caught:
        FrozenCLIP("ViT-B-32", "openai")
    assert time.monotonic() - start < 10
    said = str(caught.value)
    assert "\n" not in said and said.startswith(f"CLIP ViT-B-32:openai is neither kept in {tmp_path / 'hub'} nor ")
    assert ("HF_HUB_OFFLINE is set" if offline else "http://127.0.0.1:9 cannot be reached") in said
    assert "--model.pretrained FILE" in said


def test_models_that_cannot_be_had() -> None:
    with pytest.raises(
        OSError, match=r"^model some/vit is neither kept in .*; fetch it .* give a folder of save_pretrained$"
    ):
        from_transformers(tf.AutoModelForImageClassification, "some/vit", "image classification")
    with pytest.raises(OSError, match=r"^model some/vit is neither kept"):
        kind_of("some/vit")
    with pytest.raises(ValueError, match=r"there is no folder \./vit; give a folder"):
        from_transformers(tf.AutoModelForImageClassification, "./vit", "image classification")


def test_a_hub_that_has_answered_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kind_of` and `from_transformers` both need it for one model."""
    asked: list[str] = []
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.test")
    monkeypatch.setattr("clipmapper.models.hub.requests.head", lambda url, timeout: asked.append(url))
    monkeypatch.setattr("clipmapper.models.hub._answered", set())
    require_hub("some/vit", "it", "")
    require_hub("some/vit", "it", "")
    assert asked == ["http://hub.test"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        require_hub("some/vit", "it", "")


def test_kept_weights_are_taken_at_once(tmp_path: Path) -> None:
    """These are none, which is told only by who reads them."""
    assert not kept(REPO)
    keep(tmp_path, "config.json", b"{}")
    assert not kept(REPO)
    keep(tmp_path, "open_clip_model.safetensors", b"no weights")
    assert kept(REPO)
    require_hub(REPO, "it", "")
    with without_network(REPO):
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"the weights openai cannot be loaded into CLIP ViT-B-32: [^\n]*header"):
        FrozenCLIP("ViT-B-32", "openai")
    assert time.monotonic() - start < 20
