# Two commands need nothing but Python >= 3.11, make and pip: `make demo` and `make test`.
# On Linux a plain `pip install torch` brings several GB of CUDA; for the small CPU build pass
# an index of CPU wheels:  make demo TORCH_FLAGS="--index-url <index of CPU wheels>"
PYTHON ?= python3
TORCH_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
export MPLBACKEND := Agg

.PHONY: demo test test-ray check bench docs format clean

demo: $(VENV)/.user
	$(BIN)/besiege demo

test: $(VENV)/.dev check
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 20

# Ray is 256 MB, so it is no part of `test`, which skips these where Ray is absent.
test-ray: $(VENV)/.dev
	$(PIP) -c constraints.txt -e ".[dev,docs,ray]"
	$(BIN)/python -m pytest -k ray tests/study

check: $(VENV)/.dev
	$(BIN)/ruff check src tests tools examples benchmarks docs
	$(BIN)/ruff format --check src tests tools examples benchmarks docs
	$(BIN)/mypy
	$(BIN)/python tools/house.py

bench: $(VENV)/.dev
	$(PIP) --no-deps torchattacks==3.5.1
	$(BIN)/python -m benchmarks

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W -q docs docs/_build

format: $(VENV)/.dev
	$(BIN)/ruff check --fix -q src tests tools examples benchmarks docs
	$(BIN)/ruff format src tests tools examples benchmarks docs

clean:
	rm -rf $(VENV) docs/_build

# torch goes first and alone: only this step takes TORCH_FLAGS.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("besiege needs Python >= 3.11, this is " + sys.version.split()[0] + ": set PYTHON=python3.12, say" if sys.version_info < (3, 11) else 0)'
	@echo "Creating $(VENV) and installing torch (a CPU build is 0.2 GB to fetch, a CUDA build several GB) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_FLAGS) -c constraints.txt torch
	touch $@

$(VENV)/.user: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e ".[dev,docs]"
	touch $@ $(VENV)/.user
