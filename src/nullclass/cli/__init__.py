"""The commands, an open set: ``nullclass.cli.NAME`` defines a dataclass of options ``Command``.

A new command: one file, one line in :data:`COMMANDS`. The docstring of the class is its summary;
its method ``run`` returns the exit status, or None, and imports torch, so that ``--help`` is fast.
"""

from __future__ import annotations

COMMANDS = {
    "data": "Fetch datasets; show what is in some images with labels.",
    "train": "Train one model and write its checkpoint: weights and card.",
    "curve": "Estimate a null curve: the share of images fooled by perturbations of each size.",
    "substitute": "Train a substitute on a model's answers, as the source of transfer attacks.",
    "transfer": "Attack some models and score the adversarial images on others.",
    "refuse": "Give a trained model a way to refuse; write its checkpoint.",
    "evaluate": "Attack a model; write a run folder with rows, rates, red flags and a report.",
    "certify": "Prove per image what no attack within eps can do; save or check certificates.",
    "study": "Run a study: train its models, attack them, draw its report.",
    "compare": "Compare evaluations of the same images by the same attacks: one table, one report.",
    "report": "Draw the report of a run folder again, from its rows.",
    "export": "Write a model with its rule for null into one file: ONNX or torch.export.",
    "guard": "Answer images from standard input, one JSON line each; count, log, raise an alarm.",
    "demo": "Serve a page on this machine: draw digits, attack them, ask a proved model.",
    "zoo": "List, show, evaluate and check the models of the zoo; write their leaderboard.",
}
"""Name to summary (the docstring of ``Command``), in the order of the help. The overview shows them
without importing the commands."""
