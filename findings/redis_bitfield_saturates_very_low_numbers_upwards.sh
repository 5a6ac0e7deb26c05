#!/usr/bin/env bash
# redis-server 7.0.15: `BITFIELD … OVERFLOW SAT SET i5 0 -9223372036854775808` stores 15, the highest number of the field,
# and not -16, the lowest. So do all numbers from -2^63 to the highest of the field above that, in signed fields of less
# than 64 bits; from there on the lowest one is stored, as the documentation says.
#
# checkSignedBitfieldOverflow in src/bitops.c subtracts the number from the highest one in 64 bits, which wraps around.
#
# Exits with 0 as long as that is so, with 1 when it has changed. Needs redis-server and redis-cli.
set -euo pipefail
folder=$(mktemp -d)
redis-server --port 0 --unixsocket "$folder/redis" --save '' >/dev/null 2>&1 &
server=$!
trap 'kill $server; rm -rf "$folder"' EXIT
for _ in $(seq 100); do
    if redis-cli -s "$folder/redis" ping >/dev/null 2>&1; then break; fi
    sleep 0.1
done
redis-server --version
stored=""
for number in -9223372036854775808 -9223372036854775793 -9223372036854775792 -17; do
    found=$(redis-cli -s "$folder/redis" BITFIELD a OVERFLOW SAT SET i5 0 "$number" GET i5 0 | tail -n 1)
    echo "$number: $found"
    stored="$stored $found"
done
test "$stored" = " 15 15 -16 -16"
