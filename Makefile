# Two commands: `make study` runs the quickstart study end to end, `make test` the whole test suite. `make docs` builds the pages.
# Both make their own virtual environment from the pins in constraints.txt, and both may be interrupted and started again.
# Variables: PYTHON (which Python makes the environment), VENV (where), STUDY (which study), ARGS (more flags for it).

VENV ?= .venv
STUDY ?= gin_configs/studies/quickstart.gin
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin

.PHONY: study test lint docs clean-venv
.DEFAULT_GOAL := study

# Without a shell between make and the study, killing make kills the study, and that kills its trainings.
study: export LOSSLINE_DIE_WITH_PARENT = 1
study: $(VENV)/.installed-data
	@$(BIN)/python -m lossline.study --gin_file=$(STUDY) $(ARGS)

test: $(VENV)/.installed-dev
	@echo "[tests] the whole suite, slow ones included"
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy lossline

docs: $(VENV)/.installed-docs
	@$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "[docs] docs/_build/html/index.html"

# An environment without its stamp (an install that was cut off) is completed by the same command.
$(VENV)/.installed-%: setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "lossline: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 2; }
	@echo "[environment] $(VENV) with the [$*] extra, pinned by constraints.txt (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar=off -c constraints.txt -e '.[$*]' \
		| awk '/^Collecting|^Building|^Installing|^Successfully/ { printf "[environment] %.140s\n", $$0; fflush() }' ; \
		$(BIN)/python -c 'import lossline, jax, gin' || { echo "lossline: the install failed; the lines above say which package"; exit 2; }
	@touch $@

clean-venv:
	@rm -rf $(VENV)
