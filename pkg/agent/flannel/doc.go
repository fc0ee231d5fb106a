// Package flannel connects the pods of this node with those of the others: flannel's vxlan, host-gw or
// wireguard backend as a library in the process, the bridge that pods hang on, and the CNI configuration that containerd
// reads.
//
// It owns the links cni0, flannel.1, flannel-v6.1, flannel-wg and flannel-wg-v6, wireguard's private key, the nftables tables "ip flannel-ipv4" and "ip6 flannel-ipv6",
// the routes to the pod networks of other nodes, flannel's annotations on this node's Node object, the subnet file
// and the CNI configuration. None of them is removed when the component stops: pods keep their network while edgebox
// restarts.
//
// flannel's own kube subnet manager is not used. It wants a kubeconfig file, a configuration file and NODE_NAME in the
// environment, waits a second for its cache, resyncs it every five minutes, keeps whole Node objects in it, and misses
// a changed pod CIDR. The leases here are the same annotations, so that flannel's daemon on another node is understood.
//
// With no other node it is idle: one watch on the Node objects, and netlink subscriptions that sleep.
package flannel
