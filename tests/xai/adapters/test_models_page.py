"""The page of models says what the tests of adapters hold."""

import re

from .models_page import HEADER, PAGE, on_the_page, table


def test_the_table_is_that_of_the_tests() -> None:
    wanted, shown = table(), on_the_page()
    missing, wrong = set(wanted) - set(shown), set(shown) - set(wanted)
    assert shown == wanted, f"python -m tests.xai.adapters.models_page mends it: lacks {missing}, has {wrong}"
    assert all(row.count("|") == len(HEADER) + 1 for row in shown)


def test_the_tests_that_it_names_exist() -> None:
    text = "".join(path.read_text() for path in PAGE.parents[1].glob("tests/xai/**/test_*.py"))
    names = re.findall(r"`(test_\w+?)(?:_?\.\.\.)?`", PAGE.read_text())
    assert len(names) > 5 and all(f"def {name}" in text for name in names), names
