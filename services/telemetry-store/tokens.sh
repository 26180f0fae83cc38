#!/bin/sh
# Who may call the store of docker-compose.yml. Runs in an image that has a shell; ours have none.
#
#   tokens.sh                              writes the tokens of .env: their hashes for the store, and
#                                          the bridge's own for the bridge
#   tokens.sh add NAME SCOPES [PREFIXES]   makes another one, and prints it; to take it back, delete
#                                          its line from the file
set -eu
file=/tokens/store/tokens

line() { echo "$1 sha256:$(printf %s "$2" | sha256sum | cut -d' ' -f1)"; }
write() { cat >"$1.new" && chmod 444 "$1.new" && mv "$1.new" "$1"; }

touch "$file"
case ${1:-} in
'')
    # Tokens that were added stay.
    {
        line 'mqtt-bridge ingest' "$INGEST_TOKEN"
        line 'reader read' "$READ_TOKEN"
        line 'operator admin' "$ADMIN_TOKEN"
        grep -vE '^(mqtt-bridge ingest|reader read|operator admin) sha256:' "$file" || true
    } | write "$file"
    printf %s "$INGEST_TOKEN" | write /tokens/bridge/token
    ;;
add)
    [ $# -ge 3 ] || { echo "usage: tokens.sh add NAME SCOPES [PREFIXES]" >&2 && exit 2; }
    shift
    token=tlmt_$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
    { cat "$file" && line "$*" "$token"; } | write "$file"
    echo "$token"
    ;;
*)
    echo "usage: tokens.sh [add NAME SCOPES [PREFIXES]]" >&2
    exit 2
    ;;
esac
