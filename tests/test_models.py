"""Language models from folders: what is read, written back and refused, and what learns."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from safetensors.flax import load_file, save_file

import envs
from jaxrl import completions
from jaxrl.completions import Group, LanguageModel, decode, judge, learned, model, task, whole
from jaxrl.errors import InputError, RunError
from jaxrl.families.tokens import Tokens
from jaxrl.models import Transformer, load_checkpoint, merged, reader, save_checkpoint
from jaxrl.run.pretrain import started
from jaxrl.run.run import largest
from tests.language_models import folder
from tests.programs import at_once

KINDS = {
    "qwen2": {},
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        head_dim=6,
        tie_word_embeddings=False,
    ),
    "llama": dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=5e5,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("models") / "qwen2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_goes_round_byte_for_byte(tmp_path, kind, shards):
    first = folder(tmp_path / "first", shards, **KINDS[kind])
    again = save_checkpoint(tmp_path / "again", load_checkpoint(first))
    files = {p.name for p in first.iterdir()}
    assert files == {p.name for p in again.iterdir()} and len(files) == 3 + (shards > 1) * shards
    for name in files:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_half_the_bits_are_written_and_read(made, tmp_path):
    save_checkpoint(tmp_path / "half", load_checkpoint(made), jnp.bfloat16)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    half, whole = load_checkpoint(tmp_path / "half"), load_checkpoint(made)
    kept = load_checkpoint(tmp_path / "half", None)
    same = lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-8)
    jax.tree.map(same, half.params["params"], whole.params["params"])
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(kept.params)} == {
        jnp.dtype(x) for x in (jnp.bfloat16, "float32")
    }
    assert kept.params["params"]["value"]["kernel"].dtype == jnp.float32  # it learns


def spoil(path, change):
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(said | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: (p / "model-1.safetensors").unlink(), "model-1.safetensors is missing"),
        (lambda p: (p / "config.json").unlink(), "config.json: No such file"),
        (lambda p: (p / "config.json").write_text("{"), "config.json: Expecting"),
        (lambda p: spoil(p, dict(architectures=["GPT2LMHeadModel"])), "built are LlamaForCausalLM"),
        (lambda p: spoil(p, dict(hidden_act="gelu")), "hidden_act is 'gelu', built is 'silu'"),
        (lambda p: spoil(p, dict(rope_scaling=dict(type="yarn"))), "rope_type is 'yarn'"),
        (lambda p: spoil(p, dict(hidden_size=32)), "the configuration's is"),
        (lambda p: spoil(p, dict(num_hidden_layers=3)), "layers.2"),
        (lambda p: (p / "model-0.safetensors").write_bytes(b"x" * 99), "model-0.safetensors: "),
        (
            lambda p: (p / "model.safetensors.index.json").write_text(
                '{"weight_map": {"model.norm.weight": "../x.safetensors"}}'
            ),
            "../x.safetensors is not a file beside it",
        ),
        (lambda p: (p / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer.json: "),
        (lambda p: spoil(p, dict(eos_token_id=None)), "eos_token_id is None, allowed is 0 to 99"),
        (lambda p: spoil(p, dict(eos_token_id=[18])), "one piece for several of"),
    ],
)
def test_a_folder_that_does_not_do_is_said_in_one_line(tmp_path, change, words):
    path = folder(tmp_path / "bad", shards=2)
    change(path)
    with pytest.raises(InputError) as error:
        started(envs.make("tokens/add"), LanguageModel(model=str(path)))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path):
    path = folder(tmp_path / "small", vocab_size=90)
    with pytest.raises(InputError, match="has 97 pieces, the model 90"):
        reader(load_checkpoint(path))


@pytest.mark.parametrize("name", ["tokens/add", "tokens/turns", "tokens/wish"])
def test_a_task_is_the_same_in_a_models_tokens(made, name):
    """Its own solutions are right, a piece that is no symbol ends a completion, which is wrong."""
    plain = task(envs.make(name))
    game = task(started(envs.make(name), LanguageModel(model=str(made))))
    solution = plain.problem(plain.order[3], plain.difficulty).solution
    first, state = plain.begin(3), game.begin(3)
    assert game.text(state.tokens) == plain.text(first.tokens)
    assert game.examined().count == plain.examined().count
    step = jax.jit(game.place)
    for token in solution:
        first, state = plain.place(first, token), step(state, game.pieces[token])
    assert game.text(state.tokens) == plain.text(first.tokens)
    assert state.over == first.over and game.score(state) == plain.score(first) == 1
    if plain.wished:
        assert game.wished(state) == plain.wished(first)
    wrong = step(game.begin(3), 99)
    assert wrong.over and game.score(wrong) == 0 and wrong.tokens[game.P] == 99
    after = step(wrong, game.pieces[solution[0]])
    np.testing.assert_array_equal(after.tokens, wrong.tokens)


def written(game, net, params, group=4):
    x = at_once(decode)(net, params, game, jnp.arange(3), jax.random.key(0), group=group)
    none = jnp.zeros(3 * group)
    return Group(x.state.number, x.state.tokens, x.mask, x.log_prob, x.value, none)


def test_a_large_vocabulary_is_gone_through_in_parts(made, monkeypatch):
    """Log-probabilities, entropies and gradients as if all logits were there at once, and what was
    sampled is as likely as it was then."""
    network = LanguageModel(model=str(made))
    world = started(envs.make("tokens/add"), network)
    net, params = model(world, network), load_checkpoint(made).params
    b = written(task(world), net, params)

    off = at_once(lambda net, params, b: judge(net, params, b, 1.0, 4).log_ratio)

    def loss(params):
        w = judge(net, params, b, 0.7, 4)
        return (b.mask * (w.log_prob + 0.3 * w.entropy())).sum(), w.log_prob

    whole_, grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(off(net, params, b), 0, atol=2e-5)
    monkeypatch.setattr(completions, "LARGE", 50)
    monkeypatch.setattr(completions, "MOST", 700)  # 7 of 48 tokens at a time
    again = written(task(world), net, params)
    np.testing.assert_allclose(off(net, params, again), 0, atol=2e-5)
    assert len({tuple(row) for row in np.asarray(again.tokens)}) > 9  # each row its own noise
    parts, other = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), parts, whole_)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), other, grads)
    traced = jax.make_jaxpr(jax.grad(lambda p: loss(p)[0]))(params).jaxpr
    read, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
    assert largest(read) < 4 * b.mask.size * 100  # bytes of all logits


def test_layers_that_are_computed_anew_give_the_same(made):
    params = load_checkpoint(made).params
    tokens = jnp.arange(2, 26).reshape(2, 12)
    shape = load_checkpoint(made).shape
    loss = lambda net: lambda p: jnp.square(net.read(p, tokens)[0]).mean()
    plain = jax.jit(jax.grad(loss(Transformer(shape))))(params)
    anew = jax.jit(jax.grad(loss(Transformer(shape, remat=True))))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), plain, anew)
    text = str(jax.make_jaxpr(jax.grad(loss(Transformer(shape, remat=True))))(params))
    assert "remat" in text or "checkpoint" in text


def test_it_computes_in_bfloat16_from_float32_masters(made):
    found = load_checkpoint(made)
    tokens = jnp.arange(2, 26).reshape(2, 12)
    half = Transformer(found.shape, dtype=jnp.bfloat16)
    logits = jax.jit(half.read)(found.params, tokens)[0]
    exact = jax.jit(Transformer(found.shape).read)(found.params, tokens)[0]
    assert logits.dtype == jnp.float32
    gap = np.abs(logits - exact).max()
    assert 1e-5 < gap < 0.05 * np.abs(exact).max()
    grads = jax.jit(jax.grad(lambda p: jnp.square(half.read(p, tokens)[0]).mean()))(found.params)
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def adapted(made):
    """A model with adapters after some iterations: (network, its Transformer, before, after)."""
    from jaxrl.papers.reasoning import grpo

    network = LanguageModel(model=str(made), lora=2, lora_scale=4.0, lora_on="q+v+down")
    world = started(envs.make("tokens/add"), network)
    algo = grpo.make(world, network)
    hp = grpo.GRPO(lr=0.03, prompts=4, group=4, accumulate=1, ent_coef=0.1)
    s = jax.jit(algo.init)(jax.random.key(0), hp, world)
    step = jax.jit(algo.step)
    after = s
    for t in range(2):
        after, _ = step(after, t, hp, world)
    return network, model(world, network), s, after


def test_adapters_learn_and_the_rest_stays(adapted, made):
    network, net, before, after = adapted
    base = load_checkpoint(made).params
    for s in (before, after):
        jax.tree.map(np.testing.assert_array_equal, s.params["params"], base["params"])
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), before.params, after.params)["lora"]
    assert set(changed) == {"layer_0", "layer_1"}
    assert set(changed["layer_0"]) == {"q", "v", "down"}
    assert all(x["b"] for layer in changed.values() for x in layer.values())
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert size(after.opt) < size(base)  # nothing is kept for what does not learn
    assert whole(after.params, learned(before.params))["lora"] is before.params["lora"]


def test_merged_adapters_say_what_they_said_beside(adapted, made):
    network, net, _, after = adapted
    tokens = jnp.arange(2, 26).reshape(2, 12)
    beside = jax.jit(net.read)(after.params, tokens)[0]
    one = jax.jit(Transformer(net.shape).read)(merged(after.params, network.adapter), tokens)[0]
    np.testing.assert_allclose(one, beside, rtol=1e-4, atol=1e-5)
    assert (
        np.abs(one - Transformer(net.shape).read(load_checkpoint(made).params, tokens)[0]).max()
        > 1e-2
    )


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (dict(lora=2, lora_on="q+w"), r"lora_on: 'w' is not all, or of q\+k"),
        (dict(dtype="float16"), "dtype: float16 is not one of float32, bfloat16"),
        (dict(lora=-1), r"lora: -1 is outside \[0, inf\)"),
    ],
)
def test_what_no_network_can_be_is_said(network, words):
    with pytest.raises(InputError, match=words):
        model(envs.make("tokens/add"), LanguageModel(**network))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_and_says_the_same(tmp_path, kind):
    """Logits to 1e-4 and greedy completions equal to the transformers library's; what is written
    here loads there."""
    torch = pytest.importorskip("torch", reason="the extra hf is not installed")
    hf = pytest.importorskip("transformers", reason="the extra hf is not installed")
    path = folder(tmp_path / kind, shards=2, **KINDS[kind])
    theirs = hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    found = load_checkpoint(path)
    net = Transformer(found.shape, blank=-1)
    tokens = np.random.default_rng(0).integers(2, 97, (3, 40))
    want = theirs(torch.tensor(tokens)).logits.detach().numpy()
    np.testing.assert_allclose(net.read(found.params, jnp.array(tokens))[0], want, atol=1e-4)
    long = theirs.generate(
        torch.tensor(tokens[:, :8]), max_new_tokens=24, min_new_tokens=24, do_sample=False
    )
    row = jnp.array(tokens[:, :8])
    read = jax.jit(lambda row: net.read(found.params, row)[0][:, -1])
    for _ in range(24):
        logits = read(row).at[:, 1].set(-jnp.inf)  # no end before 24, as theirs
        row = jnp.concatenate([row, logits.argmax(-1)[:, None]], 1)
    np.testing.assert_array_equal(row, long.numpy())
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_checkpoint(tmp_path / "theirs")
    jax.tree.map(np.testing.assert_array_equal, back.params, found.params)


def test_a_missing_library_is_said(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pip install 'jaxrl\[models\]'"):
        load_checkpoint(made)


def test_a_tensor_that_is_nowhere_is_named(tmp_path):
    path = folder(tmp_path / "short")
    file = path / "model.safetensors"
    held = load_file(file)
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, file)
    with pytest.raises(InputError, match="model.layers.1.mlp.up_proj.weight is in none"):
        load_checkpoint(path)


def test_a_folder_that_cannot_be_written_leaves_no_half_of_it(made, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match="No space left on device"):
        save_checkpoint(tmp_path / "mine", load_checkpoint(made))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_written_over(made):
    with pytest.raises(InputError, match="is there already"):
        save_checkpoint(made, load_checkpoint(made))
    assert Tokens.network_for("").model == ""
