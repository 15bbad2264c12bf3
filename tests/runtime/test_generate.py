"""Sessions and text generation, over a language model whose every step is a reference step."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray

from tests.runtime.programs import (
    CONTEXT,
    VOCABULARY,
    counter,
    counter_weights,
    manifest_of,
    plan_of,
    write,
    write_affine,
    write_counter,
)
from tilewright.dsl.errors import (
    DTypeError,
    InvalidPrompt,
    InvalidSession,
    NotALanguageModel,
    PromptTooLong,
    TokenizerMissing,
)
from tilewright.dsl.text import print_graph
from tilewright.runtime import LanguageModel, Model, Sampling, artifact, load
from tilewright.runtime.schema import Port, StateRecord

META = {"kind": "causal_lm", "context": str(CONTEXT), "eos": "", "bos": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("counter") / "model"
    write_counter(folder)
    return load(folder, threads=1)


@pytest.fixture(scope="module")
def language(model: Model) -> LanguageModel:
    return LanguageModel(model)


def logits_after(tokens: Sequence[int]) -> NDArray[np.float64]:
    weights = counter_weights()
    return weights["table"][list(tokens)].astype(np.float64).sum(0) @ weights["head"]


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_after(tokens).argmax()))
    return tokens[len(prompt) :]


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_keeps_what_was_appended(model: Model) -> None:
    session = model.session()
    assert (session.position, session.capacity) == (0, 2 * CONTEXT - 1)
    tokens = np.array([[3, 1, 4]], np.int32)
    first = session.run("prefill", {"tokens": tokens})["logits"][0]
    assert np.allclose(first, logits_after([3, 1, 4]), rtol=1e-5)
    assert session.position == 3
    second = session.run("decode", {"tokens": tokens[:, :1]})["logits"][0]
    assert np.allclose(second, logits_after([3, 1, 4, 3]), rtol=1e-5)
    assert session.position == 4


def test_rolling_back_forgets(model: Model) -> None:
    session, fresh = model.session(), model.session()
    session.run("prefill", {"tokens": np.array([[3, 1, 4, 1, 5]], np.int32)})
    fresh.run("prefill", {"tokens": np.array([[3, 1]], np.int32)})
    session.rollback(2)
    assert session.position == 2
    for name, array in session.arrays.items():
        assert np.array_equal(array, fresh.arrays[name])
    session.reset()
    assert session.position == 0
    assert not any(array.any() for array in session.arrays.values())
    with pytest.raises(InvalidSession):
        session.rollback(1)
    with pytest.raises(InvalidSession):
        session.rollback(-1)


def test_two_sessions_do_not_meet(model: Model) -> None:
    a, b = model.session(), model.session()
    a.run("prefill", {"tokens": np.array([[3, 1, 4]], np.int32)})
    assert not any(array.any() for array in b.arrays.values())


def test_a_session_that_does_not_fit_is_refused(model: Model, tmp_path: Path) -> None:
    token = {"tokens": np.array([[1]], np.int32)}
    with pytest.raises(InvalidSession, match="keeps state"):
        model.run("decode", token)
    write_counter(tmp_path / "other")
    with pytest.raises(InvalidSession, match="another model"):
        model.run("decode", token, session=load(tmp_path / "other").session())
    session = model.session()
    with pytest.raises(InvalidSession, match="past is 2, but the session holds 0"):
        session.run("decode", {**token, "past": 2})
    session.run("decode", {**token, "past": 0})
    assert session.position == 1


def test_a_failing_call_leaves_the_position(model: Model) -> None:
    session = model.session()
    with pytest.raises(DTypeError):
        session.run("prefill", {"tokens": np.array([[1, 2]], np.int64)})
    assert session.position == 0


def test_states_without_positions_are_only_reset(tmp_path: Path) -> None:
    program = counter()
    manifest = manifest_of(program, counter_weights(), META)
    (cache,) = manifest.states
    symbolic = [msgspec.structs.replace(p, shape=["seq", "2"]) for p in cache.components[:1]]
    moments = StateRecord("moments", [Port("moments", "f32", ["3"])])
    loose = msgspec.structs.replace(
        manifest, states=[cache, moments, StateRecord("sized", symbolic, 0)]
    )
    symbolic[0] = msgspec.structs.replace(symbolic[0], name="sized")
    files = {f"regions/{g.name}.tw": print_graph(g).encode() for g in program.graphs}
    artifact.write(tmp_path / "m", loose, files, counter_weights())
    model = load(tmp_path / "m")
    with pytest.raises(InvalidSession, match="seq"):
        model.session()
    session = model.session(seq=3)
    assert session.arrays["sized"].shape == (3, 2)
    session.arrays["moments"][...] = 5
    session.run("decode", {"tokens": np.array([[1]], np.int32)})
    with pytest.raises(InvalidSession, match="moments has no positions"):
        session.rollback(0)
    session.reset()
    assert not any(array.any() for array in session.arrays.values())
    assert plan_of(program.graphs[0]).states == ["layers.0.cache"]


# --- generation -----------------------------------------------------------------------------------


def test_greedy_text_is_the_likeliest(language: LanguageModel) -> None:
    seen: list[int] = []
    found = language.generate([3, 1, 4], max_tokens=9, on_token=seen.append)
    assert list(found.tokens) == greedy([3, 1, 4], 9) == seen
    assert found.reason == "length"


def test_text_ends_with_a_stop_token(language: LanguageModel) -> None:
    wanted = greedy([3, 1, 4], 9)
    stop = wanted[4]
    found = language.generate([3, 1, 4], max_tokens=9, stop=[stop, 99])
    assert list(found.tokens) == wanted[: wanted.index(stop) + 1]
    assert found.reason == "stop"


def test_text_ends_with_the_context(language: LanguageModel) -> None:
    session = language.model.session()
    found = language.generate([1] * (CONTEXT - 2), max_tokens=9, session=session)
    assert (len(found.tokens), found.reason) == (3, "context")
    assert session.position == CONTEXT
    with pytest.raises(PromptTooLong):
        language.decode(session, 1)
    full = language.generate([1] * CONTEXT, max_tokens=9)
    assert (len(full.tokens), full.reason) == (1, "context")
    with pytest.raises(PromptTooLong, match=f"{CONTEXT + 1} tokens, the context has room"):
        language.generate([1] * (CONTEXT + 1), max_tokens=1)


def test_a_session_can_be_continued(language: LanguageModel) -> None:
    session = language.model.session()
    first = language.generate([3, 1], max_tokens=2, session=session)
    second = language.generate([first.tokens[-1]], max_tokens=2, session=session)
    assert [*first.tokens, *second.tokens] == greedy([3, 1], 4)


def test_sampled_text_depends_on_the_seed_alone(language: LanguageModel) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        return language.generate([3], max_tokens=12, sampling=Sampling(9.0, seed=seed)).tokens

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_no_tokens_wanted_none_given(language: LanguageModel) -> None:
    assert language.generate([3], max_tokens=0).tokens == ()


def test_long_prompts_go_in_several_calls(tmp_path: Path) -> None:
    program = counter()
    manifest = manifest_of(program, counter_weights(), META)
    symbols = [msgspec.structs.replace(s, hi=4) if s.name == "seq" else s for s in manifest.symbols]
    files = {f"regions/{g.name}.tw": print_graph(g).encode() for g in program.graphs}
    short = msgspec.structs.replace(manifest, symbols=symbols)
    artifact.write(tmp_path / "m", short, files, counter_weights())
    language = LanguageModel(load(tmp_path / "m"))
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    assert list(language.generate(prompt, max_tokens=3).tokens) == greedy(prompt, 3)


@pytest.mark.parametrize("prompt", [[], [-1], [1 << 31], [0.5], [[1, 2]]])
def test_prompts_that_are_none_are_refused(language: LanguageModel, prompt: list[int]) -> None:
    with pytest.raises(InvalidPrompt):
        language.generate(prompt, max_tokens=1)


@pytest.mark.parametrize(
    "changes", [{"kind": "encoder"}, {"context": "many"}, {"eos": "1,x"}, {"bos": "x"}]
)
def test_what_is_no_language_model_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    write(tmp_path / "m", counter(), counter_weights(), {**META, **changes})
    with pytest.raises(NotALanguageModel):
        LanguageModel(load(tmp_path / "m"))


def test_other_graphs_are_no_language_model(tmp_path: Path) -> None:
    write_affine(tmp_path / "m")
    with pytest.raises(NotALanguageModel, match="apply, twice"):
        LanguageModel(load(tmp_path / "m"))


# --- tokenizer ------------------------------------------------------------------------------------


def words() -> str:
    names = ["<bos>", "<eos>", "a", "b", "c", "\u2581d"]
    vocabulary = {name: i for i, name in enumerate(names)}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    found.add_special_tokens(["<bos>", "<eos>"])
    return found.to_str()


def with_tokenizer(folder: Path, text: str, **meta: str) -> LanguageModel:
    program = counter()
    manifest = msgspec.structs.replace(
        manifest_of(program, counter_weights(), {**META, **meta}), tokenizer="tokenizer.json"
    )
    files = {f"regions/{g.name}.tw": print_graph(g).encode() for g in program.graphs}
    files["tokenizer.json"] = text.encode()
    artifact.write(folder, manifest, files, counter_weights())
    return LanguageModel(load(folder))


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    language = with_tokenizer(tmp_path / "m", words(), bos="0", eos="1")
    assert language.encode("b c a") == [0, 3, 4, 2]
    assert language.encode("<bos> b") == [0, 3]
    tokenizer = language.model.tokenizer()
    assert tokenizer.decode([0, 3, 4, 1]) == "b c"
    assert tokenizer.size == 6
    stream = tokenizer.stream()
    assert "".join(stream.step(t) for t in [0, 3, 4, 2]) == "b c a"
    assert language.eos == {1}
    assert tokenizer.size < VOCABULARY


def test_a_tokenizer_that_is_none_is_an_error_of_ours(tmp_path: Path) -> None:
    language = with_tokenizer(tmp_path / "m", "{}")
    with pytest.raises(TokenizerMissing):
        language.encode("a")
    assert language.generate([1], max_tokens=1).tokens
