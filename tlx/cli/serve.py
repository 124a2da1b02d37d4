r"""Serve a model with OpenAI's interface: /v1/models, /v1/completions and /v1/chat/completions, and a page at /.

    tlx serve runs/quickstart
    tlx serve runs/chat --port=9000
    tlx serve my/files/llama-8b --weights=int4
    TLX_SERVE_TOKEN=... tlx serve runs/chat --host=0.0.0.0

RUN is a run directory, one of its checkpoints, or a Hugging Face directory. Programs that take OpenAI's address take
the printed one, and any key: OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none. A browser shows a page at
http://127.0.0.1:8000/. By default only this machine can ask; another interface needs a token in TLX_SERVE_TOKEN,
which is then the key.
"""

import argparse
import importlib.util
import ipaddress
import os
import pathlib
import socket
import sys
from typing import TYPE_CHECKING

from tlx.base.errors import ConfigError
from tlx.cli import flags

if TYPE_CHECKING:
    from tlx.serve.texts import Served

_TOKEN = "TLX_SERVE_TOKEN"
_SHORTEST_TOKEN = 16
# Seconds that answers have to end in when the server does.
_GRACE = 5


def main(argv: list[str]) -> int:
    """Run `tlx serve` until it is interrupted; exit 64 where it must not begin."""
    options = flags.parse(_parser(), argv)
    token = _checked_token(options.host)
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"tlx serve needs {' and '.join(missing)}: pip install 'tlx-lm[serve]'")
    listening = _listen(options.host, options.port)
    # After the parser: these load jax, which --help does not wait for.
    from tlx.api.load import load
    from tlx.serve.texts import Served

    lm = load(
        options.run,
        step=options.step,
        dtype=options.dtype,
        allow=options.allow,
        params=options.params,
        weights=options.weights,
    )
    lm.require_stream()
    if options.template:
        from tlx.api.reply import template_of

        template_of(lm, options.template)
    name = pathlib.PurePath(os.path.abspath(options.run)).name
    _serve(Served(lm, name, options.template), listening, token)
    return 0


def _serve(served: "Served", listening: socket.socket, token: str | None) -> None:
    """Answer requests until the process is interrupted or terminated."""
    import uvicorn

    from tlx.serve.app import Service, make_app
    from tlx.serve.engine import Engine

    engine = Engine(served.decoder())
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    print(f"{served.name} at {address}/v1 (Ctrl-C ends)", file=sys.stderr, flush=True)
    print(f"a page to try it: {address}/", file=sys.stderr, flush=True)
    app = make_app(Service(served, engine, token))
    try:
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)
        uvicorn.Server(settings).run(sockets=[listening])
    finally:
        engine.close()


def _checked_token(host: str) -> str | None:
    """Return the token that requests need; ConfigError where the interface needs one and there is none."""
    token = os.environ.get(_TOKEN) or None
    if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"{_TOKEN} must be at least {_SHORTEST_TOKEN} printable ASCII characters")
    if token is None and not _is_loopback(host):
        raise ConfigError(
            f"--host={host} can be reached from other machines: set {_TOKEN} to a token that requests then need "
            '(python -c "import secrets; print(secrets.token_urlsafe())"), or leave --host out'
        )
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that an address that is taken is said before the model is loaded."""
    if not 0 <= port < 2**16:  # getaddrinfo takes the rest of a division by 2**16
        raise ConfigError(f"--port={port} must be from 0 (a free one) to {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ConfigError(f"--host={host} --port={port} cannot be listened on: {error}") from error
    return listening


def _parser() -> argparse.ArgumentParser:
    parser = flags.parser("serve", __doc__)
    flags.add_run(parser)
    flags.add_weights(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0: a free one (8000)")
    parser.add_argument(
        "--template",
        default="",
        metavar="NAME",
        help="chat template, such as chatml, llama3 or zephyr; by default that of the run or of the model's files",
    )
    return parser
