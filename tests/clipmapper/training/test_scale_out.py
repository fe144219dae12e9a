"""Several processes: one cache filled by all of them, and training on two machines, as two launchers start it."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.distributed.run
from torch import distributed

from clipmapper.cli import Settings
from clipmapper.config import DataConfig
from clipmapper.data.features import FeatureCache
from clipmapper.data.records import load_records
from clipmapper.data.vqa import Questions
from clipmapper.models.clip import SHAPES_CLIP, FrozenCLIP
from clipmapper.processes import all_gathered, grouped, patient_group
from clipmapper.training.run import one_by_one, train

from ...commands import FORKS, REPOSITORY, start
from .test_run import assert_close, last, logged

WORLD = 2


def together(folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns what `work(*arguments)` gives in each of two processes that know each other; neither waits for one that failed."""
    processes = [FORKS.Process(target=_process, args=(rank, folder, work, arguments)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    while running := [process.sentinel for process in processes if process.is_alive()]:
        if any(process.exitcode for process in processes) or not wait(running, timeout=300):
            break
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert codes == [0] * WORLD
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


def _process(rank: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    (folder / f"{rank}.json").write_text(json.dumps(work(*arguments)))
    distributed.destroy_process_group()


def test_one_process_is_a_world_of_its_own() -> None:
    assert grouped() is None
    with patient_group() as group:
        assert group is None and all_gathered("x", group) == ["x"]


def test_processes_fill_one_cache_each_with_its_share(
    tmp_path: Path, foreign: Callable[..., Path], small_clip: FrozenCLIP
) -> None:
    """Nine images and a broken one: five for each process, which both know afterwards what is there and what is not."""
    root = foreign(tmp_path / "data", train=20)
    (root / "train2014" / "3.png").write_bytes(b"nothing")
    config = DataConfig(root=root, cache=tmp_path / "features", workers=0, encode_batch=2)
    clip = FrozenCLIP(SHAPES_CLIP, "shapes")
    first, second = together(tmp_path, encode, config)
    assert (first["encoded"], second["encoded"]) == (5, 4), "the broken image is of the second's share"
    alone = encode(replace(config, cache=tmp_path / "alone"))
    assert first["rows"] == second["rows"] == alone["rows"] and len(alone["rows"]) == 18
    assert first["broken"] == second["broken"] == alone["broken"] and len(alone["broken"]) == 1
    shared = FeatureCache(tmp_path / "features", clip.identity())
    keys = [key for key in alone["keys"] if key not in shared.missing(alone["keys"])]
    assert len(keys) == 9 and len(list(shared.folder.glob("*.arrow"))) == WORLD
    own = FeatureCache(tmp_path / "alone", clip.identity())
    assert torch.allclose(shared.read(keys).float(), own.read(keys).float(), atol=2e-3)


def encode(config: DataConfig) -> dict[str, Any]:
    """Encodes the training images, or a process's share of them; returns how many that were, and what is there then."""
    clip = FrozenCLIP(SHAPES_CLIP, "shapes")
    encoded, image_tokens = [0], clip.image_tokens

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        encoded[0] += len(pixels)
        return image_tokens(pixels)

    clip.image_tokens = counted  # type: ignore[method-assign]
    records = load_records(config)
    questions = Questions(records.train, config.root, len(records.vocabulary), clip)
    questions.encode_once(clip, config)
    broken = {str(key): value for key, value in questions.unreadable.items()}
    keys = [key for key in questions._keys if key]
    return {"encoded": encoded[0], "broken": broken, "rows": questions.rows.tolist(), "keys": keys}


def test_processes_that_start_together_make_the_data_once(settings: Callable[..., Settings], tmp_path: Path) -> None:
    made = settings("run")
    roots = together(tmp_path, one_by_one, made, partial(written_once, tmp_path / "written"))
    assert roots == [str(made.data.root)] * WORLD


def written_once(folder: Path, config: DataConfig) -> str:
    if not folder.exists():
        time.sleep(0.5)
        folder.mkdir()  # raises where another has made it meanwhile
    return str(config.root)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun(folder: Path, node: int, port: int, *arguments: str) -> Callable[[float], int]:
    """Starts torchrun's process of one of two machines; returns what waits for its exit code."""
    machine = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"]
    meeting = ["--master-addr=127.0.0.1", f"--master-port={port}", REPOSITORY / "train.py"]
    return start(folder, distributed.run.__file__, *machine, *meeting, *arguments).wait


def srun(folder: Path, node: int, port: int, *arguments: str) -> Callable[[float], int]:
    """The same with what SLURM's srun tells a process of a job of two nodes with one task each."""
    names = {"JOB_ID": 7, "JOB_NAME": "train", "NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "NODELIST": "127.0.0.1"}
    names |= {"PROCID": node, "LOCALID": 0, "NODEID": node}
    environment = {f"SLURM_{name}": str(value) for name, value in names.items()} | {"MASTER_PORT": str(port)}
    return start(folder, "train.py", *arguments, environment=environment).wait


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, srun])
def test_two_machines_train_what_one_process_does(
    launch: Callable[..., Any], settings: Callable[..., Settings], tiny_config: Path, tmp_path: Path
) -> None:
    """They start at once, with a cache that is not there yet."""
    common = ["--model.dropout=0", "--trainer.max_epochs=1", "--run.resume=auto"]
    options = [*common, f"--data.cache={tmp_path / 'features'}"]
    cluster = [f"--config={tiny_config}", f"--run.dir={tmp_path / 'two'}", *options, "--data.batch_size=13"]
    port = free_port()  # devices and machines are those of the launcher
    ends = [launch(tmp_path, node, port, *cluster) for node in range(WORLD)]
    assert [wait(300) for wait in ends] == [0] * WORLD
    assert len(list((tmp_path / "features").rglob("*.arrow"))) == 2 * WORLD, "of training and held-out images"
    one = settings("one", *options, "--data.batch_size=26")
    train(one, load_records(one.data))
    single, double = last(tmp_path / "one"), last(tmp_path / "two")
    assert single["global_step"] == double["global_step"] == 3
    assert_close(double["state_dict"], single["state_dict"])
    assert logged(tmp_path / "two", "val/loss") == pytest.approx(logged(tmp_path / "one", "val/loss"), rel=1e-5)
    assert logged(tmp_path / "two", "train/loss") == pytest.approx(logged(tmp_path / "one", "train/loss"), rel=1e-5)
    assert len(list((tmp_path / "two").rglob("metrics.csv"))) == 1, "process 0 alone logs"
