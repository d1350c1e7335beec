# ppc64emu: `make boot` boots Debian's ppc64le kernel, `make test` runs every check.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
APT_PACKAGES := qemu-system-ppc qemu-system-data gdb-multiarch device-tree-compiler \
    gcc-powerpc64-linux-gnu libc6-dev-ppc64-cross gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross \
    python3-venv make xz-utils bc bison flex libssl-dev libelf-dev
TEST_ARGS ?=
TEST_JOBS ?= 2

.PHONY: setup packages boot test bench stress soak fuzz lint guests clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[test]'
	$(RUN) -m compileall -q emu machines devices firmware
	touch $@

# Debian packages that tests and guests need; installed only where one is missing.
packages:
	@tools="qemu-system-ppc64 gdb-multiarch dtc powerpc64-linux-gnu-gcc powerpc64le-linux-gnu-gcc xz"; \
	for tool in $$tools; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ]; then SUDO=; else SUDO=sudo; fi; \
	    $$SUDO apt-get update -q && \
	    DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install -q -y --no-install-recommends $(APT_PACKAGES); \
	fi

guests: setup packages
	$(RUN) -m firmware.guests

boot: setup
	$(RUN) -m firmware.guests --only le
	$(RUN) -m emu -M pseries -cpu power8 -m 1G -kernel build/guests/le/vmlinux \
	    -initrd build/guests/le/initramfs.cpio.gz -append "console=hvc0" -nographic

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: guests lint
	@echo "Compiling hot paths (first run only)"
	$(RUN) -c "import emu.machine"
	$(VENV)/bin/pytest -n $(TEST_JOBS) --dist worksteal $(TEST_ARGS)

bench: guests
	$(RUN) -m tests.bench $(BENCH_ARGS)

stress: guests
	$(RUN) -m tests.soak stress

soak: guests
	$(RUN) -m tests.soak all

fuzz: setup
	$(VENV)/bin/pytest tests/property --hypothesis-profile=fuzz

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
