"""Tars made by hand, block by block, with checksums that are right; and what a process did."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

BLOCK = 512
END = bytes(2 * BLOCK)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def number(value: int) -> bytes:
    """A size: octal, or base 256 where that has no room, as GNU tar writes it."""
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    sign = 0xFF if value < 0 else 0x80
    return bytes([sign]) + (value % 256**11).to_bytes(11, "big")


def header(name: bytes, size: int | bytes, kind: bytes = b"0", link: bytes = b"", **at) -> bytes:
    """One block; at_386=b"..." puts bytes elsewhere before the checksum is taken."""
    block = bytearray(BLOCK)
    fields = {
        0: name[:100],
        100: b"0000644\0" + b"0000000\0" * 2,
        124: number(size) if isinstance(size, int) else size[:12],
        136: b"00000000000\0",
        156: kind[:1],
        157: link[:100],
        257: b"ustar  \0",
    }
    for start, content in [*fields.items(), *((int(k[3:]), v) for k, v in at.items())]:
        block[start : start + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes, kind: bytes = b"0", **more) -> bytes:
    return header(name, len(data), kind, **more) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    """Of a pax header: its length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(b"%d" % length) != length:
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def by_gnu(name: bytes) -> bytes:
    """The header that gives the next member a long name."""
    return member(b"././@LongLink", name + b"\0", b"L")


def by_pax(name: bytes) -> bytes:
    return member(b"pax", record(b"path", name), b"x")


# ------------------------------------------------------------------------------- what was done

FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.",
             "os.symlink", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
             "os.truncate", "os.chmod", "os.chown", "shutil.", "socket.", "ctypes.dlopen",
             "urllib.", "marshal.", "webbrowser.")  # fmt: skip
_events: list[tuple[str, str]] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _events is None:
        return
    if event == "open":
        _, mode, flags = arguments
        if isinstance(flags, int) and flags & 0o3 == 0 and not flags & 0o100:  # read only
            return
        if mode is not None and not set(mode) & set("wax+"):
            return
    elif not event.startswith(FORBIDDEN):
        return
    _events.append((event, repr(arguments)))


sys.addaudithook(_hook)  # for ever; it is idle where nobody watches


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """The files that are written meanwhile, the programs started, the objects unpickled and the
    connections opened: the interpreter itself tells, whatever catches the error."""
    global _events  # noqa: PLW0603
    _events = done = []
    try:
        yield done
    finally:
        _events = None
