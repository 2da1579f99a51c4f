# GNU make. `make help` lists the targets and options.
CC      := $(if $(filter default,$(origin CC)),gcc,$(CC))
AR      := ar
SAN     :=
WERROR  :=
PREFIX  := /usr/local
DESTDIR :=
T       :=
F       :=
SECONDS := 60
V       :=
OPT     := $(if $(SAN),-O1,-O3)
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# One short line a file; V=1: the whole commands.
say = $(if $(V),,@echo '  $1  $@';)

# Each sanitizer, and fuzzing, builds in a folder of its own.
B    := build$(if $(SAN),/san-$(SAN))
ARCH := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null)) unknown)
VERSION := $(shell sed -n 's/^.define BW_VERSION "\(.*\)"/\1/p' include/bitwright/bitwright.h)

CFLAGS  := -std=c11 -D_GNU_SOURCE $(OPT) -g -Wall -Wextra -Wshadow -Wvla -Wconversion -Wno-sign-conversion $(if $(WERROR),-Werror) \
           -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -Isrc -Iinclude
ifneq ($(SAN),)
CFLAGS  += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
ifneq ($(findstring clang,$(CC)),)
CFLAGS  += -Wno-pass-failed # a loop that one compiler does not vectorize is not a defect
endif
LDFLAGS := -fopenmp $(if $(SAN),-fsanitize=$(SAN)) -Wl,--as-needed
LDLIBS  := -ldnnl -ljansson -lcyaml -lyaml -lzip -lpng -lturbojpeg -lprotobuf-c -lm

# Element loops are compiled once for each of their variants (src/base/variant.h), everything else once.
VARIANT_SRC := $(wildcard src/nn/ops/*.c src/quant/quantizers/*.c src/quant/gradients/*.c src/quant/metanet.c \
               src/nn/softmax_ce.c src/compute/reference.c)
PLAIN_SRC   := $(filter-out $(VARIANT_SRC),$(shell find src -name '*.c' | LC_ALL=C sort))
VARIANTS    := 0 1 $(if $(filter x86_64,$(ARCH)),2 3)
VARIANT_0   := -DBWI_VARIANT=0
VARIANT_1   := -DBWI_VARIANT=1
VARIANT_2   := -DBWI_VARIANT=2 -mavx2 -mfma
VARIANT_3   := -DBWI_VARIANT=3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512

# The part of a file's name behind its last underscore is the instruction set that the file is written for.
ISAS        := $(if $(filter x86_64,$(ARCH)),avx2 avx512 vnni vpopcnt)
ISA_avx2    := -mavx2
ISA_avx512  := -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_vnni    := $(ISA_avx512) -mavx512vnni
ISA_vpopcnt := $(ISA_avx512) -mavx512vpopcntdq
ISA_OF       = $(if $(filter $(B)/src/%,$@),$(ISA_$(filter $(ISAS),$(lastword $(subst _, ,$(basename $(@F)))))))

# The schema of ONNX files, onnx.proto of Debian's libonnx-dev (and of Python's package onnx).
ONNX_PROTO  := /usr/include/onnx/onnx.proto
PROTO       := $(B)/proto/deploy/onnx.pb-c

LIB_OBJ  := $(PLAIN_SRC:%.c=$(B)/%.o) $(PROTO).o $(foreach v,$(VARIANTS),$(VARIANT_SRC:%.c=$(B)/%.v$v.o))
PROG_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tools/bitwright/*.c))
LIB      := $(B)/libbitwright.a
PROG     := $(if $(PROG_OBJ),$(B)/bitwright)
TESTS    := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,$(B)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES  := $(patsubst bench/%.c,$(B)/bench/%,$(wildcard bench/*.c))

.PHONY: all check build-check run-check bench run-bench lint install demo fuzz run-fuzz clean deps help FORCE docs
all: $(LIB) $(PROG)

# A file that changes only when its text does: what depends on it is rebuilt when flags, or the list of objects, change.
$(B)/flags: TEXT = $(CC) $(CFLAGS) | $(LDFLAGS) $(LDLIBS) | $(foreach v,$(VARIANTS),$(VARIANT_$v)) | $(foreach i,$(ISAS),$(ISA_$i))
$(B)/objects: TEXT = $(LIB_OBJ) $(PROG_OBJ)
$(B)/flags $(B)/objects: FORCE
	@mkdir -p $(@D); echo '$(TEXT)' | cmp -s - $@ || echo '$(TEXT)' > $@

# Text of a file as a C string.
$(B)/text/%.h: src/%.inc
	@mkdir -p $(@D)
	@sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&\\n"/' $< > $@
C_CODE   := $(patsubst %.c,$(B)/%.o,$(wildcard src/deploy/c_code.c src/deploy/emit_c*.c))
$(C_CODE): $(patsubst src/%.inc,$(B)/text/%.h,$(wildcard src/deploy/portable*.inc))
$(C_CODE): private CFLAGS += -I$(B)/text

# Messages of the schema as C structs, by protobuf-c. Generated code is compiled without our warnings.
# (private: a flag of these objects alone must not reach $(B)/flags, on which all objects depend.)
$(PROTO).c: $(ONNX_PROTO)
	@mkdir -p $(@D)
	$(call say,PB) protoc-c --proto_path=$(dir $<) --c_out=$(@D) $<
$(PROTO).h: $(PROTO).c ;
$(PROTO).o: $(PROTO).c $(B)/flags
	$(call say,CC) $(CC) $(CFLAGS) -w -c $< -o $@
ONNX_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard src/deploy/*onnx*.c tests/unit/test_onnx.c))
$(ONNX_OBJ): $(PROTO).h
$(ONNX_OBJ): private CFLAGS += -I$(B)/proto

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC) $(CC) $(CFLAGS) $(ISA_OF) -MMD -MP -c $< -o $@

define variant_rule
$(B)/%.v$1.o: %.c $(B)/flags
	@mkdir -p $$(@D)
	$$(call say,CC) $$(CC) $$(CFLAGS) $$(VARIANT_$1) -MMD -MP -c $$< -o $$@
endef
$(foreach v,$(VARIANTS),$(eval $(call variant_rule,$v)))

$(LIB): $(LIB_OBJ) $(B)/objects
	@rm -f $@
	$(call say,AR) $(AR) rcs $@ $(LIB_OBJ)

$(B)/bitwright: $(PROG_OBJ) $(LIB) $(B)/objects
	$(call say,LD) $(CC) $(LDFLAGS) $(PROG_OBJ) $(LIB) $(LDLIBS) -o $@

$(B)/tests/test_%: $(B)/tests/unit/test_%.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD) $(CC) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(B)/tests/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/replay_main.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD) $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(B)/bench/%: $(B)/bench/%.o $(LIB)
	$(call say,LD) $(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

# deps comes first, whatever -j says: nothing can be compiled before the headers are there.
check: deps
	@$(MAKE) --no-print-directory run-check

build-check: $(if $(T),$(filter %/$(T),$(TESTS) $(FUZZERS)),all $(TESTS) $(FUZZERS) $(BENCHES))
run-check: build-check
	@BUILD=$(B) scripts/check $(T)

bench: deps
	@$(MAKE) --no-print-directory run-bench
run-bench: all $(BENCHES)
	@for b in $(BENCHES); do echo "$$b"; "$$b" || exit 1; done
	$(B)/bitwright bench train

lint:
	@scripts/lint

demo: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(B) scripts/demo

# The library is built with the fuzzer's coverage in a folder of its own: SAN picks it.
fuzz:
	@test -f 'tests/fuzz/$(F).c' || { echo "make fuzz: choose one with F=NAME:" $(notdir $(FUZZERS)); exit 2; }
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined F=$(F) SECONDS=$(SECONDS) run-fuzz
run-fuzz: $(B)/tests/fuzz/$(F).o $(LIB)
	$(call say,LD) $(CC) -fsanitize=fuzzer,address,undefined $(LDFLAGS) $^ $(LDLIBS) -o $(B)/$(F)
	@BUILD=$(B) scripts/fuzz $(F) $(SECONDS)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/bitwright $(DESTDIR)$(PREFIX)/share/bitwright
	install -m 755 $(PROG) $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib/
	install -m 644 include/bitwright/*.h $(DESTDIR)$(PREFIX)/include/bitwright/
	install -m 644 bench/pytorch_lsq.py $(DESTDIR)$(PREFIX)/share/bitwright/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|-fopenmp $(LDLIBS)|' bitwright.pc.in > $(B)/bitwright.pc
	install -m 644 $(B)/bitwright.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/

# Tables of quantizers, gradient methods, networks ... as the rows describe them.
docs: all
	$(B)/bitwright list --markdown > doc/METHODS.md

deps:
	@scripts/deps

clean:
	rm -rf build

help:
	@echo 'make             build/libbitwright.a and build/bitwright'
	@echo 'make check       build and run every test; T=test_base runs one'
	@echo 'make demo        train, quantize and evaluate a small network'
	@echo 'make bench       time a training step'
	@echo 'make fuzz        F=fuzz_safetensors SECONDS=60: fuzz one parser (clang)'
	@echo 'make lint        formatting, include rules, file sizes, rows'
	@echo 'make install     PREFIX=/usr/local DESTDIR='
	@echo 'make deps        install the Debian packages that are missing'
	@echo 'make clean       remove build/'
	@echo 'Options: CC=clang  SAN=address,undefined  SAN=thread (with CC=clang)  WERROR=1  OPT=-O2  V=1 (whole commands); SAN builds in build/san-...'

-include $(shell find $(wildcard $(addprefix $(B)/,src tools tests bench)) -name '*.d' 2>/dev/null)
.SECONDARY:
