"""Scores of captions: the COCO metrics of pycocoevalcap, and CLIPScore.

What needs Java or a download and does not get it reports why, in the place of its figure; the others report all the same.
"""

import json
import re
import shutil
import subprocess
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from subprocess import PIPE, CalledProcessError
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.meteor import meteor as meteor_files
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import spice as spice_files
from pycocoevalcap.spice.get_stanford_models import get_stanford_models
from pycocoevalcap.tokenizer import ptbtokenizer
from torch import Tensor

from clipmapper.images import ImageSource, load_image
from clipmapper.models.clip import FrozenCLIP

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE")
CHEAP = ("BLEU-4", "CIDEr")  # without Java, fast enough for every validation
PROMPT = "A photo depicts "  # Hessel et al. 2021
CLIPSCORE_WEIGHT = 2.5
NO_WORD = "\0"  # what ROUGE is given for a caption without words, which equals no reference
# Java reads and writes texts and numbers as the machine's language asks, where nothing else is said.
LANGUAGE = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")

Texts = Mapping[int, list[str]]  # sample -> its texts, as pycocoevalcap takes them
Scored = dict[
    str, tuple[float | str, list[float]]
]  # metric -> figure of the corpus or why there is none, of each sample


@dataclass(frozen=True)
class Scores:
    """`corpus`: each metric's figure, or why there is none; `each`: of the metrics that ran, the figure of each caption."""

    corpus: dict[str, float | str]
    each: dict[str, list[float]]


class Unavailable(RuntimeError):
    """A metric that cannot run here; the message says what it lacks."""


def score(
    captions: Sequence[str], references: Sequence[Sequence[str]], metrics: Iterable[str] = METRICS, ptb: bool = True
) -> Scores:
    """`captions[i]` against `references[i]`, at least one each; `ptb`: words by the PTB tokenizer, else `plain_words`.

    Where the PTB tokenizer cannot run, `corpus["tokenizer"]` says so, and the words are the plain ones. A metric that even the
    references themselves could not reach is not computed, and `corpus` says why.

    Raises:
        ValueError: there is no caption, or one without references.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise ValueError(
            f"{len(captions)} captions and {len(references)} lists of references: give each caption at least one"
        )
    words, tokenizer = _words(captions, references) if ptb else (plain_words, "plain")
    candidates = {i: [words(caption)] for i, caption in enumerate(captions)}
    truth = {i: [words(text) for text in texts] for i, texts in enumerate(references)}
    corpus: dict[str, float | str] = {}
    each: dict[str, list[float]] = {}
    for names, scorer in SCORERS.items():
        wanted = [name for name in names if name in metrics]
        if wanted:
            try:
                scores = scorer(truth, candidates)
            except Unavailable as reason:
                corpus |= {name: f"not computed: {reason}" for name in wanted}
            else:
                corpus |= {name: scores[name][0] for name in wanted}
                each |= {name: scores[name][1] for name in wanted}
    return Scores(corpus | {"tokenizer": tokenizer}, each)


def plain_words(text: str) -> str:
    """Lower-case words of any script without punctuation: what the PTB tokenizer gives of plain sentences."""
    letters = unicodedata.normalize("NFC", text.lower())
    # Marks are parts of letters: the vowels of Devanagari, accents that have no letter of their own. An emoji is a word.
    kinds = ((c, unicodedata.category(c)) for c in letters)
    plain = "".join(c if c == "'" or kind[0] in "LMN" else f" {c} " if kind == "So" else " " for c, kind in kinds)
    return " ".join(re.findall(r"[^\s']+|'[^\s'\d]+", plain))


def _words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Callable[[str], str], str]:
    texts = {*captions, *(text for some in references for text in some)}
    try:
        return ptb_words(texts).__getitem__, "PTB"
    except Unavailable as reason:
        return plain_words, f"plain, not PTB: {reason}"


def ptb_words(texts: Iterable[str]) -> dict[str, str]:
    """Each text as the PTB tokenizer gives it: lower-case words without punctuation. Raises Unavailable."""
    ordered = sorted(texts)  # one line a text: the tokenizer answers line by line
    lines = "\n".join(" ".join(_spelled(unicodedata.normalize("NFC", text)).split()) for text in ordered)
    folder, jar = Path(ptbtokenizer.__file__).parent, ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = [_require_java(), *LANGUAGE, "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    try:
        found = subprocess.run(command, cwd=folder, input=f"{lines}\n".encode(), capture_output=True, check=True)
        tokens = found.stdout.decode().split("\n")[:-1]
    except (OSError, ValueError, CalledProcessError) as error:
        raise Unavailable(f"the PTB tokenizer failed: java does not run it ({error})") from error
    if len(tokens) != len(ordered):
        raise Unavailable(f"the PTB tokenizer failed: it gave {len(tokens)} lines for {len(ordered)} texts")
    return {text: _unspelled(_without_punctuation(line)) for text, line in zip(ordered, tokens, strict=True)}


def _spelled(text: str) -> str:
    """Spells in letters what the PTB tokenizer drops, characters of more than 16 bits: emoji as words, others in their word."""

    def letters(match: re.Match[str]) -> str:
        word = "zq" + "".join(chr(ord("a") + int(digit, 16)) for digit in f"{ord(match[0]):x}") + "qz"
        kind = unicodedata.category(match[0])
        return word if kind[0] in "LMN" else f" {word} " if kind == "So" else " "

    return re.sub(r"[^\0-\uffff]", letters, text)


def _unspelled(line: str) -> str:
    def character(match: re.Match[str]) -> str:
        return chr(int("".join(f"{ord(letter) - ord('a'):x}" for letter in match[1]), 16))

    return re.sub(r"zq([a-p]{5}|ba[a-p]{4})qz", character, line)  # up to the last character, 10ffff


def _without_punctuation(line: str) -> str:
    return " ".join(word for word in line.split() if word not in ptbtokenizer.PUNCTUATIONS)


def _bleu(truth: Texts, candidates: Texts) -> Scored:
    """The figures of each caption rank captions also where no reference is as long as an n-gram; those of the corpus are 0."""
    corpus, each = Bleu(4).compute_score(truth, candidates, verbose=0)
    longest = max(len(text.split()) for texts in truth.values() for text in texts)
    lacking = ["a word", *(f"{n} words" for n in (2, 3, 4))]
    corpus[longest:] = [f"not computed: no reference has {words}" for words in lacking[longest:]]
    return {f"BLEU-{n + 1}": (corpus[n], each[n]) for n in range(4)}


def _meteor(truth: Texts, candidates: Texts) -> Scored:
    meteor = _meteor_process(_require_java())
    try:
        corpus, each = meteor.compute_score(truth, candidates)
    except (OSError, ValueError) as error:
        meteor.lock.release()  # else its end would wait for ever
        _meteor_process.cache_clear()
        raise Unavailable(f"METEOR's Java program failed ({error})") from error
    return {"METEOR": (corpus, each)}


class _Meteor(meteor_files.Meteor):
    """pycocoevalcap's, whose program reads and writes English whatever the machine's language."""

    def __init__(self, java: str) -> None:
        command = [java, *LANGUAGE, "-jar", "-Xmx2G", meteor_files.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
        folder = Path(meteor_files.__file__).parent
        self.meteor_p = subprocess.Popen(command, cwd=folder, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL)
        self.lock = threading.Lock()


@cache
def _meteor_process(java: str) -> _Meteor:
    """METEOR's program goes on for further captions: it reads its tables for seconds when it starts."""
    return _Meteor(java)


def _rouge(truth: Texts, candidates: Texts) -> Scored:
    if not any(text for texts in truth.values() for text in texts):
        raise Unavailable("no reference has a word")
    corpus, each = Rouge().compute_score(truth, {i: [texts[0] or NO_WORD] for i, texts in candidates.items()})
    return {"ROUGE-L": (float(corpus), each.tolist())}


def _cider(truth: Texts, candidates: Texts) -> Scored:
    scorer = CiderScorer()
    for image, texts in truth.items():
        scorer += (candidates[image][0], texts)
    scorer.document_frequency = images_by_ngram(list(truth.values()))
    each = np.array(scorer.compute_cider())
    return {"CIDEr": (float(each.mean()), each.tolist())}


def check_cider(references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError where the CIDEr of any captions of images with these references would be 0."""
    try:
        images_by_ngram([[plain_words(text) for text in texts] for texts in references])
    except Unavailable as reason:
        raise ValueError(f"CIDEr cannot be computed: {reason}") from reason


def images_by_ngram(references: Sequence[Sequence[str]]) -> Mapping[tuple[str, ...], float]:
    """Returns in how many images' references each n-gram is; texts are words with blanks between.

    Raises:
        Unavailable: CIDEr weighs n-grams by how few images have them, and here all would weigh nothing.
    """
    counting = CiderScorer()
    for texts in references:
        counting += (None, texts)
    counting.compute_doc_freq()
    images = counting.document_frequency
    if not images:
        raise Unavailable("no reference has a word")
    if min(images.values()) == len(references):
        raise Unavailable(
            "CIDEr needs at least two images whose references differ: it weighs words by how few images have them"
        )
    return images


def _spice(truth: Texts, candidates: Texts) -> Scored:
    """pycocoevalcap's, whose program reads and writes English whatever the machine's language."""
    java = _require_java()
    if reason := _spice_lacks():
        raise Unavailable(reason)
    entries = [{"image_id": i, "test": texts[0], "refs": truth[i]} for i, texts in candidates.items()]
    home = Path(spice_files.__file__).parent
    with TemporaryDirectory() as folder:
        texts, scores = Path(folder, "captions.json"), Path(folder, "scores.json")
        texts.write_text(json.dumps(entries))
        command = [java, *LANGUAGE, "-Xmx8G", "-jar", spice_files.SPICE_JAR, str(texts)]
        command += ["-cache", str(home / spice_files.CACHE_DIR), "-out", str(scores), "-subset", "-silent"]
        try:
            (home / spice_files.CACHE_DIR).mkdir(exist_ok=True)
            subprocess.run(command, cwd=home, capture_output=True, check=True)
            overall = {entry["image_id"]: entry["scores"]["All"]["f"] for entry in json.loads(scores.read_bytes())}
            each = [float("nan") if overall[i] is None else float(overall[i]) for i in candidates]
        except (OSError, ValueError, TypeError, KeyError, CalledProcessError) as error:
            raise Unavailable(f"SPICE's Java program failed ({error}); it needs Java 8 and 8 GB of memory") from error
    return {"SPICE": (float(np.mean(each)), each)}


SCORERS: dict[tuple[str, ...], Callable[[Texts, Texts], Scored]] = {
    METRICS[:4]: _bleu,
    ("METEOR",): _meteor,
    ("ROUGE-L",): _rouge,
    ("CIDEr",): _cider,
    ("SPICE",): _spice,
}


def _require_java() -> str:
    """The path of java."""
    if (java := shutil.which("java")) is None:
        raise Unavailable("java is not installed")
    return java


@cache
def _spice_lacks() -> str:
    """Returns what keeps SPICE's parser from being there: it is downloaded when first needed; "" if it is."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            get_stanford_models()
    except OSError as error:
        return f"SPICE's parser (Stanford CoreNLP 3.6.0, 400 MB) could not be downloaded: {error}"
    return ""


@torch.no_grad()
def embed_images(clip: FrozenCLIP, images: Iterable[ImageSource], batch: int = 64) -> Float[Tensor, "N D"]:
    """Images in CLIP's joint space, with length 1. Raises BadImage."""
    pixels = [clip.pixels(load_image(image)) for image in images]
    device = clip.model.visual.proj.device
    parts = [
        clip.model.encode_image(torch.stack(pixels[i : i + batch]).to(device)) for i in range(0, len(pixels), batch)
    ]
    return torch.nn.functional.normalize(torch.cat(parts).float(), dim=1)


@torch.no_grad()
def embed_captions(clip: FrozenCLIP, captions: Sequence[str], batch: int = 256) -> Float[Tensor, "N D"]:
    """Captions after `PROMPT` in CLIP's joint space, with length 1; cut at CLIP's context length."""
    device = clip.model.visual.proj.device
    parts = [
        clip.model.encode_text(clip.tokenizer([PROMPT + text for text in captions[i : i + batch]]).to(device))
        for i in range(0, len(captions), batch)
    ]
    return torch.nn.functional.normalize(torch.cat(parts).float(), dim=1)


def clip_score(images: Float[Tensor, "N D"], captions: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """CLIPScore, 2.5 · max(cos, 0), of embedded captions of embedded images (Hessel et al. 2021, eq. 1)."""
    return CLIPSCORE_WEIGHT * (images * captions).sum(1).clamp(min=0)


def ref_clip_score(
    scores: Float[Tensor, " N"], captions: Float[Tensor, "N D"], references: Sequence[Float[Tensor, "R D"]]
) -> Float[Tensor, " N"]:
    """RefCLIPScore: harmonic mean of CLIPScore and the cosine, at least 0, to the nearest reference (eq. 2)."""
    nearest = [(texts @ caption).max() for caption, texts in zip(captions, references, strict=True)]
    cosine = torch.stack(nearest).clamp(min=0)
    return torch.where(scores + cosine > 0, 2 * scores * cosine / (scores + cosine), 0.0)


def clip_scores(
    clip: FrozenCLIP, images: Float[Tensor, "N D"], captions: Sequence[str], references: Sequence[Sequence[str]]
) -> Scores:
    """CLIPScore and RefCLIPScore by the judge `clip`, which has embedded the `images`."""
    texts = embed_captions(clip, [*captions, *(text for some in references for text in some)])
    candidates, others = texts[: len(captions)], texts[len(captions) :].split([len(some) for some in references])
    plain = clip_score(images, candidates)
    each = {"CLIPScore": plain.tolist(), "RefCLIPScore": ref_clip_score(plain, candidates, others).tolist()}
    return Scores({name: float(np.mean(values)) for name, values in each.items()}, each)


def coco_results(image_ids: Iterable[int], captions: Iterable[str]) -> list[dict[str, Any]]:
    """Captions as the COCO evaluation server takes them."""
    return [{"image_id": image, "caption": caption} for image, caption in zip(image_ids, captions, strict=True)]
