"""The table of a captioner's figures."""

from clipmapper.evaluation.captions import table


def test_a_figure_that_could_not_be_computed_is_said_to_be_so() -> None:
    figures = {"BLEU-1": 0.5, "METEOR": 0.25, "CIDEr": "not computed: one image"}
    floor = figures | {"METEOR": "not computed: METEOR's Java program failed"}
    shown = table({"metrics": figures, "floors": {"constant": floor}, "truth": {}, "images": 1, "skipped": {}})
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert lines["BLEU-1"] == ["0.5000", "0.5000"] and lines["METEOR"] == ["0.2500", "not", "computed"]
    assert lines["CIDEr"] == ["not", "computed:", "one", "image"]
