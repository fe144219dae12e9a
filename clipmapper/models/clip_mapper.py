"""CLIPMapper: a frozen CLIP, a mapper over its tokens, and a head that answers or writes captions."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from jaxtyping import Bool, Float, Int
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from clipmapper.config import SHIPPED, DecodingConfig, ModelConfig
from clipmapper.config.checks import restored
from clipmapper.errors import unknown
from clipmapper.images import ImageSource, load_image
from clipmapper.models.card import CARD, CardFacts, model_card, save_pictures
from clipmapper.models.checkpoints import check_clip, described, read_checkpoint
from clipmapper.models.clip import ASSETS, FrozenCLIP, text_tower
from clipmapper.models.decoding import captions, tidy
from clipmapper.models.heads import AnswerHead, LanguageHead
from clipmapper.models.mapper import DEFAULT_LAYERS, MAPPERS, DualBlock, MapperB, Modalities
from clipmapper.models.pretrained import require_finite
from clipmapper.models.saved import CONFIG, WEIGHTS, read_description, read_weights, require_size
from xai.files import checksum, replacing

UNKNOWN = -100  # the number of a token that a caption head lacks; the loss ignores it


class CLIPMapper(
    nn.Module,
    ModelHubMixin,
    library_name="clipmapper",
    model_card_template=CARD,
    tags=["explainability"],
):
    """Answers questions about images, or captions them; only `mapper`, `head` and the two projections are trained.

    `answers` are what a vqa head chooses from, `tokens` the BPE ids that a caption head does; none are all of CLIP's.
    """

    token_ids: Tensor
    numbers: Tensor

    def __init__(self, config: ModelConfig, answers: Sequence[str] = (), tokens: Sequence[int] = ()) -> None:
        super().__init__()
        self.config, self.answers, self.tokens = config, list(answers), list(tokens)
        self.extra: dict[str, Any] = {}  # what a checkpoint says beside
        self.facts = CardFacts()  # what its card says beside
        self.clip = FrozenCLIP(config.clip, config.pretrained)
        embed = self.clip.embed_width
        width = config.width or embed
        if width % config.heads:
            raise ValueError(f"model.heads is {config.heads} and must divide the mapper's width, {width}")
        self.image_projection = nn.Linear(self.clip.image_width, width)
        self.text_projection = nn.Linear(self.clip.text_width, width)
        if width == embed:
            self._start_from_clip()
        layers = config.layers or DEFAULT_LAYERS[config.mapper]
        writes = config.task == "caption"
        self.mapper = MAPPERS[config.mapper](width, layers, config.heads, config.dropout, causal=writes)
        self.head = self._language_head(width) if writes else AnswerHead(width, len(self.answers), config.dropout)
        self._freeze_unread()

    def _language_head(self, width: int) -> LanguageHead:
        """Returns the head; keeps `token_ids` [V], and for CLIP's BPE ids the head's `numbers`, -100 for an id it lacks."""
        embedding, tokenizer = text_tower(self.clip.model).token_embedding.weight, self.clip.tokenizer
        if not isinstance(tokenizer, SimpleTokenizer):
            raise ValueError(f"captions need CLIP's own BPE tokens, which {self.config.clip} does not use")
        ids = torch.tensor(self.tokens or range(len(embedding)))
        if len(ids.unique()) < len(ids) or ids.min() < 0 or ids.max() >= len(embedding):
            raise ValueError(f"a caption's tokens must be numbers of CLIP's, each once and below {len(embedding)}")
        numbers = torch.full((len(embedding),), UNKNOWN).index_copy(0, ids, torch.arange(len(ids)))
        self.register_buffer("token_ids", ids, persistent=False)
        self.register_buffer("numbers", numbers, persistent=False)
        self.start, self.end = (int(numbers[i]) for i in (tokenizer.sot_token_id, tokenizer.eot_token_id))
        if UNKNOWN in (self.start, self.end):
            raise ValueError("a caption's tokens must hold the start and the end token")
        return LanguageHead(width, len(ids), embedding[ids] if self.config.tied else None)

    @torch.no_grad()
    def _start_from_clip(self) -> None:
        """CLIP's own projections into the joint space are where the two sequences already agree."""
        image, text = self.clip.model.visual.proj, text_tower(self.clip.model).text_projection
        text = text.weight.T if isinstance(text, nn.Linear) else text
        for linear, matrix in ((self.image_projection, image), (self.text_projection, text)):
            if matrix is not None:
                linear.weight.copy_(matrix.T)
                linear.bias.zero_()

    def _freeze_unread(self) -> None:
        """B's last layer changes also the stream the head does not read: nothing to learn, and ddp would wait for it."""
        if isinstance(self.mapper, MapperB):
            last = cast(DualBlock, self.mapper.blocks[-1])
            unread = last.text if (self.config.task, self.config.read) == ("vqa", "image") else last.image
            for part in (unread.cross_attention, unread.forward_norm, unread.feed_forward):
                part.requires_grad_(False)

    def forward(
        self,
        image_tokens: Float[Tensor, "B I image_width"],
        ids: Int[Tensor, "B T"],
        text_mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B answers"] | Float[Tensor, "B T V"]:
        """Logits of the answers, or of the token after each of a caption.

        From CLIP's image tokens and the text's BPE ids; `text_mask` is True for real tokens.
        """
        if self.config.sees == "image":
            ids, text_mask = self._without_words(ids)
        if self.config.task == "caption":
            return self.head(self.states(image_tokens, ids, text_mask)[1])
        image, text = self.image_states(image_tokens), self.text_states(self.clip.text_tokens(ids))
        return self.answers_to(image, text, text_mask)

    def answers_to(
        self, image: Tensor, text: Tensor, text_mask: Tensor, begun: Modalities = ()
    ) -> Float[Tensor, "B answers"]:
        """Returns the logits from the mapper's inputs. It computes no more than the token that the head reads needs."""
        last = text_mask.sum(1) - 1
        rows = torch.zeros_like(last) if self.config.read == "image" else last
        return self.head(self.mapper(image, text, text_mask, (self.config.read, rows), begun))

    def answer_logits(self, image: Tensor, text: Tensor, text_mask: Tensor) -> Float[Tensor, "B answers"]:
        """The same from all of the mapper's tokens, which `states` gives."""
        if self.config.read == "image":
            return self.head(image[:, 0])
        return self.head(text[torch.arange(len(text), device=text.device), text_mask.sum(1) - 1])

    def states(self, image_tokens: Tensor, ids: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The mapper's image [B, I, D] and text tokens [B, T, D]."""
        return self.mapper(self.image_states(image_tokens), self.text_states(self.clip.text_tokens(ids)), text_mask)

    def text_states(self, text_tokens: Float[Tensor, "B T text_width"]) -> Float[Tensor, "B T D"]:
        """Text tokens as the mapper takes them."""
        return self.text_projection(text_tokens.to(self.text_projection.weight.dtype))

    def image_states(self, image_tokens: Float[Tensor, "B I image_width"]) -> Float[Tensor, "B I D"]:
        """Image tokens as the mapper takes them."""
        if self.config.sees == "question":
            image_tokens = torch.zeros_like(image_tokens[:, :1])
        return self.image_projection(image_tokens.to(self.image_projection.weight.dtype))

    def _without_words(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        bare = torch.stack([ids[:, 0], ids.amax(1)], dim=1)  # start and end token
        return bare, torch.ones_like(bare, dtype=torch.bool)

    @torch.inference_mode()
    def answer(self, image: ImageSource, question: str, top: int = 1) -> str | list[tuple[str, float]]:
        """The likeliest answer; with `top` above 1 the likeliest answers with their probabilities (sigmoids).

        `image` is a path, bytes or a PIL image. Raises BadImage, and ValueError for a model that writes captions.
        """
        self._require_task("vqa")
        device = self.image_projection.weight.device
        ids, mask = self.clip.tokenize([question])
        with evaluating(self):
            logits = self(self._tokens_of(image), ids.to(device), mask.to(device))[0]
        values, labels = logits.sigmoid().topk(min(top, len(self.answers)))
        ranked = [(self.answers[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]
        return ranked if top > 1 else ranked[0][0]

    @torch.inference_mode()
    def caption(self, image: ImageSource, decoding: DecodingConfig | None = None) -> str:
        """A caption, written greedily unless `decoding` says how; else as `answer`."""
        self._require_task("caption")
        with evaluating(self):
            return captions(self, self._tokens_of(image), decoding or DecodingConfig())[0]

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens of the head; start and end tokens are left out."""
        ids = [int(self.token_ids[token]) for token in tokens]
        return tidy(self.clip.tokenizer.decode([i for i in ids if i not in self.clip.tokenizer.all_special_ids]))

    def _tokens_of(self, image: ImageSource) -> Float[Tensor, "1 I image_width"]:
        return self.clip.image_tokens(self.clip.pixels(load_image(image))[None])

    def _require_task(self, task: str) -> None:
        if self.config.task != task:
            does = {
                "vqa": "answers questions: call answer(image, question)",
                "caption": "writes captions: call caption(image)",
            }
            raise ValueError(f"this model {does[self.config.task]}")

    def trained_state(self) -> dict[str, Tensor]:
        """All weights but CLIP's, which come from open_clip."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("clip.")}

    def description(self) -> dict[str, Any]:
        """Returns what is needed to build it again, as plain values."""
        return {
            "model": asdict(self.config),
            "answers": self.answers,
            "tokens": self.tokens,
            "clip_fingerprint": self.clip.fingerprint,
        }

    def load_trained_state(self, state: dict[str, Tensor], source: str) -> None:
        """Loads `trained_state`; raises ValueError naming `source` and a weight that does not fit or is not finite."""
        expected = self.trained_state()
        for name in sorted(expected.keys() ^ state.keys()):
            raise ValueError(f"{source} is of another model ({self.config.mapper=}): weight {name!r} is in one only")
        for name, tensor in expected.items():
            if not state[name].is_floating_point():
                raise ValueError(f"{source} is of another model: weight {name!r} is {state[name].dtype}")
            if tensor.shape != state[name].shape:
                shapes = f"{tuple(state[name].shape)} there, {tuple(tensor.shape)} in the model"
                raise ValueError(f"{source} is of another model: weight {name!r} is {shapes}")
        require_finite(state, source)
        self.load_state_dict(state, strict=False)

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "CLIPMapper":  # type: ignore[override]
        """Loads a trained model, in eval mode.

        Args:
            name: one of SHIPPED, a checkpoint of train.py, a folder of `save_pretrained`, or a hub id.
            options: huggingface_hub's (`revision`, `token`, ...); `pretrained` names CLIP's weights if they moved.

        Returns:
            The model; `extra` has what its checkpoint says beside, such as the data it was trained on.

        Raises:
            ValueError, FileNotFoundError: names what does not fit.

        Example:
            >>> from clipmapper import CLIPMapper
            >>> model = CLIPMapper.from_pretrained("shapes-b-vqa")
            >>> model.config.mapper
            'b'
        """
        if Path(name).suffix == ".ckpt" or Path(name).is_file():
            return cls._of_checkpoint(read_checkpoint(name), str(name))
        if name in SHIPPED:
            name = ASSETS / name
        if not Path(name).is_dir() and "/" not in str(name):
            raise unknown(
                "model (neither a checkpoint, a saved folder nor a hub id such as owner/name)", str(name), SHIPPED
            )
        if Path(name).is_dir():  # huggingface_hub reads config.json too, but does not say what is wrong
            return cls._of_folder(Path(name), options.get("pretrained"))
        return super().from_pretrained(name, **options)

    @classmethod
    def _of_checkpoint(cls, checkpoint: dict[str, Any], source: str) -> "CLIPMapper":
        saved = described(checkpoint, source)
        state = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        model = cls._restored({**saved, "config": saved["model"]}, state, source, source)
        model.extra = saved["extra"]
        return model.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """With `facts`: metrics, and an explained example."""
        return model_card(self.config, self._hub_mixin_info.model_card_data, self.facts, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in self.trained_state().items()}
        save_pictures(self.facts, save_directory)
        description = self.description()
        description = {"config": description.pop("model"), **description}
        # huggingface_hub has removed the old configuration; the new one comes last, so that one stands for whole weights.
        with replacing(save_directory / WEIGHTS) as path:
            save_file(state, path)
            description["sha256"] = checksum(path)
        with replacing(save_directory / CONFIG) as path:
            path.write_text(json.dumps(description, indent=1))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        pretrained: str | None = None,
        **unused: Any,
    ) -> "CLIPMapper":
        folder = Path(model_id)
        if not folder.is_dir():
            options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
            options |= {"local_files_only": local_files_only, "token": token}
            folder = Path(str(snapshot_download(model_id, allow_patterns=[WEIGHTS, CONFIG], **options)))
        return cls._of_folder(folder, pretrained)

    @classmethod
    def _of_folder(cls, folder: Path, pretrained: str | None) -> "CLIPMapper":
        description = read_description(folder / CONFIG)
        if pretrained is not None:
            description["config"]["pretrained"] = pretrained
        state = read_weights(folder / WEIGHTS, description.get("sha256"))
        return cls._restored(description, state, str(folder / CONFIG), str(folder / WEIGHTS)).eval()

    @classmethod
    def _restored(cls, saved: dict[str, Any], state: dict[str, Tensor], source: str, weights: str) -> "CLIPMapper":
        """From a description that was read from `source`, and from `weights`; raises ValueError naming one of them."""
        config = restored(ModelConfig, saved["config"], source)
        if config.kind != "mapper":
            raise ValueError(
                f"{source} is of a {config.kind}, not of a mapper; load the folder `model` that its run has written "
                "by transformers"
            )
        require_size(config, state, source)
        try:
            model = cls(config, saved["answers"], saved.get("tokens", ()))
        except (ValueError, OSError) as error:
            raise ValueError(f"{source}: {error}") from error
        check_clip(model.description(), saved["clip_fingerprint"], source)
        model.load_trained_state(state, weights)
        return model


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode, and afterwards back into the mode it was in."""
    mode = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(mode)
