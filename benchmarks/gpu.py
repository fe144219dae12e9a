"""What is asked of a GPU alone: rates of training and evaluation, bf16, torch.compile, two processes, a model of 1.4 B.

A quick run does the same at tiny sizes, on a CPU too. All else without a GPU is one row that says so.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from datasets import disable_progress_bars
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.entry import Entry, cost, gain
from benchmarks.feature_cache import photographs
from benchmarks.machine import DEVICE
from benchmarks.memory import peak_megabytes
from benchmarks.models import SEED, TINY, pixels_for
from benchmarks.timing import Run, in_turn, seconds
from clipmapper.benchmark.measure import measure
from clipmapper.benchmark.run import method_names
from clipmapper.benchmark.settings import BenchmarkConfig
from clipmapper.benchmark.tasks.answers import AnswersTask
from clipmapper.config import DataConfig, ModelConfig, OptimizerConfig
from clipmapper.data.records import load_records
from clipmapper.data.vqa import Questions
from clipmapper.explain.models.mapper import MapperModel
from clipmapper.models.clip import SHAPES_CLIP
from clipmapper.models.clip_mapper import CLIPMapper
from clipmapper.models.heads import soft_label_loss
from clipmapper.training.optimizer import make_optimizer
from xai import Adapter, Target, adapter_for, explain, record

ANSWERS = 3000  # as of VQAv2
QUESTIONS = 10_000  # of the evaluation that is scaled to
WORDS = 12  # tokens of a question
EXPLAINERS = ("genatt", "attn_lrp")  # of the large model


def run(quick: bool) -> list[Entry]:
    if DEVICE.type != "cuda" and not quick:
        return [Entry("rates of training and evaluation, bf16, torch.compile, a model of 1.4 B", note="no CUDA device")]
    disable_progress_bars()
    return [*training(quick), two_processes(quick), evaluation(quick), *large(quick)]


class Trained:
    """A mapper B over a frozen CLIP with a batch of pixels and questions, and its training step."""

    def __init__(self, quick: bool, compiled: bool = False, device: torch.device = DEVICE) -> None:
        torch.manual_seed(SEED)
        config = ModelConfig(clip=SHAPES_CLIP if quick else "ViT-B-32", pretrained=None, width=16 if quick else None)
        self.batch, self.device = 2 if quick else 256, device
        self.model: Any = CLIPMapper(config, [str(i) for i in range(ANSWERS)]).to(device).train()
        if compiled:  # as `run.compile` does it
            for part in (self.model.mapper, self.model.head):
                part.compile(backend="eager" if quick else "inductor")
        self.pixels = pixels_for(self.model.clip.model, self.batch).to(device)
        self.ids = torch.randint(1, 40_000, (self.batch, WORDS)).to(device)
        self.mask = torch.ones_like(self.ids, dtype=torch.bool)
        self.scores = torch.rand(self.batch, ANSWERS).to(device)
        self.optimizer = make_optimizer(self.model, OptimizerConfig())

    def encode(self, bf16: bool = False) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.model.clip.image_tokens(self.pixels)

    def step(self, bf16: bool = False, model: nn.Module | None = None) -> None:
        """One step; `model` is what runs, such as this one among several processes."""
        tokens = self.encode(bf16)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits = (model or self.model)(tokens, self.ids, self.mask)
        soft_label_loss(logits, self.scores).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def training(quick: bool) -> list[Entry]:
    """Images a second of training from pixels, against CLIP's image tower alone."""
    written, compiled, rounds = Trained(quick), Trained(quick, compiled=True), 1 if quick else 5
    runs: dict[str, Run] = {
        "tower, float32": written.encode,
        "tower, bf16": lambda: written.encode(bf16=True),
        "step, float32": written.step,
        "step, bf16": lambda: written.step(bf16=True),
        "step, bf16, compiled": lambda: compiled.step(bf16=True),
    }
    times = in_turn(runs, rounds)
    name = f"mapper b over {written.model.config.clip}, batch {written.batch}"

    def rates(*names: str) -> dict[str, float | None]:
        return {f"images/s of {side}": written.batch * len(times[side]) / sum(times[side]) for side in names}

    ended = [
        cost(
            f"{name}: training step / image tower, {kind}",
            times,
            f"step, {kind}",
            f"tower, {kind}",
            extra=rates(f"step, {kind}", f"tower, {kind}"),
        )
        for kind in ("float32", "bf16")
    ]
    return [
        *ended,
        gain(f"{name}: step in float32 / in bf16", times, "step, bf16", "step, float32"),
        gain(f"{name}: step as written / compiled, bf16", times, "step, bf16, compiled", "step, bf16"),
    ]


def two_processes(quick: bool) -> Entry:
    """Samples a second of one training step in two processes against one, each with a batch of its own."""
    with tempfile.TemporaryDirectory() as folder:
        times = {count: _in_processes(count, quick, Path(folder)) for count in (1, 2)}
    shared = "" if DEVICE.type == "cuda" and torch.cuda.device_count() > 1 else "both on one device, by gloo"
    ratio = 2 * times[1] / times[2]
    return Entry("training, images/s: two processes / one", times[2], times[1], "s", ratio, note=shared)


def _in_processes(count: int, quick: bool, folder: Path) -> float:
    multiprocessing.spawn(_process, (count, quick, folder), nprocs=count)
    return float((folder / f"{count}.seconds").read_text())


def _process(rank: int, count: int, quick: bool, folder: Path) -> None:
    devices = torch.cuda.device_count()
    device = torch.device("cuda", rank % devices) if devices else DEVICE
    if devices:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    backend = "nccl" if devices >= count else "gloo"  # NCCL wants a device for each
    where = f"file://{folder.resolve()}/{count}.group"
    distributed.init_process_group(backend, init_method=where, rank=rank, world_size=count)
    trained = Trained(quick, device=device)
    model = DistributedDataParallel(trained.model)
    for _ in range(2):
        trained.step(bf16=True, model=model)

    def steps() -> None:
        for _ in range(1 if quick else 10):
            trained.step(bf16=True, model=model)

    spent = seconds(steps)
    distributed.destroy_process_group()
    if rank == 0:
        (folder / f"{count}.seconds").write_text(str(spent))


def evaluation(quick: bool) -> Entry:
    """Hours for 10,000 questions: all explainers of one recorded pass, patches and words removed in both orders."""
    config = BenchmarkConfig(methods="wra,genatt" if quick else "all")
    with tempfile.TemporaryDirectory() as folder:
        photographs(root := Path(folder) / "shapes", 4 if quick else 60)
        records = load_records(DataConfig(root=root))
        name = ModelConfig(clip=SHAPES_CLIP if quick else "ViT-B-32", pretrained=None)
        model: Any = CLIPMapper(name, list(records.vocabulary.answers)).eval().to(DEVICE)
        questions = Questions(records.train, root, len(records.vocabulary), model.clip)
        rows = questions.annotated()[: 2 if quick else 256]
        task, methods = AnswersTask(MapperModel(model), questions, rows, config, root), method_names(config)
        parts = [range(start, min(start + 64, len(rows))) for start in range(0, len(rows), 64)]
        measure(task, parts[0], methods, config)
        spent = seconds(lambda: [measure(task, part, methods, config) for part in parts])
    hours = spent / len(rows) * QUESTIONS / 3600
    note = f"scaled from {len(rows)} questions, {len(rows) / spent:.2f} a second"
    what = f"mapper b: {QUESTIONS} questions, {len(methods)} explainers, four sweeps"
    return Entry(what, hours, None, "h", note=note)


def large(quick: bool) -> list[Entry]:
    """Explaining one token that a LLaVA-like model writes, in bf16, against a forward and backward pass."""
    model, inputs = llava(quick)
    embeddings, adapter = model.get_input_embeddings(), adapter_for(model, inputs)  # it is found once a model
    words = int((inputs["input_ids"] != model.config.image_token_index).sum())
    target = Target("next token", lambda outputs: outputs.logits[:, -1].amax(dim=-1), row=("text", words - 1))
    runs: dict[str, Run] = {"both passes": lambda: _both_passes(model, embeddings, inputs)}
    for name in EXPLAINERS:
        runs[name] = lambda name=name: explain(model, inputs, name, target, adapter)  # type: ignore[misc]
    runs["recording"] = lambda: _recorded(model, inputs, adapter)
    times = in_turn(runs, 1 if quick else 3)
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    what = f"LLaVA-like, {weights:.2f} B in bf16, {inputs['input_ids'].shape[1]} tokens"
    return [
        cost(
            f"{what}: {name} / forward + backward",
            times,
            name,
            "both passes",
            extra={"MB beside the weights": peak_megabytes(runs[name])},
        )
        for name in (*EXPLAINERS, "recording")
    ]


def llava(quick: bool) -> tuple[Any, dict[str, Tensor]]:
    """A LLaVA of random weights: CLIP's ViT-L/14 and a Llama as wide as TinyLlama; a picture, and some words after it."""
    torch.manual_seed(SEED)
    vision: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision |= {"intermediate_size": 4096, "image_size": 224, "patch_size": 14}
    text: dict[str, Any] = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32}
    text |= {"intermediate_size": 5632, "num_key_value_heads": 4, "vocab_size": 32_000}
    if quick:
        vision, text = {**TINY, "image_size": 32, "patch_size": 8}, {**TINY, "vocab_size": 100}
    image = text["vocab_size"] - 1
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision),
        text_config=tf.LlamaConfig(**text, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        image_token_index=image,
        vision_feature_layer=-1 if quick else -2,
    )
    with _made_in(torch.bfloat16), torch.device(DEVICE):
        model: Any = tf.LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    side, patches = vision["image_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    words = torch.randint(3, image, (1, 4 if quick else 64))
    ids = torch.cat([torch.ones(1, 1, dtype=torch.long), torch.full((1, patches), image), words], dim=1).to(DEVICE)
    pixels = torch.randn(1, 3, side, side).to(DEVICE, torch.bfloat16)
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """In its body modules are made with weights of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _both_passes(model: Any, embeddings: nn.Module, inputs: dict[str, Tensor]) -> None:
    found: list[Tensor] = []
    handle = embeddings.register_forward_hook(lambda module, args, out: found.append(out.requires_grad_()))
    pixels = inputs["pixel_values"].clone().requires_grad_()
    logits = model(**{**inputs, "pixel_values": pixels}, use_cache=False).logits
    handle.remove()
    torch.autograd.grad(logits[:, -1].amax(), [pixels, found[0]])


def _recorded(model: Any, inputs: dict[str, Tensor], adapter: Adapter) -> None:
    with record(model, adapter):
        model(**inputs, use_cache=False)
