# The plain commands behind each target stand in README.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: chat test clean

chat: ckpt_chat/model.safetensors
	@if [ -t 0 ]; then $(BIN)/python chat.py; else $(BIN)/python chat.py --samples; fi

ckpt_chat/model.safetensors: | ckpt/model.safetensors
	$(BIN)/python finetune_dialogue.py --base ckpt/ --resume_from_checkpoint true

ckpt/model.safetensors: | .venv/chat
	$(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no train.py --resume_from_checkpoint true

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

.venv/chat: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.txt
	@touch $@

.venv/test: requirements/dev.txt requirements/corpus.txt | .venv/chat
	$(BIN)/pip install -r requirements/dev.txt
	@touch $@

clean:
	rm -rf .venv ckpt ckpt_chat
