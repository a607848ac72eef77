# `make demo` runs the whole job on the embedded default; `make test` passes the tests. Each sets itself up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EARLIER := .cache/transformers-4.57

.PHONY: demo test faults bench setup lint clean

demo: setup
	$(BIN)/videogpt-plus sweep toy --jobs 2 --batch-size 8

test: $(VENV)/.train $(EARLIER)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Bad files and command lines of every kind, kills, full disks and many clips, counted: some ten minutes.
faults: $(VENV)/.train
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults

# Measures on this machine alone: leave it to itself for a quarter of an hour.
bench: setup
	$(BIN)/python -m benchmarks.bench

# The stamp is newer than pyproject.toml once the environment fits it.
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; name one: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# The tests train with DeepSpeed and open the page, too, which nothing else needs. It is built here: without CUDA there are no kernels.
$(VENV)/.train: $(VENV)/.installed
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -e '.[train,web,dev]'
	touch $@

# The families are tested on an earlier transformers, too, which lies in a folder of its own.
$(EARLIER)/.installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile --upgrade --target $(EARLIER) \
	  transformers==4.57.1 tokenizers==0.22.1 huggingface_hub==0.36.0 requests urllib3 idna certifi charset_normalizer
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_names.py
	$(BIN)/python benchmarks/structure.py

clean:
	rm -rf $(VENV) .cache/toy results/toy
