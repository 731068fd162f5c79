# Everything starts here: `make help`. VENV and PYTHON may be given: make repro PYTHON=/path/to/python3.11
SHELL := /bin/bash
# The results in git were made with 3.11, the first choice.
PYTHON ?= $(or $(shell for v in 3.11 3.12 3.13 3.14; do command -v python$$v && break; done),python3)
VENV ?= .venv
# Where torch comes from; empty: pip's own index, whose Linux build is the CUDA one (docs/machines.md).
TORCH_INDEX ?=
PYTEST_ARGS ?=
# Test files go to this many processes, in the order of tests/conftest.py: the long ones (a whole pipeline) first.
TEST_PROCESSES ?= 2
SPREAD_TESTS := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
PROFILE ?= .
BUILT := $(VENV)/.visdyn-packages
READY := $(VENV)/.visdyn-ready
TORCH := $(shell grep -m1 '^torch==' requirements.lock)
# Any Python can read this line, the second one too.
CHECK_PYTHON := import sys; v = sys.version_info[:3]; sys.exit(0 if (3, 11, 5) <= v < (3, 15) else \
  "Python %d.%d.%d does not run visdyn; install 3.11.5 to 3.14, or give one: make environment PYTHON=/path/to/python3.11" % v)

export PATH := $(abspath $(VENV))/bin:$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
export DVC_NO_ANALYTICS := 1
# Of the user's own settings, what would put other packages before the lock's, or these somewhere else.
export PIP_USER := 0
export PYTHONUTF8 := 1
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONUSERBASE PIP_TARGET PIP_PREFIX PIP_ROOT

# What `figures` reads that is not in git.
FIGURE_INPUTS := data/generated/evaluation data/generated/evaluation_doundo

.DEFAULT_GOAL := help
.PHONY: help environment repro verify test test-fast test-foreign torture guards play lab report figures robust external choices doctor plan paper human-study smoke lint format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

environment: $(READY) ## build .venv from requirements.lock (again when the lock changes)

$(BUILT): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; install Python 3.11 to 3.14 or give PYTHON=..."; exit 1; }
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv --clear $(VENV)
	@# torch first and by its exact pin: no other package may then choose another build of it.
	python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	python -m pip install --quiet -r requirements.lock
	@touch $@

$(READY): $(BUILT) pyproject.toml jupyter/jupyter_server_config.json
	python -m pip install --quiet --no-deps --no-build-isolation -e .
	@# The environment's own Jupyter configuration: saved notebooks hold no outputs (see docs/pipeline.md).
	@mkdir -p $(VENV)/etc/jupyter && cp jupyter/jupyter_server_config.json $(VENV)/etc/jupyter/
	@touch $@

repro: environment ## run the embedded pipeline, then compare its claims with the committed ones (PORTABLE=1: see docs/pipeline.md)
	visdyn run
	@# The pipeline has finished; what follows says whether its claims are those of the last commit.
	@visdyn verify

verify: environment ## compare the results here with the committed ones, claim by claim
	visdyn verify --profile $(PROFILE)

test: environment ## run every test, the smoke pipeline included
	python -m pytest $(SPREAD_TESTS) $(PYTEST_ARGS)

test-fast: environment ## run the tests that take seconds
	python -m pytest $(SPREAD_TESTS) -m "not slow" $(PYTEST_ARGS)

test-foreign: environment ## run the quick tests in a shell full of foreign settings (the pipeline: docs/reliability.md)
	env $$(python tests/foreign_environment.py) python -m pytest $(SPREAD_TESTS) -m "not slow" $(PYTEST_ARGS)

torture: environment ## try wrong inputs, kills, full disks and hostile servers: make torture TORTURE="--size night"
	visdyn arithmetic python tests/torture.py $(TORTURE)

guards: environment ## switch each guard off in turn and see its test fail: make guards GUARDS="readers judges"
	visdyn arithmetic python tests/mutate_guards.py $(GUARDS)

play: environment ## open the explorer in the browser: models, their images, yours (no network)
	visdyn play --profile $(PROFILE)

lab: environment ## open JupyterLab on this environment: make lab LAB="--no-browser --port 8890"
	@# Root is who one is in a container; Jupyter asks for the word.
	visdyn arithmetic jupyter lab --LabApp.default_url=/lab/tree/notebooks/explore.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

figures: environment ## draw tables, figures and the report again from the results here
	visdyn run figures --only --force

report: environment ## the same in a fresh clone: take what the figures need from data/pack, train nothing
	@ls -d $(FIGURE_INPUTS) >/dev/null 2>&1 || { test -f data/pack/pack.json && visdyn pack --unpack; } || dvc pull $(FIGURE_INPUTS)
	visdyn run figures --only --force

robust: environment ## after `make repro`: the controls that take longer, then the report with them
	python -m visdyn.pipeline robust
	visdyn run figures --only --force

external: environment ## measure AURORA-Bench and EPIC-KITCHENS-100 where they are at hand (see data/external)
	visdyn external $(EXTERNAL_ARGS)

choices: environment ## try what data/choices.yaml declares on the dev items: make choices CHOICES="fdm_floor --chains 0"
	visdyn choices --profile $(PROFILE) $(CHOICES)

doctor: environment ## say what a profile needs and what is missing, with commands: make doctor PROFILE=profiles/paper
	visdyn doctor --profile $(PROFILE)

plan: environment ## say what a profile will take, stage by stage: make plan PROFILE=profiles/paper PLAN="--gpu h100 --gpus 4"
	visdyn plan --profile $(PROFILE) $(PLAN)

paper: environment ## run the papers' own sizes and data (GPUs; `make doctor PROFILE=profiles/paper` first)
	visdyn run --profile profiles/paper --keep-going

human-study: environment ## serve a blind study of system outputs: make human-study STUDY=folder
	@test -n "$(STUDY)" || { echo "name the study's folder: make human-study STUDY=folder (docs/architecture.md says what it holds)"; exit 1; }
	visdyn study serve $(STUDY)

smoke: environment ## run the smoke profile
	visdyn run --profile profiles/smoke

lint: environment ## ruff, the notebooks' rules, and dvc.yaml against what the notebooks import
	ruff check .
	ruff format --check .
	visdyn notebooks
	visdyn dependencies

format: environment ## let ruff mend what it can
	ruff check --fix .
	ruff format .

clean: ## remove scratch and caches; results, models and the DVC cache stay
	rm -rf .visdyn profiles/*/.visdyn dvc_plots .pytest_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs -r rm -rf
