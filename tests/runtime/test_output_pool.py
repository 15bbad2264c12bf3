"""Memory of outputs: what is given again, and how much is kept."""

import numpy as np
import pytest

from tilewright.dsl.errors import OutOfMemory
from tilewright.runtime.buffers import Array, address_of
from tilewright.runtime.output_pool import OutputPool

F32 = np.dtype(np.float32)


def taken(pool: OutputPool, count: int) -> Array:
    array, address = pool.array((count,), F32, 4 * count)
    assert address == address_of(array)
    assert address % 64 == 0
    assert array.shape == (count,)
    return array


def test_arrays_that_are_alive_share_nothing() -> None:
    pool = OutputPool()
    alive = [taken(pool, 100) for _ in range(20)] + [taken(pool, 0), taken(pool, 7)]
    for i, array in enumerate(alive):
        array[...] = i
    for i, array in enumerate(alive):
        assert (array == i).all()


def test_a_block_is_given_again_when_its_last_view_is_gone() -> None:
    pool = OutputPool()
    array = taken(pool, 100)
    place, view = address_of(array), array[3:5]
    del array
    assert address_of(taken(pool, 100)) != place
    del view
    assert address_of(taken(pool, 100)) == place
    assert address_of(taken(pool, 99)) != place, "blocks are of one size"


def test_no_more_than_the_limit_is_kept() -> None:
    pool = OutputPool(limit=10_000)
    for count in (*range(1, 100), *range(100, 3000, 7)):
        taken(pool, count)
        blocks = [block[0] for same in pool._blocks.values() for block in same]
        assert sum(block.nbytes for block in blocks) == pool._kept <= 10_000
    held = [taken(pool, 10) for _ in range(50)]
    assert len(pool._blocks[40]) <= 4
    del held
    place = address_of(taken(pool, 10))
    assert address_of(taken(pool, 10)) == place


def test_not_many_sizes_are_kept() -> None:
    pool = OutputPool()
    for count in range(1, 500):
        taken(pool, count)
        assert len(pool._blocks) <= 64


def test_what_is_larger_than_the_limit_is_new_each_time() -> None:
    pool = OutputPool(limit=1000)
    small = taken(pool, 10)
    assert taken(pool, 1000).base is not taken(pool, 1000).base
    assert list(pool._blocks) == [small.nbytes]


def test_too_much_memory_is_an_error_of_ours() -> None:
    with pytest.raises(OutOfMemory):
        OutputPool().array((1 << 60,), F32, 1 << 62)
