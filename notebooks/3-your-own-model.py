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
# # Evaluate your own model
#
# You have a plain torch model that may refuse, and want to know how often it can be fooled. This notebook goes from
# nothing to an evaluation with red flags, and shows what an evaluation looks like that cannot be believed. It takes
# about a minute on two cores. With fewer than 1,000 attacked images, as here, rates are a preview.

# %%
import pandas as pd
import torch
from torch import nn

import nullclass
from nullclass.attacks import FGSM
from nullclass.rejection import calibrate

pd.set_option("display.max_colwidth", None)
mnist = nullclass.load_dataset("mnist")
test, held_out = mnist.test, mnist.validation  # 10,000 and 5,000 images in [0,1], with labels

# %% [markdown]
# ## A model of yours
#
# An ordinary network, trained by an ordinary loop; nothing of it comes from nullclass. `Rejecting` gives it a reject
# option: where the softmax confidence is below τ, it answers null. For nullclass a model is a module or a function that
# maps images in [0,1] to K + 1 logits, null last, and standardises inside
# ([other kinds](../docs/evaluation.md#your-model)).

# %%
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 5, stride=2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(512, 100),
    nn.ReLU(),
    nn.Linear(100, 10),
)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
for start in range(0, 40_000, 100):
    images, labels = mnist.train.batch(range(start, start + 100))
    loss = nn.functional.cross_entropy(net((images - 0.1307) / 0.3081), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


class Rejecting(nn.Module):
    """Ten logits, and null above them all where the confidence is below tau."""

    def __init__(self, net: nn.Module, tau: float) -> None:
        super().__init__()
        self.net, self.tau = net, tau

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.net((images - 0.1307) / 0.3081)
        confidence = logits.softmax(dim=1).amax(dim=1, keepdim=True)
        top = logits.amax(dim=1, keepdim=True)
        null = torch.where(confidence < self.tau, top + 1, top - 1)
        return torch.cat([logits, null], dim=1)


model = Rejecting(net.eval(), tau=0.95)

# %% [markdown]
# ## A first try
#
# FGSM at ε 0.1, as one often sees it: whatever is not the true class counts as a success of the attack.


# %%
def flags_of(evaluation: nullclass.Evaluation) -> pd.DataFrame:
    """Return the red flags of an evaluation as a table."""
    return pd.DataFrame({"why": {flag.name: flag.message for flag in evaluation.flags}})


fgsm = FGSM(objective="untargeted")
first = nullclass.evaluate(
    model, test, num_classes=10, attacks={"fgsm": fgsm}, eps=0.1, num_images=100
)
outcomes = ["correct_rate", "null_rate", "fooled_rate"]
pd.DataFrame(
    {
        "clean": [first.rate(name) for name in outcomes],
        "FGSM, ε 0.1": [first.rate(name, 0.1, attack="fgsm") for name in outcomes],
    },
    index=["correct, %", "null, %", "fooled, %"],
).mul(100).round(1)

# %% [markdown]
# Few images are misread, it seems. But the evaluation raises red flags:

# %%
flags_of(first)

# %% [markdown]
# ## The worst case
#
# The default is a fixed sequence of null-aware attacks, the worst case over all of them. With `progress=True` it shows
# bars and the remaining time, here in the notebook too.

# %%
second = nullclass.evaluate(model, test, num_classes=10, eps=[0.2, 0.3], num_images=100)
second.table()

# %%
flags_of(second)

# %% [markdown]
# The table has the share fooled (AER) and the share correct when clean and never fooled (RAR), in % with 95 % intervals.
# They are of 100 images, a preview: publish figures of at least 1,000.
#
# `second.rows` has one row per image and attack, `second.costs` what every attack cost, and `second.plot()` draws the
# rates against ε.
#
# ## A threshold from held-out images
#
# τ above was a guess. `calibrate` chooses a threshold that refuses 1 % of the clean *held-out* images. Then it is part of
# the model, and every attack knows it. (From test images it would raise a flag.) `worst-case-force-null` adds the other
# side: null-DoS, images that are correct when clean and that an attack turns into null.

# %%
plain = nullclass.Classifier(net, num_classes=10, has_null=False, mean=[0.1307], std=[0.3081])
threshold = calibrate(plain, held_out, clean_null_rate=0.01)
third = nullclass.evaluate(
    plain,
    test,
    attacks=["worst-case", "worst-case-force-null"],
    eps=0.3,
    num_images=100,
    threshold=threshold,
    held_out=held_out,
    ood=["noise", "tiles"],
)
tables = {"τ = 0.95": second.table().iloc[[1]], "calibrated": third.table()}
pd.concat(tables).droplevel(1).fillna("")

# %% [markdown]
# How well the null score separates adversarial images, and images of no class, from clean ones: AUROC, the false
# positive rate at 95 % true positives, risk against coverage.

# %%
third.scores()[["attack", "eps_pixels", "metric", "value", "low", "high"]].round(3)

# %% [markdown]
# ## An evaluation that cannot be believed
#
# The same network behind a pre-processing step that rounds pixels to black and white. Rounding has no gradient, so an
# attack by gradients finds nothing:


# %%
class Rounding(nn.Module):
    """A model that sees black and white."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.round())


fourth = nullclass.evaluate(
    Rounding(model), test, num_classes=10, attacks="pgd", eps=[0.1, 0.2], num_images=100
)
fourth.table()

# %% [markdown]
# No image is fooled. Every flag below is a reason to look again before a number is quoted;
# [docs/red-flags.md](../docs/red-flags.md) explains each.

# %%
flags_of(fourth)

# %% [markdown]
# More: [what is measured, and how](../docs/evaluation.md), [all attacks](../docs/attacks.md), how to
# [keep the rows and draw a report](../docs/run-folder.md), and how to evaluate a
# [model of your own on the command line](../docs/commands.md#a-model-of-your-own).
