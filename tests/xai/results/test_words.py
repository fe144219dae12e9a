import pytest

from xai.results.words import merge_pieces


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            ["what", "is", "un", "##believ", "##able", "?"],
            [("what", [0]), ("is", [1]), ("unbelievable", [2, 3, 4]), ("?", [5])],
        ),
        (["a</w>", "rec", "tangle</w>", "?</w>"], [("a", [0]), ("rectangle", [1, 2]), ("?", [3])]),
        (["a ", "rec", "tangle ", "? "], [("a", [0]), ("rectangle", [1, 2]), ("?", [3])]),
        (["What", "Ġrec", "tang", "le", "Ġis"], [("What", [0]), ("rectangle", [1, 2, 3]), ("is", [4])]),
        (["▁what", "▁rec", "tangle"], [("what", [0]), ("rectangle", [1, 2])]),
        (["what", " rec", "tangle"], [("what", [0]), ("rectangle", [1, 2])]),
        (["one", "two"], [("one", [0]), ("two", [1])]),
        ([None, "Ġa", "b", None, "c", "Ġd", None], [("ab", [1, 2]), ("c", [4]), ("d", [5])]),
        ([None, "##a", None], [("a", [1])]),
        ([], []),
    ],
)
def test_merge_pieces(pieces: list[str | None], expected: list[tuple[str, list[int]]]) -> None:
    assert merge_pieces(pieces) == expected
