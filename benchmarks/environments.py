"""The environments that are measured, each a venv in a cache folder outside the tree, made once per Python version.

``ours`` has what setup.cfg asks for and the extra ``speed``; ``plain`` no extra; ``peers`` the other libraries, by name.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
PEERS = ("openai", "elevenlabs", "websockets", "websocket-client", "trustme", "matplotlib")


def cache() -> Path:
    """Where they live."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qai-realtime-sync" / "benchmarks" / f"{sys.version_info[0]}.{sys.version_info[1]}"


def python(name: str) -> str:
    """The interpreter of an environment, which is made if it is not there."""
    folder = cache() / name
    done = folder / "complete"
    wanted = "\n".join(_requirements(name))
    if not done.exists() or done.read_text() != wanted:
        print(f"making the environment {name} in {folder} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *_requirements(name)], check=True)
        done.write_text(wanted)
    return str(folder / "bin" / "python")


def versions() -> str:
    """What was measured, for the head of the tables."""
    code = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    run = subprocess.run([python("peers"), "-c", code, *PEERS[:4]], check=True, capture_output=True, text=True)
    return f"Python {sys.version.split()[0]}, {run.stdout.strip()}"


def certificates() -> tuple[str, str]:
    """A server's certificate for localhost, and a bundle that trusts it besides all that the system trusts."""
    folder = cache()
    server, bundle = folder / "server.pem", folder / "bundle.pem"
    if not server.exists() or not bundle.exists():
        code = (
            "import sys, trustme, certifi\n"
            "ca = trustme.CA(); made = ca.issue_cert('localhost', '127.0.0.1')\n"
            "open(sys.argv[1], 'wb').write(made.private_key_and_cert_chain_pem.bytes())\n"
            "open(sys.argv[2], 'wb').write(open(certifi.where(), 'rb').read() + ca.cert_pem.bytes())\n"
        )
        subprocess.run([python("peers"), "-c", code, server, bundle], check=True)
    return str(server), str(bundle)


def _requirements(name: str) -> list[str]:
    if name == "peers":
        return list(PEERS)
    setup = configparser.ConfigParser()
    setup.read(TREE / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    if name == "ours":
        lines += setup["options.extras_require"]["speed"].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
