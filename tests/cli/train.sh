#!/bin/sh
# A tiny run from the recipe to the model: outputs, interruption and resuming, evaluation, info and import of what was written.
. tests/cli/helpers

cat >tiny.yaml <<'YAML'
name: tiny
data:
  source: shapes
  limit: 96
optim:
  lr: 0.05
train:
  epochs: 2
  batch: 32
  threads: 2
quant:
  weight: lsq
  activation: lsq
  weight_bits: 2
  activation_bits: 2
  policy: first-last-8
YAML

expect 0 train tiny.yaml --dry-run
has out "epochs: 2"
has out "layer3.2.conv2"
expect 0 train tiny.yaml --dry-run --json
json out
expect 0 train tiny.yaml --dry-run --set net.family=vgg16bn-small
has out "features.40"
has out "923130 parameters"
has out "float 3692520 (3.693 MB)"
[ ! -e runs ] || fail "a dry run made a folder"
expect 1 train tiny.yaml --set net.image=64
has err "data set 'shapes' has images of 32x32x3, the network takes 64x64x3; recipe key net.image gives their size"
rm -r runs

# stderr is a file here: plain lines, nothing rewritten.
expect 0 train tiny.yaml
has out "test accuracy"
has out "runs/tiny/model.safetensors"
has err "epoch 2/2"
if grep -q "$(printf '\r')" err; then fail "a line is rewritten though stderr is no terminal"; fi
for f in checkpoint.safetensors best.safetensors model.safetensors log.jsonl recipe.yaml; do
    [ -s "runs/tiny/$f" ] || fail "runs/tiny/$f is missing"
done
json runs/tiny/log.jsonl

# A folder that holds a run is not touched unless that is asked for.
cp runs/tiny/model.safetensors first.safetensors
expect 2 train tiny.yaml --seed 5
has err "runs/tiny"
cmp -s runs/tiny/model.safetensors first.safetensors || fail "a run was overwritten"
expect 0 train tiny.yaml --overwrite --json --quiet
silent err
json out '$o->{epoch} && defined $o->{train_loss}'
[ "$(wc -l <out)" = 2 ] || fail "not one line an epoch"
cmp -s runs/tiny/model.safetensors first.safetensors || fail "the same recipe gave another model"

# Stopped, continued: the same bytes.
expect 1 train tiny.yaml --out runs/stopped --stop-after-steps 4 --quiet
has err "Continue with:"
has err "bitwright train tiny.yaml --out runs/stopped --quiet --resume"
expect 0 train tiny.yaml --out runs/stopped --quiet --resume
cmp -s runs/stopped/model.safetensors first.safetensors || fail "the resumed run gave another model"

# A signal: a checkpoint, exit status 1, and the way to go on. The run is long enough to be still going.
"$bitwright" train tiny.yaml --out runs/signal --epochs 200 >out 2>err &
pid=$!
tries=0
until grep -q "epoch 1/" err || [ $tries = 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -TERM $pid
status=0
wait $pid || status=$?
[ $status = 1 ] || fail "exit status $status after SIGTERM"
has err "--resume"
[ -s runs/signal/checkpoint.safetensors ] || fail "no checkpoint after SIGTERM"

expect 0 eval runs/tiny/model.safetensors --json
json out '$o->{images} == 4000 && $o->{top5} >= $o->{top1} && $o->{loss} > 0 && $o->{images_per_s} > 0'
silent err
expect 0 eval runs/tiny/checkpoint.safetensors --precision fast --batch 500
has out "top-1"
expect 2 eval runs/tiny/model.safetensors --normalize imagnet
has err "did you mean 'imagenet'"
expect 0 info runs/tiny/model.safetensors
has out "resnet20"
expect 0 info runs/tiny/model.safetensors --json
json out
expect 0 info runs/tiny/checkpoint.safetensors --json
json out

# Analysis of the model, with the log that lies beside it; the file stays as it is.
cp runs/tiny/model.safetensors before.safetensors
expect 0 analyze runs/tiny/model.safetensors --batches 1 --batch 16
has out "layer3.2.conv2           activation 2 bit lsq"
has out "mean of 18               weight     2 bit"
silent err
expect 0 analyze runs/tiny/model.safetensors --batches 1 --batch 16 --out analysis --json
json out '@{$o->{tensors}} == 40 && @{$o->{history}{epochs}} == 2 && $o->{tensors}[2]{ratio}{1} > 0'
for f in analysis.json weights.svg activations.svg ratio.svg history-step.svg; do
    [ -s "analysis/$f" ] || fail "no analysis/$f"
done
cmp -s runs/tiny/model.safetensors before.safetensors || fail "the analysis changed the model"
expect 0 analyze before.safetensors --batches 1 --batch 16 --json
json out '!defined $o->{history}'
expect 0 analyze before.safetensors --batches 1 --batch 16 --run runs/tiny --json
json out '@{$o->{history}{epochs}} == 2'
expect 1 analyze before.safetensors --run nowhere
has err "nowhere/log.jsonl"

# A float model is a weights file that import takes.
expect 0 train tiny.yaml --out runs/float --set quant.weight=none --set quant.activation=none --epochs 1 --quiet
expect 1 analyze runs/float/model.safetensors
has err "no quantized layers"
expect 0 import runs/float/model.safetensors --net resnet20 --out imported.safetensors
[ -s imported.safetensors ] || fail "no imported model"
has out "wrote imported.safetensors"
has out "0 missing, 0 tensors left over"
[ "$(wc -l <out)" = 2 ] || fail "import says more than what is missing, left over and written"
expect 0 import runs/float/model.safetensors --net resnet20 --out imported.safetensors --json
json out '$o->{out} eq "imported.safetensors" && @{$o->{report}} > 90 && $o->{model}'
expect 1 import runs/float/model.safetensors --net resnet32 --out other.safetensors
[ ! -e other.safetensors ] || fail "a failed import left its file"

# Distillation: the float model teaches; what cannot teach is refused before anything is written.
expect 0 train tiny.yaml --out runs/distilled --set distill.teacher=runs/float/model.safetensors --epochs 1
has err "distillation from resnet20 in runs/float/model.safetensors"
expect 1 train tiny.yaml --out runs/refused --set distill.teacher=nowhere.safetensors
has err "distill.teacher: nowhere.safetensors"
expect 1 train tiny.yaml --out runs/refused --set "distill.teacher=$root/tests/golden/resnet20.safetensors"
has err "import it first"
expect 2 train tiny.yaml --out runs/refused --set distill.teacher=runs/float/model.safetensors --set data.normalize=half
has err "data.normalize"
[ ! -e runs/refused/checkpoint.safetensors ] || fail "a refused run left a checkpoint"
finish
