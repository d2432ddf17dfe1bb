"""The text of a JSON file: blocks of whole lines, or one value after the other, wherever lines end."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from finetune.data.sources.csv_text import MARK_UNDECODABLE, ROW_CHARACTERS, undecodable_byte
from finetune.data.sources.errors import fail
from finetune.data.sources.type_inference import InvalidRow

BLOCK_BYTES = 8 << 20
_SEPARATORS = " \t\r\n,"


class InvalidJsonError(Exception):
    """A text is not valid JSON from a line on: the line, what is wrong, and the text."""

    def __init__(self, line: int, what: str, text: str) -> None:
        super().__init__(what)
        self.line, self.what, self.text = line, what, text


@dataclass(frozen=True)
class Block:
    """Whole lines of a file as UTF-8, and the number of the first, from 1."""

    data: bytes
    first_line: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not blank, with their numbers."""
        for number, line in enumerate(self.data.split(b"\n"), self.first_line):
            if line.strip():
                yield number, line

    def numbers(self, rows: int) -> array[int] | None:
        """Return the numbers of the lines that are not blank; None if there are exactly `rows` lines."""
        lines = self.data.count(b"\n") + (not self.data.endswith(b"\n"))
        if rows == lines:
            return None
        return array("q", (number for number, _ in self.lines()))


def read_blocks(stream: BinaryIO | TextIO, shown: str) -> Iterator[Block]:
    """Yield the file in blocks of whole lines; text is encoded, undecodable bytes as lone surrogates."""
    rest, line = b"", 1
    while data := stream.read(BLOCK_BYTES):
        part = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        if line == 1 and not rest:
            part = part.removeprefix(b"\xef\xbb\xbf")
        end = part.rfind(b"\n") + 1
        if not end:
            rest += part
            if len(rest) > ROW_CHARACTERS:
                fail(f"{shown}:{line}", "this line does not end within 64 million characters.", "Is it JSON lines?")
            continue
        block = rest + part[:end]
        yield Block(block, line)
        rest, line = part[end:], line + block.count(b"\n")
    if rest.strip():
        yield Block(rest, line)


def decode_line(raw: bytes, is_utf8: bool) -> str:
    """Return a line as text, with a mark for every undecodable byte."""
    return raw.decode("utf-8", MARK_UNDECODABLE if is_utf8 else "surrogatepass")


def parse_value(text: str, encoding: str = "utf-8") -> Any:
    """Return the JSON value of a text, or `InvalidRow`."""
    byte = undecodable_byte(text)
    if byte is not None:
        return InvalidRow("undecodable", f"has the byte 0x{byte:02X}, which is not {encoding}", text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = _reason(error)
        return InvalidRow("json", f"is not valid JSON ({reason[:1].lower()}{reason[1:]})", text.strip())


def read_values(stream: TextIO) -> Iterator[tuple[int, Any]]:
    """Yield the members of an array, or values one after the other, each with the line it begins in.

    Raises:
        InvalidJsonError: nothing can be read from here on.
    """
    window = _Window(stream)
    last = ""
    if window.peek() == "[":
        window.skip(1)
        last = "]"
    while window.peek() != last:
        yield window.line, window.value()
    if last:
        window.skip(1)
        rest = window.peek()
        if rest:
            raise InvalidJsonError(window.line, "there is more text after its end", rest)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply"


class _Window:
    """A part of the text that moves forward, and grows where a value does not fit into it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

    def peek(self) -> str:
        """Move to the next character that is not a separator and return it; an empty text at the end."""
        while True:
            start = self._at
            while self._at < len(self._text) and self._text[self._at] in _SEPARATORS:
                self._at += 1
            self.line += self._text.count("\n", start, self._at)
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def skip(self, count: int) -> None:
        """Move forward by `count` characters."""
        self._at += count

    def value(self) -> Any:
        """Return the value that begins here, and move behind it."""
        while True:
            try:
                found, end = self._decode(self._text, self._at)
                # A number at the end of the window may be longer.
                if end < len(self._text) or not self._grow():
                    break
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > ROW_CHARACTERS or not self._grow():
                    text = self._text[self._at : self._at + 200]
                    raise InvalidJsonError(self.line, _reason(error), text) from None
        self.line += self._text.count("\n", self._at, end)
        self._at = end
        return found

    def _grow(self) -> bool:
        # By at least the length of the rest, so that a long value is not parsed too often.
        more = self._stream.read(max(1 << 20, len(self._text) - self._at))
        if more:
            self._text = self._text[self._at :] + more
            self._at = 0
        return bool(more)
