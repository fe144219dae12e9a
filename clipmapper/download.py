"""Fetch the official VQAv2 and COCO files: `python -m clipmapper.download --root DIR`.

Archives are resumed, checked, unpacked below the root and removed; what is there already is skipped.
"""

if __name__ == "__main__":  # ahead of what takes seconds to import, in which Ctrl-C and errors are one line too
    from clipmapper.errors import run_module

    run_module(__spec__.name)

import argparse
import hashlib
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from clipmapper.errors import messages

CHUNK = 1 << 16  # also what an interruption loses at most
TRIES = 5  # in a row without a single new byte
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = (10, 60)  # connect, read


class DownloadError(RuntimeError):
    """The message names the file, what is wrong with it and what to do."""


@dataclass(frozen=True)
class Archive:
    """A zip: where it is, its published SHA-256 and the paths that it leaves below the root."""

    url: str
    sha256: str | None
    produces: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
COCO = "http://images.cocodataset.org"

# SHA-256 as in ParlAI's build scripts. The COCO site publishes none: those of train2014 and val2014 are of ParlAI's
# mirror of the same files; for test2015 and the annotations the server's size and the zip's own CRCs are the check.
PARTS: dict[str, tuple[Archive, ...]] = {
    "questions": (
        Archive(
            f"{VQA}/v2_Questions_Train_mscoco.zip",
            "05a64b6e2582d06d7585f5429674a9a33851878be1bff9f8668cdcf792df611e",
            ("v2_OpenEnded_mscoco_train2014_questions.json",),
        ),
        Archive(
            f"{VQA}/v2_Questions_Val_mscoco.zip",
            "e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
            ("v2_OpenEnded_mscoco_val2014_questions.json",),
        ),
        Archive(
            f"{VQA}/v2_Questions_Test_mscoco.zip",
            "982e2e687a86514b78ea83af356d151976c5e3fb4168a29ca543610574082ad7",
            ("v2_OpenEnded_mscoco_test2015_questions.json", "v2_OpenEnded_mscoco_test-dev2015_questions.json"),
        ),
    ),
    "annotations": (
        Archive(
            f"{VQA}/v2_Annotations_Train_mscoco.zip",
            "fb101bcefe91422c543c2bb6d70af11eb3119d0ff745ae283d09acdf66250853",
            ("v2_mscoco_train2014_annotations.json",),
        ),
        Archive(
            f"{VQA}/v2_Annotations_Val_mscoco.zip",
            "0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
            ("v2_mscoco_val2014_annotations.json",),
        ),
    ),
    "captions": (
        Archive(
            f"{COCO}/annotations/annotations_trainval2014.zip",
            None,
            tuple(
                f"annotations/{kind}_{split}.json"
                for kind in ("captions", "instances")
                for split in ("train2014", "val2014")
            ),
        ),
    ),
    # Karpathy's splits of COCO; no checksum is published.
    "karpathy": (
        Archive(
            "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip", None, ("dataset_coco.json",)
        ),
    ),
    "train2014": (
        Archive(
            f"{COCO}/zips/train2014.zip",
            "f9f102e5336ede4060bb06e1aca438b85f9be18c21960837079c1a88530d498c",
            ("train2014",),
        ),
    ),
    "val2014": (
        Archive(
            f"{COCO}/zips/val2014.zip",
            "e3cb2caf99e37157c48a99883cc8c57eed8ea3942a501c1abf6f7d9c040ddea8",
            ("val2014",),
        ),
    ),
    "test2015": (Archive(f"{COCO}/zips/test2015.zip", None, ("test2015",)),),
}
DEFAULT_PARTS = ("questions", "annotations", "captions", "train2014", "val2014")


def fetch(archives: Iterable[Archive], root: Path, keep_archives: bool = False) -> None:
    """Download, check and unpack each archive below `root` unless its files are there. Raises DownloadError."""
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        if all((root / path).exists() for path in archive.produces):
            print(f"{archive.name}: there already")
            continue
        try:
            _fetch_one(archive, root, keep_archives)
        except OSError as error:
            raise DownloadError(
                f"{archive.name}: {error}. What was downloaded is kept in {root}: make room or mend the disk, "
                "then run the same command again to continue"
            ) from error


def _fetch_one(archive: Archive, root: Path, keep_archive: bool) -> None:
    target = root / archive.name
    source = target if target.exists() else download(archive.url, target.with_name(f"{target.name}.part"))
    check(source, archive.sha256)
    os.replace(source, target)
    unpack(target, root, archive.produces)
    if not keep_archive:
        target.unlink()


def download(url: str, part: Path) -> Path:
    """Complete `part` from `url`, continuing what is there. Interruptions are retried as long as bytes arrive."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part)
            return part
        except requests.RequestException as error:
            failures = 1 if _size(part) > before else failures + 1
            refused = error.response is not None and error.response.status_code < 500
            if refused or failures == TRIES:
                message = f"{url}: {error}. Check the connection and run the same command again: it continues"
                raise DownloadError(f"{message} from byte {_size(part)}") from error
        time.sleep(PAUSE_SECONDS * failures)


def _continue(url: str, part: Path) -> None:
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()  # longer than the file of today: the remains of another one
            raise requests.ConnectionError(f"the server cannot continue at byte {have}")
        response.raise_for_status()
        start = have if response.status_code == requests.codes.partial_content else 0
        length = int(response.headers.get("Content-Length", 0))
        free = shutil.disk_usage(part.parent).free
        if length > free:
            raise DownloadError(f"{part}: {length} bytes to come, {free} free. Make room or choose another --root")
        bar = tqdm(total=start + length, initial=start, unit="B", unit_scale=True, desc=part.stem)
        with bar, open(part, "ab" if start else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check(path: Path, sha256: str | None) -> None:
    """Compare the file with its published SHA-256; one that differs is removed. Raises DownloadError."""
    if sha256 is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise DownloadError(
            f"{path}: SHA-256 is {found}, expected {sha256}. The file was removed: run the same command again; "
            "if that does not help, a proxy changes the file or the publisher has replaced it"
        )


def unpack(path: Path, root: Path, produces: tuple[str, ...]) -> None:
    """Unpack beside the final place and move in when whole, so that what an interruption leaves never looks finished.

    DownloadError for a damaged archive (removed), one with entries outside `root`, or without `produces`.
    """
    scratch = root / f".{path.name}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _extract(path, scratch)
        absent = [name for name in produces if not (scratch / name).exists()]
        if absent:
            raise DownloadError(f"{path}: holds no {', '.join(absent)}. It is not the official archive: delete it")
        os.sync()
        _move_into(scratch, root)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        path.unlink()
        raise DownloadError(f"{path}: {error}. The archive was removed: run the same command again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _extract(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in tqdm(archive.infolist(), desc=f"unpack {path.name}", unit="file"):
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts:
                raise DownloadError(f"{path}: entry '{member.filename}' points outside the folder. Delete the archive")
            archive.extract(member, folder)


def _move_into(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_into(entry, place)
        else:
            os.replace(entry, place)


def main(arguments: list[str] | None = None, parts: Mapping[str, tuple[Archive, ...]] = PARTS) -> None:
    """Command line; exits with a message on any DownloadError."""
    parser = argparse.ArgumentParser(prog="python -m clipmapper.download", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="data folder, made if it is not there")
    parser.add_argument(
        "--parts",
        default=",".join(DEFAULT_PARTS),
        help=f"any of {','.join(parts)} (default: %(default)s). train2014 has 13 GB, val2014 6 GB, "
        "test2015 12 GB, the rest 2 GB; an archive needs its size once more until it is unpacked",
    )
    parser.add_argument("--keep-archives", action="store_true", help="leave the zip files in the root")
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"--parts: unknown {', '.join(unknown)}; there are {', '.join(parts)}")
    with messages(options.root):
        fetch([archive for name in names for archive in parts[name]], options.root, options.keep_archives)
