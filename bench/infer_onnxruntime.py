#!/usr/bin/env python3
"""Whole networks with random weights: the engine of bitwright against ONNX Runtime, in float and in int8, in one run.

    python3 bench/infer_onnxruntime.py --net resnet18 --bits 8/8,4/4,2/2,1/1

The networks come from `bitwright bench infer --save`. ONNX Runtime runs the float one (`bitwright export --to onnx`) and what its own static
quantization makes of that: QDQ, int8 weights per channel, uint8 activations, calibrated with random images. All take turns and the least
time of each counts, so that whatever else the machine does hits all of them alike; with one thread it is processor time. Nothing here is part of the program or its tests.

Needs Python's packages onnx, onnxruntime and numpy: python3 -m venv V && V/bin/pip install onnx onnxruntime numpy"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

try:
    import numpy
    import onnx
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as e:
    sys.exit(f"infer_onnxruntime.py: {e}; it needs onnx, onnxruntime and numpy: "
             "python3 -m venv V && V/bin/pip install onnx onnxruntime numpy, then V/bin/python3 " + sys.argv[0])


def program(args, *words):
    """Standard output of bitwright."""
    r = subprocess.run([args.bitwright, *words], stdout=subprocess.PIPE, text=True)
    if r.returncode:
        sys.exit(f"infer_onnxruntime.py: {args.bitwright} {' '.join(words)}: exit code {r.returncode}")
    return r.stdout


class Images(CalibrationDataReader):
    def __init__(self, shape, batches=4):
        rng = numpy.random.default_rng(1)
        self.left = [rng.standard_normal((8, *shape), dtype=numpy.float32) for _ in range(batches)]

    def get_next(self):
        return {"image": self.left.pop()} if self.left else None


def session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def least(run, threads, seconds):
    now = time.thread_time if threads == 1 else time.perf_counter
    best, spent, calls = 1e30, 0, 0
    run()
    while calls < 4 or spent < seconds:
        start = now()
        run()
        took = now() - start
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--net", default="resnet18")
    p.add_argument("--bits", default="8/8,4/4,2/2,1/1", help="weights/activations")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--bitwright", default=os.path.join(root, "build", "bitwright"))
    p.add_argument("--keep", help="folder for models and ONNX files; a temporary one by default")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args, args.keep or temporary)


def measure(args, folder):
    bits = args.bits.split(",")
    program(args, "bench", "infer", "--net", args.net, "--bits", ",".join(["float", *bits]), "--save", folder, "--threads", "1",
            "--batch", "1", "--json")
    stem = os.path.join(folder, args.net)
    packed = {}
    for b in bits:
        w, a = b.split("/")
        packed[b] = f"{stem}-w{w}a{a}.packed"
        program(args, "export", f"{stem}-w{w}a{a}.safetensors", "--out", packed[b])
    program(args, "export", f"{stem}-float.safetensors", "--to", "onnx", "--out", f"{stem}.onnx")
    shape = [d.dim_value for d in onnx.load(f"{stem}.onnx").graph.input[0].type.tensor_type.shape.dim[1:]]
    quant_pre_process(f"{stem}.onnx", f"{stem}-pre.onnx")
    quantize_static(f"{stem}-pre.onnx", f"{stem}-int8.onnx", Images(shape), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    threads, batches = [int(t) for t in args.threads.split(",")], (1, args.batch)
    sessions = {(name, t): session(path, t) for name, path in
                (("onnxruntime float", f"{stem}-pre.onnx"), ("onnxruntime int8", f"{stem}-int8.onnx")) for t in threads}
    images = {n: numpy.random.default_rng(n).standard_normal((n, *shape), dtype=numpy.float32) for n in batches}
    ms = {}  # (name, threads, batch): least milliseconds an image

    def keep(name, t, n, value):
        ms[name, t, n] = min(ms.get((name, t, n), 1e30), value)

    for _ in range(args.rounds):
        for t in threads:
            for name in ("onnxruntime float", "onnxruntime int8"):
                for n in batches:
                    keep(name, t, n, 1e3 / n * least(lambda: sessions[name, t].run(None, {"image": images[n]}), t, 0.3))
            for b in bits:
                row = json.loads(program(args, "bench", "infer", "--model", packed[b], "--threads", str(t), "--batch",
                                         str(args.batch), "--json"))["rows"][0]
                keep(f"bitwright {b}", t, 1, row["latency_ms"])
                keep(f"bitwright {b}", t, args.batch, 1e3 / row["images_per_s"])
    rows = [{"name": name, "threads": t, "batch": n, "ms_an_image": v, "against_onnxruntime_int8":
             ms["onnxruntime int8", t, n] / v, "against_onnxruntime_float": ms["onnxruntime float", t, n] / v}
            for (name, t, n), v in sorted(ms.items(), key=lambda x: (x[0][1], x[0][2]))]
    if args.json:
        print(json.dumps({"net": args.net, "onnxruntime": onnxruntime.__version__, "rows": rows}))
        return
    print(f"{args.net}, random weights; ONNX Runtime {onnxruntime.__version__}; least of {args.rounds} rounds")
    print(f"{'':20} {'threads':>7} {'batch':>5} {'ms an image':>11} {'x ORT int8':>10} {'x ORT float':>11}")
    for r in rows:
        print(f"{r['name']:20} {r['threads']:7} {r['batch']:5} {r['ms_an_image']:11.3f} {r['against_onnxruntime_int8']:10.2f} "
              f"{r['against_onnxruntime_float']:11.2f}")
    for r in rows:
        if r["name"].startswith("bitwright") and r["against_onnxruntime_int8"] <= 1:
            print(f"{r['name']} is no faster than ONNX Runtime's int8 with {r['threads']} threads and batch {r['batch']}")


if __name__ == "__main__":
    main()
