#!/bin/sh
# Says hello. It stands for the software that a package installs.
case "${1-}" in
"") echo "${HELLO_GREETING:-Hello}" ;;
--version) echo "hello 1.0" ;;
--configure) echo "It will say: ${HELLO_GREETING:-Hello}" ;;
*)
    echo "usage: hello [--version | --configure]" >&2
    exit 2
    ;;
esac
