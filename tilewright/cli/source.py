"""What `compile` and `explain` are given: a model's files, a Python function or a text program."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from tilewright.api import as_program, parameter_shapes
from tilewright.codegen.weights import Reader
from tilewright.dsl.builder import TracedFunction
from tilewright.dsl.dtypes import BY_NAME
from tilewright.dsl.errors import (
    InvalidModelFunction,
    ModelFileNotFound,
    TextSyntaxError,
    TilewrightError,
    UnsuitableOption,
    UntrustedCode,
)
from tilewright.dsl.program import Program, Traced

if TYPE_CHECKING:
    from tilewright.models.importers import ImportedModel, WeightSource

_MOST_TEXT = 1 << 28
LONGEST_CONTEXT = 2048
"""The default of `--context`, where the model allows as many positions."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    model: str
    weights: Path | None = None
    dtype: str | None = None
    context: int | None = None
    untrusted: bool = False


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A program, its parameters, and what an artifact is told about it.

    `files` are all files whose content decides what is compiled, by a name that does not depend on
    where they lie.
    """

    program: Program
    weights: Reader
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    tokenizer: Callable[[], str] | None = None
    files: tuple[tuple[str, Path], ...] = ()


def open_source(request: Request, say: Callable[[str], None]) -> ModelSource:
    """Open what `request.model` names.

    Raises ModelFileNotFound, UntrustedCode, InvalidModelFunction, UnsuitableOption,
    MissingWeights, UnexpectedWeights, WeightShapeMismatch, and what importers, parser and builder
    raise.
    """
    name, colon, function = request.model.rpartition(":")
    if colon and name.endswith(".py"):
        return _from_python(Path(name), function, request)
    if request.model.endswith(".py"):
        raise InvalidModelFunction(
            "a Python file needs the name of a function in it",
            where=request.model,
            fix=f"write {request.model}:name",
        )
    if request.model.endswith(".tw"):
        return _from_text(Path(request.model), request)
    return _imported(Path(request.model), request, say)


def _from_python(path: Path, function: str, request: Request) -> ModelSource:
    if request.untrusted:
        raise UntrustedCode(
            "compiling a Python file runs it, and --untrusted forbids that",
            where=str(path),
            fix="give the program in text form (.tw), or leave --untrusted out",
        )
    if not path.is_file():
        raise ModelFileNotFound("there is no such file", where=str(path))
    _refuse_import_options(request)
    with _UserCode(path):
        found: Any = getattr(_module(path), function, None)
        if found is not None and not isinstance(found, TracedFunction | Traced | Program):
            found = found() if callable(found) else found
        built = as_program(found)
    if built is None:
        raise InvalidModelFunction(
            f"{function[:80]!r} is no graph, no program, and gives none when it is called",
            where=str(path),
            fix="name a function decorated with @graph, or one that returns program(...)",
        )
    return _with_weights(built, request)


def _module(path: Path) -> ModuleType:
    """The user's file, run as a module; its neighbours can be imported."""
    # A name of our own: a user's `json.py` must not stand for Python's in what is imported later.
    spec = importlib.util.spec_from_file_location(f"tilewright_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InvalidModelFunction("the file cannot be loaded as Python", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


class _UserCode:
    """Makes a mistake in the user's own code the user's mistake, with its line.

    Python writes no byte code beside the user's files meanwhile: a compilation changes nothing but
    its output and its cache.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.path.abspath(path)  # as importing names it
        self._no_bytecode = sys.dont_write_bytecode

    def __enter__(self) -> None:
        sys.dont_write_bytecode = True

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.dont_write_bytecode = self._no_bytecode
        if error is None or isinstance(error, KeyboardInterrupt):
            return
        lines = [f.lineno for f in traceback.extract_tb(trace) if f.filename == self._file]
        where = f"{self._path}:{lines[-1]}" if lines else str(self._path)
        if isinstance(error, TilewrightError):
            error.where = error.where or where
            return
        if isinstance(error, SyntaxError) and error.filename is not None:
            where = f"{error.filename}:{error.lineno}"
        raise InvalidModelFunction(
            f"the file's own code raised {type(error).__name__}: {error}", where=where
        ) from error


def _from_text(path: Path, request: Request) -> ModelSource:
    from tilewright.dsl.text.parser import parse_program
    from tilewright.dsl.verify import verify_program
    from tilewright.models.importers.mapped import read_small

    _refuse_import_options(request)
    try:
        text = read_small(path, _MOST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextSyntaxError(
            f"the program is no text in UTF-8: {error.reason} at byte {error.start}",
            where=str(path),
        ) from error
    found = parse_program(text, str(path))
    verify_program(found)
    return _with_weights(found, request)


def _refuse_import_options(request: Request) -> None:
    if request.dtype is not None or request.context is not None:
        raise UnsuitableOption(
            "--dtype and --context are for models that are imported; a program says them itself",
            fix="leave them out",
        )


def _with_weights(built: Program, request: Request) -> ModelSource:
    """Weights from `--weights`, or none where the program has no parameters."""
    from tilewright.models.importers import check_weights
    from tilewright.models.importers.safetensors import (
        SafetensorsSource,
        open_safetensors,
        open_safetensors_file,
    )

    given = request.weights
    source = SafetensorsSource({})
    files: tuple[tuple[str, Path], ...] = ()
    if given is not None:
        source = open_safetensors(given) if given.is_dir() else open_safetensors_file(given)
        files = _files(given)
    check_weights(parameter_shapes(built), source)
    return ModelSource(built, source, files=files)


def _imported(path: Path, request: Request, say: Callable[[str], None]) -> ModelSource:
    from tilewright.models.config import BertConfig
    from tilewright.models.importers import open_model

    if request.weights is not None:
        raise UnsuitableOption(
            "--weights is for programs; a model's files hold its weights", fix="leave it out"
        )
    model = open_model(path)
    made = _encoder if isinstance(model.config, BertConfig) else _language_model
    built, metadata, unused = made(model, request, say)
    _check(built, model.weights, unused)
    return ModelSource(built, model.weights, metadata, model.tokenizer_json, _files(path))


def _check(built: Program, weights: WeightSource, unused: tuple[str, ...]) -> None:
    from tilewright.models.importers import check_weights

    check_weights(parameter_shapes(built), weights, unused=unused)


def _encoder(
    model: ImportedModel, request: Request, say: Callable[[str], None]
) -> tuple[Program, dict[str, str], tuple[str, ...]]:
    from tilewright.models.bert import bert
    from tilewright.models.config import BertConfig, SentenceConfig
    from tilewright.models.importers.huggingface import BERT_UNUSED

    config, sentence = model.config, model.sentence
    assert isinstance(config, BertConfig)
    if sentence is None:
        say("the folder does not say how to pool: taking the mean over tokens")
        sentence = SentenceConfig(pooling="mean", normalize=False)
    longest = min(
        sentence.max_seq_length or config.max_position_embeddings, config.max_position_embeddings
    )
    context = _context(request, longest, longest)
    limited = SentenceConfig(
        pooling=sentence.pooling, normalize=sentence.normalize, max_seq_length=context
    )
    dtype = request.dtype or "f32"
    metadata = {"kind": "encoder", "model": "bert", "context": str(context), "dtype": dtype}
    return bert(config, limited, BY_NAME[dtype]).program, metadata, BERT_UNUSED


def _language_model(
    model: ImportedModel, request: Request, say: Callable[[str], None]
) -> tuple[Program, dict[str, str], tuple[str, ...]]:
    from tilewright.models.config import Gemma3Config
    from tilewright.models.gemma3 import gemma3

    del say
    config = model.config
    assert isinstance(config, Gemma3Config)
    longest = config.max_position_embeddings
    context = _context(request, min(LONGEST_CONTEXT, longest), longest)
    dtype = request.dtype or "bf16"
    metadata = {
        "kind": "causal_lm",
        "model": "gemma3",
        "context": str(context),
        "dtype": dtype,
        "eos": ",".join(map(str, config.eos_token_ids)),
        "bos": "" if config.bos_token_id is None else str(config.bos_token_id),
    }
    unused = ("lm_head.weight",) if config.tie_word_embeddings else ()
    return gemma3(config, context, BY_NAME[dtype]).program, metadata, unused


def _context(request: Request, default: int, longest: int) -> int:
    found = default if request.context is None else request.context
    if not 1 <= found <= longest:
        raise UnsuitableOption(
            f"--context is {found}, the model has 1 to {longest} positions",
            fix=f"give at most {longest}",
        )
    return found


def _files(path: Path) -> tuple[tuple[str, Path], ...]:
    """The file, or the files of a model's folder that importers may read."""
    if not path.is_dir():
        return (("file", path),)
    found: list[tuple[str, Path]] = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            if file.suffix in (".json", ".safetensors") and file.is_file():
                found.append((file.relative_to(path).as_posix(), file))
    return tuple(sorted(found))
