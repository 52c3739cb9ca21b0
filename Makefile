# Two commands: `make demo` and `make test`. The README says what each does, for people without make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test site bench bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/regraft demo

test: $(VENV)/.dev
	$(BIN)/python tests/gate.py

# the documentation as build/site/index.html, which opens without a server; its search needs one: python -m http.server -d build/site
site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# regraft beside its peers (an hour on two cores, 30 GB of environments): make bench DATA=folder with train/ and test/
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/peers/run.py --data $(DATA) --repeats 3
	$(BIN)/python benchmarks/peers/table.py .bench/results.jsonl --plot docs/images/peers.png

# the same where there is a CUDA device
bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py $(DATA)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"regraft needs Python >= 3.11 and this is {v.major}.{v.minor}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --progress-bar on -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --progress-bar on -e '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
