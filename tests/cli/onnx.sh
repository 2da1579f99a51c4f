#!/bin/sh
# ONNX Runtime says what the engine says, for every kind of codes; skipped where Python has no ONNX Runtime.

. tests/cli/helpers

python=${PYTHON:-python3}
if ! "$python" -c 'import numpy, onnx, onnxruntime' 2>/dev/null; then
    echo "$python has no onnxruntime (pip install onnxruntime onnx; PYTHON names another Python)"
    exit 77
fi

train() { # name, then as --set
    name=$1
    shift
    set -- $(printf -- '--set %s ' "$@")
    expect 0 train tiny.yaml --out "runs/$name" --quiet "$@"
    models="$models runs/$name/model.safetensors"
}
cat >tiny.yaml <<'YAML'
optim: {lr: 0.01}
data: {limit: 64}
train: {epochs: 1, batch: 32, threads: 1}
YAML
models=
train lsq quant.weight=lsq quant.activation=lsq quant.weight_bits=4 quant.activation_bits=4 quant.policy=first-last-8
train interval quant.weight=interval quant.activation=interval quant.weight_bits=2 quant.activation_bits=2 quant.policy=all
train bwn quant.weight=bwn quant.activation=lsq quant.weight_bits=1 quant.activation_bits=8 quant.policy=all
"$python" "$root/tests/golden/check_onnx.py" $models --program "$bitwright" --images 20 --qonnx-images 2 >out 2>err || fail "an exported model says something else"
cat out
finish
