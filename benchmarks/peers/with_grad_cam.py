"""pytorch-grad-cam on timm's ViT through a `reshape_transform`.

HiResCAM at the embeddings is the positive part of the input gradient, so both can be compared after its own scaling.
"""

from typing import Any

import timm
import torch
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from benchmarks.machine import DEVICE
from benchmarks.models import SEED
from benchmarks.peers.contest import Contest
from xai import explain, given


def contests(quick: bool) -> list[Contest]:
    torch.manual_seed(SEED)
    small: dict[str, Any] = (
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2} if quick else {}
    )
    model: Any = (
        timm.create_model("vit_base_patch32_224", pretrained=False, **small).eval().requires_grad_(False).to(DEVICE)
    )
    side = 32 if quick else 224
    pixels = torch.randn(2 if quick else 4, 3, side, side).to(DEVICE)
    return [
        Contest(
            "ViT-B/32, HiResCAM at the embeddings",
            lambda: _scaled(_ours(model, pixels, "input_gradient").clamp(min=0), side),
            lambda: _theirs(HiResCAM, model, model.norm_pre, pixels),
        ),
        Contest(
            "ViT-B/32, Grad-CAM of the last block's tokens",
            lambda: _scaled(_ours(model, pixels, "attention_gradcam"), side),
            lambda: _theirs(GradCAM, model, model.blocks[-1].norm1, pixels),
            "another method: ours is of attention maps",
        ),
    ]


def _ours(model: nn.Module, pixels: Tensor, method: str) -> Tensor:
    """[B, rows, columns]."""
    return explain(model, pixels, method, given(0)).map("image").detach()


def _scaled(maps: Tensor, side: int) -> Tensor:
    """As pytorch-grad-cam scales its maps to the image, [B, pixels]."""
    return torch.from_numpy(scale_cam_image(scale_cam_image(maps.cpu().numpy(), (side, side)))).flatten(1)


def _theirs(method: Any, model: Any, layer: nn.Module, pixels: Tensor) -> Tensor:
    rows = int((model.pos_embed.shape[1] - 1) ** 0.5)

    def grid(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (rows, rows)).permute(0, 3, 1, 2)

    pixels = pixels.clone().requires_grad_()  # as the parameters are frozen
    with method(model=model, target_layers=[layer], reshape_transform=grid) as cam:
        found = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(0)] * len(pixels))
    return torch.from_numpy(found).flatten(1)
