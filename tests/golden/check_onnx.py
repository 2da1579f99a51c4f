#!/usr/bin/env python3
"""Compares exported ONNX and QONNX models with the engine: same images, logits side by side, and says how large the files are.

usage: check_onnx.py MODEL... [--data DIR] [--images N] [--program build/bitwright] [--cc cc]

The engine speaks through the exported C code, which `bitwright verify` compares with it to the bit. The ONNX model runs in ONNX Runtime, the QONNX
model in the Python package qonnx where there is one (on fewer images, it is slow). Images are those of CIFAR-10's test_batch.bin in --data, or random
bytes. Prints one line a model and fails when an arg-max differs. Exit status 77: this Python has no numpy, onnx or onnxruntime.
"""
import argparse
import ctypes
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime
except ImportError as e:
    print(f"skipped: {e}; pip install onnxruntime onnx to compare exported models")
    sys.exit(77)


def engine(program, cc, model, folder, pixels, classes):
    """Logits of the C export, [N,classes]; pixels [N,h,w,c] uint8."""
    source, library = os.path.join(folder, "net.c"), os.path.join(folder, "net.so")
    subprocess.run([program, "export", model, "--to", "c", "--out", source], check=True)
    subprocess.run([cc, "-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", library, source], check=True)
    net = ctypes.CDLL(library)
    size = ctypes.c_ulong.in_dll(net, "net_buffer_bytes").value
    buffer, logits = np.zeros(size // 4 + 1, np.float32), np.zeros((len(pixels), classes), np.float32)
    for i, image in enumerate(pixels):
        net.net_run(image.ctypes.data_as(ctypes.c_void_p), logits[i].ctypes.data_as(ctypes.c_void_p),
                    buffer.ctypes.data_as(ctypes.c_void_p))
    return logits


def run_onnx(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], {"image": x[i:i + 50]})[0] for i in range(0, len(x), 50)])


def run_qonnx(model, x):
    """None: there is no qonnx here."""
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes
    except ImportError:
        return None
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(x)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = len(x)
    wrapped = ModelWrapper(model).transform(InferShapes())
    return execute_onnx(wrapped, {"image": x})["logits"]


def compare(a, b):
    differing = int((a.argmax(1) != b.argmax(1)).sum())
    return differing, f"{len(a)} images, {differing} arg-max differ, {int((a != b).sum())} of {a.size} logits differ, " \
                      f"largest difference {float(np.abs(a - b).max()):.3g} (largest logit {float(np.abs(b).max()):.3g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+")
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--qonnx-images", type=int, default=20)
    parser.add_argument("--program", default="build/bitwright")
    parser.add_argument("--cc", default="cc")
    args = parser.parse_args()
    worst = 0
    for path in args.model:
        with tempfile.TemporaryDirectory() as folder:
            models, sizes = {}, {}
            for to in "onnx", "onnx13", "qonnx":
                out = os.path.join(folder, to + ".onnx")
                subprocess.run([args.program, "export", path, "--to", to, "--out", out], check=True)
                models[to], sizes[to] = onnx.load(out), os.path.getsize(out)
                onnx.checker.check_model(models[to], full_check=to != "qonnx")
            meta = {p.key: p.value for p in models["onnx"].metadata_props}
            dims = [d.dim_value for d in models["onnx"].graph.input[0].type.tensor_type.shape.dim][1:]
            c, h, w = dims
            if args.data:
                records = np.fromfile(os.path.join(args.data, "test_batch.bin"), np.uint8).reshape(-1, 1 + 3072)
                pixels = records[:args.images, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
            else:
                pixels = np.random.default_rng(1).integers(0, 256, (args.images, h, w, c), np.uint8)
            mean, std = (np.array(meta["bitwright." + k].split(), np.float32).reshape(1, c, 1, 1) for k in ("mean", "std"))
            x = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - mean) / std
            expected = engine(os.path.abspath(args.program), args.cc, path, folder, pixels, int(meta["bitwright.classes"]))
            for to in "onnx", "onnx13":
                bad, text = compare(run_onnx(models[to], x), expected)
                print(f"{path}: {to}: {sizes[to]} bytes; {text}", flush=True)
                worst = max(worst, bad)
            few = x[:args.qonnx_images]
            logits = run_qonnx(models["qonnx"], few)
            if logits is None:
                print(f"{path}: qonnx: not compared: there is no package qonnx")
                continue
            bad, text = compare(logits, expected[:len(few)])
            print(f"{path}: qonnx: {text}", flush=True)
            worst = max(worst, bad)
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(main())
