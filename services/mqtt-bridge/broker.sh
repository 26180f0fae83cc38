#!/bin/sh
# The broker's users, for the image eclipse-mosquitto, beside mosquitto.conf in /mosquitto.
#
#   sh /mosquitto/broker.sh              makes what is missing, then runs the broker
#   sh /mosquitto/broker.sh add fern-1   gives a device a new password, and prints it
#
# A device may publish under devices/<its user name>/ and read nothing. The bridge may read all of
# that and publish nothing; its password is MQTT_BACKEND_PASSWORD, or what the file
# MQTT_BACKEND_PASSWORD_FILE holds. Devices come to port 1883, the bridge to 1884.
set -eu
umask 077
cd /mosquitto/config
bridge=plantops_backend

case ${1:-} in
'')
    touch passwords
    password=${MQTT_BACKEND_PASSWORD:-$(cat "$MQTT_BACKEND_PASSWORD_FILE")}
    mosquitto_passwd -b passwords "$bridge" "$password"
    cat >acl <<END
user $bridge
topic deny devices/$bridge/#
topic read devices/#

pattern write devices/%u/#
END
    {
        cat mosquitto.conf
        cat <<END
# Whatever client id a device gives, it has its own name for one: or it could take over the session of
# another, and the bridge's with all that waits in it.
use_username_as_clientid true
# The bridge's door, as its client id is not its name. No device may reach it.
listener 1884
END
    } >/tmp/mosquitto.conf
    exec mosquitto -c /tmp/mosquitto.conf
    ;;
add)
    # What a topic cannot have, or means more than one device by; and what bridges are called.
    case ${2:-} in '' | "$bridge" | mqtt-bridge* | *[!A-Za-z0-9._-]*)
        echo "not a name for a device: ${2:-}" >&2
        exit 2
        ;;
    esac
    password=$(head -c 18 /dev/urandom | od -An -tx1 | tr -d ' \n')
    mosquitto_passwd -b passwords "$2" "$password"
    # The broker, which runs in the place of this script.
    kill -HUP 1
    echo "$2 $password"
    ;;
*)
    echo "usage: broker.sh [add DEVICE]" >&2
    exit 2
    ;;
esac
