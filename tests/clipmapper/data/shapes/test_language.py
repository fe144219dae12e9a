"""Noun phrases, places, articles, lists and marked words."""

import pytest

from clipmapper.data.shapes.language import Description, listing, place, unmark, with_article
from clipmapper.data.shapes.scene import COLOURS, SHAPES, Scene, Thing


def thing(shape: str = "circle", colour: str = "red", size: str = "small", x: float = 64, y: float = 64) -> Thing:
    return Thing(shape, colour, size, x, y, radius=10, angle=0, rgb=(255, 0, 0))


@pytest.mark.parametrize(
    ("description", "one", "many"),
    [
        (Description(), "object", "objects"),
        (Description(shape="cross"), "cross", "crosses"),
        (Description(colour="orange", shape="hexagon"), "orange hexagon", "orange hexagons"),
        (Description(size="large"), "large object", "large objects"),
        (Description("small", "red", "heart"), "small red heart", "small red hearts"),
        (Description(shape="star", place="top left"), "star at the top left", "stars at the top left"),
    ],
)
def test_words(description: Description, one: str, many: str) -> None:
    assert (description.words(), description.words(plural=True)) == (one, many)


def test_marked_words_are_the_attributes() -> None:
    assert Description("small", "red", "cross").words(marked=True) == "[small] [red] [cross]"
    assert Description("small", "red", "cross").words(plural=True, marked=True) == "[small] [red] [crosses]"
    assert Description(colour="red").words(marked=True) == "[red] object"


def test_plurals_are_english() -> None:
    plurals = {shape: Description(shape=shape).words(plural=True) for shape in SHAPES}
    assert plurals.pop("cross") == "crosses"
    assert all(plural == f"{shape}s" for shape, plural in plurals.items())


def test_description_finds_what_has_all_its_attributes() -> None:
    things = (
        thing("circle", "red", "small", x=5),
        thing("circle", "red", "large"),
        thing("circle", "blue", "small"),
        thing("heart", "red", "small"),
    )
    scene = Scene(things, "plain", ((0, 0, 0), (0, 0, 0)), outlined=False, seed=0)
    assert Description().find(scene) == (0, 1, 2, 3)
    assert Description(size="small").find(scene) == (0, 2, 3)
    assert Description(colour="red").find(scene) == (0, 1, 3)
    assert Description(shape="circle").find(scene) == (0, 1, 2)
    assert Description("small", "red", "circle").find(scene) == (0,)
    assert Description(shape="circle", place="center").find(scene) == (1, 2)
    assert Description(colour="blue", shape="heart").find(scene) == ()


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (0, 0, "top left"),
        (64, 0, "top"),
        (127, 0, "top right"),
        (0, 64, "left"),
        (42.6, 42.7, "left"),  # 128 / 3 = 42.67
        (42.7, 42.6, "top"),
        (85.3, 85.3, "center"),  # 2 * 128 / 3 = 85.33
        (85.4, 85.3, "right"),
        (85.3, 85.4, "bottom"),
        (0, 128, "bottom left"),
        (128, 128, "bottom right"),
    ],
)
def test_place_is_the_ninth_with_the_centre(x: float, y: float, name: str) -> None:
    assert place(thing(x=x, y=y)) == name


def test_article_follows_the_sound() -> None:
    words = [*SHAPES, *COLOURS, "small", "large", "object"]
    assert {word for word in words if with_article(word) == f"an {word}"} == {"oval", "orange", "object"}
    assert all(with_article(word) in (f"a {word}", f"an {word}") for word in words)
    assert with_article("[orange] object") == "an [orange] object"
    assert with_article("[red] oval") == "a [red] oval"


def test_listing() -> None:
    assert [listing(list(letters)) for letters in ("a", "ab", "abcd")] == ["a", "a and b", "a, b, c and d"]


def test_unmark_gives_the_plain_text_and_the_spans() -> None:
    text, spans = unmark("Is the [red] object [left] of the [star]?")
    assert text == "Is the red object left of the star?"
    assert spans == ((7, 10), (18, 22), (30, 34))
    assert [text[start:end] for start, end in spans] == ["red", "left", "star"]
    assert unmark("nothing") == ("nothing", ())
