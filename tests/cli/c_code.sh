#!/bin/sh
# C code on ARM: without floats it asks a processor that has none for nothing that computes them; on 32-bit ARM it says what it says here.

. tests/cli/helpers

bare=${ARM_NONE_CC:-arm-none-eabi-gcc}
arm=${ARM_CC:-arm-linux-gnueabihf-gcc}
missing=
for program in "$bare" "$arm" qemu-arm; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if ! command -v "$bare" >/dev/null && { ! command -v "$arm" || ! command -v qemu-arm; } >/dev/null; then
    echo "no$missing (Debian: gcc-arm-none-eabi, gcc-arm-linux-gnueabihf, qemu-user)"
    exit 77
fi
[ -z "$missing" ] || echo "left out for want of:$missing"

cat >tiny.yaml <<'YAML'
quant: {weight: lsq, activation: lsq, weight_bits: 2, activation_bits: 2, policy: first-last-8}
optim: {lr: 0.01}
data: {limit: 64}
train: {epochs: 1, batch: 32, threads: 1}
YAML
expect 0 train tiny.yaml --out runs/tiny --quiet
expect 0 export runs/tiny/model.safetensors --to c --out real.c
expect 0 export runs/tiny/model.safetensors --to c-integer --out whole.c

if command -v "$bare" >/dev/null; then
    for processor in cortex-m0 cortex-m4; do
        "$bare" -std=c99 -pedantic -Wall -Wextra -Wshadow -Wconversion -Werror -Os -mcpu=$processor -mthumb -mfloat-abi=soft -c whole.c -o whole.o ||
            fail "$bare rejects the C code"
        ! arm-none-eabi-nm -u whole.o | grep -E '__aeabi_([fd]|u?[il]2[fd])' || fail "code without floats asks for floats on $processor"
        arm-none-eabi-size whole.o
    done
    # The same question finds floats where there are some.
    "$bare" -std=c99 -Os -mcpu=cortex-m0 -mthumb -mfloat-abi=soft -c real.c -o real.o
    arm-none-eabi-nm -u real.o | grep -q __aeabi_fmul || fail "float code without floats"
fi

# Logits of images that a generator makes, as the bits of floats.
cat >say.c <<'C'
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "real.h"
#include "whole.h"
static char buffer[REAL_BUFFER_BYTES > WHOLE_BUFFER_BYTES ? REAL_BUFFER_BYTES : WHOLE_BUFFER_BYTES] __attribute__((aligned(16)));
int main(void)
{
    static unsigned char image[REAL_HEIGHT * REAL_WIDTH * REAL_CHANNELS];
    uint32_t seed = 1;
    for (int n = 0; n < 5; n++) {
        float real[REAL_CLASSES];
        int32_t whole[REAL_CLASSES];
        for (size_t i = 0; i < sizeof image; i++) image[i] = (unsigned char)((seed = seed * 1664525u + 1013904223u) >> 24);
        real_run(image, real, buffer);
        whole_run(image, whole, buffer);
        for (int k = 0; k < REAL_CLASSES; k++) {
            const uint32_t bits = whole[k] < 0 ? (uint32_t)-whole[k] | 0x80000000u : (uint32_t)whole[k];
            uint32_t own;
            memcpy(&own, &real[k], 4);
            printf("%08lx %08lx%s\n", (unsigned long)own, (unsigned long)bits, own == bits ? "" : " differ");
        }
    }
    return 0;
}
C
cc -O2 say.c real.c whole.c -o here && ./here >out || fail "the C code cannot be run"
! grep -q differ out || fail "code without floats says something else"
[ "$(wc -l <out)" = 50 ] || fail "not all images were run"
if command -v "$arm" >/dev/null && command -v qemu-arm >/dev/null; then
    "$arm" -O2 -static say.c real.c whole.c -o there && qemu-arm ./there >other || fail "the C code cannot be run on ARM"
    cmp -s out other || fail "ARM says something else"
fi
finish
