# `make demo` and `make test` install and build all that they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := target/service
DEVSTACK := $(BIN)/dropgate-devstack
CACHE := $(or $(DROPGATE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dropgate)
WORKER := edge/build/index_bg.wasm
EDGE_SOURCES := edge/entry.mjs $(shell find edge/src shared/src shared/lua -type f) shared/build.rs \
	Cargo.toml Cargo.lock edge/Cargo.toml shared/Cargo.toml edge/build.sh edge/package-lock.json
BENCH := $(BIN)/dropgate-bench
DENY := $(CACHE)/cargo-deny-0.20.2

.PHONY: help setup build edge demo up down status logs sql test test-page unit e2e simulate mutants explore chaos fuzz bench bench-edge bench-issuer image image-test manifests openapi size deny audit lint fmt docs clean

help: ## list the commands
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: ## install what the stack needs (once per machine)
	@devstack/setup

edge: $(WORKER) ## compile the gate to WebAssembly

$(WORKER): $(EDGE_SOURCES) | setup
	@echo "building the gate (WebAssembly)"
	@edge/build.sh

build: setup edge ## compile the gate and the native programs
	@echo "building the native programs"
	@cargo build --locked --profile service -p dropgate-issuer -p dropgate-rest-proxy -p dropgate-devstack -p dropgate-burst

demo: build ## run USERS=10000 against CAPACITY=100 coupons on real servers, and print a verdict
	@$(DEVSTACK) demo

up: build ## start the stack and leave it running
	@$(DEVSTACK) up

down: ## stop the stack; its data is kept
	@[ ! -x $(DEVSTACK) ] || $(DEVSTACK) down

status: ## show the running processes
	@if [ -x $(DEVSTACK) ]; then $(DEVSTACK) status; else echo "nothing is built: run make up"; fi

logs: ## follow the logs of the stack
	@$(DEVSTACK) logs

sql: ## query the database of the stack: make sql Q='SELECT COUNT(*) FROM coupons'
	@$(DEVSTACK) sql $(if $(Q),"$(Q)")

test: build ## run all tests
	@mkdir -p target
	@set -o pipefail; $(MAKE) --no-print-directory unit e2e 2>&1 | tee target/test.log
	@awk '/^test result:/ { passed += $$4; failed += $$6 } END { printf "\n%d passed, %d failed\n", passed, failed }' \
		target/test.log

unit: export DROPGATE_MARIADB := 1
unit: build
	$(DEVSTACK) with-database cargo test --locked --workspace --exclude dropgate-tests
	DATABASE_KIND=mariadb $(DEVSTACK) with-database cargo test --locked -p dropgate-issuer --test store --test session
	DATABASE_KIND=mariadb $(DEVSTACK) with-database cargo test --locked -p dropgate-simulator --test mysql_contract

e2e: build
	cargo test --locked -p dropgate-tests --tests -- --test-threads=1

SIMULATOR := cargo run --quiet --locked --profile service -p dropgate-simulator --

simulate: setup ## search for broken promises: gate, scripts and issuer on a virtual clock, SEEDS=1000
	@$(SIMULATOR) search --seeds $(or $(SEEDS),1000)

mutants: setup ## break the design on purpose, and see the search notice
	@$(SIMULATOR) mutants

explore: setup ## run every order of DEPTH=3 operations: two users, one slot, two isolates, one issuer
	@$(SIMULATOR) explore --depth $(or $(DEPTH),3)

CHAOS := cargo run --quiet --locked --profile service -p dropgate-tests --bin chaos --

chaos: build ## strike real servers with random faults, MINUTES=10 SEED=1; ARGS=--with-data-loss
	@$(CHAOS) --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) $(ARGS)

fuzz: setup ## fuzz what the internet sends and what servers answer, MINUTES=1
	@MINUTES=$(or $(MINUTES),1) fuzz/run.sh

test-page: export DROPGATE_BROWSER := 1
test-page: build ## test the drop page in Chromium (installs it); screenshots in target/pictures
	cargo test --locked -p dropgate-tests --features browser --test page -- --nocapture

bench: setup edge bench/edge/node_modules/.package-lock.json
	@cargo build --locked --profile service -p dropgate-issuer -p dropgate-rest-proxy -p dropgate-devstack -p dropgate-bench

bench/edge/node_modules/.package-lock.json: bench/edge/package-lock.json
	@npm --prefix bench/edge ci --no-fund --no-audit --loglevel error && touch $@

bench-edge: bench ## compare the gate with its peers, into docs/benchmarks.md; quick: ROUNDS=1 SECONDS=2 ONLY=sold-out
	@$(BENCH) edge $(if $(ROUNDS)$(SECONDS)$(ONLY)$(AUTH),--rounds $(or $(ROUNDS),7) --seconds $(or $(SECONDS),3),--write)

bench-issuer: bench ## compare the issuer with its peers, beside other users of the database; quick: ROUNDS=1 RECORDS=20000
	@$(BENCH) issuer $(if $(ROUNDS)$(RECORDS)$(ONLY),--rounds $(or $(ROUNDS),3) --records $(or $(RECORDS),500000),--write)

image: ## build the issuer's image with docker or podman; IMAGE=, RUST_IMAGE=, BASE_IMAGE=
	@deploy/image.sh build

image-test: build ## build the image and test it against the stack: it issues coupons and drains on SIGTERM
	@deploy/image.sh test

manifests: export DROPGATE_MANIFESTS := 1
manifests: setup ## check the Kubernetes manifests against the schemas of Kubernetes
	@deploy/manifests.sh

openapi: setup ## check the OpenAPI document and its examples
	@node edge/openapi.mjs

size: edge ## check the worker's size and start-up time against their budgets, and dry-run its deployment
	@edge/size.sh

deny: $(DENY) ## check licences and sources of all dependencies
	@$(DENY)/bin/cargo-deny --log-level error check bans licenses sources

audit: $(DENY) ## check all dependencies for known vulnerabilities (needs the network)
	@$(DENY)/bin/cargo-deny check advisories

$(DENY):
	@echo "building $(notdir $@) (about 3 minutes)"
	@cargo install --quiet --debug cargo-deny --version 0.20.2 --locked --root $@.part && mv $@.part $@

lint: setup ## check the format; run clippy natively and for wasm
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p dropgate-edge --target wasm32-unknown-unknown -- -D warnings

docs: setup ## build the API documentation; warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

fmt: ## format the code
	cargo fmt --all

clean: down ## remove the stack's data and all builds
	rm -rf .stack target edge/build edge/.wrangler
