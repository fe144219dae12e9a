"""Several processes: one cache filled by all of them, and training on two machines, as two launchers start it."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from clipmapper.cli import Settings
from clipmapper.config import DataConfig
from clipmapper.data.features import FeatureCache
from clipmapper.data.records import load_records
from clipmapper.data.vqa import Questions
from clipmapper.models.clip import FrozenCLIP
from clipmapper.processes import all_gathered, grouped, patient_group
from clipmapper.training.run import one_by_one, train

from .test_run import REPOSITORY, assert_close, last, logged

WORLD = 2


def together(folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` gives in each of two processes that know each other."""

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
        (folder / f"{rank}.json").write_text(json.dumps(work(rank)))
        distributed.destroy_process_group()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank,)) for rank in range(WORLD)]
    for started in processes:
        started.start()
    for started in processes:
        started.join(60)
    assert [started.exitcode for started in processes] == [0] * WORLD
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


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
    records = load_records(config)

    def questions() -> Questions:
        return Questions(records.train, root, len(records.vocabulary), small_clip)

    def fill(rank: int) -> dict[str, Any]:
        encoded, encode = [0], small_clip.image_tokens

        def counting(pixels: torch.Tensor) -> torch.Tensor:
            encoded[0] += len(pixels)
            return encode(pixels)

        small_clip.image_tokens = counting  # type: ignore[method-assign]
        texts = questions()
        texts.encode_once(small_clip, config)
        return {"encoded": encoded[0], "broken": texts.unreadable, "rows": texts.rows.tolist()}

    first, second = together(tmp_path, fill)
    assert (first["encoded"], second["encoded"]) == (5, 4), "the broken image is of the second's share"
    alone = questions()
    alone.encode_once(small_clip, DataConfig(root=root, cache=tmp_path / "alone", workers=0, encode_batch=2))
    assert first["rows"] == second["rows"] == alone.rows.tolist() and len(alone.rows) == 18
    assert first["broken"] == second["broken"] == {str(key): value for key, value in alone.unreadable.items()}
    shared = FeatureCache(tmp_path / "features", small_clip.identity())
    keys = [key for key in alone._keys if key and key not in shared.missing(alone._keys)]
    assert len(keys) == 9 and len(list(shared.folder.glob("*.arrow"))) == WORLD
    own = FeatureCache(tmp_path / "alone", small_clip.identity())
    assert torch.allclose(shared.read(keys).float(), own.read(keys).float(), atol=2e-3)


def test_processes_that_start_together_make_the_data_once(settings: Callable[..., Settings], tmp_path: Path) -> None:
    made, written = settings("run"), tmp_path / "written"

    def load(config: DataConfig) -> str:
        if not written.exists():
            time.sleep(0.5)
            written.mkdir()  # raises where another has made it meanwhile
        return str(config.root)

    assert together(tmp_path, lambda rank: one_by_one(made, load)) == [str(made.data.root)] * WORLD


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    module = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"]
    return [*module, "--master-addr=127.0.0.1", f"--master-port={port}"], {}


def srun(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    """What SLURM's srun tells a process of a job of two nodes with one task each."""
    names = {"JOB_ID": 7, "JOB_NAME": "train", "NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "NODELIST": "127.0.0.1"}
    names |= {"PROCID": node, "LOCALID": 0, "NODEID": node}
    return [], {f"SLURM_{name}": str(value) for name, value in names.items()} | {"MASTER_PORT": str(port)}


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, srun])
def test_two_machines_train_what_one_process_does(
    launch: Callable[..., Any], settings: Callable[..., Settings], tiny_config: Path, tmp_path: Path
) -> None:
    """They start at once, with a cache that is not there yet."""
    common = ["--model.dropout=0", "--trainer.max_epochs=1", "--run.resume=auto", "--run.examples=0"]
    options = [*common, f"--data.cache={tmp_path / 'features'}"]
    cluster = ["--data.batch_size=13"]  # devices and machines are those of the launcher
    port, processes = free_port(), []
    for node in range(WORLD):
        arguments, variables = launch(node, port)
        environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"} | variables
        command = [sys.executable, *arguments, str(REPOSITORY / "train.py"), f"--config={tiny_config}"]
        own = [f"--run.dir={tmp_path / 'two'}", *options, *cluster]
        processes.append(subprocess.Popen([*command, *own], env=environment, cwd=tmp_path))
    assert [process.wait(timeout=170) for process in processes] == [0] * WORLD
    assert len(list((tmp_path / "features").rglob("*.arrow"))) == 2 * WORLD, "of training and held-out images"
    one = settings("one", *options, "--data.batch_size=26")
    train(one, load_records(one.data))
    single, double = last(tmp_path / "one"), last(tmp_path / "two")
    assert single["global_step"] == double["global_step"] == 3
    assert_close(double["state_dict"], single["state_dict"])
    assert logged(tmp_path / "two", "val/loss") == pytest.approx(logged(tmp_path / "one", "val/loss"), rel=1e-5)
    assert logged(tmp_path / "two", "train/loss") == pytest.approx(logged(tmp_path / "one", "train/loss"), rel=1e-5)
    assert len(list((tmp_path / "two").rglob("metrics.csv"))) == 1, "process 0 alone logs"
