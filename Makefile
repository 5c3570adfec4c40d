# Every target sets up what it needs, from nothing. The plain commands are in the README.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e

.PHONY: demo test test-slow test-cuda benchmark-cuda test-lowest notebooks docs live site test-live lint clean

demo: .venv/demo
	$(BIN)/python -m minisd.generate "an astronaut riding a horse" --seed 0

# One process a core (four at most), one thread each
test: .venv/test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not live"

test-slow: .venv/test
	$(BIN)/python -m pytest -m slow

# Every file with tests on a GPU; without one these are skipped, with the reason
test-cuda: .venv/test
	$(BIN)/python -m pytest -rs $(patsubst %,tests/test_%.py,references philox noise offload pipeline precision tiny)

# The table of a GPU's speed, in at most 8 minutes
benchmark-cuda: .venv/demo
	$(BIN)/python tests/benchmarks/gpu.py

# The lowest versions of the dependencies that pyproject.toml names; tests that compare with diffusers are skipped. Needs uv
LOWEST = .venv-lowest/bin/python
test-lowest:
	uv venv --quiet --clear --python 3.11 .venv-lowest
	uv pip install --python $(LOWEST) --resolution lowest-direct --torch-backend cpu -e ".[train]"
	uv pip install --python $(LOWEST) --torch-backend cpu "pytest>=8.3" scipy hatchling ipython
	$(LOWEST) -m pytest -m "not slow and not live" $(patsubst %,--ignore tests/test_%.py,docs notebooks config bad_folders)

notebooks: .venv/test
	$(BIN)/python notebooks/build.py

docs: .venv/test
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_build/html
	@echo docs/_build/html/index.html

# One HTML file that draws in the browser; needs npm
live: .venv/live
	$(BIN)/python docs/live/build.py

# The documentation with the live page inside, as it is published
site: docs .venv/live
	$(BIN)/python docs/live/build.py --docs ../ --out docs/_build/html/live/index.html

# The page against the package, in a headless Chromium; skipped, with the reason, where there is none
test-live: .venv/live
	$(BIN)/python -m pytest -rs -m "not slow" tests/test_live.py

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

.venv/live: .venv/test
	$(INSTALL) ".[live]"
	touch $@

clean:
	rm -rf .venv .venv-lowest
