"""Language models in folders, as other tools have them: config.json, safetensors in one file or in
shards, tokenizer.json.

    model = load_checkpoint("Qwen2.5-0.5B")       Llama's, Qwen 2's and Qwen 3's architectures
    save_checkpoint("mine", model)                the same files, which other tools read

Nothing is fetched from anywhere. A folder is got, once and elsewhere, by such a command as
`hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B` (of the huggingface_hub package).

Parameters are the transformer's (`jaxrl.transformer`). The value head, which such folders do not
have, begins at 0 and is not written.
"""

import importlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxrl.errors import STORAGE, InputError, RunError, did_you_mean
from jaxrl.transformer import Adapter, Shape, Stretch, Transformer
from jaxrl.types import Params

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
KEPT = (".json", ".txt", ".model", ".jinja")  # the ends of the tokenizer's files
HOW = "`hf download Qwen/Qwen2.5-0.5B --local-dir FOLDER` makes one"
ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
LAYER = {  # a tensor of a layer, and what it is here
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "self_attn.q_norm": "norm_q",
    "self_attn.k_norm": "norm_k",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "input_layernorm": "norm_attention",
    "post_attention_layernorm": "norm_mlp",
}


class Model(NamedTuple):
    """A language model, and what its folder said of it."""

    shape: Shape
    params: Params  # of Transformer(shape)
    config: dict  # config.json
    folder: Path  # where it is from
    shards: Mapping[str, str]  # tensor: file


def need(library: str) -> Any:
    """A library of the extra "models". InputError where it is not installed."""
    try:
        return importlib.import_module(library)
    except ImportError as e:
        raise InputError(f"model: needs {library}: pip install 'jaxrl[models]'") from e


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, ValueError) as e:
        raise InputError(f"model: {path}: {getattr(e, 'strerror', None) or e}") from e


def shape_of(folder: str | Path) -> tuple[Shape, dict]:
    """The shape that a folder's config.json describes, and all that it says. InputError for an
    architecture, or something of it, that is not built here."""
    path = Path(folder) / CONFIG
    c = read_json(path)
    kinds = c.get("architectures") or ["none"]
    built = f"built are {', '.join(ARCHITECTURES)}"
    if kinds[0] not in ARCHITECTURES:
        raise did_you_mean(f"model: {path}: architecture", kinds[0], ARCHITECTURES, built)
    llama, qwen2 = (kinds[0] == name for name in ARCHITECTURES[:2])
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}  # the one since transformers 5
    kind = rope.get("rope_type", rope.get("type", "default"))
    for key, value, fits in (
        ("hidden_act", c.get("hidden_act", "silu"), ("silu",)),
        ("rope_type", kind, ("default", "llama3")),
        ("attention_bias", bool(c.get("attention_bias", False)), (False,)),
        ("mlp_bias", bool(c.get("mlp_bias", False)), (False,)),
        ("use_sliding_window", bool(c.get("use_sliding_window", False)), (False,)),
    ):
        if value not in fits:
            raise InputError(
                f"model: {path}: {key} is {value!r}, built is {' or '.join(map(repr, fits))}"
            )
    try:
        width, heads = c["hidden_size"], c["num_attention_heads"]
        stretch = None
        if kind == "llama3":
            names = (
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            )
            stretch = Stretch(*(rope[name] for name in names))
        shape = Shape(
            vocabulary=c["vocab_size"],
            width=width,
            layers=c["num_hidden_layers"],
            heads=heads,
            groups=c.get("num_key_value_heads") or heads,
            head=c.get("head_dim") or width // heads,
            inner=c["intermediate_size"],
            base=float(rope.get("rope_theta", c.get("rope_theta", 10_000.0))),
            eps=c.get("rms_norm_eps", 1e-6),
            bias=qwen2,
            norms=not (llama or qwen2),
            tied=bool(c.get("tie_word_embeddings", False)),
            stretch=stretch,
        )
    except KeyError as e:
        raise InputError(f"model: {path} has no {e.args[0]}") from e
    return shape, c


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Every tensor of a folder: its name, where it is in the parameters, whether transposed."""
    yield "model.embed_tokens.weight", ("embed", "embedding"), False
    for i in range(shape.layers):
        for name, own in LAYER.items():
            place = (f"layer_{i}", own)
            norm = own.startswith("norm")
            if own in ("norm_q", "norm_k") and not shape.norms:
                continue
            yield (
                f"model.layers.{i}.{name}.weight",
                (*place, "scale" if norm else "kernel"),
                not norm,
            )
            if own in "qkv" and shape.bias:
                yield f"model.layers.{i}.{name}.bias", (*place, "bias"), False
    yield "model.norm.weight", ("norm", "scale"), False
    if not shape.tied:
        yield "lm_head.weight", ("unembed", "kernel"), True


def load_checkpoint(folder: str | Path, dtype: Any = jnp.float32) -> Model:
    """A language model from its folder.

    Args:
      dtype: of the parameters: float32, of which training wants masters, or None: as in the files.

    Raises:
      InputError: a file, a shard or a tensor is missing, or does not fit.
    """
    library = need("safetensors")
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"model: {folder} is no folder; {HOW}")
    shape, config = shape_of(folder)
    index = folder / INDEX
    wanted = {name: (place, turn) for name, place, turn in tensors(shape)}
    shards = (
        read_json(index).get("weight_map", {}) if index.exists() else dict.fromkeys(wanted, ONE)
    )
    flat: dict[tuple[str, ...], Any] = {}
    sizes: dict[tuple, Any] = dict(traverse_util.flatten_dict(like(shape)["params"]))
    for file in sorted(set(shards.values())):
        path = folder / file
        if Path(file).name != file:
            raise InputError(f"model: {index}: {file} is not a file beside it")
        if not path.exists():
            raise InputError(f"model: {folder}: {file} is missing")
        try:
            with library.safe_open(path, framework="flax") as found:
                for name in list(found.keys()):
                    if name not in wanted or shards.get(name) != file:
                        continue
                    place, turn = wanted[name]
                    x = found.get_tensor(name)
                    x = x.T if turn else x
                    if x.shape != sizes[place].shape:
                        raise InputError(
                            f"model: {path}: {name} is {x.shape}, the configuration's is "
                            f"{sizes[place].shape}"
                        )
                    flat[place] = x if dtype is None else x.astype(dtype)
        except (OSError, library.SafetensorError) as e:
            raise InputError(f"model: {path}: {e}") from e
    if missing := [name for name, (place, _) in wanted.items() if place not in flat]:
        raise InputError(f"model: {folder}: {missing[0]} is in none of its files")
    flat["value", "kernel"] = jnp.zeros((shape.width, 1))  # it learns: float32
    flat["value", "bias"] = jnp.zeros(1)
    shards = {name: shards[name] for name in wanted}
    return Model(shape, {"params": traverse_util.unflatten_dict(flat)}, config, folder, shards)


def like(shape: Shape) -> Any:
    """The parameters of a shape, without numbers."""
    return jax.eval_shape(Transformer(shape).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def save_checkpoint(folder: str | Path, model: Model, dtype: Any = None) -> Path:
    """Write a model's folder: its parameters under other tools' names, in as many shards as it came
    in, with its configuration and its tokenizer's files. A folder that is there is not touched.

    Args:
      dtype: of the tensors, such as jnp.bfloat16; None: as the parameters are.

    Raises:
      InputError: there is such a folder.
      RunError: the disk fails.
    """
    save = need("safetensors.flax").save_file
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"model: {folder} is there already")
    new = folder.with_name(f".{folder.name}.{os.getpid()}")  # nobody's own
    try:
        new.mkdir(parents=True)
        write(new, model, dtype, save)
        new.rename(folder)  # whole or not at all
    except OSError as e:
        raise RunError(f"model: {folder}: {e.strerror or e}", STORAGE) from e
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def write(folder: Path, model: Model, dtype: Any, save: Callable) -> None:
    """A model's files into an empty folder."""
    flat: dict[tuple, Any] = dict(traverse_util.flatten_dict(model.params["params"]))
    files: dict[str, dict[str, Any]] = {}
    for name, place, turn in tensors(model.shape):
        x = flat[place] if dtype is None else flat[place].astype(dtype)
        files.setdefault(model.shards[name], {})[name] = x.T if turn else x
    for file, its in files.items():
        save(its, folder / file, metadata={"format": "pt"})
    every = [x for its in files.values() for x in its.values()]
    names = {"dtype", "torch_dtype"} & model.config.keys() or {"torch_dtype"}
    config = model.config | dict.fromkeys(names, str(every[0].dtype))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if set(files) != {ONE}:
        size = sum(x.size * x.dtype.itemsize for x in every)
        index = dict(metadata=dict(total_size=size), weight_map=dict(sorted(model.shards.items())))
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    for file in model.folder.iterdir():  # the tokenizer's, and what else belongs to it
        if file.suffix in KEPT and file.name != INDEX and not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


class Reader(NamedTuple):
    """How text becomes a model's tokens."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    size: int  # of the vocabulary
    end: int  # what ends a completion
    pad: int | None  # what a folder says that nothing sees
    name: str  # of the tokenizer's file, for what is said of it

    def blank(self, taken: Collection[int]) -> int:
        """A piece that nothing sees, none of those that are taken."""
        if self.pad is not None and self.pad not in (self.end, *taken):
            return self.pad
        return next(i for i in reversed(range(self.size)) if i not in (self.end, *taken))

    def piece(self, sign: str) -> int:
        """The one that stands for a sign. InputError where none does."""
        ids = self.encode(sign)
        if len(ids) != 1 or self.decode(ids).strip() != sign.strip():
            raise InputError(f"model: {self.name} has no piece of its own for {sign!r}")
        return ids[0]


def reader(model: Model) -> Reader:
    """How a model's folder says that text is read. InputError where it does not, or not for it."""
    path = model.folder / TOKENIZER
    if not path.exists():
        raise InputError(f"model: {model.folder}: {TOKENIZER} is missing")
    kind = need("tokenizers").Tokenizer
    try:
        tokenizer = kind.from_file(str(path))
    except Exception as e:  # it raises Exception itself
        raise InputError(f"model: {path}: {e}") from e
    size, most = tokenizer.get_vocab_size(), model.shape.vocabulary
    if size > most:
        raise InputError(f"model: {path} has {size} pieces, the model {most}")
    own = model.folder / "generation_config.json"
    said = model.config | (read_json(own) if own.exists() else {})
    first = lambda x: x[0] if isinstance(x, list) else x
    end, pad = first(said.get("eos_token_id")), first(said.get("pad_token_id"))
    if not isinstance(end, int) or not 0 <= end < most:
        where = model.folder / CONFIG
        raise InputError(f"model: {where}: eos_token_id is {end}, allowed is 0 to {most - 1}")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    return Reader(encode, tokenizer.decode, most, end, pad, str(path))


def merged(params: Params, adapter: Adapter | None) -> Params:
    """Parameters with what their adapters add."""
    if adapter is None:
        return params
    scale = adapter.scale / adapter.rank
    flat: dict[tuple, Any] = dict(traverse_util.flatten_dict(params["params"]))
    lora: dict[tuple, Any] = dict(traverse_util.flatten_dict(params["lora"]))
    for (*place, which), a in lora.items():
        if which == "a":
            at = (*place, "kernel")
            flat[at] = flat[at] + scale * (a @ lora[(*place, "b")]).astype(flat[at].dtype)
    return {"params": traverse_util.unflatten_dict(flat)}
