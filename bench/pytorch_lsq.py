#!/usr/bin/env python3
"""Times a training step of ResNet-20 in PyTorch: float, or LSQ with 4-bit weights and activations as plain autograd.

usage: pytorch_lsq.py fp32|lsq-w4a4 [--batch N] [--threads N] [--steps N]

Prints one JSON object {"name", "step_ms", "step_ms_min", "peak_mb"}: median and minimum over the steps, and the peak resident set. What is timed
is what a user of PyTorch runs: channels_last, cross entropy, SGD with momentum 0.9 and weight decay, the batch already in memory. LSQ is the
paper's (first and last layer at 8 bits, the first input signed), with rounding passed straight through by (round(x) - x).detach() + x.
"""
import argparse
import json
import math
import resource
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Step(nn.Module):
    """A quantizer with a learned step size: round(clip(v / s, lo, hi)) * s."""

    def __init__(self, bits, signed):
        super().__init__()
        self.lo, self.hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        self.step = nn.Parameter(torch.ones(()))
        self.ready = False

    def forward(self, v, features):
        if not self.ready:
            self.step.data.fill_(2 * v.detach().abs().mean().item() / math.sqrt(self.hi))
            self.ready = True
        scale = 1 / math.sqrt(features * self.hi)
        step = (self.step - self.step * scale).detach() + self.step * scale
        u = torch.clamp(v / step, self.lo, self.hi)
        return ((u.round() - u).detach() + u) * step


class Conv(nn.Module):
    """A convolution without bias; with bits, its weights and input are quantized."""

    def __init__(self, c_in, c_out, stride, bits, signed_input=False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, 3, 3))
        nn.init.kaiming_normal_(self.weight)
        self.stride = stride
        self.quantizers = nn.ModuleList([Step(bits, True), Step(bits, signed_input)]) if bits else None

    def forward(self, x):
        w = self.weight
        if self.quantizers:
            w = self.quantizers[0](w, w.numel())
            x = self.quantizers[1](x, x[0].numel())
        return F.conv2d(x, w, None, self.stride, 1)


class Linear(nn.Linear):
    def __init__(self, n_in, n_out, bits):
        super().__init__(n_in, n_out)
        self.quantizers = nn.ModuleList([Step(bits, True), Step(bits, False)]) if bits else None

    def forward(self, x):
        w = self.weight
        if self.quantizers:
            w = self.quantizers[0](w, w.numel())
            x = self.quantizers[1](x, x[0].numel())
        return F.linear(x, w, self.bias)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride, bits):
        super().__init__()
        self.conv1, self.bn1 = Conv(c_in, c_out, stride, bits), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = Conv(c_out, c_out, 1, bits), nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet20(nn.Module):
    def __init__(self, bits):
        super().__init__()
        self.conv1, self.bn1 = Conv(3, 16, 1, 8 if bits else 0, signed_input=True), nn.BatchNorm2d(16)
        blocks, width = [], 16
        for c_out, stride in ((16, 1), (32, 2), (64, 2)):
            for i in range(3):
                blocks.append(Block(width, c_out, stride if i == 0 else 1, bits))
                width = c_out
        self.blocks, self.fc = nn.Sequential(*blocks), Linear(64, 10, 8 if bits else 0)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def main():
    parser = argparse.ArgumentParser(description="Time a training step of ResNet-20 in PyTorch.")
    parser.add_argument("name", choices=["fp32", "lsq-w4a4"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    o = parser.parse_args()
    if o.threads > 0:
        torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    net = ResNet20(4 if o.name == "lsq-w4a4" else 0).to(memory_format=torch.channels_last)
    x = torch.randn(o.batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (o.batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    times = []
    for i in range(o.steps + 3):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({
        "name": "pytorch-" + o.name,
        "step_ms": statistics.median(times),
        "step_ms_min": min(times),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


if __name__ == "__main__":
    main()
