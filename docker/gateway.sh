#!/bin/sh
# Makes this machine a node of the Ray cluster at RAY_ADDRESS, without work for it, then becomes the gateway:
# a Ray driver must have a node beside it. The options of this script go to `spacte serve`.
set -eu
: "${RAY_ADDRESS:?set RAY_ADDRESS to host:port of the Ray head}"

if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") # read by PostgreSQL's client library
    export PGPASSWORD
fi

# The store fits into the 2 GiB of /dev/shm that the Compose file gives; Ray would take 30 % of the memory.
ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --object-store-memory=536870912
exec spacte serve "$@"
