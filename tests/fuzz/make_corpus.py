#!/usr/bin/python3
"""Writes the seeds of the fuzzers of weights files, tests/fuzz/corpus/fuzz_*/: small valid files, which test_io.c also reads, and hostile ones.

Needs PyTorch.
"""
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import torch

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def put(target, name, data):
    assert len(data) < 4096, (name, len(data))
    folder = os.path.join(FOLDER, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


# ---- safetensors ----


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_safetensors():
    one = {"a": entry("F32", [2, 3], 0, 24)}
    values = struct.pack("<6f", *range(6))
    files = {
        "valid": safetensors(
            {
                "__metadata__": {"format": "pt", "text": 'quote " \\ \n \u00e9'},
                "b": entry("I64", [2], 24, 40),
                "a": entry("F32", [2, 3], 0, 24),
                "empty": entry("F16", [0, 3], 40, 40),
                "scalar": entry("BF16", [], 40, 42),
            },
            values + struct.pack("<2q", -1, 1 << 40) + b"\x80\x3f",
        ),
        "padded": safetensors(json.dumps(one).encode().ljust(120), values),
        "no_tensors": safetensors({}),
        "long_header": safetensors(one, values, 1 << 63),
        "header_overflow": safetensors(one, values, (1 << 64) - 1),
        "negative_dim": safetensors({"a": entry("F32", [-2, -3], 0, 24)}, values),
        "overflow": safetensors({"a": entry("F32", [1 << 33, 1 << 33, 1 << 62], 0, 24)}, values),
        "overlap": safetensors({"a": entry("F32", [6], 0, 24), "b": entry("F32", [1], 20, 24)}, values),
        "hole": safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 16, 24)}, values),
        "too_short": safetensors(one, values[:-1]),
        "too_long": safetensors(one, values + b"x"),
        "wrong_size": safetensors({"a": entry("F64", [2, 3], 0, 24)}, values),
        "backward": safetensors({"a": entry("F32", [2], 24, 16)}, values),
        "huge_offsets": safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551616]}}', values),
        "unknown_dtype": safetensors({"a": entry("F8_E4M3", [24], 0, 24)}, values),
        "same_name": safetensors(b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"a":{"dtype":"F32","shape":[3],"data_offsets":[12,24]}}', values),
        "many_dims": safetensors({"a": entry("F32", [1] * 9 + [6], 0, 24)}, values),
        "no_offsets": safetensors({"a": {"dtype": "F32", "shape": [6]}}, values),
        "metadata_number": safetensors({"__metadata__": {"a": 1}}),
        "not_object": safetensors(b"{[" + b"]" * 40),
        "deep": safetensors(b'{"a":' + b"[" * 3000),
    }
    for name, data in files.items():
        put("fuzz_safetensors", name, data)


# ---- PyTorch ----


def legacy(pickle, keys=b"\x80\x02]."):
    """The old layout around a hand-written pickle."""
    buffer = io.BytesIO()
    torch.save(0, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    head = whole[: whole.rindex(b"\x80\x02K\x00.")]  # magic number, version, system
    return head + b"\x80\x02" + pickle + b"." + keys


def tensor(size, stride, offset=0, numel=1):
    """A tensor on storage 0, a FloatStorage [numel]."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True) if n >= 1 << 63 else b"\x8a\x08" + struct.pack("<q", n)

    def tuple_of(numbers):
        return b"(" + b"".join(map(number, numbers)) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu"
        + number(numel) + b"Nt" + b"Q" + number(offset) + tuple_of(size) + tuple_of(stride) + b"tR"
    )  # fmt: skip


ONE_KEY = b"\x80\x02]U\x010a."


def one_storage(values):
    return ONE_KEY + struct.pack("<q", len(values)) + struct.pack("<%df" % len(values), *values)


def th(value):
    """torch.save in the old layout, with keys that are not addresses, so that the bytes do not change from run to run."""
    storages = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not torch.is_storage(x):
                return None
            _, s = storages.setdefault(x._cdata, (str(len(storages)), x))
            return ("storage", getattr(torch, x.pickle_storage_type()), storages[x._cdata][0], "cpu", len(s), None)

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    pickle.dump([key for key, _ in storages.values()], buffer, 2)
    for _, s in storages.values():
        raw = torch.tensor([], dtype=s.dtype).set_(s)
        raw = raw.view(torch.int16) if s.dtype == torch.bfloat16 else raw
        buffer.write(struct.pack("<q", len(s)) + raw.numpy().tobytes())
    data = legacy(b"", b"")[:-3] + buffer.getvalue()  # without the empty pickle
    assert repr(torch.load(io.BytesIO(data))) == repr(value)
    return data


def pt(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rezip(data, change):
    """The same archive with entries as change(name, bytes) -> (bytes, method) says; None drops one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            result = change(name, old.read(name))
            if result:
                new.writestr(zipfile.ZipInfo(name), result[0], result[1])
    return buffer.getvalue()


def write_pytorch():
    a = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    checkpoint = {
        "epoch": 3,
        "best": 0.5,
        "tag": "x",
        "state_dict": OrderedDict(
            a=a,
            t=a.t(),
            s=torch.arange(24, dtype=torch.int16).reshape(2, 3, 4)[:, 1:, ::2],
            e=torch.zeros(0, 3, dtype=torch.float64),
            p=torch.nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.float16)),
        ),
        "list": [torch.tensor(True), (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), False)],
    }
    checkpoint["state_dict"]._metadata = OrderedDict(version=1)
    store, deflate = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    zipped = pt(checkpoint)
    bare = pt({"a": torch.zeros(64)})
    loop = b"]q\x00h\x00a"
    laughs = b"]q\x00" + b"".join(b"0](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(40))
    files = {
        "valid.th": th(checkpoint),
        "valid.pt": zipped,
        "deflated.pt": rezip(zipped, lambda n, d: (d, deflate)),
        "tensor.pt": pt(a[:, 1]),
        "bomb.pt": rezip(bare, lambda n, d: (bytes(3 << 20), deflate) if n.endswith("data/0") else (d, store)),
        "no_storage.pt": rezip(bare, lambda n, d: None if n.endswith("data/0") else (d, store)),
        "no_pickle.pt": rezip(bare, lambda n, d: None if n.endswith("pkl") else (d, store)),
        "short_storage.pt": rezip(bare, lambda n, d: (d[:-1], store) if n.endswith("data/0") else (d, store)),
        "os_system.th": legacy(b"cos\nsystem\n(U\x04trueltR"),
        "stack_global.th": legacy(b"\x8c\x08builtins\x8c\x04eval\x93(U\x011tR"),
        "memo_loop.th": legacy(loop),
        "laughs.th": legacy(laughs),
        "deep.th": legacy(b"]" * 1000 + b"a" * 999),
        "long4.th": legacy(b"\x8b\xff\xff\xff\x7f" + b"1" * 16),
        "unicode8.th": legacy(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff" + b"1" * 16),
        "memo_far.th": legacy(b"Nr\xff\xff\xff\xff"),
        "underflow.th": legacy(b"(at"),
        "persid.th": legacy(b"NQ"),
        "one.th": legacy(tensor([2, 2], [2, 1], 1, 5), one_storage([1, 2, 3, 4, 5])),
        "python2.th": legacy(
            b"ccollections\nOrderedDict\n](]q\x01(U\x01w" + tensor([1], [1]) + b"e(U\x04sizectorch\nSize\n(K\x02K\x03t\x85Rt"
            + b"(U\x05bytesc_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00latin1tRt(J\xfc\xff\xff\xffU\x02okte\x85R}b",
            one_storage([7]),
        ),
        "many_dims.th": legacy(tensor([1] * 9, [1] * 9), one_storage([1])),
        "outside.th": legacy(tensor([2, 2], [2, 1], 2, 5), one_storage([1, 2, 3, 4, 5])),
        "negative_stride.th": legacy(tensor([2], [-1], 1, 5), one_storage([1, 2, 3, 4, 5])),
        "stride_overflow.th": legacy(tensor([1 << 32, 1 << 32], [1 << 32, 1 << 32], 0, 5), one_storage([1, 2, 3, 4, 5])),
        "any_stride.th": legacy(tensor([2, 1, 2], [2, (1 << 63) - 1, 1], 1, 6), one_storage([1, 2, 3, 4, 5, 6])),
        "expanded.th": legacy(tensor([1 << 31, 1 << 20], [0, 0], 0, 1), one_storage([1])),
        "huge_dim.th": legacy(tensor([1 << 63], [1], 0, 1), one_storage([1])),
        "huge_storage.th": legacy(tensor([1], [1], 0, (1 << 62) + 1), one_storage([1])),
        "no_storage.th": legacy(tensor([1], [1]), b"\x80\x02]."),
        "key_twice.th": legacy(tensor([1], [1]), b"\x80\x02](U\x010U\x010e." + struct.pack("<qfqf", 1, 1, 1, 1)),
    }
    files["big_endian.th"] = files["one.th"].replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    assert files["big_endian.th"] != files["one.th"]
    files["big_endian.pt"] = byteorder(bare, b"big")
    files["little_endian.pt"] = byteorder(bare, b"little")
    for name, data in files.items():
        put("fuzz_pytorch", name, data)


def byteorder(data, order):
    """An archive with the entry that newer versions of PyTorch write."""
    buffer = io.BytesIO(rezip(data, lambda n, d: (d, zipfile.ZIP_STORED)))
    with zipfile.ZipFile(buffer, "a") as z:
        z.writestr(zipfile.ZipInfo("archive/byteorder"), order)
    return buffer.getvalue()


if __name__ == "__main__":
    write_safetensors()
    write_pytorch()
