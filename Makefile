# SPDX-License-Identifier: GPL-2.0-or-later
# `make demo` and `make test` set up what is missing on a Debian machine first.
# Set-up steps leave a stamp in .setup/ named after the content that defines them.

KERNELS := 6.1 6.12
# What writes into docs/performance.md, of one kernel each, in a guest that counts instructions.
BENCHES := bench/migration_cost.py
python := .venv/bin/python
digest = $(shell cat $(1) 2>/dev/null | sha256sum | cut -c1-12)
packages := .setup/packages-$(call digest,scripts/apt-packages.txt scripts/install-packages)
venv := .setup/venv-$(call digest,pyproject.toml Makefile)

.PHONY: demo test setup lint unit host labtest bench kernels bytecode clean

demo: setup ## the main job: a real migration traced; leaves mptrace.data
	@scripts/demo $(ARGS)

test: setup lint kernels bytecode ## all checks; tests on all kernels of the lab
	$(python) -m pytest -n 3 --dist loadgroup --no-loadscope-reorder tests/unit tests/host tests/lab

setup: $(packages) $(venv)

lint: setup
	$(python) -m ruff check
	$(python) -m ruff format --check
	$(python) -m mypy

unit: setup ## tests that need no guest
	$(python) -m pytest tests/unit

host: setup ## tests of this machine's own kernel, as root
	$(python) -m pytest tests/host

labtest: setup bytecode ## tests in guests; KERNEL=6.12 for one kernel
	$(if $(KERNEL),MPTRACE_LAB_KERNELS=$(KERNEL)) $(python) -m pytest -n 3 --dist loadgroup --no-loadscope-reorder tests/lab

bench: setup kernels bytecode ## renews docs/performance.md; KERNEL=6.12 for one kernel
	@for kernel in $(or $(KERNEL),$(KERNELS)); do for program in $(BENCHES); do \
		.venv/bin/mptrace lab --count --kernel $$kernel --bring docs -- $(python) $$program || exit; \
	done; done

# A guest forgets what it compiles: under emulation that takes seconds after each boot.
bytecode: setup
	@$(python) -m compileall -q mptrace tests/lab

kernels: setup
	@for kernel in $(KERNELS); do .venv/bin/mptrace lab --kernel $$kernel --prepare || exit; done

clean:
	rm -rf .setup .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(packages):
	@scripts/install-packages
	@mkdir -p .setup && rm -f .setup/packages-* && touch $@

# The distribution's Python and its packages, as bcc comes from there.
$(venv): | $(packages)
	@echo "==> setting up the virtual environment .venv"
	@[ -x $(python) ] || /usr/bin/python3 -m venv --system-site-packages .venv
# A plain path to the checkout: the other way runs a program at each start of Python.
	@$(python) -m pip --disable-pip-version-check install -q --config-settings editable_mode=compat -e '.[dev]'
	@rm -f .setup/venv-* && touch $@
