#!/bin/sh
# Exit codes, help, and junk arguments refused with exact messages.
. tests/cli/helpers

expect 2
has err "usage: bitwright COMMAND"
silent out
expect 0 --help
has out "usage: bitwright COMMAND"
silent err
expect 0 --version
grep -qE '^bitwright [0-9]+\.[0-9]+\.[0-9]+$' out || fail "no version"

refuse "bitwright: unknown command 'trian'; did you mean 'train'?" trian
refuse "bitwright: unknown command 'zzzzzz'" zzzzzz

for command in train eval import info analyze search report export verify run bench list; do
    expect 0 "$command" --help
    has out "usage: bitwright $command "
    has out "options:"
    has out "example:"
    has out "  bitwright $command "
    silent err
    refuse "bitwright $command: unknown option '--hepl'; did you mean '--help'?" "$command" --hepl
    has err "See 'bitwright $command --help'."
    refuse "bitwright $command: unknown option '-q'" "$command" -q
    refuse "bitwright $command: --cpu needs a value" "$command" --cpu
done

refuse "bitwright train: RECIPE is missing" train
refuse "bitwright train: unexpected argument 'b'" train a b
refuse "bitwright train: unknown option '--epoch'; did you mean '--epochs'?" train a --epoch 3
refuse "bitwright train: unknown option '--epoch'; did you mean '--epochs'?" train a --epoch=3
refuse "bitwright train: --epochs: '3x' is not a whole number" train a --epochs 3x
refuse "bitwright train: --epochs: '1e3' is not a whole number" train a --epochs=1e3
refuse "bitwright train: --epochs: ' 3' is not a whole number" train a --epochs " 3"
refuse "bitwright train: --epochs: '' is not a whole number" train a --epochs=
refuse "bitwright train: --epochs: 0 is not between 1 and 1000000" train a --epochs 0
refuse "bitwright train: --epochs: -2 is not between 1 and 1000000" train a --epochs -2
refuse "bitwright train: --epochs: 99999999999999999999 is not between 1 and 1000000" train a --epochs 99999999999999999999
refuse "bitwright train: --precision: 'fst' is not one of f32|fast" train a --precision fst
refuse "bitwright train: --quiet takes no value" train a --quiet=yes
refuse "bitwright train: --out needs a value" train a --out
refuse "bitwright train: --out needs a value" train a --out --quiet
refuse "bitwright train: --out: the value is empty" train a --out ""
expect 2 train "$root/recipes/demo-fp32.yaml" --set train.epoch=3 --dry-run
has err "train.epoch"
expect 2 train "$root/recipes/demo-fp32.yaml" --set train.epochs=many --dry-run
has err "train.epochs"
expect 1 train nowhere.yaml
has err "nowhere.yaml"

refuse "bitwright eval: MODEL is missing" eval
refuse "bitwright eval: --batch: 0 is not between 1 and 65536" eval m --batch 0
expect 1 eval nowhere.safetensors
has err "nowhere.safetensors"
silent out

refuse "bitwright import: IN is missing" import
refuse "bitwright import: --net is missing" import a.th
refuse "bitwright import: --out is missing" import a.th --net resnet20
refuse "bitwright import: --shortcut: 'B' is not one of A|projection" import a.th --net resnet20 --out b --shortcut B
expect 1 import nowhere.th --net resnet20 --out b.safetensors
has err "nowhere.th"
[ ! -e b.safetensors ] || fail "a failed import left its file"

refuse "bitwright info: FILE is missing" info
echo "not a model" >junk.safetensors
expect 1 info junk.safetensors
has err "junk.safetensors"

refuse "bitwright analyze: MODEL is missing" analyze
refuse "bitwright analyze: --batches: 0 is not between 1 and 1000000" analyze m --batches 0
refuse "bitwright analyze: --out needs a value" analyze m --out
expect 1 analyze junk.safetensors
has err "junk.safetensors"

refuse "bitwright bench: WHAT is missing" bench
refuse "bitwright bench: unknown benchmark 'trian'; did you mean 'train'?" bench trian
refuse "bitwright bench: unknown configuration 'lsq-w4a'; did you mean 'lsq-w4a4'?" bench train --only fp32,lsq-w4a
refuse "bitwright bench: --steps: 'ten' is not a whole number" bench train --steps ten

refuse "bitwright list: unknown kind 'quantiser'; did you mean 'quantizer'?" list quantiser
expect 0 list quantizers
has out "lsq"
expect 0 list policies
has out "first-last-8"
expect 0 list --json
json out '$o->{quantizer}[0]{name} && $o->{operation}'
expect 0 list --markdown
has out "| \`lsq\` |"

expect 2 list --cpu z80
has err "z80"
expect 0 list --cpu ref
expect 0 train --keys
has out "train.epochs"
finish
