#!/usr/bin/env bash
# One host of a run on TPU VMs; `tlx launch tpu-vm` copies it to every worker and starts it on all.
#   worker.sh run    stops an older start, runs the setup, trains, and reports the end: "tlx-exit CODE HOST"
#   worker.sh stop   asks the run on this host to save and exit
set -uo pipefail
cd "$(dirname "$0")" || exit 1

alive() { kill -0 "$1" 2>/dev/null; }

# worker.pid: process ids of this script and of its tlx. A start that ended has removed it; a killed one has not.
old=0 tlx=0
if [ -f worker.pid ]; then read -r old tlx < worker.pid; fi
if ! alive "$tlx" || [ "$tlx" -eq 0 ]; then tlx=0; fi

if [ "${1:-run}" = stop ]; then
  if [ "$tlx" -ne 0 ]; then kill -TERM "$tlx"; fi
  exit 0
fi

if [ "$tlx" -ne 0 ]; then
  kill -TERM "$tlx"
  for _ in $(seq {{grace_seconds}}); do
    alive "$tlx" || { [ -f worker.pid ] && alive "$old"; } || tlx=0
    if [ "$tlx" -eq 0 ]; then break; fi
    sleep 1
  done
  if [ "$tlx" -ne 0 ]; then kill -KILL "$tlx" "$old" 2>/dev/null; fi
fi

export TLX_GRACE_SECONDS={{grace_seconds}} TLX_COORDINATOR=auto
# Settings of libtpu: tlx/base/compiler_settings.py has the reasons.
{{environment}}
code=0
bash -euo pipefail -c {{setup}} || code=$?
if [ "$code" -ne 0 ]; then
  echo "launch | the setup command failed with $code on $(hostname)"
  echo "tlx-exit 64 $(hostname)"
  exit 64
fi
PATH="$HOME/.local/bin:$PATH" {{command}} &
tlx=$!
echo "$$ $tlx" > worker.pid
# Forward signals to tlx, which saves.
trap 'kill -TERM "$tlx"' TERM INT HUP
while true; do
  code=0
  wait "$tlx" || code=$?
  alive "$tlx" || break
done
echo "tlx-exit $code $(hostname)"
rm -f worker.pid
exit "$code"
