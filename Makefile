# Every target makes what it needs: an environment of its own in .venv, and nothing outside it.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint format clean FORCE
.DELETE_ON_ERROR:

# In the root of the repository the checkout would shadow the installed package, and without its mapped rooms; mypy and
# lint-imports look into the working folder all the same, so they are run from another one.
export PYTHONSAFEPATH = 1

VENV := .venv
BIN := $(VENV)/bin
ROOMS := edgekit exporters runtimes profiles
CHECKED := $(ROOMS) tests tools
# Two workers, and one thread each for numerical libraries; tests of one xdist group share the fixtures that they need.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadgroup

help:
	@echo 'make demo      export FemtoDet for three targets and run it here'
	@echo 'make test      all checks and the tests that take seconds'
	@echo 'make test-all  all checks and all tests'
	@echo 'make bench     the measurements, as ratios in one run'
	@echo 'make lint      the checks alone: format, style, types, walls between rooms, dangerous patterns'
	@echo 'make format    put the code into the form that lint asks for'
	@echo 'make clean     remove the environment, the build, the demo and the caches'

demo: $(VENV)/.installed
	@$(BIN)/python tools/demo.py

test: lint
	$(PYTEST) -m 'not slow'

test-all: lint
	$(PYTEST)

bench: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt opencv-python-headless
	@PYTHONPATH=tools/bench $(BIN)/python tools/bench/run.py

lint: $(VENV)/.installed
	$(BIN)/ruff format --check --quiet $(CHECKED)
	$(BIN)/ruff check --quiet $(CHECKED)
	cd $(VENV) && bin/mypy --strict -p edgekit --config-file ../pyproject.toml --cache-dir ../.mypy_cache
	cd $(VENV) && bin/lint-imports --config ../pyproject.toml --no-cache
	$(BIN)/python tools/check_patterns.py
	$(BIN)/python tools/check_reports.py

format: $(VENV)/.installed
	$(BIN)/ruff format $(CHECKED)
	$(BIN)/ruff check --fix --quiet $(CHECKED)

clean:
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment --------------------------------------------------------------------------------------------------

# The first that runs and is of the right version; a shim that is on the path may run nothing.
find_python = for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break; \
	python=; done

$(BIN)/python:
	@$(find_python); \
	if [ -z "$$python" ]; then \
		echo 'edgekit is built with Python 3.11, 3.12 or 3.13, and none is here.' \
			'Install one of them, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; fi; \
	"$$python" -m venv $(VENV)

# A strict editable install links file by file, so it is renewed when the list of files changes.
$(VENV)/.files: $(BIN)/python FORCE
	@find $(ROOMS) -type f -not -name '*.pyc' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.files
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[export,openvino,image,report,dev]' --config-settings editable_mode=strict
	@touch $@

FORCE:
