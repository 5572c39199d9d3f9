# Two commands matter: `make testnet` and `make test`. Each first does what `make install` does.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
TESTNET_ARGS := --validators 4 --seconds 60

.PHONY: help install testnet test test-slow sim lint format clean

help:
	@echo "make testnet    four validators trading on this machine for a minute, and a verdict;"
	@echo "                ARGS='--validators 7 --seconds 300' says otherwise"
	@echo "make test       lint, types and the default test suite"
	@echo "make test-slow  the tests marked slow"
	@echo "make sim        five minutes of simulation on two cores: seeds, twins, forks, canaries, model"
	@echo "make install | lint | format | clean"

install: $(VENV)/.installed

# The build backend comes first and isolation is off: pip checks no hashes for what it puts into an isolated build.
$(VENV)/.locked: requirements-build.lock requirements.lock
	@python=$$(tools/preflight.sh) && \
	echo "creating $(VENV) with $$($$python --version)" && \
	$$python -m venv --clear $(VENV)
	@echo "installing $$(grep -c '==' requirements.lock) locked packages (about a minute; a slow network takes longer)..."
	@$(PIP) install --require-hashes -r requirements-build.lock
	@$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@echo "installing quorate itself..."
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

testnet: install
	@$(BIN)/quorate testnet up $(or $(ARGS),$(TESTNET_ARGS))

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: install
	@$(BIN)/python -m pytest -m slow $(ARGS)

sim: install
	@$(BIN)/quorate sim run --seeds 1..500 --save .
	@$(BIN)/quorate sim run --seeds 1..150 --validators 4 --application exchange --save .
	@$(BIN)/quorate sim twins --scenarios 80000
	@$(BIN)/quorate sim fork --seeds 1..200 --save .
	@$(BIN)/quorate sim canaries
	@$(BIN)/quorate sim model

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
