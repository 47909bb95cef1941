#!/bin/sh
# Installs OutRelay from its sources into a folder of its own, with all it needs:
#   install.sh PREFIX [SOURCES]
# PYTHON is the interpreter to use; the programs are in PREFIX/bin. The image is made by this,
# and so is /opt/outrelay on a host. A second time it updates what is there.
set -eu

prefix=${1:?"usage: install.sh PREFIX [SOURCES]"}
sources=${2:-$(dirname "$0")/../..}

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "install.sh: OutRelay needs Python 3.11 or newer: PYTHON=/path/to/python install.sh ..." >&2
  exit 1
}
"${PYTHON:-python3}" -m venv "$prefix"
"$prefix/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
  --upgrade "$sources[uvloop]"

for program in controller relay agent cli; do
  "$prefix/bin/outrelay-$program" --version
done
