"""The command: what it prints, what it says beside that, its exit codes, what it leaves behind."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrelay import __version__
from outrelay.lib.observe.vocabulary import VOCABULARY
from outrelay.tools.correlate import command
from outrelay.tools.correlate.outputs import FORMATS
from outrelay.tools.correlate.sorting import Sorter
from tests.support.patience import PATIENCE
from tests.tools.correlate.logs import (
    CALLER,
    ID,
    PROVIDER,
    T0,
    agent,
    audit,
    correlate,
    finished,
    relay,
    write,
)

ROOT = Path(__file__).parents[3]
CORRELATE = Path(sys.executable).with_name("correlate")
OTHER = "0000000000000001"


# ---- lines ---------------------------------------------------------------------------------


def test_groups_of_lines_in_order_with_their_file(tmp_path: Path) -> None:
    a, b = write(
        tmp_path,
        {
            "a.log": [
                '{"ts_unix_ms":5,"stream_id":"3f2a9c0d11e45b67", "x": [1, {"y": "ü"}]}',
                "",
                '  {"stream_id":"0000000000000001","ts_unix_ms":7,"x":1e40}\r',
                '{"event": "ready", "ts_unix_ms": 1}',
            ],
            "b.log": ['{"stream_id":"3F2A9C0D11E45B67","ts_unix_ms":4}', "Traceback", "[]"],
        },
    )
    done = correlate(a, b)
    assert done.exit_code == 0
    first, second = (f', "_source_file": {json.dumps(name)}}}' for name in (a, b))
    assert done.stdout.splitlines() == [
        "# stream_id=0000000000000001 events=1",
        '{"stream_id":"0000000000000001","ts_unix_ms":7,"x":1e40' + first,
        "# stream_id=3f2a9c0d11e45b67 events=2",
        '{"stream_id":"3F2A9C0D11E45B67","ts_unix_ms":4' + second,
        '{"ts_unix_ms":5,"stream_id":"3f2a9c0d11e45b67", "x": [1, {"y": "ü"}]' + first,
    ]
    assert done.stderr.splitlines() == [
        f"correlate: {a}: 1 lines without both stream_id and ts_unix_ms skipped",
        f"correlate: {b}: 2 broken lines, the first is line 2",
    ]


def test_what_it_wrote_it_can_read_and_files_keep_their_names(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    once = correlate(*names).stdout
    (tmp_path / "all").write_text(once)
    again = correlate(tmp_path / "all")
    assert again.stdout == once
    assert again.stderr == ""
    assert correlate("--output", "timeline", tmp_path / "all").stdout == (
        correlate("--output", "timeline", *names).stdout
    )


def test_a_field_of_that_name_elsewhere_is_no_file(tmp_path: Path) -> None:
    (name,) = write(
        tmp_path, {"a": [relay(0, "x", said='"_source_file"', inner={"_source_file": 1})]}
    )
    *_, last = correlate(name).stdout.splitlines()
    assert json.loads(last)["_source_file"] == name


@pytest.mark.parametrize("flag", ["--id", "-id"])
def test_one_stream(tmp_path: Path, flag: str) -> None:
    names = write(tmp_path, finished())
    write(tmp_path, finished(OTHER))
    done = correlate(flag, ID.upper(), *names)
    assert done.stdout.count("\n") == 7
    assert OTHER not in done.stdout


def test_standard_input_and_compressed_files(tmp_path: Path) -> None:
    lines = [json.dumps(each).encode() + b"\n" for file in finished().values() for each in file]
    (tmp_path / "old.gz").write_bytes(gzip.compress(lines[0]))
    done = subprocess.run(
        [CORRELATE, "-", tmp_path / "old.gz"],
        input=gzip.compress(b"".join(lines[1:])),
        capture_output=True,
        check=True,
    )
    assert done.stdout.count(b'"_source_file": "-"') == 5
    assert done.stdout.count(b"old.gz") == 1


# ---- other outputs -------------------------------------------------------------------------


def test_a_table_has_a_row_for_each_stream_in_order_of_time(tmp_path: Path) -> None:
    names = write(tmp_path, finished(ID, at=0))
    write(tmp_path, finished(OTHER, at=500))
    refusal = {"service": "vault", "code": 403, "reason": "no rule"}
    write(tmp_path, {"relay.log": [relay(900, "stream refused", "f" * 16, **refusal)]})
    rows = correlate("--output", "table", *names, columns=120).stdout.splitlines()
    assert " ".join(rows[0].split()) == "BEGAN STREAM LASTED EVENTS SERVICE STOPPED REASON"
    assert [row.split()[2] for row in rows[1:]] == [ID, OTHER, "f" * 16]
    assert rows[1].split()[3:] == ["60", "ms", "6", "shop", "finished"]
    assert rows[3].endswith("vault         refused, relay     403 no rule")


def test_in_json_what_a_peer_has_said_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    said = [relay(0, "stream refused", reason="\x9b31m \u202e \x85 gone")]
    done = correlate("--output", "json", *write(tmp_path, {"relay": said}))
    assert done.stdout.isascii()
    assert "\x9b31m \u202e" in json.loads(done.stdout)["reason"]


def test_json_has_an_object_for_each_stream(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    (row,) = map(json.loads, correlate("--output", "json", *names).stdout.splitlines())
    assert row["stream_id"] == ID
    assert (row["first_unix_ms"], row["last_unix_ms"]) == (T0 + 2, T0 + 62)
    assert [each["_source_file"] for each in row["lines"]].count(names[0]) == 2


# ---- filters -------------------------------------------------------------------------------


def test_since_takes_whole_streams(tmp_path: Path) -> None:
    names = write(tmp_path, finished(ID, at=0))
    write(tmp_path, finished(OTHER, at=60_000))
    done = correlate("--since", "2026-09-21T14:14:20", *names)
    assert done.stdout.count("#") == 1
    assert done.stdout.startswith(f"# stream_id={OTHER} events=6\n")
    assert correlate("--since", "2026-09-21T14:13:20.061+00:00", *names).stdout.count("#") == 2
    assert correlate("--since", "2026-09-21T16:14:20+02:00", *names).stdout.count("#") == 1


def test_since_is_also_so_long_ago(tmp_path: Path) -> None:
    now = round(time.time() * 1000) - T0
    names = write(tmp_path, {"a": [relay(now - 7_200_000, "x"), relay(now, "x", OTHER)]})
    done = correlate("--since", "1h", *names)
    assert ID not in done.stdout
    assert OTHER in done.stdout


def test_the_streams_of_an_agent(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    said = {"reason": "this names 77777777 in passing"}
    write(tmp_path, {"relay.log": [relay(0, "stream dropped", OTHER, consumer="x", **said)]})
    for part in (CALLER, PROVIDER, "1b2c3d4e"):
        assert correlate("--agent", part, *names).stdout.count("#") == 1
    assert correlate("--agent", "77777777", *names).exit_code == 3


def test_the_audit_trail_is_a_source(tmp_path: Path) -> None:
    names = write(tmp_path, {"audit.json": [audit(0, "open", "x"), audit(9, "close", "finished")]})
    registration = {**audit(1, "", "allowed", stream_id=""), "method": "REGISTER"}
    write(tmp_path, {"audit.json": [registration]})
    done = correlate(*names)
    assert done.stdout.startswith(f"# stream_id={ID} events=2\n")
    assert "1 lines without both" in done.stderr


# ---- exit codes and what is said -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--id", ID), f"correlate: no line of stream {ID}\n"),
        (("--since", "2099-01-01"), "correlate: no such stream; see --since and --agent\n"),
    ],
)
def test_nothing_found(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    names = write(tmp_path, finished(OTHER))
    done = correlate(*arguments, *names)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", said)


def test_no_stream_at_all(tmp_path: Path) -> None:
    names = write(tmp_path, {"a": ["12:00:00.000 INFO    ready"]})
    done = correlate(*names)
    assert done.exit_code == 3
    assert done.stderr.endswith("the programs write JSON lines with --log-format json\n")


def test_a_file_that_cannot_be_read_is_told_and_the_rest_shown(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    done = correlate(*names, tmp_path / "absent")
    assert done.exit_code == 1
    assert done.stdout.count("\n") == 7
    assert (
        done.stderr == f"correlate: {tmp_path}/absent: No such file or directory; check the path\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "FILE...: is missing"),
        (("--id", "17", "f"), "'17' is no stream id, which is 16 hex digits"),
        (("--since", "soon", "f"), "'soon' is neither a duration (15m) nor a time"),
        (("--output", "xml", "f"), "'xml' is not one of"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], said: str) -> None:
    done = correlate(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_help_has_examples() -> None:
    done = correlate("--help")
    assert "correlate --id 3f2a9c0d11e45b67 --output timeline *.log" in done.stdout
    assert __version__ in correlate("--version").stdout


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write(tmp_path, finished())
    monkeypatch.setattr(command, "Sorter", lambda: Sorter(memory=100))
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
        done = correlate(*names)
    assert done.exit_code == 1
    assert "cannot write: No such file or directory; is there room" in done.stderr
    assert correlate(*names).exit_code == 0


# ---- the process ---------------------------------------------------------------------------


def test_it_runs_as_a_file(tmp_path: Path) -> None:
    names = write(tmp_path, finished())
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "correlate", *names], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"# stream_id=")


def test_a_reader_that_has_enough_is_no_fault(tmp_path: Path) -> None:
    names = write(tmp_path, {"a": [relay(0, "x", f"{number:016x}") for number in range(20_000)]})
    with subprocess.Popen(
        [CORRELATE, *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == -signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_temporary_file_is_left_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    text = (
        "import outrelay.tools.correlate.sorting as s; s.Sorter.__init__.__defaults__ = (100, 64)\n"
        "from outrelay.tools.correlate.command import main; main()"
    )
    lines = b"".join(json.dumps(relay(each, "x")).encode() + b"\n" for each in range(5000))
    with subprocess.Popen(
        [sys.executable, "-c", text, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(lines)
        process.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while not _has_temporary_file(process.pid, tmp_path):  # it sorts
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert list(tmp_path.iterdir()) == []
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


def _has_temporary_file(pid: int, folder: Path) -> bool:
    links = (each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir())
    return any(link.is_relative_to(folder) for link in links)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """40 MB of lines, half of them of one stream, in little more than the program itself."""
    path = tmp_path / "a.log"
    filling = "x" * 400
    with path.open("w") as file:
        for number in range(80_000):
            stream_id = ID if number % 2 else f"{number:016x}"
            file.write(json.dumps(relay(number, "x", stream_id, filling=filling)) + "\n")
    text = (
        "import resource, sys, outrelay.tools.correlate.sorting as s\n"
        "from outrelay.tools.correlate.command import main\n"
        "s.Sorter.__init__.__defaults__ = (4 << 20, 64)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "main(standalone_mode=False)\n"
        "sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", text, path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    assert int(done.stderr) < 24 * 1024


# ---- anything ------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
names = sorted(set().union(*(event.fields for event in VOCABULARY.values())))
entries = st.builds(
    lambda event, who, ts, number, fields: {
        "event": event,
        "component": who,
        "ts_unix_ms": ts,
        "stream_id": f"{number:016x}",
        **fields,
    },
    st.sampled_from(sorted(VOCABULARY)) | st.sampled_from(["open", "close", "reject", ""]),
    st.sampled_from(["relay", "agent", "controller", "", 7]),
    st.integers(0, 50) | st.integers(-1, 1 << 50) | values,
    st.integers(0, 2),
    st.dictionaries(
        st.sampled_from([*names, "_source_file", "times", "relay_id", "decision", "stream_id"]),
        values | st.sampled_from(["finished", "consumer", "provider", "r1", CALLER]),
        max_size=5,
    ),
)
anything = entries.map(lambda entry: json.dumps(entry).encode()) | st.binary(max_size=80)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(anything, max_size=12), form=st.sampled_from(FORMATS))
def test_whatever_is_in_a_file_there_is_no_fault(
    tmp_path: Path, lines: list[bytes], form: str
) -> None:
    path = tmp_path / "fuzz"
    path.write_bytes(b"\n".join(lines))
    done = correlate("--output", form, "--agent", "", path)
    assert done.exit_code in (0, 1, 3)
    if form == "json":
        for line in done.stdout.splitlines():
            json.loads(line)
    if form == "lines":
        _check_lines(done.stdout.splitlines())


def _check_lines(rows: list[str]) -> None:
    left = 0
    for row in rows:
        if left == 0:
            assert row.startswith("# stream_id=")
            left = int(row.rpartition("=")[2])
        else:
            assert "_source_file" in json.loads(row)
            left -= 1
    assert left == 0


def test_agents_lines_need_no_side(tmp_path: Path) -> None:
    """Logs of before lines had one: an agent is at one end or the other."""
    old = [agent(0, "stream opened", service="shop", peer=CALLER), agent(1, "stream ended")]
    done = correlate("--output", "timeline", *write(tmp_path, {"a": old}))
    assert "? agent" in done.stdout
