"""Reads the table of an Arrow stream file, the format in which the `datasets` library stores data sets.

Only what such files of questions need: columns of UTF-8 text, of lists of text, and of integers, without
compression. The format: https://arrow.apache.org/docs/format/Columnar.html. A file is a sequence of messages:
0xFFFFFFFF, the size of the header, the header (a FlatBuffer), the body (the buffers of all columns, one after
another). The first message is the schema; each of the others holds some rows.
"""
from __future__ import annotations

import struct
from typing import Any

from documents import DataError

SCHEMA, RECORD_BATCH = 1, 3      # Message.header_type
INTEGER, TEXT, LIST = 2, 5, 12   # Field.type_type


def number(data: bytes, at: int, form: str) -> int:
    return struct.unpack_from("<" + form, data, at)[0]


class Table:
    """A table of a FlatBuffer. Its vtable says where each field is, 0 if it is absent."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.vtable = at - number(data, at, "i")

    def field(self, index: int) -> int:
        offset = 4 + 2 * index
        inside = offset < number(self.data, self.vtable, "H")
        found = number(self.data, self.vtable + offset, "H") if inside else 0
        return self.at + found if found else 0

    def integer(self, index: int, form: str) -> int:
        at = self.field(index)
        return number(self.data, at, form) if at else 0

    def follow(self, index: int) -> int:
        at = self.field(index)
        return at + number(self.data, at, "I") if at else 0

    def table(self, index: int) -> Table:
        return Table(self.data, self.follow(index))

    def text(self, index: int) -> str:
        at = self.follow(index)
        return self.data[at + 4:at + 4 + number(self.data, at, "I")].decode()

    def vector(self, index: int) -> tuple[int, int]:
        """Where the elements begin, and how many they are."""
        at = self.follow(index)
        return (at + 4, number(self.data, at, "I")) if at else (0, 0)

    def tables(self, index: int) -> list[Table]:
        at, count = self.vector(index)
        return [Table(self.data, at + 4 * i + number(self.data, at + 4 * i, "I")) for i in range(count)]


def column(field: Table, count: int, buffers: list[bytes]) -> list[Any]:
    """The `count` values of a field. Takes its buffers from the front: validity, offsets or values, data."""
    kind = field.integer(2, "B")
    buffers.pop(0)  # validity: data sets of questions have no missing values
    if kind == INTEGER:
        width = field.table(3).integer(0, "i")
        return list(struct.unpack(f'<{count}{ {8: "b", 16: "h", 32: "i", 64: "q"}[width] }',
                                  buffers.pop(0)[:count * width // 8]))
    if kind not in (TEXT, LIST):
        raise DataError(f"column {field.text(0)!r}: Arrow's type {kind}; expected integers, text or lists")
    offsets = struct.unpack(f"<{count + 1}i", buffers.pop(0)[:4 * (count + 1)])
    if kind == TEXT:
        data = buffers.pop(0)
        return [data[a:b].decode() for a, b in zip(offsets, offsets[1:])]
    values = column(field.tables(5)[0], offsets[-1], buffers)
    return [values[a:b] for a, b in zip(offsets, offsets[1:])]


def read_arrow(data: bytes, name: str) -> list[dict[str, Any]]:
    """The rows of a stream file."""
    try:
        at, fields, rows = 0, [], []
        while at + 8 <= len(data) and number(data, at + 4, "I") > 0:
            size = number(data, at + 4, "I")
            message = Table(data, at + 8 + number(data, at + 8, "I"))
            body = at + 8 + size
            at = body + message.integer(3, "q")
            header = message.table(2)
            if message.integer(1, "B") == SCHEMA:
                fields = header.tables(1)
            elif message.integer(1, "B") == RECORD_BATCH:
                first, count = header.vector(2)
                places = struct.iter_unpack("<qq", data[first:first + 16 * count])
                buffers = [data[body + begin:body + begin + size] for begin, size in places]
                columns = [column(field, header.integer(0, "q"), buffers) for field in fields]
                rows += [dict(zip((f.text(0) for f in fields), row)) for row in zip(*columns)]
        return rows
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: is not an Arrow stream that can be read here: {error}") from None
