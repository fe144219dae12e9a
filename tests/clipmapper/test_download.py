import hashlib
import io
import os
import random
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipmapper import download
from clipmapper.download import PARTS, Archive, DownloadError, fetch, main

PHOTO = random.Random(0).randbytes(3_000_000)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ZIP = zipped({"val2014/1.jpg": PHOTO, "val2014/2.jpg": b"small"})


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges`: whether it honours Range; `cuts`: answer lengths after which it hangs up, one each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/val2014.zip": ZIP}
        self.ranges = True
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.wfile.write(content[start : start + cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def archive(server: Server, content: bytes | None = ZIP, produces: tuple[str, ...] = ("val2014",)) -> Archive:
    sha256 = hashlib.sha256(content).hexdigest() if content is not None else None
    return Archive(f"{server.url}/val2014.zip", sha256, produces)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def assert_whole(root: Path) -> None:
    assert names(root) == ["val2014"]
    assert (root / "val2014/1.jpg").read_bytes() == PHOTO
    assert (root / "val2014/2.jpg").read_bytes() == b"small"


def test_fresh_and_not_twice(server: Server, tmp_path: Path) -> None:
    fetch([archive(server)], tmp_path / "new/data")
    assert_whole(tmp_path / "new/data")
    fetch([archive(server)], tmp_path / "new/data")
    assert server.asked == [None]


def test_resumes_a_part(server: Server, tmp_path: Path) -> None:
    half = len(ZIP) // 2
    (tmp_path / "val2014.zip.part").write_bytes(ZIP[:half])
    fetch([archive(server)], tmp_path)
    assert server.asked == [f"bytes={half}-"]
    assert_whole(tmp_path)


def test_a_complete_part_needs_no_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "val2014.zip.part").write_bytes(ZIP)
    fetch([archive(server)], tmp_path)
    assert_whole(tmp_path)


def test_a_part_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "val2014.zip.part").write_bytes(ZIP + b"x")
    fetch([archive(server)], tmp_path)
    assert_whole(tmp_path)


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "val2014.zip.part").write_bytes(ZIP[:1000])
    fetch([archive(server)], tmp_path)
    assert_whole(tmp_path)


def test_interrupted_server_is_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_500_000] + 7 * [100_000]
    fetch([archive(server)], tmp_path)
    assert_whole(tmp_path)
    assert len(server.asked) == 9 > download.TRIES
    starts = [int(asked.removeprefix("bytes=")[:-1]) for asked in server.asked[1:] if asked]
    assert starts == sorted(set(starts)), "every answer brought new bytes"


def test_a_dead_server_ends_in_an_error_that_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.cuts = [2_000_000] + 9 * [0]
    with pytest.raises(DownloadError, match=r"same command again: it continues from byte [1-9]"):
        fetch([archive(server)], tmp_path)
    assert len(server.asked) == download.TRIES
    assert names(tmp_path) == ["val2014.zip.part"]
    server.cuts = []
    fetch([archive(server)], tmp_path)
    assert_whole(tmp_path)


def test_missing_file_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.files = {}
    with pytest.raises(DownloadError, match="404"):
        fetch([archive(server)], tmp_path)
    assert len(server.asked) == 1


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"val2014\.zip\.part: SHA-256 is .* expected .* removed"):
        fetch([archive(server, b"something else")], tmp_path)
    assert names(tmp_path) == []


def test_damage_without_a_checksum_is_found_by_the_zip(server: Server, tmp_path: Path) -> None:
    at = ZIP.index(PHOTO) + 1000
    server.files = {"/val2014.zip": ZIP[:at] + bytes([ZIP[at] ^ 1]) + ZIP[at + 1 :]}
    with pytest.raises(DownloadError, match="CRC"):
        fetch([archive(server, None)], tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("entry", ["../outside.txt", "val2014/../../outside.txt", "/outside.txt"])
def test_entries_outside_the_folder_are_refused(server: Server, tmp_path: Path, entry: str) -> None:
    content = zipped({"val2014/1.jpg": b"1", entry: b"evil"})
    server.files = {"/val2014.zip": content}
    with pytest.raises(DownloadError, match="outside"):
        fetch([archive(server, content)], tmp_path / "root")
    assert names(tmp_path) == ["root"]
    assert names(tmp_path / "root") == ["val2014.zip"]


def test_an_archive_of_something_else_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"holds no train2014"):
        fetch([archive(server, produces=("val2014", "train2014"))], tmp_path)
    assert not (tmp_path / "val2014").exists()


def test_interrupted_unzip_does_not_look_finished(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = zipfile.ZipFile.extract

    def interrupted(self: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> str:
        if member.filename.endswith("2.jpg"):
            raise KeyboardInterrupt
        return extract(self, member, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "extract", interrupted)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as after a kill: nobody tidies up
        fetch([archive(server)], tmp_path)
    assert names(tmp_path) == [".val2014.zip.unpacking", "val2014.zip"]
    (tmp_path / ".val2014.zip.unpacking/val2014/old.jpg").write_bytes(b"left over")
    fetch([archive(server)], tmp_path)
    assert len(server.asked) == 1, "the archive was complete"
    assert_whole(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_while_downloading(server: Server, tmp_path: Path) -> None:
    (tmp_path / "val2014.zip.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"val2014\.zip: .*No space left.*make room"):
        fetch([archive(server)], tmp_path)
    assert not (tmp_path / "val2014.zip").exists()


def test_too_small_a_disk_is_told_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DownloadError, match=f"{len(ZIP)} bytes to come, 1000 free"):
        fetch([archive(server)], tmp_path)
    assert names(tmp_path) == []


def test_archives_are_kept_on_request_and_folders_merged(server: Server, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/mine.json").write_bytes(b"mine")
    content = zipped({"annotations/new.json": b"new"})
    server.files = {"/val2014.zip": content}
    fetch([archive(server, content, ("annotations/new.json",))], tmp_path, keep_archives=True)
    assert names(tmp_path) == ["annotations", "val2014.zip"]
    assert names(tmp_path / "annotations") == ["mine.json", "new.json"]


def test_command_line(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"val2014": (archive(server),), "gone": (Archive(f"{server.url}/gone.zip", None, ("gone",)),)}
    main(["--root", str(tmp_path), "--parts", "val2014"], table)
    assert_whole(tmp_path)
    with pytest.raises(SystemExit, match=r"gone\.zip"):
        main(["--root", str(tmp_path), "--parts", "val2014,gone"], table)
    with pytest.raises(SystemExit):
        main(["--root", str(tmp_path), "--parts", "val2015"], table)
    assert "unknown val2015; there are val2014, gone" in capsys.readouterr().err


def test_official_table() -> None:
    archives = [archive for part in PARTS.values() for archive in part]
    assert len({archive.name for archive in archives}) == len(archives) == 10
    assert sorted(archive.name for archive in archives if archive.sha256 is None) == [
        "annotations_trainval2014.zip",
        "caption_datasets.zip",
        "test2015.zip",
    ]
    assert {len(archive.sha256) for archive in archives if archive.sha256} == {64}
