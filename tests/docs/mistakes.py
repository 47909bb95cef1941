"""The mistakes that docs/reference/errors.md has, each with a command line that makes it.

A case is the message as the page has it, and the command line. Words in capitals stand for
anything. ``{relay}`` and the like are the flags with a role's certificate, other words in braces
what the ``Place`` of ``test_errors`` holds. A case may begin with one of its ``CONDITIONS``, with
``NAME=VALUE`` for the environment, and one of the CLI with ``anonymous``, without a certificate,
or ``system``, as an operator of all tenants.
"""

from __future__ import annotations

SERVICES = """
no such option 'NAME'; see: COMMAND --help
    relay {relay} --nope
no such option 'NAME'; did you mean one of: CHOICES?
    relay {relay} --alow-all
no such command 'NAME'; see: COMMAND --help
    cli launch
got unexpected extra argument (NAME); see: COMMAND --help
    relay {relay} extra
FLAG: is missing; see: COMMAND --help
    cli policy add --caller x
FILE...: is missing; see: COMMAND --help
    correlate
FLAG: is missing; give the flag, VARIABLE, or 'KEY' in the --config file
    agent
FLAG: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443
    relay {relay} --listen nowhere
FLAG: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    agent {agent} --drain soon
FLAG: 'VALUE' is not a size; write it like 64KiB, 16MiB or 65536
    agent {agent} --ring-max huge
FLAG: 'VALUE' is not a valid number; see: COMMAND --help
    agent {agent} --max-streams many
FLAG: N is not in the range RANGE; see: COMMAND --help
    agent {agent} --max-streams 0
FLAG: 'VALUE' is not one of CHOICES; see: COMMAND --help
    agent {agent} --log-level loud
--expose: 'VALUE' names no target; write it like db=127.0.0.1:5432
    agent {agent} --expose db
--consume: 'VALUE' has no address to listen on; write it like db@127.0.0.1:5432
    agent {agent} --consume db
--consume: 'VALUE' cannot name a service; use 1 to 255 printable ASCII characters without slash \
and space
    agent {agent} --consume 'd b@127.0.0.1:1'
--expose: NAME is exposed twice; an agent has one target for a service
    agent {agent} --expose db=127.0.0.1:1 --expose db=127.0.0.1:2
--expose-service and --expose-target: one is missing; give both, or --expose NAME=HOST:PORT
    agent {agent} --expose-service db
--uri URI: is not the identity in FILE: URI
    agent {agent} --uri outrelay://acme/agent/00000000-0000-4000-8000-000000000000
--controller: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443; or unix:PATH
    relay {relay} --controller nowhere
--audit-spool-size: is less than 64KiB
    relay {relay} --audit-spool-size 1KiB
--ring-max: is less than 64KiB
    agent {agent} --ring-max 1KiB
--dead-after: is less than 2s; the relay is asked once a second
    agent {agent} --dead-after 1s
FILE: cannot be read: No such file or directory; check the path
    relay {relay} --config {here}/none.toml
FILE: is not TOML: WHY
    relay {relay} --config {here}/broken.toml
FILE: unknown keys: KEY; keys are named like flags, see --help
    relay {relay} --config {here}/unknown.toml
FILE: KEY: must be KIND, not VALUE
    relay {relay} --config {here}/number.toml
FILE: KEY: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    relay {relay} --config {here}/soon.toml
VARIABLE: 'VALUE' is not a duration; write it like 250ms, 10s, 5m, 24h or 90d
    OUTRELAY_RELAY_DRAIN=soon relay {relay}

FILE: cannot be read: Permission denied; let this user have access to it
    unprivileged relay --cert {here}/relay.pem --key {here}/locked.key --ca {ca}
FILE: holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----
    relay --cert {here}/relay.key --key {here}/relay.key --ca {ca}
FILE: holds no PEM private key; give a file with -----BEGIN PRIVATE KEY-----
    relay --cert {here}/relay.pem --key {here}/relay.pem --ca {ca}
FILE: is encrypted; store it without a pass phrase
    relay --cert {here}/relay.pem --key {here}/encrypted.key --ca {ca}
FILE: is not the key of FILE; give the two files of one identity
    relay --cert {here}/relay.pem --key {here}/agent.key --ca {ca}
FILE: holds a certificate that is not a CA's; list only CA certificates in it
    relay --cert {here}/relay.pem --key {here}/relay.key --ca {here}/relay.pem
FILE: holds no outrelay:// URI SAN
    relay --cert {here}/nobody.pem --key {here}/nobody.key --ca {ca}
--cert FILE: is the certificate of URI, not a relay's; give the relay's own
    relay {agent}
--cert FILE: is the certificate of URI, not an agent's; give the agent's own
    agent {relay}
FILE: is of URI, expected the role controller; clients would refuse it
    controller {relay}
--cert FILE: expired at WHEN; give a certificate that is valid now
    relay --cert {here}/expired.pem --key {here}/expired.key --ca {ca}
--cert FILE: is not valid before WHEN; give a certificate that is valid now
    relay --cert {here}/early.pem --key {here}/early.key --ca {ca}
FILE: expired at WHEN; clients would refuse it
    controller --cert {here}/late.pem --key {here}/late.key --ca {ca}
FILE: does not lead to a CA we trust (WHY); clients would refuse it
    controller --cert {here}/controller.pem --key {here}/controller.key --ca {here}/other.pem
FILE: is an Ed25519 key, which gRPC's TLS does not know; use one of EC P-256
    controller --cert {here}/edwards.pem --key {here}/edwards.key --ca {ca}
--cert, --key, --ca: missing, and needed for --listen ADDRESS; give all three, or --listen '' to \
serve no TLS
    controller

ADDRESS (UDP): cannot be bound: Address already in use; stop what uses the address, or choose \
another one
    relay {relay} --listen {udp}
ADDRESS (TCP): cannot be bound: Address already in use; stop what uses the address, or choose \
another one
    relay {relay} --listen 127.0.0.1:0 --listen-tcp {tcp}
ADDRESS (UDP): cannot be bound: Cannot assign requested address; give an address of this machine
    relay {relay} --listen 192.0.2.1:7443
--listen: 'NAME' has no address: WHY; check the name
    relay {relay} --listen host.invalid:7443
--listen: cannot listen on ADDRESS: Address already in use; stop what uses the address, or choose \
another one
    controller {controller} --db :memory: --listen {tcp}
--consume NAME@ADDRESS: cannot listen on ADDRESS: Address already in use; stop what uses the \
address, or choose another one
    agent {agent} --consume db@{tcp}
--listen: is empty and there is no other listener; give one
    controller --listen ''
--listen-plaintext: ADDRESS is not a loopback address, and whoever reaches it rules every tenant; \
give a loopback address, or --trust-plaintext-network if you mean it
    controller {controller} --listen-plaintext 0.0.0.0:0
--admin-socket: FILE is in a directory that does not exist; make it first
    controller --listen '' --db :memory: --admin-socket {here}/none/admin.sock
--admin-socket: FILE exists and is no socket; remove it or give another path
    controller --listen '' --db :memory: --admin-socket {ca}
--admin-socket: FILE is longer than N bytes
    controller --listen '' --db :memory: --admin-socket {here}/{long}

--db: postgresql is not supported; give a file
    controller {controller} --db postgresql://host/name
--db: FILE is a directory; give a file in it
    controller {controller} --db {here}
--db: FILE is in a directory that does not exist; make it first
    controller {controller} --db {here}/none/x.db
FILE: file is not a database; restore a backup, or give another file to --db
    controller {controller} --db {here}/junk.db
FILE: is another program's database; give a file of its own to --db
    controller {controller} --db {here}/foreign.db
FILE: is used by another controller; stop it, or give --db
    controller {controller} --db {here}/used.db
FILE: has schema version N, this controller knows N; upgrade it
    controller {controller} --db {here}/newer.db
FILE: Permission denied; let this user have access to it
    unprivileged controller --listen '' --listen-plaintext 127.0.0.1:0 --db {here}/locked.db
FILE: attempt to write a readonly database; let this user write to the file and its directory
    unprivileged controller --listen '' --listen-plaintext 127.0.0.1:0 --db {here}/locked/x.db
FILE: disk I/O error; look at the disk, and at the space on it
    small-files controller {controller} --db {here}/small.db
--audit-spool: FILE cannot be used: WHY; check the path
    relay {relay} --listen 127.0.0.1:0 --audit-spool /proc/none

FILE: holds NAME already; choose another --out, or replace the whole set with --force
    dev-pki --out {here}
--tenant: 'VALUE' is not a name; use a-z, 0-9 and -, at most 63 of them
    dev-pki --tenant 'Not A Name'
--consume: 'VALUE' cannot be a method; use 1 to 255 printable characters, as in \
db/read@127.0.0.1:5432, or leave the slash out
    agent {agent} --consume db/{long}{long}{long}@127.0.0.1:1
--consume: REGISTER is exposing a service, not a method to call it by; see: COMMAND --help
    agent {agent} --consume db/REGISTER@127.0.0.1:1
--http-proxy: a proxy is spoken to in http, not in NAME; write it like http://proxy.example:3128 \
or http://user:password@proxy.example:3128
    agent {agent} --http-proxy socks5://proxy.example:1080
--controller: names no controller
    relay {relay} --controller ''
--tenant: 'VALUE' is not the name of a tenant
    relay {relay} --tenant 'Not A Name'
--metrics-interval: is less than 0.1s
    relay {relay} --metrics-interval 1ms
FLAG: File 'FILE' is a directory; see: COMMAND --help
    relay {relay} --config {here}
FLAG: Directory 'FILE' is a file; see: COMMAND --help
    relay {relay} --audit-spool {here}/junk.db
write 'NAME' before the flags: NAME has its own; see: COMMAND --help
    agent {agent} status
--quic-engine native: is not installed (WHY); install outrelay[native]
    without-native relay {relay} --quic-engine native --listen 127.0.0.1:0 --debug-listen ''
--debug-listen: is empty: the agent shows itself nowhere; give it an address
    agent status --debug-listen ''
ADDRESS: nobody answers there (WHY); check that the agent runs, and give the --debug-listen that \
it has
    agent status --debug-listen {nobody}
ADDRESS: what answers there is no agent but NAME; check that the agent runs, and give the \
--debug-listen that it has
    agent status --debug-listen {web}
FILE: holds N outrelay:// URI SANs instead of one
    relay --cert {here}/two.pem --key {here}/two.key --ca {ca}
FILE: its URI SAN 'VALUE' WHY
    relay --cert {here}/odd.pem --key {here}/odd.key --ca {ca}
FILE: is of a kind we do not use; make it EC P-256, EC P-384 or Ed25519
    relay --cert {here}/relay.pem --key {here}/other.key --ca {ca}
FILE: is not for NAME (extended key usage); clients would refuse it
    controller --cert {here}/client.pem --key {here}/client.key --ca {ca}
FILE: is not for the server name NAME (DNS SANs: NAMES); clients would refuse it
    controller --cert {here}/unnamed.pem --key {here}/unnamed.key --ca {ca}
FLAG: cannot listen on ADDRESS: WHY; give another one, or FLAG '' for none
    relay {relay} --listen 127.0.0.1:0 --debug-listen {tcp}
--admin-socket: FILE cannot be used: WHY; let this user have access to it
    unprivileged controller --listen '' --db :memory: --debug-listen '' \
--admin-socket {here}/locked/s
--admin-socket: FILE is served by another controller; stop it or give another path
    controller {controller} --listen 127.0.0.1:0 --db :memory: --debug-listen '' \
--admin-socket {here}/served
--db: FILE cannot be looked at: File name too long
    controller {controller} --db {here}/{long}{long}{long}
--metrics-dump: FILE cannot be written: WHY; give a file in a directory of yours
    relay {relay} --listen 127.0.0.1:0 --debug-listen '' --metrics-dump {here}/none/x
--audit-spool: FILE is used by another relay; give each relay a folder of its own
    relay {relay} --listen 127.0.0.1:0 --debug-listen '' --audit-spool {here}/spool
FILE: cannot be written: Not a directory; check the path
    dev-pki --out {here}/one.log/x

--id: 'VALUE' is no stream id, which is 16 hex digits; see: COMMAND --help
    correlate --id none {here}/one.log
--since: 'VALUE' is neither a duration (15m) nor a time (2026-11-30T02:50:00Z); see: COMMAND --help
    correlate --since yesterday {here}/one.log
more than N files; see: COMMAND --help
    correlate {many}
FILE: No such file or directory; check the path
    correlate {here}/none.log
FILE: the compressed data ends in the middle
    correlate {here}/cut.gz
FILE: the compressed data is damaged (WHY)
    correlate {here}/damaged.gz
no line of stream ID
    correlate --id 0123456789abcdef {here}/one.log
no such stream; see --since and --agent
    correlate --agent nobody {here}/one.log
no line of a stream; the programs write JSON lines with --log-format json
    correlate {here}/none.json
"""

CLI = """
--cert, --key, --ca missing: give --cert, --key and --ca, or a profile with them, or \
--controller unix:PATH for an admin socket, or --plaintext
    anonymous policy list
--tenant is missing: say whose policy or audit it is about
    policy list --controller {admin}
controller ADDRESS: nobody listens there (connection refused); is it running?
    policy list --controller {nobody}
controller ADDRESS: its name cannot be resolved
    policy list --controller host.invalid:7444
controller FILE: the socket cannot be opened (no such file or directory)
    policy list --tenant acme --controller unix:/none/admin.sock
controller ADDRESS: does not take plaintext at this address; give a certificate, key and CA
    policy list --plaintext --tenant acme
controller ADDRESS: does not speak TLS at this address; use its TLS address, or plaintext
    policy list --controller {plaintext}
controller ADDRESS: its certificate does not lead to a CA we trust (WHY); check the CA given
    policy list --ca {here}/other.pem
controller ADDRESS: refused our certificate, which does not lead to a CA we trust (WHY)
    policy list --cert {here}/stranger.pem --key {here}/stranger.key
controller ADDRESS: refused our certificate, which expired at WHEN
    policy list --cert {here}/gone.pem --key {here}/gone.key
controller ADDRESS: URI has the role agent; METHOD needs a certificate of the role operator or relay
    policy list --tenant acme --cert {here}/agent.pem --key {here}/agent.key
controller ADDRESS: URI is an operator of NAME, not of NAME; use a certificate of NAME
    policy list --tenant other
controller ADDRESS: NAME has no policy rule ID; see: outrelay-cli policy list
    policy remove --id none
controller ADDRESS: no relay carries a stream ID of NAME
    stream kill 0123456789abcdef
controller ADDRESS: stream_id: must be 16 hex digits
    stream kill none
controller ADDRESS: target_pattern: must be given
    policy add --caller '*' --target '' --decision allow
controller ADDRESS: caller: 'VALUE' is not an identity: it must start with outrelay://
    policy explain --caller nobody --target db
controller: 'VALUE' is not an address; write it like 127.0.0.1:7443 or [::1]:7443; or unix:PATH \
for an admin socket
    policy list --controller nowhere
profile NAME: does not exist; there are: NAMES
    policy list --profile none
there is no profile NAME; see: outrelay-cli profile list
    profile use none
--file: File 'FILE' does not exist; see: COMMAND --help
    policy apply -f {here}/none.yaml
FILE:N: is no YAML: WHY
    policy apply -f {here}/broken.yaml
FILE: is empty; write `rules: []` to remove every rule
    policy apply -f {here}/empty.yaml
FILE:N: unknown key 'KEY'; known are KEYS
    policy apply -f {here}/unknown.yaml
FILE:N: KEY is missing
    policy apply -f {here}/half.yaml
FILE:N: decision: 'VALUE' is none of allow, deny
    policy apply -f {here}/maybe.yaml
FILE: has the rules of NAME, not of NAME; give --tenant NAME if you mean it
    policy apply -f {here}/beta.yaml --tenant acme
--yes is missing: the rules come from standard input, so nobody can be asked
    policy apply -f -
controller: 'unix:' names no socket; write unix:PATH
    policy list --controller unix: --tenant acme
controller ADDRESS: is no controller: its certificate is not for NAME
    policy list --controller {others_tls}
controller ADDRESS: URI is of NAME; METHOD needs an operator of system, or the admin socket
    fleet drain r1 --yes
controller ADDRESS: relay NAME is not connected to this controller; send it SIGTERM
    system fleet drain r1 --yes
controller ADDRESS: there is no relay NAME; see fleet relays
    system fleet drain r9 --yes
controller ADDRESS: KEY: must be printable text in one line
    policy add --caller '*' --target '\t' --decision allow
controller ADDRESS: KEY: has N characters, at most N are allowed
    policy add --caller '*' --target {long}{long}{long}{long}{long}{long}{long}{long}{long} \
--decision allow
controller ADDRESS: caller: URI is not an agent
    policy explain --caller outrelay://acme/operator/bob --target db
controller ADDRESS: tenant: NAME is not the tenant of URI
    policy explain --caller outrelay://beta/agent/00000000-0000-4000-8000-000000000000 --target db
controller ADDRESS: target: must be 1 to 255 printable ASCII characters without / and space
    policy explain --caller outrelay://acme/agent/00000000-0000-4000-8000-000000000000 --target a/b
controller ADDRESS: tenant: 'VALUE' is no tenant (lower-case letters, digits, hyphens)
    policy add --controller {admin} --tenant 'A B' --caller '*' --target db --decision allow
--stream-id: 'VALUE' is not a stream's id: 16 hex digits; see: COMMAND --help
    audit query --stream-id none
--caller: 'VALUE' is not an identity: it must start with outrelay://; see: COMMAND --help
    audit query --caller nobody
NAME: 'VALUE' is not a name; use letters, digits, - and _
    profile add 'A B'
there is no terminal to show a screen at; give --output json
    fleet watch
not confirmed, so nothing was changed; --yes does not ask
    system fleet drain r1
FILE: is nested too deeply
    policy apply -f {here}/deep.yaml
FILE:N: NAME is there twice
    policy apply -f {here}/twice.yaml
FILE:N: rules: must be a list
    policy apply -f {here}/five.yaml
FILE:N: must be a mapping of KEYS
    policy apply -f {here}/fives.yaml
FILE:N: KEY: must be one text
    policy apply -f {here}/texts.yaml
FILE:N: KEY: must be given
    policy apply -f {here}/nothing.yaml
FILE:N: KEY: has N characters, at most N are allowed
    policy apply -f {here}/long.yaml
FILE:N: KEY: must be printable text in one line
    policy apply -f {here}/lines.yaml
FILE:N: expires: 'VALUE' is no time; write 2030-12-31T23:59:59Z
    policy apply -f {here}/tomorrow.yaml
FILE:N: expires: VALUE names no time zone; write 2030-12-31T23:59:59Z
    policy apply -f {here}/zone.yaml
FILE: does not hold profiles; remove it and add them again
    XDG_CONFIG_HOME={here}/five profile list
FILE: NAME: is no profile; its keys are KEYS
    XDG_CONFIG_HOME={here}/red profile list
FILE: NAME: KEY: must not be VALUE
    XDG_CONFIG_HOME={here}/number profile list
FILE: cannot be written: No such file or directory; check the path
    XDG_CONFIG_HOME=/proc/none profile add x --tenant acme
"""

RACED = (
    "controller ADDRESS: the rules of NAME have changed: they are at revision N, not N; look at"
    " them again"
)
IN_THE_STORE = "FILE: database or disk is full; free some space"

TEXTS = {
    "one.log": '{"ts_unix_ms": 1, "stream_id": "00000000000000ff", "event": "stream opened"}\n',
    "none.json": "",
    "deep.yaml": f"rules: {'[' * 5000}",
    "twice.yaml": "rules:\n- caller: x\n  caller: y\n  target: y\n  decision: allow\n",
    "five.yaml": "rules: 5\n",
    "fives.yaml": "rules:\n- 5\n",
    "texts.yaml": "rules:\n- caller: [x]\n  target: y\n  decision: allow\n",
    "nothing.yaml": "rules:\n- caller: ''\n  target: y\n  decision: allow\n",
    "long.yaml": f"rules:\n- caller: {'x' * 2000}\n  target: y\n  decision: allow\n",
    "lines.yaml": 'rules:\n- caller: "x\\ny"\n  target: y\n  decision: allow\n',
    "tomorrow.yaml": "rules:\n- {caller: x, target: y, decision: allow, expires: tomorrow}\n",
    "zone.yaml": "rules:\n- {caller: x, target: y, decision: allow, expires: 2030-12-31}\n",
    "five/outrelay/cli.toml": "current = 5",
    "red/outrelay/cli.toml": '[profiles.x]\ncolour = "red"',
    "number/outrelay/cli.toml": "[profiles.x]\ntenant = 5",
    "broken.toml": "listen =",
    "unknown.toml": 'lisen = "127.0.0.1:1"',
    "number.toml": "drain = 5",
    "soon.toml": 'drain = "soon"',
    "junk.db": "no database, and long enough to be looked at" * 100,
    "broken.yaml": "rules: [",
    "empty.yaml": "",
    "unknown.yaml": "rule: []",
    "half.yaml": "rules:\n- caller: x\n  target: y\n",
    "maybe.yaml": "rules:\n- caller: x\n  target: y\n  decision: maybe\n",
    "beta.yaml": "tenant: beta\nrules: []\n",
    "rules.yaml": "rules:\n- caller: x\n  target: y\n  decision: allow\n",
}


def cases(text: str) -> list[tuple[str, str]]:
    """Message and command line of each case."""
    lines = [line for line in text.splitlines() if line]
    return [(lines[i], lines[i + 1].strip()) for i in range(0, len(lines), 2)]
