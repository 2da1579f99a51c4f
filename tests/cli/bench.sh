#!/bin/sh
# The benchmark's outputs, with as little timing as it can do.
. tests/cli/helpers

expect 0 bench train --only fp32,lsq-w4a4 --steps 1 --batch 4 --pytorch off --json
json out '@{$o->{runs}} == 2 && $o->{runs}[1]{name} eq "lsq-w4a4"'
for key in step_ms step_ms_min peak_mb planned_mb forward_ms backward_ms norm_ms optimizer_ms other_ms quantizer_ms; do
    json out "defined \$o->{runs}[0]{$key} && \$o->{runs}[0]{$key} >= 0"
done
has err "round 2 of 2: lsq-w4a4"
expect 0 bench train --only fp32,lsq-w4a4-fast --steps 1 --batch 4 --pytorch off
has out "lsq-w4a4-fast"
expect 1 bench train --only pytorch-fp32 --pytorch /nowhere/python3 --pytorch-script "$root/bench/pytorch_lsq.py" --steps 1
has err "/nowhere/python3"
finish
