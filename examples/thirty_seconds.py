"""One layer of a transformer's MLP: written, compiled, run, and explained."""

import numpy as np

import tilewright as tw

rows = tw.dim("rows", 1, 512)


@tw.graph(x=tw.f32[rows, 256])
def mlp(x: tw.Tensor) -> tw.Tensor:
    up = tw.param("up.weight", tw.f32[1024, 256])
    down = tw.param("down.weight", tw.f32[256, 1024])
    scale = tw.param("norm.weight", tw.f32[256])
    return x + tw.gelu(tw.rms_norm(x, scale) @ up.T) @ down.T


random = np.random.default_rng(0)
weights = {
    "up.weight": random.normal(size=(1024, 256)) / 16,
    "down.weight": random.normal(size=(256, 1024)) / 32,
    "norm.weight": np.ones(256),
}

model = tw.compile(mlp, weights, out="build/mlp")
y = model.run("mlp", {"x": np.ones((3, 256), np.float32)})["out"]
print(y.shape, y.dtype)
# and then: tilewright explain build/mlp
