"""Files with flipped, missing and inserted bytes: read, or refused by an error of ours."""

import random
import resource
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from tests.depth import count
from tests.models.gguf_files import GgufSpec
from tests.models.safetensors_files import write_folder
from tilewright.dsl.errors import TilewrightError
from tilewright.models.importers import open_model

CASES = count(ci=300, deep=3000)
SPARE_BYTES = 256 << 20  # beyond what the process holds: far more than the small files need
SLOWEST = 5.0  # seconds of processor time; a sane case takes milliseconds


@contextmanager
def memory_limit() -> Generator[None]:
    """Turns an allocation out of proportion into a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to three faults, half of them in the head, where the structure is."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        reach = min(len(made), 600) if rng.random() < 0.5 else len(made)
        at = rng.randrange(max(reach, 1))
        match rng.randrange(6):
            case 0:
                del made[at:]
            case 1:
                made[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), (2**62).to_bytes(8, "big")])
            case 2:
                made[at:at] = rng.randbytes(rng.randint(1, 9))
            case 3:
                del made[at : at + rng.randint(1, 9)]
            case _:
                made[at : at + 1] = bytes([made[at] ^ 1 << rng.randrange(8)]) if made else b""
    return bytes(made)


def read_all(path: Path) -> None:
    model = open_model(path)
    for name in model.weights.names():
        try:
            assert model.weights.read(name).shape == model.weights.shape(name)
        except TilewrightError:
            continue
    if model.tokenizer_json is not None:
        model.tokenizer_json()


def outcomes(victim: Path, opened: Path, seed: str) -> tuple[int, int]:
    """How many damaged copies were read, and how many refused."""
    good = victim.read_bytes()
    accepted = refused = 0
    for case in range(CASES // 3):
        victim.write_bytes(damaged(good, random.Random(f"{seed}/{case}")))
        begin = time.process_time()
        try:
            with memory_limit():
                read_all(opened)
            accepted += 1
        except TilewrightError:
            refused += 1
        except BaseException as error:
            error.add_note(f"{seed}, case {case}")
            raise
        assert time.process_time() - begin < SLOWEST, f"{seed}, case {case}"
    victim.write_bytes(good)
    read_all(opened)
    return accepted, refused


def gguf(folder: Path) -> tuple[Path, Path]:
    kinds = {"blk.0.attn_q.weight": GGMLQuantizationType.Q8_0}
    path = GgufSpec(kinds=kinds).write(folder / "a.gguf")
    return path, path


def safetensors(folder: Path) -> tuple[Path, Path]:
    write_folder(folder)
    return folder / "model.safetensors", folder


def config(folder: Path) -> tuple[Path, Path]:
    write_folder(folder)
    return folder / "config.json", folder


@pytest.mark.parametrize("make", [gguf, safetensors, config], ids=lambda make: make.__name__)
def test_damaged_files_are_read_or_refused(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]
) -> None:
    victim, opened = make(tmp_path)
    _, refused = outcomes(victim, opened, make.__name__)
    assert refused > CASES // 15, "the damage was too gentle to prove anything"


def test_every_truncation_of_a_gguf_file_is_refused(tmp_path: Path) -> None:
    path, _ = gguf(tmp_path)
    good = path.read_bytes()
    rng = random.Random(0)
    for length in sorted({*range(0, 200), *(rng.randrange(len(good)) for _ in range(200))}):
        path.write_bytes(good[:length])
        with pytest.raises(TilewrightError):
            open_model(path)
