"""The data of contrastive pretraining on Shapes: scenes rendered and described, as tensors."""

import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from clipmapper.data.shapes.captions import KINDS, CaptionKind, wrong
from clipmapper.data.shapes.language import PLACES, Description, place, with_article
from clipmapper.data.shapes.render import mask, render
from clipmapper.data.shapes.scene import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, sample_scene
from clipmapper.models.clip import SHAPES_CLIP, clip_tokenizer

VALUES = (tuple(SIZES), tuple(COLOURS), SHAPES, tuple(name for row in PLACES for name in row))
ATTRIBUTES = ("size", "colour", "shape", "place")
FULL_LENGTH, DETAIL_LENGTH, PHRASE_LENGTH = 48, 40, 16  # tokens
DRAWS = 2  # captions of each kind a scene, and phrases a scene
OPEN, NOTHING = -1, -2  # attribute codes: a phrase that leaves it open; a patch without object


@dataclass
class Materials:
    """The data of pretraining, S scenes; texts are BPE ids, padded with 0; codes index VALUES."""

    images: Tensor  # uint8 [S, 3, side, side], as large as CLIP takes them
    patches: Tensor  # int8 [S, patches, 4]: codes of the object that covers the patch, or NOTHING
    full: Tensor  # int32 [S, DRAWS, FULL_LENGTH]: captions of everything
    details: Tensor  # int32 [S, DRAWS, kinds - 1, 2, DETAIL_LENGTH]: of each other kind a true and a wrong caption
    phrases: Tensor  # int32 [S, DRAWS, PHRASE_LENGTH]
    codes: Tensor  # int8 [S, DRAWS, 4]: what each phrase asks for, or OPEN


def make_materials(seed: int, side: int, grid: int, indices: range) -> Materials:
    """Renders and describes the scenes of the given indices."""
    tokenizer = clip_tokenizer(SHAPES_CLIP)
    scenes = [sample_scene((seed, i), least=1, most=6) for i in indices]
    texts = [_texts(scene, np.random.default_rng((seed, i, 1))) for i, scene in zip(indices, scenes, strict=True)]
    full, details, phrases, codes = zip(*texts, strict=True)

    def ids(batch: tuple[list[str], ...], length: int) -> Tensor:
        return tokenizer([text for some in batch for text in some], length).to(torch.int32)

    return Materials(
        images=torch.stack(
            [
                torch.from_numpy(np.array(render(scene).resize((side, side), Image.Resampling.BICUBIC)))
                for scene in scenes
            ]
        ).permute(0, 3, 1, 2),
        patches=torch.stack([_patch_codes(scene, grid) for scene in scenes]),
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


def _patch_codes(scene: Scene, grid: int) -> Tensor:
    cover = np.stack([mask(t).reshape(grid, SIDE // grid, grid, SIDE // grid).mean((1, 3)).ravel() for t in scene])
    codes = torch.tensor([_codes(thing) for thing in scene], dtype=torch.int8)[torch.from_numpy(cover.argmax(0))]
    codes[torch.from_numpy(cover.max(0) < 0.15)] = NOTHING
    return codes


def value_ids() -> Tensor:
    """BPE ids of a phrase for each value of each attribute, and of the background after each attribute's."""
    phrases: list[str] = []
    for attribute, values in zip(ATTRIBUTES, VALUES, strict=True):
        phrases += [with_article(Description(**{attribute: value}).words()) for value in values]
        phrases.append("the background")
    return clip_tokenizer(SHAPES_CLIP)(phrases, PHRASE_LENGTH)


def fits(found: Tensor, wanted: Tensor) -> Tensor:
    """Tells which object codes [B, n, 4] have all that each phrase [P, 4] asks for, as bool [B, n, P]."""
    same = (found[:, :, None] == wanted) | (wanted == OPEN)
    return same.all(-1) & (found[:, :, None, 0] != NOTHING)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    torch.set_num_threads(1)


def prepare(scenes: int, seed: int, side: int, grid: int, workers: int) -> Materials:
    """Materials of `scenes` scenes, made by several processes."""
    chunks = [range(i, min(i + 500, scenes)) for i in range(0, scenes, 500)]
    spawn = get_context("spawn")  # a fork inherits torch's threads and deadlocks
    with ProcessPoolExecutor(workers, spawn, _start_worker) as pool:
        done = list(tqdm(pool.map(partial(make_materials, seed, side, grid), chunks), total=len(chunks), desc="scenes"))
    return Materials(*(torch.cat([getattr(m, f.name) for m in done]) for f in fields(Materials)))
