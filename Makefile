# `make demo`, `make test`, `make test-slow` and `make check`; the README says what each does, also without make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
#: Versions that the gate passed with; `make test-latest` leaves them out.
CONSTRAINTS ?= -c constraints.txt

.PHONY: demo test test-slow check test-latest constraints release site results bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/regraft demo

test: $(VENV)/.dev
	$(BIN)/python tests/gate.py

# exports in their own runtimes, pages as they are written, Ray, the demo: the tests that `make test` leaves out
test-slow: $(VENV)/.dev
	$(BIN)/python tests/gate.py slow

# lint, types and layers, without the tests: under a minute
check: $(VENV)/.dev
	$(BIN)/python tests/gate.py check

# the same gate with the newest release of every dependency, in an environment of its own
test-latest:
	$(MAKE) test test-slow VENV=.venv-latest CONSTRAINTS=--upgrade

# write down the versions of this environment, after both gates have passed with them
constraints: $(VENV)/.dev $(VENV)/.release
	$(BIN)/python tests/constraints.py

# sdist and wheel of the last commit in dist/, built twice and checked with the oldest and the newest Python and dependencies, which are
# downloaded (gigabytes); make release PYTHONS='3.11 3.13' names others
release: $(VENV)/.release
	$(BIN)/python release/release.py --pythons '$(PYTHONS)'

# the documentation as build/site/index.html, which opens without a server; its search needs one: python -m http.server -d build/site
site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# render the tables of docs/performance.md from benchmarks/results/*.json
results: $(VENV)/.dev
	$(BIN)/python benchmarks/render.py --write

# regraft beside its peers (an hour on two cores, 30 GB of environments): make bench DATA=folder with train/ and test/
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/peers/run.py --data $(DATA) --repeats 3

# the same where there is a CUDA device
bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py $(DATA)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"regraft needs Python >= 3.11 and this is {v.major}.{v.minor}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --progress-bar on $(CONSTRAINTS) -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --progress-bar on $(CONSTRAINTS) -e '.[dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.release: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --progress-bar on $(CONSTRAINTS) -e '.[release]'
	touch $@

clean:
	rm -rf $(VENV) .venv-latest build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
