# Everything below makes .venv by itself and installs into it what it needs; nothing else on the machine is changed.
# Needs make and Python 3.11 or newer with its venv module. Works as root and as an ordinary user.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# what `make run ARGS="--pool-size 4"` and `make test ARGS="-k drain"` hand on
ARGS ?=
# the pip of an older one looks for a release that it can use, without end
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && echo "$$python" && break; done)

# One mark for each set of extras that was installed from this very folder: a clone that was moved installs anew.
HERE := $(shell printf %s "$(CURDIR)" | cksum | cut -d ' ' -f 1)
RUN := .venv/installed-$(HERE)-run
TEST := .venv/installed-$(HERE)-test
LINT := .venv/installed-$(HERE)-lint
BENCH := .venv/installed-$(HERE)-bench
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet
# as a folder in a .pth file: pip's usual finder takes each Python 13 ms to import, and a test run starts a thousand
PLAIN := --config-settings editable_mode=compat
PYTEST := .venv/bin/python -m pytest
# each of four processes would compile all tests, and pytest's rewriting of their asserts takes 3 s of that
test test-unit test-slow chaos: export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run test test-unit test-slow chaos bench lint fmt clean install uninstall

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '%-18s %s\n' "$$target" "$$text"; done

run: $(RUN)  ## a worker with a private PostgreSQL and example tasks; Ctrl-C ends it
	@exec bin/orchestratord dev $(ARGS)

test: $(TEST)  ## the test suite; TEST_DATABASE_URL names a server to use instead of a private one
	@$(PYTEST) -n 4 --dist worksteal $(ARGS)

test-unit: $(TEST)  ## the tests that need no database and no processes
	@$(PYTEST) tests/unit $(ARGS)

# the summary of a run without tests would read like a failure, so that one is not made
test-slow: $(TEST)  ## the long tests and the rarer cases: chaos, several hosts, systemd, a browser
	@$(PYTEST) -m slow --collect-only -qq >.venv/slow-tests 2>&1; \
	case $$? in \
		0) exec $(PYTEST) -m slow -n 2 --dist worksteal $(ARGS);; \
		5) echo "there are no slow tests";; \
		*) cat .venv/slow-tests; exit 1;; \
	esac

SECONDS ?= 60
chaos: $(TEST)  ## random harm for SECONDS=60, checked; SEED=7 and PROFILE=mixed, zombies, replies or single choose it
	@CHAOS_SECONDS='$(SECONDS)' CHAOS_SEED='$(SEED)' CHAOS_PROFILE='$(PROFILE)' \
		$(PYTEST) -s -q -o faulthandler_timeout=0 tests/chaos/as_asked.py $(ARGS)

bench: $(BENCH)  ## how fast it is here, beside PostgreSQL alone and others; ARGS="drain --rounds 5", BENCH_DATABASE_URL
	@.venv/bin/python -m benchmarks $(ARGS)

lint: $(LINT)  ## style, types and import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy orchestrator
	@.venv/bin/lint-imports

fmt: $(LINT)  ## put the code into the project's format
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

clean:  ## remove what make made; the data of `make run` stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# docs/deploy.md; PREFIX (/opt/orchestratord), PYTHON and DESTDIR (for a package or an image) are systemd/install's
install:  ## as root: put orchestratord on this machine as a service of systemd
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' systemd/install install

uninstall:  ## as root: take the service away again; settings, app and data stay
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' systemd/install uninstall

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv, or, where that is" \
		"older, python3.11 python3.11-venv; PYTHON=… names one that is elsewhere" >&2; exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo "Python 3.11 or newer is needed: $(PYTHON) is none" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing: apt-get install $(notdir $(PYTHON))-venv" >&2; exit 1; }
	@echo "making .venv"
	@rm -rf .venv && "$(PYTHON)" -m venv .venv

$(RUN): EXTRAS := dev-postgres,periodic
$(TEST): EXTRAS := dev-postgres,test
$(LINT): EXTRAS := dev-postgres,test,lint
$(BENCH): EXTRAS := dev-postgres,bench
$(RUN) $(TEST) $(LINT) $(BENCH): .venv/bin/python setup.cfg setup.py
	@.venv/bin/python -c '$(NEW_ENOUGH)' || { \
		echo "Python 3.11 or newer is needed, and that of .venv is older: make clean, and again" >&2; exit 1; }
	@echo "installing task-orchestrator[$(EXTRAS)] into .venv"
	@$(PIP) install --use-pep517 $(PLAIN) --editable '.[$(EXTRAS)]'
	@[ $@ != $(BENCH) ] || $(PIP) install --use-pep517 $(PLAIN) --editable '.[rivals]' || \
		echo "the rivals cannot be installed: they will not be measured" >&2
	@touch $@
