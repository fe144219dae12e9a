"""Where figures were measured: without it they mean nothing."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "transformers", "timm", "open_clip_torch", "pytorch-lightning", "numpy")
PEERS = ("captum", "grad-cam", "lxt", "torchcam")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # that all models and inputs are on


def synchronise() -> None:
    """Waits until the device has done what it was asked to."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def device_name() -> str:
    """The GPU, or the processor where there is none."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else _processor()


def described(seed: int) -> dict[str, Any]:
    """Machine, versions, threads, seed, commit and how busy the machine was, as plain values."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in (*PACKAGES, *PEERS) if (found := _version(name))},
        "threads": torch.get_num_threads(),
        "device": f"{DEVICE.type}: {device_name()}",
        "load": os.getloadavg()[0],
        "seed": seed,
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len((_git("status", "--porcelain") or "").splitlines()),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines: Sequence[str] = info.read_text().splitlines() if info.exists() else ()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
