// Package framework boots edgebox in hosts of its own, several on one machine, and drives it as a user would.
//
// A Host is a set of namespaces (mount, pid, net, uts, ipc, cgroup) with a root file system that holds busybox and
// edgebox and nothing else: no nft, iptables, containerd, runc or CNI plugin can be reached. Its pid 1 is a copy of
// the test program, which runs commands on request and reaps what others leave; so edgebox can be killed and started
// again while its pods run on. The root is a directory on disk and survives Reboot; /run and /tmp do not. A Network
// is a bridge in a network namespace of its own, which has no way out. Several hosts on one Network make a cluster: one
// is Up, the others Join it. NewNAT puts a Network behind a router that lets nothing in. The cable of a host can be
// unplugged, cut silently, made lossy or slow (Unplug, Blackhole, Loss, Delay), its address can change, and its clock be
// wrong (SetClock).
//
// Everything ends with the program, however it ends: a host's pid 1 exits when the socket to the program closes, the
// kernel then kills the host's processes and drops its mounts and links, and a janitor process removes cgroups and
// files. What even a janitor could not remove, the next run does.
//
// Main (or Reexec, in a program that is no test) must be called first, since hosts and janitor are copies of the
// program. Files are kept under EDGEBOX_TEST_DIR (default /var/tmp/edgebox-test), which must be on a file system that
// can hold overlayfs' upper layers. EDGEBOX_BIN names the edgebox to test (default bin/edgebox). It needs root.
package framework
