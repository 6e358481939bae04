# Each of `make demo`, `make test` and `make check` sets up all it needs, also on a bare Debian 12 machine.
VENV := .venv
PYTHON := $(VENV)/bin/python -P
# What is tested is the installed wheel: no command may import the checkout's sandbox/ because it stands beside it.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# By content and not by time, so that a deleted, renamed or checked-out older file counts as a change.
PACKAGE_SUM = find sandbox profiles pyproject.toml README.md LICENSE -name __pycache__ -prune -o -type f -print | \
	LC_ALL=C sort | xargs sha256sum
C_SOURCES = $(wildcard sandbox/launcher/*.c sandbox/launcher/tracer/*.c)
C_WARNINGS = $(shell sed -n 's/^ *\(-W[a-z0-9=-]*\)$$/\1/p' sandbox/launcher/CMakeLists.txt)

.PHONY: help demo test check bench compat learned library setup clean

help:
	@echo 'make demo    run a program on real input in the sandbox, showing what was closed and granted'
	@echo 'make test    all checks and tests; as root, the kernel tests also as an ordinary user'
	@echo 'make check   lint, format, types, C warnings'
	@echo 'make bench   measure start-up, memory, real jobs and the exec gate, against other launchers; takes 10 minutes'
	@echo 'make compat  run real jobs by real programs in the sandbox; installs some 150 packages'
	@echo 'make library run the applications of the library, hostile code in their place too; installs some 50 packages'
	@echo 'make learned learn the same jobs, and run each under the profile that was learned'
	@echo 'make clean   remove everything that was built'

demo: setup
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh docs/demo.sh

test: check
	@tests/setup-system tests/profiles/packages
	tests/run $(PYTHON)

check: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	@# The build has compiled it with -Werror already; this covers the harnesses, and a second compiler's opinion.
	@for cc in gcc clang; do \
		command -v $$cc >/dev/null || continue; \
		case $$cc in clang) extra=-Wno-sign-conversion ;; *) extra= ;; esac; \
		echo "$$cc -fsyntax-only sandbox/launcher/*.c"; \
		for source in $(C_SOURCES); do \
			$$cc -std=gnu11 -ffreestanding -fsyntax-only -Werror $(C_WARNINGS) $$extra $$source || exit 1; \
		done; \
	done

# BENCH: options of tests/bench/bench.py, as in make bench BENCH='--nsjail /opt/nsjail'. A peer that cannot be had is left out.
bench: setup
	@tests/setup-system tests/bench/packages || echo >&2 'bench: goes on without them'
	@$(PYTHON) -m pip install --quiet \
		$$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])') || \
		echo >&2 'bench: what the extra "bench" names could not be installed'
	$(PYTHON) tests/bench/bench.py $(BENCH)

# USER_NAME is whom root becomes for the jobs: one that can log in, or sshd refuses it.
compat: setup
	tests/setup-system tests/workloads/packages
	$(PYTHON) tests/workloads/compat.py $(if $(USER_NAME),--user $(USER_NAME))

# Runs every application of the library, tells how each fares, and writes the table in docs/profiles.md.
library: setup
	@tests/setup-system tests/profiles/packages
	PYTHONPATH=. $(VENV)/bin/python -m tests.support.library

learned: setup
	tests/setup-system tests/workloads/packages
	$(PYTHON) tests/workloads/learned.py $(if $(USER_NAME),--user $(USER_NAME))

# The system's own python3 comes first, since an ordinary user must be able to run it: the tests run as one, too.
# Three steps, each skipped when its inputs are unchanged: the environment, the dependencies, the package.
setup:
	@tests/setup-system
	@if ! $(VENV)/bin/python -c '' 2>/dev/null; then \
		echo 'setup: making $(VENV)'; \
		for base in /usr/bin/python3 python3; do \
			$$base -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; base=; \
		done; \
		[ -n "$$base" ] || { echo >&2 'setup: python3: 3.11 or newer with venv is needed; install it'; exit 1; }; \
		rm -rf $(VENV) && $$base -m venv $(VENV); \
	fi
	@sum=$$(sha256sum pyproject.toml); \
	if [ "$$sum" != "$$(cat $(VENV)/dependencies.sum 2>/dev/null)" ]; then \
		echo 'setup: installing the package and what its tests need'; \
		$(PYTHON) -m pip install --quiet '.[test]' && \
		$(PYTHON) -m pip install --quiet \
			$$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])') \
			$$(command -v cmake >/dev/null || echo cmake) && \
		echo "$$($(PACKAGE_SUM))" >$(VENV)/package.sum && \
		echo "$$sum" >$(VENV)/dependencies.sum; \
	fi
	@sum=$$($(PACKAGE_SUM)); \
	if [ "$$sum" != "$$(cat $(VENV)/package.sum 2>/dev/null)" ]; then \
		echo 'setup: building and installing the package'; \
		$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --force-reinstall . && \
		echo "$$sum" >$(VENV)/package.sum; \
	fi

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sandbox tests -name __pycache__ -prune -exec rm -rf {} +
