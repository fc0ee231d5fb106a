// Package dns answers the cluster's names without a pod: CoreDNS in the process of every node, and the kube-dns Service
// that leads to it.
//
// Server listens on port 53 of the node's pod gateway. Service keeps the Service kube-system/kube-dns and one
// EndpointSlice per node; with the traffic distribution PreferSameNode a pod asks the server on its own node, and that
// of another when its own is down.
//
// CoreDNS is configured with the few plugins that are needed. Two of its parts are stepped around: the plugins loop
// and prometheus, which may exit the process, are left out; and the setup of the plugin kubernetes, which would replace
// klog's logger under every other user of it, is done here (directive "cluster") with the same handler. That plugin
// imports CoreDNS' main package all the same, whose only effect is a few flags on flag.CommandLine.
package dns
