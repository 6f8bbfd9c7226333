# make train    set everything up, then train PPO on CartPole: sixteen seeds, one program
# make test     set everything up, then lint and all tests; make quick leaves the slow ones out
# make evidence put equation tests and batteries on record, renew PAPERS.md
# make notebooks run the notebooks from their sources, for what they show
# make lock     resolve constraints.txt anew, at both ends of the supported Pythons
# Another Python, beside the first: make test VENV=.venv313 PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = -m pip --disable-pip-version-check -qq
STAMP = $(VENV)/installed

.PHONY: train test quick evidence notebooks lint install lock clean

train: $(STAMP)
	$(BIN)/jaxrl train ppo --env CartPole-v1 --seeds 16 --steps 500000

test: lint
	$(BIN)/pytest -n 2 -q

quick: $(STAMP)
	$(BIN)/pytest -n 2 -q -m "not slow"

evidence: $(STAMP)
	JAXRL_BATTERY=all $(BIN)/pytest -n 2 -q --record -m "equation or battery"
	$(BIN)/jaxrl papers --write >/dev/null

notebooks: $(STAMP)
	$(BIN)/python -m experiments.notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "jaxrl needs Python 3.11 to 3.13; name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV); the first time takes minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# What both Pythons resolve to alike stands bare, the rest under a marker. make lock OLD=... NEW=...
OLD ?= python3.11
NEW ?= python3.13
LOCKED = dev,tune,data,video,export,models,gymnasium
PINS = import json, sys; print(*sorted("%(name)s==%(version)s" % p["metadata"] \
	for p in json.load(sys.stdin)["install"] if p["metadata"]["name"] != "jaxrl"), sep="\n")

lock:
	@set -e; d=$$(mktemp -d); trap "rm -rf $$d" EXIT; export LC_ALL=C; \
	resolve() { \
		$$2 -m venv $$d/$$1; \
		$$d/$$1/bin/python $(PIP) install --dry-run --ignore-installed --report $$d/$$1.json '.[$(LOCKED)]'; \
		$$d/$$1/bin/python -c '$(PINS)' <$$d/$$1.json >$$d/$$1.txt; \
	}; \
	resolve old "$(OLD)"; resolve new "$(NEW)"; cd $$d; \
	{ comm -12 old.txt new.txt; \
	  comm -23 old.txt new.txt | sed 's/$$/ ; python_version == "3.11"/'; \
	  comm -13 old.txt new.txt | sed 's/$$/ ; python_version >= "3.12"/'; \
	} | sort -f >pins; cp pins "$(CURDIR)/constraints.txt"

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
