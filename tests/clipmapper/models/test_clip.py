"""Our tokens of CLIP against open_clip's own embeddings."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP

TEXTS = [
    "How many dogs are there?",
    "Is it !~ red?",
    "What color is the very small umbrella on the left of the two cats?",
]


VISION: dict[str, Any] = {"image_size": 48, "patch_size": 16, "width": 48, "head_width": 16, "layers": 2}
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 40, "heads": 4, "layers": 2}
MODELS: dict[str, dict[str, Any]] = {  # models of open_clip of a few weights, besides those that it knows
    "test-vit": {"quick_gelu": True},
    "test-resnet": {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}},
    "test-pooled": {"vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 3}},
    "test-unmasked": {"text_cfg": TEXT | {"no_causal_mask": True}},
}


@pytest.fixture(autouse=True, scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models")
    for name, changes in MODELS.items():
        (folder / f"{name}.json").write_text(
            json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT} | changes)
        )
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module", params=[SHAPES_CLIP, "test-vit"])
def clip(request: pytest.FixtureRequest, models: None) -> FrozenCLIP:
    return FrozenCLIP(request.param, None)


def pixels(clip: FrozenCLIP, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *clip.model.visual.image_size, generator=torch.Generator().manual_seed(1))


def test_class_token_projected_is_the_image_embedding(clip: FrozenCLIP) -> None:
    images = pixels(clip)
    tokens = clip.image_tokens(images)
    rows, columns = clip.grid
    assert tokens.shape == (2, 1 + rows * columns, clip.image_width)
    assert torch.allclose(tokens[:, 0] @ clip.model.visual.proj, clip.model.encode_image(images), atol=1e-5)


def test_patch_tokens_are_in_reading_order_after_the_norm(clip: FrozenCLIP) -> None:
    images = pixels(clip, 1)
    with torch.no_grad():
        x = clip.model.visual._embeds(images)
        expected = clip.model.visual.ln_post(clip.model.visual.transformer(x))
    assert torch.allclose(clip.image_tokens(images), expected, atol=1e-5)


def test_end_token_projected_is_the_text_embedding(clip: FrozenCLIP) -> None:
    ids, mask = clip.tokenize(TEXTS)
    tokens = clip.text_tokens(ids)
    assert tokens.shape == (len(TEXTS), int(mask.sum(1).max()), clip.text_width)
    pooled = tokens[torch.arange(len(TEXTS)), mask.sum(1) - 1] @ clip.model.text_projection
    assert torch.allclose(pooled, clip.model.encode_text(clip.tokenizer(TEXTS)), atol=1e-5)


def test_neither_the_context_length_nor_the_batch_changes_a_text(clip: FrozenCLIP) -> None:
    ids, mask = clip.tokenize(TEXTS)
    whole = clip.text_tokens(clip.tokenizer(TEXTS))
    assert whole.shape[1] == 77
    for row, text in enumerate(TEXTS):
        alone, own = clip.tokenize([text])
        assert own.all() and alone[0].equal(ids[row][mask[row]])
        for tokens in (whole[row, : alone.shape[1]], clip.text_tokens(ids)[row][mask[row]]):
            assert torch.allclose(tokens, clip.text_tokens(alone)[0], atol=1e-5)


def test_exclamation_mark_is_a_token_and_no_padding(small_clip: FrozenCLIP) -> None:
    ids, mask = small_clip.tokenize(["!~", "a b c d e f"])
    assert ids[0, 1] == 0, "the text was chosen because its second token has the id that pads"
    assert mask[0].tolist() == [True] * 4 + [False] * (ids.shape[1] - 4)
    assert ids[0, 3] == 49407


def test_overlong_text_is_cut_and_keeps_its_end(small_clip: FrozenCLIP) -> None:
    ids, mask = small_clip.tokenize(["red " * 200])
    assert ids.shape == (1, 77) and mask.all() and ids[0, -1] == 49407


def test_grid_width_and_pixels(small_clip: FrozenCLIP) -> None:
    assert small_clip.grid == (8, 8)
    assert (small_clip.image_width, small_clip.text_width, small_clip.embed_width) == (128, 96, 128)
    assert small_clip.pixels(Image.new("RGB", (200, 90))).shape == (3, 64, 64)


def test_frozen_and_in_eval_mode_for_good(small_clip: FrozenCLIP) -> None:
    small_clip.train()
    assert not any(module.training for module in small_clip.modules())
    assert not any(parameter.requires_grad for parameter in small_clip.parameters())
    ids, _ = small_clip.tokenize(["red"])
    assert not small_clip.text_tokens(ids).requires_grad
    assert not small_clip.image_tokens(pixels(small_clip)).requires_grad


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(small_clip: FrozenCLIP) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = FrozenCLIP(SHAPES_CLIP, None)
    assert again.fingerprint == small_clip.fingerprint
    assert torch.get_rng_state().equal(before)


def test_weights_from_a_file_have_their_own_identity(small_clip: FrozenCLIP, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in small_clip.model.state_dict().items()}
    state["visual.class_embedding"] += 1
    save_file(state, tmp_path / "weights.safetensors")
    other = FrozenCLIP(SHAPES_CLIP, str(tmp_path / "weights.safetensors"))
    assert other.model.visual.class_embedding.equal(state["visual.class_embedding"])
    assert other.identity() == {**small_clip.identity(), "weights": other.fingerprint}
    assert other.fingerprint != small_clip.fingerprint


def test_weights_that_are_no_numbers_are_refused(small_clip: FrozenCLIP, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in small_clip.model.state_dict().items()}
    state["visual.proj"][1, 2] = float("nan")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: weights are NaN or infinite: visual\.proj;"):
        FrozenCLIP(SHAPES_CLIP, str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-23", None, "unknown CLIP model 'ViT-B-23'; did you mean 'ViT-B-32'"),
        ("ViT-B-32", "opneai", "unknown weights .* of ViT-B-32.* 'opneai'; did you mean 'openai'"),
        ("test-resnet", None, "test-resnet: its image tower is not a plain ViT"),
        ("test-pooled", None, "test-pooled: its image tower is not a plain ViT"),
        ("test-unmasked", None, "test-unmasked: its text tower has no causal mask"),
    ],
)
def test_unfit_models_are_refused(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenCLIP(name, pretrained)


def test_a_file_that_is_not_of_the_model_is_named(tmp_path: Path) -> None:
    save_file({"visual.proj": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"the weights {path} cannot be loaded into CLIP {SHAPES_CLIP}: [^\n]+$"):
            FrozenCLIP(SHAPES_CLIP, str(path))
