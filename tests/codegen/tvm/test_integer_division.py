"""Divisors for which a processor traps, or for which there is a shortcut."""

import numpy as np
import pytest

import tilewright as tw

DIVISORS = (-1, -2, -7, 0, 1, 3)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", [tw.i8, tw.i32, tw.i64], ids=str)
def test_division_and_remainder(dtype: tw.DType) -> None:
    most = 2 ** (dtype.bits - 1) - 1
    least = -most - 1
    x = np.array([least, least + 1, -7, -1, 0, 1, 7, most, least], dtype.numpy)
    y = np.array([-1, -1, -1, -1, -1, 2, 0, -3, least], dtype.numpy)

    @tw.graph(x=dtype[9], y=dtype[9])
    def divide(x: tw.Tensor, y: tw.Tensor) -> dict[str, tw.Tensor]:
        found = {"quotient": x // y, "rest": x % y}
        for index, divisor in enumerate(DIVISORS):
            found |= {f"quotient{index}": x // divisor, f"rest{index}": x % divisor}
        return found

    results: list[dict[str, np.ndarray]] = []
    for backend in ("reference", "tvm"):
        with tw.compile(divide, backend=backend) as model:
            results.append(model.run("divide", {"x": x, "y": y}))
    wanted, found = results
    for name in wanted:
        assert np.array_equal(found[name], wanted[name]), name
    assert found["quotient"][0] == least  # integers wrap
    assert found["rest"][0] == 0
