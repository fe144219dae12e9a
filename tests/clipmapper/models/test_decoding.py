"""Writing captions: cached against re-encoded, batched against alone, beams against an exhaustive search on a toy."""

import copy
import itertools

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock
from PIL import Image
from torch import Tensor

from clipmapper.config import DecodingConfig, ModelConfig
from clipmapper.models.clip import SHAPES_CLIP, clip_tokenizer
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.decoding import beam_search, captions, greedy, nucleus, one_by_one, tidy, until, write
from clipmapper.models.incremental import Writing

WORDS = "a small red circle left of two stars , and . dog"


def make(mapper: str) -> CLIPMapper:
    """Random captions of up to 12 words that depend on the image, in double precision, so that no two are as likely."""
    torch.manual_seed(1)
    config = ModelConfig(SHAPES_CLIP, None, width=16, heads=2, layers=2, task="caption", mapper=mapper)  # type: ignore[arg-type]
    ids = clip_tokenizer(SHAPES_CLIP)([WORDS])[0]
    model = CLIPMapper(config, tokens=sorted({*ids.tolist()} - {0}))
    model.double().eval()
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if not name.startswith("clip."):
                torch.nn.init.normal_(parameter, generator=generator)
        torch.nn.init.zeros_(model.head.bias)
        rows = write(model, pictures(), DecodingConfig(length=12)).tokens
        # Whatever comes early in some captions and late or never in others shall end them.
        places = [{row.index(n) if n in row else 12 for row in rows} for n in range(len(model.tokens))]
        model.end = max(range(len(places)), key=lambda n: len(places[n]))
        if len(set(map(tuple, rows))) > 3 and len(places[model.end]) > 2:
            return model
    raise AssertionError("no seed gives captions that differ")


def pictures() -> Tensor:
    """CLIP's tokens of 6 images."""
    generator = torch.Generator().manual_seed(2)
    noise, tones = (torch.randn(6, n, 128, generator=generator, dtype=torch.float64) for n in (65, 1))
    return noise + 3 * tones


@pytest.fixture(scope="module", params=["a", "b"])
def shared_model(request: pytest.FixtureRequest) -> CLIPMapper:
    return make(request.param)


@pytest.fixture
def model(shared_model: CLIPMapper) -> CLIPMapper:
    return copy.deepcopy(shared_model)


@pytest.fixture
def images() -> Tensor:
    return pictures()


class Reencoding:
    """What `Writing` does, by reading every beginning anew."""

    def __init__(self, model: CLIPMapper, image_tokens: Tensor) -> None:
        self.model, self.image = model, image_tokens
        self.written = torch.empty(len(image_tokens), 0, dtype=torch.long)

    def step(self, tokens: Tensor) -> Tensor:
        self.written = torch.cat([self.written, tokens[:, None]], dim=1)
        ids = self.model.token_ids[self.written]
        return self.model(self.image, ids, torch.ones_like(ids, dtype=torch.bool))[:, -1]

    def select(self, rows: Tensor) -> None:
        self.image, self.written = self.image[rows], self.written[rows]


@torch.no_grad()
def test_each_step_gives_what_the_whole_beginning_gives(model: CLIPMapper, images: Tensor) -> None:
    cached, anew = Writing(model, images), Reencoding(model, images)
    generator = torch.Generator().manual_seed(3)
    for step in range(8):
        tokens = torch.randint(len(model.tokens), (len(images),), generator=generator)
        if step == 4:  # as beam search does
            rows = torch.tensor([3, 3, 0, 5])
            cached.select(rows), anew.select(rows)
            images = images[rows]
            tokens = tokens[:4]
        assert torch.allclose(cached.step(tokens), anew.step(tokens), atol=1e-9), step


METHODS = [
    DecodingConfig(length=12),
    DecodingConfig("beam", beams=3, length=12),
    DecodingConfig("nucleus", top_p=0.8, seed=5, length=12),
]


@torch.no_grad()
@pytest.mark.parametrize("config", METHODS, ids=lambda c: c.method)
def test_cached_captions_are_those_of_reencoding(
    model: CLIPMapper, images: Tensor, config: DecodingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = write(model, images, config)
    monkeypatch.setattr("clipmapper.models.decoding.Writing", Reencoding)
    anew = write(model, images, config)
    assert cached.tokens == anew.tokens
    assert torch.allclose(cached.log_probability, anew.log_probability)


@pytest.mark.parametrize("config", METHODS[:2], ids=lambda c: c.method)
def test_batched_captions_are_those_of_each_image_alone(
    model: CLIPMapper, images: Tensor, config: DecodingConfig
) -> None:
    together = write(model, images, config)
    assert len(set(map(tuple, together.tokens))) > 1, "they depend on the image"
    if config.method == "greedy":
        assert len({len(tokens) for tokens in together.tokens}) > 1, "they end at different steps"
    for i in range(len(images)):
        alone = write(model, images[i : i + 1], config)
        assert alone.tokens == [together.tokens[i]]
        assert torch.allclose(alone.log_probability, together.log_probability[i : i + 1])


@pytest.mark.parametrize("config", METHODS[:2], ids=lambda c: c.method)
def test_log_probability_is_that_of_the_whole_caption(
    model: CLIPMapper, images: Tensor, config: DecodingConfig
) -> None:
    written = write(model, images, config)
    for i, tokens in enumerate(written.tokens):
        assert model.end not in tokens
        numbers = torch.tensor([model.start, *tokens, model.end][: config.length + 1])
        ids = model.token_ids[numbers[:-1]][None]
        steps = model(images[i : i + 1], ids, torch.ones_like(ids, dtype=torch.bool))[0].log_softmax(1)
        expected = steps.gather(1, numbers[1:, None]).sum()
        assert written.log_probability[i].item() == pytest.approx(expected.item())


def test_one_beam_is_greedy(model: CLIPMapper, images: Tensor) -> None:
    one, greedily = (write(model, images, DecodingConfig(m, beams=1, length=12)) for m in ("beam", "greedy"))
    assert one.tokens == greedily.tokens
    assert torch.allclose(one.log_probability, greedily.log_probability)


def test_length_is_limited(model: CLIPMapper, images: Tensor) -> None:
    with torch.no_grad():
        model.head.bias[model.end] = -1e6
    for method in ("greedy", "beam", "nucleus"):
        assert {len(t) for t in write(model, images, DecodingConfig(method, length=5)).tokens} == {5}
    assert {len(t) for t in write(model, images[:1], DecodingConfig(length=500)).tokens} == {76}


class Toy:
    """Markov captions over end, a, b, c: the likeliest first word leads nowhere likely."""

    TABLE = (
        torch.tensor([[0.0, 0.5, 0.4, 0.1], [0.34, 0.0, 0.33, 0.33], [0.9, 0.05, 0.05, 0.0], [0.6, 0.0, 0.0, 0.4]])
        .double()
        .clamp(min=1e-12)
        .log()
    )

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def step(self, tokens: Tensor) -> Tensor:
        return self.TABLE[tokens]

    def select(self, rows: Tensor) -> None:
        self.rows.append(rows)


def test_beams_find_what_greedy_misses() -> None:
    first = torch.zeros(2, dtype=torch.long)
    greedily = one_by_one(Toy(), first, end=0, length=4, choose=greedy)
    beams = beam_search(Toy(), first, end=0, length=4, beams=3)
    best = max(
        (sum(Toy.TABLE[a, b].item() for a, b in itertools.pairwise((0, *words, 0))), list(words))
        for n in range(4)
        for words in itertools.product((1, 2, 3), repeat=n)
    )
    assert beams.tokens == [best[1]] * 2 == [[2]] * 2
    assert beams.log_probability.tolist() == pytest.approx([best[0]] * 2)
    assert greedily.tokens == [[1]] * 2 and greedily.log_probability[0] < beams.log_probability[0] - 0.5


def test_nucleus_draws_from_the_likeliest_tokens_in_their_proportion() -> None:
    log_probability = torch.tensor([0.5, 0.1, 0.3, 0.1]).log().expand(4000, 4)
    drawn = nucleus(0.7, 1.0, torch.Generator().manual_seed(0))(log_probability)
    assert set(drawn.tolist()) == {0, 2}
    assert (drawn == 0).double().mean().item() == pytest.approx(0.5 / 0.8, abs=0.03)
    assert set(nucleus(0.4, 1.0, torch.Generator())(log_probability).tolist()) == {0}
    cold = nucleus(1.0, 0.5, torch.Generator().manual_seed(0))(log_probability)
    assert (cold == 0).double().mean().item() == pytest.approx(0.25 / (0.25 + 0.09 + 0.02), abs=0.03)


def test_nucleus_depends_on_its_seed_alone(model: CLIPMapper, images: Tensor) -> None:
    one, same, other = (
        write(model, images, DecodingConfig("nucleus", seed=seed, length=12)).tokens for seed in (1, 1, 2)
    )
    assert one == same != other


def test_until() -> None:
    assert until(torch.tensor([[3, 0, 3], [3, 3, 3], [0, 0, 0]]), end=0) == [[3], [3, 3, 3], []]


def test_text(model: CLIPMapper) -> None:
    ids, _ = model.clip.tokenize(["Two small red stars, and a dog."])
    assert model.text_of(model.numbers[ids[0]].tolist()) == "two small red stars, and a dog.", "without start and end"
    assert tidy("a dog 's bone , is it ?  ") == "a dog's bone, is it?"


def test_caption_of_an_image(model: CLIPMapper) -> None:
    model = model.float().train()
    image = Image.effect_noise((90, 60), 80)
    tokens = model.clip.image_tokens(model.clip.pixels(image.convert("RGB"))[None])
    expected = captions(model.eval(), tokens, DecodingConfig())
    assert model.train().caption(image) == expected[0] and model.training
    assert model.caption(image, DecodingConfig("beam", length=2)).count(" ") <= 1
    with pytest.raises(ValueError, match=r"this model writes captions: call caption\(image\)"):
        model.answer(image, "What is it?")


def test_a_model_that_answers_does_not_caption() -> None:
    model = CLIPMapper(ModelConfig(SHAPES_CLIP, None, width=16, heads=2, layers=1), ["yes"])
    with pytest.raises(ValueError, match=r"this model answers questions: call answer\(image, question\)"):
        model.caption(Image.new("RGB", (8, 8)))


def test_text_towers_of_another_kind_are_refused(model: CLIPMapper, images: Tensor) -> None:
    model.clip.model.transformer.resblocks[1] = CustomResidualAttentionBlock(96, 3)
    with pytest.raises(ValueError, match="plain text layers, shapes-vit-8 has CustomResidualAttentionBlock"):
        Writing(model, images)
