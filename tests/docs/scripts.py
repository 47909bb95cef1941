"""The script that the commands of pages are: run by one shell, in an empty folder, on this machine.

Services go to the background until they are ready; addresses of other machines become loopback,
ports free ones, and folders of the system others below the script's own.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.docs.blocks import ROOT, Block, Way, blocks, words
from tests.support.ports import unused_port

SERVICES = ("outrelay-controller", "outrelay-relay", "outrelay-agent")
ENDS = {"doctor", "status", "enroll", "--check", "--help", "--version"}
"""With one of these words a service does not go on."""

HOSTS = re.compile(
    r"(?:RELAY-ADDRESS|0\.0\.0\.0|10\.0\.0\.\d|127\.0\.0\.1|localhost|(?:[\w-]+\.)*example(?:\.com)?)"
    r"(?=:\d)"
)
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=http\.server )\d+")
FOLDERS = re.compile(r"/(?:var/lib|run|etc)/(?=outrelay)|/etc/(?=systemd)|/home/(?=me/)")
STREAM = re.compile(r"(?<=--id )[0-9a-f]{16}")
INSTALLED = "/opt/outrelay/bin/"

PRELUDE = """\
set -euo pipefail
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
started=0
start() {
  local into=${log:-service-$((++started)).log}
  : > $into
  "$@" >> $into 2>&1 &
  until grep -qE 'INFO +ready|"event": "ready"|Serving HTTP' $into; do
    kill -0 $! 2> /dev/null || { echo "$* ended:"; cat $into; exit 1; }
    sleep 0.05
  done
}
credentials() {
  test -d pki || dev-pki --out pki --tenant acme
  for role in relay agent-a operator; do
    declare -A programs=([relay]=RELAY [agent-a]=AGENT [operator]=CLI)
    for part in CERT=$role.pem KEY=$role.key CA=ca.pem; do
      export "OUTRELAY_${programs[$role]}_${part%=*}=$PWD/pki/${part#*=}"
    done
  done
}
"""

DEPLOYMENT = """\
credentials
cp pki/* .; cp agent-b.pem agent.pem; cp agent-b.key agent.key
export OUTRELAY_RELAY_CONTROLLER=127.0.0.1:7444 OUTRELAY_CLI_CONTROLLER=127.0.0.1:7444
export OUTRELAY_RELAY_LISTEN=127.0.0.1:7443 OUTRELAY_AGENT_RELAY=127.0.0.1:7443
mkdir -p /run/outrelay
log=controller.log start outrelay-controller --listen 127.0.0.1:7444 \
  --admin-socket /run/outrelay/admin.sock --cert controller.pem --key controller.key --ca ca.pem
log=relay.log start outrelay-relay --listen-tcp 127.0.0.1:443 --debug-listen 127.0.0.1:9100 \
  --log-format json --metrics-dump metrics.jsonl --metrics-interval 1s
relay=$!
outrelay-cli policy add --tenant acme --caller '*' --target '*' --decision allow
start python3 -m http.server 5432 --bind 127.0.0.1
log=agent-b.log start outrelay-agent --cert agent-b.pem --key agent-b.key --log-format json \
  --expose db=127.0.0.1:5432 --expose shop=127.0.0.1:8088 --expose web=127.0.0.1:5432
log=agent-a.log start outrelay-agent --log-format json --debug-listen 127.0.0.1:9102 \
  --consume db@127.0.0.1:15433 --consume shop@127.0.0.1:8089
curl http://127.0.0.1:15433/
"""
"""What pages are about that tell of something that runs: everything, and a backend that is down."""

CURL = """\
#!{python}
import sys, time, urllib.request
url = sys.argv[-1] if "://" in sys.argv[-1] else "http://" + sys.argv[-1]
for left in range({tries}, -1, -1):
    try:
        print(urllib.request.urlopen(url, timeout=30).read().decode())
        break
    except OSError as error:
        if not left:
            sys.exit(f"curl: {{error}}")
        time.sleep(0.1)
"""


def furnish(folder: Path) -> None:
    """Put into a folder what a script finds on its way: tools of our own, the deployments."""
    (folder / "bin").mkdir()
    tools = {
        "curl": CURL.format(python=sys.executable, tries=100),
        "curl-once": CURL.format(python=sys.executable, tries=0),
        "sudo": '#!/bin/sh\nexec "$@"\n',
    }
    for tool, text in tools.items():
        (folder / "bin" / tool).write_text(text)
        (folder / "bin" / tool).chmod(0o755)
    (folder / "deployments").symlink_to(ROOT / "deployments")


def script_of(pages: Sequence[Path], folder: Path) -> str:
    """The commands of a page, or of several that share what runs, for this machine."""
    text = DEPLOYMENT if len(pages) > 1 else ""
    for page in pages:
        text += f"\n# ---- {page.name}" + "".join(map(shell, blocks(page)))
    text = FOLDERS.sub(f"{folder}/", HOSTS.sub("127.0.0.1", text)).replace(INSTALLED, "")
    return PRELUDE + PORT.sub(Ports(), STREAM.sub("$stream", text))


class Ports(dict[str, str]):
    """A free port for each that pages name."""

    def __missing__(self, port: str) -> str:
        self[port] = str(unused_port())
        return self[port]

    def __call__(self, found: re.Match[str]) -> str:
        return self[found[0]]


def shell(block: Block) -> str:
    """A block as part of the script."""
    match block.way:
        case Way.RUN:
            text = block.text.replace(" ...\n", "\n").replace(" ... ", " ")
            return re.sub(r"^(?=\S)", _starter, f"\n{text}\n", flags=re.MULTILINE)
        case Way.FAIL:
            return "".join(
                f"if {_once(each)}; then echo {shlex.quote(each)} works; exit 1; fi\n"
                for each in block.commands
            )
        case Way.PARSE:
            return ""


def _starter(found: re.Match[str]) -> str:
    line = found.string[found.start() :].replace("\\\n", " ").partition("\n")[0]
    return "start " if goes_on(words(line)) else ""


def _once(command: str) -> str:
    return re.sub(r"^curl\b", "curl-once", command)


def goes_on(command: list[str]) -> bool:
    """Whether a command runs until it is stopped."""
    if command[:3] == ["python3", "-m", "http.server"]:
        return True
    return bool(command) and command[0] in SERVICES and not ENDS.intersection(command)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a shell where programs find each other without being told."""
    controller, relay = (f"127.0.0.1:{unused_port()}" for _ in range(2))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("OUTRELAY_")}
    scripts = Path(sys.executable).parent
    return inherited | {
        "PATH": f"{folder / 'bin'}:{scripts}:{os.environ['PATH']}",
        "HOME": str(folder / "me"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PYTHONUNBUFFERED": "1",
        "OUTRELAY_CONTROLLER_LISTEN": controller,
        "OUTRELAY_RELAY_CONTROLLER": controller,
        "OUTRELAY_CLI_CONTROLLER": controller,
        "OUTRELAY_RELAY_LISTEN": relay,
        "OUTRELAY_AGENT_RELAY": relay,
        "OUTRELAY_CONTROLLER_DEBUG_LISTEN": "127.0.0.1:0",
        "OUTRELAY_RELAY_DEBUG_LISTEN": "127.0.0.1:0",
        "OUTRELAY_AGENT_DEBUG_LISTEN": "127.0.0.1:0",
    }
