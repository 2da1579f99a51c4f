#!/usr/bin/python3
"""Writes tests/golden/hvp.safetensors: products with the Hessian that test_hvp.c repeats.

The quantized ResNet-20 of make_golden.py (EWGS, BatchNorm1d before the classifier) on one batch of 8 images of 8x8, with 1- and 2-bit weights and
activations and delta 0.2, right after initialisation. For some layers, the weights and the input, H is the Hessian of the loss with respect to the
rounded values on [0, 1], by double backward: roundings further down pass values as the identity with the residual held constant, and the gradient
with the factor of EWGS, whose sign is a constant, too. Per case and tensor, CASE/LAYER.weight or CASE/LAYER.input, the file holds
v'Hv, u'Hv, and of the gradient by those values the standard deviation (N-1), the mean of |.| and max |.|, with u and v the signs of
draw("u/LAYER.weight") and draw("v/...") in PyTorch's order.

Needs PyTorch 1.13 or later; takes seconds.
"""
import os

import numpy as np
import torch
import torch.nn.functional as F
from make_golden import Net, draw, index, write_safetensors

BATCH, SIDE, DELTA = 8, 8, 0.2
LAYERS = ("layer1.0.conv1", "layer1.2.conv2", "layer2.0.conv1", "layer3.2.conv2")


class Discretize(torch.autograd.Function):
    """Rounding to n + 1 levels on [0, 1]. The gradient is scaled by equation 4 of EWGS in the first sweep; the second one, which follows the
    dependence of that gradient on the values, meets the identity."""

    second_sweep = False

    @staticmethod
    def forward(ctx, xn, n):
        xq = torch.round(xn * n) / n
        ctx.residual = (xn - xq).detach()
        return xq

    @staticmethod
    def backward(ctx, g):
        if Discretize.second_sweep:
            return g, None
        return g * (1 + DELTA * torch.sign(g).detach() * ctx.residual), None


class HvpNet(Net):
    def __init__(self, nbits):
        super().__init__("ewgs")
        self.nbits, self.rounded = nbits, {}

    def interval(self, name, x, lower, upper, nbits):
        low = self.quantizer_param(name + ".l", lambda: lower)
        up = self.quantizer_param(name + ".u", lambda: upper)
        xq = Discretize.apply(torch.clamp((x - low) / (up - low), 0, 1), 2**self.nbits - 1)
        self.rounded[name.replace("_quant", "")] = xq
        return xq


def images():
    x = draw("images/hvp", BATCH * 3 * SIDE * SIDE).reshape(BATCH, 3, SIDE, SIDE)
    labels = np.array(index("labels/hvp", BATCH, 10))
    return torch.from_numpy(x.astype(np.float32).astype(np.float64)), torch.from_numpy(labels)


def signs(key, like):
    return torch.from_numpy(np.where(draw(key, like.numel()) < 0, -1.0, 1.0).reshape(like.shape))


def run(nbits):
    net, out = HvpNet(nbits), {}
    x, labels = images()
    loss = F.cross_entropy(net.forward(x), labels)
    for layer in LAYERS:
        for role in ("weight", "input"):
            name = f"{layer}.{role}"
            xq = net.rounded[name]
            (g,) = torch.autograd.grad(loss, xq, create_graph=True)
            v, u = signs("v/" + name, xq), signs("u/" + name, xq)
            Discretize.second_sweep = True
            (hv,) = torch.autograd.grad(g, xq, v, retain_graph=True)  # H'v: H is not symmetric when delta > 0
            (hu,) = torch.autograd.grad(g, xq, u, retain_graph=True)
            Discretize.second_sweep = False
            g = g.detach()
            out[f"w{nbits}a{nbits}/{name}"] = np.array(
                [float((v * hv).sum()), float((hu * v).sum()), float(g.std()), float(g.abs().mean()), float(g.abs().max())]
            )
            print(nbits, name, out[f"w{nbits}a{nbits}/{name}"], flush=True)
    return out


def main():
    torch.set_default_dtype(torch.float64)
    tensors = {**run(1), **run(2)}
    write_safetensors(os.path.join(os.path.dirname(os.path.abspath(__file__)), "hvp.safetensors"), tensors)


if __name__ == "__main__":
    main()
