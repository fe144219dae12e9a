"""The names of objects: a description says some of an object's attributes and picks out all objects that have them."""

from dataclasses import dataclass

from clipmapper.data.shapes.scene import SIDE, Scene, Thing

PLURALS = {"hexagon": "hexagons", "cross": "crosses"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)


@dataclass(frozen=True)
class Description:
    """Attributes an object must have; None leaves an attribute open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            self.size in (None, thing.size)
            and self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
            and self.place in (None, place(thing))
        )

    def find(self, scene: Scene) -> tuple[int, ...]:
        """Indices of the objects of the scene that match."""
        return tuple(i for i, thing in enumerate(scene) if self.matches(thing))

    def words(self, plural: bool = False, marked: bool = False) -> str:
        """Returns a noun phrase without article; `marked` puts brackets around each word that says an attribute."""
        noun = self.shape or "object"
        noun = (PLURALS.get(noun, noun + "s")) if plural else noun
        mark = "[{}]".format if marked else str
        said = [mark(word) for word in (self.size, self.colour) if word]
        said.append(mark(noun) if self.shape else noun)
        return " ".join(said) + (f" at the {self.place}" if self.place else "")


def place(thing: Thing) -> str:
    """Returns the ninth of the picture that holds the object's centre."""
    row, column = (min(int(v * 3 / SIDE), 2) for v in (thing.y, thing.x))
    return PLACES[row][column]


def with_article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase.lstrip("[")[0] in "aeiou" else "a ") + phrase


def listing(phrases: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def unmark(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Text without its brackets, and where the bracketed words stand in it, as (start, end) characters."""
    plain, spans, start = "", [], 0
    for character in text:
        if character == "[":
            start = len(plain)
        elif character == "]":
            spans.append((start, len(plain)))
        else:
            plain += character
    return plain, tuple(spans)
