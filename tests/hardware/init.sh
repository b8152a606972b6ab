#!/bin/busybox sh
# The guest's first process: mounts, drivers, the network of one wire, and then the agent.
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /var/lib
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
while read -r module; do insmod "/modules/$module"; done </modules/order
for net in /sys/class/net/*; do
    [ "${net##*/}" = lo ] || wire=${net##*/}
done
for uart in /dev/ttyS* /dev/ttyAMA*; do
    [ ! -e "$uart" ] || { chgrp dialout "$uart"; chmod 660 "$uart"; }
done
/lib/systemd/systemd-udevd --daemon
ip link set lo up
ip addr add 10.0.2.15/24 dev "$wire" && ip link set "$wire" up
export PYTHONPATH=/opt/site PATH
exec /usr/bin/python3 -u /opt/agent.py
