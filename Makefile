# Two commands matter: `make up` starts the mesh, `make test` checks everything.
# Beside .venv/, .coinmesh/ and the user's cache directory, only service, lock, licences and
# contracts-accept change the tree (CONTRIBUTING.md).
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/coinmesh
BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.11.8
export UV_CACHE_DIR := $(CACHE)/uv
export PIP_CACHE_DIR := $(CACHE)/pip
# Modules are compiled once, also where the caller's environment (a container's, often) forbids it:
# each process of the tests compiles hundreds otherwise.
export PYTHONDONTWRITEBYTECODE :=
# Every package of the tree, installed editable. What has a lock of its own has an environment of its
# own as well. LEFT_OUT names packages that stay as they are: a test doesn't compile them again.
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml deploy/*/pyproject.toml \
            */pyproject.toml services/*/pyproject.toml jobs/*/pyproject.toml))
PACKAGES := $(filter-out $(patsubst %/requirements.txt,%,$(wildcard jobs/*/requirements.txt)) $(LEFT_OUT),$(PACKAGES))
RUNTIME_STAMP := .venv/.runtime
DEV_STAMP := .venv/.dev
PACKAGES_STAMP := .venv/.packages
COMPILED := services/collector-binance/src/collector_binance/core/_fast.pyx
CONTRACTS := $(shell find proto -name '*.proto')

.PHONY: help
help: ## Lists the commands
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
install: $(PACKAGES_STAMP) ## Makes .venv with the mesh's commands

.PHONY: up down reset status logs
up: install ## Starts the mesh and prints its URLs (HA=1: three brokers; GATEWAYS=2; PROFILE=full; COINMESH_SOURCE=live)
	$(BIN)/coinmesh up $(if $(HA),--ha) $(if $(GATEWAYS),--gateways $(GATEWAYS)) $(if $(PROFILE),--profile $(PROFILE))

down: ## Stops the mesh, keeps its data
	$(BIN)/coinmesh down

reset: ## Stops the mesh and drops its data
	$(BIN)/coinmesh reset --yes

status: ## Shows what runs
	$(BIN)/coinmesh status

logs: ## Shows a component's log: make logs S=query-gateway
	$(BIN)/coinmesh logs $(S)

.PHONY: test built check check-secrets test-unit test-services test-stream test-components test-mesh
# Two at a time: a third mesh on two cores makes the others miss their time limits.
test: ## Runs every check and test
	+$(MAKE) --no-print-directory -j2 UNIT_WORKERS=0 built check test-unit test-services test-stream test-mesh test-components

# What is compiled is made before: no test's time is for that.
built: install
	$(BIN)/python -m coinmesh_local.provision jaeger ratelimit

check: install $(DEV_STAMP) ## Lint, types and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --warnings
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf build -o .coinmesh/build/contracts.binpb
	$(BIN)/buf breaking .coinmesh/build/contracts.binpb --against proto/baseline.binpb --exclude-imports
	test -z "$$(gofmt -l deploy/local/provision)"
	$(MAKE) --no-print-directory check-secrets

# A false alarm is marked where it stands: "pragma: allowlist secret". Locks are all hashes.
check-secrets: $(DEV_STAMP) ## Looks for secrets in every file that git tracks or is about to
	git ls-files -z --cached --others --exclude-standard -- ':!requirements/*.txt' ':!*.binpb' \
	  | xargs -0 $(BIN)/detect-secrets-hook

# Two processes when it runs alone; beside another lane it has one core.
test-unit: install $(DEV_STAMP) ## Tests that need no component and no seconds
	$(BIN)/pytest -m 'not component and not e2e and not slow' -n $(or $(UNIT_WORKERS),2)

test-services: built $(DEV_STAMP) ## Services, gateway and command on real components
	$(BIN)/pytest -m '(component or slow) and not soak' --deselect=jobs --deselect=deploy

test-stream: install $(DEV_STAMP) ## The Spark stream through kills and outages
	$(BIN)/pytest -m '(component or slow) and not soak' jobs

test-components: install $(DEV_STAMP) ## The components themselves, and who may do what with them
	$(BIN)/pytest -m '(component or slow) and not soak' deploy

test-mesh: built $(DEV_STAMP) ## The whole mesh
	$(BIN)/pytest -m 'e2e and not soak'

.PHONY: service
service: install $(DEV_STAMP) ## Makes a new service: NAME=onchain-indexer KIND=service|collector|job [ABOUT="a sentence"]
	$(BIN)/python -m coinmesh_manifests.skeleton $(NAME) $(KIND) $(if $(ABOUT),"$(ABOUT)")
	$(MAKE) --no-print-directory install
	$(BIN)/coinmesh-access readme $(if $(filter job,$(KIND)),jobs,services)/$(NAME)/README.md README.md docs/architecture.md

.PHONY: bench
bench: install $(DEV_STAMP) ## Installs what the benchmarks need and lists them
	$(BIN)/python bench/peers.py
	@grep -hoE '^\.venv/bin/python bench/.*' bench/README.md

.PHONY: soak fuzz
soak: built $(DEV_STAMP) ## The long variants of tests: every point at which a process can be killed
	$(BIN)/pytest -m soak

fuzz: install $(DEV_STAMP) ## Looks long for inputs that a decoder doesn't bear (EXAMPLES=5000 a test)
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/pytest tests/fuzz --timeout=0

.PHONY: sbom licences
sbom: install $(DEV_STAMP) ## Writes the bill of materials (CycloneDX) to .coinmesh/build
	$(BIN)/python supply/sbom.py

licences: install $(DEV_STAMP) ## Writes docs/licences.md: run it after `make lock`
	$(BIN)/python supply/sbom.py licences

.PHONY: lock contracts-accept
lock: $(UV) ## Resolves requirements/*.in into hash-pinned locks
	$(UV) pip compile --quiet --no-header --generate-hashes --python-version 3.11 requirements/runtime.in -o requirements/runtime.txt
	$(UV) pip compile --quiet --no-header --generate-hashes --python-version 3.11 -c requirements/runtime.txt requirements/dev.in -o requirements/dev.txt

contracts-accept: install $(DEV_STAMP) ## Takes today's contracts as the ones that must not break
	$(BIN)/buf build -o proto/baseline.binpb --exclude-source-info
