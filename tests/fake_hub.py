"""A hub that is a folder, in place of the real one: what is asked of it, and what is fetched."""

from __future__ import annotations

__all__ = ["COMMIT", "REPO", "Hub"]

import fnmatch
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from tercet.checkpoint import hub
from tercet.checkpoint.header import DTYPE_NAMES, read_header

REPO = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub with one model, which lies in a folder; it writes the same cache as the real one."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files = files
        self.cache = cache
        self.sizes: dict[str, int] = {}
        self.fetched: list[str] = []
        self.headers: list[str] = []
        self.error: Exception | None = None
        self.token: str | None = None
        self.revision: str | None = None

    def HfApi(self, token: str | None = None) -> Hub:
        self.token = token
        return self

    def HfFileSystem(self, token: str | None = None) -> Hub:
        return self

    def model_info(self, repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert (repo, files_metadata) == (REPO, True)
        self.revision = revision
        if self.error is not None:
            raise self.error
        names = [path.relative_to(self.files).as_posix() for path in self.files.rglob("*") if path.is_file()]
        siblings = [
            SimpleNamespace(rfilename=n, size=self.sizes.get(n, (self.files / n).stat().st_size))
            for n in names
        ]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def parse_safetensors_file_metadata(self, repo: str, name: str, *, revision: str) -> Any:
        assert revision == COMMIT
        self.headers.append(name)
        found = read_header(self.files / name).values()
        return SimpleNamespace(
            tensors={i.name: SimpleNamespace(dtype=DTYPE_NAMES[i.dtype], shape=list(i.shape)) for i in found}
        )

    def open(self, path: str, mode: str, block_size: int) -> BinaryIO:
        assert mode == "rb"
        name = path.removeprefix(f"{REPO}@{COMMIT}/")
        self.headers.append(name)
        return (self.files / name).open("rb")

    def snapshot_download(self, repo: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return REAL_DOWNLOAD(repo, **options)
        root = self.cache / f"models--{repo.replace('/', '--')}"
        snapshot = root / "snapshots" / options["revision"]
        for path in self.files.rglob("*"):
            name = path.relative_to(self.files).as_posix()
            if path.is_file() and any(
                fnmatch.fnmatch(name, pattern) for pattern in options["allow_patterns"]
            ):
                data = path.read_bytes()
                self.fetched.append(name)
                blob = root / "blobs" / hashlib.sha256(data).hexdigest()
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(data)
                link = snapshot / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(blob)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(options["revision"])
        return str(snapshot)


REAL_DOWNLOAD = hub.snapshot_download
