"""Settings: who wins, where a value came from, what bad values get."""

from pathlib import Path

import pytest

from tilewright.dsl.errors import InvalidSetting
from tilewright.settings import TABLE, cache_folder, load_settings


def test_table_is_small() -> None:
    assert len(TABLE) <= 12
    assert all(row.variable == f"TILEWRIGHT_{row.name.upper()}" for row in TABLE)


def test_defaults_need_nothing() -> None:
    found = load_settings(environment={})
    assert (found.target, found.threads, found.check) == ("cpu", None, "local")
    assert set(found.origins.values()) == {"default"}
    assert found.origins.keys() == {row.name for row in TABLE}


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    (tmp_path / "tilewright.toml").write_text('threads = 3\ntarget = "cuda:sm_90"\nlog = "+fuse"\n')
    environment = {"TILEWRIGHT_THREADS": "5", "TILEWRIGHT_TARGET": "hip:gfx942"}
    found = load_settings({"threads": "7", "target": None}, environment, tmp_path)
    assert (found.threads, found.target, found.log) == (7, "hip:gfx942", "+fuse")
    origins = {name: found.origins[name] for name in ("threads", "target", "log", "jobs")}
    assert origins == {"threads": "flag", "target": "env", "log": "file", "jobs": "default"}


def test_pyproject_is_a_settings_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.tilewright]\njobs = 2\n")
    assert load_settings(environment={}, folder=tmp_path).jobs == 2
    (tmp_path / "tilewright.toml").write_text("jobs = 3")
    assert load_settings(environment={}, folder=tmp_path).jobs == 3


def test_no_folder_means_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tilewright.toml").write_text("jobs = 2")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environment={}).jobs is None


def test_empty_variable_is_as_none() -> None:
    assert load_settings(environment={"TILEWRIGHT_THREADS": ""}).origins["threads"] == "default"


def test_rows_show_value_and_origin() -> None:
    rows = load_settings(environment={"TILEWRIGHT_CACHE_LIMIT": "2k"}).rows()
    assert ("TILEWRIGHT_CACHE_LIMIT", "2048", "env") in rows
    assert ("TILEWRIGHT_CACHE_DIR", "", "default") in rows


def test_misspelt_variable_is_reported() -> None:
    environment = {"TILEWRIGHT_THREAD": "1", "TILEWRIGHT_TEST_X": "1", "PATH": "/"}
    assert load_settings(environment=environment).unknown == ("TILEWRIGHT_THREAD",)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("THREADS", "0"),
        ("THREADS", "-1"),
        ("THREADS", "two"),
        ("THREADS", "\u0661"),
        ("CACHE_LIMIT", "4X"),
        ("CACHE_DIR", "relative/path"),
        ("TARGET", "cpu;rm"),
        ("TARGET", "cpu\n"),
        ("BACKEND", "Tvm"),
        ("CHECK", "none"),
        ("LOG", "+fuse,,"),
    ],
)
def test_bad_value_names_variable_and_remedy(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_settings(environment={f"TILEWRIGHT_{variable}": text})
    assert f"TILEWRIGHT_{variable}" in str(caught.value)
    assert "give " in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["thread = 1", "threads = true", "threads = [1]", "threads = 1.5", "threads =", "\xff", "[a]"],
)
def test_bad_file_is_our_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "tilewright.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidSetting, match=r"tilewright\.toml"):
        load_settings(environment={}, folder=tmp_path)


@pytest.mark.parametrize("text", ["[tool]\ntilewright = 3", "tool = 1"])
def test_bad_table_in_pyproject_is_our_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(InvalidSetting):
        load_settings(environment={}, folder=tmp_path)


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="did you mean threads"):
        load_settings({"thread": "1"}, {})


def test_cache_folder_is_the_users_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TILEWRIGHT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tilewright"
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
