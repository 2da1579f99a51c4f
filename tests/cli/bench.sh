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

# Whole networks with random weights: every bit-width and thread count a row, compared with 8/8 where that is among them.
expect 0 bench infer --net resnet20 --bits 8/8,2/1,float --batch 2 --save models --json
json out '@{$o->{rows}} == 6 && $o->{rows}[2]{name} eq "resnet20 2/1" && $o->{rows}[3]{threads} == 2'
json out '$o->{rows}[2]{weight_bits} == 2 && $o->{rows}[2]{activation_bits} == 1 && $o->{rows}[4]{weight_bits} == 32'
json out '!(grep { !($_->{latency_ms} > 0 && $_->{images_per_s} > 0 && $_->{latency_against_int8} > 0) } @{$o->{rows}})'
json out '$o->{rows}[0]{packed_bytes} > 3 * $o->{rows}[2]{packed_bytes} && $o->{rows}[0]{memory_bytes} > 0'
json out '$o->{rows}[4]{packed_bytes} > 3.5 * $o->{rows}[0]{packed_bytes}'
expect 0 info models/resnet20-w2a1.safetensors
has out "resnet20, 10 classes"
expect 0 bench infer --net resnet20 --bits 2/2 --threads 1 --batch 1
has out "resnet20 2/2"
if grep -q "no faster" out; then fail "nothing to compare with, but it says what is faster"; fi
expect 2 bench infer --net resnet20 --bits 9/9
has err "found '9/9'"
expect 2 bench infer --net resnet20 --model x
has err "or --net NAME"
expect 2 bench infer --model x --bits 8/8
has err "goes with --net"
expect 2 bench infer --net resnet21
has err "did you mean 'resnet20'?"
finish
