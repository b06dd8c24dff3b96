# `make demo` and `make test` set themselves up; nothing else is needed beforehand.
PYTHON ?= python3
VENV := .venv
JOBS ?= 2
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The embedded model learns no faster on several threads, and with one the bytes of its artifacts do
# not depend on how many cores there are.
export OMP_NUM_THREADS ?= 1

.PHONY: demo study tables pipeline docs tutorial test lint install clean

demo: install
	dvc repro
	@cat artifacts/results.md
	@echo "Report: $(CURDIR)/artifacts/report.html"

# Both go on where they were interrupted; docs/clusters.md has the same for a cluster.
study: install
	capt-stage submit study --jobs $(JOBS)
	@echo "Tables: $(CURDIR)/artifacts/study/study.md, study.html"

# Every method beside the paper's Table 1.
tables: install
	capt-stage submit tables --jobs $(JOBS)
	@echo "Table: $(CURDIR)/artifacts/tables/table1.md, table1.html"

# Writes dvc.yaml, study/dvc.yaml and the tables of the READMEs from the declarations in the code.
pipeline: install
	python -m stages.pipeline

test: install
	pytest -n 2 --dist worksteal

lint: install
	ruff check .
	ruff format --check .
	mypy

# Pages from the files of the repository, into site/; warnings are errors.
docs: export NO_MKDOCS_2_WARNING := 1
docs: install
	mkdocs build --strict --quiet
	@echo "Documentation: $(CURDIR)/site/index.html"

# Runs the commands of docs/tutorial.md and takes its pictures again; needs a Chromium.
tutorial: install
	python -m benchmarks.tutorial

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site dvc.lock study/dvc.lock artifacts/*/ artifacts/results.* artifacts/report.html
