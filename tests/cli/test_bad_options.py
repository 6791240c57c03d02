"""Every bad option gets one clear sentence and exit status 2, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from refusals import Refused, evaluate_arguments, train_arguments

# Options


SEEDS = ("-1", str(2**63), str(2**64))


def test_seeds_out_of_range(refused: Refused, data_folder: Path, checkpoint: Path) -> None:
    data = ["--data", data_folder]
    for seed in SEEDS:
        for command in (
            evaluate_arguments(checkpoint, data_folder),
            train_arguments(data_folder),
            ["curve", checkpoint, "--out", "f.csv", *data],
            ["substitute", checkpoint, "--out", "out", *data],
            ["transfer", "--sources", checkpoint, "--targets", checkpoint, *data],
            ["zoo", "evaluate", "notebook-null", "--out", "out", *data],
        ):
            refused(*command, f"--seed={seed}", says=f"seed must be a whole number .* not {seed}")


TRAIN: list[tuple[Sequence[str], str]] = [
    (["--null-eps", "39"], "eps"),
    (["--null-steps", "0"], "step"),
    (["--null-weight", "-1"], "null_weight must be at least 0"),
    (["--epochs", "0"], "of at least 1"),
    (
        ["--validation", "160"],
        "held out of 160 .* from 0 to 159, not 160",
    ),
    (["--model", "resnet"], "'resnet'.*notebook|notebook.*'resnet'"),
    (["--data", "minst"], "'minst'.*did you mean mnist"),
    (["--data", "no_such_module:data"], "no_such_module cannot be imported"),
    (["--resize", "8"], "only image folders are resized, and letters is none"),
    (["--data", "ramps", "--resize", "8"], "only image folders are resized, and ramps is none"),
    (["--resize", "0"], "resize must be a whole number from 1"),
    (["--device", "cuda:99"], "this machine has no device 'cuda:99': use the device cpu"),
    (["--device", "gpu"], "'gpu'"),
    (["--learning-rate", "1e6"], "learning_rate must be in"),
    (["--replace-rate", "nan"], "replace_rate must be a finite number"),
    (["--nulls", "noise"], "null source must be one of adversarial.*'noise'"),
    (["--nulls", "any-of"], "needs at least one source"),
    (["--nulls", "none", "mixed"], "--nulls none alone"),
    (["--nulls", "none", "--per-class-null"], "need null images"),
    (["--per-class-null", "--uniform-targets"], "exclude each other"),
    (["--nulls", "uniform", "--per-class-null"], "uniform images have no class"),
    (["--nulls", "background", "--background", "cats"], "background images"),
    (["--nulls", "null-probabilities"], "need a curve: give --curve"),
    (["--curve", "f.csv"], "--curve is for --nulls null-probabilities"),
    (["--nulls", "uniform", "--null-eps", "0.3"], "--null-eps is for --nulls adversarial or ccat"),
    (["--nulls", "mixed", "--null-steps", "5"], "--null-steps is for --nulls adversarial or ccat"),
    (["--replace-rate", "0.4", "--null-weight", "0"], "--null-weight is for null images that are"),
    (["--nulls", "none", "--replace-rate", "0.4"], "--replace-rate needs null images"),
    (["--robust", "interval", "--null-weight", "3"], "null images: leave --null-weight out"),
    (["--robust", "interval", "--robust-eps", "1.5"], "eps"),
    (["--robust", "abstain", "--nulls", "mixed"], "--robust takes no null images"),
    (["--robust-eps", "0.1"], "are for --robust"),
    (["--null-class"], "are for --robust"),
]


@pytest.mark.parametrize(("options", "says"), TRAIN, ids=lambda value: "".join(value))
def test_bad_options_of_train(
    options: Sequence[str], says: str, refused: Refused, data_folder: Path
) -> None:
    refused(*train_arguments(data_folder), *options, says=says)
    assert not Path("out").exists()


EVALUATE = [
    ("--attack", "cw", "'cw'"),
    ("--norm", "l0", "norm must be one of linf, l2, l1, not 'l0'"),
    ("--smallest", "-1", "--smallest must be a whole number of at least 0"),
    ("--ood", "cats", "'cats'"),
    ("--null-rate", "0", "rate"),
    ("--null-rate", "0.0001", "held-out"),
    ("--images", "0", "1 to 40"),
    ("--images", "41", "1 to 40"),
    ("--data", "cifar", "'cifar'"),
    ("--device", "cuda:99", "this machine has no device"),
    ("--proofs", "guess", "'guess'"),
    ("--verifier", "cascade", "a verifier decides what is proved within a radius"),
    *(("--eps", eps, r"eps .* outside \[0, 1\]") for eps in ("-0.1", "76", "nan")),
]


@pytest.mark.parametrize(("option", "value", "says"), EVALUATE)
def test_bad_options_of_evaluate(
    option: str, value: str, says: str, refused: Refused, data_folder: Path, checkpoint: Path
) -> None:
    refused(*evaluate_arguments(checkpoint, data_folder), option, value, says=says)
    assert not Path("out").exists()


STUDY = [
    *(("--sets", text, "is no list of numbers") for text in ("a", "1-2-3", ",", "-1", "1000000")),
    ("--sets", "", "--sets has no value"),
    ("--sets", "0-999999", "names 1,000,000 seeds, more than the 10,000"),
    ("--sets", "3-1", "is empty"),
    ("--variants", "base,nonsense", "no variant 'nonsense': choose from base, uniform"),
    ("--variants", ",", "no variant ''"),
    ("--workers", "0", "--workers must be a whole number from 1 to 4096"),
    ("--threads", "0", "--threads must be a whole number from 1 to 4096"),
    ("--address", "here:6379", "add --engine ray"),
    ("--device", "cuda:99", "no device"),
]


@pytest.mark.parametrize(("option", "value", "says"), STUDY)
def test_bad_options_of_study(option: str, value: str, says: str, refused: Refused) -> None:
    refused("study", "ramps", "--out", "out", f"{option}={value}", says=says)


def test_unknown_names(refused: Refused, data_folder: Path, checkpoint: Path) -> None:
    refused("study", "fgsm", says="no study 'fgsm': choose one of fgsm-null")
    refused("nosuch", says="no command 'nosuch': choose one of data, train")
    for action in ("fetch", "show"):
        refused("data", action, "cifar", says="'cifar'.*did you mean cifar10.*mnist")
    refused(
        *evaluate_arguments("nowhere", data_folder),
        says="no checkpoint 'nowhere': give a folder .*, or a model of the zoo .*notebook-null",
    )
    certify = ["certify", checkpoint, "--data", data_folder, "--device", "cpu"]
    refused(*certify, "--out", "c.json", says="give --radius with --out")
    refused(*certify, "--verifier", "guess", says="'guess'")
    refused("transfer", "--sources", "--targets", checkpoint, says="at least one checkpoint each")
    refused("report", "nowhere", says="there is no run folder nowhere")


# Paths, numbers and text

COMMANDS = {
    "train": ["train", "--data", "DATA", "--out", "OUT", "--validation",
              "9", "--epochs", "1"],
    "substitute": ["substitute", "CHECKPOINT", "--data", "DATA", "--out", "OUT", "--seeds",
                   "10", "--queries", "20"],
    "refuse": ["refuse", "CHECKPOINT", "--data", "DATA", "--out", "OUT", "--by", "energy"],
    "evaluate": ["evaluate", "CHECKPOINT", "--data", "DATA", "--out", "OUT", "--images", "5",
                 "--attack", "fgsm"],
    "curve": ["curve", "CHECKPOINT", "--data", "DATA", "--out", "OUT"],
    "certify": ["certify", "CHECKPOINT", "--data", "DATA", "--radius", "0.1",
                "--out", "OUT"],
    "transfer": ["transfer", "--sources", "CHECKPOINT", "--targets", "CHECKPOINT", "--data",
                 "DATA", "--out", "OUT", "--images", "5"],
    "study": ["study", "ramps", "--out", "OUT"],
    "zoo": ["zoo", "evaluate", "notebook-null", "--data", "DATA", "--out", "OUT"],
    "leaderboard": ["zoo", "leaderboard", "--out", "OUT"],
    "data": ["data", "show", "DATA", "--out", "OUT"],
}  # fmt: skip
FILES = ("curve", "certify", "transfer", "leaderboard", "data")

UNUSABLE = {
    "x" * 300: "too long for a path",
    "d/" * 3000: "too long for a path",
    "~nosuchuser/x": "names a user without a home folder",
    "": "an option has no value",
    "a\0b": r"'a\\x00b' holds a control character or is not UTF-8",
    "a\nb": "holds a control character",
    "\udcff": r"'\\udcff' holds a control character or is not UTF-8",
}
"""Values that no option takes, path or not."""

OUTPUTS = UNUSABLE | {
    "file/below": "cannot write file/below: Not a directory",
    "file/deep/below": "cannot write file/deep/below: Not a directory",
    "link": "link is a broken symbolic link",
    "link/below": "link is a broken symbolic link",
    "loop": "cannot write loop: Too many levels of symbolic links",
    "pipe/below": "cannot write pipe/below: Not a directory",
    "pipe": "cannot write pipe: Not a directory|pipe is not a regular file",
    "/dev/null": "cannot write /dev/null: Not a directory|/dev/null is not a regular file",
}


@pytest.fixture
def hostile(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", COMMANDS)
def test_unusable_outputs(name: str, refused: Refused, data_folder: Path, checkpoint: Path) -> None:
    places = {"DATA": data_folder, "CHECKPOINT": checkpoint}
    last = {"file": "Not a directory"}
    if name in FILES:
        last = {"folder": "is not a regular file", "x" * 250: "lock: File name too long"}
    for path, says in (OUTPUTS | last).items():
        refused(*((places | {"OUT": path}).get(word, word) for word in COMMANDS[name]), says=says)


INPUTS = {
    "nowhere": "nowhere'? (is not a|is missing)|there is no|no members",
    "file": "is not a folder|is a file|is damaged|there is no run|no members|have the columns",
    "folder": "lacks|class folders|is missing|is no run|is not a regular|no members|is damaged|"
    "cannot be read",
    "link": "is not a folder|is missing|there is no|no members",
    "loop": "is not a folder|cannot be read|there is no|no members",
    "pipe": "is not a (folder|regular file)|is a file|there is no run|no members",
    "/dev/zero": "is not a (folder|regular file)|is a file|there is no run|no members",
}
READ = {
    "data": ["data", "show", "PATH"],
    "train": ["train", "--out", "out", "--data", "PATH"],
    "curve": ["train", "--out", "out", "--data", "DATA", "--nulls",
              "null-probabilities", "--curve", "PATH"],
    "evaluate": ["evaluate", "PATH", "--data", "DATA"],
    "evaluate data": ["evaluate", "CHECKPOINT", "--data", "PATH"],
    "certify": ["certify", "CHECKPOINT", "--data", "DATA", "--check", "PATH"],
    "transfer": ["transfer", "--sources", "CHECKPOINT", "--targets", "PATH", "--data", "DATA"],
    "report": ["report", "PATH"],
    "zoo": ["zoo", "--zoo", "PATH", "list"],
}  # fmt: skip


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", READ)
def test_unusable_inputs(name: str, refused: Refused, data_folder: Path, checkpoint: Path) -> None:
    places = {"DATA": data_folder, "CHECKPOINT": checkpoint}
    for path, says in (UNUSABLE | INPUTS).items():
        if path[:1] in ("x", "d") and name in ("evaluate", "transfer"):
            says = f"{says}|there is no checkpoint"  # or a model of the zoo with a long name
        refused(*((places | {"PATH": path}).get(word, word) for word in READ[name]), says=says)


HUGE = "1" + "0" * 23
NUMBERS: list[tuple[str, str, str, str]] = [
    *(("train", option, HUGE, "at most 1,000,000,000") for option in ("--epochs", "--null-steps")),
    *(("train", option, bad, "finite number|from 0 to 1|learning_rate|eps|at least 0|in \\[0, 1\\)")
      for option in ("--learning-rate", "--null-weight", "--null-eps", "--nulls-per-image",
                     "--replace-rate", "--weight-decay")
      for bad in ("nan", "inf", "-inf", "-1")),
    ("train", "--validation", HUGE, "from 0 to 159, not 1000"),
    ("train", "--seed", HUGE, "seed must be a whole number from 0"),
    ("train", "--background", "mnist", "--background is for --nulls background"),
    *(("curve", option, HUGE, "at most 1,000,000,000|held-out") for option in ("--images",)),
    ("substitute", "--queries", HUGE, "at most 1,000,000,000"),
    ("substitute", "--seeds", HUGE, "at most 1,000,000,000"),
    ("substitute", "--step", "nan", "step must be in"),
    *((name, "--images", bad, "images")
      for name in ("transfer", "evaluate", "certify") for bad in (HUGE, "0", "-1")),
    *((name, "--eps", bad, r"eps .* outside \[0, 1\]")
      for name in ("transfer", "evaluate", "certify") for bad in ("nan", "inf", "-1", HUGE)),
    *((name, "--null-rate", bad, "between 0 and 1|held-out")
      for name in ("transfer", "evaluate", "substitute") for bad in ("nan", "inf", "0", "1", "-1")),
    *((name, "--seed", bad, "seed must be a whole number from 0")
      for name in ("transfer", "evaluate", "substitute", "curve", "zoo") for bad in (HUGE, "-1")),
    ("evaluate", "--smallest", HUGE, "at most 1,000,000,000"),
    *(("certify", "--radius", bad, "radius|null of its own") for bad in ("nan", "-1", HUGE)),
    *(("study", "--workers", bad, "from 1 to 4096") for bad in (HUGE, "-1")),
    ("study", "--threads", HUGE, "from 1 to 4096"),
    ("study", "--sets", f"0-{HUGE}", "is no list of numbers"),
    ("study", "--data", "mnist", "the study ramps uses ramps, not mnist"),
    ("zoo", "--images", HUGE, "at most 1,000,000,000"),
    *((name, option, "x" * 300, "x…x")
      for name, option in (("train", "--model"), ("train", "--data"), ("train", "--device"),
                           ("substitute", "--architecture"),
                           ("evaluate", "--attack"), ("evaluate", "--norm"),
                           ("evaluate", "--device"), ("transfer", "--attack"),
                           ("certify", "--verifier"), ("study", "--variants"),
                           ("study", "--device"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "value", "says"), NUMBERS)
def test_unusable_numbers_and_names(
    name: str,
    option: str,
    value: str,
    says: str,
    refused: Refused,
    data_folder: Path,
    checkpoint: Path,
) -> None:
    places = {"DATA": data_folder, "CHECKPOINT": checkpoint, "OUT": "out"}
    words = [places.get(word, word) for word in COMMANDS[name]]
    refused(*words, f"{option}={value}", says=says)


# Curves


def test_options_of_curves(
    refused: Refused, data_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    table = tmp_path / "f.csv"
    refused(*train_arguments(data_folder), "--nulls", "null-probabilities", "--curve", table,
            "--norm", "linf", says="is missing")  # fmt: skip
    table.write_text("size,probability\n0.1,0.2\n0.2,1\n")
    arguments = [*train_arguments(data_folder), "--nulls", "null-probabilities", "--curve", table]
    refused(*arguments, says="does not give the norm of its sizes")
    refused(*arguments, "--norm", "linf", says="names no perturbation: give --perturbation")
    fgsm = [*arguments, "--norm", "linf", "--perturbation", "fgsm"]
    sparse = [*arguments, "--norm", "linf", "--perturbation", "sparse"]
    refused(*fgsm, "--norm", "l0", says="does not support l0")
    refused(*sparse, says="does not support linf")
    refused(*fgsm, "--null-steps", "3", says="'fgsm' has no such settings")
    refused(*fgsm, "--replace-rate", "0.4", says="set null_weight instead of replace_rate")
    refused(*fgsm, "--nulls-per-image", "0", says="nulls_per_image must be above 0")
    table.write_text("size,probability,norm\n0.1,1,l0\n")
    refused(*fgsm, says="l0, not .*linf")
    curve = ["curve", checkpoint, "--data", data_folder, "--out", "g.csv"]
    refused(*curve, says="a null curve needs")
    refused(*curve, "--perturbation", "sparse", says="does not support linf")
    refused(*curve, "--steps", "3", says="--steps is for pgd and sparse")
    refused(*curve, "--images", "0", says="--images must be a whole number")
