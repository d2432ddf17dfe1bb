#!/usr/bin/env bash
# A real SLURM cluster on this machine, in seconds: munge, slurmctld, and a slurmd for each node. Needs root.
#
#   scripts/slurm/cluster.sh install             Debian's packages, unless they are there
#   scripts/slurm/cluster.sh up DIR 3            three nodes; all that they write is below DIR, an absolute path
#   export SLURM_CONF=DIR/slurm.conf; srun -N3 hostname
#   scripts/slurm/cluster.sh kill DIR node2      everything on a node, at once, as a power cut does
#   scripts/slurm/cluster.sh boot DIR node2
#   scripts/slurm/cluster.sh down DIR
#
# Each node has a host name and an /etc/hosts of its own (namespaces), and 4 CPUs, whatever there are. Jobs of partition
# `main` make room for those of `urgent`: they are sent the signal of --signal, and ended 120 s later.
# FIRST_PORT (6917) is slurmctld's, those after it are the nodes'. They stay below 15000, where processes of runs meet.
set -Eeuo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
COMMAND=${1:?install, up, kill, boot or down} DIR=${2:-}
FIRST_PORT=${FIRST_PORT:-6917}

install() {
  if ! command -v slurmctld munged > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
  fi
}

up() {
  mkdir -p "$DIR"/{munge,state,spool,log,run}
  chmod 755 "$DIR" "$DIR/munge" # munged refuses a folder of its socket that others cannot enter
  (umask 077; dd if=/dev/urandom of="$DIR/munge/key" bs=128 count=1 status=none)
  munged --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/run/munged.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed"
  nodes=$(seq -f 'node%g' 1 "$1")
  settings "$nodes" > "$DIR/slurm.conf"
  { echo "127.0.0.1 localhost $(hostname)"; for node in $nodes; do echo "127.0.0.1 $node"; done; } > "$DIR/hosts"
  slurmctld
  for node in $nodes; do boot "$node"; done
}

settings() {
  cat << CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$FIRST_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# The second is also how long a job waits before it is started again.
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
MailProg=/bin/true
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Else a job takes all memory of a node.
DefMemPerCPU=256
# Long enough for a run on a busy machine to save after it was cancelled.
KillWait=30
# squeue remembers jobs for so long.
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
CONF
  port=$FIRST_PORT
  for node in $1; do
    port=$((port + 1))
    echo "NodeName=$node NodeHostname=$node NodeAddr=127.0.0.1 Port=$port CPUs=4 RealMemory=4000"
  done
}

boot() {
  mkdir -p "$DIR/spool/$1"
  unshare --mount --uts --propagation private bash -c \
    'mount --bind "$1/hosts" /etc/hosts && hostname "$2" && exec python3 "$3" slurmd -D -N "$2"' _ "$DIR" "$1" "$HERE/reaper.py"
  for _ in $(seq 100); do
    if sinfo --noheader --nodes="$1" --states=idle,mixed,alloc,comp --format=%N | grep -q .; then return 0; fi
    sleep 0.2
  done
  echo "$1 does not come up:" >&2
  tail -n 5 "$DIR/log/$1.log" >&2
  return 1
}

kill_node() { # all that has the node's host name
  name_space=$(readlink "/proc/$(cat "$DIR/run/$1.pid")/ns/uts")
  for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/uts" || true)" = "$name_space" ]; then kill -9 "${process#/proc/}" || true; fi
  done 2> /dev/null
  scontrol update nodename="$1" state=down reason="power cut" # what slurmctld finds out by itself after SlurmdTimeout
}

down() {
  for name in "$DIR"/run/node*.pid; do
    if [ -e "$name" ]; then kill_node "$(basename "$name" .pid)" || true; fi
  done
  for name in slurmctld munged; do
    if [ -e "$DIR/run/$name.pid" ]; then kill "$(cat "$DIR/run/$name.pid")" || true; fi
  done
}

export SLURM_CONF=$DIR/slurm.conf
case $COMMAND in
  install) install ;;
  up) trap down ERR; up "${3:-3}" ;;
  kill) kill_node "$3" ;;
  boot) boot "$3" ;;
  down) down ;;
  *) echo "install, up, kill, boot or down?" >&2; exit 2 ;;
esac
