# make repro             the pipeline of params.yaml, from nothing to results/
# make cluster           the same on many workers: Slurm, or this machine's GPUs or cores (docs/cluster.md)
# make report            runs/report/report.html: what there is of an unfinished grid, and what is missing
# make test              every test
# make remote URL=...    share the cache: a folder, s3://... or ssh://... (docs/sharing.md)
# make check-cache       rehash the cache and the remotes, and repair them from each other
# make campaign          kills, faults and hostile input, by the hundred; writes docs/campaign.md
# make lint              formatting, style, types
# make lock              new exact versions from pyproject.toml

VENV := .venv
PYTHON ?= python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro cluster report test remote check-cache campaign lint lock env

repro: env
	python -m tools.mend
	python -m gta.params.check
	dvc repro

cluster: env
	python -m gta.params.check
	python -m tools.cluster

report: env
	python -m stages.aggregate --partial --runs runs/evaluate --segments runs/segment --leaks runs/leaks \
	  --state runs/state --output runs/report

test: env
	python -m pytest --numprocesses auto --dist loadfile

# --local: .dvc/config.local, which git ignores. verify: else DVC takes a damaged object for a whole one.
remote: env
	$(if $(URL),,$(error expected URL=/folder, URL=s3://bucket/path or URL=ssh://user@host/path))
	dvc remote add --quiet --local --force --default store '$(URL)'
	dvc remote modify --local store verify true

check-cache: env
	python -m tools.check_cache

campaign: env
	PYTHONPATH=tests python -m tools.campaign

lint: env
	ruff format --check .
	ruff check .
	mypy

env: $(VENV)/installed

# Bytecode is compiled at once: twenty stage processes import torch and timm, twice as fast with it.
$(VENV)/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11, 4) <= sys.version_info < (3, 13) \
	  and "expected Python 3.11.4 or newer, up to 3.12 (make PYTHON=python3.12), got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	uv pip sync --quiet --compile-bytecode requirements.lock
	touch $@

lock: env
	uv pip compile --quiet --universal --python-version 3.11 --group dev --generate-hashes \
	  --no-emit-index-url --no-header --upgrade --output-file requirements.lock pyproject.toml
