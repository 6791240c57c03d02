"""Pieces of a tiny study, joined: complete, refused, interrupted, repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_fgsm import MODELS, write_fake_fgsm
from msgspec import structs
from tiny_study import CPU, NUM_JOBS, TINY, results, run_here, trials

from nullclass.cli.main import main
from nullclass.core.errors import UserError
from nullclass.core.files import remove
from nullclass.data import Dataset
from nullclass.experiments.config import AttackPlan, Craft, ModelSpec
from nullclass.experiments.join import join_run
from nullclass.experiments.run_info import describe_run, merge_info
from nullclass.results import schema, store
from nullclass.results.info import RunInfo, TrialResult
from nullclass.results.run import read_run
from nullclass.training.checkpoint import WEIGHTS


def piece_of(finished: Path, folder: Path, *seeds: int) -> Path:
    """What a run of some seeds would have left."""
    shutil.copytree(finished, folder)
    for path in folder.glob("*/*-seed*"):
        if not any(f"-seed{seed}-" in path.name for seed in seeds):
            shutil.rmtree(path)
    info = store.read_info(folder)
    trials = {title: name for title, name in info.trials.items() if (folder / name).exists()}
    store.write_info(folder, structs.replace(info, seeds=list(seeds), trials=trials))
    store.remove_views(folder)
    return folder


def edit_result(folder: Path, **changes: object) -> None:
    """Write a result again, with the digests of the present files."""
    result = store.read_result(folder, store.AnyResult)  # type: ignore[type-var]
    store.finalize(folder, structs.replace(result, **changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def one(folder: Path, name: str) -> Path:
    (found,) = folder.glob(name)
    return found


@pytest.fixture
def ours(finished: Path, tmp_path: Path) -> Path:
    return piece_of(finished, tmp_path / "ours", 0)


@pytest.fixture
def piece(finished: Path, tmp_path: Path) -> Path:
    return piece_of(finished, tmp_path / "piece", 1)


def test_pieces_joined_are_the_run(
    ours: Path, piece: Path, finished: Path, dataset: Dataset, tmp_path: Path
) -> None:
    before = contents(piece)
    assert join_run(TINY, "quick", ours, piece) == (NUM_JOBS // 2, 0)
    assert contents(piece) == before, "the piece is only read"
    assert results(ours) == results(finished)
    assert store.read_info(ours).seeds == [0, 1]
    assert store.read_info(ours).results == store.read_info(finished).results
    joined = contents(ours)
    assert join_run(TINY, "quick", ours, piece) == (0, NUM_JOBS // 2)
    assert contents(ours) == joined, "repeating it changes nothing"
    assert run_here(dataset, ours).num_skipped == NUM_JOBS
    assert join_run(TINY, "quick", tmp_path / "new", piece) == (NUM_JOBS // 2, 0)
    assert len(read_run(tmp_path / "new").trials) == 3


def test_a_piece_from_another_machine_is_noted(ours: Path, piece: Path) -> None:
    info = store.read_info(piece)
    store.write_info(piece, structs.replace(info, device="cuda:0"))
    for _ in range(2):
        join_run(TINY, "quick", ours, piece)
    (note,) = store.read_info(ours).notes
    assert "another machine" in note
    assert "cuda:0" in note


def test_notes_are_those_of_all_pieces(ours: Path, piece: Path) -> None:
    info = store.read_info(piece)
    store.write_info(piece, structs.replace(info, notes=["Some results were copied."]))
    join_run(TINY, "quick", ours, piece)
    assert store.read_info(ours).notes == ["Some results were copied."]


def test_another_number_of_threads_is_no_other_machine(ours: Path, piece: Path) -> None:
    info = store.read_info(piece)
    machine = structs.replace(info.provenance.machine, num_threads=64)
    provenance = structs.replace(info.provenance, machine=machine)
    store.write_info(piece, structs.replace(info, provenance=provenance))
    join_run(TINY, "quick", ours, piece)
    assert store.read_info(ours).notes == []


def test_crafted_images_of_other_settings_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    base, grown = trials("quick", [0], ["base", "grown"])

    def info_of(seed: int, eps: float) -> RunInfo:
        source = replace(base.training, seed=seed)
        crafted = Craft(ModelSpec(source), AttackPlan("fgsm", (eps,), 3, label="crafted"))
        training = replace(grown.training, seed=seed, start=source)
        trial = replace(grown, training=training, source=None, attacks=(), crafted=(crafted,))
        return describe_run(TINY, dataset, "quick", CPU, [trial])

    assert merge_info(TINY, info_of(0, 0.1), info_of(1, 0.1), tmp_path).seeds == [0, 1]
    with pytest.raises(UserError, match="grown, last with other settings"):
        merge_info(TINY, info_of(0, 0.1), info_of(1, 0.2), tmp_path)


def test_a_stale_trial_does_not_decide(ours: Path, piece: Path) -> None:
    stale = one(ours, "trials/grown-seed0-*")
    other = Path(shutil.copytree(stale, stale.with_name("grown-seed0-stale")))
    config = store.read_result(other, TrialResult).config
    edit_result(other, config=config | {"num_clean": 3})
    assert join_run(TINY, "quick", ours, piece) == (NUM_JOBS // 2, 0)


def test_unfinished_jobs_are_left_and_damaged_ones_of_ours_replaced(
    ours: Path, finished: Path, tmp_path: Path
) -> None:
    piece = piece_of(finished, tmp_path / "piece", 0, 1)
    store.invalidate(one(piece, "trials/noisy-seed1-*"))
    store.write_info(piece, store.read_info(piece))
    remove(one(ours, "trials/base-seed0-*"))
    flip(one(ours, "trials/grown-seed0-*") / schema.ROWS)
    assert join_run(TINY, "quick", ours, piece) == (5 + 2, 4)
    run = read_run(ours)
    assert [(trial.model, trial.seed) for trial in run.trials] == [
        ("base", 0), ("base", 1), ("grown", 0), ("grown", 1), ("noisy", 0)
    ]  # fmt: skip
    assert run.damaged == []


def other_preset(piece: Path) -> None:
    store.write_info(piece, structs.replace(store.read_info(piece), preset="full"))


def other_study(piece: Path) -> None:
    store.write_info(piece, structs.replace(store.read_info(piece), study="ramps"))


def other_data(piece: Path) -> None:
    info = store.read_info(piece)
    store.write_info(piece, structs.replace(info, data=structs.replace(info.data, checksum="0")))


def other_settings(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the settings of ``grown``, which its results bear out."""

    def edit(piece: Path) -> None:
        info = store.read_info(piece)
        change(info.settings.trials["grown, last"])
        store.write_info(piece, info)

    return edit


def other_recipe(settings: dict[str, Any]) -> None:
    settings["training"]["recipe"]["epochs"] = 7


def other_attacks(settings: dict[str, Any]) -> None:
    settings["attacks"][1]["eps"] = [0.05, 0.3]


def other_thresholds(settings: dict[str, Any]) -> None:
    settings["thresholds"]["num_images"] = 5


def other_checks(settings: dict[str, Any]) -> None:
    settings["is_checked"] = True


def cut_rows(piece: Path) -> None:
    path = one(piece, "trials/noisy-seed1-*") / schema.ROWS
    path.write_bytes(path.read_bytes()[:-9])


def flipped_weights(piece: Path) -> None:
    flip(one(piece, "models/base-seed1-*") / "last" / WEIGHTS)


def lost_result(piece: Path) -> None:
    store.invalidate(one(piece, "trials/noisy-seed1-*"))


def broken_result(piece: Path) -> None:
    (one(piece, "models/grown-seed1-*") / schema.RESULT).write_text('{"files": {')


def linked_rows(piece: Path) -> None:
    path = one(piece, "trials/noisy-seed1-*") / schema.ROWS
    path.rename(piece / schema.ROWS)
    path.symlink_to(piece / schema.ROWS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_preset, r"a run of tiny \(full\), not of tiny \(quick\)"),
        (other_study, r"a run of ramps \(quick\), not of tiny \(quick\)"),
        (other_data, "other settings or data"),
        (other_settings(other_recipe), "grown, last with other settings or data"),
        (other_settings(other_attacks), "grown, last with other settings or data"),
        (other_settings(other_thresholds), "grown, last with other settings or data"),
        (other_settings(other_checks), "grown, last with other settings or data"),
        (cut_rows, r"the piece is damaged: .*rows\.parquet has changed"),
        (flipped_weights, r"the piece is damaged: .*model\.safetensors has changed"),
        (lost_result, r"the piece is damaged: .*result\.json is missing"),
        (broken_result, r"the piece is damaged: .*result\.json"),
        (linked_rows, r"the piece is damaged: .*rows\.parquet is a symbolic link"),
    ],
)
def test_other_settings_and_damage_are_refused(
    change: Callable[[Path], None], says: str, ours: Path, piece: Path
) -> None:
    before = contents(ours)
    change(piece)
    with pytest.raises(UserError, match=says):
        join_run(TINY, "quick", ours, piece)
    assert contents(ours) == before


def test_other_weights_of_the_same_training_are_refused(
    ours: Path, finished: Path, tmp_path: Path
) -> None:
    piece = piece_of(finished, tmp_path / "piece", 0, 1)
    before = contents(ours)
    model = one(piece, "models/base-seed0-*")
    flip(model / "last" / WEIGHTS)
    edit_result(model)
    says = r"both folders hold models/base-seed0-\w+, with another last/model\.safetensors"
    with pytest.raises(UserError, match=says):
        join_run(TINY, "quick", ours, piece)
    assert contents(ours) == before
    history = one(piece, "models/noisy-seed0-*") / schema.HISTORY
    shutil.copytree(one(finished, "models/base-seed0-*"), model, dirs_exist_ok=True)
    history.write_text(history.read_text() + "\n")  # as if it held other times
    edit_result(history.parent)
    assert join_run(TINY, "quick", ours, piece) == (NUM_JOBS // 2, NUM_JOBS // 2)


def test_other_settings_of_the_same_trial_are_refused(
    ours: Path, finished: Path, tmp_path: Path
) -> None:
    piece = piece_of(finished, tmp_path / "piece", 0)
    info = store.read_info(piece)
    title, name = next(iter(info.trials.items()))
    (piece / name).rename(piece / f"{name}0")
    store.write_info(piece, structs.replace(info, trials=info.trials | {title: f"{name}0"}))
    with pytest.raises(UserError, match=f"the trial {title} with other settings"):
        join_run(TINY, "quick", ours, piece)


def test_the_folder_itself_is_refused(ours: Path) -> None:
    with pytest.raises(UserError, match="is the run folder itself"):
        join_run(TINY, "quick", ours, ours / ".." / ours.name)
    with pytest.raises(UserError, match="there is no run folder"):
        join_run(TINY, "quick", ours.parent / "new", ours.parent / "nowhere")
    assert not (ours.parent / "new").exists()


def test_an_interrupted_join_leaves_complete_jobs_only_and_goes_on(
    ours: Path, piece: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, num_left = os.replace, 0

    def interrupt(*paths: str | Path) -> None:
        nonlocal num_left
        num_left -= 1
        if num_left == 0:
            raise KeyboardInterrupt
        rename(*paths)

    for num_left in (3, 12, 30):  # noqa: B007 - of `interrupt`
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                join_run(TINY, "quick", ours, piece)
        for kind in (schema.MODELS, schema.TRIALS):
            assert all(map(store.is_complete, (ours / kind).iterdir()))
        assert len(read_run(ours).trials) == 3, "those before"
    join_run(TINY, "quick", ours, piece)
    assert results(ours) == results(finished)


def test_the_command_joins_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_fake_fgsm(tmp_path / "out", models=MODELS[:1], num_images=32)
    piece = write_fake_fgsm(tmp_path / "piece", models=MODELS[1:2], num_images=32)
    command = ["study", "fgsm-null", "--out", str(out), "--join", str(piece)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"joined 2 jobs of {piece}; 0 were there already" in printed
    assert all(name in (out / schema.REPORT).read_text() for name in MODELS[:2])
    before = contents(out)
    assert main([*command, "--sets", "1"]) == 2
    assert "leave out --sets and --variants" in capsys.readouterr().err
    assert main([*command, "--preset", "full"]) == 2
    assert "not of fgsm-null (full)" in capsys.readouterr().err
    assert contents(out) == before
