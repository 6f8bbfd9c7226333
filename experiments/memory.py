"""What a large language model needs, on paper: memory by counting, and by what XLA plans.

    python experiments/memory.py        write results/models/memory.json and its table

Nothing of such a size is made: shapes alone are traced. The parameters and the state of a run are
counted from them exactly; what one iteration needs besides is XLA's plan for this machine's CPU, at
a length that compiles here in a minute, as a first look at an accelerator's.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import envs
from jaxrl.completions import LanguageModel, task
from jaxrl.models import CONFIG, Reader, like, shape_of
from jaxrl.papers.reasoning import grpo
from jaxrl.run.document import Table, table
from jaxrl.run.files import write_whole
from jaxrl.run.pretrain import within
from jaxrl.run.record import machine, revision, versions

HERE = Path(__file__).parent / "results" / "models"
GIB = 2**30
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


def size(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def planned(folder: Path, way: dict) -> dict:
    """Bytes of parameters, state, cache and of XLA's plan for one iteration of GRPO."""
    network = LanguageModel(model=str(folder), **way)
    shape = shape_of(folder)[0]
    half = jnp.bfloat16 if network.lora and network.dtype == "bfloat16" else jnp.float32
    cast = lambda path, x: jax.ShapeDtypeStruct(
        x.shape, jnp.float32 if "value" in str(path) else half
    )
    start = jax.tree_util.tree_map_with_path(cast, like(shape))
    read = Reader(lambda sign: [ord(sign)], lambda ids: chr(ids[0]), shape.vocabulary, 1, 0, "")
    from envs.tokens.spoken import spoken

    world = within(envs.make("tokens/add"), lambda inner: spoken(inner, read, ()))
    world = within(world, lambda inner: inner.replace(start=start))
    algo = grpo.make(world, network)
    hp = grpo.GRPO(prompts=8, group=8, accumulate=8)
    key = jax.random.key(0)
    state = jax.eval_shape(algo.init, key, hp, world)
    began = time.perf_counter()
    step = jax.jit(algo.step, donate_argnums=0).lower(state, jnp.int32(0), hp, world).compile()
    plan = step.memory_analysis()
    game = task(world)
    return dict(
        parameters=sum(x.size for x in jax.tree.leaves(start)),
        state=size(state),
        world=size(start),
        temporary=plan.temp_size_in_bytes,
        cache_per_token=2 * shape.layers * shape.groups * shape.head * (2 if way else 4),
        window=game.window,
        rows=hp.prompts * hp.group,
        compile_seconds=round(time.perf_counter() - began, 1),
    )


def main() -> None:
    out: dict[str, dict] = {}
    for name, own in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / CONFIG).write_text(json.dumps(QWEN | own))
            for how, way in WAYS.items():
                out.setdefault(name, {})[how] = planned(Path(scratch), way)
                print(name, how, out[name][how], flush=True)
    HERE.mkdir(parents=True, exist_ok=True)
    record = dict(plans=out, versions=versions(), revision=revision(), machine=machine())
    write_whole(HERE / "memory.json", json.dumps(record, indent=1) + "\n")
    head = ["model", "what learns", "parameters", "state, GiB", "an iteration besides, GiB"]
    rows = [
        [
            name,
            how,
            f"{x['parameters']:,}",
            f"{x['state'] / GIB:.1f}",
            f"{x['temporary'] / GIB:.1f}",
        ]
        for name, ways in out.items()
        for how, x in ways.items()
    ]
    print(table(Table(head, rows)))


if __name__ == "__main__":
    main()
