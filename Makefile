# Every command of this repository. `make` lists them; .ci/run and .github/workflows call these and nothing else.
# Written for GNU make 3.81 (macOS) and later: one shell per line, so longer recipes are joined with backslashes.

PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements.txt
PORT ?= 8000
WORKERS ?= 2

# How many of a hundred lines and branches of lib the unit tests must reach.
COVERED := 95

SHELL := bash
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
HTML := _build/html
LOG := _build/test.log

# What `make test` runs, in this order: what fails soonest comes first, and the pages need the book.
EVERY_STEP := lint unit nbval colab book pages
STEPS ?= $(EVERY_STEP)
PAGE_TESTS := tests/test_site.py tests/test_pages.py tests/test_explorables.py

# One thread per process (numbers and times then repeat), no live widgets, nothing to ask, nobody to tell of new pips.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export EXPLORE_MODE := static
export JUPYTER_PLATFORM_DIRS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PORT WORKERS STEPS EVERY_STEP

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test serve notebooks repository lint unit nbval pages colab lax newest clean free-port settings built

help:  ## List the commands (what `make` alone does)
	@echo "Inside the Transformer Block. Each command makes the environment first if there is none."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Settings: PYTHON=$(PYTHON) (makes the environment)  VENV=$(VENV)  PORT=$(PORT) (serve)  WORKERS=$(WORKERS) (tests)"

# ---- The environment -------------------------------------------------------------------------------------------------

# An environment that still runs is brought up to date; any other is made anew. The stamp comes last, so a failed
# installation is tried again. (PYTHONWARNINGS: setuptools has a warning for every editable installation.)
$(READY): $(REQUIREMENTS) pyproject.toml
	@fail() { echo "$$1" >&2; exit 1; }; \
	"$(PY)" -c '' 2>/dev/null || { \
	  command -v "$(PYTHON)" >/dev/null || fail "No $(PYTHON) here: install Python 3.11 or newer, or name it: make PYTHON=python3.12"; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    fail "$(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -n 1), but the book needs 3.11 or newer: make PYTHON=python3.12"; \
	  "$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
	    fail "$(PYTHON) cannot make environments: install its venv module (on Debian or Ubuntu: apt install python3-venv)"; \
	  echo "Making the environment in $(VENV), once; this takes a few minutes."; \
	  "$(PYTHON)" -m venv --clear "$(VENV)"; \
	} || exit 1; \
	PYTHONWARNINGS=ignore "$(PY)" -m pip install --quiet -r "$(REQUIREMENTS)" || fail "The environment in $(VENV) is not complete: see pip's message above."; \
	touch "$@"

# Today's newest versions of the packages that requirements.txt names itself, without those that come along.
_build/requirements-newest.txt: requirements.txt
	@mkdir -p _build
	@sed -n -e '/What these bring along/q' -e 's/^jupyter-book==.*/jupyter-book<2/' -e 's/==.*//' -e '/^[A-Za-z]/p' $< > $@
	@echo "--editable ." >> $@

# ---- For readers -----------------------------------------------------------------------------------------------------

# Sphinx warns about a page only when it reads it, so what a failed build has read is thrown away: otherwise the next
# build would find nothing new and pass.
book: $(READY)  ## Build the whole book, strictly, into _build/html
	@"$(VENV)/bin/jupyter-book" build . -W -n --keep-going --quiet || \
	  { rm -rf _build/.doctrees; echo "The book did not build: its warnings are above." >&2; exit 1; }
	@echo "The book is in $(HTML): open $(HTML)/index.html, or run: make serve"

serve: free-port book  ## Build the book and show it on localhost (PORT=8000)
	@echo "The book is at http://localhost:$$PORT/ (stop with Ctrl-C)"
	@"$(PY)" -m http.server "$$PORT" --bind 127.0.0.1 --directory $(HTML)

# Asked first, before anything takes time. Lower ports belong to the system.
free-port:
	@case "$$PORT" in ''|*[!0-9]*|??????*|0*) false;; *) [ "$$PORT" -ge 1024 ] && [ "$$PORT" -le 65535 ];; esac || \
	  { echo "PORT is '$$PORT', but it must be a number from 1024 to 65535: make serve PORT=8000" >&2; exit 1; }
	@! (: < "/dev/tcp/127.0.0.1/$$PORT") 2>/dev/null || \
	  { echo "Port $$PORT is taken: choose another, such as make serve PORT=8001" >&2; exit 1; }

# ---- For authors -----------------------------------------------------------------------------------------------------

notebooks: $(READY)  ## Execute the notebooks that changed and store their outputs (NOTEBOOK=name for one, ALL=1 for all)
	@"$(PY)" tools/notebooks.py write $(if $(ALL),--all) $(NOTEBOOK)

repository: $(READY)  ## Compare the repository that Colab fetches the library from with this one (GITHUB_REPOSITORY=OWNER/REPO)
	@"$(PY)" tools/set_repository.py --check

clean:  ## Remove what the commands built, but not the environments
	@rm -rf _build build .pytest_cache .ruff_cache .hypothesis .coverage
	@find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- The tests -------------------------------------------------------------------------------------------------------

# Adds up the closing lines of all pytest runs. A step that fails without a failed test (lint, say) counts as one.
define CLOSING_LINE
{ gsub(/\033\[[0-9;]*m/, "") }
/^=* ?[0-9]+ [a-z]+.* in [0-9.]+s/ {
    words = split($$0, word, /[ =,]+/)
    for (i = 2; i <= words; i++) if (word[i] ~ /^(passed|failed|skipped|xfailed|errors?)$$/) count[word[i]] += word[i - 1]
}
END {
    failed = count["failed"] + count["error"] + count["errors"]
    if (status != 0 && failed == 0) failed = 1
    if (failed) line = failed " failed, "
    line = line count["passed"] + 0 " passed"
    if (count["skipped"]) line = line ", " count["skipped"] " skipped"
    if (count["xfailed"]) line = line ", " count["xfailed"] " xfailed"
    printf "======== %s in %d.00s ========\n", line, seconds
}
endef
export CLOSING_LINE

# Asked first, before anything takes time.
settings:
	@case "$$WORKERS" in ''|*[!0-9]*|0*|???*) false;; esac || \
	  { echo "WORKERS is '$$WORKERS', but it must be a number of processes from 1 to 99: make test WORKERS=2" >&2; exit 1; }
	@set -f; set -- $$STEPS; [ $$# -gt 0 ] || set -- ''; for step; do \
	  case " $$EVERY_STEP " in *" $$step "*) ;; *) \
	    echo "STEPS is '$$STEPS', but '$$step' is no step: take some of $$EVERY_STEP, as in make test STEPS=\"lint unit\"" >&2; exit 1;; \
	  esac; \
	done

built:
	@[ -f $(HTML)/index.html ] || { echo "No book in $(HTML): build it first with make book, then run make pages" >&2; exit 1; }

# nbval and the rehearsal of Colab keep one core busy each, for about as long: asked for both, colab starts beside nbval
# and tells at its turn what it found.
test: settings $(READY)  ## Everything that decides whether the book is right; the first failing step ends it
	@mkdir -p _build; : > $(LOG); set -o pipefail; SECONDS=0; status=0; times=; beside=; \
	trap '[ -z "$$beside" ] || kill $$beside 2>/dev/null' EXIT; \
	for step in $(STEPS); do \
	  echo "==> make $$step"; from=$$SECONDS; \
	  case "$$step: $(STEPS) " in "nbval: "*"nbval "*"colab "*) \
	    $(MAKE) --no-print-directory colab > $(LOG).colab 2>&1 & beside=$$!;; \
	  esac; \
	  if [ $$step = colab ] && [ -n "$$beside" ]; then \
	    wait $$beside || status=1; beside=; tee -a $(LOG) < $(LOG).colab; \
	  else \
	    $(MAKE) --no-print-directory $$step 2>&1 | tee -a $(LOG) || status=1; \
	  fi; \
	  times="$${times:+$$times, }$$step $$((SECONDS - from)) s"; \
	  [ $$status = 0 ] || { times="$$times (FAILED, the rest was not run)"; break; }; \
	done; \
	echo "Steps: $$times"; \
	awk -v status=$$status -v seconds=$$SECONDS "$$CLOSING_LINE" $(LOG); \
	exit $$status

lint: $(READY)  ## Style, spelling and the policy of the notebooks
	@"$(PY)" -m ruff check --quiet .
	@"$(PY)" -m ruff format --check --quiet . || { echo "To mend the format: $(PY) -m ruff format ." >&2; exit 1; }
	@"$(PY)" -m codespell_lib
	@"$(PY)" tools/notebooks.py check

unit: settings $(READY)  ## The tests that need no built book: the library, the checkers, the tools, the house
	@mkdir -p _build/coverage
	@"$(PY)" -m pytest tests $(PAGE_TESTS:%=--ignore=%) -n $(WORKERS) --dist loadfile --cov --cov-fail-under=$(COVERED)

nbval: $(READY)  ## Execute every notebook and compare with its stored outputs
	@"$(PY)" tools/notebooks.py verify

# Twice the processes: half of the time each waits for the pages' silence.
pages: settings built $(READY)  ## The tests of the built book, in a browser too
	@"$(PY)" -m pytest $(wildcard $(PAGE_TESTS)) -n $$((2 * WORKERS)) --dist worksteal

colab: $(READY)  ## Run every notebook with the versions that Colab has
	@"$(PY)" tools/colab.py

lax: settings $(READY)  ## In another environment: the unit tests, and every notebook without comparing its outputs
	@"$(PY)" -m pytest tests $(PAGE_TESTS:%=--ignore=%) --ignore=tests/test_house.py -n $(WORKERS) --dist loadfile
	@"$(PY)" tools/notebooks.py verify --lax

newest: settings _build/requirements-newest.txt  ## The same, and the book, with today's newest packages (in .venv-newest)
	@$(MAKE) --no-print-directory VENV=.venv-newest REQUIREMENTS=$< lax book
