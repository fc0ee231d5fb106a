package pki

import "net/netip"

// Names of leaves, which are those of kubeadm where it has them.
const (
	APIServer         = "apiserver"                // serves the API
	APIServerKubelet  = "apiserver-kubelet-client" // the apiserver towards kubelets
	FrontProxyClient  = "front-proxy-client"       // the apiserver towards aggregated API servers
	ControllerManager = "controller-manager"
	Scheduler         = "scheduler"
	Admin             = "admin"

	Kubelet       = "kubelet"        // serves the kubelet's API
	KubeletClient = "kubelet-client" // the node: kubelet, kube-proxy, flannel, DNS

	DatastoreServer = "etcd/server"
	DatastorePeer   = "etcd/peer"
	DatastoreClient = "apiserver-etcd-client"
)

// The identity of the apiserver towards kubelets. A ClusterRoleBinding of the ClusterRole system:kubelet-api-admin to
// the group gives it all of the kubelet's API and nothing else.
const (
	KubeletAPIUser  = "kube-apiserver-kubelet-client"
	KubeletAPIGroup = "edgebox:kubelet-api-admins"
)

// FrontProxyUser is the name that --requestheader-allowed-names must have.
const FrontProxyUser = "front-proxy-client"

// Host is what the certificates of a machine depend on.
type Host struct {
	NodeName      string
	NodeIPs       []netip.Addr
	ServiceIPs    []netip.Addr // of the Service "kubernetes": the first address of each service CIDR
	ClusterDomain string
	ExtraSANs     []string // further host names and addresses of the API (--tls-san)
}

// ControlPlaneLeaves are the certificates that a server needs for itself.
func ControlPlaneLeaves(h Host) []Leaf {
	apiserver := Leaf{
		Name: APIServer, CA: ServerCA, Server: true,
		CommonName: "kube-apiserver",
		DNSNames:   []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", h.NodeName},
		IPs:        append(loopback(), append(h.NodeIPs[:len(h.NodeIPs):len(h.NodeIPs)], h.ServiceIPs...)...),
	}
	if h.ClusterDomain != "" {
		apiserver.DNSNames = append(apiserver.DNSNames, "kubernetes.default.svc."+h.ClusterDomain)
	}
	for _, san := range h.ExtraSANs {
		if ip, err := netip.ParseAddr(san); err == nil {
			apiserver.IPs = append(apiserver.IPs, ip)
		} else {
			apiserver.DNSNames = append(apiserver.DNSNames, san)
		}
	}
	client := func(name, user string, groups ...string) Leaf {
		return Leaf{Name: name, CA: ClientCA, Client: true, CommonName: user, Organizations: groups}
	}
	return []Leaf{
		apiserver,
		client(APIServerKubelet, KubeletAPIUser, KubeletAPIGroup),
		{Name: FrontProxyClient, CA: FrontProxyCA, Client: true, CommonName: FrontProxyUser},
		client(ControllerManager, "system:kube-controller-manager"),
		client(Scheduler, "system:kube-scheduler"),
		client(Admin, "system:admin", "system:masters"), // works without RBAC, when all else is broken
	}
}

// NodeLeaves are the certificates of a node that is a server too. Other nodes get theirs through the CSR API.
func NodeLeaves(h Host) []Leaf {
	node := Leaf{CommonName: "system:node:" + h.NodeName, Organizations: []string{"system:nodes"}}
	client, server := node, node
	client.Name, client.CA, client.Client = KubeletClient, ClientCA, true
	server.Name, server.CA, server.Server = Kubelet, ServerCA, true
	server.DNSNames, server.IPs = []string{h.NodeName}, h.NodeIPs
	return []Leaf{client, server}
}

// DatastoreLeaves are the certificates of an embedded etcd and of its client, the apiserver. etcd's server and peers
// act as clients too, so theirs are for both uses.
func DatastoreLeaves(h Host) []Leaf {
	member := Leaf{
		CA: DatastoreCA, Server: true, Client: true, CommonName: h.NodeName,
		DNSNames: []string{"localhost", h.NodeName},
		IPs:      append(loopback(), h.NodeIPs...),
	}
	server, peer := member, member
	server.Name, peer.Name = DatastoreServer, DatastorePeer
	return []Leaf{server, peer, {Name: DatastoreClient, CA: DatastoreCA, Client: true, CommonName: "kube-apiserver-etcd-client"}}
}

func loopback() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}
