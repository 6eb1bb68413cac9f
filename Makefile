# Main commands: `make up` starts the mesh, `make test` runs all checks and tests.
# Only service, lock, licences and contracts-accept change files outside .venv/, .coinmesh/ and the
# user's cache directory (CONTRIBUTING.md).
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/coinmesh
BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.11.8
export UV_CACHE_DIR := $(CACHE)/uv
export PIP_CACHE_DIR := $(CACHE)/pip
# Write bytecode even if the caller's environment (often a container's) disables it: otherwise each
# test process compiles hundreds of modules.
export PYTHONDONTWRITEBYTECODE :=
# Every package of the tree, installed editable. Packages with a separate lock have a separate
# environment. LEFT_OUT excludes packages from reinstallation: a test doesn't compile them again.
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml deploy/*/pyproject.toml \
            */pyproject.toml services/*/pyproject.toml jobs/*/pyproject.toml))
PACKAGES := $(filter-out $(patsubst %/requirements.txt,%,$(wildcard jobs/*/requirements.txt)) $(LEFT_OUT),$(PACKAGES))
RUNTIME_STAMP := .venv/.runtime
DEV_STAMP := .venv/.dev
PACKAGES_STAMP := .venv/.packages
COMPILED := services/collector-binance/src/collector_binance/core/_fast.pyx
CONTRACTS := $(shell find proto -name '*.proto')

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(UV):
	python3 -c 'import sys; sys.exit("Coinmesh needs Python 3.11 or newer; found " + sys.version.split()[0] + ".") if sys.version_info < (3, 11) else None'
	python3 -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(RUNTIME_STAMP): requirements/runtime.txt | $(UV)
	$(UV) pip install --python $(BIN)/python --require-hashes -r $<
	$(UV) cache prune --quiet
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(RUNTIME_STAMP)
	$(UV) pip install --python $(BIN)/python --require-hashes -r $<
	@touch $@

# Built without isolation: the build tools are in the lock.
$(PACKAGES_STAMP): $(RUNTIME_STAMP) $(CONTRACTS) $(addsuffix /pyproject.toml,$(PACKAGES)) libs/contracts/generate.py $(COMPILED)
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@

.PHONY: install
install: $(PACKAGES_STAMP) ## Create .venv with the mesh's commands

.PHONY: up down reset status logs
up: install ## Start the mesh and print its URLs (HA=1: three brokers; GATEWAYS=2; PROFILE=full; COINMESH_SOURCE=live)
	$(BIN)/coinmesh up $(if $(HA),--ha) $(if $(GATEWAYS),--gateways $(GATEWAYS)) $(if $(PROFILE),--profile $(PROFILE))

down: ## Stop the mesh and keep its data
	$(BIN)/coinmesh down

reset: ## Stop the mesh and delete its data
	$(BIN)/coinmesh reset --yes

status: ## Show the state of the mesh
	$(BIN)/coinmesh status

logs: ## Show a component's log: make logs S=query-gateway
	$(BIN)/coinmesh logs $(S)

.PHONY: test built check check-secrets test-unit test-services test-stream test-components test-mesh
# Two jobs at a time: with a third mesh on two cores the others exceed their time limits.
test: ## Run all checks and tests
	+$(MAKE) --no-print-directory -j2 UNIT_WORKERS=0 built check test-unit test-services test-stream test-mesh test-components

# Compiled components are built first, outside the tests' time limits.
built: install
	$(BIN)/python -m coinmesh_local.provision jaeger ratelimit

check: install $(DEV_STAMP) ## Check formatting, lint, types and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --warnings
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf build -o .coinmesh/build/contracts.binpb
	$(BIN)/buf breaking .coinmesh/build/contracts.binpb --against proto/baseline.binpb --exclude-imports
	test -z "$$(gofmt -l deploy/local/provision)"
	$(MAKE) --no-print-directory check-secrets

# False positives are marked in place: "pragma: allowlist secret". Locks contain only hashes.
check-secrets: $(DEV_STAMP) ## Check for secrets in tracked and untracked files
	git ls-files -z --cached --others --exclude-standard -- ':!requirements/*.txt' ':!*.binpb' \
	  | xargs -0 $(BIN)/detect-secrets-hook

# Two processes when run alone; in `make test` it has one core.
test-unit: install $(DEV_STAMP) ## Test without components or slow tests
	$(BIN)/pytest -m 'not component and not e2e and not slow' -n $(or $(UNIT_WORKERS),2)

test-services: built $(DEV_STAMP) ## Test services, gateway and command with real components
	$(BIN)/pytest -m '(component or slow) and not soak' --deselect=jobs --deselect=deploy

test-stream: install $(DEV_STAMP) ## Test the Spark stream with kills and outages
	$(BIN)/pytest -m '(component or slow) and not soak' jobs

test-components: install $(DEV_STAMP) ## Test the components and their access control
	$(BIN)/pytest -m '(component or slow) and not soak' deploy

test-mesh: built $(DEV_STAMP) ## Test the whole mesh
	$(BIN)/pytest -m 'e2e and not soak'

.PHONY: service
service: install $(DEV_STAMP) ## Create a new service: NAME=onchain-indexer KIND=service|collector|job [ABOUT="a sentence"]
	$(BIN)/python -m coinmesh_manifests.skeleton $(NAME) $(KIND) $(if $(ABOUT),"$(ABOUT)")
	$(MAKE) --no-print-directory install
	$(BIN)/coinmesh-access readme $(if $(filter job,$(KIND)),jobs,services)/$(NAME)/README.md README.md docs/architecture.md

.PHONY: bench
bench: install $(DEV_STAMP) ## Install the benchmarks' dependencies and list the benchmarks
	$(BIN)/python bench/peers.py
	@grep -hoE '^\.venv/bin/python bench/.*' bench/README.md

.PHONY: soak fuzz
soak: built $(DEV_STAMP) ## Run the long variants of tests: every point at which a process can be killed
	$(BIN)/pytest -m soak

fuzz: install $(DEV_STAMP) ## Search for inputs that break a decoder (EXAMPLES=5000 per test)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest tests/fuzz --timeout=0

.PHONY: sbom licences
sbom: install $(DEV_STAMP) ## Write the bill of materials (CycloneDX) to .coinmesh/build
	$(BIN)/python supply/sbom.py

licences: install $(DEV_STAMP) ## Write docs/licences.md; run it after `make lock`
	$(BIN)/python supply/sbom.py licences

.PHONY: lock contracts-accept
lock: $(UV) ## Resolve requirements/*.in into hash-pinned locks
	$(UV) pip compile --quiet --no-header --generate-hashes --python-version 3.11 requirements/runtime.in -o requirements/runtime.txt
	$(UV) pip compile --quiet --no-header --generate-hashes --python-version 3.11 -c requirements/runtime.txt requirements/dev.in -o requirements/dev.txt

contracts-accept: install $(DEV_STAMP) ## Accept the current contracts as the compatibility baseline
	$(BIN)/buf build -o proto/baseline.binpb --exclude-source-info
