"""The file of a named array: it has the documented format, and a damaged or forged one is an error that names it."""

import os
import struct

import pytest

np = pytest.importorskip("numpy")

import shared_numpy as snp  # noqa: E402
from named_files import make, path_of  # noqa: E402

FIELDS = ["magic", "version", "header_bytes", "data_offset", "data_bytes", "item_bytes",
          "order", "axes", "dtype_bytes", "checksum"]


def content(name):
    with open(path_of(name), "rb") as file:
        return file.read()


def put(name, data):
    with open(path_of(name), "wb") as file:
        file.write(data)


def with_checksum(header):
    """The header with the checksum that docs/named_arrays.md tells."""
    sum_ = 0xcbf29ce484222325
    for at, byte in enumerate(header):
        sum_ = ((sum_ ^ (0 if at < 8 or 72 <= at < 80 else byte)) * 0x100000001b3) % 2 ** 64
    return header[:72] + struct.pack("Q", sum_) + header[80:]


def written(shape, itemsize, text, **replaced):
    """A file as docs/named_arrays.md tells, with some words replaced."""
    nbytes = itemsize
    for length in shape:
        nbytes *= length
    size = 128 + 8 * len(shape) + len(text)
    start = -(-size // 64) * 64
    words = dict(zip(FIELDS, [0, 1, size, start, nbytes, itemsize, 0, len(shape), len(text), 0]))
    words["magic"] = struct.unpack("<Q", b"SNPNAMED")[0]
    words.update(replaced)
    header = struct.pack("10Q", *(words[field] for field in FIELDS)) + bytes(48)
    header += struct.pack("{}Q".format(len(shape)), *shape) + text
    return with_checksum(header) + bytes(start - size + min(nbytes, 4096))


def test_the_format_is_the_documented_one(name):
    put(name, written((2, 3), 4, b'"<f4"'))
    opened = snp.attach(name)
    assert opened.shape == (2, 3) and opened.dtype == "<f4" and opened.flags.c_contiguous
    opened[...] = 2.5
    assert content(name)[192:] == struct.pack("<6f", *[2.5] * 6)
    snp.unlink(name)
    make(name, (2, 3), "<f4")
    assert content(name) == written((2, 3), 4, b'"<f4"')


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, 1, 7, 64, 2 ** 31, 2 ** 40, 2 ** 63, 2 ** 64 - 1])
def test_garbage_in_a_word(name, field, value):
    good = written((2, 3), 4, b'"<f4"')
    at = 8 * FIELDS.index(field)
    if struct.unpack("Q", good[at:at + 8])[0] == value:
        return
    put(name, good[:at] + struct.pack("Q", value) + good[at + 8:])
    with pytest.raises(ValueError):
        snp.attach(name)
    # With a checksum that fits, only the other order can be meant.
    if field not in ("order", "checksum"):
        put(name, written((2, 3), 4, b'"<f4"', **{field: value}))
        with pytest.raises(ValueError) as refused:
            snp.attach(name)
        assert name in str(refused.value)


@pytest.mark.parametrize("shape, itemsize", [
    ((2 ** 40,), 4), ((2 ** 61,), 4), ((4097,), 1), ((2 ** 32, 2 ** 32), 1), ((2 ** 63,), 0)], ids=repr)
def test_claims_that_are_too_large(name, shape, itemsize):
    put(name, written(shape, itemsize, b'"|V0"', data_bytes=itemsize * shape[0] % 2 ** 64))
    with pytest.raises(ValueError):
        snp.attach(name)


@pytest.mark.parametrize("size", [1, 7, 8, 100, 127, 128, 148, 149, 191, 192, 215])
def test_truncated(name, size):
    put(name, written((2, 3), 4, b'"<f4"')[:size])
    with pytest.raises(ValueError) as refused:
        snp.attach(name)
    assert name in str(refused.value)


STRUCTURE = '{"names":["a"],"formats":["<f4"],"offsets":[0],"itemsize":4'


@pytest.mark.parametrize("text", [
    b"", b"\xff\xfe", b"<f4", b'"O"', b'"|O4"', b'"<f8"', b'"f4,f4"', b'"float32"', b'"<f4', b'"<i4\\n"', b'"|V99999999999"',
    b"null", b"4", b"{}", b"[]", b'["<f4"]', b'["<f4",[-1]]', b'["<f4",[1.5]]', b'["<f4",4]', b'["<f4",[true]]',
    b"[" * 1000, b"[" * 200000, b'["<f4",[2]]',
    (STRUCTURE + "}").replace('"<f4"', '"|O8"').encode(), (STRUCTURE + "}").replace("[0]", "[1]").encode(),
    (STRUCTURE + "}").replace("[0]", "[]").encode(), (STRUCTURE + "}").replace('"a"', "7").encode(),
    (STRUCTURE + "}").replace('"itemsize":4', '"itemsize":8').encode(), (STRUCTURE + ',"titles":[[]]}').encode(),
    (STRUCTURE + "}").replace('["a"]', '["a","a"]').encode(), b"__import__('os').abort()",
], ids=lambda text: repr(text[:30]))
def test_a_dtype_that_is_none(name, text):
    put(name, written((2, 3), 4, text))
    with pytest.raises(ValueError) as refused:
        snp.attach(name)
    assert name in str(refused.value)


def test_structures_too_deep(name):
    dtype = np.dtype("u1")
    for _ in range(40):
        dtype = np.dtype([("a", dtype)])
    with pytest.raises(ValueError):
        make(name, 1, dtype)
    assert not os.path.exists(path_of(name))
