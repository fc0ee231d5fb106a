package config

// Reasons why an argument for an upstream component is refused.
const (
	setBy          = "is set by --" // and the option
	ownIdentity    = "cannot be set: the component acts under the identity that edgebox gives it"
	ownCertificate = "cannot be set: edgebox makes and renews the certificate"
	ownCA          = "cannot be set: put a CA of your own into server/pki of the data dir"
	frontProxy     = "cannot be set: edgebox signs for the aggregation layer"
	ownDatastore   = "cannot be set: the API server reaches the datastore through edgebox, see --datastore-endpoint"
	ownRuntime     = "cannot be set: images and containers are in edgebox's own containerd"
	ownCgroups     = "cannot be set: edgebox finds pods by the cgroup kubepods"
	noFile         = "is not read: give each setting as an argument of its own"
	severalServers = "is set by edgebox: servers elect one when they share a datastore"
	nftablesOnly   = "cannot be set: Services are in nftables"
	unlimited      = "has no effect: requests to the API are not limited on this side"
)

// FixedArguments are the arguments for an upstream component that are refused, with the reason; option is such as
// kubelet-arg.
func FixedArguments(option string) map[string]string { return fixedArguments[option] }

// fixedArguments are arguments for upstream components that contradict what edgebox sets itself, that would not be
// read, or that would end the process; by option, and then by argument. What edgebox sets and a user may well want
// otherwise is not among them: see upstream.Parse.
var fixedArguments = map[string]map[string]string{
	"kube-apiserver-arg": {
		"secure-port":                        setBy + "https-listen-port",
		"bind-address":                       setBy + "bind-address",
		"advertise-address":                  setBy + "advertise-address",
		"service-cluster-ip-range":           setBy + "service-cidr",
		"service-node-port-range":            setBy + "service-node-port-range",
		"etcd-servers":                       setBy + "datastore-endpoint",
		"etcd-servers-overrides":             ownDatastore,
		"etcd-prefix":                        ownDatastore,
		"etcd-cafile":                        ownDatastore,
		"etcd-certfile":                      ownDatastore,
		"etcd-keyfile":                       ownDatastore,
		"etcd-healthcheck-timeout":           ownDatastore,
		"storage-backend":                    ownDatastore,
		"authorization-config":               "cannot be set: nodes need the modes Node and RBAC; authorization-mode adds others",
		"enable-bootstrap-token-auth":        "cannot be set: nodes join with such tokens",
		"client-ca-file":                     ownCA,
		"cert-dir":                           ownCertificate,
		"tls-cert-file":                      ownCertificate + "; --tls-san adds names to it, tls-sni-cert-key another certificate",
		"tls-private-key-file":               ownCertificate + "; --tls-san adds names to it, tls-sni-cert-key another certificate",
		"kubelet-certificate-authority":      ownCertificate,
		"kubelet-client-certificate":         ownCertificate,
		"kubelet-client-key":                 ownCertificate,
		"proxy-client-cert-file":             frontProxy,
		"proxy-client-key-file":              frontProxy,
		"requestheader-client-ca-file":       frontProxy,
		"requestheader-allowed-names":        frontProxy,
		"requestheader-extra-headers-prefix": frontProxy,
		"requestheader-group-headers":        frontProxy,
		"requestheader-username-headers":     frontProxy,
		"egress-selector-config-file":        "cannot be set: the API server reaches nodes through edgebox, which knows those that cannot be dialled",
		"service-account-signing-key-file":   "cannot be set: put a key of your own into server/pki of the data dir",
		"service-account-signing-endpoint":   "cannot be set: edgebox has the key that signs",
	},
	"kube-controller-manager-arg": {
		"kubeconfig":                                      ownIdentity,
		"authentication-kubeconfig":                       ownIdentity,
		"authorization-kubeconfig":                        ownIdentity,
		"master":                                          ownIdentity,
		"use-service-account-credentials":                 ownIdentity,
		"cluster-cidr":                                    setBy + "cluster-cidr",
		"service-cluster-ip-range":                        setBy + "service-cidr",
		"leader-elect":                                    severalServers,
		"cert-dir":                                        ownCertificate,
		"tls-cert-file":                                   ownCertificate,
		"tls-private-key-file":                            ownCertificate,
		"root-ca-file":                                    ownCA,
		"service-account-private-key-file":                "cannot be set: put a key of your own into server/pki of the data dir",
		"cluster-signing-cert-file":                       ownCA,
		"cluster-signing-key-file":                        ownCA,
		"cluster-signing-kubelet-serving-cert-file":       ownCA,
		"cluster-signing-kubelet-serving-key-file":        ownCA,
		"cluster-signing-kubelet-client-cert-file":        ownCA,
		"cluster-signing-kubelet-client-key-file":         ownCA,
		"cluster-signing-kube-apiserver-client-cert-file": ownCA,
		"cluster-signing-kube-apiserver-client-key-file":  ownCA,
		"cluster-signing-legacy-unknown-cert-file":        ownCA,
		"cluster-signing-legacy-unknown-key-file":         ownCA,
	},
	"kube-scheduler-arg": {
		"kubeconfig":                ownIdentity,
		"authentication-kubeconfig": ownIdentity,
		"authorization-kubeconfig":  ownIdentity,
		"master":                    ownIdentity,
		"leader-elect":              severalServers,
		"cert-dir":                  ownCertificate,
		"tls-cert-file":             ownCertificate,
		"tls-private-key-file":      ownCertificate,
		"write-config-to":           "cannot be set: the scheduler would write and then end edgebox",
	},
	"kubelet-arg": {
		"kubeconfig":                 ownIdentity,
		"bootstrap-kubeconfig":       ownIdentity,
		"hostname-override":          setBy + "node-name",
		"node-ip":                    setBy + "node-ip",
		"node-labels":                setBy + "node-label",
		"register-with-taints":       setBy + "node-taint",
		"cluster-dns":                setBy + "cluster-dns",
		"cluster-domain":             setBy + "cluster-domain",
		"root-dir":                   "cannot be set: CSI drivers and device plugins expect /var/lib/kubelet",
		"register-node":              "cannot be set: edgebox needs its Node object",
		"container-runtime-endpoint": ownRuntime,
		"image-service-endpoint":     ownRuntime,
		"cgroup-driver":              ownCgroups,
		"cgroup-root":                ownCgroups,
		"cgroups-per-qos":            ownCgroups,
		"client-ca-file":             ownCA,
		"cert-dir":                   ownCertificate,
		"tls-cert-file":              ownCertificate,
		"tls-private-key-file":       ownCertificate,
		"rotate-certificates":        ownCertificate,
		"rotate-server-certificates": ownCertificate,
		"make-iptables-util-chains":  nftablesOnly,
		"config":                     noFile,
		"config-dir":                 noFile,
	},
	"kube-proxy-arg": {
		"kubeconfig":                ownIdentity,
		"master":                    ownIdentity,
		"hostname-override":         setBy + "node-name",
		"bind-address":              setBy + "node-ip",
		"cluster-cidr":              setBy + "cluster-cidr",
		"detect-local-mode":         "cannot be set: pods are known by --cluster-cidr",
		"pod-bridge-interface":      "cannot be set: pods are known by --cluster-cidr",
		"pod-interface-name-prefix": "cannot be set: pods are known by --cluster-cidr",
		"proxy-mode":                nftablesOnly,
		"oom-score-adj":             "cannot be set: that of the kubelet is for all of edgebox, see --kubelet-arg",
		"kube-api-qps":              unlimited,
		"kube-api-burst":            unlimited,
		"kube-api-content-type":     "has no effect: it is protobuf",
		"config":                    noFile,
		"write-config-to":           "has no effect: kube-proxy.yaml in /run/edgebox is the configuration",
		"cleanup":                   "has no effect: edgebox uninstall removes the rules",
		"init-only":                 "has no effect: edgebox runs kube-proxy",
	},
}
