# Every target sets up what it needs, from nothing. The plain commands are in the README.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test test-slow test-cuda notebooks docs lint clean

demo: .venv/demo
	$(BIN)/python -m minisd.generate "an astronaut riding a horse" --seed 0

test: .venv/test lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/test
	$(BIN)/python -m pytest -m slow

# Every file with tests on a GPU; without one these are skipped, with the reason
test-cuda: .venv/test
	$(BIN)/python -m pytest -rs $(patsubst %,tests/test_%.py,references philox noise pipeline precision tiny)

notebooks: .venv/test
	$(BIN)/python notebooks/build.py

docs: .venv/test
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build/html
	@echo docs/_build/html/index.html

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	touch $@

.venv/test: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[test]"
	touch $@

clean:
	rm -rf .venv
