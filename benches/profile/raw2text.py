#!/usr/bin/env python3
"""Turns raw profiles of LLVM, version 10, into the text format that every llvm-profdata takes.

    raw2text.py RAW... > TEXT

The one of Debian is older than the compiler and does not read what the compiler's programs write; the text format is the
same in both, and what the older one makes of it is read by the newer compiler.
"""

import hashlib
import struct
import sys
import zlib

VERSION = 10
DATA_BYTES = 64  # what is told of a function
KINDS = 2  # indirect calls and sizes of copies; the third, of virtual tables, is C++'s


def uleb128(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def padded(size):
    return -(-size // 8) * 8


def read_names(data):
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        size, at = uleb128(data, at)
        packed, at = uleb128(data, at)
        part = zlib.decompress(data[at : at + packed]) if packed else data[at : at + size]
        at += packed or size
        yield from part.split(b"\x01")


def reference(name):
    return int.from_bytes(hashlib.md5(name).digest()[:8], "little")


class Function:
    def __init__(self, counters, sites):
        self.counters = list(counters)
        # By kind, by site: counts by value.
        self.sites = [[{} for _ in range(sites[kind])] for kind in range(KINDS)]

    def add(self, other):
        self.counters = [a + b for a, b in zip(self.counters, other.counters)]
        for mine, theirs in zip(self.sites, other.sites):
            for site, more in zip(mine, theirs):
                for value, count in more.items():
                    site[value] = site.get(value, 0) + count


def read(raw, names, functions):
    header = struct.unpack_from("<16Q", raw)
    version = header[1] & 0x00FF_FFFF_FFFF_FFFF
    if header[0] != 0xFF6C_7072_6F66_7281 or version != VERSION:
        sys.exit(f"no raw profile of version {VERSION}: {header[0]:x}, {version}")
    ids, count, pad_before, counters, pad_after, bitmaps, pad_bitmaps, names_bytes, delta = header[2:11]
    tables, table_names = header[13:15]
    if tables:
        sys.exit("virtual tables are not read")
    data_at = 128 + ids
    counters_at = data_at + count * DATA_BYTES + pad_before
    names_at = counters_at + counters * 8 + pad_after + bitmaps + pad_bitmaps
    values_at = names_at + padded(names_bytes) + padded(table_names)
    for name in read_names(raw[names_at : names_at + names_bytes]):
        names[reference(name)] = name.decode()

    by_address, found = {}, []
    for index in range(count):
        at = data_at + index * DATA_BYTES
        name, shape, counter, _, address, _, size, *sites = struct.unpack_from("<6QI3H", raw, at)
        by_address[address] = name
        offset = counters_at + ((counter - (delta - index * DATA_BYTES)) & (2**64 - 1))
        function = Function(struct.unpack_from(f"<{size}Q", raw, offset), sites)
        if any(sites):
            values_at = read_values(raw, values_at, function)
        found.append(((name, shape), function))
    for key, function in found:
        targets = function.sites[0]
        function.sites[0] = [{by_address.get(a, 0): n for a, n in site.items()} for site in targets]
        if key in functions:
            functions[key].add(function)
        else:
            functions[key] = function


def read_values(raw, start, function):
    total, kinds = struct.unpack_from("<2I", raw, start)
    at = start + 8
    for _ in range(kinds):
        kind, sites = struct.unpack_from("<2I", raw, at)
        counts = raw[at + 8 : at + 8 + sites]
        at = at + padded(8 + sites)
        for site, values in enumerate(counts):
            for _ in range(values):
                value, count = struct.unpack_from("<2Q", raw, at)
                at += 16
                if kind < KINDS:
                    function.sites[kind][site][value] = count
    assert at == start + total, (at, start, total)
    return start + total


def write(names, functions, out):
    print(":ir", file=out)
    for (name, shape), function in sorted(functions.items()):
        if name not in names:
            continue
        print(names[name], shape, len(function.counters), *function.counters, sep="\n", file=out)
        kinds = [kind for kind in range(KINDS) if function.sites[kind]]
        if kinds:
            print(len(kinds), file=out)
        for kind in kinds:
            print(kind, len(function.sites[kind]), sep="\n", file=out)
            for site in function.sites[kind]:
                print(len(site), file=out)
                for value, count in site.items():
                    if kind == 0:
                        value = names.get(value, "** External Symbol **")
                    print(f"{value}:{count}", file=out)
        print(file=out)


def main():
    names, functions = {}, {}
    for path in sys.argv[1:]:
        with open(path, "rb") as file:
            read(file.read(), names, functions)
    write(names, functions, sys.stdout)
    ran = sum(any(function.counters) for function in functions.values())
    print(f"{len(functions)} functions, of which {ran} ran", file=sys.stderr)


main()
