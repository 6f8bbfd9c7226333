"""Every fault from a made-up machine, beside its sound neighbour; then the command on this one."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from jaxrl.cli import main
from jaxrl.run import doctor

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
SOUND = {"jax": "0.10.2", "gymnax": "1.0.1", "orbax-checkpoint": "0.12.8", "distrax": "0.1.9"}
REQUIRES = ["jax<0.13,>=0.10.2", "gymnax<2,>=1.0.1", "orbax_checkpoint>=0.12.8"]


@pytest.mark.parametrize("version, ok", [
    ("3.10.14", False), ("3.11.0", True), ("3.12.1", True), ("3.13.9", True), ("3.14.0", False),
])  # fmt: skip
def test_python(version, ok):
    row = doctor.python(version, PROJECT["requires-python"])
    assert row.ok is ok and version in row.found
    assert ok or (PROJECT["requires-python"] in row.found and "another Python" in row.mend)


def test_dependencies_inside_their_bounds():
    rows = doctor.dependencies([*REQUIRES, 'wandb>=0.20; extra == "wandb"'], SOUND)
    assert [(r.check, r.ok, r.found, r.mend) for r in rows] == [
        ("jax", True, "0.10.2", ""),
        ("gymnax", True, "1.0.1", ""),
        ("orbax_checkpoint", True, "0.12.8", ""),
    ]


@pytest.mark.parametrize("name, version, found, mend", [
    ("gymnax", "0.0.9", "0.0.9 is outside <2,>=1.0.1", "pip install 'gymnax<2,>=1.0.1'"),
    ("gymnax", "2.0", "2.0 is outside <2,>=1.0.1", "pip install 'gymnax<2,>=1.0.1'"),
    ("jax", "0.9.0", "0.9.0 is outside <0.13,>=0.10.2", "pip install 'jax<0.13,>=0.10.2'"),
    ("jax", "mine", "mine is outside <0.13,>=0.10.2", "pip install 'jax<0.13,>=0.10.2'"),
    ("jax", None, "not installed", "pip install 'jax<0.13,>=0.10.2'"),
    ("orbax-checkpoint", None, "not installed", "pip install 'orbax_checkpoint>=0.12.8'"),
])  # fmt: skip
def test_dependency_missing_or_outside(name, version, found, mend):
    installed = {k: v for k, v in {**SOUND, name: version}.items() if v}
    (row,) = (r for r in doctor.dependencies(REQUIRES, installed) if not r.ok)
    assert (row.ok, row.found, row.mend) == (False, found, mend)


def test_a_pre_release_counts():
    assert doctor.dependencies(["jax>=0.10.2"], {"jax": "0.11.0rc1"})[0].ok
    assert doctor.dependencies(["jax>=0.10.2"], {"jax": "0.10.2rc1"})[0].ok is False


def test_our_own_metadata_bounds_gymnax():
    """pip takes gymnax 0.0.9, another interface, where the bound is lost."""
    rows = doctor.dependencies(PROJECT["dependencies"], {"gymnax": "0.0.9"})
    assert {r.check: r.ok for r in rows}["gymnax"] is False


CLASHING = {  # what is installed beside the sound -> what the fault names, and the mend
    "tfp": (
        {"tensorflow-probability": "0.25.0", "tfp-nightly": "0.26.0.dev1"},
        "tensorflow-probability 0.25.0 with tfp-nightly 0.26.0.dev1",
        "pip uninstall -y tensorflow-probability tfp-nightly"
        " && pip install tfp-nightly==0.26.0.dev1",
    ),
    "qdax": (
        {"qdax": "0.5.0"},
        "qdax 0.5.0 with distrax 0.1.9",
        "pip uninstall -y qdax tensorflow-probability tfp-nightly && pip install tfp-nightly",
    ),
    "rliable": (
        {"pandas": "3.1.1", "rliable": "1.2.0"},
        "pandas 3.1.1 with rliable 1.2.0",
        "pip install 'pandas<3' 'arch<8'",
    ),
    "kinetix": ({"kinetix-env": "3.0.2"}, "kinetix-env 3.0.2", "pip uninstall -y kinetix-env"),
    "pygame": (
        {"pygame": "2.6.1", "pygame-ce": "2.5.8"},
        "pygame 2.6.1 with pygame-ce 2.5.8",
        "pip uninstall -y pygame pygame-ce && pip install pygame-ce==2.5.8",
    ),
}


@pytest.mark.parametrize("installed, names, mend", CLASHING.values(), ids=CLASHING)
def test_clash(installed, names, mend):
    (row,) = doctor.clashes(SOUND | installed)
    assert row.ok is False and row.found.startswith(names) and row.mend == mend


def test_every_known_clash_is_tested():
    assert len(CLASHING) == len(doctor.CLASHES)


@pytest.mark.parametrize("installed", [
    {}, {"tensorflow-probability": "0.25.0"}, {"tfp-nightly": "0.26.0.dev1"}, {"pandas": "3.1.1"},
    {"pandas": "2.3.3", "rliable": "1.2.0"}, {"pygame": "2.6.1"}, {"pygame-ce": "2.5.8"},
])  # fmt: skip
def test_no_clash(installed):
    (row,) = doctor.clashes(SOUND | installed)
    assert row.ok is True and row.mend == ""


def test_two_clashes_are_two_faults():
    both = CLASHING["rliable"][0] | CLASHING["kinetix"][0]
    assert [r.ok for r in doctor.clashes(SOUND | both)] == [False, False]


EXTRAS = [
    "jax>=0.10.2",
    'tensorboardX>=2.6.2; extra == "tb"',
    'minari[hdf5]>=0.5.3; extra == "data"',
    'old; python_version < "3" and extra == "tb"',
]
OF = {"minari": ["numpy>=2", 'h5py>=3; extra == "hdf5"', 'torch; extra == "torch"']}


@pytest.mark.parametrize("installed, there", [
    ({"tensorboardx": "2.6.5", "minari": "0.5.4", "h5py": "3.16"}, ["tb", "data"]),
    ({"tensorboardx": "2.6.5", "minari": "0.5.4"}, ["tb"]),  # minari itself, without its extra
    ({"tensorboardx": "2.6.5", "minari": "0.5.4", "h5py": "2.0"}, ["tb"]),
    ({"tensorboardx": "2.6.1", "minari": "0.5.4", "h5py": "3.16"}, ["data"]),
    ({"h5py": "3.16"}, []),
])  # fmt: skip
def test_extras(installed, there):
    row = doctor.extras(["tb", "data"], EXTRAS, installed, OF.__getitem__)
    missing = [n for n in ("tb", "data") if n not in there]
    assert row.ok is (None if missing else True)  # never a fault
    assert row.found.split(";")[0] == (", ".join(there) or "none")
    assert row.mend == (f"pip install 'jaxrl[{','.join(missing)}]'" if missing else "")


CPU, GPU = ("cpu", "cpu"), ("gpu", "NVIDIA H100")
CUDA = "jax[cuda13]==0.10.2"


@pytest.mark.parametrize("found, platforms, gpu, ok, text, mend", [
    ([CPU], "", False, True, "1 cpu (cpu)", ""),
    ([GPU] * 8, "", True, True, "8 gpu (NVIDIA H100)", ""),
    ([GPU, CPU], "", True, True, "1 gpu (NVIDIA H100), 1 cpu (cpu)", ""),
    ([CPU], "", True, None, "has a GPU that jax does not use", CUDA),
    ([CPU], "cuda,cpu", True, None, "has a GPU that jax does not use", CUDA),
    ([CPU], "cpu", True, None, "has a GPU that jax does not use", "unset JAX_PLATFORMS"),
    (RuntimeError("no\nmore"), "", False, False, "RuntimeError: no", "export JAX_PLATFORMS=cpu"),
    (AssertionError(), "tpu", False, False, "AssertionError", "JAX_PLATFORMS, which is 'tpu'"),
    (AssertionError(), "cuda", True, False, "AssertionError", CUDA),
    (AssertionError(), "cuda", False, False, "AssertionError", "unset JAX_PLATFORMS"),
])  # fmt: skip
def test_devices(found, platforms, gpu, ok, text, mend):
    row = doctor.devices(found, platforms, "0.10.2", gpu)
    assert row.ok is ok and text in row.found and mend in row.mend
    assert "\n" not in row.found and bool(row.mend) == (ok is not True)


def folder(tmp_path, mode):
    path = tmp_path / "xla cache"
    path.mkdir()
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_cache_of_ones_own(tmp_path, mode):
    assert doctor.cache(folder(tmp_path, mode), os.getuid()).ok is True


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_cache_that_others_write(tmp_path, mode):
    path = folder(tmp_path, mode)
    row = doctor.cache(path, os.getuid())
    assert row.ok is False and f"mode {mode:o}" in row.found
    assert row.mend.startswith(f"chmod 700 '{path}'")
    subprocess.run(row.mend.split(",")[0], shell=True, check=True)  # and that mends it
    assert doctor.cache(path, os.getuid()).ok is True


def test_cache_of_another_user(tmp_path):
    row = doctor.cache(folder(tmp_path, 0o700), os.getuid() + 1)
    assert row.ok is False and "another user" in row.found and row.mend.startswith("mkdir")


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    path = folder(tmp_path, 0o500)
    monkeypatch.setattr(os, "access", lambda p, how: not how & os.W_OK)  # root may write anywhere
    row = doctor.cache(path, os.getuid())
    assert row.ok is False and "cannot be written" in row.found and "chmod 700" in row.mend
    row = doctor.cache(path + "/new", os.getuid())
    assert row.ok is False and "cannot be made" in row.found


def test_cache_to_be_made(tmp_path):
    path = tmp_path / "a" / "b"
    assert doctor.cache(str(path), os.getuid()).ok is True
    assert not path.parent.exists()  # looking changes nothing
    file = tmp_path / "file"
    file.touch(0o755)
    for path in (file, file / "a"):
        row = doctor.cache(str(path), os.getuid())
        assert row.ok is False and row.mend.startswith("mkdir -p -m 700")


@pytest.mark.parametrize("path", [None, "", "gs://bucket/cache"])
def test_cache_elsewhere_is_a_remark(path):
    row = doctor.cache(path, os.getuid())
    assert row.ok is None and "export JAX_COMPILATION_CACHE_DIR=" in row.mend


@pytest.mark.parametrize("free, ok, text", [
    (0, False, "0 MB"), (99e6, False, "99 MB"), (100e6, None, "100 MB"), (1.99e9, None, "2.0 GB"),
    (2e9, True, "2.0 GB"), (64e9, True, "64.0 GB"),
])  # fmt: skip
def test_disk(free, ok, text):
    row = doctor.disk("/runs", free)
    assert row.ok is ok and row.found == f"{text} free in /runs"
    assert bool(row.mend) == (ok is not True)


def test_disk_is_where_runs_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor.free_disk().found.endswith(f"free in {tmp_path.resolve()}")
    (tmp_path / "runs").mkdir()
    assert doctor.free_disk().found.endswith(f"free in {tmp_path.resolve() / 'runs'}")


def test_what_cannot_be_looked_at_is_a_fault():
    def look():
        raise PermissionError(13, "Permission denied")

    row = doctor.readable("cache", look, "elsewhere")
    assert row == ("cache", False, "PermissionError: [Errno 13] Permission denied", "elsewhere")


def test_what_fails_to_import_is_a_fault(capfd):
    def breaks():
        print("noise")
        raise AttributeError("jax.interpreters.xla has no attribute 'pytype_aval_mappings'\nmore")

    row = doctor.works("import distrax", breaks, "mend")
    assert (row.ok, row.mend) == (False, "mend")
    assert row.found == (
        "AttributeError: jax.interpreters.xla has no attribute 'pytype_aval_mappings'"
    )
    row = doctor.works("import os", lambda: print("noise"), "mend")
    assert row == doctor.Row("import os", True, "works")
    assert capfd.readouterr() == ("", "")


def test_a_wrong_product_is_a_fault(monkeypatch):
    assert doctor.works("compile", doctor.small_program, "").ok is True
    import jax

    monkeypatch.setattr(jax, "jit", lambda f: lambda x: f(x) + 1)
    row = doctor.works("compile", doctor.small_program, "")
    assert row.ok is False and "513.0, not 512" in row.found


def test_not_installed_is_a_fault(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    row, clash = doctor.packages(SOUND)
    assert (row.check, row.ok) == ("jaxrl", False) and "pip install -e ." in row.mend and clash.ok


def test_jax_that_does_not_import(monkeypatch):
    """Its own fault, with the pin; nothing that needs jax is asked after it."""
    import jax  # noqa: F401  once and whole: what `broken` breaks stays broken

    def broken(name):
        raise RuntimeError(f"{name}: jaxlib is too old")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.setattr(doctor, "everything_installed", lambda: SOUND)
    rows = {r.check: r for r in doctor.examine()}
    row = rows["import jax"]
    assert (row.ok, row.found, row.mend) == (
        False, "RuntimeError: jax: jaxlib is too old", "pip install jax==0.10.2",
    )  # fmt: skip
    assert not {"devices", "compile"} & set(rows)
    assert rows["import orbax.checkpoint"].mend.endswith("--no-deps orbax-checkpoint==0.12.8")
    assert rows["import brax"].mend.endswith("--no-deps brax")


@pytest.mark.slow
@pytest.mark.parametrize("mode, code", [(0o700, 0), (0o777, 1)])
def test_a_cache_at_fault_is_not_used(tmp_path, mode, code):
    """Others' compiled code is neither run nor added to; a sound cache is used."""
    path = folder(tmp_path, mode)
    every = {"MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}
    env = {f"JAX_PERSISTENT_CACHE_{k}": v for k, v in every.items()}
    env = os.environ | env | {"JAX_COMPILATION_CACHE_DIR": path}
    script = "from jaxrl.cli import main; main(['doctor', '--json'])"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    faults = [r["check"] for r in json.loads(done.stdout) if r["ok"] is False]
    assert (faults, done.returncode) == (["cache"] * code, code)
    assert bool(os.listdir(path)) is (code == 0)


@pytest.mark.parametrize("script, seen", [
    ("echo GPU 0: NVIDIA H100", True), ("echo No devices were found", False),
    ("echo GPU 0; exit 9", False), (None, False),
])  # fmt: skip
def test_system_gpu(tmp_path, monkeypatch, script, seen):
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.system_gpu() is seen


def call(capfd, *argv):
    """(exit code, standard output) of the command in this process."""
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *argv])
    return stop.value.code, capfd.readouterr().out


def test_the_command_prints_rows_alone(capfd):
    code, out = call(capfd, "--json")
    rows = json.loads(out)
    assert all(set(r) == {"check", "ok", "found", "mend"} and r["found"] for r in rows)
    assert all(r["mend"] for r in rows if r["ok"] is not True)
    assert code == (1 if any(r["ok"] is False for r in rows) else 0)
    of = {r["check"]: r for r in rows}
    assert {"jaxrl", "python", "clash", "extras", "devices", "compile", "cache", "disk"} <= set(of)
    needed = {doctor.Requirement(r).name for r in PROJECT["dependencies"]}
    assert needed <= set(of)
    assert of["gymnax"] == {
        "check": "gymnax", "ok": True, "found": metadata.version("gymnax"), "mend": "",
    }  # fmt: skip
    for name in ("import distrax", "import gymnax", "import brax", "import orbax.checkpoint"):
        assert of[name]["ok"] is True, of[name]
    import jax

    assert of["devices"]["found"].startswith(f"{jax.device_count()} {jax.default_backend()} (")


ROWS = [
    doctor.Row("jax", True, "0.10.2"),
    doctor.Row("extras", None, "none; not installed: tb", "pip install 'jaxrl[tb]'"),
    doctor.Row("gymnax", False, "0.0.9 is outside >=1", "pip install 'gymnax>=1'"),
]


@pytest.mark.parametrize("rows, code", [(ROWS, 1), (ROWS[:2], 0)])
def test_exit_code_and_table(capfd, monkeypatch, rows, code):
    monkeypatch.setattr(doctor, "examine", lambda: rows)
    lines = [
        "ok      jax     0.10.2",
        "remark  extras  none; not installed: tb  mend: pip install 'jaxrl[tb]'",
        "FAULT   gymnax  0.0.9 is outside >=1  mend: pip install 'gymnax>=1'",
    ][: len(rows)]
    assert call(capfd) == (code, "\n".join(lines) + "\n")
    assert call(capfd, "--json") == (code, json.dumps([r._asdict() for r in rows], indent=1) + "\n")


def test_help_needs_no_jax():
    script = "import sys; from jaxrl.cli import main\ntry: main(['doctor', '--help'])\n"
    script += "except SystemExit: sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "FAULT" in done.stdout, done.stderr


def test_without_packaging_one_line(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    monkeypatch.delitem(sys.modules, "jaxrl.run.doctor")
    monkeypatch.delattr("jaxrl.run.doctor")
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 2 and "pip install packaging" in capfd.readouterr().err
