"""The demo as a page of gradio."""

from __future__ import annotations

import inspect
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np

from nullclass.core.errors import UserError
from nullclass.core.imports import import_extra
from nullclass.demo import pictures
from nullclass.demo.images import NUM_EACH, Pixels, as_digit, digit_image, from_text, to_text
from nullclass.demo.play import Result, answer, attack, check_model, proof_of
from nullclass.models.classifier import Classifier
from nullclass.rejection import ProvableNull

KINDS = ("clean", "fgsm", "aware", "prove")
LARGEST_EPS = 0.4

_TEXT = """# A classifier that may say null
Pick a test image or draw a digit, and attack it. **FGSM** is the attack that the model
`notebook-null` was trained to refuse. An attacker who **knows about null** does not stop there. A
**proved model** answers only what no attack within its radius changes.
"""

_CUBE = """An image of three pixels is a point of a cube, so the answer to *every* image can be
shown: blue is a ramp down, orange a ramp up, grey is null. The slices are at the third pixel; the
lines cross at the image.
"""


@dataclass(frozen=True)
class Settings:
    """All that a link holds.

    Raises:
        UserError: If a value is out of range.
    """

    kind: str = "clean"
    digit: int = 7
    number: int = 0
    eps: float = 0.15
    drawing: Pixels | None = None

    def __post_init__(self) -> None:
        is_image = 0 <= self.digit <= 9 and 0 <= self.number < NUM_EACH
        if self.kind not in KINDS or not is_image or not 0 <= self.eps <= LARGEST_EPS:
            raise UserError("the link holds settings that the demo does not have")

    @property
    def query(self) -> str:
        """The settings as the query of a link."""
        values: dict[str, Any] = {"do": self.kind, "eps": f"{self.eps:.2f}"}
        if self.drawing is None:
            values |= {"digit": self.digit, "number": self.number}
        else:
            values |= {"drawing": to_text(self.drawing)}
        return urllib.parse.urlencode(values)

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Settings:
        """Return the settings of a link; those by default where it has none.

        Raises:
            UserError: If a value is damaged or out of range.
        """
        try:
            return cls(
                kind=query.get("do", "clean"),
                digit=int(query.get("digit", 7)),
                number=int(query.get("number", 0)),
                eps=round(float(query.get("eps", 0.15)), 2),
                drawing=from_text(query["drawing"]) if "drawing" in query else None,
            )
        except ValueError as error:
            raise UserError(f"the link cannot be read ({error})") from None


def show(model: Classifier, proved: ProvableNull, settings: Settings) -> str:
    """Return the HTML that shows the settings."""
    is_drawn = settings.drawing is not None
    image = settings.drawing
    if image is None:
        image = digit_image(settings.digit, settings.number)
    result = answer(model, image, None if is_drawn else settings.digit)
    kind = settings.kind
    is_attacked = kind in ("fgsm", "aware") and result.label >= 0
    if is_attacked:
        result = attack(model, image, result.label, kind, settings.eps)
    if kind == "prove":
        return _proof(proved, result, settings.eps)
    parts = (pictures.images(result), pictures.bars(result), pictures.path(result))
    return pictures.verdict(result, is_attacked) + "".join(parts)


def _proof(proved: ProvableNull, result: Result, eps: float) -> str:
    clean = proof_of(proved, result.clean)
    label = clean.network if result.label < 0 else result.label
    attacked = attack(proved, result.clean, label, "aware", eps)
    after = proof_of(proved, attacked.image)
    return (
        pictures.verdict(attacked, is_attacked=True)
        + pictures.proofs(clean, after, eps, proved.radius, label)
        + pictures.images(attacked)
    )


def import_gradio() -> Any:
    """Return gradio, imported without writing type stubs beside its own source.

    That takes two fifths of its import, and gradio leaves it out for a class without a file.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    with patch.object(inspect, "getfile", side_effect=OSError):
        return import_extra("gradio", "demo")


def build(model: Classifier, proved: ProvableNull, name: str) -> Any:
    """Return the page, a ``gradio.Blocks``.

    Raises:
        UserError: If the model cannot be shown, or gradio is not installed.
    """
    check_model(model)
    gr = import_gradio()

    def refresh(settings: Settings, request: Any) -> tuple[str, str]:
        address = request.headers.get("host", "127.0.0.1")
        scheme = request.request.url.scheme
        return show(model, proved, settings), f"{scheme}://{address}/?{settings.query}"

    def act(kind: str, digit: str, number: int, eps: float, drawing: Any, request: Any) -> Any:
        drawn = None if drawing is None else np.asarray(drawing, np.float32)
        settings = Settings(kind, int(digit), int(number), round(float(eps), 2), drawn)
        return kind, *refresh(settings, request)

    def draw(kind: str, digit: str, number: int, eps: float, pad: Any, request: Any) -> Any:
        empty = pad is None or pad["composite"] is None
        drawn = None if empty else as_digit(_strokes(pad["composite"]))
        if drawn is None:
            return (gr.skip(),) * 4
        return drawn, *act(kind, digit, number, eps, drawn, request)

    def choose(kind: str, digit: str, number: int, eps: float, request: Any) -> Any:
        return None, *act(kind, digit, number, eps, None, request)

    def restore(request: Any) -> Any:
        try:
            settings = Settings.read(dict(request.query_params))
        except UserError as error:
            gr.Warning(str(error))
            settings = Settings()
        return (
            str(settings.digit),
            settings.number,
            settings.eps,
            settings.drawing,
            settings.kind,
            *refresh(settings, request),
        )

    for function in (act, draw, choose, restore):
        function.__annotations__["request"] = gr.Request  # how gradio knows what to pass
    with gr.Blocks(title="nullclass demo", analytics_enabled=False) as app:
        gr.Markdown(_TEXT + f"\nThe model here is `{name}`; ε is the most that a pixel may change.")
        kind, drawing = gr.State("clean"), gr.State(None)
        with gr.Tab("Draw and attack"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                with gr.Row():
                    digit = gr.Dropdown([*map(str, range(10))], value="7", label="Test image of")
                    number = gr.Slider(0, NUM_EACH - 1, 0, step=1, label="number")
                pad = gr.Sketchpad(
                    label="Or draw a digit",
                    canvas_size=(280, 280),
                    fixed_canvas=True,
                    layers=False,
                    brush=gr.Brush(default_size=22, colors=["#000000"], color_mode="fixed"),
                    transforms=(),
                    height=400,
                )
                eps = gr.Slider(0, LARGEST_EPS, 0.15, step=0.01, label="ε of the attack")
            with gr.Column(scale=2, min_width=300):
                with gr.Row(equal_height=True):
                    buttons = {
                        "clean": gr.Button("No attack", min_width=140),
                        "fgsm": gr.Button("Attack: FGSM", min_width=140),
                        "aware": gr.Button("Attack: knows null", min_width=140),
                        "prove": gr.Button("Ask a proved model", min_width=140),
                    }
                result = gr.HTML(elem_id="result")
                link = gr.Textbox(label="Link to these settings", interactive=False)
        with gr.Tab("Ramp cube"):
            gr.Markdown(_CUBE)
            point = [
                gr.Slider(0, 1, value, step=1 / 48, label=f"pixel {index + 1}")
                for index, value in enumerate((0.33, 0.67, 0.0))
            ]
            cubes = gr.HTML(pictures.cube(pictures.ramp_spaces(), (0.33, 0.67, 0.0)))
        chosen, shown = [digit, number, eps], [kind, result, link]
        for each, button in buttons.items():
            button.click(act, [gr.State(each), *chosen, drawing], shown, show_progress="hidden")
        eps.release(act, [kind, *chosen, drawing], shown, show_progress="hidden")
        for source in (digit, number):
            source.input(choose, [kind, *chosen], [drawing, *shown], show_progress="hidden")
        pad.change(draw, [kind, *chosen, pad], [drawing, *shown], show_progress="hidden")
        pad.clear(choose, [kind, *chosen], [drawing, *shown], show_progress="hidden")
        for slider in point:
            slider.input(
                lambda *values: pictures.cube(pictures.ramp_spaces(), values),
                point,
                cubes,
                show_progress="hidden",
            )
        app.load(restore, None, [*chosen, drawing, *shown], show_progress="hidden")
    return app


def _strokes(composite: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return where something is drawn: dark on light, or opaque on nothing."""
    values = np.asarray(composite, np.float32) / np.float32(255)
    if values.ndim == 2:
        return 1 - values
    opaque = values[..., 3] if values.shape[-1] == 4 else np.ones(values.shape[:2], np.float32)
    strokes: np.ndarray[Any, np.dtype[np.float32]] = opaque * (1 - values[..., :3].mean(axis=-1))
    return strokes
