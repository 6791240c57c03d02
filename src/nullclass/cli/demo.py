"""``nullclass demo``: a live demonstration in the browser."""

from __future__ import annotations

from dataclasses import dataclass

from nullclass.core.checks import check_count


@dataclass(frozen=True)
class Command:
    """Serve a page on this machine: draw digits, attack them, ask a proved model."""

    model: str = "notebook-null"
    """Name of a zoo model or folder of a checkpoint: ten digits, with null."""
    host: str = "127.0.0.1"
    """Address to listen on. Default: this machine only."""
    port: int | None = None
    """Port. Default: the first free one from 7860."""
    browser: bool = False
    """Open the page in a browser."""

    def run(self) -> None:
        """Run the command."""
        from nullclass.demo.serve import serve

        if self.port is not None:
            check_count("--port", self.port, 1, 65535)
        serve(self.model, host=self.host, port=self.port, browser=self.browser)
