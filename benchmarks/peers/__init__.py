"""Other libraries on the same weights and inputs, each in a process of its own: some change classes of torch for good."""

import json
import subprocess
import sys

from benchmarks.entry import Entry

PEERS = {  # module here: what to install
    "by_hand": "transformers",
    "with_captum": "captum",
    "with_grad_cam": "grad-cam",
    "with_lxt": "lxt",
    "with_torchcam": "torchcam",
}


def run(quick: bool) -> list[Entry]:
    return [entry for name in PEERS for entry in _in_process(name, quick)]


def _in_process(name: str, quick: bool) -> list[Entry]:
    """What `benchmarks.peers.contest` prints last; a row that says why where it fails."""
    command = [sys.executable, "-m", "benchmarks.peers.contest", name, *["--quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return [Entry(f"{PEERS[name]}: not compared", note=lines[-1])]
    return [Entry(**found) for found in json.loads(done.stdout.splitlines()[-1])]
