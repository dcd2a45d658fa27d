"""Hostile and odd files of every kind that gpunet reads, made on the spot.

A case is a file's content, the exit codes that showing it may end with, and the options it needs.
`judge` runs one through the command line as a user would, and says what went wrong.
"""

import gzip
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tables import idx, npy, npy_header, npz

SECONDS = 10
HANGING = 300
SPARE = 512 << 20
MIB = 1 << 20
BOMB = 1 << 28
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""
"""A small process between, since a process begins with the peak of the one that forked it."""
ALLOWED = {0, 65, 71, 76}


@dataclass(frozen=True)
class Case:
    """A file `name`, made by `content`; `code` is what `data show` must end with."""

    name: str
    content: Callable[[], bytes]
    code: int
    options: tuple[str, ...] = ()

    @property
    def target(self) -> tuple[str, ...]:
        """The option that names what a table predicts; arrays have their own."""
        is_table = any(ending in self.name for ending in (".csv", ".jsonl", ".parquet"))
        return ("-t", "y") if is_table else ()

    @property
    def is_model(self) -> bool:
        return self.name.endswith(".safetensors")


def case(name: str, content: bytes | Callable[[], bytes], code: int = 65, *options: str) -> Case:
    return Case(name, content if callable(content) else lambda: content, code, options)


# CSV

TABLE = b"a,b,y\n1,2,0\n3,4,1\n5,6,0\n"
ROWS = b"".join(b"%d,%d,%d\n" % (i, i % 7, i % 2) for i in range(40))
PLAIN = b"a,b,y\n" + ROWS
NAUGHTY = ("[/red]", "\x1b[31ma\x1b[0m", "\x07bell", "\u202egnp.exe", "a\nb", "=cmd|' /C calc'!A0")
"""Names that would be markup, escape codes, a bell, a change of direction, two lines, a formula."""


def _quoted(names: tuple[str, ...]) -> bytes:
    return ",".join('"' + name.replace('"', '""') + '"' for name in names).encode()


def _wide() -> bytes:
    head = ",".join(f"c{i}" for i in range(10_000))
    rows = "\n".join(",".join(["1", "2"] * 5_000) + f",{i % 2}" for i in range(20))
    return f"{head},y\n{rows}\n".encode()


def _bomb(size: int, block: bytes, head: bytes = b"", format: int = 31) -> Callable[[], bytes]:
    def make() -> bytes:
        packer = zlib.compressobj(9, wbits=format)
        parts = [packer.compress(head)]
        parts += [packer.compress(block) for _ in range(size // len(block))]
        return b"".join(parts) + packer.flush()

    return make


def delimited(bomb: int = BOMB) -> Iterator[Case]:
    """Texts: layouts, encodings, sizes, words that look like numbers."""
    good = {
        "plain": PLAIN,
        "bom": b"\xef\xbb\xbf" + PLAIN,
        "crlf": PLAIN.replace(b"\n", b"\r\n"),
        "cr_only": PLAIN.replace(b"\n", b"\r"),
        "mixed_ends": PLAIN.replace(b"0\n", b"0\r\n"),
        "no_last_end": PLAIN[:-1],
        "line_in_quotes": b'a,b,y\n"1\n7",2,0\n3,4,1\n' + ROWS,
        "missing_words": b"a,b,y\nnan,NA,0\n,,1\n" + ROWS,
        "large_integers": b"a,b,y\n9223372036854775808,18446744073709551616,0\n" + ROWS,
        "late_float": PLAIN + b"1.5,2,1\n",
        "semicolons": PLAIN.replace(b",", b";"),
        "booleans": b"a,b,y\n" + b"true,2,0\nfalse,3,1\n" * 20,
        "leading_zeros": b"zip,b,y\n" + b"00501,2,0\n10001,3,1\n" * 20,
        "padded": b"a, b, y\n" + b"1,2,0\n3,4,1\n" * 20,
        "late_text": b"a,b,y\n" + b"1,2,0\n4,5,1\n" * 75 + b"oops,2,1\n",
        "hexadecimal": b"a,b,y\n0x10,2,0\n" + ROWS,
        "underscores": b"a,b,y\n1_000,2,0\n" + ROWS,
        "naughty_names": _quoted((*NAUGHTY, "y")) + b"\n" + b"1,2,3,4,5,6,0\n2,3,4,5,6,7,1\n" * 20,
        "naughty_values": b"a,b,y\n" + b'"[/red]\x1b[2J",2,0\n"=1+1",3,1\n' * 20,
        "one_row": b"a,b,y\n1,2,0\n",
        "infinite": b"a,b,y\ninf,1e999,0\n" + ROWS,
        "one_column": b"y\n" + b"1\n2\n" * 20,
        "formula_row": b'"=cmd|"" /C calc""!A0",[/red],y\n' + b"1,2,0\n3,4,1\n" * 20,
        "comment": b"# c\n" + b"1\n2\n" * 20,
    }
    for name, content in good.items():
        yield case(f"{name}.csv", content, 0)
    yield case("wide.csv", _wide, 0)
    many = b"a,b,y\n" + b"1,2,0\n4,5,1\n" * 200_000
    yield case("late_text_among_many.csv", many + b"oops,2,1\n", 0)
    yield case("packed.csv.gz", gzip.compress(PLAIN), 0)
    yield case("packed_but_named_csv.csv", gzip.compress(PLAIN), 0)
    bad = {
        "empty": b"",
        "only_ends": b"\n\n\n",
        "header_only": b"a,b,y\n",
        "utf16": b"\xff\xfe" + TABLE.decode().encode("utf-16-le"),
        "utf16_without_mark": TABLE.decode().encode("utf-16-be"),
        "utf32": TABLE.decode().encode("utf-32"),
        "latin1": "caf\xe9,b,y\n1,2,0\n".encode("latin-1"),
        "same_names": b"a,a,y\n1,2,0\n3,4,1\n",
        "no_name": b"a,,y\n1,2,0\n3,4,1\n",
        "short_row": b"a,b,y\n1,2,0\n3,4\n5,6,0\n",
        "long_row": b"a,b,y\n1,2,0\n3,4,1,9\n5,6,0\n",
        "trailing_commas": b"a,b,y\n1,2,0,\n3,4,1,\n",
        "open_quote": b'a,b,y\n1,"2,0\n3,4,1\n5,6,0\n',
        "quote_inside": b'a,b,y\n1,2"x,0\n3,4,1\n',
        "nul": b"a,b,y\n1,2\x00,0\n3,4,1\n",
        "noise": bytes(range(256)) * 40,
        "long_cell": b"a,b,y\n1," + b"7" * (2 * MIB) + b",0\n",
        "long_name": b"a" * (2 * MIB) + b",b,y\n1,2,0\n3,4,1\n",
        "cut.csv.gz": gzip.compress(TABLE)[:-6],
        "damaged.csv.gz": gzip.compress(TABLE)[:-8] + bytes(8),
        "twice.csv.gz": gzip.compress(gzip.compress(TABLE)),
        "junk_behind.csv.gz": gzip.compress(TABLE) + b"junk",
    }
    for name, content in bad.items():
        yield case(name if "." in name else f"{name}.csv", content)
    yield case("cell_of_64_MB.csv", lambda: b"a,b,y\n1," + b"7" * (64 * MIB) + b",0\n")
    yield case("bomb.csv.gz", _bomb(bomb, b"1,2,0\n" * 174_762, b"a,b,y\n"))
    yield case("bomb_of_zeros.csv.gz", _bomb(bomb, bytes(MIB)))
    yield case("too_much.csv", PLAIN, 71, "--max-memory", "1K")
    yield case("unpacks_to_too_much.csv.gz", gzip.compress(PLAIN), 71, "--max-memory", "300")


def lines() -> Iterator[Case]:
    """JSON lines."""
    good = "".join(json.dumps({"a": i, "b": i % 5, "y": i % 2}) + "\n" for i in range(40)).encode()
    yield case("plain.jsonl", good, 0)
    yield case("naughty.jsonl", good + json.dumps(dict.fromkeys(NAUGHTY, 1)).encode() + b"\n", 0)
    bad = {
        "deep": b'{"a":' * 100_000,
        "deep_list": b'{"a":' + b"[" * 100_000,
        "nested": b'{"a": {"b": 1}}\n',
        "mixed": b'{"a": 1}\n{"a": "x"}\n',
        "long_number": b'{"a": ' + b"9" * 100_000 + b"}\n",
        "half_a_pair": b'{"a": "\\ud800"}\n',
        "same_key": b'{"a": 1, "a": 2}\n',
        "cut": b'{"a": 1}\n{"a": ',
        "array": b'[{"a": 1}]\n',
        "no_objects": b'{"a": 1}\n5\n',
        "nothing": b"{}\n{}\n",
        "nul": b'{"a": 1}\n\0\n',
    }
    for name, content in bad.items():
        yield case(f"{name}.jsonl", content)
    yield case("infinite.jsonl", b'{"a": 1e999, "y": 1}\n' + good, 0)


# Arrays

X, Y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2


def _shape(shape: str, descr: str = "'<f8'", version: tuple[int, int] = (1, 0)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return npy_header(text, version)


def _flipped(content: bytes, at: int, mask: int = 0xFF) -> bytes:
    changed = bytearray(content)
    changed[at] ^= mask
    return bytes(changed)


def _directory_lie(content: bytes, size: int) -> bytes:
    changed = bytearray(content)
    at = changed.rfind(b"PK\1\2") + 24
    changed[at : at + 4] = struct.pack("<I", size)
    return bytes(changed)


def _npz_bomb(size: int, head: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w", force_zip64=True) as member,
        ):
            member.write(head)
            for _ in range(size >> 20):
                member.write(bytes(MIB))
        return file.getvalue()

    return make


def arrays(bomb: int = BOMB) -> Iterator[Case]:
    """NPZ and NPY: headers that lie, archives that lie, types that networks do not take."""
    good = npz(("x.npy", npy(X)), ("y.npy", npy(Y)))
    yield case("good.npz", good, 0)
    yield case("good.npy", npy(X), 0)
    yield case("big_endian.npz", npz(("x.npy", npy(X.astype(">f8"))), ("y.npy", npy(Y))), 0)
    yield case("fortran.npz", npz(("x.npy", npy(np.asfortranarray(X))), ("y.npy", npy(Y))), 0)
    yield case("three_axes.npz", npz(("x.npy", npy(X.reshape(40, 1, 2))), ("y.npy", npy(Y))), 0)
    heads = {
        "huge": _shape("(1000000000000,)") + bytes(64),
        "of_3_GB": _shape("(400000000,)") + bytes(64),
        "overflow": _shape("(4294967296, 4294967296)"),
        "negative": _shape("(-1,)"),
        "no_rows": _shape("(0,)"),
        "no_rows_of_many": _shape("(0, 2147483647, 2147483647, 2147483647)"),
        "many_axes": _shape("(" + "1, " * 60 + ")") + bytes(8),
        "long_header": _shape("(1,)", "[('" + "a" * 200_000 + "', '<f8')]", (2, 0)) + bytes(8),
        "header_past_the_end": b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{}",
        "deep": npy_header("(" * 9_000),
        "code": npy_header("__import__('os').abort()"),
        "records": _shape("(1,)", "[('a', '<f8'), ('b', 'O')]") + bytes(16),
        "objects": _shape("(1,)", "'|O'") + bytes(8),
        "complex": npy(np.zeros(3, complex)),
        "dates": npy(np.array(["2020-01-01"], "M8[D]")),
        "text_as_features": npy(np.array(["a", "b"])),
        "huge_text": _shape("(0,)", "'<U1000000000'"),
        "type_of_no_kind": _shape("(1,)", "'<q8'") + bytes(8),
        "cut": npy(X)[:-3],
        "trailing": npy(X) + b"\0",
        "not_finite": npy(np.array([[1.0, np.nan]])),
        "version_9": b"\x93NUMPY\x09\0" + bytes(100),
    }
    for name, content in heads.items():
        yield case(f"{name}.npy", content)
        yield case(f"{name}.npz", npz(("x.npy", content), ("y.npy", npy(Y))))
    archives = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "flipped": _flipped(good, 60),
        "traversal": npz(("../../../pwn.npy", npy(X))),
        "twice": npz(("x.npy", npy(X)), ("X.npy", npy(X))),
        "not_npy": npz(("x.npy", b"hello"), ("evil.txt", b"x")),
        "pickle": b"\x80\x04\x95\0\0\0\0\0\0\0\0.",
        "lengths": npz(("x.npy", npy(X)), ("y.npy", npy(Y[:3]))),
        "size_lie": _directory_lie(good, 0xFFFFFFF0),
        "size_lie_small": _directory_lie(npz(("x.npy", npy(X))), 128),
        "bad_characters": npz(
            ("x.npy", npy(X[:1])), ("y.npy", _shape("(1,)", "'<U1'") + b"\xff\xff\xff\x7f")
        ),
    }
    for name, content in archives.items():
        yield case(f"{name}.npz", content)
    yield case("bomb.npz", _npz_bomb(bomb, _shape(f"({bomb},)", "'|u1'")))
    yield case("bomb_without_header.npz", _npz_bomb(bomb, b""))
    yield case("too_much.npz", good, 71, "--max-memory", "500")
    yield case("too_much.npy", npy(X), 71, "--max-memory", "500")


def images(bomb: int = BOMB) -> Iterator[Case]:
    """IDX files, whose headers are checked against every byte that is there."""
    x = np.arange(240, dtype=np.uint8).reshape(40, 3, 2)
    kinds = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
    for kind, dtype in kinds.items():
        yield case(f"good_{dtype}-idx3-ubyte", idx(x.astype(dtype), kind), 0)
    yield case("good-idx3-ubyte.gz", gzip.compress(idx(x)), 0)
    yield case("members-idx3-ubyte.gz", gzip.compress(idx(x)[:50]) + gzip.compress(idx(x)[50:]), 0)
    bad = {
        "empty": b"",
        "three_bytes": b"\0\0\x08",
        "magic": b"\1\0\x08\1" + bytes(9),
        "type": b"\0\0\x07\1" + bytes(9),
        "no_axes": b"\0\0\x08\0" + bytes(9),
        "many_axes": b"\0\0\x08\xff" + bytes(2_000),
        "overflow": idx(x, dims=[2**32 - 1] * 3),
        "larger": idx(x, dims=[41, 3, 2]),
        "smaller": idx(x, dims=[39, 3, 2]),
        "cut_header": idx(x)[:10],
        "cut": idx(x)[:-1],
        "trailing": idx(x) + b"\0",
        "labels_alone": idx(x[:, 0, 0]),
        "no_rows": idx(x[:0]),
        "no_columns": idx(x[:, :0]),
        "not_finite": idx(np.array([[np.inf]], "f4"), 0x0D),
    }
    for name, content in bad.items():
        yield case(f"{name}-idx3-ubyte", content)
    for name, content in {
        "cut": gzip.compress(idx(x))[:-4],
        "junk": gzip.compress(idx(x)) + b"junk",
    }.items():
        yield case(f"{name}-idx3-ubyte.gz", content)
    yield case("bomb-idx3-ubyte.gz", _bomb(bomb, bytes(MIB), idx(x, dims=[bomb, 1, 1])[:16]))


# Parquet


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _run_length_bomb() -> bytes:
    """2^31 equal values in a few kilobytes: row groups of 2^22 that all lie in the same place."""
    file, rows = io.BytesIO(), 1 << 22
    equal = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array([1], pa.int64()))
    metadata: list[pq.FileMetaData] = []
    table = pa.table({"a": equal})
    pq.write_table(table, file, row_group_size=rows, metadata_collector=metadata)
    while metadata[0].num_rows < 1 << 31:
        metadata[0].append_row_groups(metadata[0])
    footer = io.BytesIO()
    metadata[0].write_metadata_file(footer)
    sound = file.getvalue()
    start = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    return sound[:start] + footer.getvalue()[4:]


def columns() -> Iterator[Case]:
    """Parquet: damage, sizes, and types that are not plain."""
    rows = 40
    table = pa.table({"a": np.arange(rows), "b": np.arange(rows) % 7, "y": np.arange(rows) % 2})
    sound = parquet(table, compression="none", write_page_checksum=True)
    page = sound.index(np.arange(rows).tobytes()) + 60
    yield case("good.parquet", parquet(table), 0)
    yield case("many_groups.parquet", parquet(pa.concat_tables([table] * 50), row_group_size=2), 0)
    footer = struct.pack("<I", 2**31 - 1)
    bad = {
        "magic_alone": b"PAR1PAR1",
        "bad_magic": b"PAR2" + sound[4:],
        "bad_tail": sound[:-4] + b"PAR2",
        "encrypted": b"PARE" + sound[4:-4] + b"PARE",
        "footer_past_start": sound[:-8] + footer + b"PAR1",
        "footer_of_nothing": sound[:-8] + bytes(4) + b"PAR1",
        "cut": sound[: len(sound) // 2] + b"PAR1",
        "checksum": _flipped(sound, page),
        "no_groups": parquet(table.slice(0, 0)),
        "map": parquet(pa.table({"a": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))})),
        "same_names": parquet(pa.table([[1], [2]], ["a", "a"])),
        "noise": b"PAR1" + np.random.default_rng(0).bytes(3_000) + b"PAR1",
    }
    for name, content in bad.items():
        yield case(f"{name}.parquet", content)
    unfit = {"list": [[1], [2]], "struct": [{"b": 1}, {"b": 2}], "binary": [b"\xff", b"\0"]}
    for name, cells in unfit.items():
        yield case(f"{name}.parquet", parquet(pa.table({"a": cells, "y": [0, 1]})), 0)
    for place in range(4, len(sound), max(1, len(sound) // 24)):
        yield case(f"flip_{place}.parquet", _flipped(sound, place, 0x40), -1)
    yield case("run_length_bomb.parquet", _run_length_bomb, 65)
    yield case("too_much.parquet", sound, 71, "--max-memory", "900")
    odd = {name: pa.array(np.arange(rows)) for name in NAUGHTY}
    yield case("naughty.parquet", parquet(pa.table({**odd, "y": np.arange(rows) % 2})), 0)


# Models


def _tensors(head: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(dtype: str, shape: list[int], ends: list[int]) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


def models(sound: bytes) -> Iterator[Case]:
    """Model files, most of them made of one that is `sound`, with a hash that fits."""
    w = _entry("F32", [2, 2], [0, 16])
    raw = {
        "empty": b"",
        "seven_bytes": b"\1" * 7,
        "no_header": _tensors(b""),
        "length_of_64_bits": _tensors(b"{}", length=2**64 - 1),
        "length_of_100_MB": _tensors(b"{}", length=100_000_001),
        "length_past_the_end": _tensors(b"{}", length=1_000),
        "not_utf8": _tensors(b"\xff\xfe{}"),
        "array": _tensors(b"[]"),
        "leading_space": _tensors(b" {}"),
        "cut_header": _tensors(b'{"w":'),
        "deep": _tensors(b"{" + b'"a":{' * 5_000 + b"}" * 5_000 + b"}"),
        "plain_safetensors": _tensors({"w": w}, bytes(16)),
        "many_tensors": _tensors({f"w{i}": _entry("F32", [0], [0, 0]) for i in range(60_000)}),
        "large_metadata": _tensors({"__metadata__": {"x": "a" * 50_000_000}, "w": w}, bytes(16)),
        "metadata_of_numbers": _tensors({"__metadata__": {"a": 1}, "w": w}, bytes(16)),
        "text": b"gpunet model\n",
        "gzip": gzip.compress(sound),
        "cut": sound[:-10],
        "trailing": sound + b"\0",
        "flipped_weight": _flipped(sound, len(sound) - 3, 1),
        "flipped_header": _flipped(sound, 40, 1),
    }
    for name, content in raw.items():
        yield case(f"{name}.safetensors", content, 76)
    yield case("sound.safetensors", sound, 0)
    not_finite = sound[:-4] + np.float32("nan").tobytes()
    yield case("not_finite.safetensors", partial(remade, not_finite, lambda *_: None), -1)
    for name, change in _CHANGES.items():
        made = partial(remade, sound, change)
        yield case(f"{name}.safetensors", made, 76)


def remade(sound: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """A model file with its tensors' entries or its state changed, and the hash made to fit."""
    size = int.from_bytes(sound[:8], "little")
    head, data = json.loads(sound[8 : 8 + size]), sound[8 + size :]
    own = json.loads(head["__metadata__"]["gpunet"])
    state = json.loads(own["state"])
    entries = {name: entry for name, entry in head.items() if name != "__metadata__"}
    change(entries, state)
    own["state"] = json.dumps(state, sort_keys=True)
    own["sha256"] = _digest(entries, data, own["state"])
    return _tensors({"__metadata__": {"gpunet": json.dumps(own)}, **entries}, data)


def _digest(entries: dict[str, Any], data: bytes, text: str) -> str:
    digest = sha256(text.encode())
    for name in sorted(entries):
        low, high = entries[name]["data_offsets"]
        kind = {"F32": "<f4", "F64": "<f8"}.get(entries[name]["dtype"], "?")
        digest.update(f"{name}\0{kind}\0{tuple(entries[name]['shape'])}\0".encode())
        digest.update(data[max(low, 0) : max(high, 0)])
    return digest.hexdigest()


def _in(entry: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(entries: dict[str, Any], state: dict[str, Any]) -> None:
        entries[entry].update(values)

    return change


def _network(**values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda entries, state: state["network"].update(values)


def _schema(**values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda entries, state: state["schema"].update(values)


def _renamed(new: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda entries, state: entries.update({new: entries.pop("output.bias")})


_CHANGES = {
    "shape_of_other_size": _in("output.weight", shape=[3, 3]),
    "shape_overflow": _in("output.weight", shape=[2**62, 4]),
    "shape_of_fractions": _in("output.weight", shape=[1.5]),
    "shape_of_nothing_huge": _in("output.weight", shape=[0, 2**63]),
    "reversed": _in("output.weight", data_offsets=[16, 0]),
    "negative": _in("output.weight", data_offsets=[-16, 0]),
    "overlap": _in("output.bias", data_offsets=[0, 4]),
    "hole": _in("output.bias", data_offsets=[8, 12]),
    "unknown_type": _in("output.weight", dtype="F99"),
    "traversal": _renamed("../../etc/passwd"),
    "escape_codes": _renamed("\x1b]0;pwn\x07[/red]"),
    "other_name": _renamed("output.shift"),
    "too_wide": _network(hidden=[10**9, 10**9]),
    "wide": _network(hidden=[30_000, 30_000]),
    "deep_network": _network(hidden=[1] * 100_000),
    "no_such_activation": _network(activation="\x1b[31m"),
    "code_as_activation": _network(activation="__import__('os').abort()"),
    "long_formula": _network(activation="+".join(["x"] * 20_000)),
    "deep_formula": _network(activation="-" * 50_000 + "x"),
    "no_such_loss": _network(loss="os.system"),
    "unknown_setting": _network(evil=1),
    "width_of_others": _schema(width=10**12),
    "no_columns": _schema(columns=[]),
    "columns_of_text": _schema(columns="abc"),
    "unknown_version": _schema(version=99),
    "state_of_nothing": lambda entries, state: state.clear(),
}


def files(bomb: int = BOMB) -> list[Case]:
    """Every data file; packed bombs unpack to `bomb` bytes."""
    packed = (delimited(bomb), arrays(bomb), images(bomb))
    return [each for made in (*packed, lines(), columns()) for each in made]


# Judging


@dataclass(frozen=True)
class Outcome:
    """How one command ended; `faults` says what must not be, nothing if all is well.

    `seconds` of processor time, which a busy machine does not stretch; `peak` bytes of the larger
    of the two processes.
    """

    case: str
    command: tuple[str, ...]
    code: int
    seconds: float
    peak: int
    faults: tuple[str, ...]


Command = tuple[str, ...]


def commands(case: Case, path: Path, model: Path, table: Path) -> list[tuple[Command, set[int]]]:
    """What a user may do with a file, and the exit codes each may have."""
    shown = ALLOWED if case.code < 0 else {case.code}
    if case.is_model:
        return [
            (("predict", str(path), str(table)), shown),
            (("evaluate", str(path), str(table)), shown),
        ]
    train = ("train", str(path), *case.target, "--steps", "1", "--device", "cpu", *case.options)
    out = ("-o", str(path.parent / "run"))
    return [
        (("data", "show", str(path), *case.options), shown),
        ((*train, *out), ALLOWED),
        (("predict", str(model), str(path), *case.options), ALLOWED),
    ]


def judge(case: Case, folder: Path, model: Path, table: Path) -> list[Outcome]:
    """Run a case through the command line, each command in a process, and measure it."""
    path = folder / case.name
    path.write_bytes(case.content())
    here = set(os.listdir(folder))
    found = []
    for command, codes in commands(case, path, model, table):
        found.append(_measured(case, command, codes, path))
        left = set(os.listdir(folder)) - here - {"run"}
        if left:
            found.append(Outcome(case.name, command, 0, 0, 0, (f"left {sorted(left)}",)))
        shutil.rmtree(folder / "run", ignore_errors=True)
    path.unlink()
    return found


def _measured(case: Case, command: tuple[str, ...], codes: set[int], path: Path) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, "-P", "-m", "gpunet", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=path.parent,
        timeout=HANGING,
    )
    code, seconds, peak = json.loads(done.stdout)
    said = done.stderr
    faults = [*said_wrong(said), *([] if code in codes else [f"exit {code}: {said[-200:]!r}"])]
    if seconds > SECONDS:
        faults.append(f"{seconds:.1f} s")
    if peak > SPARE + 2 * path.stat().st_size:
        faults.append(f"{peak / MIB:,.0f} MiB of memory")
    return Outcome(case.name, command, code, seconds, peak, tuple(faults))


def said_wrong(said: bytes) -> Iterator[str]:
    """What must not stand on stderr: tracebacks, and characters that steer a terminal."""
    if b"Traceback" in said or b"a bug in gpunet" in said:
        yield f"a traceback: {said[-300:]!r}"
    if set(said) & (set(range(32)) - {10}) or b"\xe2\x80\xae" in said:
        yield "control characters on stderr"


def trained(folder: Path) -> tuple[Path, Path]:
    """A sound model file of columns a and b, and a CSV file that it predicts."""
    model, table = folder / "model.safetensors", folder / "table.csv"
    table.write_bytes(PLAIN)
    command = ["train", str(table), "-t", "y", "--task", "binary", "--hidden", "4", "--steps", "5"]
    command += ["--preset", "fast"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gpunet", *command, "-o", str(folder / "run")],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "run" / model.name).rename(model)
    return model, table


def run_all(folder: Path, model: Path, table: Path, stride: int = 1) -> Iterator[Outcome]:
    """The long form: every case (or each `stride`-th), each command in a process of its own.

    `model` and `table` are those of `trained`, `folder` another one.
    """
    for each in (*files(2 << 30), *models(model.read_bytes()))[::stride]:
        yield from judge(each, folder, model, table)
