# Test images of other people's sources, with the library of this directory:
#
#	make -f .../tests/guest/image.mk sum.bin
#
# makes sum.bin of sum.c or sum.S here. SOURCES="more.c" adds files, PARAMETERS="order=le" sets
# parameters of the image (README.md).
PPC64EMU := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/../..)
PYTHON ?= $(or $(wildcard $(PPC64EMU)/.venv/bin/python),python3)
SOURCES ?=
PARAMETERS ?=

build = cd $(PPC64EMU) && $(PYTHON) -m tests.support.build_image \
	-o $(abspath $@) $(abspath $< $(SOURCES)) $(PARAMETERS)

%.bin: %.c FORCE
	@$(build)

%.bin: %.S FORCE
	@$(build)

.PHONY: FORCE
FORCE:
