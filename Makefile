# Every target works from a bare clone on Python 3.11 or 3.12: the first one makes .venv.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint types bench bench-train quality evidence golden constraints clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUT ?= demo
# The first interpreter that runs and has a version that requires-python admits.
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3 python,$(shell \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1 && echo $(p))))

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv with everything

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found: install one, or give PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[curation,training,embedded,dev]'
	@touch $@

demo: $(INSTALLED)  ## the whole road on real pictures, about five minutes, into ./demo
	$(BIN)/python -m curation.demo --out $(DEMO_OUT)

# The report's page is tested in a real browser, where the machine has one.
BROWSER := $(firstword $(foreach b,chromium chromium-browser google-chrome chrome,$(shell command -v $(b))))
NOT_BROWSER := $(if $(BROWSER),,and not browser)
NOT_GPU := $(if $(shell command -v nvidia-smi),,and not gpu)

test: $(INSTALLED) lint types  ## every check and the tests, without the long editions
	$(BIN)/python -m pytest -m "not long $(NOT_BROWSER) $(NOT_GPU)"
	@test -n "$(BROWSER)" || echo "no Chromium on PATH: the tests of the page in a browser did not run" >&2
	@test -z "$(NOT_GPU)" || echo "no GPU here: the tests marked gpu did not run" >&2

test-all: $(INSTALLED) lint types  ## every check and every test, with the long editions
	$(BIN)/python -m pytest $(if $(NOT_GPU),-m "not gpu")

quality: $(INSTALLED)  ## detectors against ground truth; needs the pictures: INSIGHTTOK_DATA=FOLDER
	$(BIN)/python -m tests.benchmarks quality

lint: $(INSTALLED)  ## ruff and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

bench: $(INSTALLED)  ## measurements, printed with the machine's name
	$(BIN)/python -m tests.benchmarks

bench-train: $(INSTALLED)  ## the trainer beside what it is to beat, two threads; about ten minutes
	OMP_NUM_THREADS=2 $(BIN)/python -m tests.benchmarks region_crops quantizer loader step adaptive region_losses online ranks

EVIDENCE_OUT ?= evidence
evidence: $(INSTALLED)  ## do region losses help? six trainings from one base, judged; under an hour; needs the pictures: INSIGHTTOK_DATA=FOLDER
	@test -n "$(INSIGHTTOK_DATA)" || { echo "give the annotated pictures: make evidence INSIGHTTOK_DATA=FOLDER (see training/RESULTS.md)" >&2; exit 2; }
	test -d $(EVIDENCE_OUT)/data/held_out/rendered/receipts || $(BIN)/python -m tests.benchmarks.evidence_data --data $(INSIGHTTOK_DATA) --out $(EVIDENCE_OUT)/data
	$(BIN)/python -m training.evidence --out $(EVIDENCE_OUT) --weights 2 2 3 0.5 \
		--train $(addprefix $(EVIDENCE_OUT)/data/train/,text rendered faces general) \
		--held-out $(addprefix $(EVIDENCE_OUT)/data/held_out/,photos_text photos_faces rendered)

golden: $(INSTALLED)  ## write the golden files anew; their diff is to be explained in CHANGELOG.md
	$(BIN)/python -m tests.golden.regen

constraints: $(INSTALLED)  ## resolve constraints.txt anew
	@PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --all-extras --upgrade pyproject.toml --output-file constraints.txt

clean:  ## remove .venv, the demo's output and caches
	rm -rf $(VENV) $(DEMO_OUT) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
