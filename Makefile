PY := .venv/bin/python
LODE := .venv/bin/lode

.venv/installed: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mlx]' || echo "no wheel of mlx here: its tests are skipped"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quantised]' || echo "no wheel of bitsandbytes here: its tests are skipped"
	touch $@

quickstart: .venv/installed
	$(LODE) quickstart --out quickstart

test: .venv/installed
	$(PY) -m pytest -n 2

.venv/slow: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,notebook,openvino]'
	touch $@

slow: .venv/slow
	$(PY) -m pytest -m slow

check: .venv/installed
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/mypy examples/*.py && .venv/bin/lint-imports

cov: .venv/installed
	$(PY) -m pytest --cov lodesmith --cov-report term-missing:skip-covered

bench: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	$(PY) -m benchmarks

docs: .venv/installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	.venv/bin/pdoc lodesmith -o docs/api

.PHONY: quickstart test slow check cov bench docs
