#!/bin/sh
# kill -9 at a random moment, resume, compare: the final checkpoint and model are those of a run that was left alone, byte for byte. Twice in a row
# per round, so that a resumed run is killed too. KILLS=20 for more rounds than the two of everyday.
. tests/cli/helpers
rounds=${KILLS:-2}

cat >kill.yaml <<'END'
name: kill
net: {family: resnet20}
data: {source: shapes, limit: 640}
quant: {weight: lsq, activation: lsq, weight_bits: 2, activation_bits: 2, policy: first-last-8}
optim: {lr: 0.01, momentum: 0.9}
train: {epochs: 3, batch: 64, precision: fast}
END
train() { "$bitwright" train kill.yaml --checkpoint-steps 3 --quiet "$@" >out 2>err </dev/null; }

start=$(date +%s%N)
train --out whole || fail "the uninterrupted run"
length=$((($(date +%s%N) - start) / 1000000)) # ms
seed=$$
equal=0
for round in $(seq "$rounds"); do
    rm -rf killed
    delays=
    for shot in 1 2; do
        seed=$(((seed * 1103515245 + 12345) % 2147483648))
        delay=$((seed / 65536 * length / 32768 * 2 / 3))
        delays="$delays $delay"
        train --out killed --resume &
        pid=$!
        sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
        # the shell's child is the function; its own child is the program
        for p in $(pgrep -P $pid) $pid; do kill -9 "$p" 2>/dev/null; done
        wait $pid 2>/dev/null
    done
    train --out killed --resume || fail "round $round: resuming after kills at$delays ms"
    if cmp -s whole/checkpoint.safetensors killed/checkpoint.safetensors && cmp -s whole/model.safetensors killed/model.safetensors; then
        equal=$((equal + 1))
    else
        fail "round $round: files differ after kills at$delays ms"
    fi
done
echo "$equal of $rounds equal, a run takes $length ms"
finish
