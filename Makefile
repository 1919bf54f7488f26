# Two commands do all the set-up and all the work: `make study` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DIST_VENV ?= .venv-dist
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PACKAGES := weightscope mpseg_models
CODE := $(PACKAGES) studies tests benchmarks matrix fuzz docs/pictures.py

.PHONY: help study study-cpu test slow browser trackers coverage cluster cuda fuzz states check format docs bench mutants matrix reading evidence calibration clean dist lowest

help:
	@echo "make study   the worked study as a demonstration of minutes; page in build/"
	@echo "make study-cpu  the same at full strength, hours; page in docs/studies/microplastic/"
	@echo "make test    run the test suite"
	@echo "make check   lint, formatting, types, docs"
	@echo "make slow    the exhaustive tests"
	@echo "make browser  the report in a headless Chromium"
	@echo "make trackers  histograms in Weights & Biases and MLflow, offline"
	@echo "make coverage  the tests again, counting which lines they run"
	@echo "make fuzz    hostile files for MINUTES (5), drawn from SEED (0)"
	@echo "make states  every kind of model, call and outcome, and INTERRUPTS (200) drawn from SEED (0)"
	@echo "make mutants break central formulas one by one; some test must fail for each"
	@echo "make cuda    the same answers on a graphics card"
	@echo "make cluster the study's runner on a Dask cluster of several processes"
	@echo "make bench   benchmarks: ratios against peers"
	@echo "make matrix  third-party networks, in an environment of their own"
	@echo "make reading more networks, read and built without numbers only"
	@echo "make dist    the wheel and the sdist, built, checked and installed"
	@echo "make lowest  tests with the oldest versions that are allowed"
	@echo "make evidence, make calibration: does the verdict predict the truth?"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "weightscope needs Python >= 3.11; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip

$(VENV)/.study: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[study]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.study

study: $(VENV)/.study
	$(BIN)/python studies/microplastic.py

study-cpu: $(VENV)/.study
	$(BIN)/python studies/microplastic.py --preset cpu

# one process a core, each with one thread: several threads in each would wait for one another
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

fuzz: $(VENV)/.test
	$(BIN)/python -W ignore -m fuzz --minutes $(or $(MINUTES),5) --seed $(or $(SEED),0)

# The report in a headless Chromium: one on the path, or playwright's own.
browser: $(VENV)/.test
	$(INSTALL) --editable '.[browser]'
	$(BIN)/python -m pytest -m browser tests/browser

states: $(VENV)/.test
	$(BIN)/python -W ignore -m fuzz.states --interrupts $(or $(INTERRUPTS),200) --seed $(or $(SEED),0)

# Of the pinned versions one is newer than MLflow takes, so this has an environment of its own.
trackers:
	$(PYTHON) -m venv .venv-trackers
	grep -v '^importlib' constraints.txt > .venv-trackers/constraints.txt
	.venv-trackers/bin/python -m pip install --quiet --constraint .venv-trackers/constraints.txt \
	  --editable '.[trackers]' pytest lightning transformers accelerate
	.venv-trackers/bin/python -m pytest tests/test_trackers.py

# Twice as long as the tests alone, so not a part of them; the floor is in pyproject.toml.
coverage: $(VENV)/.test
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

cluster: $(VENV)/.test
	$(BIN)/python -m pytest -m cluster

# Of whatever Python has a torch that sees the card: the pinned torch of the environment does not.
cuda:
	$(PYTHON) -m pytest -m cuda tests/test_cuda.py

check: $(VENV)/.test
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/python -m pytest --doctest-modules --quiet $(PACKAGES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

format: $(VENV)/.test
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

mutants: $(VENV)/.test
	$(BIN)/python tests/mutants.py

bench: $(VENV)/.test
	$(BIN)/python -m pytest benchmarks -m "not slow" --benchmark-only

evidence: .venv-matrix/.installed
	.venv-matrix/bin/python studies/evidence.py train
	.venv-matrix/bin/python studies/evidence.py respond
	.venv-matrix/bin/python studies/evidence.py score
	.venv-matrix/bin/python studies/evidence.py page

calibration: .venv-matrix/.installed
	.venv-matrix/bin/python studies/calibration.py

.venv-matrix/.installed: matrix/requirements.txt matrix/requirements_bare.txt pyproject.toml
	$(PYTHON) -m venv .venv-matrix
	.venv-matrix/bin/python -m pip install --quiet --requirement matrix/requirements.txt
	.venv-matrix/bin/python -m pip install --quiet --no-deps --requirement matrix/requirements_bare.txt
	.venv-matrix/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

matrix: .venv-matrix/.installed
	.venv-matrix/bin/python -m matrix.run

reading: .venv-matrix/.installed
	.venv-matrix/bin/python -m matrix.reading

clean:
	find weightscope -name '*.nb[ci]' -delete
	rm -rf $(VENV) .venv-matrix build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The wheel and the sdist, built, checked, and the wheel installed in an environment of its own.
dist: $(BIN)/python
	rm -rf dist $(DIST_VENV)
	$(BIN)/python -m pip install --quiet build twine
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd / && $(abspath $(DIST_VENV))/bin/weightscope --version

# The oldest versions that pyproject.toml allows. numpy and scipy as torch 2.9 and Python 3.11 take them.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet "torch==2.9.*" "numpy==2.0.*" "pandas==2.2.*" \
	  "scipy==1.13.*" "safetensors==0.4.3" "numba==0.61.*" pytest hypothesis
	.venv-lowest/bin/python -m pip install --quiet --editable . scikit-learn torchmetrics "matplotlib==3.9.*" \
	  "pyparsing<3.2" "seaborn==0.13.*" jinja2 "torch-pruning==1.6.1"
	.venv-lowest/bin/python -m pytest tests/test_adapters.py tests/test_cost.py tests/test_traces.py tests/summaries tests/statistics \
	  tests/probing tests/utilization tests/graph
