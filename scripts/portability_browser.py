"""A page in headless Chromium, from a static server on this machine that serves nothing else."""

from __future__ import annotations

import contextlib
import http.server
import queue
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# No processor of graphics, and no traffic of the browser's own.
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # containers have no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def serving(roots: Mapping[str, Path]) -> Iterator[tuple[str, queue.Queue[str]]]:
    """Serve each root's folder under its name; gives the address, and what pages post to /found."""
    found: queue.Queue[str] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            root, _, rest = urllib.parse.unquote(path.split("?")[0]).lstrip("/").partition("/")
            return str(roots[root] / rest) if root in roots and ".." not in rest else "/dev/null/none"

        def do_POST(self) -> None:
            found.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *ignored: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def browse(command: str, roots: Mapping[str, Path], page: str, seconds: float = 300) -> str:
    """What a page of these roots posts to /found, or TimeoutError."""
    with serving(roots) as (address, found), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}", f"{address}/{page}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return found.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"{command}: {page} told nothing within {seconds:g} seconds") from None
        finally:
            browser.terminate()
            browser.wait()
