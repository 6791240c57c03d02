# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Decision spaces
#
# An image of three pixels is a point of a cube, so the decision of a classifier can be drawn for *every* image there is.
# This is the toy of Roos 2020 ([arXiv:2002.10084](https://arxiv.org/abs/2002.10084)): two classes, up and down ramps of
# two pixels with a little noise; everything else is no ramp, and should be null.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

import nullclass
from nullclass.models import build_model
from nullclass.nulls import TileShuffleNulls
from nullclass.studies.ramps.cube import optimal, shares
from nullclass.studies.ramps.figures import decision_space

ramps = nullclass.load_dataset("ramps", validation=0)
figure, axes = plt.subplots(1, 8, figsize=(9, 1.4), layout="constrained")
for axis, image, label in zip(axes, *ramps.test.batch(range(8)), strict=True):
    axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    axis.set(title=("down", "up")[label], xticks=[], yticks=[])

# %% [markdown]
# ## What would be right
#
# Each class is two small boxes, as wide as the noise: the ramp in the first two pixels, or in the last two. All the rest
# of the cube is null (empty here). The large picture shows both classes and their shadows on the floor.

# %%
SIDE = 49  # points of the grid along each pixel
decision_space("optimal", optimal(SIDE))

# %% [markdown]
# ## Trained on ramps alone
#
# The network has three outputs, down, up and null, but has never seen a null image.


# %%
def cube_of(model):
    """Return the model's answer to every image of the grid, -1 for null."""
    axis = torch.linspace(0, 1, SIDE)
    images = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    answers = torch.cat([model.predict(part) for part in images.split(8192)])
    return answers.view(SIDE, SIDE, SIDE).to(torch.int8).numpy()


torch.manual_seed(0)
base = build_model("ramp", image_shape=ramps.image_shape, num_classes=2, has_null=True)
recipe = nullclass.Recipe(batch_size=128, epochs=6, learning_rate=4e-3, schedule="triangle")
nullclass.train(base, ramps.train, recipe)
cubes = {"base": cube_of(base)}
decision_space("base", cubes["base"])

# %% [markdown]
# It divides the whole cube between the two classes. It is right on the ramps, and answers every other image of the cube
# with a class, too.
#
# ## With null images
#
# The same network learns further, with half of every batch replaced by null images: uniform noise, or the pixels of a
# ramp in another order.

# %%
for name, nulls in (
    ("uniform", "uniform"),
    ("shuffled", TileShuffleNulls(sides=[1], faithful=True)),
):
    torch.manual_seed(0)
    model = build_model("ramp", image_shape=ramps.image_shape, num_classes=2, has_null=True)
    model.load_state_dict(base.state_dict())
    config = nullclass.TrainConfig(recipe, replace_rate=0.5)
    history = nullclass.train(model, ramps.train, config, nulls=nulls)
    cubes[name] = cube_of(model)

# %%
decision_space("uniform", cubes["uniform"])

# %%
decision_space("shuffled", cubes["shuffled"])

# %% [markdown]
# ## In numbers
#
# Shares of the grid. *wrong* is a class outside the boxes of that class, *right* is the share of the boxes where the
# answer is the class of the box.

# %%
spaces = {"optimal": optimal(SIDE), **cubes}
table = pd.DataFrame({name: shares(space) for name, space in spaces.items()}).T
table.mul(100).round(2).add_suffix(", %")

# %% [markdown]
# Uniform noise covers the cube, so the classes shrink to the surroundings of their boxes. Shuffled ramps lie in a few
# places only: the classes keep clear of these, and fill the space elsewhere. Null images work where they are, which is
# the question for real images, whose cube has 784 dimensions. The study trains these models with several seeds and draws
# cubes that turn: `nullclass study ramps`, then open `runs/ramps/report.html`.
