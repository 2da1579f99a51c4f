#!/bin/sh
# export and verify: a trained model becomes a packed file, and the engine says what training says.

. tests/cli/helpers

cat >tiny.yaml <<'YAML'
quant: {weight: lsq, activation: lsq, weight_bits: 2, activation_bits: 2, policy: first-last-8}
optim: {lr: 0.01}
data: {limit: 64}
train: {epochs: 1, batch: 32, threads: 1}
YAML
expect 0 train tiny.yaml --out runs/tiny --quiet

expect 0 export runs/tiny/model.safetensors --out tiny.packed
has out "tiny.packed: flash $(wc -c <tiny.packed) bytes, RAM "
[ -s tiny.packed ] || fail "no packed file"
[ "$(wc -c <tiny.packed)" -lt 76500 ] || fail "the packed file has $(wc -c <tiny.packed) bytes"
expect 0 export runs/tiny/checkpoint.safetensors --out again.packed --to packed
cmp -s tiny.packed again.packed || fail "model and checkpoint give other files"
refuse "bitwright export: --out is missing: name the file to write" export runs/tiny/model.safetensors
expect 2 export runs/tiny/model.safetensors --out x --to pakced
has err "did you mean 'packed'"
expect 1 export nothing.safetensors --out x
has err "nothing.safetensors"
[ ! -e x ] || fail "a failed export left its file"

expect 0 info tiny.packed
has out "packed, "
has out "layer3.2.conv2"
expect 0 info tiny.packed --json
json out '$o->{kind} eq "packed" && $o->{classes} == 10 && $o->{layers}[1]{weight_bits} == 8 && $o->{layers}[2]{weight_bits} == 2'

json out '!grep { $_->{measured} || $_->{kernel} ne $_->{table_kernel} } @{$o->{layers}}'
expect 0 info tiny.packed --plan measured --json --cpu native
json out '(!grep { $_->{measured} && !($_->{microseconds} > 0 && $_->{table_microseconds} >= $_->{microseconds}) } @{$o->{layers}})'
if grep -q avx512vnni /proc/cpuinfo; then
    json out '(grep { $_->{measured} } @{$o->{layers}}) >= 19'
    expect 0 info tiny.packed --plan measured
    has out ", measured: "
fi
refuse "bitwright info: --plan: 'tabel' is not one of table|measured" info tiny.packed --plan tabel

# Evaluation of a quantized model runs on the engine, and says what the packed file says.
expect 0 eval runs/tiny/model.safetensors --threads 2 --json
json out '$o->{engine} && $o->{images} == 4000'
mv out first
expect 0 eval tiny.packed --data shapes --threads 1 --json
sed 's/,"images_per_s[^,]*//' first >a
sed 's/,"images_per_s[^,]*//' out >b
cmp -s a b || fail "the packed file gives another result"
expect 0 eval tiny.packed --data shapes --threads 1 --plan measured --json
sed 's/,"images_per_s[^,]*//' out >b
cmp -s a b || fail "eval: the measured plan gives another result"
expect 0 run tiny.packed --data shapes --limit 20
mv out a
expect 0 run tiny.packed --data shapes --limit 20 --plan measured
cmp -s out a || fail "run: the measured plan gives another result"
expect 0 eval runs/tiny/model.safetensors --precision fast --json
json out '!$o->{engine}'
expect 2 eval tiny.packed
has err "name a data set"
expect 2 eval tiny.packed --data shapes --precision fast
has err "no training graph"

expect 0 bench infer --model tiny.packed --threads 2 --batch 4 --json
json out '@{$o->{rows}} == 1 && $o->{rows}[0]{threads} == 2 && $o->{rows}[0]{batch} == 4'
json out '$o->{rows}[0]{latency_ms} > 0 && $o->{rows}[0]{images_per_s} > 0 && $o->{rows}[0]{packed_bytes} == -s "tiny.packed"'
expect 0 bench infer --model tiny.packed --batch 4 --threads 1 --plan measured --json
json out '$o->{rows}[0]{latency_ms} > 0'
expect 2 bench infer
has err "--model"

# C code, with floats and without: strict compilers take it. What it says is compared by verify, by tests/unit/test_c_code.c and by c_code.sh.
for form in c c-integer; do
    expect 0 export runs/tiny/model.safetensors --to $form --out net-2.c --json
    json out '$o->{flash_bytes} > 60000 && $o->{flash_bytes} < 90000 && $o->{ram_bytes} > 32768'
    ram=$(sed -n 's/.*define NET_2_BUFFER_BYTES //p' net-2.h)
    expect 0 export runs/tiny/model.safetensors --to $form --out net-2.c
    has out "bytes and its code, RAM $ram bytes"
    for cc in gcc clang; do
        ! command -v $cc >/dev/null || $cc -std=c99 -pedantic -Wall -Wextra -Wshadow -Wconversion -Werror -O1 -c net-2.c -o net.o || fail "$cc rejects the C code"
    done
    grep -q "define NET_2_BUFFER_BYTES" net-2.h || fail "the header lacks the size of the buffer"
    expect 2 export runs/tiny/model.safetensors --to $form --out net.txt
    has err "ends in .c"
done

# ONNX: the same bytes again, and the help names every form.
for form in onnx onnx13 qonnx; do
    expect 0 export runs/tiny/model.safetensors --to $form --out tiny.$form
    silent out
    silent err
    expect 0 export runs/tiny/checkpoint.safetensors --to $form --out again.$form
    cmp -s tiny.$form again.$form || fail "$form: model and checkpoint give other files"
    expect 1 export runs/tiny/model.safetensors --to $form --out nowhere/tiny.$form
    has err "nowhere/tiny.$form"
    expect 2 export runs/tiny/model.safetensors --to x$form --out x
    has err "did you mean '$form'"
done
[ $(($(wc -c <tiny.onnx) * 10)) -lt $(($(wc -c <tiny.onnx13) * 6)) ] || fail "INT4 does not make the file smaller"
grep -q QuantizeLinear tiny.onnx && grep -q qonnx.custom_op.general tiny.qonnx || fail "the ONNX files lack their operators"
expect 0 export --help
has out "onnx"
expect 0 verify runs/tiny/model.safetensors --limit 20 --threads 1
has out ", C code: 0 logits differ"
expect 0 verify runs/tiny/model.safetensors --limit 20 --threads 1 --c-integer
has out ", integer C code: 0 logits differ"
has out "layer3.2.conv2.input_quant              2         81920           0          0        0"
expect 1 verify runs/tiny/model.safetensors --limit 2 --compiler no-such-compiler
has err "no-such-compiler"
# A compiler that gets other weights than the model's, as one that miscompiles would: the logits of the C code alone are wrong.
cat >wrong-cc <<'END'
#!/bin/sh
for file; do :; done # the last argument
sed -i '/net_codes\[\] = {/{n;s/[0-9][0-9]*/0/g}' "$file" && exec cc "$@"
END
chmod +x wrong-cc
expect 1 verify runs/tiny/model.safetensors --limit 2 --threads 1 --cpu ref --compiler ./wrong-cc --json
json out '$o->{engines} eq "ref, C code" && $o->{differing_logits} > 0 && $o->{differing_classes} == 0'
expect 0 verify runs/tiny/model.safetensors --limit 20 --threads 2 --json
json out '$o->{images} == 20 && $o->{differing_logits} == 0 && $o->{differing_classes} == 0 && $o->{largest_difference} == 0'
json out '@{$o->{layers}} == 20 && !grep { $_->{differing_codes} || $_->{differing_images} || !$_->{codes} } @{$o->{layers}}'
json out '$o->{layers}[0]{name} eq "conv1.input_quant" && $o->{layers}[0]{bits} == 8 && $o->{layers}[0]{codes} == 20 * 32 * 32 * 3 && $o->{layers}[1]{bits} == 2'
expect 0 verify runs/tiny/model.safetensors --limit 5 --cpu ref --compiler none --json
json out '$o->{engines} eq "ref" && $o->{differing_logits} == 0'

# Weights whose levels are no integers, on codes and on floats: what follows their sums is float, and still the same everywhere.
for activation in lsq none; do
    [ $activation = lsq ] && most=99 || most=1e-3 # a code that flips makes another network
    sed "s/weight: lsq, activation: lsq/weight: minmax, activation: $activation/; s/first-last-8/all/" tiny.yaml >minmax.yaml
    expect 0 train minmax.yaml --out runs/minmax --quiet
    expect 0 verify runs/minmax/model.safetensors --limit 10 --threads 1 --json
    json out "\$o->{differing_logits} == 0 && \$o->{engines} =~ /C code/ && \$o->{largest_difference} < $most"
    rm -r runs/minmax
done
expect 1 verify tiny.packed
has err "tiny.packed: it is a packed file"
finish
