"""Where a dataset lies: a local path, or an object store through pyarrow.

    location("data/set")           Path
    location("s3://bucket/set")    RemotePath, with the part of pathlib that this project uses

Endpoint and credentials come from the environment as pyarrow reads them: for S3
`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and their like, or `~/.aws`. The text of a
RemotePath is a URI that pyarrow's readers take as it is.

An object store has no folders and no rename, so nothing is written here but whole objects: `put`
sends a finished local file, and readers see it when the last byte has arrived or not at all. On
HDFS, which is no object store, a file shows while it is written; receipts come last there too.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from annotations_schema.errors import UsageError

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

READ_AHEAD_BYTES = 4 << 20
"""One request brings this much: an object store answers in milliseconds, not microseconds."""

REQUESTS_AT_ONCE = 32
"""Of `ask_many`."""

MAX_REASON_CHARACTERS = 300
"""Of what a store says; some name every folder they looked in."""

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

_URI = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<authority>[^/]*)/*(?P<key>.*)")
_UNSAFE = re.compile(r"[^A-Za-z0-9._~/+=@,:!()$&'*-]")


class Size(NamedTuple):
    """What `stat` tells."""

    st_size: int


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """An object, or the common beginning of objects, in a store that pyarrow can reach.

    Small and picklable: the connection is made where it is first used, once per process.

    Raises:
        UsageError: from every method that asks the store: no such bucket, no permission, no answer.
        FileNotFoundError: from the methods that read an object which is not there.
    """

    scheme: str
    """`s3`, `gs`, `abfs`, `hdfs`."""
    authority: str
    """Bucket, container or server."""
    key: str = ""
    """Names joined by `/`; empty for the bucket itself."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        return self._at(f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last name of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The last name's suffix with its dot, or nothing."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> RemotePath:
        """The key without its last name; a bucket is its own parent."""
        return self._at(self.key.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        """Another name beside this one."""
        return self.parent / name

    def relative_to(self, other: RemotePath) -> PurePosixPath:
        """The names below `other`.

        Raises:
            ValueError: this does not lie below `other`.
        """
        if (self.scheme, self.authority) != (other.scheme, other.authority):
            raise ValueError(f"{self} is not below {other}")
        return PurePosixPath(self.key).relative_to(other.key)

    def as_posix(self) -> str:
        """The URI."""
        return str(self)

    def absolute(self) -> RemotePath:
        """Itself: a URI names the same object on every machine."""
        return self

    def exists(self) -> bool:
        """Whether an object is here, or objects lie below."""
        return str(self._info().type.name) != "NotFound"

    def is_file(self) -> bool:
        """Whether an object is here."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        return str(self._info().type.name) == "Directory"

    def stat(self) -> Size:
        """The object's size in bytes."""
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(f"{self}: no such object")
        return Size(info.size)

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """The object for reading, seekable."""
        with _explained(self):
            raw = self._filesystem.open_input_file(self._path)
        return io.BufferedReader(raw, READ_AHEAD_BYTES)

    def stream(self) -> NativeFile:
        """The object for pyarrow's readers, from its beginning to its end."""
        with _explained(self):
            return self._filesystem.open_input_stream(self._path, compression=None)

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self.stream() as stream, _explained(self):
            return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def put(self, local: Path) -> None:
        """Store a finished local file here, in the place of what was here; all of it or nothing."""
        import pyarrow

        # In one write: a stream that is destroyed after an exception between two of them would
        # complete the upload, cut short.
        with _explained(self), pyarrow.memory_map(str(local)) as file:
            stream = self._filesystem.open_output_stream(self._path, compression=None)
            stream.write(file.read_buffer())
            stream.close()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with _explained(self):
                self._filesystem.delete_file(self._path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: an object store has no folders."""

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies directly below, in order; nothing where nothing does."""
        yield from (path for path, _ in self._children())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What lies directly below and has a name that fits `pattern`, in order."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def sizes(self) -> dict[str, int]:
        """Bytes of the objects directly below, by name; one request for a thousand of them."""
        return {path.name: info.size for path, info in self._children() if info.is_file}

    def _at(self, key: str) -> RemotePath:
        return RemotePath(self.scheme, self.authority, key)

    @property
    def _filesystem(self) -> FileSystem:
        return _connect(self.scheme, self.authority, os.getpid())[0]

    @property
    def _path(self) -> str:
        root = _connect(self.scheme, self.authority, os.getpid())[1]
        return f"{root}/{self.key}".rstrip("/")

    def _info(self) -> FileInfo:
        with _explained(self):
            return self._filesystem.get_file_info(self._path)

    def _children(self) -> list[tuple[RemotePath, FileInfo]]:
        from pyarrow.fs import FileSelector

        with _explained(self):
            found = self._filesystem.get_file_info(FileSelector(self._path, allow_not_found=True))
        return sorted((self / info.base_name, info) for info in found)


AnyPath = Path | RemotePath


def location(text: str) -> AnyPath:
    """A local path, or with `SCHEME://` an object store.

    Raises:
        UsageError: a URI that names no bucket, or with characters that URIs must escape.
    """
    uri = _URI.fullmatch(text)
    if uri is None:
        return Path(text)
    scheme, authority, key = uri["scheme"].lower(), uri["authority"], uri["key"].rstrip("/")
    if scheme == "file":
        raise UsageError(f"{text}: a local path is given without file://; leave it away")
    if not authority:
        raise UsageError(f"{text}: no bucket is named; give {scheme}://BUCKET/NAME")
    unsafe = _UNSAFE.search(authority + key)
    if unsafe is not None or "//" in key:
        what = "//" if unsafe is None else unsafe[0]
        raise UsageError(
            f"{text}: {what!r} cannot stand in the name of a dataset in an object store; "
            "use letters, digits and . _ - = + @"
        )
    return RemotePath(scheme, authority, key)


def ask_many(
    place: AnyPath, ask: Callable[[ItemT], AnswerT], items: Iterable[ItemT]
) -> Iterator[AnswerT]:
    """`ask` of every item, in order: one after another on a disk, side by side in a store."""
    if not isinstance(place, RemotePath):
        yield from map(ask, items)
        return
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        yield from pool.map(ask, items)


@lru_cache(maxsize=64)
def _connect(scheme: str, authority: str, process: int) -> tuple[FileSystem, str]:
    """A file system and the path of its root; one for each process, for sockets are not shared."""
    from pyarrow.fs import FileSystem

    # A small object in one request instead of three.
    query = "?allow_delayed_open=true" if scheme == "s3" else ""
    filesystem, root = FileSystem.from_uri(f"{scheme}://{authority}{query}")
    return filesystem, root.rstrip("/")


@contextmanager
def _explained(path: RemotePath) -> Iterator[None]:
    """Turn what pyarrow says of a store into one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
        raise UsageError(
            f"{path}: {reason}; check the name, the credentials and the endpoint in the environment"
        ) from error
