import csv
import json
import os
import pty
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from clipmapper.logs import finish, log_curves, log_examples, log_files, log_table, make_loggers, weights_and_biases
from clipmapper.logs.weights_and_biases import RunLogger

from ...commands import FORKS, call, exit_functions

REPOSITORY = Path(__file__).parents[3]
RUN = """
import sys
from pathlib import Path
from PIL import Image
from clipmapper.logs import log_examples, log_table, make_loggers

loggers = make_loggers(["wandb"], Path(sys.argv[1]), "toys", "first run", {"learning_rate": 0.1})
loggers[0].log_metrics({"validation/accuracy": 0.5}, step=3)
log_examples(loggers, "examples/wrong", [Image.new("RGB", (4, 4), "red")], ["a red square"], 3)
log_table(loggers, "scores", ["method", "area"], [["rollout", 0.25]], 3)
"""


def environment(home: Path, **changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    return {**kept, "HOME": str(home), "NETRC": str(home / "netrc"), "PYTHONPATH": str(REPOSITORY), **changes}


BLOCK = 32768  # of W&B's records, each with a header of 7 bytes, which may stand inside a word


def test_wandb_without_a_login_is_offline_and_complete(tmp_path: Path) -> None:
    script = tmp_path / "log.py"
    script.write_text(RUN)
    printed = call(tmp_path, script, tmp_path / "logs", environment=environment(tmp_path))
    (run,) = (tmp_path / "logs/wandb").glob("offline-run-*")
    assert f"wandb login && wandb sync {run}" in printed
    (record,) = run.glob("*.wandb")
    content = record.read_bytes()
    whole = b"".join(content[start + 7 : start + BLOCK] for start in range(0, len(content), BLOCK))
    for word in (b"validation/accuracy", b"learning_rate", b"first run", b"a red square"):
        assert word in whole
    (picture,) = run.rglob("*.png")
    assert Image.open(picture).getpixel((0, 0))[:3] == (255, 0, 0)
    (table,) = run.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["rollout", 0.25]]


def run_at_terminal(terminal: str, environment: dict[str, str], folder: Path) -> None:
    """Does RUN in a session of its own whose terminal this is."""
    os.setsid()
    number = os.open(terminal, os.O_RDWR)
    for stream in range(3):
        os.dup2(number, stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(stream, mode, 1) for stream, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["log.py", str(folder)]
    print("it starts")
    assert sys.stdin.isatty() and sys.stdout.isatty()
    with exit_functions():
        exec(RUN, {})


def test_wandb_never_prompts_at_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    variables = environment(tmp_path, WANDB_MODE="online")  # even where it was asked for
    process = FORKS.Process(target=run_at_terminal, args=(os.ttyname(theirs), variables, tmp_path / "logs"))
    process.start()
    shown = os.read(ours, 4096)  # it has opened the other end: ours need not be
    os.close(theirs)
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
            assert b"Enter your choice" not in shown
    except OSError:  # the other end of a pseudo terminal is closed
        pass
    finally:
        if b"Enter your choice" in shown:
            process.kill()
    process.join(60)
    assert process.exitcode == 0, shown.decode()
    assert b"W&B logs offline" in shown


@pytest.mark.parametrize(
    ("asked", "logged_in", "mode"),
    [
        ("online", True, "online"),
        ("shared", True, "shared"),
        ("online", False, "offline"),
        ("offline", True, "offline"),
        ("dryrun", True, "dryrun"),
        ("disabled", False, "disabled"),
    ],
)
def test_wandb_mode_is_respected(monkeypatch: pytest.MonkeyPatch, asked: str, logged_in: bool, mode: str) -> None:
    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode=asked)))
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: logged_in and not prompt)
    assert weights_and_biases.mode() == mode


def test_wandb_that_cannot_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def init(mode: str, **_: Any) -> None:
        modes.append(mode)
        raise wandb.errors.CommError("the server is down")

    monkeypatch.setattr(weights_and_biases, "mode", lambda: "online")
    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match="the server is down") as warned:
        loggers = make_loggers(["wandb", "csv"], tmp_path, "toys", None, {})
    assert [type(logger) for logger in loggers] == [CSVLogger]
    assert modes == ["online", "offline"]
    assert [str(warning.message).rsplit(": ", 1)[1] for warning in warned if "W&B" in str(warning.message)] == [
        "trying offline",
        "going on without W&B",
    ]


class BrokenRun:
    """A run whose connection went away."""

    id = "broken"

    def broken(self, *_: object, **__: object) -> None:
        raise ConnectionError("broken pipe")

    log = define_metric = log_artifact = finish = broken
    config = summary = SimpleNamespace(update=broken)


def test_wandb_errors_in_mid_run_do_not_stop_training() -> None:
    logger = RunLogger(BrokenRun())
    with pytest.warns(UserWarning, match="log_metrics failed .*broken pipe"):
        logger.log_metrics({"loss": 1.0}, 0)
    with pytest.warns(UserWarning, match="broken pipe"):
        log_examples([logger], "a", [Image.new("L", (2, 2))], ["b"], 0)
    with pytest.warns(UserWarning, match="broken pipe"):
        log_table([logger], "a", ["b"], [[1]])
    with pytest.warns(UserWarning, match="broken pipe"):
        log_curves([logger], "a", [("b", "c", 0.5, 1.0)], 3)
    with pytest.warns(UserWarning, match="log_hyperparams failed"):
        logger.log_hyperparams({"a": 1})
    with pytest.warns(UserWarning, match="log_files failed"):
        log_files([logger], "model", "model", [Path(__file__)], ["best"], {})
    with pytest.warns(UserWarning, match="finish failed"):
        finish([logger])


@pytest.fixture
def csv_logger(tmp_path: Path) -> CSVLogger:
    (logger,) = make_loggers(["csv"], tmp_path, "toys", "run/../1", {"seed": 7})
    assert isinstance(logger, CSVLogger)
    return logger


def test_csv_keeps_metrics_and_config_and_never_overwrites(csv_logger: CSVLogger, tmp_path: Path) -> None:
    csv_logger.log_metrics({"loss": 2.5}, 4)
    csv_logger.finalize("success")
    folder = Path(csv_logger.log_dir)
    assert folder.is_relative_to(tmp_path / "csv/toys") and ".." not in folder.parts
    with open(folder / "metrics.csv") as file:
        assert list(csv.DictReader(file)) == [{"loss": "2.5", "step": "4"}]
    assert "seed: 7" in (folder / "hparams.yaml").read_text()
    (again,) = make_loggers(["csv"], tmp_path, "toys", "run/../1", {})
    assert Path(again.log_dir) == folder.with_name("version_1")


def test_a_run_that_goes_on_keeps_its_rows_up_to_its_step(csv_logger: CSVLogger, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        csv_logger.log_metrics({"loss": step, "seen": 2 * step} if step == 2 else {"loss": step}, step)
    csv_logger.finalize("success")
    (again,) = make_loggers(["csv"], tmp_path, "toys", "run/../1", {}, resume_step=3)
    assert again.log_dir == csv_logger.log_dir
    again.log_metrics({"loss": 7.0, "new": 1}, 3)
    again.finalize("success")
    with open(Path(again.log_dir) / "metrics.csv") as file:
        rows = [(row["step"], row["loss"], row["seen"], row["new"]) for row in csv.DictReader(file)]
    assert rows == [("1", "1", "", ""), ("2", "2", "4", ""), ("3", "7.0", "", "1")]


def test_a_start_that_logged_nothing_leaves_no_folder_behind(csv_logger: CSVLogger, tmp_path: Path) -> None:
    assert Path(csv_logger.log_dir).is_dir(), "of the settings"
    (again,) = make_loggers(["csv"], tmp_path, "toys", "run/../1", {})
    assert again.log_dir == csv_logger.log_dir


def test_csv_examples_are_safe_files(csv_logger: CSVLogger) -> None:
    captions = ["../../what is: it?", "ein blauer Würfel " * 20]
    images = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    log_examples([csv_logger], "../wrong/a", images, captions, 12)
    folder = Path(csv_logger.log_dir, "examples", "%2E%2E", "wrong", "a", "00000012")
    first, second = sorted(folder.iterdir())
    assert first.name == "00-what-is-it.png"
    assert Image.open(first).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(second).getpixel((0, 0)) == (0, 0, 255)
    assert [Image.open(path).text["Description"] for path in (first, second)] == captions
    with pytest.raises(ValueError, match="2 images, but 1 captions"):
        log_examples([csv_logger], "a", images, captions[:1], 0)


def test_csv_tables(csv_logger: CSVLogger) -> None:
    log_table([csv_logger], "a/b", ["question", "score"], [["is it, or not?\nyes", 1], ['"', 0.5]], 3)
    log_table([csv_logger], "a/b", ["question"], [["last"]])
    folder = Path(csv_logger.log_dir, "tables")
    assert sorted(path.name for path in folder.rglob("*.csv")) == ["b-00000003.csv", "b.csv"]
    with open(folder / "a" / "b-00000003.csv", newline="") as file:
        assert list(csv.reader(file)) == [["question", "score"], ["is it, or not?\nyes", "1"], ['"', "0.5"]]


def test_tensorboard_keeps_pictures_and_tables(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = make_loggers(["tensorboard"], tmp_path, "toys", None, {"seed": 7})
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"loss": 2.5}, 4)
    log_examples([logger], "wrong", [Image.new("RGB", (3, 2), "red")], ["a red thing"], 4)
    log_table([logger], "scores", ["a", "b"], [["x|y", 1]], 4)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 2.5)]
    (picture,) = events.Images("wrong/0")
    assert (picture.step, picture.width, picture.height) == (4, 3, 2)
    text = events.Tensors("scores/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_tensorboard_missing_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install clipmapper\[tensorboard\]"):
        make_loggers(["tensorboard"], tmp_path, "toys", None, {})


def test_unknown_logger_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'tensorbord'; did you mean 'tensorboard'"):
        make_loggers(["csv", "tensorbord"], tmp_path, "toys", None, {})
    assert list(tmp_path.iterdir()) == []


def test_helpers_serve_a_wandb_logger_of_any_origin() -> None:
    logged: list[dict[str, Any]] = []

    class Run:
        def log(self, values: dict[str, Any]) -> None:
            logged.append(values)

    loggers: list[Logger] = [WandbLogger(experiment=Run())]  # type: ignore[arg-type]
    log_examples(loggers, "a", [Image.new("RGB", (2, 2))], ["first"], 5)
    assert logged[0]["trainer/global_step"] == 5
    assert logged[0]["a"][0]._caption == "first"


def logged(folder: Path) -> Path:
    """A log of three steps."""
    (logger,) = make_loggers(["csv"], folder, "toys", "run", {})
    for step in range(3):
        logger.log_metrics({"loss": 0.25 + step}, step)
    logger.save()
    (path,) = folder.rglob("metrics.csv")
    return path


def test_a_row_that_was_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    """Its last number is another one than was measured."""
    path = logged(tmp_path)
    path.write_text(path.read_text()[:-3])
    make_loggers(["csv"], tmp_path, "toys", "run", {}, resume_step=9)
    with open(path) as file:
        assert [(row["step"], row["loss"]) for row in csv.DictReader(file)] == [("0", "0.25"), ("1", "1.25")]


@pytest.mark.parametrize(
    "content", ["step,loss\nx,1\n", "step,loss\n1\n", "step,loss\n1,2,3\n", "loss\n1\n", "<html>\n\0\n"]
)
def test_a_damaged_log_is_named(tmp_path: Path, content: str) -> None:
    path = logged(tmp_path)
    path.write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.csv: .*remove it to go on"):
        make_loggers(["csv"], tmp_path, "toys", "run", {}, resume_step=9)
