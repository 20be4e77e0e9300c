# Every target makes .venv if it is missing and installs what it needs; only Python >= 3.11 is assumed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test thorough quick peers check bench notebooks docs clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z ]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

demo: .venv/demo.done  ## train five heads on letters, verify on letters that nobody trained on
	$(BIN)/python -m jsoftmax.demo $(ARGS)

test: .venv/dev.done  ## run the tests, the doctests and the pages' code, in about six minutes
	COMPILE_QUICKLY=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not optimised and not thorough"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "optimised and not thorough" tests

thorough: .venv/dev.done  ## run the rest of the tests: more of the same matrices
	COMPILE_QUICKLY=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "thorough and not optimised" tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "thorough and optimised" tests

quick: .venv/dev.done  ## run the tests but the slow ones, while working on something
	COMPILE_QUICKLY=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not thorough" tests

peers: .venv/peers.done  ## run our functions against other libraries
	COMPILE_QUICKLY=1 $(BIN)/python -m pytest -n 2 -rs peers

check: .venv/dev.done  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summarize-errors
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/bench.done  ## time and memory of a linear head, beside other libraries
	$(BIN)/python -m jsoftmax.bench $(ARGS)

OUT ?= notebooks
notebooks: .venv/notebooks.done  ## run the notebooks, and write them with what they show (to OUT)
	$(BIN)/jupyter nbconvert --to notebook --execute --log-level ERROR --output-dir $(OUT) \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

docs: .venv/docs.done  ## build the documentation in site/: open site/index.html
	$(BIN)/python docs/site/build.py

clean:  ## remove .venv, the tests' cache, what the demo drew, and the documentation
	rm -rf .venv demo site ~/.cache/jsoftmax-tests

.venv/%.done: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jsoftmax needs Python 3.11 or newer; try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
