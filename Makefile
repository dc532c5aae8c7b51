# `make gallery` and `make test` are all that a newcomer needs; `make` alone lists the rest.
# They need git, make, pip and Python 3.11 or newer, and keep everything they install in .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# HOST is for the command line only (make gallery HOST=0.0.0.0): some shells export a variable of that name.
HOST := 127.0.0.1
PORT ?= 7860

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt

# Without NVIDIA's driver, CUDA is of no use. Only for Linux do indexes have PyTorch with and without it.
DRIVER := $(or $(wildcard /proc/driver/nvidia/version),$(shell command -v nvidia-smi 2>/dev/null))
ifeq ($(shell uname -s),Linux)
CPU ?= $(if $(DRIVER),0,1)
endif

# OpenMP cannot see a container's CPU quota and would start one thread for every core of the host.
QUOTA := $(shell awk '$$1 != "max" { n = int($$1 / $$2); print n ? n : 1 }' /sys/fs/cgroup/cpu.max 2>/dev/null)
ifneq ($(QUOTA),)
export OMP_NUM_THREADS ?= $(QUOTA)
endif

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: gallery
gallery: $(VENV)/.demo ## install what is missing and start the gallery on http://127.0.0.1:7860 (PORT=, HOST=, CPU=1)
	@$(VENV)/bin/artmodels gallery --host $(HOST) --port $(PORT)

# A worker for each core that is ours, with one thread. More than 8 would wait for the longest group of tests.
.PHONY: test
test: $(VENV)/.dev ## install what is missing and run the tests that take minutes, not hours, on all cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" --durations 20 \
		-n $(or $(QUOTA),logical) --maxprocesses 8 --dist loadgroup --no-loadscope-reorder

.PHONY: test-slow
test-slow: $(VENV)/.dev ## run the slow tests: the long fuzz run, full-size syntheses, the notebooks of examples/
	@$(PY) -m pytest -m slow --timeout 3600

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy and import-linter, as in continuous integration
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache

.PHONY: bench
bench: $(VENV)/.dev ## measure the claims of the README and print their tables
	@set -e; for script in $(filter-out benchmarks/readme.py,$(sort $(wildcard benchmarks/*.py))); do \
		echo "== $$script"; $(PY) $$script; \
	done

.PHONY: readme
readme: $(VENV)/.dev ## write the generated tables of the READMEs again
	@$(PY) benchmarks/readme.py

.PHONY: clean
clean: ## delete caches and build output; .venv stays
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .gradio
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -exec rm -rf {} +

# Each stamp is written last, so that an interrupted install is taken up again, and a second start finds nothing to do.
$(VENV)/.demo: $(VENV)/.created $(VENV)/.torch pyproject.toml constraints.txt
	@echo "Installing into $(VENV): a few minutes and gigabytes (mostly PyTorch), once"
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created $(VENV)/.torch pyproject.toml constraints.txt
	@echo "Installing into $(VENV): a few minutes and gigabytes (mostly PyTorch), once"
	@$(PIP_INSTALL) --editable '.[demo,dev]'
	@touch $(VENV)/.demo $@

# The 4 GB are those of `du -ch .venv/lib/python3*/site-packages/{nvidia,triton}` with torch 2.15 for CUDA 13.
# PyTorch that is there with CUDA stays, since pip would leave its companions behind.
$(VENV)/.torch: $(VENV)/.created constraints.txt
ifeq ($(CPU),1)
	@set -e; \
	cpu=$$(sed -n -e 's/^torch==.*/&+cpu/p' -e 's/^torchvision==.*/&+cpu/p' constraints.txt); \
	case "$$($(PY) -m pip show torch 2>/dev/null | sed -n 's/^Version: *//p')" in \
	''|*+cpu) \
		if $(PY) -m pip install --quiet --dry-run --no-deps $$cpu >/dev/null 2>&1; then \
			echo "Installing PyTorch for CPUs, which saves about 4 GB (CPU=0 installs it with CUDA)"; \
			$(PY) -m pip install --disable-pip-version-check --no-deps $$cpu; \
		else \
			echo "pip finds no PyTorch for CPUs only, and takes the one with CUDA: about 4 GB more, of no use without an"; \
			echo "NVIDIA GPU. To save them, stop this, and name PyTorch's index for CPUs, which pytorch.org says:"; \
			echo "    PIP_EXTRA_INDEX_URL=ADDRESS make gallery CPU=1"; \
		fi ;; \
	esac
endif
	@touch $@

# A bare Debian has Python and pip but not python3-venv: there the system's pip fills an environment made without one.
$(VENV)/.created:
	@set -e; \
	if ! $(PY) -m pip --version >/dev/null 2>&1; then \
		python=; \
		for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
			if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				python=$$candidate; break; \
			fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "artmodels needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || true)." >&2; \
			echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
			exit 1; \
		fi; \
		$$python -m venv --clear $(VENV) >/dev/null 2>&1 || { \
			$$python -m venv --clear --without-pip $(VENV); \
			$$python -m pip --python $(PY) install --quiet pip; \
		}; \
	fi
	@touch $@
