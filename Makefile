# The plain commands behind each target stand in README.md.
PYTHON ?= python3
BIN := .venv/bin

MINUTES := 5

.PHONY: chat assistant test quick test-all bench corpus-demo clean

chat: ckpt_chat/model.safetensors
	@if [ -t 0 ]; then $(BIN)/python chat.py; else $(BIN)/python chat.py --samples; fi

# A pretrained base, SmolLM2, that learns the project's dialogues and its name; docs/bases.md.
assistant: ckpt_assistant/model.safetensors
	@if [ -t 0 ]; then $(BIN)/python chat.py --model ckpt_assistant; else $(BIN)/python chat.py --model ckpt_assistant --samples; fi

ckpt_assistant/model.safetensors: | .venv/chat
	$(BIN)/pip install --no-deps -r requirements/bases.txt
	$(BIN)/python finetune_dialogue.py configs/assistant.yaml --resume_from_checkpoint true

ckpt_chat/model.safetensors: | ckpt/model.safetensors
	$(BIN)/python finetune_dialogue.py --base ckpt/ --resume_from_checkpoint true
	$(BIN)/python score.py ckpt_chat --brief --output_dir ckpt_chat/score

ckpt/model.safetensors: | .venv/chat
	$(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no train.py --minutes $(MINUTES) --resume_from_checkpoint true

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

# A minute on two cores: no processes, training runs, browser or default data read whole; of the models Qwen3.
quick: .venv/test
	HYPOTHESIS_PROFILE=quick OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --dist worksteal

# With every optional package; llama-cpp-python is compiled, which takes some ten minutes.
test-all: .venv/test
	$(BIN)/pip install -r requirements/export.txt -r requirements/ray.txt "transformers[serving]"
	SLOW_TESTS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

bench: .venv/test
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.corpus
	if [ -d ckpt_chat ]; then $(BIN)/python -m benchmarks.decode ckpt_chat; fi

corpus-demo: .venv/test
	$(BIN)/python -m benchmarks.corpus_demo

.venv/chat: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r requirements.txt
	@touch $@

.venv/test: requirements/dev.txt requirements/corpus.txt requirements/web.txt | .venv/chat
	$(BIN)/pip install -r requirements/dev.txt
	@touch $@

# What was trained stays.
clean:
	rm -rf .venv
