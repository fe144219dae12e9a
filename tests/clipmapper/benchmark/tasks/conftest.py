"""Tiny models with random weights, saved as anybody would save them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
COLOURS = ("red", "green", "blue")


def save(model: Any, processor: Any, folder: Path) -> Path:
    """With weights large enough that no softmax is flat."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of 32 x 32 in 16 patches, which takes the middle of larger ones."""
    config = tf.ViTConfig(**TINY, image_size=32, patch_size=8, id2label=dict(enumerate(COLOURS)))
    processor = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return save(tf.ViTForImageClassification(config), processor, tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of 64 x 64 in 8 x 8 cells, with one query; it knows cats and dogs."""
    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 1}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    labels = {0: "cat", 1: "dog"}
    config = tf.DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, id2label=labels, **sizes, **layers
    )
    processor = tf.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    return save(tf.DetrForObjectDetection(config), processor, tmp_path_factory.mktemp("models") / "detr")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows ten words, of which "goodness" is two pieces, and 16 positions."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "good",
        "##ness",
        "a",
        "film",
        "bad",
        "not",
        "is",
        "this",
        "very",
        "fun",
    ]
    tokenizer = tf.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    config = tf.BertConfig(
        **TINY, vocab_size=len(pieces), max_position_embeddings=16, id2label={0: "NEG", 1: "POS"}, pad_token_id=0
    )
    return save(tf.BertForSequenceClassification(config), tokenizer, tmp_path_factory.mktemp("models") / "bert")
