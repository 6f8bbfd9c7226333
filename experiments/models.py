"""Language models from folders: agreement with the transformers library, and what large ones need.

    python experiments/models.py parity     tiny random models made by transformers, read and
                                            written here; takes the extra hf
    python experiments/models.py memory     of large ones, by counting and by XLA's plans

They write results/models/*.json; the page beside them says what it means. For `memory` nothing of
such a size is made: shapes alone are traced. Parameters and the state of a run are counted exactly;
what an iteration needs besides is XLA's plan for a CPU at two small depths, gone on with linearly.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from envs.tokens.spoken import spoken
from jaxrl.completions import LanguageModel, learned, task
from jaxrl.models import CONFIG, Reader, like, load_checkpoint, save_checkpoint, shape_of
from jaxrl.papers.reasoning import grpo
from jaxrl.run.files import write_whole
from jaxrl.run.pretrain import within
from jaxrl.run.record import machine, revision, versions
from jaxrl.transformer import Transformer

HERE = Path(__file__).parent / "results" / "models"
QWEN = dict(  # what the configurations of Qwen 2.5's folders say
    architectures=["Qwen2ForCausalLM"],
    hidden_act="silu",
    rms_norm_eps=1e-6,
    rope_theta=1_000_000.0,
    eos_token_id=151_643,
)
MODELS = {
    "0.5B": dict(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151_936,
        tie_word_embeddings=True,
    ),
    "7B": dict(
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152_064,
        tie_word_embeddings=False,
    ),
}
WAYS = {
    "all, float32": dict(),
    "all, bfloat16": dict(dtype="bfloat16", remat=True),
    "LoRA 16, bfloat16": dict(dtype="bfloat16", remat=True, lora=16),
}
HP = grpo.GRPO(prompts=8, group=8, accumulate=8)
DEPTHS = 2, 4  # at which an iteration is planned


def size(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def setting(folder: Path, config: dict, way: dict) -> tuple:
    """GRPO on a model of such a configuration: (algorithm, world with its start's shapes)."""
    (folder / CONFIG).write_text(json.dumps(QWEN | config))
    network, shape = LanguageModel(model=str(folder), **way), shape_of(folder)[0]
    kind = lambda path: jnp.float32 if "value" in str(path) else network.kept
    cast = lambda path, x: jax.ShapeDtypeStruct(x.shape, kind(path))
    start = jax.tree_util.tree_map_with_path(cast, like(shape))
    signs = Reader(lambda sign: [ord(sign)], lambda ids: chr(ids[0]), shape.vocabulary, 1, 0, "")
    world = within(envs.make("tokens/add"), lambda inner: spoken(inner, signs, ()))
    return grpo.make(world, network), within(world, lambda inner: inner.replace(start=start))


def planned(folder: Path, config: dict, way: dict) -> int:
    """Bytes that one iteration needs besides its state, by XLA's plan."""
    algo, world = setting(folder, config, way)
    state = jax.eval_shape(algo.init, jax.random.key(0), HP, world)
    lowered = jax.jit(algo.step, donate_argnums=0).lower(state, jnp.int32(0), HP, world)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def memory() -> dict:
    """Every model, every way: its state exactly, an iteration by depth, from two small depths."""
    out: dict[str, dict] = {}
    for name, own in MODELS.items():
        for how, way in WAYS.items():
            with tempfile.TemporaryDirectory() as scratch:
                folder, layers = Path(scratch), own["num_hidden_layers"]
                algo, world = setting(folder, own, way)
                state = jax.eval_shape(algo.init, jax.random.key(0), HP, world)
                shape = shape_of(folder)[0]
                few = [planned(folder, own | dict(num_hidden_layers=n), way) for n in DEPTHS]
            each = (few[1] - few[0]) / (DEPTHS[1] - DEPTHS[0])
            out.setdefault(name, {})[how] = dict(
                parameters=sum(x.size for x in jax.tree.leaves(like(shape))),
                learned=sum(x.size for x in jax.tree.leaves(learned(state.params))),
                state=size(state),
                temporary_at=dict(zip(map(str, DEPTHS), few)),
                temporary=round(few[0] + each * (layers - DEPTHS[0])),
                cache_per_token=2 * shape.layers * shape.groups * shape.head * (2 if way else 4),
                rows=HP.prompts * HP.group,
                window=task(world).window,
            )
            print(name, how, out[name][how], flush=True)
    return out


def parity() -> dict:
    """How far logits are from theirs, whether greedy completions are equal, and whether files come
    back byte for byte, of tiny random models of each architecture."""
    import torch
    import transformers as hf

    common = dict(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    stretched = dict(
        rope_type="llama3",
        rope_theta=5e5,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    kinds = {
        "Llama": (hf.LlamaConfig(**common), hf.LlamaForCausalLM),
        "Llama 3, tied": (
            hf.LlamaConfig(**common, tie_word_embeddings=True, rope_parameters=stretched),
            hf.LlamaForCausalLM,
        ),
        "Qwen 2, tied": (hf.Qwen2Config(**common, tie_word_embeddings=True), hf.Qwen2ForCausalLM),
        "Qwen 3, in shards": (hf.Qwen3Config(**common, head_dim=16), hf.Qwen3ForCausalLM),
    }
    out, tokens = {}, np.random.default_rng(0).integers(2, 97, (8, 40))
    for name, (config, kind) in kinds.items():
        torch.manual_seed(0)
        theirs = kind(config).float().eval()
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.1 * torch.randn_like(p))
        want = theirs(torch.tensor(tokens)).logits.detach().numpy()
        how = dict(max_new_tokens=24, min_new_tokens=24, do_sample=False)
        said = theirs.generate(torch.tensor(tokens[:, :8]), **how).numpy()
        with tempfile.TemporaryDirectory() as scratch:
            first, again = Path(scratch) / "first", Path(scratch) / "again"
            theirs.save_pretrained(first, max_shard_size="20KB" if "shards" in name else "5GB")
            ours = load_checkpoint(first)
            save_checkpoint(again, ours)
            files = sorted(p.name for p in first.glob("*.safetensors"))
            same = all((first / f).read_bytes() == (again / f).read_bytes() for f in files)
            back = kind.from_pretrained(again)(torch.tensor(tokens)).logits.detach().numpy()
        net, row = Transformer(ours.shape, blank=-1), jnp.array(tokens[:, :8])
        got = np.asarray(net.read(ours.params, jnp.array(tokens))[0])
        for _ in range(24):  # an end is not said before, as theirs
            logits = net.read(ours.params, row)[0][:, -1].at[:, 1].set(-jnp.inf)
            row = jnp.concatenate([row, logits.argmax(-1)[:, None]], 1)
        out[name] = dict(
            largest_logit=float(np.abs(want).max()),
            largest_difference=float(np.abs(want - got).max()),
            greedy_equal=bool((np.asarray(row) == said).all()),
            shards=len(files),
            bytes_equal=same,
            read_back_difference=float(np.abs(want - back).max()),
        )
        print(name, out[name], flush=True)
    return dict(models=out, torch=torch.__version__, transformers=hf.__version__)


def main(arguments: list[str]) -> None:
    if arguments not in (["parity"], ["memory"]):
        sys.exit(f"models: parity or memory; not {' '.join(arguments) or 'nothing'}")
    made = dict(parity=parity, memory=memory)[arguments[0]]()
    HERE.mkdir(parents=True, exist_ok=True)
    record = dict(found=made, versions=versions(), revision=revision(), machine=machine())
    write_whole(HERE / f"{arguments[0]}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
