#!/usr/bin/env python3
"""Prints the vectors of tests/unit/test_optim.c: parameters after steps of torch.optim in double precision (PyTorch 1.13).

usage: make_optim.py > vectors.inc
"""
import torch

N, STEPS = 5, 4


def gradient(i, t):
    """Exact in binary, so that C computes the same: sixteenths."""
    return ((7 * i + 3 * t) % 11 - 5) / 16


def run(name, make):
    p = torch.tensor([(i - 2) / 4 for i in range(N)], dtype=torch.float64, requires_grad=True)
    opt = make([p])
    rows = []
    for t in range(STEPS):
        p.grad = torch.tensor([gradient(i, t) for i in range(N)], dtype=torch.float64)
        for group in opt.param_groups:
            group["lr"] = 0.125 / (t + 1)
        opt.step()
        rows.append("    {" + ", ".join("%.17g" % v for v in p.tolist()) + "},")
    print("static const double %s[STEPS][N] = {\n%s\n};" % (name, "\n".join(rows)))


run("sgd_plain", lambda p: torch.optim.SGD(p, 1))
run("sgd_momentum", lambda p: torch.optim.SGD(p, 1, momentum=0.9, weight_decay=0.01))
run("sgd_nesterov", lambda p: torch.optim.SGD(p, 1, momentum=0.75, weight_decay=0.01, nesterov=True))
run("adam_plain", lambda p: torch.optim.Adam(p, 1))
run("adam_decay", lambda p: torch.optim.Adam(p, 1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.25))
p = torch.zeros(1, requires_grad=True)
for name, make in (
    ("cosine_epochs", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5)),
    ("milestones", lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 3, 4], 0.25)),
):
    opt = torch.optim.SGD([p], 1)
    schedule = make(opt)
    row = []
    for epoch in range(5):
        row.append("%.17g" % opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    print("static const double %s[5] = {%s};" % (name, ", ".join(row)))
