# Every target does its own set-up. `make` alone lists them.

# The newest of these that is 3.11 or later; say `make PYTHON=… test` for another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench comparison completions clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS='	' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed ## Install into .venv and show publish, consume, tail, benchmark
	@$(BIN)/mqcli demo

test: $(VENV)/.tests ## Everything that must pass: ruff, mypy, and the tests on real brokers
	@tests/brokers/install.sh $(BIN)/python
	@$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest -m alone

lint: $(VENV)/.tests ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.tests ## Let ruff repair and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.tests ## Measure mqcli beside the peer tools
	@tests/brokers/install.sh
	$(BIN)/python benchmarks/peers.py

comparison: $(VENV)/.tests ## Measure all brokers side by side, and write that into README.md
	@tests/brokers/install.sh $(BIN)/python
	$(BIN)/python benchmarks/comparison.py

completions: $(VENV)/.installed ## Write completions/ anew from the program
	$(BIN)/python completions/generate.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

# Stamps, so that a second run installs nothing. An editable install follows the sources.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "mqcli needs Python 3.11 or later with venv" \
		"(Debian: apt install python3-venv), and none was found;" \
		"name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		v >= (3, 11) or sys.exit("mqcli needs Python 3.11 or later; $(PYTHON) is %d.%d" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.tests: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed
