# One entry for each thing. Needs Python 3.11+ and make; everything else goes into .venv on first use.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
PYTHON ?=
ARGS ?=
KEEP ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench prove prove-planted clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.runtime ## set up and show the main job done (KEEP=1 leaves its hub up)
	@$(PY) -m synapse.faces.demo $(if $(filter-out 0 no,$(KEEP)),--keep) $(ARGS)

test: $(VENV)/.dev ## run the tests on all cores (ARGS='tests/core -n 0' for a part, in one process)
	$(PY) -m pytest -n auto --dist loadgroup -m 'not prove' $(ARGS)

check: $(VENV)/.dev ## format, lint and types, without changing a file
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(VENV)/.dev ## format the code and repair what the linter can repair
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(VENV)/.dev ## run the benchmarks
	@$(PY) -m compileall -q src/synapse
	$(PY) -m benchmarks $(ARGS)

prove: $(VENV)/.dev ## run the long proofs, and print their table (ARGS='"power cuts"' for a part)
	@$(PY) -m tests.prove $(ARGS)

prove-planted: $(VENV)/.dev ## plant one fault after the other, and print which test catches it
	@$(PY) -m tests.planted $(ARGS)

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps, so that `make demo` installs three libraries and not the tool box. pip runs only when pyproject.toml changed.
$(VENV)/.runtime: pyproject.toml | $(PY)
	@echo "installing synapse into $(VENV)"
	@$(PIP) install -e .
	@$(PY) -m compileall -q src/synapse
	@touch $@

# Dependency groups need pip 25.1; the pip that a fresh venv of Python 3.11 carries is older.
$(VENV)/.dev: pyproject.toml $(VENV)/.runtime
	@echo "installing the development tools into $(VENV)"
	@$(PIP) install 'pip>=25.1'
	@$(PIP) install --group dev
	@$(PIP) install --no-deps --force-reinstall -e .  # the script of an older pip imports `re`
	@touch $@

$(PY):
	@for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: Python 3.11 or newer is missing: install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "make: $$found cannot create a venv: install python$$version-venv (apt-get install python$$version-venv)" >&2; exit 1; \
	fi; \
	echo "creating $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV)
