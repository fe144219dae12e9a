"""A tiny model of every family with random weights, stock classes all, and inputs of two samples, the second padded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers as tf
from torch import Tensor, nn

from xai import METHODS, Relevance, Target, detection, given, similarity
from xai.results.modality import ModalityRelevance

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 8}
LENGTHS = (7, 5)


@dataclass
class Family:
    model: nn.Module
    inputs: dict[str, Tensor]
    target: Target
    shortened: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = (
        None  # the second sample alone, without padding
    )


def pixels() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def words() -> dict[str, Tensor]:
    ids = torch.randint(3, 40, (2, LENGTHS[0]), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(LENGTHS[0]) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def shorter(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    second = {name: tensor[1:] for name, tensor in inputs.items()}
    for name in ("input_ids", "attention_mask"):
        second[name] = second[name][:, : LENGTHS[1]]
    for name in ("visual_embeds", "visual_feats", "visual_pos", "visual_attention_mask"):
        if name in second:
            second[name] = second[name][:, :3]
    return second


def image_model(cls: Any, **options: Any) -> Family:
    model = cls(cls.config_class(**TINY, **IMAGE, num_labels=4, **options))
    return Family(model, {"pixel_values": pixels()}, given(torch.tensor([1, 2])))


def text_model(cls: Any, **options: Any) -> Family:
    sizes = options or TINY
    model = cls(cls.config_class(vocab_size=40, num_labels=3, pad_token_id=0, **sizes))
    return Family(model, words(), given(torch.tensor([1, 2])), shorter)


def timm_model(pool: str) -> Family:
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.models.vision_transformer.VisionTransformer(**size, global_pool=pool, init_values=0.5)
    return Family(model, {"x": pixels()}, given(torch.tensor([1, 2])))


def distilled_timm_model() -> Family:
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}
    model = timm.models.deit.VisionTransformerDistilled(**size)
    return Family(model, {"x": pixels()}, given(torch.tensor([1, 2])))


def torchvision_model() -> Family:
    size = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    model = torchvision.models.VisionTransformer(**size, num_classes=4)
    return Family(model, {"x": pixels()}, given(torch.tensor([1, 2])))


def open_clip_model(cls: Any) -> Family:
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 3, "head_width": 8}
    text = {"context_length": 7, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
    return Family(
        cls(embed_dim=8, vision_cfg=vision, text_cfg=text), {"image": pixels(), "text": clip_text()}, similarity()
    )


def clip_text() -> Tensor:
    text = words()["input_ids"]
    text[0, 6], text[1, 4] = 39, 39
    return text


def transformers_clip_model() -> Family:
    text = {
        **TINY,
        "vocab_size": 40,
        "eos_token_id": 39,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "max_position_embeddings": 7,
    }
    model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config={**TINY, **IMAGE}, projection_dim=8))
    return Family(model, {"pixel_values": pixels(), "input_ids": clip_text()}, similarity())


def regions(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, size, generator=torch.Generator().manual_seed(3)), torch.tensor(
        [[1, 1, 1, 1], [1, 1, 1, 0]]
    )


def visualbert_model() -> Family:
    config = tf.VisualBertConfig(vocab_size=40, visual_embedding_dim=6, num_labels=4, pad_token_id=0, **TINY)
    embeds, mask = regions(6)
    inputs = {**words(), "visual_embeds": embeds, "visual_attention_mask": mask}
    return Family(tf.VisualBertForQuestionAnswering(config), inputs, given(torch.tensor([1, 2])), shorter)


def lxmert_model(language: int = 2) -> Family:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "visual_feat_dim": 6}
    layers = {"l_layers": language, "r_layers": 1, "x_layers": 2}
    model = tf.LxmertForQuestionAnswering(tf.LxmertConfig(vocab_size=40, num_qa_labels=4, **sizes, **layers))
    feats, mask = regions(6)
    inputs = {**words(), "visual_feats": feats, "visual_pos": torch.rand(2, 4, 4), "visual_attention_mask": mask}
    return Family(model, inputs, given(torch.tensor([1, 2])), shorter)


def detr_model() -> Family:
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sizes = {
        "d_model": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_queries": 3,
        "num_labels": 4,
    }
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = tf.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, **sizes, **layers)
    mask = torch.ones(2, 32, 24, dtype=torch.long)
    mask[1, 16:] = 0
    inputs = {"pixel_values": torch.randn(2, 3, 32, 24), "pixel_mask": mask}
    return Family(tf.DetrForObjectDetection(config), inputs, detection(torch.tensor([0, 2]), torch.tensor([1, 3])))


DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
FAMILIES: dict[str, Callable[[], Family]] = {
    "vit": lambda: image_model(tf.ViTForImageClassification),
    "deit": lambda: image_model(tf.DeiTForImageClassificationWithTeacher),
    "dinov2": lambda: image_model(tf.Dinov2ForImageClassification),
    "dinov2 with registers": lambda: image_model(tf.Dinov2WithRegistersForImageClassification),
    "timm": lambda: timm_model("token"),
    "timm, mean": lambda: timm_model("avg"),
    "timm, distilled": distilled_timm_model,
    "torchvision": torchvision_model,
    "bert": lambda: text_model(tf.BertForSequenceClassification),
    "roberta": lambda: text_model(tf.RobertaForSequenceClassification),
    "electra": lambda: text_model(tf.ElectraForSequenceClassification),
    "distilbert": lambda: text_model(tf.DistilBertForSequenceClassification, **DISTIL),
    "open_clip": lambda: open_clip_model(open_clip.model.CLIP),
    "open_clip, two modules": lambda: open_clip_model(open_clip.model.CustomTextCLIP),
    "clip": transformers_clip_model,
    "visualbert": visualbert_model,
    "lxmert": lxmert_model,
    "detr": detr_model,
}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return build(request.param)


@pytest.fixture(params=["bert", "roberta", "distilbert", "visualbert", "lxmert"])
def padded(request: pytest.FixtureRequest) -> Family:
    return build(request.param)


def build(name: str) -> Family:
    return prepared(FAMILIES[name])


def prepared(make: Callable[[], Family]) -> Family:
    """Makes a model in double precision, with weights large enough that no softmax is flat and no gradient vanishes."""
    torch.manual_seed(0)
    family = make()
    for parameter in family.model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    family.model.double().eval()
    family.inputs = {name: t.double() if t.is_floating_point() else t for name, t in family.inputs.items()}
    return family


def few_passes(method: str) -> dict[str, int]:
    """Options by which a method of many passes runs few of them, where their number does not matter."""
    known = METHODS[method]
    return {known.counted: max(2, known.least)} if known.counted else {}


def relevance_of(
    scores: dict[str, Tensor],
    mask: dict[str, Tensor],
    special: dict[str, Tensor],
    grids: dict[str, tuple[int, int]],
    target: str | None = None,
) -> Relevance:
    """Relevance made by hand, modality by modality."""
    parts = {n: ModalityRelevance(scores[n], mask[n], special[n], grids.get(n)) for n in scores}
    return Relevance(parts, "wra", {}, target)
