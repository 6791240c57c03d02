"""Serves the demo's page."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from nullclass.core.errors import UserError
from nullclass.demo import pictures
from nullclass.demo.app import build, import_gradio
from nullclass.rejection import ProvableNull
from nullclass.training.checkpoint import load_checkpoint
from nullclass.zoo import load_zoo

PROVED = "provable-0.3"
"""The zoo model that proves its answers."""


def launch(model: str, *, host: str, port: int | None, browser: bool) -> tuple[Any, str]:
    """Start the page's server in the background.

    Args:
        model: Name of a zoo model, or folder of a checkpoint.
        host: Address to listen on.
        port: Port; None for the first free one from 7860.
        browser: Whether to open the page.

    Returns:
        The page, with a method ``close``, and its address.

    Raises:
        UserError: If gradio is not installed, the model cannot be shown, or the port is taken.
    """
    gr = import_gradio()
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(f"there is no address {host!r} ({error}): give another --host") from None
    shown = load_checkpoint(model)[0] if os.path.exists(model) else load_zoo(model)
    proved = load_zoo(PROVED)
    assert isinstance(proved, ProvableNull)
    page = build(shown, proved, model)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(**fonts)  # none from the net
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            css=pictures.CSS,
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise UserError(f"the demo cannot listen there ({error}): give another --port") from None
    return page, address


def serve(model: str, *, host: str, port: int | None, browser: bool) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        UserError: As :func:`launch`.
    """
    started = time.perf_counter()
    _, address = launch(model, host=host, port=port, browser=browser)
    print(
        f"{address} (started in {time.perf_counter() - started:.1f} s; Ctrl-C ends it)", flush=True
    )
    while True:
        time.sleep(3600)
