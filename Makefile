# `make demo` and `make test` set themselves up; nothing else is needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint install clean

demo: install
	dvc repro
	@cat artifacts/results.md
	@echo "Report: $(CURDIR)/artifacts/report.html"

test: install
	pytest -n 2

lint: install
	ruff check .
	ruff format --check .
	mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) artifacts/*/ artifacts/results.* artifacts/report.html
