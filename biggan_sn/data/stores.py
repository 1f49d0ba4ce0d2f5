"""Where the bytes of shards come from: a folder, an object store, a command that is permitted.

All are asked for ranges of bytes that the index knows. No tar is parsed here, and what came is
checked against the checksum in the index.
"""

import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache
from threading import Event
from typing import Any, Protocol

from biggan_sn.data.shards import ShardError, ShardIndex

SCHEMES = ("http", "https", "s3", "gs", "az", "hf")
PATIENCE = (0.1, 0.5, 2.0, 8.0, 30.0)  # seconds to wait before asking again
SILENCE = 30.0  # seconds for which a server may send nothing
UNLIMITED = 65536  # open files, where nobody sets a limit
READERS = 4  # folders that a process has open at most: to train, held-out ones, looks at both


class Store(Protocol):
    """The bytes of shards; safe to call from many threads."""

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Bytes [start, start + size) of a shard; fewer where it ends before.

        Raises:
            ShardError: the shard cannot be reached.
        """
        ...

    def close(self) -> None:
        """Gives back what is held open."""
        ...


class _File:
    """A file descriptor that lives as long as some thread reads from it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Folder:
    """Shards in a folder. As many stay open as the process may have open files.

    Args:
        index: of the shards.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._file = lru_cache(_most_open())(self._open)

    def _open(self, shard: int) -> _File:
        path = self._index.path(shard)
        try:
            return _File(path)
        except OSError as error:
            raise ShardError(f"{path}: cannot be opened ({error})") from error

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard."""
        file = self._file(shard)  # alive until here, whatever another thread opens or lets go of
        return os.pread(file.number, size, start)

    def close(self) -> None:
        """Closes the files."""
        self._file.cache_clear()


def _most_open() -> int:
    """A share of the files that the process may have open, after asking for all it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):  # some systems allow less than they say
        most = soft
    return max(16, most // 2 // READERS)


class Remote:
    """Shards at a URL, by fsspec. A read that fails is tried again for most of a minute.

    Args:
        index: of the shards.

    Raises:
        ShardError: the URL is of no kind that is allowed, or its library is not installed.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._files = filesystem(index.url)
        self._closed = Event()

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard."""
        path = self._index.path(shard)

        def ask() -> bytes:
            data: bytes = self._files.cat_file(path, start=start, end=start + size)
            return data

        return persistently(path, ask, size, self._closed)

    def close(self) -> None:
        """Ends trying again."""
        self._closed.set()


class Command:
    """Shards at a URL, by a program that writes a range of bytes to its output.

    Args:
        index: of the shards.
        command: its words; {url}, {first} and {last} stand for the shard and the first and last
            byte. It is started as it is, without a shell.

    Raises:
        ShardError: there is no such program.
    """

    def __init__(self, index: ShardIndex, command: str) -> None:
        self._index = index
        self._words = _words(command)
        self._closed = Event()

    def read(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard."""
        path = self._index.path(shard)
        # The URL last: what is in it stands for itself.
        values = {"{first}": str(start), "{last}": str(start + size - 1), "{url}": path}
        words = self._words
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        return persistently(path, lambda: _output(words), size, self._closed)

    def close(self) -> None:
        """Ends trying again."""
        self._closed.set()


def _words(command: str) -> list[str]:
    """Those of a command whose program is there."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ShardError(f"data.command: {error}: {command}") from error
    if not words or not shutil.which(words[0]):
        raise ShardError(f"data.command: there is no program {''.join(words[:1])!r}")
    return words


def _output(words: list[str]) -> bytes:
    """What a program writes."""
    try:
        done = subprocess.run(words, capture_output=True, timeout=SILENCE, check=False)
    except FileNotFoundError as error:  # the program, not the shard
        raise OSError(f"{words[0]} is not there") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{words[0]} took longer than {SILENCE:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        raise OSError(f"{words[0]} ended with {done.returncode}: {said[-1]}")
    return done.stdout


def persistently(path: str, read: Callable[[], bytes], size: int, closed: Event) -> bytes:
    """What `read` gives, asked again while it fails or gives another number of bytes than `size`,
    and nobody has closed the store.

    Raises:
        ShardError: it failed to the last.
    """
    for seconds in (*PATIENCE, None):
        try:
            data = read()
            if len(data) == size:
                return data
            hint = ": does it serve ranges of bytes?" if len(data) > size else ""
            raise OSError(f"{len(data)} bytes came instead of {size}{hint}")
        except Exception as error:  # each library has errors of its own
            missing = isinstance(error, FileNotFoundError)
            if seconds is None or missing or closed.wait(seconds):
                told = "it is not there" if missing else str(error) or type(error).__name__
                raise ShardError(f"{path}: cannot be read ({told})") from error
    raise AssertionError


def scheme_of(url: str) -> str:
    """The scheme of a URL, if it is one of those allowed.

    Raises:
        ShardError: it is not. Others reach into the machine, or chain one to another.
    """
    scheme, mark, _ = url.partition("://")
    if not mark or scheme not in SCHEMES:
        raise ShardError(f"{url}: not a URL of a kind that is read ({', '.join(SCHEMES)})")
    return scheme


def filesystem(url: str) -> Any:
    """fsspec's view of the place a URL is in.

    Raises:
        ShardError: as scheme_of; or the library for its scheme is not installed.
    """
    import fsspec  # with asyncio and its threads; only where shards are remote

    scheme = scheme_of(url)
    options = {}
    if scheme.startswith("http"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options["client_kwargs"] = {"timeout": timeout}
    try:
        return fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        raise ShardError(f"{url}: cannot be read ({error})") from error


def open_store(index: ShardIndex, command: str = "") -> Store:
    """What reads the shards of an index.

    Raises:
        ShardError: a URL of no kind that is allowed, or whose library is not installed, or a
            command of which there is no program.
    """
    if not index.url:
        return Folder(index)
    scheme_of(index.url)
    return Command(index, command) if command else Remote(index)
