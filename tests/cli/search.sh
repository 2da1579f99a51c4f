#!/bin/sh
# search and report: bits under a budget, the same result after a kill, a recipe that train reads.

. tests/cli/helpers

cat >tiny.yaml <<'YAML'
name: tiny
quant: {weight: minmax, weight_bits: 4}
hypernet: {hidden: 4, min_bits: 1, max_bits: 4}
optim: {lr: 0.01}
data: {limit: 400, holdout: 100}
train: {epochs: 1, batch: 32, threads: 1}
YAML
expect 0 train tiny.yaml --out runs/tiny --quiet
model=runs/tiny/model.safetensors
few="--calibrate 1 --calibrate-batch 32 --images 40"
small="$few --method genetic:population=5,parents=3,mutations=2,crossovers=2,generations=2"

refuse "bitwright search: MODEL is missing" search
refuse "bitwright search: --budget is missing" search $model --out found
refuse "bitwright search: --out is missing" search $model --budget size=16x
refuse "bitwright search: --bits: '5-3' is not a range within 1-8" search $model --budget size=16x --out found --bits 5-3
refuse "bitwright search: --bits: '3x' is not a range within 1-8" search $model --budget size=16x --out found --bits 3x
refuse "bitwright search: --at-least: '1.5' is not a number from 0 to 1" search $model --budget size=16x --out found --at-least 1.5
refuse "bitwright search: unknown budget 'sise': did you mean 'size'? Known: size, file, bitops, latency" search $model --budget sise=3x --out found
expect 2 search $model --budget size=16x --out found --method genetc
has err "did you mean 'genetic'"
expect 1 search nothing.safetensors --budget size=16x --out found
has err "nothing.safetensors"
expect 2 search $model --budget size=40x --out found $small
has err "budget size=40x: no network of 1 to 4 bits keeps the budget"
expect 2 search $model --budget size=16x --out found --bits 1-6 $small
has err "bits 1 to 6"
expect 2 search $model --budget latency=1ms --out found $small
has err "all activations are float"

# A whole search: 4 uniform networks and 10 others.
expect 0 search $model --budget size=16x --out whole $small --threads 2
has out "14 evaluations"
has out "on 40 images"
if grep -q "was trained on" out; then fail "images that were held out count as seen"; fi
has out "bitwright train whole/recipe.yaml"
has err "evaluation 14/14"
json whole/evaluations.jsonl
[ "$(wc -l <whole/evaluations.jsonl)" = 15 ] || fail "not 15 lines of evaluations"
tr -d '\n' <whole/search.json >one && echo >>one
json one '$o->{cost} <= $o->{limit} && abs($o->{limit} - 67.084) < 1e-6 && @{$o->{layers}} == 20 && @{$o->{uniform}} == 4 && @{$o->{history}} == 2
    && $o->{error} >= 0 && $o->{error} <= 100 && abs($o->{cost} * 1e3 - $o->{weight_bytes}) < 1e-3
    && $o->{packed_bytes} > $o->{weight_bytes}'
grep -q "</svg>" whole/bits.svg || fail "bits.svg is no picture"
refuse "bitwright search: whole holds a search already: resume it, choose another folder, or say that it may be overwritten" \
    search $model --budget size=16x --out whole $small

# Stopped, torn and resumed with another number of threads: the same bytes.
expect 1 search $model --budget size=16x --out part $small --threads 2 --stop-after 9
has err "Continue with:"
has err "bitwright search $model --budget size=16x --out part"
[ ! -e part/search.json ] || fail "an unfinished search has a result"
printf '{"bits":[1,' >>part/evaluations.jsonl
expect 2 search $model --budget size=20x --out part $small --resume
has err 'budget (was "size=16x", now "size=20x")'
expect 2 search $model --budget size=16x --out part $small --resume --seed 5
has err "seed (was 0, now 5)"
expect 0 search $model --budget size=16x --out part $small --threads 1 --resume --quiet
silent err
for file in search.json recipe.yaml evaluations.jsonl bits.svg; do
    cmp -s whole/$file part/$file || fail "$file differs after resuming"
done
expect 0 search $model --budget size=16x --out part $small --seed 5 --overwrite --json --quiet
json out '@{$o->{bits}} == 20 && $o->{unit} eq "kB"'
cmp -s whole/evaluations.jsonl part/evaluations.jsonl && fail "another seed makes the same search"

# Other ways and budgets; activations count that the recipe is to have.
for method in greedy knapsack; do
    expect 0 search $model --budget bitops=20x --out $method $few --method $method --quiet
    has out "5 evaluations"
done
# A budget of the whole file is met by the file.
expect 0 search $model --budget file=75kB --at-least 0.99 --out file $few --method knapsack --quiet --json
json out '$o->{packed_bytes} <= 75000 + 64 && $o->{packed_bytes} >= .99 * 75000 && abs($o->{cost} * 1e3 - $o->{packed_bytes}) <= 64 && $o->{unit} eq "kB"'
expect 0 search $model --budget latency=20ms --out latency --bits 2-3 $few --method random:evaluations=1 --quiet \
    --set hypernet.hidden=0 --set quant.weight=lsq --set quant.activation=lsq --set quant.activation_bits=4
# What cannot be packed, here for its signed 1-bit input, has no size, but is found.
expect 0 search $model --budget size=16x --out unpackable $few --method greedy --quiet --json \
    --set hypernet.hidden=0 --set quant.weight=lsq --set quant.activation=lsq --set quant.activation_bits=1 --set quant.policy=all
json out '$o->{packed_bytes} == 0'
[ -s unpackable/search.json ] || fail "a network that cannot be packed was not found"
# Layers whose bits the policy sets keep them, and count.
expect 0 train tiny.yaml --set hypernet.hidden=0 --set hypernet.min_bits=0 --set hypernet.max_bits=0 --set quant.policy=first-last-8 --out runs/policy --quiet
expect 0 search runs/policy/model.safetensors --budget size=10x --out policy $few --method knapsack --quiet
has out "(2 more layers keep what the model's policy gives them)"
tr -d '\n' <policy/search.json >one && echo >>one
json one '@{$o->{layers}} == 18 && $o->{kept} == 2 && $o->{cost} <= $o->{limit} && abs($o->{cost} * 1e3 - $o->{weight_bytes}) < 1e-3'
has policy/recipe.yaml "policy: first-last-8"
expect 0 train policy/recipe.yaml --dry-run --json
json out '$o->{layers}[0]{name} eq "conv1" && $o->{layers}[0]{weight}{bits} == 8 && $o->{layers}[-1]{weight}{bits} == 8'
expect 2 search runs/policy/model.safetensors --budget size=10x --out other $few --method knapsack --quiet --set quant.policy=all
has err "layer conv1 keeps the 8 bits that the model's policy gives it, and the recipe would give it 4"
# A float model is searched, too, on images that it has seen.
expect 0 train tiny.yaml --set hypernet.hidden=0 --set hypernet.min_bits=0 --set hypernet.max_bits=0 --set data.holdout=0 --set quant.weight=none \
    --out runs/float --quiet
expect 0 search runs/float/model.safetensors --budget size=16x --out float --bits 1-3 $few --method random:evaluations=1 --quiet
has out "on 40 images, which the model was trained on"
has float/recipe.yaml "weight: minmax"
has float/recipe.yaml "init: runs/float/model.safetensors"
expect 0 train float/recipe.yaml --out runs/from-float --quiet
# With the quantizer and the policy that will train it.
expect 0 search runs/float/model.safetensors --budget size=10x --out float-lsq $few --method knapsack --quiet --set quant.weight=lsq --set quant.policy=first-last-8
has out "(2 more layers keep"
has float-lsq/recipe.yaml "weight: lsq"
expect 0 train float-lsq/recipe.yaml --dry-run --json
json out '$o->{layers}[0]{weight}{bits} == 8 && $o->{layers}[1]{weight}{quantizer} eq "lsq"'
# What a model started from may have seen the images that it held out.
expect 0 train tiny.yaml --init runs/float/model.safetensors --out runs/seen --quiet
expect 0 search runs/seen/model.safetensors --budget size=16x --out seen --method random:evaluations=1 $few --quiet
has out "on 40 images, which the model was trained on"

[ -s latency/latency.json ] || fail "no table of latencies"
has latency/recipe.yaml "activation: lsq"

# What was found is trained: by blocks, and by another quantizer.
expect 0 train whole/recipe.yaml --out runs/again --quiet
expect 0 export runs/again/model.safetensors --to packed --out again.safetensors
tr -d '\n' <whole/search.json >one && echo >>one
json one "\$o->{packed_bytes} == $(wc -c <again.safetensors)"
expect 0 train whole/recipe.yaml --set hypernet.hidden=0 --set quant.weight=lsq --out runs/lsq --quiet
expect 0 info runs/lsq/model.safetensors --json
cp out info.json
perl -MJSON::PP -e 'local $/; my ($s, $i) = map { open my $f, "<", $_ or die; decode_json(<$f>) } @ARGV;
    my %bits = map { $_->{name} => $_->{bits} } @{$s->{layers}};
    for (@{$i->{layers}}) { die "$_->{name}\n" unless $_->{weight}{bits} == $bits{$_->{name}} }' whole/search.json info.json ||
    fail "the trained network has other bits"

refuse "bitwright report: DIR is missing" report --out pictures
expect 0 report whole runs/lsq
has out "validation error"
has out "runs/lsq"
expect 0 report whole greedy runs/again runs/lsq --out pictures
for file in bits.svg accuracy.svg curves.svg; do
    grep -q "</svg>" pictures/$file || fail "$file is no picture"
done
tr -d '\n' <pictures/report.json >one && echo >>one
json one '@{$o->{searches}} == 2 && @{$o->{points}} == 12 && @{$o->{runs}} == 2 && $o->{runs}[1]{kind} eq "hybrid" && $o->{runs}[1]{last} == $o->{runs}[1]{test_top1}[-1] && $o->{points}[-1]{kind} eq "hybrid" && $o->{points}[-1]{weight_bytes} == $o->{points}[0]{weight_bytes}'
mkdir -p rare # a run that was not evaluated behind its last epoch
echo "net: {family: resnet20}" >rare/recipe.yaml
{
    for epoch in $(seq 12); do echo "{\"epoch\":$epoch,\"train_loss\":1,\"test_top1\":$((40 + epoch))}"; done
    echo '{"epoch":13,"train_loss":0.5,"test_top1":null}'
} >rare/log.jsonl
expect 0 report rare --out pictures
tr -d '\n' <pictures/report.json >one && echo >>one
json one '$o->{runs}[0]{last} == 52 && $o->{runs}[0]{best} == 52 && $o->{runs}[0]{mean_of_last_10} == 47.5 && @{$o->{runs}[0]{train_loss}} == 13'
expect 0 report pictures whole tiny.yaml # as a shell makes of *
has out "whole: size="
has out "pictures: left out, neither a finished search nor a run"
has out "tiny.yaml: left out"
expect 1 report pictures tiny.yaml
has err "pictures, and the others: it holds neither a finished search"
expect 1 report whole nowhere
has err "nowhere: no such folder"
finish
