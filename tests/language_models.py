"""Tiny language models in folders, made here: no other library's code is needed."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer, decoders, models

from jaxrl.models import Model, Transformer, save_checkpoint, shape_of, tensors

SIGNS = [chr(i) for i in range(32, 127)]
CONFIG = dict(
    architectures=["Qwen2ForCausalLM"],
    model_type="qwen2",
    hidden_act="silu",
    vocab_size=100,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    eos_token_id=1,
    pad_token_id=0,
)


def tokenizer(path: Path) -> None:
    """A character a token; 0 is nothing, 1 the end."""
    vocabulary = {sign: i for i, sign in enumerate(["<pad>", "<end>", *SIGNS])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.decoder = decoders.Fuse()
    made.save(str(path))


def folder(path: Path, shards: int = 1, noise: float = 0.1, **changes: Any) -> Path:
    """A folder with a model of random numbers.

    noise: added to all parameters, so that none is 0 or 1.
    """
    source = path.with_name(path.name + "-source")
    source.mkdir(parents=True)
    (source / "config.json").write_text(json.dumps(CONFIG | changes))
    tokenizer(source / "tokenizer.json")
    shape, config = shape_of(source)
    params = jax.jit(Transformer(shape).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    keys = iter(jax.random.split(jax.random.key(1), 999))
    params = jax.tree.map(lambda x: x + noise * jax.random.normal(next(keys), x.shape), params)
    names = [name for name, *_ in tensors(shape)]
    file = lambda i: "model.safetensors" if shards == 1 else f"model-{i % shards}.safetensors"
    places = {name: file(i) for i, name in enumerate(names)}
    return save_checkpoint(path, Model(shape, params, config, source, places))
