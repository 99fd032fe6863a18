# `make demo` and `make test` do all the set-up they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := target/service
LOCAL := $(BIN)/dropgate-local

.PHONY: help setup build edge demo up down status logs sql test unit e2e lint fmt docs ci clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: ## install what the stack needs (once a machine)
	@local/setup

edge: setup ## compile the gate to WebAssembly
	@echo "building the gate (WebAssembly)"
	@edge/build.sh

build: setup edge ## compile the gate and the native programs
	@echo "building the native programs"
	@cargo build --locked --profile service -p dropgate-issuer -p dropgate-local -p dropgate-burst

demo: build ## a crowd of USERS=10000 for CAPACITY=100 coupons on real servers, with a verdict
	@$(LOCAL) demo

up: build ## start the stack and leave it running
	@$(LOCAL) up

down: ## stop it
	@$(LOCAL) down

status: ## what runs, and where
	@$(LOCAL) status

logs: ## follow its logs
	@$(LOCAL) logs

sql: ## ask its database: make sql Q='SELECT COUNT(*) FROM coupons'
	@$(LOCAL) sql $(if $(Q),"$(Q)")

test: build unit e2e ## all tests

unit: build
	$(LOCAL) with-database cargo test --locked --workspace --exclude dropgate-tests

e2e: build
	cargo test --locked -p dropgate-tests -- --test-threads=1

lint: setup ## format, clippy natively and for wasm
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p dropgate-edge --target wasm32-unknown-unknown -- -D warnings

docs: setup ## API documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

fmt: ## format the code
	cargo fmt --all

clean: down ## remove the stack's data and all builds
	rm -rf .stack target edge/build edge/.wrangler
