// Package pki gives a cluster its identity: certificate authorities (made here or brought by the user), the
// certificates under them, the service-account key, kubeconfigs and join tokens. It does what the certs and
// kubeconfig phases of kubeadm do, and goes on doing it while edgebox runs, so that nothing expires unattended.
//
// It owns one directory (server/pki in the data dir), mode 0700:
//
//	server-ca.crt, .key         signs what servers present: apiserver, kubelet
//	client-ca.crt, .key         signs who clients of the API are
//	front-proxy-ca.crt, .key    signs the apiserver towards aggregated API servers
//	etcd/ca.crt, .key           signs both ends of the datastore
//	<ca>.nochain.crt            the first certificate alone, if the user's <ca>.crt holds a chain
//	service-account.key, .pub   signs and verifies service-account tokens
//	<leaf>.crt, .key            see ControlPlaneLeaves, NodeLeaves and DatastoreLeaves
//
// and the kubeconfigs it is told to write. It starts no goroutine that outlives a call, except for Renewer.Run.
//
// # What is kept and what is replaced
//
// A CA that lies in the directory is used as it is and never overwritten; if it cannot be used, that is an error
// which says what to do. The one exception is a CA made here: it gets a later end under the same key and name, so
// that certificates and join tokens made with it stay valid. Leaves are declared, and are issued anew whenever the
// pair on disk is missing, damaged, foreign, not as declared, or near its end. What is good is kept byte for byte.
//
// # Time
//
// Boxes without a battery-backed clock boot in 1970, or at the date of their image, until a time server is
// reached; others are found to have been years ahead. So nothing here trusts the clock more than it must:
//
//   - A CA made here is valid from the Unix epoch on, and a leaf from the start of its CA on: no clock is too slow
//     for them. (kubeadm and k3s start leaves with their CA as well. A narrower start would add no safety: whoever
//     holds the key of a leaf can use it now.)
//   - An end is counted from the clock, but from Store.Earliest where the clock is before that date, which shows that
//     it is wrong. Otherwise a CA made in "1970" would be over as soon as the clock is set.
//   - A leaf that ends later than it would if issued now is kept. Cutting it short would do harm on a box that
//     starts each day in the past.
//   - Renewer watches the wall clock every few seconds, and renews at once what a jump has made old.
//
// # Crashes
//
// Every file is replaced atomically and durably. A new key is written before its certificate, so a crash between the
// two leaves a pair that does not match: a leaf is then issued again, a CA's lone key is used for its certificate.
// Renewal keeps the key, so that it is one atomic step for those who read the pair meanwhile.
package pki
