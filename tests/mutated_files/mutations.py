"""Mutations of files: of their bytes, of their lines and fields, of what JSON and its like say, of arrays and pictures."""

import copy
import io
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

HTML = b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n"
DEEP = json.loads("[" * 50 + "]" * 50)
ODD: list[Any] = [None, True, False, 0, 1, -1, 7, 1.5, 2.0, 2**31, 2**63, 2**70, -(2**70), 1e308, math.nan, -math.inf]
ODD += ["", " ", "x", "1", "-1", "1e5", "NaN", "é\u202e", "\ud800", "\0", "a/b", "../x", "x" * 300]
ODD += [[], {}, [[]], [None], [1, 2], {"a": 1}, [[1, 2, 3, 4, 5, 6]], DEEP]
TOKENS = [b"9" * 5000, b"1e999", b"-1", b"NaN", b"Infinity", b"null", b"0", b"1.5", b'"x"', b"\\ud800", b"[" * 100_000]
TOKENS += [b'{"a":' * 2000, b"\xff", b"\0", b"\t", b"\n", b"\r", "\u2028\u00a0".encode(), b"=", b"true", b"&a [*a]"]


@st.composite
def of_bytes(draw: Any, content: bytes) -> bytes:
    """Bits that flip, parts that are lost, written twice or over, another file in its place."""
    kinds = ("flip", "flip", "cut", "insert", "write over", "lose", "twice", "number", "whole", "ahead")
    for _ in range(draw(st.integers(1, 2))):
        kind, place = draw(st.sampled_from(kinds)), draw(st.integers(0, max(len(content) - 1, 0)))
        stop = min(len(content), place + draw(st.integers(1, 40)))
        if kind == "flip" and content:
            content = content[:place] + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]
        elif kind == "cut":
            content = content[:place]
        elif kind == "insert":
            content = content[:place] + draw(st.binary(min_size=1, max_size=9)) + content[place:]
        elif kind == "write over":
            content = content[:place] + draw(st.sampled_from([b"\0", b"\xff"])) * (stop - place) + content[stop:]
        elif kind == "lose":
            content = content[:place] + content[stop:]
        elif kind == "twice":
            content = content[:stop] + content[place:]
        elif kind == "whole":
            content = draw(st.sampled_from([b"", b"\n", HTML, b"null", b"[]", b"{}", b"0", b"[" * 100_000, bytes(64)]))
        elif kind == "ahead":
            content = draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b" ", bytes(8), HTML])) + content
        elif found := list(re.finditer(rb"[0-9.]+|\w+", content)):
            word = draw(st.sampled_from(found))
            content = content[: word.start()] + draw(st.sampled_from(TOKENS)) + content[word.end() :]
    return content


@st.composite
def of_tree(draw: Any, tree: Any, odd: tuple[Any, ...] = ()) -> Any:
    """Values of a nest of lists and mappings lost, changed, doubled, turned round or put in another's place."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["lose", "odd", "odd", "odd", "twice", "reverse", "rename", "other"]))
        value = parent[key]
        if kind == "lose" and parent is not root:
            del parent[key]
        elif kind == "odd":
            parent[key] = copy.deepcopy(draw(st.sampled_from([*ODD, *odd])))
        elif kind == "twice" and isinstance(parent, list) and parent is not root:
            parent.insert(key, copy.deepcopy(value))
        elif kind == "reverse" and isinstance(value, list | str):
            parent[key] = value[::-1]
        elif kind == "rename" and isinstance(key, str):
            parent[draw(st.sampled_from(["", "x", "id", "é", "0", key.upper(), f"{key} "]))] = parent.pop(key)
        elif kind == "other":
            other, name = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[name])
    return root[0]


def _places(tree: Any) -> Any:
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list) and value:
            yield from _places(value)


def of_json(content: bytes) -> st.SearchStrategy[bytes]:
    return of_tree(json.loads(content)).map(lambda tree: json.dumps(tree).encode())


def of_yaml(content: bytes) -> st.SearchStrategy[bytes]:
    return of_tree(yaml.safe_load(content)).map(lambda tree: yaml.safe_dump(tree).encode(errors="surrogatepass"))


@st.composite
def of_lines(draw: Any, content: bytes, field: Callable[[Any, bytes], bytes]) -> bytes:
    """Lines lost, doubled, turned round, empty, with other ends; and fields of lines, which `field` changes."""
    lines = content.split(b"\n")
    place = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["field", "field", "field", "lose", "twice", "reverse", "blank", "ends", "join"]))
    if kind == "field" and lines[place].strip():
        lines[place] = field(draw, lines[place])
    elif kind == "lose":
        del lines[place]
    elif kind == "twice":
        lines.insert(place, lines[place])
    elif kind == "reverse":
        lines.reverse()
    elif kind == "blank":
        lines.insert(place, draw(st.sampled_from([b"", b" ", b"\t\t"])))
    ends = {"ends": draw(st.sampled_from([b"\r\n", b"\r"])), "join": draw(st.sampled_from([b"", b" ", b"\t"]))}
    return ends.get(kind, b"\n").join(lines)


def of_json_lines(content: bytes) -> st.SearchStrategy[bytes]:
    return of_lines(content, lambda draw, line: draw(of_json(line)))


def _field(draw: Any, line: bytes) -> bytes:
    fields = line.split(b"\t")
    place = draw(st.integers(0, len(fields) - 1))
    odd = [
        b"",
        b"0",
        b"-1",
        b"1.5",
        b"x",
        b"nan",
        b"9" * 20,
        b"9" * 5000,
        b"\xff",
        "²".encode(),
        b"A" * 16,
        b"AAA=",
        b" 2",
    ]
    kind = draw(st.sampled_from(["odd", "odd", "lose", "twice", "swap"]))
    if kind == "odd":
        fields[place] = draw(st.sampled_from([*odd, *fields]))
    elif kind == "swap":
        fields.reverse()
    else:
        fields[place : place + 1] = [] if kind == "lose" else [fields[place]] * 2
    return b"\t".join(fields)


def of_fields(content: bytes) -> st.SearchStrategy[bytes]:
    return of_lines(content, _field)


ARRAYS = (
    np.zeros(0, np.float32), np.zeros((2, 4), np.float32), np.full((2, 4), np.nan), np.array(3), np.array("x"), np.array(-3),
    np.ones((4, 2), bool), np.array([{}], object), np.ones((2, 3, 4)), np.array(2.5), np.array(np.inf), np.array([7, 9]),
    np.ones((2, 4), complex), np.array(0), np.array(["a", "b"]), np.array(2**63, np.uint64), np.zeros(2, "datetime64[s]"),
    np.zeros((0, 4), np.float32), np.zeros((2, 0), np.float32), np.zeros(2, [("a", "f4")]),
)  # fmt: skip


def of_npz(content: bytes) -> st.SearchStrategy[bytes]:
    """Arrays of other shapes and types, lost ones, other names."""
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: [file[name]] for name in file.files}

    def saved(tree: Any) -> bytes:
        out = io.BytesIO()
        found = tree if isinstance(tree, dict) else {}
        values = {f"n{name}" if name == "file" else name: v for name, v in found.items() if name not in ("", "a/b")}
        np.savez(out, **{name: _array(v) for name, v in values.items()})
        return out.getvalue()

    return of_tree(arrays, ARRAYS).map(saved)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], np.ndarray):
        return value[0]
    try:
        return np.array(value)
    except (ValueError, OverflowError):
        return np.array(value, object)


TENSORS = (
    torch.zeros(0),
    torch.full((2, 2), torch.nan),
    torch.zeros(3, dtype=torch.long),
    torch.tensor(True),
    torch.ones(2, 3),
)


def of_checkpoint(content: bytes) -> st.SearchStrategy[bytes]:
    """Entries of a checkpoint lost or changed, saved anew with right checksums."""

    def saved(tree: Any) -> bytes:
        out = io.BytesIO()
        torch.save(tree, out)
        return out.getvalue()

    return of_tree(torch.load(io.BytesIO(content), weights_only=True), TENSORS).map(saved)


@st.composite
def of_picture(draw: Any, content: bytes) -> bytes:
    """The picture in another mode, size or format."""
    image: Image.Image = Image.open(io.BytesIO(content))
    kind = draw(st.sampled_from(["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP"]))
    mode = draw(st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "I", "F", "I;16", "CMYK"]))
    image = image.resize(draw(st.sampled_from([image.size, image.size[::-1], (1, 1), (2 * image.width, image.height)])))
    out = io.BytesIO()
    try:
        image.convert(mode).save(out, kind)
    except (OSError, ValueError, KeyError):  # there is no such picture
        return content
    return out.getvalue()
