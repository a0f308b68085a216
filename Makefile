# Two commands on a fresh machine with Python and make: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-oldest test-extras check bench docs notebooks release clean

# What the extension module is compiled from.
NATIVE := setup.py $(wildcard src/clipwise/torch/engines/*.[ch])

help:
	@echo "make demo   train a character model with and without clipping, side by side (about 2 minutes)"
	@echo "make test   lint, type check and test (about 8 minutes on two cores; WORKERS=4: in four processes)"
	@echo "make test-all  the same with every combination and the long tests"
	@echo "make test-oldest  the frameworks' tests with the oldest versions that are allowed (about 7 GB)"
	@echo "make test-extras  install every extra alone and use it (EXTRAS='jax data': only these)"
	@echo "make check  lint and type check only"
	@echo "make docs   build the site into build/site; warnings are errors"
	@echo "make notebooks  execute the notebooks of examples/ again, in place"
	@echo "make release  build sdist and wheel into dist, check them, and say what to do next"
	@echo "make bench  measure against the frameworks' own clipping, in three tables (about 12 minutes)"
	@echo "make clean  remove the environment and what was built"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipwise needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# One stamp a set of extras; installed again when what they ask for changes.
$(VENV)/.demo: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "installing clipwise and what the lab needs (once) ..."
	$(PIP_INSTALL) -e '.[lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "installing clipwise and what its tests need (once) ..."
	$(PIP_INSTALL) -e '.[lab,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "installing clipwise and what the site needs (once) ..."
	$(PIP_INSTALL) -e '.[lab,dev,docs]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo

# The sources are the whole repository, so that links between its folders are checked too; see docs/conf.py.
docs: $(VENV)/.docs
	$(BIN)/python docs/draw_methods.py
	$(BIN)/python -m docs.screenshots
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going -q . build/site
	@echo "open build/site/index.html"

notebooks: $(VENV)/.docs
	$(BIN)/python docs/execute_notebooks.py

$(VENV)/.release: $(VENV)/.dev
	$(PIP_INSTALL) -e '.[release]'
	@touch $@

release: $(VENV)/.release
	$(BIN)/python .ci/release.py

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.frameworks
	$(BIN)/python -m benchmarks.sharded

demo: $(VENV)/.demo
	$(BIN)/clipwise compare examples/shakespeare-lstm-sgd.json --clip 'clip_by_global_norm(1.0)'
	@echo "               (first: . $(BIN)/activate)"

# Tests of what the oldest versions lack: options of FSDP2, Muon, what torch.compile and JAX's compiler could
# not do yet, calls of optax and flax that the tests make; and a norm of many equal float32 entries, which the
# older compiler rounds to 2.5e-6 and not to 2e-6.
NEWER = $(addprefix --ignore=tests/,torch/loops/test_sharded.py torch/loops/test_around_shards.py \
	torch/loops/test_sharded_groups.py torch/loops/test_normalised.py jax/test_attach.py jax/test_models.py \
	jax/test_devices.py) \
	-k 'not opacus and not auto_takes_the_largest_rate and not zero_size_gradients and not they_trace \
	and not as_torch_says_it and not modules_compiled and not compiled_before and not to_the_bit_as_jax \
	and not pact_are_the_papers and not of_policies_nothing_is_nan and not jax-jit-float32-element-2.0-0.001'
OLDEST := .venv-oldest/bin/python
# TensorFlow 2.19 ends the process over a flag of XLA that it does not know: only the first of QUICK_XLA's.
test-oldest: $(NATIVE)
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST) -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[torch,jax,keras,yaml,cli]' \
		tensorflow-cpu 'flax>=0.10.6' 'scipy<1.16' pytest hypothesis jsonschema cloudpickle scikit-learn transformers==4.46.3
	OMP_NUM_THREADS=1 KERAS_BACKEND=jax XLA_FLAGS=$(UNOPTIMIZED) $(OLDEST) -m pytest $(addprefix tests/,functional thresholds conformance config jax keras tensorflow torch) $(NEWER)

test-extras:
	$(PYTHON) .ci/extras.py $(EXTRAS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes, each with one thread: two threads in each would wait for each other. What XLA compiles runs
# once or twice here: without its last optimizations a compilation takes half as long.
UNOPTIMIZED = --xla_backend_optimization_level=0
QUICK_XLA = XLA_FLAGS='$(UNOPTIMIZED) --xla_cpu_use_fusion_emitters=false'
test: check
	OMP_NUM_THREADS=1 KERAS_BACKEND=jax $(if $(CLIPWISE_TESTS),,$(QUICK_XLA)) $(BIN)/python -m pytest -rs -n $(WORKERS) --dist worksteal

test-all: export CLIPWISE_TESTS = all
test-all: test docs

clean:
	rm -rf $(VENV) .venv-oldest build dist src/*.egg-info src/clipwise/torch/engines/*.so .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
