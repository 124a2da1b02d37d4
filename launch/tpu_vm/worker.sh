#!/usr/bin/env bash
# One host of a run on TPU VMs; `tlx launch tpu-vm` copies it to every worker and starts it on all.
#   worker.sh run    ends an older start, prepares, trains, and says how it ended: "tlx-exit CODE HOST"
#   worker.sh stop   asks the run on this host to save and leave
set -uo pipefail
cd "$(dirname "$0")" || exit 1

old() {  # pid of a start that is still running
  local pid
  pid=$(cat worker.pid 2>/dev/null) && kill -0 "$pid" 2>/dev/null && echo "$pid"
}

if [ "${1:-run}" = stop ]; then
  if pid=$(old); then kill -TERM "$pid"; fi
  exit 0
fi

if pid=$(old); then
  kill -TERM "$pid"
  for _ in $(seq {{grace_seconds}}); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 1
  done
  kill -KILL "$pid" 2>/dev/null
fi

export TLX_GRACE_SECONDS={{grace_seconds}} TLX_COORDINATOR=auto
code=0
bash -euo pipefail -c {{setup}} || code=$?
if [ "$code" -ne 0 ]; then
  echo "launch | the setup command failed with $code on $(hostname)"
  echo "tlx-exit 64 $(hostname)"
  exit 64
fi
PATH="$HOME/.local/bin:$PATH" {{command}} &
echo $! > worker.pid
# A signal to this script goes to tlx, which saves.
trap 'kill -TERM "$(cat worker.pid)"' TERM INT HUP
while true; do
  code=0
  wait "$(cat worker.pid)" || code=$?
  kill -0 "$(cat worker.pid)" 2>/dev/null || break
done
rm -f worker.pid
echo "tlx-exit $code $(hostname)"
exit "$code"
