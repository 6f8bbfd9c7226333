"""HAC and HNPG. Zhou, Sekhari, Song, Sun 2023 (ICLR 2024), arXiv 2311.08384.

An on-policy actor-critic whose critic also learns from recorded data, by fitted policy evaluation
  Q_{k+1} = argmin_f λ E_on[(f(s, a) - G)²] + E_off[(f(s, a) - r - γ Σ_a' π(a'|s') Q_k(s', a'))²]
with the returns G of what π played, and whose actor takes a step of TRPO on both kinds of states,
  E_on[r A] + E_off[r A],    r = π(a|s) / π_old(a|s),    V(s) = Σ_a π(a|s) Q(s, a)
A is GAE where it was played, Q(s, a) - V(s) of an a ~ π_old at the data's states. From TRPO it
differs in the critic and in E_off: it learns what to do where it would not get to by itself, and
where data are of no use, returns still are. `data` = 0 is on-policy alone; over 1, E_off's weight.
Checked: the authors' code, where λ = 1 and Q_k is a network for each step of an episode; here one
has k passes. Not: the text (λ is from summaries). Left out: actions that are not discrete.
"""

import jax
import jax.numpy as jnp

from jaxrl import normalise
from jaxrl.errors import InputError
from jaxrl.families.off_policy import choices
from jaxrl.families.offline import drawn, recorded
from jaxrl.families.on_policy import gae, on_policy, sgd, squared_error, stateless
from jaxrl.hyper import arg, hyper
from jaxrl.papers.on_policy.trpo import TRPO, trust_region
from jaxrl.policies import Network, policy_for
from jaxrl.rollout import unjudged
from jaxrl.types import Batch

PAPER = {
    "slug": "hac",
    "id": 349,
    "title": "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees",
    "year": 2023,
    "arxiv": "2311.08384",
    "chapter": "on_policy",
    "hyper": "HAC",
    "parent": "trpo",
    "changes": "the critic and the actor learn from recorded data as well as from what is played",
    "claim": "with data it gets to what the on-policy method does not explore",
    "check": {
        "on": {"random/tabular/chain": 20_000},
        "hyper": {"num_envs": 4, "num_steps": 32, "minibatches": 1},
        "tune": {"lr": [1e-3, 2.5e-3, 5e-3]},
        "arms": {"trpo": {"paper": "trpo"}, "alone": {"hyper": {"data": 0}}},
        "says": ["final_return > trpo", "final_return > alone"],
    },
    "battery": {"run": {"env": "random/CartPole-v1"}, "env_params": {"rows": 24}},
}


@hyper
class HAC(TRPO):
    data: int = arg(1, "rows of the data for each that is played; 0: none", "[0, inf)")
    weight: float = arg(1.0, "λ, weight of returns against the data's TD errors", "[0, inf)")
    normalise_advantage: bool = False  # of what is played and of the data on one scale


def of_actions(policy):
    """A policy whose critic is Q(s, .): `act` gives V(s), `judge` the value of what was done."""

    def act(*args):
        action, record, q, memory = policy.act(*args)
        return action, record, (jax.nn.softmax(record["out"]) * q).sum(-1), memory

    def judge(params, old_params, b, key):
        w = policy.judge(params, old_params, b, key)
        return w._replace(value=jnp.take_along_axis(w.value, b.action[..., None], -1)[..., 0])

    return policy._replace(act=act, judge=judge)


def rows(obs, action):
    none = jnp.zeros(action.shape)  # by whomever it was done, it is judged anew
    return Batch(obs, action, dict(raw=action), none > 0, old=dict(log_prob=none))


def make(world, network=Network()):
    if network.memory:
        raise InputError(f"memory: {network.memory}: hac learns from single steps; use 0")
    policy = of_actions(policy_for(world, network, values=choices(world)))
    first = lambda obs: jnp.zeros(jax.tree.leaves(obs)[0].shape[:2], bool)
    look = lambda s, obs, key: policy.act(s.params, obs, first(obs), (), key)
    V = lambda s, obs: look(s, obs, None)[2]
    error = lambda w, b, hp: b.advantage * squared_error(w, b, hp)  # weights stand in `advantage`
    critic = sgd(policy, lambda w, b, hp: jnp.zeros(()), value_loss=error)

    def sample(s, _, t, hp, world):
        """What is played, then the data, judged by the critic that is fitted to both."""
        key, k_play, k_data, k_act, k = jax.random.split(s.key, 5)
        N, columns = hp.num_envs, hp.data * hp.num_envs
        both = lambda *xy: jax.tree.map(lambda x, y: jnp.concatenate([x, y[:, :columns]], 1), *xy)
        stage, b, metrics = unjudged(policy, s.params, s.stage, k_play, hp, world, hp.num_steps)
        draw = lambda k: drawn(recorded(world), s.stage.obs_moments, k, max(columns, N), hp)
        off = jax.vmap(draw)(jax.random.split(k_data, hp.num_steps))
        if hp.normalise_reward:
            off = off.replace(reward=normalise.scale(stage.reward_moments, off.reward))
        judged = lambda s: b.replace(value=V(s, b.obs), next_value=V(s, b.next_value))
        G = gae(s, judged(s), t, hp.replace(lam=1.0), world).target
        seen = both(rows(b.obs, b.action), rows(off.obs, off.action))
        share = jnp.full(seen.start.shape, 1 / max(hp.data, 1)).at[:, :N].set(hp.weight)

        def fit(s, _):
            y = off.reward + off.discount * V(s, off.next_obs)
            part = seen.replace(target=both(G, y), advantage=share)
            _, (s, stats) = critic.apply((), s, part, t, hp.replace(epochs=1, ent_coef=0.0), world)
            return s, stats["value_loss"]

        s, loss = jax.lax.scan(fit, s.replace(key=key, stage=stage), length=hp.epochs)
        out = both(rows(b.obs, b.action), rows(off.obs, look(s, off.obs, k_act)[0]))
        w, value = policy.judge(s.params, s.params, out, k), V(s, out.obs)
        A = (w.value - value).at[:, :N].set(gae(s, judged(s), t, hp, world).advantage)
        out = out.replace(old=w.record, value=value, advantage=A, target=value + A)
        return s, out, metrics | dict(critic_loss=loss.mean())

    def update(s, b, t, hp, world):
        still = hp.replace(lr=0.0, epochs=1, minibatches=1)  # what TRPO's own critic would learn
        _, (new, stats) = trust_region(policy).apply((), s, b, t, still, world)
        return new.replace(opt=s.opt), stats

    as_is = stateless(lambda s, b, *_: b)
    return on_policy(policy, sampler=stateless(sample), advantage=as_is, update=stateless(update))
