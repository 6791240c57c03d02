from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import nullclass
from nullclass.core.errors import UserError
from nullclass.models import Classifier, build_model
from nullclass.training.checkpoint import CARD, WEIGHTS, load_checkpoint, save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of the notebook's net on 6x6 images."""
    return saved(tmp_path / "checkpoint")


def saved(folder: Path, name: str = "notebook", **changed: object) -> Path:
    settings = {"image_shape": (1, 6, 6), "num_classes": 4, "mean": (0.3,), "std": (0.2,)}
    save_checkpoint(build_model(name, **(settings | changed)), folder)  # type: ignore[arg-type]
    return folder


def change_card(folder: Path, **changed: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changed))


def test_what_proves_its_answers_is_saved_without_its_radius_or_not_at_all(tmp_path: Path) -> None:
    network = build_model("certifiable-small", image_shape=(1, 8, 8), num_classes=3, has_null=False)
    model = nullclass.ProvableNull(network, 0.1)
    with pytest.raises(UserError, match=r"save its \.model"):
        save_checkpoint(model, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    save_checkpoint(model.model, tmp_path / "yes")
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    again = nullclass.ProvableNull(load_checkpoint(tmp_path / "yes")[0], 0.1)
    assert torch.equal(again(images), model(images))


def test_a_file_of_the_checkpoint_will_do(folder: Path) -> None:
    images = torch.rand(2, 1, 6, 6)
    expected = load_checkpoint(folder)[0](images)
    for path in (folder / WEIGHTS, folder / CARD, str(folder)):
        assert torch.equal(load_checkpoint(path)[0](images), expected)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(UserError, match=f"{WEIGHTS} is damaged or cut short"):
        load_checkpoint(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS} is missing beside its card"):
        load_checkpoint(folder)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CARD).unlink()
    with pytest.raises(UserError, match=f"{CARD} is missing"):
        load_checkpoint(folder)


def test_weights_of_another_training(folder: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other")
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match="not the file its card was written for"):
        load_checkpoint(folder)


def test_one_flipped_bit(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(content))
    with pytest.raises(UserError, match="another SHA-256"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_classes": 9},
        {"has_null": False},
        {"num_nulls": 4},
        {"architecture": "report", "image_shape": [1, 28, 28]},
        {"image_shape": [1, 28, 28]},
        {"image_shape": [3, 6, 6]},
    ],
)
def test_a_card_of_another_architecture(folder: Path, changed: dict[str, object]) -> None:
    change_card(folder, **changed)
    with pytest.raises(UserError, match="holds another architecture than its card says"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("has_null", "num_nulls", "told"), [(True, 4, 4), (True, 1, 1), (False, 4, 0)]
)
def test_the_card_says_how_many_null_logits_there_are(
    has_null: bool, num_nulls: int, told: int, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "checkpoint", has_null=has_null, num_nulls=num_nulls)
    loaded, card = load_checkpoint(folder)
    assert (card["num_nulls"], loaded.num_nulls, loaded.has_null) == (told, told, has_null)
    assert card["null_index"] == (4 if has_null else None)
    again = tmp_path / "again"
    save_checkpoint(loaded, again)
    twice, _ = load_checkpoint(again)
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(twice.all_logits(images), loaded.all_logits(images))
    assert loaded.all_logits(images).shape == (3, 4 + told)


def test_twins_of_a_body_of_ones_own(tmp_path: Path) -> None:
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), 2, num_nulls=2).eval()
    save_checkpoint(model, tmp_path)
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    loaded, card = load_checkpoint(tmp_path, body=body)
    images = torch.rand(3, 1, 6, 6)
    assert (loaded.num_nulls, card["num_nulls"]) == (2, 2)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("has_null", [True, False])
def test_cards_written_before_there_could_be_several_null_logits(
    has_null: bool, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "checkpoint", has_null=has_null)
    expected, _ = load_checkpoint(folder)
    card = json.loads((folder / CARD).read_text())
    del card["num_nulls"]
    (folder / CARD).write_text(json.dumps(card))
    loaded, _ = load_checkpoint(folder)
    assert loaded.num_nulls == int(has_null)
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(loaded(images), expected(images))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"architecture": "resnet"}, "names the model 'resnet'; known are notebook, report"),
        ({"card_version": 99}, "has version 99"),
        ({"num_classes": 1}, "does not describe a model"),
        ({"num_classes": "four"}, "does not describe a model"),
        ({"num_nulls": "four"}, "does not describe a model"),
        ({"image_shape": [1, 6]}, "does not describe a model"),
        ({"image_shape": [1, 2, 2]}, "too small"),
        ({"image_shape": None}, "no image_shape"),
        ({"std": [0.0]}, "does not describe a model"),
        ({"mean": "middle"}, "does not describe a model"),
    ],
)
def test_a_card_that_makes_no_sense(folder: Path, changed: dict[str, object], says: str) -> None:
    change_card(folder, **changed)
    with pytest.raises(UserError, match=says):
        load_checkpoint(folder)


def test_every_field_of_the_card_is_needed(folder: Path) -> None:
    whole = json.loads((folder / CARD).read_text())
    for key in ("architecture", "image_shape", "num_classes", "has_null", "mean", "std"):
        (folder / CARD).write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(UserError, match=f"does not describe a model: KeyError.*{key}"):
            load_checkpoint(folder)
    without = {k: v for k, v in whole.items() if k != "weights_sha256"}
    (folder / CARD).write_text(json.dumps(without))
    with pytest.raises(UserError, match="SHA-256"):
        load_checkpoint(folder)


def own_body() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3))


def test_a_body_of_ones_own(tmp_path: Path) -> None:
    model = Classifier(own_body(), 2, mean=(0.1307,), std=(0.3081,))
    model(torch.rand(8, 1, 6, 6))  # moves the batch norm's statistics
    save_checkpoint(model.eval(), tmp_path)
    with pytest.raises(UserError, match=r"load_checkpoint\(body=\)"):
        load_checkpoint(tmp_path)
    loaded, card = load_checkpoint(tmp_path, body=own_body())
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(loaded.std, model.std)
    assert card["architecture"] is None
    with pytest.raises(UserError, match="another architecture"):
        load_checkpoint(tmp_path, body=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))


def test_weights_that_share_memory_are_saved(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3))
        body[2].weight = body[1].weight
        return body

    model = Classifier(tied(), 2).eval()
    save_checkpoint(model, tmp_path)
    images = torch.rand(3, 1, 6, 6)
    loaded, _ = load_checkpoint(tmp_path, body=tied())
    assert torch.equal(loaded(images), model(images))


def test_an_interrupted_save_is_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nullclass.core.tensor_files.save_file", stopped)
    model, _ = load_checkpoint(folder)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS]
    with pytest.raises(UserError, match=f"{CARD} is missing"):
        load_checkpoint(folder)


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = build_model("notebook", image_shape=(1, 6, 6), num_classes=4)
    with pytest.raises(UserError, match="cannot"):
        save_checkpoint(model, tmp_path / "file")


def test_no_pickle_anywhere() -> None:
    forbidden = re.compile(
        r"\b(pickle|cPickle|dill|joblib|marshal|shelve)\b|torch\.(save|load)\(|allow_pickle"
        r"|(?<![.\w])(eval|exec)\(|read_pickle|to_pickle"
    )
    root = Path(nullclass.__file__).parent
    files = sorted(root.rglob("*.py"))
    assert len(files) > 30
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert found == []
