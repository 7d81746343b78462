#!/usr/bin/env python3
"""Writes llmc/unicode.h, the classes of characters that the tokenizer's pattern asks about.

    python3.14 dev/unicode.py > llmc/unicode.h

The Unicode version is that of the regular expressions in Hugging Face's `tokenizers` 0.23 (Oniguruma): a
character that is a letter in one version and unassigned in another would be cut differently. For every code
point dev/test/reference_tokenizer.py compares the two. Python 3.14's unicodedata has that version.
"""
from __future__ import annotations

import itertools
import sys
import unicodedata

VERSION = "16.0.0"
OTHER, LETTER, NUMBER, SPACE = range(4)  # the values of UnicodeClass

TEXT = """\
// unicode.h: which characters are letters, numbers and white space, by Unicode %(version)s.
//
//   unicode_class(code)   the class of a code point
//
// Written by dev/unicode.py; do not edit.
#ifndef LLMC_UNICODE_H
#define LLMC_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    UNICODE_OTHER,   // 0, the rest: marks, punctuation, symbols, controls, unassigned code points
    UNICODE_LETTER,  // 1, \\p{L}: Lu, Ll, Lt, Lm, Lo
    UNICODE_NUMBER,  // 2, \\p{N}: Nd, Nl, No
    UNICODE_SPACE,   // 3, \\s: White_Space
} UnicodeClass;

typedef struct {
    uint32_t first, last;  // code points
    uint8_t kind;          // UnicodeClass of them all
} UnicodeRange;

// clang-format off
static const uint8_t unicode_ascii[128] = {
%(ascii)s
};

enum { UNICODE_RANGES = %(count)d };
static const UnicodeRange unicode_ranges[UNICODE_RANGES] = {
%(ranges)s
};
// clang-format on

static inline UnicodeClass unicode_class(uint32_t code) {
    if (code < 128) { return (UnicodeClass)unicode_ascii[code]; }
    size_t low = 0, high = UNICODE_RANGES;  // the first range that ends at code or beyond is in low .. high
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (unicode_ranges[middle].last < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool inside = low < UNICODE_RANGES && unicode_ranges[low].first <= code;
    return inside ? (UnicodeClass)unicode_ranges[low].kind : UNICODE_OTHER;
}

#endif
"""


def kind(code: int) -> int:
    category = unicodedata.category(chr(code))
    if category[0] == "Z" or 0x09 <= code <= 0x0D or code == 0x85:  # White_Space, as PropList.txt lists it
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)


def lines(entries: list[str], per_line: int) -> str:
    return "\n".join(f"    {', '.join(entries[i:i + per_line])}," for i in range(0, len(entries), per_line))


def main() -> None:
    if unicodedata.unidata_version != VERSION:
        sys.exit(f"error: found Unicode {unicodedata.unidata_version}, expected {VERSION}: use Python 3.14")
    ranges = []
    for found, group in itertools.groupby(range(sys.maxunicode + 1), kind):
        if found != OTHER:
            codes = list(group)
            ranges.append(f"{{{codes[0]:#x}, {codes[-1]:#x}, {found}}}")
    ascii_kinds = [str(kind(code)) for code in range(128)]
    sys.stdout.write(TEXT % {"version": VERSION, "count": len(ranges), "ascii": lines(ascii_kinds, 32),
                             "ranges": lines(ranges, 4)})


if __name__ == "__main__":
    main()
