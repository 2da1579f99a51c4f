#!/usr/bin/python3
"""Writes tests/golden/resnet20.safetensors: training runs of ResNet-20 that test_golden.c repeats.

An independent implementation in PyTorch, in double precision, from the papers' formulas. Ten steps on two batches of 32 in turn:

  fp32   no quantizer; SGD, momentum 0.9, learning rate 1e-3, weight decay 1e-4
  lsq    LSQ (Esser et al., ICLR 2020), 2-bit weights and activations, first and last layer 8 bits; SGD as above, learning rate 4e-4, no decay on step sizes
  ewgs   EWGS (Lee et al., CVPR 2021), 1-bit weights and activations, delta 1e-3, BatchNorm1d before the classifier, first and last layer
         float; Adam 1e-3 with decay 1e-4, on quantizer parameters 1e-5 without decay

Weights, images and labels are not stored: both sides make them from draw() below. For each case the file holds CASE/losses [10] and, per parameter,
CASE/grad/NAME: the norm of its gradient in the first step, its projection on draw("projection/NAME"), and entries number
index("sample/NAME", j) for j < min(32, numel). Everything is F64; indices count in PyTorch's order (OIHW).

CASE/losses_float [10] are those of the same run in single precision, where one code that tips over by its last bit makes another network.

Needs PyTorch 1.13 or later; takes a minute.
"""
import json
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

BATCH, BATCHES, STEPS, SAMPLES = 32, 2, 10, 32
LR = {"fp32": 1e-3, "lsq": 4e-4}
MASK = (1 << 64) - 1


def bits(key, n):
    """n 64-bit integers that depend on key and position: splitmix64 at FNV-1a(key) + i * golden ratio."""
    h = 0xCBF29CE484222325
    for b in key.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw(key, n):
    """n doubles in [-1, 1), multiples of 2^-52."""
    return (bits(key, n) >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def index(key, n, below):
    return [int(v) % below for v in bits(key, n)]


def real(a):
    return torch.from_numpy(a).to(torch.get_default_dtype())


def batch(t):
    """The batch of step t: noise plus a pattern of 4x4 patches that belongs to the label, so that there is something to learn. Rounded to float."""
    t %= BATCHES
    labels = np.array(index(f"labels/{t}", BATCH, 10))
    x = 0.5 * draw(f"images/{t}", BATCH * 3 * 32 * 32).reshape(BATCH, 3, 32, 32)
    for i, label in enumerate(labels):
        patches = draw(f"pattern/{label}", 3 * 8 * 8).reshape(3, 8, 8)
        x[i] += np.repeat(np.repeat(patches, 4, axis=1), 4, axis=2)
    return real(x.astype(np.float32)), torch.from_numpy(labels)


def initial(name, shape):
    """Uniform: weights with bound sqrt(6 / fan_in), biases and those of batch norms with bound 0.2, weights of batch norms 1 +- 0.2. Rounded to float.

    With biases of 0 the first step would be ill-posed: convolutions of codes have few values, one is now and then equal to its channel's
    mean, and whether its ReLU passes a gradient is then up to the last bit."""
    n, norm = int(np.prod(shape)), len(shape) == 1 and name.endswith(".weight")
    bound = math.sqrt(6.0 / float(np.prod(shape[1:]))) if len(shape) > 1 else 0.2
    return real((draw(name, n) * bound + norm).astype(np.float32).reshape(shape))


# ---- Quantizers -------------------------------------------------------------------------------------------------------------------------------
class Lsq(torch.autograd.Function):
    """Equations 1 to 3 and 5, and the gradient scale of section 2.2."""

    @staticmethod
    def forward(ctx, v, s, qn, qp, gs):
        ctx.save_for_backward(v, s)
        ctx.constants = qn, qp, gs
        return torch.round(torch.clamp(v / s, -qn, qp)) * s

    @staticmethod
    def backward(ctx, g):
        v, s = ctx.saved_tensors
        qn, qp, gs = ctx.constants
        r = v / s
        low, high = r <= -qn, r >= qp
        d = torch.where(low, torch.full_like(r, -qn), torch.where(high, torch.full_like(r, qp), torch.round(r) - r))
        return g * ~(low | high), (g * d).sum().reshape(s.shape) * gs, None, None, None


class Ewgs(torch.autograd.Function):
    """Rounding to n + 1 levels on [0, 1] with the gradient of equation 4."""

    @staticmethod
    def forward(ctx, xn, n, delta):
        xq = torch.round(xn * n) / n
        ctx.save_for_backward(xn - xq)
        ctx.delta = delta
        return xq

    @staticmethod
    def backward(ctx, g):
        (residual,) = ctx.saved_tensors
        return g * (1 + ctx.delta * torch.sign(g) * residual), None, None


class Net:
    """ResNet-20 with option A shortcuts; parameters by name, quantizer parameters made on first use."""

    def __init__(self, case):
        self.case, self.p, self.quantizer_names = case, {}, []

    def param(self, name, make):
        if name not in self.p:
            self.p[name] = make().requires_grad_(True)
        return self.p[name]

    def quantizer_param(self, name, make):
        if name not in self.p:
            self.quantizer_names.append(name)
        return self.param(name, lambda: torch.tensor([float(make())]))

    def lsq(self, name, v, nbits, signed, features):
        qn, qp = (2 ** (nbits - 1), 2 ** (nbits - 1) - 1) if signed else (0, 2**nbits - 1)
        s = self.quantizer_param(name + ".step", lambda: 2 * v.detach().abs().mean() / math.sqrt(qp))
        return Lsq.apply(v, s, qn, qp, 1 / math.sqrt(features * qp))

    def interval(self, name, x, lower, upper, nbits):
        """(x - l) / (u - l) clipped to [0, 1], both ends inclusive, then discretized."""
        low = self.quantizer_param(name + ".l", lambda: lower)
        up = self.quantizer_param(name + ".u", lambda: upper)
        return Ewgs.apply(torch.clamp((x - low) / (up - low), 0, 1), 2**nbits - 1, 1e-3)

    def layer(self, name, x, shape, edge, run):
        """A convolution or linear layer: run(x, w). edge: the first or last layer of the network."""
        w = self.param(name + ".weight", lambda: initial(name + ".weight", shape))
        if self.case == "lsq":
            nbits = 8 if edge else 2
            wq = self.lsq(name + ".weight_quant", w, nbits, True, w.numel())
            xq = self.lsq(name + ".input_quant", x, nbits, name == "conv1", x[0].numel())
            return run(xq, wq)
        if self.case == "ewgs" and not edge:
            spread = 3 * float(w.detach().std())
            wq = 2 * self.interval(name + ".weight_quant", w, -spread, spread, 1) - 1
            above = 3 * float(x.detach().std()) / math.sqrt(1 - 2 / math.pi)
            xq = self.interval(name + ".input_quant", x, float(x.detach().min()), above, 1)
            y = run(xq, wq)
            with torch.no_grad():
                ratio = float(run(x, w).abs().mean() / y.abs().mean())
            return y * self.quantizer_param(name + ".weight_quant.alpha", lambda: ratio).abs()
        return run(x, w)

    def conv(self, name, x, c_out, stride=1):
        return self.layer(name, x, (c_out, x.shape[1], 3, 3), name == "conv1", lambda a, w: F.conv2d(a, w, None, stride, 1))

    def norm(self, name, x):
        c = x.shape[1]
        gamma = self.param(name + ".weight", lambda: initial(name + ".weight", (c,)))
        beta = self.param(name + ".bias", lambda: initial(name + ".bias", (c,)))
        return F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)

    def block(self, name, x, c_out, stride):
        y = F.relu(self.norm(name + "bn1", self.conv(name + "conv1", x, c_out, stride)))
        y = self.norm(name + "bn2", self.conv(name + "conv2", y, c_out))
        if stride != 1:
            pad = (c_out - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
        return F.relu(y + x)

    def forward(self, x):
        x = F.relu(self.norm("bn1", self.conv("conv1", x, 16)))
        for stage, width in enumerate((16, 32, 64)):
            for i in range(3):
                x = self.block(f"layer{stage + 1}.{i}.", x, width, 2 if stage and i == 0 else 1)
        x = x.mean((2, 3))
        if self.case == "ewgs":
            x = self.norm("bn_last", x)
        bias = self.param("linear.bias", lambda: initial("linear.bias", (10,)))
        return self.layer("linear", x, (10, 64), True, lambda a, w: F.linear(a, w, bias))


def optimizer(net):
    quantizers = [net.p[n] for n in net.quantizer_names]
    others = [p for n, p in net.p.items() if n not in net.quantizer_names]
    if net.case == "ewgs":
        return torch.optim.Adam([{"params": others, "weight_decay": 1e-4}, {"params": quantizers, "lr": 1e-5}], lr=1e-3)
    groups = [{"params": others, "weight_decay": 1e-4}]
    if quantizers:
        groups.append({"params": quantizers})
    return torch.optim.SGD(groups, lr=LR[net.case], momentum=0.9)


def run(case):
    net, opt, losses, out = Net(case), None, [], {}
    for t in range(STEPS):
        x, labels = batch(t)
        loss = F.cross_entropy(net.forward(x), labels)
        losses.append(float(loss))
        if opt is None:
            opt = optimizer(net)
        opt.zero_grad()
        loss.backward()
        if t == 0:
            for name, p in net.p.items():
                g = p.grad.numpy().ravel()
                samples = index("sample/" + name, min(SAMPLES, g.size), g.size)
                head = [np.sqrt((g * g).sum()), (g * draw("projection/" + name, g.size)).sum()]
                out[f"{case}/grad/{name}"] = np.array(head + [g[i] for i in samples])
        opt.step()
        print(case, t, losses[-1], flush=True)
    out[f"{case}/losses"] = np.array(losses)
    return out


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F64", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for a in tensors.values():
            f.write(a.astype("<f8").tobytes())


def main():
    tensors = {}
    for case in ("fp32", "lsq", "ewgs"):
        torch.set_default_dtype(torch.float32)
        single = run(case)
        torch.set_default_dtype(torch.float64)
        tensors.update(run(case))
        tensors[f"{case}/losses_float"] = single[f"{case}/losses"]
    write_safetensors(os.path.join(os.path.dirname(os.path.abspath(__file__)), "resnet20.safetensors"), tensors)


if __name__ == "__main__":
    main()
