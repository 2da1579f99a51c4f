#!/bin/sh
# run: classes of images in files and in data sets, from trained models and packed files, with names.

. tests/cli/helpers
images=$root/tests/fuzz/corpus/fuzz_image

cat >tiny.yaml <<'YAML'
quant: {weight: lsq, activation: lsq, weight_bits: 2, activation_bits: 2, policy: first-last-8}
optim: {lr: 0.01}
data: {limit: 64}
train: {epochs: 1, batch: 32, threads: 1}
YAML
expect 0 train tiny.yaml --out runs/tiny --quiet
expect 0 train tiny.yaml --set quant.weight=none --set quant.activation=none --out runs/float --quiet
expect 0 export runs/tiny/model.safetensors --out tiny.packed
model=runs/tiny/model.safetensors

# Names come from the data set that trained the model; the packed file has them too and says the same.
expect 0 run tiny.packed "$images/rgb8.png" "$images/colour.jpg" --threads 1
[ "$(wc -l <out)" = 2 ] || fail "not a line for each image"
grep -qE '^.*rgb8\.png: [a-z]+ [a-z]+ [0-9.]+ %(, [a-z]+ [a-z]+ [0-9.]+ %){4}$' out || fail "a line is not as it should be"
silent err
mv out packed
expect 0 run $model "$images/rgb8.png" "$images/colour.jpg" --threads 2
cmp -s out packed || fail "the model says something else than its packed file"
expect 0 run tiny.packed "$images/rgb8.png" --json
json out '@{$o->{images}} == 1 && $o->{engine} && @{$o->{images}[0]{top}} == 5 && $o->{images}[0]{top}[0]{name} =~ /^[a-z ]+$/ && !exists $o->{top1}'
json out 'my @p = map { $_->{probability} } @{$o->{images}[0]{top}}; $p[0] >= $p[1] && $p[3] >= $p[4] && $p[4] > 0'

# Pictures in folders: trained on, with the folders' names for classes, and refused where they do not fit.
for class in first second; do
    mkdir -p "pictures/train/$class" "pictures/val/$class"
    cp "$images/rgb8.png" "$images/colour.jpg" "pictures/train/$class"
    cp "$images/gray16.png" "pictures/val/$class"
done
expect 0 train tiny.yaml --data folder:pictures@48 --set net.image=48 --set data.limit=0 --set train.batch=2 --out runs/pictures --quiet
expect 0 run runs/pictures/model.safetensors "$images/rgb8.png"
grep -qE '^.*rgb8\.png: (first [0-9.]+ %, second|second [0-9.]+ %, first) [0-9.]+ %$' out || fail "not the names of the folders"
expect 0 eval runs/pictures/model.safetensors --json
json out '$o->{images} == 2 && $o->{top1} == 50'
expect 1 train tiny.yaml --data folder:pictures@48 --out runs/other
has err "recipe key net.image gives their size"
expect 1 eval runs/pictures/model.safetensors --data folder:runs
has err "runs: expected the folders train and test (or val)"

# A data set: labels, and as accurate as evaluation says.
expect 0 run tiny.packed --data shapes --limit 33
[ "$(wc -l <out)" = 34 ] || fail "not a line for each image and one for all"
grep -qE '^0 \([a-z]+ [a-z]+\): ' out || fail "the first line does not say the label"
grep -qE '^33 images: top-1 [0-9.]+ %, top-5 [0-9.]+ %$' out || fail "the last line does not sum up"
expect 0 eval $model --json
mv out evaluated
expect 0 run $model --data shapes --json
json out '@{$o->{images}} == 4000 && $o->{images}[7]{number} == 7 && defined $o->{images}[7]{label} && $o->{images}[7]{label_name}'
perl -MJSON::PP -e 'for (0, 1) { open my $f, "<", $ARGV[$_]; $v[$_] = decode_json(<$f>) } exit !(abs($v[0]{top1} - $v[1]{top1}) < 1e-6 && abs($v[0]{top5} - $v[1]{top5}) < 1e-6)' \
    out evaluated || fail "run and eval count differently"
# A float network runs as the training graph.
expect 0 run runs/float/model.safetensors --data shapes --limit 3 --json
json out '!$o->{engine} && @{$o->{images}} == 3'

# Names of one's own; files of before there were names do without.
seq 1 10 | sed 's/^/my /' >names
expect 0 run tiny.packed "$images/gray16.png" --classes names
grep -qE 'gray16\.png: my [0-9]+ ' out || fail "the names were not taken"
printf 'a\r\nb\n' >short
refuse "bitwright run: short has 2 lines; the network has 10 classes, and each has a line with its name" run tiny.packed "$images/gray16.png" --classes short
expect 1 run tiny.packed "$images/gray16.png" --classes nowhere
has err "nowhere"
sed 's/bitwright.class_names/bitwright.class_nomes/' tiny.packed >old.packed
expect 0 run old.packed "$images/gray16.png"
grep -qE 'gray16\.png: class [0-9] ' out || fail "a file without names does not give numbers"

# Refused, with what is wrong.
refuse "bitwright run: MODEL is missing" run
refuse "bitwright run: name either files of images or a data set" run tiny.packed
refuse "bitwright run: name either files of images or a data set" run tiny.packed "$images/rgb8.png" --data shapes
refuse "bitwright run: unknown option '--limt'; did you mean '--limit'?" run tiny.packed --limt 3
cp "$images/short.png" short.png
expect 1 run tiny.packed "$images/rgb8.png" short.png "$images/rgb8.png"
says err "bitwright run: short.png: a damaged PNG file: it is cut short"
[ "$(wc -l <out)" = 1 ] || fail "the image before the damaged one was not classified, or one behind it was"
cp "$images/huge.jpg" huge.jpg
expect 1 run $model huge.jpg
says err "bitwright run: huge.jpg: an image of 65000 x 65000 pixels; at most 134217728 are read"
silent out
expect 1 run $model huge.jpg --json
silent out
expect 1 run $model tiny.yaml
says err "bitwright run: tiny.yaml: not an image of a known format: png (.png), jpeg (.jpg .jpeg)"
expect 1 run $model nowhere.png
has err "nowhere.png"
expect 1 run tiny.yaml "$images/rgb8.png"
has err "tiny.yaml"
expect 2 run tiny.packed --data shopes
has err "did you mean 'shapes'"
finish
