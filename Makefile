# Every command a developer or an operator of this repository needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
STAMPS := .stamps
PROJECTS := $(wildcard */pyproject.toml)
export UV_LINK_MODE ?= hardlink
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
# Where it is set, every process compiles all that it imports anew: seconds for torch alone.
unexport PYTHONDONTWRITEBYTECODE
MODEL ?= digits
PORT ?= 8000
UPGRADE ?= --upgrade
# Processes of a test run; modules that need Ray go to one of them, for one Ray.
TEST_PROCESSES ?= 2
# What `tests/time_budget.py` leaves out when the time of a run is up.
LONG := slow or long or ray or postgres or browser
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-fast test-all test-cluster check fix bench docs screenshots clean lock lock-image sbom audit

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMPS)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && sed -n '/^uv==/,/[^\\]$$/p' constraints.txt > $@.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $@.txt
	@touch $@

# No file from outside is installed that constraints.txt has no hash of. Our packages are built by hatchling, which is among them.
$(STAMPS)/dev: $(STAMPS)/uv constraints.txt pyproject.toml $(PROJECTS)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --requirement constraints.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PROJECTS:%/pyproject.toml=-e ./%)
	$(UV) pip check --quiet --python $(BIN)/python
	@touch $@

setup: $(STAMPS)/dev  ## install everything, with the development tools, into .venv

demo: $(STAMPS)/dev  ## train a small model if there is none, serve it, certify 20 held-out images over HTTP
	$(BIN)/python demo/demo.py --model $(MODEL)

serve: $(STAMPS)/dev  ## the same model, kept running at http://127.0.0.1:$(PORT)
	$(BIN)/python demo/serve.py --model $(MODEL) --port $(PORT)

test: $(STAMPS)/dev  ## the test suite: minutes
	$(PYTEST)

test-fast: $(STAMPS)/dev  ## the tests that take seconds: no Ray, no server, no training
	$(PYTEST) -m "not ($(LONG)) and not large and not cluster"

test-all: test-fast  ## with the long statistical, fuzz, fault and browser suites
	$(PYTEST) -m "($(LONG)) and not large and not cluster"

test-cluster: $(STAMPS)/dev  ## the tests that start several Ray nodes or training workers, or load large networks: many minutes
	$(BIN)/python -m pytest -m "cluster or large"

check: $(STAMPS)/dev  ## format, lint, types and import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/vulture

fix: $(STAMPS)/dev  ## format and lint what can be mended by a tool
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/dev  ## measure engine, stopping and training here; check what README and card quote of CIFAR-10
	$(BIN)/python -m benchmarks

docs: $(STAMPS)/dev  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

screenshots: $(STAMPS)/dev  ## photograph the pages for README and docs; needs Chromium
	$(BIN)/python demo/screenshots.py

lock: $(STAMPS)/uv  ## write constraints.txt anew, with hashes; UPGRADE= keeps the versions that still fit
	$(UV) pip compile --quiet --universal --python-version 3.11 --custom-compile-command "make lock" --no-annotate \
		--no-emit-index-url --generate-hashes $(UPGRADE) --group dev $(PROJECTS) --all-extras \
		$(PROJECTS:%/pyproject.toml=--no-emit-package spacte-%) --output-file constraints.txt

lock-image: $(STAMPS)/uv  ## pin the base images and torch without CUDA; needs Docker
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docker/lock.sh

sbom: $(STAMPS)/dev  ## list the packages of the image as CycloneDX: sbom.cdx.json
	rm -rf $(STAMPS)/image
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docker/install.sh $(STAMPS)/image cuda
	mv $(STAMPS)/image/sbom.cdx.json . && rm -rf $(STAMPS)/image

audit: $(STAMPS)/dev  ## ask a vulnerability service about every pin; needs a network that reaches one
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement constraints.txt

clean:  ## remove what these commands made
	rm -rf $(VENV) $(STAMPS) demo/models demo/certified.png .pytest_cache .ruff_cache .hypothesis site sbom.cdx.json
