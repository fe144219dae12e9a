"""How the small CLIP that ships with the package was made: `python -m clipmapper.pretrain --output weights.safetensors`.

Three contrastive losses on Shapes scenes, rendered before training and held on the device:
- captions: InfoNCE over the batch for captions that name every object;
- details: captions of the other kinds (counts, relations, comparisons) against the same caption of a distorted scene,
  a hard negative (as in NegCLIP, Yuksekgonul et al. 2023);
- regions: each patch, and the whole image, against phrases such as "a small red circle at the top left" from all over the
  batch, by the sigmoid loss of SigLIP (Zhai et al. 2023), true wherever the patch's (an image's) object fits the phrase.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from clipmapper.clip import SHAPES_CLIP, create_clip, image_tokens, text_tokens
from clipmapper.data.shapes.captions import KINDS, CaptionKind, wrong
from clipmapper.data.shapes.language import PLACES, Description, place, with_article
from clipmapper.data.shapes.render import mask, render
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, sample_scene

VALUES = (tuple(SIZES), tuple(COLOURS), SHAPES, tuple(name for row in PLACES for name in row))
ATTRIBUTES = ("size", "colour", "shape", "place")
FULL_LENGTH, DETAIL_LENGTH, PHRASE_LENGTH = 48, 40, 16  # tokens
DRAWS = 4  # captions of each kind a scene, and phrases a scene
OPEN, NOTHING = -1, -2  # attribute codes: a phrase that leaves it open; a patch without object


@dataclass
class Materials:
    """What pretraining reads, S scenes; texts are BPE ids, padded with 0; codes index VALUES."""

    images: Tensor  # uint8 [S, 3, SIDE, SIDE]
    patches: Tensor  # int8 [S, patches, 4]: codes of the object that covers the patch, or NOTHING
    things: Tensor  # int8 [S, 8, 4]: codes of each object, or NOTHING
    full: Tensor  # int32 [S, DRAWS, FULL_LENGTH]: captions of everything
    details: Tensor  # int32 [S, DRAWS, kinds - 1, 2, DETAIL_LENGTH]: of each other kind a true and a wrong caption
    phrases: Tensor  # int32 [S, DRAWS, PHRASE_LENGTH]
    codes: Tensor  # int8 [S, DRAWS, 4]: what each phrase asks for, or OPEN


def make_materials(seed: int, grid: int, indices: range) -> Materials:
    """Renders and describes the scenes of the given indices."""
    tokenizer = open_clip.get_tokenizer(SHAPES_CLIP)
    scenes = [sample_scene((seed, i), least=1, most=6) for i in indices]
    texts = [_texts(scene, np.random.default_rng((seed, i, 1))) for i, scene in zip(indices, scenes, strict=True)]
    full, details, phrases, codes = zip(*texts, strict=True)

    def ids(batch: tuple[list[str], ...], length: int) -> Tensor:
        return tokenizer([text for some in batch for text in some], length).to(torch.int32)

    return Materials(
        images=torch.stack([torch.from_numpy(np.array(render(scene))).permute(2, 0, 1) for scene in scenes]),
        patches=torch.stack([_patch_codes(scene, grid) for scene in scenes]),
        things=torch.stack([_thing_codes(scene) for scene in scenes]),
        full=ids(full, FULL_LENGTH).view(len(scenes), DRAWS, -1),
        details=ids(details, DETAIL_LENGTH).view(len(scenes), DRAWS, len(KINDS) - 1, 2, -1),
        phrases=ids(phrases, PHRASE_LENGTH).view(len(scenes), DRAWS, -1),
        codes=torch.tensor(codes, dtype=torch.int8),
    )


def _texts(scene: Scene, rng: np.random.Generator) -> tuple[list[str], list[str], list[str], list[list[int]]]:
    full: list[str] = []
    details: list[str] = []
    phrases, codes = [], []
    for _ in range(DRAWS):
        full.append(KINDS[0](scene, rng).text)
        for kind in KINDS[1:]:
            details.extend(_true_and_wrong(scene, kind, rng))
        thing = scene.things[rng.integers(len(scene.things))]
        said = rng.random(4) < (0.35, 0.7, 0.7, 0.35)
        code = [c if s else OPEN for c, s in zip(_codes(thing), said, strict=True)]
        names = [VALUES[k][c] if c != OPEN else None for k, c in enumerate(code)]
        phrases.append(with_article(Description(*names).words()))
        codes.append(code)
    return full, details, phrases, codes


def _true_and_wrong(scene: Scene, kind: CaptionKind, rng: np.random.Generator) -> tuple[str, str]:
    """Equal ones teach nothing: they stand where no wrong caption was found."""
    true = kind(scene, rng).text
    return true, wrong(scene, kind, rng) or true


def _codes(thing: Thing) -> list[int]:
    values = (thing.size, thing.colour, thing.shape, place(thing))
    return [VALUES[k].index(value) for k, value in enumerate(values)]


def _thing_codes(scene: Scene) -> Tensor:
    codes = torch.full((8, 4), NOTHING, dtype=torch.int8)
    for i, thing in enumerate(scene):
        codes[i] = torch.tensor(_codes(thing))
    return codes


def _patch_codes(scene: Scene, grid: int) -> Tensor:
    cover = np.stack([mask(t).reshape(grid, SIDE // grid, grid, SIDE // grid).mean((1, 3)).ravel() for t in scene])
    codes = _thing_codes(scene)[torch.from_numpy(cover.argmax(0))]
    codes[torch.from_numpy(cover.max(0) < 0.15)] = NOTHING
    return codes


class Pretraining(pl.LightningModule):
    """The three losses over materials that live on the device; a batch is a tensor of scene indices."""

    images: Tensor
    patches: Tensor
    things: Tensor
    full: Tensor
    details: Tensor
    phrases: Tensor
    codes: Tensor

    def __init__(self, model: Any, materials: Materials, lr: float, steps: int) -> None:
        super().__init__()
        self.model: Any = model
        self.lr, self.steps = lr, steps
        self.region_scale, self.region_bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-5.0))
        self.names = [field.name for field in fields(materials)]
        for name in self.names:
            self.register_buffer(name, getattr(materials, name), persistent=False)

    def image_features(self, images: Tensor) -> Tensor:
        """Class token and patches, projected to the joint space and normalised, [B, 1 + patches, E]."""
        mean, std = (torch.tensor(self.model.visual.preprocess_cfg[k], device=images.device) for k in ("mean", "std"))
        pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
        return F.normalize(image_tokens(self.model, pixels) @ self.model.visual.proj, dim=-1)

    def text_features(self, ids: Tensor) -> Tensor:
        """End token of each text, projected and normalised, [N, E]."""
        ids = ids.reshape(-1, ids.shape[-1]).long()
        ends = ids.argmax(-1)
        tokens = text_tokens(self.model, ids[:, : ends.max() + 1])[torch.arange(len(ids), device=ids.device), ends]
        return F.normalize(tokens @ self.model.text_projection, dim=-1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        draw = torch.randint(DRAWS, (2,), device=batch.device)
        features = self.image_features(augment(self.images[batch].float()))
        scale = self.model.logit_scale.exp().clamp(max=100)
        whole, patches = features[:, 0], features[:, 1:]

        logits = scale * whole @ self.text_features(self.full[batch, draw[0]]).T
        target = torch.arange(len(batch), device=batch.device)
        captions = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)

        kinds = torch.randint(len(KINDS) - 1, batch.shape, device=batch.device)
        ids = self.details[batch, draw[0], kinds][:, None]
        margin = scale * self._margins(whole, ids)
        differs = (ids[:, :, 0] != ids[:, :, 1]).any(-1)
        details = (F.softplus(-margin) * differs).sum() / differs.sum()

        phrases, wanted = self.text_features(self.phrases[batch, draw[1]]), self.codes[batch, draw[1]]
        chosen = torch.rand(patches.shape[:2], device=batch.device).topk(24).indices
        region = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[-1]))
        found = self.patches[batch].gather(1, chosen[..., None].expand(-1, -1, 4))
        regions = self._sigmoid(region, phrases, fits(found, wanted))
        exists = fits(self.things[batch], wanted).any(1)
        presence = self._sigmoid(whole[:, None], phrases, exists[:, None])

        self.log_dict(
            {"captions": captions, "details": details, "regions": regions, "presence": presence}, prog_bar=True
        )
        return captions + details + 2 * regions + presence

    def _margins(self, whole: Tensor, ids: Tensor) -> Tensor:
        """By how much each image is nearer to the true caption of each kind, [B, kinds]."""
        texts = self.text_features(ids).view(*ids.shape[:-1], -1)
        return torch.einsum("be,bke->bk", whole, texts[:, :, 0] - texts[:, :, 1])

    def _sigmoid(self, regions: Tensor, phrases: Tensor, true: Tensor) -> Tensor:
        logits = self.region_scale.exp() * (regions @ phrases.T) + self.region_bias
        loss = F.binary_cross_entropy_with_logits(logits, true.float(), reduction="none")
        return loss[true].mean() + 8 * loss.mean()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Share of true captions preferred to wrong ones, by kind, and of patches named right by phrase."""
        features = self.image_features(self.images[batch].float())
        margins = self._margins(features[:, 0], self.details[batch, 0])
        differs = (self.details[batch, 0][:, :, 0] != self.details[batch, 0][:, :, 1]).any(-1)
        for k, kind in enumerate(KINDS[1:]):
            self.log(f"val/{kind.__name__}", (margins[:, k] > 0)[differs[:, k]].float().mean(), prog_bar=True)
        logits = features[:, 0] @ self.text_features(self.full[batch, 0]).T
        right = logits.argmax(-1) == torch.arange(len(batch), device=batch.device)
        self.log("val/everything", right.float().mean(), prog_bar=True)
        patches = self.patches[batch].flatten(0, 1)
        there = patches[:, 0] != NOTHING
        for k, attribute in enumerate(ATTRIBUTES):
            phrases = [with_article(Description(**{attribute: value}).words()) for value in VALUES[k]]
            names = self.text_features(open_clip.get_tokenizer(SHAPES_CLIP)(phrases, PHRASE_LENGTH).to(batch.device))
            named = (features[:, 1:].flatten(0, 1)[there] @ names.T).argmax(-1)
            self.log(f"val/patch_{attribute}", (named == patches[there, k]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        decayed = [p for p in self.parameters() if p.ndim >= 2]
        rest = [p for p in self.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), eps=1e-6)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, self.steps, pct_start=0.06, cycle_momentum=False, final_div_factor=1e3
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fits(found: Tensor, wanted: Tensor) -> Tensor:
    """Which object codes [B, n, 4] have all that each phrase [P, 4] asks for, as bool [B, n, P]."""
    same = (found[:, :, None] == wanted) | (wanted == OPEN)
    return same.all(-1) & (found[:, :, None, 0] != NOTHING)


def augment(images: Tensor) -> Tensor:
    """Brightness, contrast, blur and noise of the kinds that cameras and JPEG add, on [B, 3, H, W] in 0..255."""
    shape, device = (len(images), 1, 1, 1), images.device
    images = (
        (images - 128) * (1 + 0.15 * torch.randn(shape, device=device)) + 128 + 8 * torch.randn(shape, device=device)
    )
    side = int(torch.randint(SIDE // 2, SIDE, ()))
    small = F.interpolate(F.interpolate(images, side, mode="area"), SIDE, mode="bilinear")
    images = torch.where(torch.rand(shape, device=device) < 0.4, small, images)
    return (images + 6 * torch.rand(shape, device=device) * torch.randn_like(images)).clamp(0, 255)


def prepare(scenes: int, seed: int, grid: int, workers: int) -> Materials:
    """Materials of `scenes` scenes, made by several processes."""
    chunks = [range(i, min(i + 500, scenes)) for i in range(0, scenes, 500)]
    spawn = get_context("spawn")  # a fork inherits torch's threads and deadlocks
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        done = list(tqdm(pool.map(partial(make_materials, seed, grid), chunks), total=len(chunks), desc="scenes"))
    return Materials(*(torch.cat([getattr(m, f.name) for m in done]) for f in fields(Materials)))


def index_batches(count: int, batch: int) -> Iterator[Tensor]:
    """Endless random batches of indices, every index once a round."""
    while True:
        yield from torch.randperm(count)[: count // batch * batch].view(-1, batch)


class _Batches(torch.utils.data.IterableDataset):
    def __init__(self, count: int, batch: int) -> None:
        self.count, self.batch = count, batch

    def __iter__(self) -> Iterator[Tensor]:
        return index_batches(self.count, self.batch)


def pretrain(
    output: Path,
    scenes: int = 40_000,
    steps: int = 1200,
    batch: int = 256,
    lr: float = 1.5e-3,
    seed: int = 0,
    workers: int = 2,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    val_scenes: int = 1000,
) -> None:
    """Pretrains the Shapes CLIP and writes its weights in half precision.

    Args:
        output: safetensors file to write.
        scenes: number of scenes rendered for training.
        steps: optimiser steps.
        batch: scenes a step.
        lr: highest learning rate.
        seed: of scenes, weights and order.
        workers: processes that render.
        precision: Lightning's.
        val_scenes: scenes for the figures printed at the end.
    """
    pl.seed_everything(seed)
    torch.set_float32_matmul_precision("high")
    model = create_clip(SHAPES_CLIP, None)
    grid = model.visual.grid_size[0]
    materials = prepare(scenes + val_scenes, seed, grid, workers)
    module = Pretraining(model, materials, lr, steps)
    trainer = pl.Trainer(
        max_steps=steps, precision=precision, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        val_check_interval=max(steps // 7, 1), check_val_every_n_epoch=None, num_sanity_val_steps=0, devices=1,
    )  # fmt: skip
    validation = torch.arange(scenes, scenes + val_scenes).split(500)
    trainer.fit(module, DataLoader(_Batches(scenes, batch), batch_size=None), DataLoader(validation, batch_size=None))
    for name, value in trainer.callback_metrics.items():
        print(f"{name:20s} {float(value):.4f}")
    state = {k: v.half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(
        state, output, metadata={"scenes": str(scenes), "steps": str(steps), "batch": str(batch), "seed": str(seed)}
    )
    print(f"wrote {output} ({output.stat().st_size / 2**20:.1f} MB)")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(pretrain, as_positional=False)
