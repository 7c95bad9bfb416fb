#!/usr/bin/env python3
"""Make unicode.inc, the Unicode tables of tokenizer.c.

    make_unicode.py [--data DIR] [--output FILE]           write the tables to unicode.inc
    make_unicode.py --check [--data DIR] [--output FILE]   exit 1 unless they stand there already

DIR holds UnicodeData.txt, CompositionExclusions.txt and PropList.txt of the Unicode Character
Database: version 16.0.0, or 15.0.0 (Debian's package unicode-data puts it in /usr/share/unicode),
to which the table NEWER below adds what 15.1 and 16.0 brought. Both give the same bytes.

The tables, all static const:
  unicode_properties[]   the distinct (class, ccc, nfc) of all characters
  unicode_blocks[]       for every BLOCK characters, the number of their row in unicode_cells
  unicode_cells[][]      rows of indices into unicode_properties; equal rows are stored once
  unicode_pairs[]        canonical decompositions by one step, ascending; second 0: a singleton
  unicode_compositions[] indices into unicode_pairs of those that compose, by (first, second)
"""

import argparse
import pathlib
import re
import sys

VERSION = "16.0.0"
BLOCK = 128
DEPTH = 4  # at most so many steps of decomposition
N_CODE_POINTS = 0x110000
ROOT = pathlib.Path(__file__).resolve().parent.parent

# What Unicode 15.1 and 16.0 added to 15.0, as far as it matters here: first..last, the general
# category's first letter, the canonical combining class, the canonical decomposition.
NEWER = """
0897 M 230          1C89..1C8A L 0          A7CB..A7CD L 0          A7DA..A7DC L 0
105C0..105C8 L 0    105C9 L 0 105D2 0307    105CA..105E3 L 0        105E4 L 0 105DA 0307
105E5..105F3 L 0    10D40..10D49 N 0        10D4A..10D65 L 0        10D69..10D6D M 230
10D6F..10D85 L 0    10EC2..10EC4 L 0        11380..11382 L 0        11383 L 0 11382 113C9
11384 L 0           11385 L 0 11384 113BB   11386..11389 L 0        1138B L 0
1138E L 0 1138B 113C2                       11390 L 0               11391 L 0 11390 113C9
11392..113B5 L 0    113B7 L 0               113C5 M 0 113C2 113C2   113C7 M 0 113C2 113B8
113C8 M 0 113C2 113C9                       113CE..113D0 M 9        113D1 L 0
113D3 L 0           116D0..116E3 N 0        11BC0..11BE0 L 0        11BF0..11BF9 N 0
13460..143FA L 0    16100..1611D L 0        16121 M 0 1611E 1611E   16122 M 0 1611E 16129
16123 M 0 1611E 1611F                       16124 M 0 16129 1611F   16125 M 0 1611E 16120
16126 M 0 16121 1611F                       16127 M 0 16122 1611F   16128 M 0 16121 16120
1612F M 9           16130..16139 N 0        16D40..16D67 L 0        16D68 L 0 16D67 16D67
16D69 L 0 16D63 16D67                       16D6A L 0 16D69 16D67   16D6B..16D6C L 0
16D70..16D79 N 0    18CFF L 0               1CCF0..1CCF9 N 0        1E5D0..1E5ED L 0
1E5EE M 230         1E5EF M 220             1E5F0 L 0               1E5F1..1E5FA N 0
2EBF0..2EE5D L 0
"""

HANGUL = range(0xAC00, 0xAC00 + 19 * 21 * 28)
HANGUL_JOINING = [range(0x1161, 0x1176), range(0x11A8, 0x11C3)]  # vowels, final consonants
CLASSES = {"L": "UNICODE_LETTER", "N": "UNICODE_NUMBER", "S": "UNICODE_SPACE"}
NFC = ["NFC_STABLE", "NFC_CHANGES", "NFC_JOINS"]


class Characters:
    """What the database says: three dictionaries by code point, without the uninteresting."""

    def __init__(self, data):
        self.kind, self.ccc, self.pair = {}, {}, {}
        self.read_unicode_data(data / "UnicodeData.txt")
        header, rows = self.read_list(data / "CompositionExclusions.txt")
        self.excluded = {int(row.split()[0], 16) for row in rows}
        self.version = re.search(r"-(\d+\.\d+\.\d+)\.txt", header).group(1)
        for row in self.read_list(data / "PropList.txt")[1]:
            span, name = (field.strip() for field in row.split(";"))
            if name == "White_Space":
                for code in self.span(span):
                    self.kind[code] = "S"

    @staticmethod
    def span(text):
        first, _, last = text.partition("..")
        return range(int(first, 16), int(last or first, 16) + 1)

    @staticmethod
    def read_list(path):
        text = path.read_text(encoding="utf-8")
        rows = [line.partition("#")[0].strip() for line in text.splitlines()]
        return text.splitlines()[0], [row for row in rows if row]

    def add(self, codes, category, ccc, mapping):
        for code in codes:
            if category[0] in "LN":
                self.kind[code] = category[0]
            if ccc:
                self.ccc[code] = ccc
            if mapping:
                first, second = (mapping + [0])[:2]
                self.pair[code] = (first, second)

    def read_unicode_data(self, path):
        begin = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            field = line.split(";")
            code = int(field[0], 16)
            if field[1].endswith(", First>"):
                begin = code
                continue
            codes = range(begin if field[1].endswith(", Last>") else code, code + 1)
            mapping = [] if "<" in field[5] else [int(m, 16) for m in field[5].split()]
            self.add(codes, field[2], int(field[3]), mapping)

    def add_newer(self):
        for entry in re.findall(r"\S+ [LMN] \d+(?: [0-9A-F]{4,5}\b(?!\.| [LMN]))*", NEWER):
            span, category, ccc, *mapping = entry.split()
            self.add(self.span(span), category, int(ccc), [int(m, 16) for m in mapping])


def composing(chars):
    """The code points into which their decomposition composes again (primary composites)."""
    return {
        code for code, (first, second) in chars.pair.items()
        if second and code not in chars.excluded and code not in chars.ccc
        and first not in chars.ccc
    }


def first_of(chars, code):
    while code in chars.pair:
        code = chars.pair[code][0]
    return code


def depth(chars, code):
    steps = 0
    while code in chars.pair:
        code, steps = chars.pair[code][0], steps + 1
    return steps


def nfc_kinds(chars, composites):
    """NFC_JOINS: may combine or change places with what stands before it. NFC_CHANGES: does not,
    but is itself no NFC. Everything else is NFC_STABLE and not listed."""
    joining = {chars.pair[code][1] for code in composites}
    joining.update(code for span in HANGUL_JOINING for code in span)
    joining.update(chars.ccc)
    kinds = {code: 1 for code in chars.pair if not stays(chars, composites, code)}
    kinds.update({code: 2 for code in chars.pair if first_of(chars, code) in joining})
    kinds.update({code: 2 for code in joining})
    return kinds


def stays(chars, composites, code):
    """Is the character its own NFC? It is when every step of its decomposition composes."""
    while code in chars.pair:
        if code not in composites:
            return False
        code = chars.pair[code][0]
    return True


def build(chars):
    """-> properties, blocks, cells, pairs, compositions"""
    for first, second in chars.pair.values():
        assert second not in chars.pair, "tokenizer.c decomposes only the first of a pair further"
        assert first not in HANGUL and second not in HANGUL
    assert all(depth(chars, code) <= DEPTH for code in chars.pair)
    composites = composing(chars)
    nfc = nfc_kinds(chars, composites)
    properties, blocks, cells, rows = {}, [], [], {}
    for start in range(0, N_CODE_POINTS, BLOCK):
        row = tuple(
            properties.setdefault((chars.kind.get(c), chars.ccc.get(c, 0), nfc.get(c, 0)),
                                  len(properties))
            for c in range(start, start + BLOCK))
        if row not in rows:
            rows[row] = len(cells)
            cells.append(row)
        blocks.append(rows[row])
    assert len(properties) <= 256 and len(cells) <= 256
    pairs = [(code, *chars.pair[code]) for code in sorted(chars.pair)]
    order = sorted((i for i, p in enumerate(pairs) if p[0] in composites),
                   key=lambda i: pairs[i][1:])
    return list(properties), blocks, cells, pairs, order


def lines_of(items, indent="    "):
    """The items, separated by commas, in lines of at most 100 columns."""
    line = indent
    for item in items:
        text = f"{item},"
        if len(line) + len(text) > 100:
            yield line.rstrip()
            line = indent
        line += text + ("" if text[0].isdigit() else " ")
    yield line.rstrip()


def render(tables):
    properties, blocks, cells, pairs, order = tables
    out = [
        "/* unicode.inc: what tokenizer.c knows about characters. Made by test/make_unicode.py",
        f" * from the Unicode Character Database {VERSION}; do not edit. */",
        f"#define UNICODE_VERSION \"{VERSION}\"",
        f"#define UNICODE_BLOCK {BLOCK}",
        f"#define UNICODE_DEPTH {DEPTH}",
        "",
        "static const UnicodeProperties unicode_properties[] = {",
        *lines_of(f"{{{CLASSES.get(kind, 'UNICODE_OTHER')}, {ccc}, {NFC[nfc]}}}"
                  for kind, ccc, nfc in properties),
        "};",
        "",
        f"static const uint8_t unicode_blocks[{len(blocks)}] = {{",
        *lines_of(blocks),
        "};",
        "",
        f"static const uint8_t unicode_cells[{len(cells)}][UNICODE_BLOCK] = {{",
    ]
    for row in cells:
        uniform = len(set(row)) == 1 and row[0] == 0
        body = ["    {0},"] if uniform else ["    {", *lines_of(row, "     "), "    },"]
        out += body
    out += [
        "};",
        "",
        f"static const UnicodePair unicode_pairs[{len(pairs)}] = {{",
        *lines_of(f"{{0x{c:x}, 0x{a:x}, 0x{b:x}}}" for c, a, b in pairs),
        "};",
        "",
        f"static const uint16_t unicode_compositions[{len(order)}] = {{",
        *lines_of(order),
        "};",
    ]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Make or check the tables of tokenizer.c.")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("/usr/share/unicode"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "unicode.inc")
    args = parser.parse_args()
    chars = Characters(args.data)
    if chars.version == "15.0.0":
        chars.add_newer()
    elif chars.version != VERSION:
        sys.exit(f"{args.data}: Unicode {chars.version}, expected {VERSION} or 15.0.0")
    text = render(build(chars))
    if not args.check:
        args.output.write_text(text, encoding="ascii")
    elif args.output.read_text(encoding="ascii") != text:
        sys.exit(f"{args.output}: differs from what {args.data} gives")
    else:
        print(f"{args.output.name}: exactly what Unicode {chars.version} in {args.data} gives")


if __name__ == "__main__":
    main()
