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
# # The 240 models
#
# Roos 2020 ([arXiv:2002.10084](https://arxiv.org/abs/2002.10084)) trained 30 sets of eight networks on MNIST: `base`
# without null images, and seven with uniform noise (`u`), shuffled tiles (`s`), mixed pairs of images (`m`) and all
# their combinations. This notebook draws the report's figures from our trainings of the same networks. It trains
# nothing: it reads the tables in `results/null-samples`, to which `nullclass study null-samples --preset full` and
# `docs/report_study.py` add further sets.

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

import nullclass
from nullclass.studies.null_samples import figures
from nullclass.studies.null_samples.record import read_record
from nullclass.studies.null_samples.tables import measures_of

FOLDER = Path(nullclass.__file__).parents[2] / "results" / "null-samples"  # of the repository
run = read_record(FOLDER)
measures = measures_of(run)
print(measures.seeds_text("set"), "of", len(measures.models), "models")


def show(draw):
    """Draw a figure of the report, with its caption."""
    drawing = draw(measures)
    display(Markdown(f"**{drawing.title}.** {drawing.caption}"), *drawing.panels)


# %% [markdown]
# ## The images
#
# What a model learns as null: each row is one kind.
#
# ![Null images](../results/null-samples/figures/fig_null_image_examples.png)

# %% [markdown]
# ## Training
#
# Null images cost little: the models with null images are nearly as good on clean images as `base`.

# %%
show(figures.training_histories)

# %%
show(figures.clean_scores)

# %% [markdown]
# ## The attack of the report
#
# For every test image the report looks for the smallest ε at which one FGSM step fools `base`, its *threshold*.

# %%
show(figures.epsilon_thresholds)

# %% [markdown]
# The same images are then shown to the other models. They were made for `base`, which has no null images; that is all
# the attacker knows.

# %%
show(figures.scores_at_threshold)

# %% [markdown]
# Mixed images make the difference: whatever was trained with `m` answers null. The open diamonds are what the report
# prints. The black squares are not in the report: the worst-case ensemble, an attacker who knows the model itself and
# its null class, with the same ε on the same images. It fools nearly all of them. So the report's scores say how well
# an attack on one model transfers to another, and little about how well null resists an attack.
#
# The first images of set 0, and what each model answers. Above each image: true digit, answer, its probability. The border is
# blue for correct, orange for a wrong digit, grey for null.
#
# **`base`**, at the smallest ε that fools it
# ![Adversarial images, base](../results/null-samples/figures/fig_adversarial_samples_baseline.png)
#
# **`base`**, at 1.5 times that ε
# ![Adversarial images, base](../results/null-samples/figures/fig_adversarial_samples_baseline_1.5.png)
#
# **`u`**
# ![Adversarial images, u](../results/null-samples/figures/fig_adversarial_samples_u.png)
#
# **`s`**
# ![Adversarial images, s](../results/null-samples/figures/fig_adversarial_samples_s.png)
#
# **`m`**
# ![Adversarial images, m](../results/null-samples/figures/fig_adversarial_samples_m.png)
#
# **`us`**
# ![Adversarial images, us](../results/null-samples/figures/fig_adversarial_samples_us.png)
#
# **`um`**
# ![Adversarial images, um](../results/null-samples/figures/fig_adversarial_samples_um.png)
#
# **`sm`**
# ![Adversarial images, sm](../results/null-samples/figures/fig_adversarial_samples_sm.png)
#
# **`usm`**
# ![Adversarial images, usm](../results/null-samples/figures/fig_adversarial_samples_usm.png)

# %% [markdown]
# ## Against ε
#
# Now ε is the same for all images.

# %%
show(figures.scores_versus_epsilon)

# %%
show(figures.model_comparison)

# %% [markdown]
# ## The numbers
#
# The tables behind the figures are plain CSV. `rates.csv` has one line per set, model, attack and ε (in pixel units);
# AER is the share of attacked images that are fooled by any attack, RAR the share answered rightly and never fooled.

# %%
rates = pd.read_csv(FOLDER / "rates.csv")
worst = rates[(rates["attack"] == "union") & rates["eps_pixels"].isin([0.1, 0.3])]
worst = worst.assign(aer=100 * worst["aer"])
table = worst.groupby(["eps_pixels", "model"], sort=False).agg(
    aer_mean=("aer", "mean"),
    aer_sd=("aer", "std"),
    sets=("seed", "nunique"),
    images_per_set=("num_images", "first"),
)
table.round(1)
