# D-DW-D Portal from a clone. `make help` lists the targets.
# Nothing is written outside this clone and one cache folder (DDWD_CACHE); host packages come through apt.

CACHE := $(or $(DDWD_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/ddwd,$(HOME)/.cache/ddwd))
PYTHON ?= python3
VENV := $(CACHE)/venv-$(shell { cat tests/requirements.lock; $(PYTHON) -V; } 2>/dev/null | sha256sum | cut -c1-12)
BIN := $(VENV)/bin
FUZZ_VENV := $(CACHE)/venv-fuzz-$(shell { cat tests/fuzz/requirements.lock; $(PYTHON) -V; } 2>/dev/null | sha256sum | cut -c1-12)
AUDIT_VENV := $(CACHE)/venv-supply-$(shell { cat packaging/supply/requirements.lock; $(PYTHON) -V; } 2>/dev/null | sha256sum | cut -c1-12)
NODE := $(CACHE)/node-$(shell sha256sum <tests/senders/package-lock.json 2>/dev/null | cut -c1-12)
DOCS_VENV := $(CACHE)/venv-docs-$(shell { cat packaging/site/requirements.lock; $(PYTHON) -V; } 2>/dev/null | sha256sum | cut -c1-12)
SHELL_FILES := $(shell packaging/shell-files)

export DDWD_CACHE := $(CACHE)
export PIP_CACHE_DIR := $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The machine and the tests in it need root.
AS_ROOT := packaging/as-root
# COVERAGE=1 measures which lines are run. Each test runs in one of several processes, a module in the same one.
PYTEST := $(BIN)/$(if $(COVERAGE),coverage run -m pytest,pytest) -p no:cacheprovider -q --dist loadfile
HOST_TESTS := $(PYTEST) --numprocesses $(shell nproc)
MACHINE_TESTS := $(AS_ROOT) $(PYTEST) --numprocesses 4 --no-loadscope-reorder tests/appliance tests/faults
MACHINE := $(BIN)/python -m tests.machine

.DEFAULT_GOAL := help

# The version of Python is in the names of the environments: where there is no Python yet, make installs it and starts over.
ifeq ($(shell command -v $(PYTHON)),)
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
include build/python
build/python:
	@packaging/host venv
	@mkdir -p build && touch $@
endif
endif

.PHONY: help venv deb check lint unit unit-deep pictures manual integration appliance shell stop demo bench fuzz identifiers audit docs faults machines machines-certify traffic newcomers node coverage test certify lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

venv: $(VENV)/ready ## the tools of the checks and tests, hash-locked, in the cache folder

$(VENV)/ready:
	@packaging/host venv
	@packaging/venv $(PYTHON) $(VENV) tests/requirements.lock

deb: ## build dist/ddwd_VERSION_all.deb
	@packaging/host dh dpkg-buildpackage build-essential venv
	@packaging/build-deb

$(FUZZ_VENV)/ready:
	@packaging/host venv
	@packaging/venv $(PYTHON) $(FUZZ_VENV) tests/fuzz/requirements.lock

node: $(NODE)/ready ## the Node.js sender of the tests, hash-locked, in the cache folder

$(NODE)/ready:
	@packaging/host node npm
	@packaging/node $(NODE) tests/senders

lint: venv ## format, defects, types, layers, dead code, spelling, shell, versions
	@packaging/host shellcheck man
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture
	$(BIN)/codespell
	shellcheck --external-sources $(SHELL_FILES)
	shellcheck --shell=bash packaging/manual/ddwd.bash
	packaging/check-manual
	packaging/check-versions

check: ## after each change: lint, unit and dashboard tests; a minute or so, no root
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory unit

unit: venv ## the tests of all that is decided, and of the dashboard: no root, no socket, less than a minute
	@packaging/host openssl zsh fish
	$(HOST_TESTS) tests/unit tests/tui

unit-deep: venv ## of these the ones that try every case or many examples, at full depth
	DDWD_DEPTH=full $(HOST_TESTS) -m deep tests/unit

pictures: venv ## the pictures of the dashboard in docs/, made by Textual from fixed data
	$(BIN)/python -m tests.tui.pictures docs

integration: venv node ## real DICOM sockets, PostgreSQL, and the whole portal in one folder by `ddwd try`
	@packaging/host Orthanc dicomweb dcmsend dciodvfy initdb
	$(HOST_TESTS) tests/dicom tests/integration

coverage: venv
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

appliance: venv deb ## boot a Debian 13 machine with the .deb installed and leave it running
	$(MACHINE) boot

shell: venv ## a root shell in that machine
	$(MACHINE) shell

stop: venv ## stop that machine and throw it away
	$(MACHINE) stop

demo: venv deb ## send real studies through a throw-away machine and compare every file that comes out
	$(MACHINE) demo

bench: venv deb ## the portal beside the plain pipeline, a table and dist/bench.json: QUICK=1 (minutes), ONLY="tail hop"
	$(AS_ROOT) $(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

fuzz: $(FUZZ_VENV)/ready ## look for bytes that break the portal's own parsers: SECONDS=... for each (60), TARGET=pdu|head|path|ledger|config
	@for target in $(or $(TARGET),pdu head path ledger config); do \
	    $(FUZZ_VENV)/bin/python -m tests.fuzz $$target $(or $(SECONDS),60) || exit; \
	done

identifiers: venv ## ten million generated identifiers: none leaves its folder, no two share a name: COUNT=...
	$(BIN)/python -m tests.identifiers $(or $(COUNT),10000000)

$(AUDIT_VENV)/ready:
	@packaging/host venv
	@packaging/venv $(PYTHON) $(AUDIT_VENV) packaging/supply/requirements.lock

audit: deb $(AUDIT_VENV)/ready ## what is known against the vendored libraries, Orthanc and DCMTK, by the SBOM of the .deb
	@$(AUDIT_VENV)/bin/python packaging/supply/audit.py dist/ddwd_*_all.deb

$(DOCS_VENV)/ready:
	@packaging/host venv
	@packaging/venv $(PYTHON) $(DOCS_VENV) packaging/site/requirements.lock

docs: venv $(DOCS_VENV)/ready ## the site of README.md, docs/ and the reference made from the code, in build/site
	@$(BIN)/python packaging/site/pages.py build/docs
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --config-file packaging/site/mkdocs.yml

faults: venv deb ## fault rounds in a throw-away machine: SEED=... ROUNDS=... (100), or ROUND=... to replay one; beside IDLE=... associations
	@packaging/host dcmsend
	$(AS_ROOT) $(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ROUND),--only $(ROUND)) $(if $(IDLE),--idle $(IDLE))

machines: venv deb ## what make test runs in booted machines, four at a time
	@packaging/host dcmsend
	$(MACHINE_TESTS) -m 'appliance and not certify and not alone'

machines-certify: venv deb node ## all other tests in booted machines
	@packaging/host dcmsend dciodvfy
	$(MACHINE_TESTS) -m certify

traffic: venv deb ## normal traffic, in which no view may alarm, with the machine for itself: MINUTES=... (3)
	@packaging/host dcmsend
	$(AS_ROOT) env DDWD_TRAFFIC_MINUTES=$(or $(MINUTES),3) $(PYTEST) tests/appliance -m alone

newcomers: ## demo and check on a bare Debian 12 as root, and on a bare Debian 13 as a user with sudo
	packaging/newcomer bookworm root demo check
	packaging/newcomer trixie user demo check

test: venv deb node ## the promises: lint, unit, integration, and in booted machines what must never break; a quarter of an hour
	@rm -rf build/coverage
	@$(BIN)/python -m tests.tiers test

certify: venv deb node ## all that is left, at full depth
	@$(BIN)/python -m tests.tiers certify

lock: ## pin newer versions of the libraries and tools
	packaging/lock $(CACHE)

manual: venv ## man pages and completion, etc/ddwd.yaml and the table of docs/settings.md, the schemas of --json and docs/json.md, from --help, the declared settings and answers
	$(BIN)/python packaging/settings_files.py
	$(BIN)/python packaging/manual.py packaging/manual
	$(BIN)/python packaging/answers.py

clean: ## remove what was built here; the cache folder stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
