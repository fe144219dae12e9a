"""Explainers against the truth of Shapes: the truth against the scenes, planted relevance, and the whole command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from clipmapper.config import ModelConfig
from clipmapper.data.files import MissingData
from clipmapper.data.shapes.render import mask
from clipmapper.data.shapes.scene import sample_scene
from clipmapper.data.shapes.truth import Truth
from clipmapper.data.shapes.write import MOST_SCENES
from clipmapper.explain.answers import explain_answer
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.truth.__main__ import main, measure
from clipmapper.truth.gallery import gallery_rows, marked, outline
from clipmapper.truth.scores import BASELINES, Explained, Measured, choose, deciding_tokens, regions, score
from clipmapper.truth.summary import ranking, report, summary, table
from xai import Relevance

GRID = (8, 8)


def questions_of(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())["questions"]


def test_region_is_the_deciding_objects_of_the_scene(shapes_root: Path) -> None:
    truth = Truth(shapes_root)
    recorded = json.loads((shapes_root / "annotations" / "shapes_truth_val2014.json").read_text())
    some = 0
    for question in questions_of(shapes_root):
        key, image = question["question_id"], question["image_id"]
        scene = sample_scene((0, 1, image - 1 - MOST_SCENES))
        deciding = [scene.things[i - 100 * image] for i in recorded[str(key)]["instances"]]
        expected = np.any([np.zeros((128, 128), bool), *(mask(thing) for thing in deciding)], axis=0)
        assert (truth.region(key, (128, 128)) != expected).mean() < 0.002  # corners are rounded in the file
        shares = expected.reshape(8, 16, 8, 16).mean((1, 3))
        torch.testing.assert_close(regions(truth, [key], GRID)[0].double(), torch.from_numpy(shares), atol=0.03, rtol=0)
        some += bool(deciding)
    assert 0 < some < len(recorded)


def test_deciding_tokens_spell_the_deciding_words(shapes_root: Path) -> None:
    truth, model = Truth(shapes_root), make()
    for question in questions_of(shapes_root):
        text, spans = question["question"], truth.words(question["question_id"])
        ids, _ = model.clip.tokenize([text])
        tokens = [model.clip.tokenizer.decode([i]) for i in ids[0].tolist()]
        found = deciding_tokens(spans, text, tokens)
        spelled = "".join(token.strip() for token, hit in zip(tokens, found, strict=True) if hit)
        assert spelled == "".join(text[start:stop] for start, stop in sorted(spans)).lower() != ""


def test_a_word_of_several_tokens_and_a_word_that_occurs_twice() -> None:
    tokens = ["<start_of_text>", "is ", "the ", "hex", "agon ", "a ", "hex", "agon ", "? ", "<end_of_text>", ""]
    found = deciding_tokens([(18, 25)], "Is the hexagon a  Hexagon?", tokens)
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert deciding_tokens([(7, 8)], "Is the hexagon a  Hexagon?", tokens).tolist()[3:5] == [1, 0]


def test_other_data_has_no_truth(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="Shapes truth files are missing"):
        Truth(tmp_path)


def test_chosen_questions_are_of_different_scenes_as_long_as_there_are() -> None:
    scenes = np.repeat(np.arange(10), 3)
    rows = choose(scenes, 10, seed=0)
    assert sorted(scenes[rows]) == list(range(10)) and rows == sorted(rows) == choose(scenes, 10, seed=0)
    assert rows != choose(scenes, 10, seed=1)
    more = choose(scenes, 14, seed=0)
    assert len(set(more)) == 14 and len(set(scenes[more])) == 10
    assert choose(scenes, 99, seed=0) == list(range(30))


def relevance(scores: dict[str, Tensor]) -> Relevance:
    """Of 4 patches after a class token; and 5 text tokens: start, words, end, and padding in the first sample."""
    mask = {"image": torch.ones(2, 5).bool(), "text": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()}
    ends = torch.tensor([[1, 0, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()
    special = {"image": torch.tensor([[1, 0, 0, 0, 0]]).bool().expand(2, -1), "text": ends}
    return Relevance(scores, mask, special, {"image": (2, 2)}, "planted", {}, None)


@pytest.fixture
def planted() -> np.ndarray:
    """Figures of what is right, wrong, right but for tokens that do not count, equal, silent; the second has no region."""
    truth = {
        "image": torch.tensor([[0.0, 1, 0.5, 0, 0], [0, 0, 0, 0, 0]]),
        "text": torch.tensor([[0.0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]),
    }
    wrong = {name: (1 - t) * (t == 0) for name, t in truth.items()}
    far = {name: t.clone() for name, t in truth.items()}
    far["image"][:, 0], far["text"][0, [0, 3]], far["text"][1, 4] = 100, 100, 100
    equal = {name: torch.ones_like(t) for name, t in truth.items()}
    silent = {"image": -truth["image"], "text": far["text"] * (truth["text"] == 0)}
    kinds = {"right": truth, "wrong": wrong, "far": far, "equal": equal, "silent": silent}
    records = {"question_id": [1000, 1001]}
    return score(Explained(records, {name: relevance(scores) for name, scores in kinds.items()}, truth))


def test_planted_relevance_gets_the_figures_it_deserves(planted: np.ndarray) -> None:
    assert planted.shape == (6, 7, 2)
    for figure in planted[:2]:
        right, wrong, far, equal, silent, random, chance = figure[:, 0]
        assert right == far == pytest.approx((1 + 0.25) / 1.5) and wrong == 0
        assert equal == chance == 1.5 / 4 and 0.1 < random < 0.7
        assert np.isnan(figure[:, 1]).all()
    assert planted[0, 4, 0] == 1.5 / 4  # scored as chance
    for figure in planted[2:4]:
        for sample, share in ((0, 1 / 2), (1, 1 / 3)):
            right, wrong, far, equal, silent, _, chance = figure[:, sample]
            assert (right, wrong, far) == (1, 0, 1)
            assert (equal, silent, chance) == pytest.approx((share, share, share))
    assert planted[4].tolist() == [[0, 1], [0, 0], [0, 1], [0, 0], [1, 1], [0, 0], [0, 0]]
    assert planted[5].tolist() == [[0, 0]] * 4 + [[1, 1]] + [[0, 0]] * 2


def test_ranking_names_the_best_explainer_and_its_lead() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    values = np.stack([base, base + 0.1 + 0.01 * rng.random(200), base - 0.3, base + 0.5, base + 0.4])
    values[:, 7] = np.nan
    found = ranking(("a", "b", "c", *BASELINES), values)
    assert [entry["method"] for entry in found["ranking"]] == ["random", "chance", "b", "a", "c"]
    assert (found["best"], found["next"], found["lead_excludes_zero"]) == ("b", "a", True)
    assert 0.1 < found["lead"]["low"] < found["lead"]["mean"] < found["lead"]["high"] < 0.11
    assert found["ranking"][2]["questions"] == 199
    same = ranking(("a", "b", *BASELINES), np.stack([base, base[::-1], base, base]))
    assert not same["lead_excludes_zero"] and same["lead"]["low"] < 0 < same["lead"]["high"]
    assert "lead" not in ranking(("a", *BASELINES), values[:3])


def measured() -> Measured:
    """Method k has in figure f the value (f + k / 10) / 10. The first question has no region; GenAtt is silent on words."""
    methods = ("wra", "genatt", *BASELINES)
    values = np.arange(6.0)[:, None] + np.arange(4) / 10
    figures = np.repeat(values[..., None] / 10, 6, axis=-1)
    figures[4:] = 0
    figures[5, 1, :3] = 1
    types = ["existence", "colour", "colour", "size", "colour", "size"]
    figures[:2, :, 0] = np.nan
    columns: dict[str, list[Any]] = {"question_id": list(range(10, 16)), "question_type": types, "row": list(range(6))}
    return Measured(methods, figures, columns | {"accuracy": [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]})


def test_the_table_has_a_row_for_each_question_and_method() -> None:
    rows = table(measured()).to_pylist()
    assert len(rows) == 24
    for row in rows:
        method = ("wra", "genatt", *BASELINES).index(row["method"])
        assert row["words_mass"] == pytest.approx((2 + method / 10) / 10)
        assert np.isnan(row["region_rank"]) == (row["question_id"] == 10)


def test_the_summary_counts_what_has_no_region() -> None:
    result = summary(measured())
    assert (result["questions"], result["without_region"], result["accuracy"]) == (6, 1, 0.5)
    assert [entry["questions"] for entry in result["figures"]["region_mass"]["ranking"]] == [5] * 4
    strata = result["figures"]["words_mass"]["strata"]
    assert {name: part["genatt"]["questions"] for name, part in strata.items()} == {
        "right": 3, "wrong": 3, "existence": 1, "colour": 3, "size": 2,
    }  # fmt: skip
    assert result["figures"]["region_mass"]["strata"]["existence"]["wra"]["mean"] is None
    json.dumps(result, allow_nan=False)
    text = report(result)
    assert "region_mass: genatt wins: 1.0 [1.0, 1.0] over wra" in text and "1 have no deciding object" in text
    assert "words_silent, scored as chance: genatt 50.0 % of the questions" in text and "region_silent" not in text
    first = text.splitlines()[1]  # most mass in the region
    assert " ".join(first.split()) == "chance 3.0 [3.0, 3.0] 13.0 [13.0, 13.0] 23.0 [23.0, 23.0] 33.0 [33.0, 33.0]"


def test_the_gallery_shows_as_many_types_as_there_are() -> None:
    assert gallery_rows(measured(), 2) == [1, 3]
    assert gallery_rows(measured(), 4) == [1, 3, 2, 5]
    assert gallery_rows(measured(), 9) == [1, 3, 2, 5, 4]
    assert marked("Is the red circle red?", [(7, 10), (18, 21)]) == "Is the [red] circle [red]?"


def test_outlines_lie_on_their_picture() -> None:
    figure = Figure()
    axes = figure.subplots()
    for left in (1, 4):
        axes.imshow(np.zeros((4, 4)), extent=(left, left + 2, 8, 6))
    outline(figure, [[], [np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]])]])
    (polygon,) = axes.patches
    assert polygon.get_xy()[:3].tolist() == [[4, 6], [6, 6], [5, 8]]


def make() -> CLIPMapper:
    torch.manual_seed(0)
    config = ModelConfig(SHAPES_CLIP, None, width=16, heads=2, layers=1)
    return CLIPMapper(config, ["yes", "no", "red", "2"]).eval()


def test_from_a_model_to_tables(shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the table says of a batch is what each question explained alone has in its region."""
    model, truth = make(), Truth(shapes_root)
    model.save_pretrained(tmp_path / "model")
    methods = ["wra", "raw_attention", "random"]
    measure(str(tmp_path / "model"), tmp_path / "out", 5, shapes_root, methods, batch_size=3, device="cpu")
    found = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert [row["method"] for row in found] == [name for name in ("wra", "raw_attention", *BASELINES) for _ in range(5)]
    masses = []
    for row in found[:5]:
        picture = shapes_root / f"val2014/COCO_val2014_{row['image_id']:012d}.jpg"
        heat = explain_answer(model, picture, row["question"]).map()[0]
        region = regions(truth, [row["question_id"]], GRID)[0]
        masses.append(float((heat * region).sum() / heat.sum()) if region.any() else np.nan)
        assert row["region_mass"] == pytest.approx(masses[-1], abs=1e-4, nan_ok=True)
        assert row["predicted"] == model.answer(picture, row["question"])
        assert row["accuracy"] == (row["predicted"] == row["answer"])
    result = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (result["questions"], result["without_region"]) == (5, np.isnan(masses).sum())
    entries = {entry["method"]: entry for entry in result["figures"]["region_mass"]["ranking"]}
    assert entries["wra"]["mean"] == pytest.approx(np.nanmean(masses), abs=1e-4)
    with Image.open(tmp_path / "out" / "gallery.png") as gallery:
        assert gallery.width > 500
    assert "region_mass: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=[wrra]"], "unknown method 'wrra'; did you mean 'wra'"),
        (["--samples=0"], "nothing to do: samples=0"),
        (["--methods=[random]"], "methods none"),
        ([], "no checkpoint gone.ckpt"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--model=gone.ckpt", f"--output={tmp_path}", f"--root={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["truth", *given, *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
