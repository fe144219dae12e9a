"""Reference models by their configuration, and what is wrong with others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers as tf

from clipmapper.cli import parse_training
from clipmapper.config import ExplainConfig, ModelSource
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.base import prepare_questions
from clipmapper.explain.models.load import kind_of, load_model, regions_of
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.clip_mapper import CLIPMapper

from .conftest import SIZES, save_tokenizer

Saved = dict[str, ModelSource]


def test_answers_of_each_kind(saved: Saved, answers: list[str], tmp_path: Path) -> None:
    assert load_model(saved["lxmert"], ()).answers == answers
    (tmp_path / "labels.json").write_text(json.dumps(answers[::-1]))
    assert load_model(replace(saved["visualbert"], answers=tmp_path / "labels.json"), ()).answers == answers[::-1]
    assert load_model(replace(saved["clip"], candidates=2), ["red", "no", "yes"]).answers == ["red", "no"]
    own = replace(saved["clip"], answers=tmp_path / "labels.json", candidates=3)
    assert load_model(own, ["red"]).answers == answers[::-1][:3]
    mapper = load_model(ModelSource("shapes-b-vqa"), ())
    assert isinstance(mapper, MapperModel) and mapper.answers == mapper.model.answers


def test_the_kind_is_found_from_what_is_there(saved: Saved, tmp_path: Path) -> None:
    for kind, source in saved.items():
        assert kind_of(source.name) == kind
    assert kind_of("shapes-b-vqa") == kind_of("runs/last.ckpt") == "clipmapper"
    assert kind_of("ViT-B-32:openai") == "clip"
    CLIPMapper.from_pretrained("shapes-a-vqa").save_pretrained(tmp_path / "mapper")
    assert kind_of(str(tmp_path / "mapper")) == "clipmapper"
    with pytest.raises(ValueError, match=r"unknown model .*'nosuch'"):
        kind_of("nosuch")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="of type 'bert', which cannot be evaluated here; give a CLIPMapper"):
        kind_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: truncated or not JSON"):
        kind_of(str(tmp_path))


def test_a_model_on_the_command_line() -> None:
    assert ModelSource.parse("a/b") == ModelSource("a/b")
    parsed = ModelSource.parse("{name: a/b, kind: lxmert, regions: r.tsv}")
    assert parsed == ModelSource("a/b", "lxmert", Path("r.tsv"))
    with pytest.raises(ValueError, match="unknown option 'region'; did you mean 'regions'"):
        ModelSource.parse("{name: a, region: r.tsv}")
    with pytest.raises(ValueError, match="has no name"):
        ModelSource.parse("{regions: r.tsv}")
    for text, said in (
        ("{name: 3}", "name is 3 and must be text; put it in quotes"),
        ("{name: a, prompt: {question}}", "prompt is {'question': None} and must be text"),
        ("{name: a, candidates: x}", "candidates is 'x' and must be a whole number"),
        ("{name: a, candidates: null}", "candidates is None and must be"),
        ("{3: a}", "unknown option '3'"),
        ("{name: null}", "has no name"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelSource.parse(text)


def test_captioners_and_blind_models_are_loaded_as_they_are() -> None:
    assert load_model(ModelSource("shapes-b-caption")).config.task == "caption"


def test_names_of_the_log() -> None:
    config = ExplainConfig(reference_models=["shapes-b-vqa", ModelSource("a/b", "lxmert")])
    assert [reference.label for reference in config.references] == ["shapes-b-vqa", "lxmert:a/b"]
    with pytest.raises(ValueError, match="different models"):
        ExplainConfig(reference_models=["a", ModelSource("a")])


def test_both_forms_on_the_command_line(tiny_config: Path) -> None:
    option = "[last.ckpt, {kind: lxmert, name: a/b, regions: r.tsv}]"
    parsed = parse_training([f"--config={tiny_config}", f"--explain.reference_models={option}"], tiny_config.parent)
    assert parsed.explain.references == [ModelSource("last.ckpt"), ModelSource("a/b", "lxmert", Path("r.tsv"))]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("lxmert", {"kind": "lxmertt"}, "unknown kind of model 'lxmertt'; did you mean 'lxmert'"),
        ("lxmert", {"regions": None}, "it sees regions: name their table as `regions`"),
        ("lxmert", {"regions": Path("no.tsv")}, "no.tsv: no such table of regions; give a TSV file or a folder"),
        ("lxmert", {"candidates": 3}, "candidates is no option of kind lxmert; leave it out"),
        (
            "lxmert",
            {"name": str(Path(__file__).parent)},
            "may name a LxmertForQuestionAnswering of transformers: a folder of save",
        ),
        ("lxmert", {"answers": Path("no.json")}, "no.json: no such answer vocabulary"),
        ("clip", {"name": "ViT-B-32"}, "'ViT-B-32' names no weights.*MODEL:WEIGHTS"),
        ("clip", {"name": "ViT-B-33:openai"}, "unknown CLIP model 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("clip", {"regions": Path("r.tsv")}, "regions is no option of kind clip"),
    ],
)
def test_what_cannot_be_loaded(saved: Saved, kind: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        load_model(replace(saved[kind], **change), ["yes"])  # type: ignore[arg-type]


def test_a_model_for_something_else(saved: Saved, questions: Questions, tmp_path: Path) -> None:
    tf.LxmertModel.from_pretrained(saved["lxmert"].name).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights of LxmertForQuestionAnswering.*was not trained for VQA"):
        load_model(replace(saved["lxmert"], name=str(tmp_path)), ())


def test_answers_without_names(saved: Saved, questions: Questions, tmp_path: Path) -> None:
    size = save_tokenizer(questions, tmp_path / "tokenizer")
    config = tf.VisualBertConfig(vocab_size=size, num_labels=4, visual_embedding_dim=3, num_hidden_layers=1, **SIZES)
    tf.VisualBertForQuestionAnswering(config).save_pretrained(tmp_path / "model")
    reference = replace(saved["visualbert"], name=str(tmp_path / "model"), tokenizer=str(tmp_path / "tokenizer"))
    with pytest.raises(ValueError, match="does not name its answers: give their label2ans JSON list as `answers`"):
        load_model(reference, ())
    (tmp_path / "labels.json").write_text('["yes", "no", "red"]')
    with pytest.raises(ValueError, match=r"labels\.json has 3 answers, but the model's head 4"):
        load_model(replace(reference, answers=tmp_path / "labels.json"), ())
    (tmp_path / "labels.json").write_text('["yes", "no", "red", "blue"]')
    with pytest.raises(ValueError, match="features of width 6, but the model takes 3: extract them with the detector"):
        prepare_questions(load_model(replace(reference, answers=tmp_path / "labels.json"), ()), questions, [0])


def test_images_without_regions(saved: Saved, questions: Questions, tables: dict[str, Path], tmp_path: Path) -> None:
    lines = tables["table"].read_text().splitlines()
    (tmp_path / "some.tsv").write_text("\n".join(lines[1:]))
    model = load_model(replace(saved["lxmert"], regions=tmp_path / "some.tsv"), ())
    prepare_questions(model, questions, [len(questions) - 1])
    first = questions.records[0]
    with pytest.raises(ValueError, match=f"no regions of image '{first['image_id']}' or '{Path(first['image']).stem}'"):
        prepare_questions(model, questions, [0])


def test_one_image_is_no_table(tmp_path: Path) -> None:
    np.savez(tmp_path / "42.npz", features=np.ones((1, 2)))
    with pytest.raises(ValueError, match="regions of one image; give the folder"):
        regions_of(tmp_path / "42.npz")
